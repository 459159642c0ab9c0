"""Copies the volumes of one term while it runs, and once more when it stops: taken, sealed, kept by others,
and then recorded on the ledger, so that a record never names what is nowhere.

[C15] A copy is taken every half rpo, counted from one to the next: what is lost with a node is what was
      written since the last recorded one was taken, half an rpo and the time until others have the next.
[C16] The last copy is taken after the last process is gone, and recorded before the slot is given back, as
      long as the lease holds: a slot that was drained, updated or suspended loses nothing.
[C17] The copies of a volume by one term have a key of their own, sealed to the deployment's bot, or without
      one to its consumer, and another when that reader is another; the node forgets it with the term. No
      keeper, and no later holder, has it from here.
[C19] What did not change since the copy before does not travel again: a keeper takes those chunks from that
      one, and holds each to its digest as if it had come from elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog
import trio
from nacl.utils import random

from ledger.codec import decode, decode_exact, encode
from ledger.copy_records import VolumeCopy
from ledger.errors import Refused
from ledger.keys import hash_tagged
from ledger.manifests.services import copied_volumes
from ledger.manifests.types import Volume, Workload
from ledger.records import Deployment, Node, Slot, key_deployment, key_slot
from ledger.state import read
from ledger.transactions import RecordCopies
from ledger.transition.deal import ENDED
from node.errors import ArtifactError
from node.executor.decide import SlotId
from node.executor.drivers.base import Handle
from node.executor.errors import ExecutorError
from node.executor.limits import (
    COPIES_WANTED,
    COPY_ASK_S,
    COPY_FETCH_S,
    COPY_LAST_TRIES,
    COPY_POLL_S,
    COPY_REFUSALS_MAX,
    COPY_RETRY_S,
    GUARD_TICK_S,
    KEEPERS_TRIED_MAX,
)
from node.executor.volumes.volume_copy import KEY_BYTES, blocks, encode_copy
from node.executor.workshop import Workshop
from node.files.artifact_files import ArtifactInfo
from node.files.chunks import chunks_root
from node.reach import request_of_node
from node.sealed.copy_wire import KEEP, Keep, Kept, seal_key
from p2p.errors import Refused as RequestRefused
from p2p.errors import RequestError

log = structlog.get_logger("executor")


class Copier:
    """See the module. `held`: whether the ledger still names this node as the holder of this term."""

    def __init__(
        self, shop: Workshop, slot_id: SlotId, term: int, workload: Workload, held: Callable[[], bool]
    ) -> None:
        self._shop = shop
        self._id = slot_id
        self._term = term
        self._held = held
        self.volumes = copied_volumes(workload)
        self._every_s = min((volume.rpo_s for volume in self.volumes), default=0) / 2
        self._began_s = trio.current_time()
        self._newest_s: float | None = None  # when what the newest recorded copies hold was taken
        self._sent: dict[str, tuple[bytes, VolumeCopy]] = {}  # newest of each volume, by what was in it
        self._keys: dict[tuple[str, bytes], bytes] = {}  # [C17] by volume and reader
        self._busy = trio.Lock()
        self.saves = False  # the term has ended, and its last copies are to be made
        self.problem = ""
        self._log = log.bind(deployment=slot_id[0].hex()[:16], slot=slot_id[1], term=term)

    @property
    def told(self) -> str:
        """For people: how old the newest copies are, and what is wrong with that; "" where none are made."""
        if not self.volumes:
            return ""
        age_s = self.age_s
        newest = "no copy yet" if self._newest_s is None else f"newest copy {age_s:.0f} s old"
        late = f", later than its rpo of {self._every_s * 2:.0f} s" if age_s > self._every_s * 2 else ""
        return newest + late + (f": {self.problem}" if self.problem else "")

    @property
    def age_s(self) -> float:
        """Seconds of writing that would be lost with this node now."""
        return trio.current_time() - (self._began_s if self._newest_s is None else self._newest_s)

    async def run(self, handle: Callable[[], Handle | None]) -> None:
        """[C15] Until cancelled. `handle`: the run that goes on now."""
        while self.volumes:
            began_s = trio.current_time()
            now = handle()
            if now is not None and await self._try(now):
                await trio.sleep_until(began_s + self._every_s)
            else:
                await trio.sleep(min(COPY_RETRY_S, self._every_s))

    async def last(self, within_s: float, leased: Callable[[], bool]) -> bool:
        """[C16] When nothing of the term runs any more, a few times while it is `leased`; whether nothing is
        lost."""
        with trio.move_on_after(within_s):
            for _ in range(COPY_LAST_TRIES):
                done = False
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._until_over, leased, nursery.cancel_scope)
                    done = await self._try(None)
                    nursery.cancel_scope.cancel()
                if done or not (self._held() and leased()):
                    return done
                await trio.sleep(COPY_RETRY_S)
        return False

    async def _until_over(self, leased: Callable[[], bool], work: trio.CancelScope) -> None:
        while self._held() and leased():  # noqa: ASYNC110 - a lease is no event
            await trio.sleep(GUARD_TICK_S)
        work.cancel()

    async def _try(self, handle: Handle | None) -> bool:
        async with self._busy:
            try:
                await self._copy(handle)
            except (ExecutorError, ArtifactError, Refused, OSError) as error:
                self.problem = str(error)[:200]
                self._log.warning("volumes_not_copied", error=self.problem, age_s=round(self.age_s))
                return False
            self.problem = ""
            return True

    async def _copy(self, handle: Handle | None) -> None:
        """Take, keep, record. Raises ExecutorError, ArtifactError, Refused, OSError."""
        shelf, made = self._shop.volumes, []
        taken_s = trio.current_time()
        with contextlib.ExitStack() as stack:
            files: dict[str, Path] = {}
            if handle is None:
                for volume in self.volumes:
                    resting = shelf.resting(*self._id, volume)
                    files[volume.name] = await trio.to_thread.run_sync(stack.enter_context, resting)
            else:
                files = {v.name: stack.enter_context(shelf.spare(*self._id, v)) for v in self.volumes}
                into = {volume.path: files[volume.name] for volume in self.volumes}
                still_s = await self._shop.driver.copy_volumes(handle, into)
                self._log.info("volumes_taken", still_ms=round(still_s * 1000))
            for volume in self.volumes:
                made.append(await self._keep(volume, files[volume.name]))
        copies = tuple(copy for _, copy in made)
        if {c.volume: (d, c) for d, c in made} != self._sent or self._newest_s is None:
            sent = await self._shop.sender.deliver(RecordCopies(*self._id, self._term, copies), self._held)
            if sent is None:
                raise Refused("copies.not_holder", "the term is over")
            if sent.rule:
                raise Refused(sent.rule, sent.detail)
            self._sent = {copy.volume: (digest, copy) for digest, copy in made}
        self._newest_s = taken_s

    async def _keep(self, volume: Volume, file: Path) -> tuple[bytes, VolumeCopy]:
        """Have others keep a copy of what is in this file; what did not change is not sent again."""
        digest = await trio.to_thread.run_sync(_digest, file)
        former = self._sent.get(volume.name)
        if former is not None and former[0] == digest:
            copy = former[1]
            if set(await self._find(self._keep_of(copy), copy.keepers)) == set(copy.keepers):
                return digest, copy
        reader, store = self._reader(), self._shop.exchange.store
        key = self._keys.setdefault((volume.name, reader), random(KEY_BYTES))
        info = await trio.to_thread.run_sync(_store, store.add_stream, file, key)
        try:
            with store.pinned((info.sha256,)):
                keep = Keep(
                    *self._id,
                    self._term,
                    volume.name,
                    bytes.fromhex(info.sha256),
                    info.size_bytes,
                    bytes.fromhex(chunks_root(info.chunks)),
                )
                box = seal_key(reader, self._shop.peer.chain_id, keep, key)
                keepers = await self._find(keep, () if former is None else former[1].keepers)
        finally:
            with contextlib.suppress(ArtifactError):
                store.free(info.sha256)  # what it was made of is here, and others have it
        if not keepers:
            raise ExecutorError("no other node keeps a copy")
        return digest, VolumeCopy(
            volume.name, keep.sha256, keep.size_bytes, keep.chunks, box, tuple(sorted(keepers))
        )

    def _keep_of(self, copy: VolumeCopy) -> Keep:
        return Keep(*self._id, self._term, copy.volume, copy.sha256, copy.size_bytes, copy.chunks)

    def _reader(self) -> bytes:
        """[C17]"""
        record = read(self._shop.peer.state, Deployment, key_deployment(self._id[0]))
        if record is None:
            raise ExecutorError("the deployment is gone")
        return record.bot or record.consumer

    async def _find(self, keep: Keep, before: tuple[bytes, ...]) -> list[bytes]:
        """Nodes that have all of it, COPIES_WANTED if so many can be found, of `before` first."""
        found: list[bytes] = []
        candidates = iter(self._candidates(keep.volume, before))

        async def one() -> None:
            for node in candidates:
                if await self._ask(node, keep):
                    found.append(node)
                    return

        async with trio.open_nursery() as nursery:
            for _ in range(COPIES_WANTED):
                nursery.start_soon(one)
        return found

    async def _ask(self, node: bytes, keep: Keep) -> bool:
        """Until it has it; False when it will not, or does not answer."""
        refusals, until_s = 0, trio.current_time() + COPY_FETCH_S
        while trio.current_time() < until_s:
            try:
                data = await request_of_node(self._shop.peer, node, KEEP, encode(keep), COPY_ASK_S)
                if decode_exact(Kept, data, "copies", 16).whole:
                    return True
            except (RequestError, Refused) as error:
                # It may not have seen yet that we hold the slot.
                refusals += 1
                if refusals > COPY_REFUSALS_MAX or not isinstance(error, RequestRefused):
                    self._log.info("copy_not_kept", node=node.hex()[:16], error=str(error)[:200])
                    return False
            await trio.sleep(COPY_POLL_S)
        return False

    def _candidates(self, volume: str, before: tuple[bytes, ...]) -> list[bytes]:
        """Other nodes that offer, in the order in which they are asked: as before, of other farms, then by a
        hash, so that copies of one volume stay where they are and those of many spread."""
        peer, me = self._shop.peer, self._shop.sender.key.public
        nodes = [decode(Node, data) for _, data in peer.state.scan(b"node/")]
        own = next((node.farm for node in nodes if node.key == me), "")

        def order(node: Node) -> tuple[bool, bool, bytes]:
            seed = self._id[0] + self._id[1].encode() + b"/" + volume.encode() + node.key
            return node.key not in before, node.farm == own, hash_tagged("keeper/1", seed)

        fit = [n for n in nodes if n.key != me and n.address and n.valid_until_ms > peer.time_ms]
        return [node.key for node in sorted(fit, key=order)[:KEEPERS_TRIED_MAX]]

    def written(self) -> bool:
        """Whether this term has volumes to copy, and may have written: the ledger calls it their home. What
        an ended deployment wrote nobody takes any more."""
        if not self.volumes:
            return False
        state = self._shop.peer.state
        slot = read(state, Slot, key_slot(*self._id))
        record = read(state, Deployment, key_deployment(self._id[0]))
        wanted = record is not None and record.status not in ENDED
        return wanted and slot is not None and slot.home == self._shop.sender.key.public


def _digest(file: Path) -> bytes:
    sha = hashlib.blake2b(digest_size=32)
    with file.open("rb") as opened:
        for number, data in blocks(opened.fileno()):
            sha.update(number.to_bytes(8, "big"))
            sha.update(data)
    return sha.digest()


def _store(add: Callable[[Iterator[bytes]], ArtifactInfo], file: Path, key: bytes) -> ArtifactInfo:
    with file.open("rb") as opened:
        return add(encode_copy(opened.fileno(), key))
