"""Keeps copies of other nodes' volumes, so that a slot can go on when its node is gone.

Whoever holds a slot whose manifest asks for copies may have one kept here, as an artifact, of the size that
its volume allows, within KEPT_SHARE of the store. It is nobody's to read without its key, which never comes
here. What the ledger says that this node keeps stays, and is fetched from its other keepers when it is gone;
all else goes again after COPY_UNRECORDED_S.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import structlog
import trio

from ledger.codec import decode_exact, encode
from ledger.copy_records import Copies, VolumeCopy, copy_bytes_max, keeper_parts, key_copies, key_keeper
from ledger.errors import Refused
from ledger.manifests.expansion import decode_manifest, workload_of
from ledger.manifests.services import copied_volumes
from ledger.records import Deployment, Node, Slot, key_deployment, key_manifest, key_node, key_slot
from ledger.state import read
from ledger.transition.deal import ENDED
from node.errors import ArtifactError
from node.executor.limits import (
    COPIES_KEPT_MAX,
    COPIES_LOOK_S,
    COPY_FETCH_S,
    COPY_UNRECORDED_S,
    KEPT_SHARE,
    UNRECORDED_MAX,
)
from node.files.exchange import Exchange, Wanted
from node.sealed.copy_wire import KEEP_BYTES_MAX, Keep, Kept
from node.seam import PeerSeam
from p2p.errors import LocalError as NetworkError
from p2p.ids import peer_id_of

log = structlog.get_logger("executor")


CopyOf = tuple[bytes, str, str]
"""Deployment, slot and volume."""


@dataclass(slots=True)
class _Held:
    """A copy that is here, or on its way. `until_s`: when it goes unless the ledger names it by then; None:
    the ledger does."""

    size_bytes: int
    until_s: float | None
    of: CopyOf
    pin: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    fetching: bool = False


class Keeper:
    """See the module. `serve` answers the method "copies/keep"; `run` fetches and forgets."""

    def __init__(self, peer: PeerSeam, exchange: Exchange) -> None:
        self._peer = peer
        self._exchange = exchange
        self._held: dict[str, _Held] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                while True:
                    self._look()
                    await trio.sleep(COPIES_LOOK_S)
            finally:
                self._nursery = None  # it takes no more: requests may still come

    async def serve(self, peer_id: str, body: bytes) -> bytes:
        """Raises Refused: copies.stale_term, copies.not_holder, copies.ended, copies.volumes, copies.shape,
        copies.room, copies.malformed."""
        keep = decode_exact(Keep, body, "copies", KEEP_BYTES_MAX)
        holder = self._check(peer_id, keep)
        sha256 = keep.sha256.hex()
        held = self._held.get(sha256)
        if held is None:
            of = (keep.deployment, keep.slot, keep.volume)
            self._make_way(of)
            full = len(self._held) >= COPIES_KEPT_MAX
            if full or self._nursery is None or self.kept_bytes + keep.size_bytes > self._room_bytes():
                raise Refused("copies.room", "this node keeps as many copies as it has room for, or stops")
            self._take(sha256, keep.size_bytes, trio.current_time() + COPY_UNRECORDED_S, of)
            wanted = Wanted(sha256, keep.size_bytes, keep.chunks.hex())
            self._start(wanted, _addresses(self._peer, (holder,)))
        elif held.until_s is not None:
            held.until_s = trio.current_time() + COPY_UNRECORDED_S
        return encode(Kept(self._exchange.store.has(sha256)))

    @property
    def kept_bytes(self) -> int:
        """Of all copies here, and on their way."""
        return sum(held.size_bytes for held in self._held.values())

    def metrics(self) -> Sequence[tuple[str, dict[str, str], float, str]]:
        """Rows as PeerSeam.metrics gives them."""
        missing = sum(not self._exchange.store.has(sha256) for sha256 in self._held)
        return [
            ("executor_copies_kept", {}, len(self._held), "gauge"),
            ("executor_copies_kept_bytes", {}, self.kept_bytes, "gauge"),
            ("executor_copies_missing", {}, missing, "gauge"),
        ]

    def _room_bytes(self) -> int:
        return self._exchange.store.size_bytes_max // KEPT_SHARE

    def _check(self, peer_id: str, keep: Keep) -> bytes:
        """The holder who asks, and may. Raises Refused."""
        state = self._peer.state
        slot = read(state, Slot, key_slot(keep.deployment, keep.slot))
        record = read(state, Deployment, key_deployment(keep.deployment))
        if slot is None or record is None or slot.term != keep.term:
            raise Refused("copies.stale_term", "no such slot, or it is at another term")
        if not slot.holder or peer_id != _peer_id(slot.holder):
            raise Refused("copies.not_holder", "another node holds the slot, or none")
        if slot.holder == self._peer.node_key.public:
            raise Refused("copies.keepers", "a holder keeps no copies of its own")
        if record.status in ENDED:
            raise Refused("copies.ended", f"deployment {record.status}")
        data = state.get(key_manifest(slot.manifest))
        volumes = copied_volumes(workload_of(decode_manifest(data), slot.name)) if data is not None else ()
        most = next((copy_bytes_max(v.size_bytes) for v in volumes if v.name == keep.volume), None)
        if most is None:
            raise Refused("copies.volumes", "the slot has no such volume with an rpo")
        if not 0 < keep.size_bytes <= most or (len(keep.sha256), len(keep.chunks)) != (32, 32):
            raise Refused("copies.shape", f"1 to {most} bytes, digests of 32 bytes")
        return slot.holder

    def _look(self) -> None:
        """What the ledger says that is kept here, is; what it no longer names goes."""
        named = {copy.sha256.hex(): (of, copy) for of, copy in self._named()}
        store = self._exchange.store
        for sha256, (of, copy) in named.items():
            held = self._held.get(sha256) or self._take(sha256, copy.size_bytes, None, of)
            held.until_s = None
            if not store.has(sha256) and not held.fetching:
                wanted = Wanted(sha256, copy.size_bytes, copy.chunks.hex())
                self._start(wanted, _addresses(self._peer, copy.keepers))
        now_s = trio.current_time()
        for sha256, held in list(self._held.items()):
            if sha256 in named or held.fetching:
                continue
            if held.until_s is None or now_s >= held.until_s:
                self._drop(sha256)

    def _make_way(self, of: CopyOf) -> None:
        """A holder that has a newer copy kept needs no older one that it has not recorded: so none fills this
        node. Raises Refused while those are being fetched."""
        before = [s for s, held in self._held.items() if held.of == of and held.until_s is not None]
        for sha256 in before[: 1 - UNRECORDED_MAX] if len(before) >= UNRECORDED_MAX else ():
            if self._held[sha256].fetching:
                raise Refused("copies.room", f"{UNRECORDED_MAX} copies of the volume are unrecorded")
            self._drop(sha256)

    def _drop(self, sha256: str) -> None:
        self._held.pop(sha256).pin.close()
        with contextlib.suppress(ArtifactError):  # another term of ours may be restoring it
            self._exchange.store.free(sha256)

    def _named(self) -> Iterator[tuple[CopyOf, VolumeCopy]]:
        state, me = self._peer.state, self._peer.node_key.public
        for key, _ in state.scan(key_keeper(me), limit=COPIES_KEPT_MAX):
            record = read(state, Copies, key_copies(*keeper_parts(key)))
            if record is None:
                continue
            for copy in record.copies:
                if me in copy.keepers:
                    yield (record.deployment, record.slot, copy.volume), copy

    def _take(self, sha256: str, size_bytes: int, until_s: float | None, of: CopyOf) -> _Held:
        held = self._held[sha256] = _Held(size_bytes, until_s, of)
        held.pin.enter_context(self._exchange.store.pinned((sha256,)))
        return held

    def _start(self, wanted: Wanted, hints: Sequence[str]) -> None:
        if self._nursery is not None and not self._exchange.store.has(wanted.sha256):
            self._held[wanted.sha256].fetching = True
            self._nursery.start_soon(self._fetch, wanted, hints)

    async def _fetch(self, wanted: Wanted, hints: Sequence[str]) -> None:
        """[C19] With what other copies of the volume have of it already."""
        of = self._held[wanted.sha256].of
        like = [sha256 for sha256, held in self._held.items() if held.of == of and sha256 != wanted.sha256]
        try:
            with trio.move_on_after(COPY_FETCH_S):
                await self._exchange.fetch(wanted, None, hints, like=like, owner=f"copies of {of[0].hex()}")
        except (ArtifactError, OSError) as error:
            log.warning("copy_not_fetched", sha256=wanted.sha256, error=str(error)[:200])
        finally:
            self._held[wanted.sha256].fetching = False


def _addresses(peer: PeerSeam, nodes: Sequence[bytes]) -> list[str]:
    found = (read(peer.state, Node, key_node(node)) for node in nodes)
    return [node.address for node in found if node is not None and node.address]


def _peer_id(node: bytes) -> str:
    try:
        return peer_id_of(node)
    except NetworkError:
        return ""
