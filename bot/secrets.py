"""The 3bot's side of secrets: it keeps what its consumer gave it, and gives it to holders of slots alone.

Kept in a file for each deployment, encrypted under the account's key, and never on the notary, not even
encrypted: what is public for ever is a bad place for what must stay secret for ever. So a bot that lost its
disk, or a second one, must be given them again.

Who holds which slot in which term is read from this peer's own committed state when it is asked; who asks is
proved by the connection. A stranger, a former holder, or one whose lease is over gets a named refusal.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec
import structlog
import trio
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from nacl.utils import random

from bot.errors import VaultError
from bot.limits import LOOK_EVERY_S, SECRETS_RETRY_S, SECRETS_TELL_S, SECRETS_TELLS_AT_ONCE
from bot.view import is_settled
from ledger.codec import decode, decode_exact, encode
from ledger.copy_records import Copies, key_copies
from ledger.errors import LocalError, Refused
from ledger.keys import Key
from ledger.limits import LEASE_MS
from ledger.manifests.expansion import decode_manifest, workload_of
from ledger.manifests.types import Manifest
from ledger.records import Deployment, Slot, key_deployment, key_manifest, key_slot
from ledger.state import read
from ledger.transition.deal import RUNS
from node.clock import wall_ms
from node.home import write_atomic
from node.limits import SECRETS_DEPLOYMENTS_MAX
from node.reach import request_of_node
from node.sealed.copy_wire import KEY_NAME, open_key
from node.sealed.secret_wire import (
    HERE,
    WORD_BYTES_MAX,
    Ask,
    Place,
    check_sizes,
    make_given,
    make_here,
)
from node.seam import PeerSeam
from p2p.errors import RequestError
from p2p.ids import peer_id_of

log = structlog.get_logger("bot")

DOMAIN: Final = "bot-secrets/1"
_SUFFIX: Final = ".box"


class _Kept(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What is in a file. `deployment` stands inside, so that no file passes for another one."""

    deployment: bytes
    values: dict[str, bytes]


class SecretBook:
    """Secrets by deployment, in a folder of the bot's home."""

    def __init__(self, folder: Path, key: Key) -> None:
        self._folder = folder
        self._box = SecretBox(key.derive(DOMAIN))
        self._held = set(self._on_disk())

    def get(self, deployment: bytes) -> dict[str, bytes]:
        """By name; none for one without. Raises VaultError for a file that does not open."""
        file = self._file(deployment)
        try:
            kept = decode(_Kept, self._box.decrypt(file.read_bytes()))
        except FileNotFoundError:
            return {}
        except (CryptoError, ValueError, msgspec.MsgspecError):
            raise VaultError(f"{file}: it was changed, or is of another key") from None
        if kept.deployment != deployment:
            raise VaultError(f"{file}: it holds the secrets of another deployment")
        return kept.values

    def put(self, deployment: bytes, values: dict[str, bytes], names: set[str] | None = None) -> None:
        """In the place of those of the same names. `names`: all that are still of use, others go. Raises
        Refused: secrets.too_long, secrets.too_many."""
        held = self.get(deployment) | values
        values = {name: held[name] for name in held if names is None or name in names}
        check_sizes(values)
        if deployment not in self._held and len(self._held) >= SECRETS_DEPLOYMENTS_MAX:
            raise Refused("secrets.too_many", f"of at most {SECRETS_DEPLOYMENTS_MAX} deployments at once")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = self._box.encrypt(encode(_Kept(deployment, values)), random(SecretBox.NONCE_SIZE))
        write_atomic(self._file(deployment), bytes(data))
        self._held.add(deployment)

    def drop(self, deployment: bytes) -> None:
        """Forget all of a deployment."""
        self._held.discard(deployment)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._file(deployment))

    def deployments(self) -> tuple[bytes, ...]:
        """Ids of those that have some."""
        return tuple(sorted(self._held))

    def _on_disk(self) -> Iterator[bytes]:
        for file in self._folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(ValueError):
                yield bytes.fromhex(file.name.removesuffix(_SUFFIX))

    def _file(self, deployment: bytes) -> Path:
        return self._folder / f"{deployment.hex()}{_SUFFIX}"


