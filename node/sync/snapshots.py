"""Offers states in chunks to peers that are far behind (ledger.storage.snapshot), from a running peer.

Each SNAPSHOT_EVERY_BLOCKS blocks the first state that a header names is frozen: with LevelDB that costs
nothing. Which one follows from the chain alone, so all peers offer the same ones, and one can be fetched from
many at once. Only when somebody asks for a chunk is a state sorted for it, in a thread, into a temporary file
that is gone with the process. What does not give the root that a quorum signed is never handed out: then our
own state is damaged (`on_damaged`).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog
import trio

from ledger.blocks import Header
from ledger.codec import decode, encode
from ledger.errors import LocalError, Refused
from ledger.limits import EXPIRY_BLOCKS_MAX, SNAPSHOT_PAIR_BYTES_MAX
from ledger.proofs.light import FinalityProof
from ledger.storage.snapshot import StateChunk, place_of
from ledger.storage.store import Store
from ledger.storage.views import FrozenState
from node.limits import (
    EPOCHS_ANSWER_BYTES,
    SNAPSHOT_ASKS_MAX,
    SNAPSHOT_CHUNK_BYTES,
    SNAPSHOT_EVERY_BLOCKS,
    SNAPSHOT_KEPT_S,
    SNAPSHOTS_MAX,
)
from node.notary import Committed
from node.sync.spool import Spool, Stopped
from node.sync.state_wire import (
    CHUNK,
    EPOCHS,
    OFFERS,
    PREPARING,
    Offer,
    decode_chunk_request,
    decode_epochs_request,
)

log = structlog.get_logger("snapshots")


Serve = Callable[[str, bytes], Awaitable[bytes]]


@dataclass(slots=True)
class _Snapshot:
    """One state on offer. `spool` is None until somebody asks for a chunk."""

    height: int
    root: bytes
    anchor: int  # the height of the header that names it
    state: FrozenState
    spool: Spool | None = None
    used_s: float = 0.0
    reading: int = 0  # chunks being cut from the spool, or waiting for it
    is_dropped: bool = False

    def close(self) -> None:
        """Let go of the store now, of the spool when nobody reads it any more."""
        self.state.close()
        self.is_dropped = True
        self._close_spool()

    async def cut(self, place: int, size_bytes_max: int, room: trio.CapacityLimiter) -> StateChunk:
        """In a thread. `spool` is there. Raises Refused."""
        assert self.spool is not None, "cut from what is sorted"
        self.reading += 1
        try:
            work = partial(self.spool.shelf.cut, place, size_bytes_max)
            return await trio.to_thread.run_sync(work, limiter=room)
        finally:
            self.reading -= 1
            self._close_spool()

    def _close_spool(self) -> None:
        if self.spool is not None and self.is_dropped and not self.reading:
            self.spool.close()


@dataclass(slots=True)
class Snapshots:
    """See the module. `committed` after each block; `folder` for temporary files, None: the system's;
    `every_blocks` 0: none is offered."""

    store: Store
    folder: Path | None = None
    every_blocks: int = SNAPSHOT_EVERY_BLOCKS
    on_damaged: Callable[[int], None] = lambda height: None
    served_chunks: int = 0
    made: int = 0
    _snapshots: dict[int, _Snapshot] = field(default_factory=dict)
    _last: int = 0
    _asking: Counter[str] = field(default_factory=Counter)  # chunks under way, by peer
    _wanted: set[int] = field(default_factory=set)
    _bell: trio.Event = field(default_factory=trio.Event)
    _stop: threading.Event = field(default_factory=threading.Event)
    # One thread at a time: files and caches of a snapshot are not for two.
    _room: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))

    def __post_init__(self) -> None:
        self._last = self.store.tip.state_height

    def committed(self, done: Committed) -> None:
        """A block was committed."""
        self.take(done.header)

    def take(self, header: Header) -> None:
        """Freeze the state that this newest header names, if it is the first one of its round."""
        height, root = header.state_height, header.state_root
        if not self.every_blocks or height // self.every_blocks <= self._last // self.every_blocks:
            return
        self._last = height
        if self.store.root(height) != root:
            return
        try:
            frozen = self.store.freeze(height)
        except Refused as error:  # a header that names an old state: the next round will do
            log.info("no_snapshot", height=height, reason=str(error))
            return
        if frozen is not None:
            self._snapshots[height] = _Snapshot(height, root, header.height, frozen)
            self._tidy()

    async def close(self) -> None:
        """Let go of all, and wait for those who read it: the store is about to be closed. Afterwards states
        are offered as before."""
        self._stop.set()
        async with self._room:
            self._wanted.clear()
            for height in list(self._snapshots):
                self._drop(height)
        self._stop.clear()

    def _tidy(self) -> None:
        """Keep the newest, and of the others those that somebody fetches from."""
        old = sorted(self._snapshots)[:-SNAPSHOTS_MAX]
        now_s = time.monotonic()
        for height in old[:-SNAPSHOTS_MAX]:
            self._drop(height)
        for height in old[-SNAPSHOTS_MAX:]:
            if now_s - self._snapshots[height].used_s > SNAPSHOT_KEPT_S:
                self._drop(height)

    def _drop(self, height: int) -> None:
        snapshot = self._snapshots[height]
        if height in self._wanted:
            return  # it is being sorted: dropped after that
        del self._snapshots[height]
        snapshot.close()

    def keep_from(self) -> int | None:
        """Blocks from there on are needed by those who fetch a state that is on offer; None: no such need."""
        return min(self._snapshots, default=0) - EXPIRY_BLOCKS_MAX + 1 if self._snapshots else None

    @property
    def heights(self) -> tuple[int, ...]:
        """Of the states on offer."""
        return tuple(sorted(self._snapshots))

    # ------------------------------------------------------------------ life

    async def run(self) -> None:
        """Sort what is asked for, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stop_threads)
                while True:
                    await self._bell.wait()
                    self._bell = trio.Event()
                    while self._wanted:
                        await self._make(self._snapshots[max(self._wanted)])
        finally:
            self._wanted.clear()
            for height in list(self._snapshots):
                self._drop(height)

    async def _stop_threads(self) -> None:
        """When we are cancelled: a thread would go on to the end, and hold up the stop of the peer."""
        try:
            await trio.sleep_forever()
        finally:
            self._stop.set()

    async def _make(self, snapshot: _Snapshot) -> None:
        began_s = time.monotonic()
        work = partial(Spool, snapshot.state, self.folder, self._stop.is_set)
        try:
            spool = await trio.to_thread.run_sync(work, limiter=self._room)
        except Stopped:
            return
        except (LocalError, OSError) as error:
            if self._snapshots.get(snapshot.height) is not snapshot:
                return  # let go of while this waited for its turn
            log.error("snapshot_failed", height=snapshot.height, reason=str(error))
            self._wanted.discard(snapshot.height)
            self._drop(snapshot.height)
            return
        self._wanted.discard(snapshot.height)
        if self._snapshots.get(snapshot.height) is not snapshot:
            spool.close()  # let go of meanwhile
            return
        if spool.shelf.root != snapshot.root:
            spool.close()
            self._drop(snapshot.height)
            log.error("state_damaged", height=snapshot.height, root=spool.shelf.root.hex())
            self.on_damaged(snapshot.height)
            return
        snapshot.spool = spool
        snapshot.used_s = time.monotonic()
        self.made += 1
        took_s = round(snapshot.used_s - began_s, 3)
        log.info("snapshot", height=snapshot.height, size_bytes=spool.shelf.size_bytes, seconds=took_s)

    # ------------------------------------------------------------------ answers

    def methods(self) -> dict[str, Serve]:
        """What this answers, by method."""
        return {OFFERS: self._offers, EPOCHS: self._epochs, CHUNK: self._chunk}

    async def _offers(self, peer_id: str, body: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        found = []
        for height in reversed(self.heights):
            finality = self._finality(self._snapshots[height])
            if finality is not None:
                found.append(Offer(finality))
        return encode(tuple(found[:SNAPSHOTS_MAX]))

    def _finality(self, snapshot: _Snapshot) -> FinalityProof | None:
        """Of the header that names the state, if it is held and the replay window is, too."""
        if max(1, snapshot.height - EXPIRY_BLOCKS_MAX + 1) < self.store.first_height:
            return None
        return self.store.finality(snapshot.anchor)

    async def _epochs(self, peer_id: str, body: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        first, left = decode_epochs_request(body).first, EPOCHS_ANSWER_BYTES
        found: list[bytes] = []
        for proof in self.store.epochs.proofs(first, 256):
            data = encode(proof)
            left -= len(data)
            if left < 0 and found:
                break
            found.append(data)
        return _array(found)

    async def _chunk(self, peer_id: str, body: bytes) -> bytes:
        request = decode_chunk_request(body)
        place = place_of(request.place)
        snapshot = self._snapshots.get(request.height)
        if snapshot is None:
            raise Refused("snapshot.gone", f"no state of height {request.height} is on offer")
        snapshot.used_s = time.monotonic()
        if snapshot.spool is None:
            self._wanted.add(request.height)
            self._bell.set()
            raise Refused(PREPARING, "ask again in a moment")
        size_bytes = min(max(request.size_bytes_max, SNAPSHOT_PAIR_BYTES_MAX), SNAPSHOT_CHUNK_BYTES)
        if self._asking[peer_id] >= SNAPSHOT_ASKS_MAX:
            raise Refused("snapshot.busy", f"more than {SNAPSHOT_ASKS_MAX} chunks at once")
        self._asking[peer_id] += 1
        try:
            chunk = await snapshot.cut(place, size_bytes, self._room)
        finally:
            self._asking[peer_id] -= 1
            if not self._asking[peer_id]:
                del self._asking[peer_id]
        self.served_chunks += 1
        return encode(chunk)

    def metrics(self) -> Sequence[tuple[str, dict[str, str], float, str]]:
        """For /metrics."""
        return [
            ("snapshot_offers", {}, float(len(self._snapshots)), "gauge"),
            ("snapshots_made_total", {}, float(self.made), "counter"),
            ("snapshot_chunks_served_total", {}, float(self.served_chunks), "counter"),
        ]


def _array(items: list[bytes]) -> bytes:
    """A msgpack array of encoded values."""
    count = len(items)
    head = bytes([0x90 | count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return head + b"".join(items)


def named_state(anchor: FinalityProof) -> tuple[int, bytes]:
    """The height and root of the state that a header, checked before, names."""
    header = decode(Header, anchor.header)
    return header.state_height, header.state_root
