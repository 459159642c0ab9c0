"""Copies of volumes: what the holder of a slot has had kept elsewhere, so that another may go on with it.

[C12] A volume with an rpo is copied to other nodes, encrypted, while its slot runs, so that no more than the
      last rpo is lost with its node, and once more when the slot stops, so that nothing is.
[C13] The holder of the newest term, and nobody else, records its copies, from `verified` on until the slot is
      freed: of all volumes with an rpo at once, each kept by nodes other than the holder. A later record
      takes the place of the former.
[C14] Copies are forgotten when the deployment ends; nodes drop what no record names.
"""

from __future__ import annotations

from typing import Final

from ledger.copy_records import Copies, VolumeCopy, copy_bytes_max, key_copies, key_keeper
from ledger.errors import Refused
from ledger.limits import COPY_BOX_BYTES_MAX, COPY_KEEPERS_MAX
from ledger.manifests.services import copied_volumes
from ledger.manifests.types import Volume
from ledger.records import Node, Slot, key_node
from ledger.transactions import RecordCopies
from ledger.transition.deal import ENDED, Deal
from ledger.transition.env import Env

DIGEST_BYTES: Final = 32
_WRITTEN: Final = ("verified", "running", "released")  # released: it stops, and its last copies are made


def record_copies(env: Env, body: RecordCopies) -> None:
    """[C13] Raises Refused("copies.…")."""
    deal = Deal.load(env, body.deployment, "copies.unknown_deployment")
    if body.slot not in deal.record.slots:
        raise Refused("copies.unknown_slot", "the deployment has no such slot", "slot")
    slot = deal.slot(body.slot)
    if body.term != slot.term:
        raise Refused("copies.stale_term", f"the slot is at term {slot.term}", "term")
    if slot.holder != env.sender:
        raise Refused("copies.not_holder", "the sender does not hold the slot", "slot")
    if deal.record.status in ENDED:
        raise Refused("copies.ended", f"deployment {deal.record.status}", "deployment")
    # A slot that was released before it was verified still has its former home.
    if slot.status not in _WRITTEN or slot.home != env.sender:
        raise Refused("copies.status", f"the slot is {slot.status}", "slot")
    volumes = {volume.name: volume for volume in copied_volumes(deal.term_workload(slot))}
    if [copy.volume for copy in body.copies] != list(volumes) or not volumes:
        names = ", ".join(volumes) or "none"
        raise Refused("copies.volumes", f"exactly these, in this order: {names}", "copies")
    for index, copy in enumerate(body.copies):
        _check_copy(env, volumes[copy.volume], copy, f"copies[{index}]")
    _forget(deal, slot)
    record = Copies(deal.id, slot.name, slot.term, env.sender, body.copies, env.height, env.time_ms)
    env.write(key_copies(deal.id, slot.name), record)
    for keeper in _keepers(record):
        env.state.put(key_keeper(keeper, deal.id, slot.name), b"")
    deal.emit("slot.copied", slot=slot.name, term=slot.term, node=env.sender.hex(), copies=len(body.copies))


def forget_copies(deal: Deal) -> None:
    """[C14] The deployment has ended."""
    for name in deal.record.slots:
        _forget(deal, deal.slot(name))


def copied(deal: Deal, name: str) -> frozenset[str]:
    """[C11] Volumes of a slot of which there is a copy."""
    record = deal.env.read(Copies, key_copies(deal.id, name))
    return frozenset(copy.volume for copy in record.copies) if record is not None else frozenset()


def _check_copy(env: Env, volume: Volume, copy: VolumeCopy, field: str) -> None:
    if not 0 < copy.size_bytes <= copy_bytes_max(volume.size_bytes):
        most = copy_bytes_max(volume.size_bytes)
        raise Refused("copies.shape", f"{copy.size_bytes} bytes, at most {most}", f"{field}.size_bytes")
    if len(copy.sha256) != DIGEST_BYTES or len(copy.chunks) != DIGEST_BYTES:
        raise Refused("copies.shape", f"digests of {DIGEST_BYTES} bytes wanted", f"{field}.sha256")
    if not 0 < len(copy.box) <= COPY_BOX_BYTES_MAX:
        raise Refused("copies.shape", f"1 to {COPY_BOX_BYTES_MAX} bytes", f"{field}.box")
    keepers = copy.keepers
    if not 1 <= len(keepers) <= COPY_KEEPERS_MAX or len(set(keepers)) != len(keepers):
        raise Refused("copies.keepers", f"1 to {COPY_KEEPERS_MAX}, each once", f"{field}.keepers")
    for keeper in keepers:
        if keeper == env.sender or env.read(Node, key_node(keeper)) is None:
            raise Refused("copies.keepers", f"{keeper.hex()[:10]} is no other node", f"{field}.keepers")


def _forget(deal: Deal, slot: Slot) -> None:
    env, key = deal.env, key_copies(deal.id, slot.name)
    former = env.read(Copies, key)
    if former is None:
        return
    env.state.delete(key)
    for keeper in _keepers(former):
        env.state.delete(key_keeper(keeper, deal.id, slot.name))


def _keepers(record: Copies) -> list[bytes]:
    return sorted({keeper for copy in record.copies for keeper in copy.keepers})
