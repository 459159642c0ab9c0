"""What a node does about the ledger's slots: which to claim, which to keep. Pure: state and time given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from msgspec.structs import replace

from ledger.errors import Refused
from ledger.manifests.expansion import decode_manifest, workload_of
from ledger.manifests.types import Manifest, Workload
from ledger.records import Deployment, Slot, key_deployment, key_manifest, key_slot
from ledger.state import Overlay, Reader, read
from ledger.transactions import Claim
from ledger.transition.claims import claim
from ledger.transition.deal import RUNS
from ledger.transition.env import Env

SlotId = tuple[bytes, str]
"""Deployment and slot name."""

_OPEN: Final = b"open/"
_REPORT_EVERY_MS: Final = 30_000
_REPORT_SHARE: Final = 50


@dataclass(frozen=True, slots=True)
class Now:
    """The committed state that a decision is made on."""

    state: Reader
    chain_id: str
    height: int
    time_ms: int


@dataclass(frozen=True, slots=True)
class Opening:
    """An open slot and the term that a claim would be for."""

    deployment: bytes
    slot: str
    term: int
    manifest: Manifest
    workload: Workload


def openings(now: Now, skip: Callable[[SlotId], bool], limit: int) -> Iterator[Opening]:
    """Open slots, at most `limit` looked at, but those that `skip` names."""
    for key, _ in list(now.state.scan(_OPEN, limit=limit)):
        deployment, name = key[len(_OPEN) : len(_OPEN) + 32], key[len(_OPEN) + 33 :].decode()
        if skip((deployment, name)):
            continue
        record = read(now.state, Deployment, key_deployment(deployment))
        slot = read(now.state, Slot, key_slot(deployment, name))
        data = now.state.get(key_manifest(slot.next)) if record and slot else None
        if slot is None or data is None:
            continue
        try:
            manifest = decode_manifest(data)
            workload = workload_of(manifest, name)
        except Refused:
            continue
        yield Opening(deployment, name, slot.term + 1, manifest, workload)


def of_term(state: Reader, slot: Slot) -> tuple[Deployment, Workload] | None:
    """A deployment's record as a slot's newest term has it, with the manifest that the term is of, which an
    update of the deployment may have left behind, and its contract; and the workload."""
    record = read(state, Deployment, key_deployment(slot.deployment))
    data = state.get(key_manifest(slot.manifest))
    if record is None or data is None:
        return None
    manifest = decode_manifest(data)
    record = replace(record, manifest=slot.manifest, contract=bytes.fromhex(manifest.contract))
    return record, workload_of(manifest, slot.name)


def refusal(now: Now, node: bytes, opening: Opening) -> str:
    """Why the ledger would refuse this node's claim now, or "". The ledger's own rules, tried and dropped."""
    env = Env(
        Overlay(now.state),
        chain_id=now.chain_id,
        height=now.height,
        time_ms=now.time_ms,
        seed=b"",
        sender=node,
    )
    try:
        claim(env, Claim(opening.deployment, opening.slot, opening.term))
    except Refused as error:
        return f"{error.rule}: {error.detail}"
    return ""


Standing = Literal["hold", "stop", "gone"]


def standing(state: Reader, node: bytes, slot_id: SlotId, term: int) -> tuple[Standing, str]:
    """What the ledger says of a term that this node won: go on, stop and say so, or it is gone. And why."""
    slot = read(state, Slot, key_slot(*slot_id))
    if slot is None:
        return "gone", "the slot is no longer there"
    if slot.term > term:
        return "gone", f"term {slot.term} was given out"
    if slot.holder != node or slot.term != term:
        return "gone", f"not the holder: {slot.status}"
    record = read(state, Deployment, key_deployment(slot_id[0]))
    if record is None or record.status not in RUNS:
        status = record.status if record else "gone"
        reason = f": {record.reason}" if record and record.reason else ""
        return "stop", f"the deployment is {status}{reason}"
    if slot.status == "released":
        if slot.next == slot.manifest:
            return "stop", "the ledger has released it"
        return "stop", f"update {record.updates} " + ("changes it over" if slot.next else "leaves it out")
    return "hold", ""


def held_slots(state: Reader, node: bytes) -> list[Slot]:
    """All slots whose holder is this node; looks at every slot of the state."""
    prefix, found, start = b"slot/", [], b""
    while True:
        page = list(state.scan(prefix, start, limit=256))
        for key, _ in page:
            slot = read(state, Slot, key)
            if slot is not None and slot.holder == node:
                found.append(slot)
        if len(page) < 256:
            return found
        start = page[-1][0] + b"\x00"


def report_checks(checks: int, reported: int, since_ms: int, running_ms: int) -> bool:
    """Whether re-checks are worth a receipt now: the first one, then at intervals that grow with the term's
    age, so that ten years of a term need fewer than RECEIPTS_PER_TERM_MAX."""
    if checks <= reported:
        return False
    return reported == 0 or since_ms >= max(_REPORT_EVERY_MS, running_ms // _REPORT_SHARE)


def backoff_s(restarts: int) -> float:
    """Seconds before the nth restart (from 1): 1, 2, 4 … at most 30."""
    return float(min(30, 2 ** min(restarts - 1, 5)))