class SecretGiver:
    """See the module. `serve` answers the method "secrets/ask"; `run` tells holders that it is there."""

    def __init__(
        self, peer: PeerSeam, key: Key, book: SecretBook, others: Callable[[], Iterable[bytes]] = tuple
    ) -> None:
        """`others`: deployments of this bot beside those in the book; their volumes may have copies."""
        self._peer = peer
        self._key = key
        self.book = book
        self._others = others
        self._tried_s: dict[tuple[bytes, str], float] = {}
        self._limit = trio.CapacityLimiter(SECRETS_TELLS_AT_ONCE)

    # ------------------------------------------------------------------ asked by holders

    async def serve(self, peer_id: str, body: bytes) -> bytes:
        """Raises Refused: secrets.behind, secrets.unknown_slot, secrets.not_ours, secrets.stale_term,
        secrets.not_holder, secrets.not_running, secrets.lease_over, secrets.missing, copies.key,
        seal.not_ours."""
        ask = decode_exact(Ask, body, "secrets", WORD_BYTES_MAX)
        place, names = self._check(peer_id, ask)
        keys = self._keys(ask)
        try:
            values = await trio.to_thread.run_sync(self.book.get, place.deployment)
        except VaultError as error:
            log.error("secrets_unreadable", error=str(error))
            raise Refused(
                "secrets.missing", "the bot cannot read them: its consumer must give them anew"
            ) from None
        missing = sorted(set(names) - set(values))
        if missing:
            raise Refused("secrets.missing", f"the consumer has not given {', '.join(missing)}")
        self._check(peer_id, ask)  # blocks may have come meanwhile
        given = make_given(self._key, place, {name: values[name] for name in names} | keys)
        log.info("secrets_given", deployment=place.deployment.hex()[:16], slot=place.slot, term=place.term)
        return encode(given)

    def _check(self, peer_id: str, ask: Ask) -> tuple[Place, tuple[str, ...]]:
        """For whom, and the names that its workload has. Raises Refused."""
        peer = self._peer
        status = peer.status()
        if status.catching_up or wall_ms() - status.last_final_ms > LEASE_MS:
            raise Refused("secrets.behind", "this bot does not know yet who holds the slot: ask again")
        record = read(peer.state, Deployment, key_deployment(ask.deployment))
        if record is None or self._key.public not in (record.consumer, record.bot):
            raise Refused("secrets.not_ours", "no deployment of this bot")
        slot = read(peer.state, Slot, key_slot(ask.deployment, ask.slot))
        if slot is None:
            raise Refused("secrets.unknown_slot", "the deployment has no such slot")
        if ask.term != slot.term:
            raise Refused("secrets.stale_term", f"the slot is in term {slot.term}")
        if not slot.holder or peer_id != peer_id_of(slot.holder):
            raise Refused("secrets.not_holder", "another node holds the slot, or none")
        if record.status not in RUNS or slot.status == "released":
            raise Refused("secrets.not_running", f"deployment {record.status}, slot {slot.status}")
        if peer.time_ms >= slot.lease_until_ms:
            raise Refused("secrets.lease_over", "the holder's lease is over")

        return self._place(slot), self._names(slot)

    def _keys(self, ask: Ask) -> dict[str, bytes]:
        """[C17] Of the copies that the ledger names now, each for the volume of this slot that it is of."""
        record = read(self._peer.state, Copies, key_copies(ask.deployment, ask.slot))
        copies = {copy.volume: copy for copy in record.copies} if record is not None else {}
        unknown = sorted(set(ask.volumes) - set(copies))
        if unknown:
            raise Refused("copies.key", f"there is no copy of {', '.join(unknown)}"[:200])
        chain_id = self._peer.chain_id
        return {
            KEY_NAME + name: open_key(self._key, chain_id, ask.deployment, ask.slot, copies[name])
            for name in ask.volumes
        }

    def names(self, record: Deployment) -> set[str]:
        """All secrets that the workloads of a deployment name, and those of an update of it."""
        manifests = [self._manifest(digest) for digest in (record.manifest, record.updating) if digest]
        return {name for each in manifests for workload in each.workloads for name in workload.secrets}

    def _names(self, slot: Slot) -> tuple[str, ...]:
        """Of the manifest that the slot's term is of: an update may have another than the deployment."""
        return workload_of(self._manifest(slot.manifest), slot.name).secrets

    def _manifest(self, digest: bytes) -> Manifest:
        data = self._peer.state.get(key_manifest(digest))
        if data is None:
            raise LocalError(f"the state holds no manifest {digest.hex()}")
        return decode_manifest(data)

    # ------------------------------------------------------------------ telling holders

    async def run(self) -> None:
        """Until cancelled: tell holders of new terms where their secrets are."""
        async with trio.open_nursery() as nursery:
            height = -1
            while True:
                height = await self._peer.next_block(height)
                for place in self._due():
                    self._tried_s[place.deployment, place.slot] = trio.current_time()
                    nursery.start_soon(self._tell, place)
                await trio.sleep(LOOK_EVERY_S)

    def _due(self) -> list[Place]:
        """Terms of ours that have not begun to run, and were not told within SECRETS_RETRY_S."""
        found, state = [], self._peer.state
        for deployment in {*self.book.deployments(), *self._others()}:
            record = read(state, Deployment, key_deployment(deployment))
            if record is not None and is_settled(record):
                self._forget(record)
            elif record is not None and record.status in RUNS:
                slots = (read(state, Slot, key_slot(deployment, name)) for name in record.slots)
                found += [
                    self._place(slot) for slot in slots if slot is not None and self._waits(record, slot)
                ]
        return found

    def _waits(self, record: Deployment, slot: Slot) -> bool:
        """A holder that has not said `verified` waits for its secrets, or soon will."""
        if not slot.holder or slot.status not in ("claimed", "fetching"):
            return False
        last_s = self._tried_s.get((record.id, slot.name))
        rested = last_s is None or trio.current_time() >= last_s + SECRETS_RETRY_S
        copied = self._peer.state.get(key_copies(record.id, slot.name)) is not None
        return rested and (copied or bool(self._names(slot)))

    def _place(self, slot: Slot) -> Place:
        return Place(self._peer.chain_id, slot.deployment, slot.name, slot.term, slot.holder)

    def _forget(self, record: Deployment) -> None:
        """It has ended: nobody will be given its secrets again."""
        self.book.drop(record.id)
        for name in record.slots:
            self._tried_s.pop((record.id, name), None)

    async def _tell(self, place: Place) -> None:
        body = encode(make_here(self._key, place))
        try:
            async with self._limit:
                await request_of_node(self._peer, place.node, HERE, body, SECRETS_TELL_S)
        except RequestError as error:
            log.info("secrets_not_told", slot=place.slot, term=place.term, error=str(error)[:200])
