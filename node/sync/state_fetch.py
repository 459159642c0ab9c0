"""Fetches one state from many peers at once into a staging store: chunks, each checked alone, then the blocks
of the replay window. What came is on the disk, so that a kill costs only what was on its way.

A peer that brings what does not prove itself is penalised and left alone at once; one that stalls or fails
is left alone after a few times, one that is slow, or gives crumbs, after some seconds; what it was asked for
goes to another. When nothing else is missing, others are asked for what a source takes long to give.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import structlog
import trio

from ledger.blocks import Header, decode_header, header_hash
from ledger.codec import decode, encode
from ledger.errors import Refused
from ledger.limits import EXPIRY_BLOCKS_MAX
from ledger.machine import Context, check_window
from ledger.proofs.light import FinalityProof
from ledger.proofs.tree import path_of
from ledger.records import key_seen
from ledger.storage.snapshot import check_chunk, is_within
from ledger.storage.staging import Staging
from ledger.storage.stored import StoredBlock, Tip
from node.limits import (
    PIECE_BLOCKS_MAX,
    RANGE_BYTES_MAX,
    SNAPSHOT_CHUNK_BYTES,
    STATE_ASK_S,
    STATE_FAILURES_MAX,
    STATE_HEDGE_S,
    STATE_IDLE_S,
    STATE_PREPARING_MAX,
    STATE_PREPARING_S,
    STATE_RATE_BYTES_S,
    STATE_RATE_S,
    STATE_SHORT_S,
    STATE_SOURCES_MAX,
    STATE_WHOLE_BYTES,
    STATE_WINDOW,
)
from node.notary import Covered, Notary
from node.sync.ranges import blame, decode_range, fetch_batches
from node.sync.state_wire import CHUNK, PREPARING, ChunkRequest
from node.wire import RangeRequest
from p2p.errors import RequestError
from p2p.network import Network

log = structlog.get_logger("state_sync")


@dataclass(slots=True)
class Pace:
    """What a source gave, and how long it was asked for it."""

    spent_s: float = 0.0
    size_bytes: int = 0

    def gave(self, size_bytes: int, took_s: float, is_whole: bool) -> None:
        """An answer that was true; `is_whole`: nothing of what was asked for is missing now."""
        self.spent_s += took_s if is_whole else max(took_s, STATE_SHORT_S)
        self.size_bytes += max(size_bytes, STATE_WHOLE_BYTES) if is_whole else size_bytes

    @property
    def is_slow(self) -> bool:
        """Is it too little for the time?"""
        return self.spent_s >= STATE_RATE_S and self.size_bytes < self.spent_s * STATE_RATE_BYTES_S


_Row = tuple[StoredBlock, Header, list[bytes]]


class Unreachable(Exception):
    """No peer gives this state any more."""


@dataclass(slots=True)
class StateFetch:
    """See the module. `peers` says who may be asked now; `judge` is a notary that knows all validator sets up
    to the anchor's; `banned` are those who lied, for good."""

    network: Network
    judge: Notary
    staging: Staging
    anchor: FinalityProof
    peers: Callable[[], list[str]]
    banned: set[str]
    lies: int = 0
    hedged: int = 0  # places that a second source was asked for
    slow: set[str] = field(default_factory=set)  # left alone while chunks are fetched
    _asked: dict[int, dict[str, float]] = field(default_factory=dict)  # place -> by whom, since when
    _paces: dict[str, Pace] = field(default_factory=dict)
    _workers: dict[str, int] = field(default_factory=dict)
    _failures: dict[str, int] = field(default_factory=dict)
    _preparing: int = 0
    _ranges: int = 0  # rounds of asking for blocks
    _came_s: float = 0.0
    _bell: trio.Event = field(default_factory=trio.Event)

    # ------------------------------------------------------------------ chunks

    async def chunks(self) -> None:
        """Fetch all that is missing of the state. Raises Unreachable; what came stays on the disk."""
        self._came_s = time.monotonic()
        async with trio.open_nursery() as nursery:
            while self.staging.todo and time.monotonic() - self._came_s <= STATE_IDLE_S:
                for peer_id in self._free():
                    self._workers[peer_id] = STATE_WINDOW
                    for _ in range(STATE_WINDOW):
                        nursery.start_soon(self._work, peer_id)
                bell = self._bell
                with trio.move_on_after(STATE_PREPARING_S):
                    await bell.wait()
            nursery.cancel_scope.cancel()
        if self.staging.todo:
            raise Unreachable(f"nobody gives the state of height {self.staging.now.height}")

    def _free(self) -> list[str]:
        """Who may be asked, and is not at work."""
        room = STATE_SOURCES_MAX - sum(1 for count in self._workers.values() if count)
        found = [peer for peer in self._usable() if not self._workers.get(peer)]
        return found[: max(0, room)]

    def _usable(self) -> list[str]:
        return [
            peer
            for peer in self.peers()
            if peer not in self.banned | self.slow and self._failures.get(peer, 0) < STATE_FAILURES_MAX
        ]

    async def _work(self, peer_id: str) -> None:
        """Ask one peer for one missing part after the other, until there is none or it is of no use."""
        try:
            while peer_id in self._usable():
                place = self._place(peer_id)
                if place is not None:
                    await self._chunk(peer_id, place)
                elif self.staging.todo:
                    bell = self._bell
                    with trio.move_on_after(STATE_HEDGE_S):
                        await bell.wait()
                else:
                    return
        finally:
            self._workers[peer_id] -= 1
            self._ring()

    def _place(self, peer_id: str) -> int | None:
        """What to ask this peer for: a missing place that nobody is asked for, or one that a single other
        was asked for a while ago."""
        todo = self.staging.todo
        found = next((place for place in todo if place not in self._asked), None)
        if found is not None:
            return found
        late_s = time.monotonic() - STATE_HEDGE_S
        asked = ((place, self._asked[place]) for place in todo)
        late = (p for p, by in asked if len(by) == 1 and peer_id not in by and max(by.values()) <= late_s)
        found = next(late, None)
        self.hedged += found is not None
        return found

    async def _chunk(self, peer_id: str, place: int) -> None:
        """One part from one peer."""
        status = self.staging.now
        request = encode(ChunkRequest(status.height, path_of(place), SNAPSHOT_CHUNK_BYTES))
        began_s = time.monotonic()
        self._asked.setdefault(place, {})[peer_id] = began_s
        try:
            data = await self.network.request(peer_id, CHUNK, request, STATE_ASK_S)
            proved = await trio.to_thread.run_sync(partial(check_chunk, status.root, data))
            if not is_within(proved.place, place):
                raise Refused("snapshot.place", "not below the place that was asked for")
            is_whole = not any(is_within(beside, place) for beside in proved.beside)
            self.staging.take(proved, place)
            self._failures.pop(peer_id, None)
            self._came_s = time.monotonic()
            size_bytes = sum(len(key) + len(value) for key, value in proved.pairs)
            self._judge_pace(peer_id, size_bytes, self._came_s - began_s, is_whole)
        except Refused as error:
            self._lied(peer_id, error)
        except RequestError as error:
            await self._failed(peer_id, str(error))
        finally:
            by = self._asked.get(place, {})
            by.pop(peer_id, None)
            if not by:
                self._asked.pop(place, None)
            self._ring()

    def _judge_pace(self, peer_id: str, size_bytes: int, took_s: float, is_whole: bool) -> None:
        pace = self._paces.setdefault(peer_id, Pace())
        pace.gave(size_bytes, took_s, is_whole)
        if pace.is_slow:
            self.slow.add(peer_id)
            log.warning("state_source_slow", peer=peer_id, size_bytes=pace.size_bytes, seconds=pace.spent_s)

    async def _failed(self, peer_id: str, reason: str) -> None:
        if PREPARING in reason and self._preparing < STATE_PREPARING_MAX:
            self._preparing += 1
            self._came_s = time.monotonic()
            await trio.sleep(STATE_PREPARING_S)
            return
        log.debug("state_request_failed", peer=peer_id, error=reason)
        self._failures[peer_id] = self._failures.get(peer_id, 0) + 1
        await trio.sleep(STATE_PREPARING_S)

    def _lied(self, peer_id: str, error: Refused) -> None:
        self.lies += 1
        self.banned.add(peer_id)
        blame(self.network, peer_id, error)

    def _ring(self) -> None:
        self._bell.set()
        self._bell = trio.Event()

    # ------------------------------------------------------------------ the replay window

    async def window(self) -> None:
        """The blocks whose ids may still be sent again, and those up to the anchor: so the state's own block
        is seen to be in the anchor's chain. Raises Unreachable."""
        anchor = decode(Header, self.anchor.header)
        height = self.staging.now.height
        first = max(1, height - EXPIRY_BLOCKS_MAX + 1)
        self._failures.clear()
        self.slow.clear()  # here all are asked in turns
        if self.staging.now.blocks >= anchor.height:  # as of a later header that names this state, too
            self.staging.remember((), 0, b"")
        while True:
            begin = max(first, self.staging.now.blocks + 1)
            if begin >= anchor.height:
                break
            await self._some_blocks(begin)
        if self.staging.now.parent != anchor.parent_hash:
            # Each was final by its own certificate: more than f validators signed two chains.
            raise Unreachable("the blocks before the state are not those of the header that names it")

    async def _some_blocks(self, first: int) -> None:
        """The next range of them from whoever gives it, all in turns: one may be as slow as it likes. Raises
        Unreachable."""
        usable = self._usable()
        self._ranges += 1
        begin = self._ranges % max(1, len(usable))
        for peer_id in usable[begin:] + usable[:begin]:
            try:
                request = encode(RangeRequest(first, RANGE_BYTES_MAX, PIECE_BLOCKS_MAX))
                data = await self.network.request(peer_id, "blocks", request, STATE_ASK_S)
                blocks = decode_range(data)
                if blocks:
                    await self._take(peer_id, first, blocks)
                    self._failures.pop(peer_id, None)
                    return
                self._failures[peer_id] = STATE_FAILURES_MAX
            except Refused as error:
                self._lied(peer_id, error)
            except RequestError as error:
                await self._failed(peer_id, str(error))
        if not self._usable():
            raise Unreachable(f"nobody gives the blocks from height {first} on")

    async def _take(self, peer_id: str, first: int, blocks: tuple[StoredBlock, ...]) -> None:
        """Prove a range and keep its blocks as far as all of each is here. Raises Refused, RequestError."""
        status = self.staging.now
        parent = status.parent or decode_header(blocks[0].header).parent_hash
        before = Tip(first - 1, parent, 0, 0, b"", 0)
        covered = await trio.to_thread.run_sync(partial(self.judge.check_range, blocks, before))
        end = decode(Header, self.anchor.header).height - 1
        whole: list[_Row] = []
        try:
            for block, proved in zip(blocks, covered, strict=False):
                if proved.header.height > end:
                    break
                whole.append((block, proved.header, await self._ids(peer_id, block, proved)))
        finally:
            self._keep(whole)

    def _keep(self, rows: list[_Row]) -> None:
        """Write down what a range gave, at once."""
        if not rows:
            return
        mine = [block for block, header, _ in rows if header.height == self.staging.now.height]
        block, header, _ = rows[-1]
        self.staging.remember(
            [key for _, _, keys in rows for key in keys],
            header.height,
            header_hash(block.header),
            mine[0].header if mine else b"",
            mine[0].certificate if mine else b"",
        )

    async def _ids(self, peer_id: str, block: StoredBlock, proved: Covered) -> list[bytes]:
        """Which ids of a block guard against replay after the state's height."""
        header, batches = proved.header, block.batches
        if header.height > self.staging.now.height or not header.batches:
            return []
        if not batches:
            batches = await fetch_batches(self.network, peer_id, header.batches, STATE_ASK_S)
        return await trio.to_thread.run_sync(partial(self._seen, proved, batches))

    def _seen(self, proved: Covered, batches: tuple[bytes, ...]) -> list[bytes]:
        """Ids that were executed in a block and may still be sent again after the state's height. In a
        thread."""
        header, height = proved.header, self.staging.now.height
        context = Context.of(header)
        found = []
        for tx in self.judge.transactions(batches, {}):
            try:
                check_window(tx.tx, context)
            except Refused:
                continue  # it did not count there, nor will it
            if tx.tx.expires > height:
                found.append(key_seen(tx.tx.expires, tx.id))
        return found
