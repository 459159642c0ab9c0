"""Catch-up by blocks: fetch final blocks from neighbours, prove them, commit them. Always on, for every peer.

Pieces come from several neighbours at once (node.sync.sync_plan says which from whom), are proved in threads
as they come, and are committed in order, several blocks in one synced write while more wait. A height counts
only with a certificate; nothing is executed that none covers. A peer whose answer does not prove itself is
penalised at the first one and not asked again for a time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import structlog
import trio

from ledger.blocks import Header, decode_header
from ledger.codec import encode
from ledger.errors import Refused
from ledger.proofs.certificate import Certificate
from ledger.storage.stored import StoredBlock, Tip
from ledger.transactions import VerifiedTx
from node.errors import StateDiffers
from node.limits import (
    FOLLOW_STALLED_S,
    GROUP_BYTES,
    GROUP_MS,
    RANGE_BYTES_MAX,
    RANGE_HURRY_S,
    RANGE_TIMEOUT_S,
)
from node.notary import Covered, Notary
from node.sync.ranges import blame, decode_range, fetch_batches, held_from
from node.sync.sync_plan import Ask, SyncPlan
from node.wire import RangeRequest
from p2p.errors import RequestError
from p2p.network import Network

log = structlog.get_logger("follower")

_NEAR = 50  # blocks behind that a validator leaves to consensus, for a while
_DEFERRED_S = 0.25  # until it is looked at again whether blocks are the way
_CHECKS_AT_ONCE = 2  # pieces proved at a time: the signatures in them run beside us, the rest does not


@dataclass(slots=True)
class Piece:
    """Blocks that came from one peer. `covered` are proved, `rest` are of a later epoch: whose set signs
    them is known when what is before them is executed. `rest_from`: the height of the first of these."""

    ask: Ask
    covered: deque[tuple[StoredBlock, Covered]]
    rest: tuple[StoredBlock, ...]
    rest_from: int
    known: Mapping[bytes, VerifiedTx]


@dataclass(slots=True)
class Follower:
    """`patient`: consensus brings the blocks here, so fetch only when it brought none for a while.
    `paused`: somebody else brings the state (node.sync.state_sync), so fetch nothing."""

    notary: Notary
    network: Network
    patient: bool
    on_synced: Callable[[Header, Certificate], None]
    known: Mapping[bytes, VerifiedTx]
    last_commit_s: float = 0.0
    fetched_blocks: int = 0
    lies: int = 0
    groups: int = 0  # synced writes of several blocks
    off_chain: bool = False  # a certified block does not follow our tip: more than f validators signed both
    paused: bool = False
    is_deferred: Callable[[], bool] = lambda: False  # a state may be the better way: ask for no blocks yet
    plan: SyncPlan = field(default_factory=SyncPlan)
    _pieces: dict[int, Piece] = field(default_factory=dict)
    _scopes: dict[int, trio.CancelScope] = field(default_factory=dict)  # of requests under way
    _bell: trio.Event = field(default_factory=trio.Event)
    _checks: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(_CHECKS_AT_ONCE))

    def came(self, peer_id: str, height: int) -> None:
        """A neighbour is there, and says that it holds final blocks up to `height`."""
        self.plan.came(peer_id, height)
        self._ring(height)

    def told(self, peer_id: str, height: int) -> None:
        """A neighbour says that it holds final blocks up to `height`. Others' words are dropped."""
        if self.plan.told(peer_id, height):
            self._ring(height)

    def gone(self, peer_id: str) -> None:
        """A neighbour is gone."""
        self.plan.gone(peer_id)
        self._bell.set()

    def _ring(self, height: int) -> None:
        if height > self.notary.store.tip.height:
            self._bell.set()

    def holds(self, peer_id: str, height: int) -> bool:
        """Has this neighbour told that it holds the block at `height`?"""
        source = self.plan.sources.get(peer_id)
        return source is not None and source.told >= height

    def committed(self) -> None:
        """A block was committed by whichever way."""
        self.last_commit_s = time.monotonic()

    def pause(self, paused: bool) -> None:
        """Stop or go on. What waits is dropped when that changes."""
        self._bell.set()
        if paused == self.paused:
            return
        self.paused = paused
        self._pieces.clear()
        self.plan.forget()
        for scope in self._scopes.values():
            scope.cancel()

    @property
    def is_stopped(self) -> bool:
        """Is nothing to be fetched or executed?"""
        return self.paused or self.off_chain or self.notary.differs > 0

    @property
    def best_height(self) -> int:
        """Highest height held, or told by a neighbour that did not fail to deliver."""
        return self.plan.best_height(self.notary.store.tip.height)

    @property
    def is_too_old(self) -> bool:
        """True when all that are ahead have dropped the next block: only a state, an older peer, or a copy
        of a newer store helps."""
        return self.plan.is_too_old(self.notary.store.tip.height)

    # ------------------------------------------------------------------ the loop

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._bell = trio.Event()
                self._launch(nursery)
                tip = self.notary.store.tip.height
                for past in self.plan.past(tip):
                    self._pieces.pop(past, None)
                first = self.plan.ready(tip)
                if first is not None and not self.is_stopped:
                    await self._use(nursery, first)
                    continue
                with trio.move_on_after(self._wait_s()):
                    await self._bell.wait()

    def _launch(self, nursery: trio.Nursery) -> None:
        """Make all requests that are due."""
        if self.is_stopped or self.is_deferred() or self._is_for_consensus() > 0:
            return
        now_s = time.monotonic()
        while (ask := self.plan.next(self.notary.store.tip.height, now_s)) is not None:
            nursery.start_soon(self._ask, ask)

    def _is_for_consensus(self) -> float:
        """For how many seconds what is missing is left to consensus; 0: fetch now."""
        if not self.patient or self.best_height >= self.notary.store.tip.height + _NEAR:
            return 0.0
        return max(0.0, FOLLOW_STALLED_S - (time.monotonic() - self.last_commit_s))

    def _wait_s(self) -> float:
        if self.is_stopped:
            return 3600.0
        if self.is_deferred():
            return _DEFERRED_S
        return self._is_for_consensus() or self.plan.wait_s(self.notary.store.tip.height, time.monotonic())

    # ------------------------------------------------------------------ one request

    async def _ask(self, ask: Ask) -> None:
        """One piece from one peer, fetched and proved."""
        with trio.CancelScope() as scope:
            self._scopes[ask.number] = scope
            try:
                await self._fetch(ask)
            except RequestError as error:
                log.debug("range_failed", peer=ask.peer_id, error=str(error))
                self._lacks(ask.peer_id, held_from(str(error)))
                self.plan.failed(ask, time.monotonic())
            except Refused as error:
                self._lied(ask, error)
            finally:
                del self._scopes[ask.number]
                self.plan.given_up(ask)
                self._bell.set()

    async def _fetch(self, ask: Ask) -> None:
        request = encode(RangeRequest(ask.first, RANGE_BYTES_MAX, ask.blocks_max))
        timeout_s = RANGE_HURRY_S if self.plan.others(ask) else RANGE_TIMEOUT_S
        data = await self.network.request(ask.peer_id, "blocks", request, timeout_s)
        blocks = decode_range(data)
        if not blocks:
            self.plan.failed(ask, time.monotonic())
            return
        work = partial(self._prove, ask, blocks)
        piece = await trio.to_thread.run_sync(work, limiter=self._checks)
        last = ask.first + len(blocks) - 1
        if last <= self.notary.store.tip.height:
            return  # consensus was faster
        beaten = self.plan.delivered(ask, last, len(data), time.monotonic())
        if beaten is None:
            return  # given up while a thread proved it
        for other in beaten:
            self._cancel(other)
        self._pieces[ask.first] = piece

    def _prove(self, ask: Ask, blocks: tuple[StoredBlock, ...]) -> Piece:
        """Proved blocks and their checked transactions. Runs in a thread. Raises Refused.

        Where they join our chain is looked at when they are committed. What no set that we know signs
        waits unproved: not before its turn can it be told from a lie.
        """
        first = decode_header(blocks[0].header)
        epoch = self.notary.validators.epoch
        if first.height != ask.first:
            raise Refused("range.order", f"height {first.height} does not follow {ask.first - 1}")
        if first.epoch > epoch:
            return Piece(ask, deque(), blocks, ask.first, {})
        before = Tip(ask.first - 1, first.parent_hash, 0, 0, b"", 0)
        try:
            covered = self.notary.check_range(blocks, before)
        except Refused:
            if self.notary.validators.epoch != epoch:
                return Piece(ask, deque(), blocks, ask.first, {})  # it ended meanwhile: again in its turn
            raise
        known: dict[bytes, VerifiedTx] = {}
        for block in blocks[: len(covered)]:
            known.update((tx.id, tx) for tx in self.notary.transactions(block.batches, self.known))
        proved, rest = deque(zip(blocks, covered, strict=False)), blocks[len(covered) :]
        return Piece(ask, proved, rest, ask.first + len(covered), known)

    def _cancel(self, ask: Ask) -> None:
        scope = self._scopes.get(ask.number)
        if scope is not None:
            scope.cancel()

    def _lacks(self, peer_id: str, first: int) -> None:
        """A peer dropped the blocks that we want (`first`: held from there on; 0: it did not say so)."""
        if first == 0:
            return
        self.plan.lacks(peer_id, first)
        if self.is_too_old:
            log.error("blocks_gone", height=self.notary.store.tip.height + 1, held_from=first)

    def _lied(self, ask: Ask, error: Refused) -> None:
        self.lies += 1
        for other in self.plan.lied(ask, time.monotonic()):
            self._cancel(other)
        blame(self.network, ask.peer_id, error)

    # ------------------------------------------------------------------ committing

    async def _use(self, nursery: trio.Nursery, first: int) -> None:
        """Commit a piece whose turn it is, and let others run between its groups."""
        piece = self._pieces[first]
        try:
            while self._is_wanted(piece) and (piece.covered or piece.rest):
                await trio.lowlevel.checkpoint()
                self._launch(nursery)
                if not piece.covered:
                    await self._prove_rest(piece)
                elif _is_bare(*piece.covered[0]):
                    await self._commit_big(piece)
                else:
                    self._commit_group(piece)
        except RequestError as error:
            log.debug("batch_failed", peer=piece.ask.peer_id, error=str(error))
            self.plan.failed(piece.ask, time.monotonic())
        except Refused as error:
            self._lied(piece.ask, error)
        except StateDiffers as error:
            log.error("following_stopped", reason=str(error))
        finally:
            if self._pieces.get(first) is piece:
                del self._pieces[first]
                self.plan.used(first)

    def _is_wanted(self, piece: Piece) -> bool:
        """Is a piece still to be committed? Not after a pause: the chain may go on from elsewhere."""
        return not self.is_stopped and self._pieces.get(piece.ask.first) is piece

    async def _prove_rest(self, piece: Piece) -> None:
        """The blocks that follow our tip, of its epoch: those that consensus brought meanwhile are not looked
        at. Raises Refused."""
        tip = self.notary.store.tip
        rest = piece.rest[max(0, tip.height + 1 - piece.rest_from) :]
        work = partial(self.notary.check_range, rest, tip)
        covered = await trio.to_thread.run_sync(work, limiter=self._checks)
        piece.covered = deque(zip(rest, covered, strict=False))
        piece.rest, piece.rest_from = rest[len(covered) :], tip.height + 1 + len(covered)

    def _commit_group(self, piece: Piece) -> None:
        """As many of its blocks as go in one write without holding up others for long."""
        until_s = time.monotonic() + GROUP_MS / 1000
        size_bytes = 0
        done: list[Covered] = []
        with self.notary.store.grouped():
            while piece.covered and not _is_bare(*piece.covered[0]):
                block, proved = piece.covered.popleft()
                size_bytes += sum(map(len, block.batches))
                if self._commit(proved, block.batches, piece.known):
                    done.append(proved)
                if size_bytes >= GROUP_BYTES or time.monotonic() >= until_s:
                    break
        self.groups += len(done) > 1
        for proved in done:  # not before they are on the disk: votes are forgotten then
            self.on_synced(proved.header, proved.certificate)

    def _commit(self, proved: Covered, batches: tuple[bytes, ...], known: Mapping[bytes, VerifiedTx]) -> bool:
        """One proved block, unless it is held. False: it was, or it is of another chain than ours."""
        header, tip = proved.header, self.notary.store.tip
        if header.height <= tip.height or self.off_chain:
            return False
        if header.parent_hash != tip.hash:
            self.off_chain = True
            log.error("final_off_chain", height=header.height, block=header.hash.hex())
            return False
        self.notary.commit(header, proved.certificate, batches, known, proved.path)
        self.fetched_blocks += 1
        return True

    async def _commit_big(self, piece: Piece) -> None:
        """The next block, whose batches did not fit in the answer. Raises Refused for a lie, RequestError."""
        proved = piece.covered.popleft()[1]
        if proved.header.height <= self.notary.store.tip.height:
            return
        timeout_s = RANGE_HURRY_S if self.plan.others(piece.ask) else RANGE_TIMEOUT_S
        digests = proved.header.batches
        batches = await fetch_batches(self.network, piece.ask.peer_id, digests, timeout_s)
        known = await trio.to_thread.run_sync(partial(self._verify, batches))
        if self._is_wanted(piece) and self._commit(proved, batches, known):
            self.on_synced(proved.header, proved.certificate)

    def _verify(self, batches: tuple[bytes, ...]) -> dict[bytes, VerifiedTx]:
        """The signed transactions of a block by id. Runs in a thread."""
        return {tx.id: tx for tx in self.notary.transactions(batches, self.known)}


def _is_bare(block: StoredBlock, proved: Covered) -> bool:
    """Did it come without its batches?"""
    return not block.batches and bool(proved.header.batches)
