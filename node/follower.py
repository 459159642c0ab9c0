"""Range sync: fetch final blocks from neighbours, prove them, commit them. Always on, for every peer.

A neighbour's word on its height is a hint; a height counts only with a certificate. Who does not
deliver what it told of rests, longer each time, and its word counts no more until it delivers. A peer
whose answer does not prove itself is penalised at the first one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import structlog
import trio

from ledger.blocks import Header
from ledger.certificate import Certificate
from ledger.codec import encode
from ledger.errors import Refused
from ledger.stored import StoredBlock
from ledger.transactions import VerifiedTx
from node.limits import (
    FAULT_POINTS,
    FOLLOW_BACKOFF_MAX_S,
    FOLLOW_BACKOFF_S,
    FOLLOW_STALLED_S,
    RANGE_BATCHES_AT_ONCE,
    RANGE_BYTES_MAX,
    RANGE_HURRY_S,
    RANGE_TIMEOUT_S,
    VERIFY_THREAD_BYTES,
)
from node.notary import Covered, Notary
from node.ranges import check_batch, decode_range, held_from, missing_batches
from node.wire import RangeRequest
from p2p.errors import RequestError
from p2p.network import Network

log = structlog.get_logger("follower")

_NEAR = 50  # blocks behind that a validator leaves to consensus, for a while


@dataclass(slots=True)
class _Source:
    """A neighbour: the height that it told, how often in a row it did not deliver, until when it rests."""

    told: int = 0
    failures: int = 0
    rest_until_s: float = 0.0
    first: int = 0  # the first height that it holds, when it has refused older ones
    used: int = 0  # number of the last request to it, so that all get their turn


@dataclass(slots=True)
class Follower:
    """`patient`: consensus brings the blocks here, so fetch only when it brought none for a while."""

    notary: Notary
    network: Network
    patient: bool
    on_synced: Callable[[Header, Certificate], None]
    known: Mapping[bytes, VerifiedTx]
    last_commit_s: float = 0.0
    fetched_blocks: int = 0
    lies: int = 0
    _sources: dict[str, _Source] = field(default_factory=dict)
    _requests: int = 0
    _bell: trio.Event = field(default_factory=trio.Event)

    def came(self, peer_id: str, height: int) -> None:
        """A neighbour is there, and says that it holds final blocks up to `height`."""
        self._sources.setdefault(peer_id, _Source())
        self.told(peer_id, height)

    def told(self, peer_id: str, height: int) -> None:
        """A neighbour says that it holds final blocks up to `height`. Others' words are dropped."""
        source = self._sources.get(peer_id)
        if source is None:
            return
        source.told = height
        if height > self.notary.store.tip.height:
            self._bell.set()

    def gone(self, peer_id: str) -> None:
        """A neighbour is gone."""
        self._sources.pop(peer_id, None)

    def holds(self, peer_id: str, height: int) -> bool:
        """Has this neighbour told that it holds the block at `height`?"""
        source = self._sources.get(peer_id)
        return source is not None and source.told >= height

    def committed(self) -> None:
        """A block was committed by whichever way."""
        self.last_commit_s = time.monotonic()

    @property
    def best_height(self) -> int:
        """Highest height held, or told by a neighbour that did not fail to deliver."""
        told = (source.told for source in self._sources.values() if not source.failures)
        return max(self.notary.store.tip.height, *told, 0)

    @property
    def is_too_old(self) -> bool:
        """True when all that are ahead have dropped the next block: only an older peer, or a copy of a
        newer store, helps."""
        height = self.notary.store.tip.height
        ahead = [source.first for source in self._sources.values() if source.told > height]
        return bool(ahead) and min(ahead) > height + 1

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            wait_s = self._wait_s()
            if wait_s > 0:
                with trio.move_on_after(wait_s):
                    await self._bell.wait()
                self._bell = trio.Event()
                continue
            peer_id = self._choose()
            if peer_id is not None:
                await self._try(peer_id)

    def _wait_s(self) -> float:
        """How long nothing is to be fetched, unless somebody tells of more; 0: fetch now."""
        height, now_s = self.notary.store.tip.height, time.monotonic()
        ahead = [s for s in self._sources.values() if s.told > height and s.first <= height + 1]
        if not ahead:
            return 3600.0
        if self.patient and self.best_height < height + _NEAR:
            stalled_s = now_s - self.last_commit_s
            if stalled_s < FOLLOW_STALLED_S:
                return FOLLOW_STALLED_S - stalled_s
        return max(0.0, min(source.rest_until_s for source in ahead) - now_s)

    def _choose(self) -> str | None:
        """Whom to ask: those that deliver first, in turns."""
        height, now_s = self.notary.store.tip.height, time.monotonic()
        ready = [
            (source.failures, source.used, peer_id)
            for peer_id, source in self._sources.items()
            if source.told > height and source.first <= height + 1 and source.rest_until_s <= now_s
        ]
        return min(ready)[2] if ready else None

    async def _try(self, peer_id: str) -> None:
        source = self._sources[peer_id]
        self._requests += 1
        source.used = self._requests
        height = self.notary.store.tip.height
        others = any(other is not source and other.told > height for other in self._sources.values())
        if await self._fetch(peer_id, RANGE_HURRY_S if others else RANGE_TIMEOUT_S):
            source.failures = 0
            return
        rest_s = FOLLOW_BACKOFF_S * 2 ** min(source.failures, 16)
        source.failures += 1
        source.rest_until_s = time.monotonic() + min(rest_s, FOLLOW_BACKOFF_MAX_S)

    async def _fetch(self, peer_id: str, timeout_s: float) -> bool:
        """One range from one peer. True when it brought what it told of."""
        tip = self.notary.store.tip
        request = encode(RangeRequest(tip.height + 1, RANGE_BYTES_MAX))
        try:
            data = await self.network.request(peer_id, "blocks", request, timeout_s)
            blocks = decode_range(data)
            if not blocks:
                return False
            # Three signatures a block: a thread spares the others some 0.2 s of waiting for a full range.
            covered = await trio.to_thread.run_sync(partial(self.notary.check_range, blocks, tip))
            for block, proved in zip(blocks, covered, strict=False):  # ends at an epoch's last block
                await self._commit(peer_id, timeout_s, block, proved)
        except RequestError as error:
            log.debug("range_failed", peer=peer_id, error=str(error))
            self._lacks(peer_id, held_from(str(error)))
            return self.notary.store.tip.height > tip.height
        except Refused as error:
            self._lied(peer_id, error)
            return False
        return True

    def _lacks(self, peer_id: str, first: int) -> None:
        """A peer dropped the blocks that we want (`first`: held from there on; 0: it did not say so)."""
        source = self._sources.get(peer_id)
        if source is None or first == 0:
            return
        source.first = first
        if self.is_too_old:
            log.error("blocks_gone", height=self.notary.store.tip.height + 1, held_from=first)

    async def _commit(self, peer_id: str, timeout_s: float, block: StoredBlock, proved: Covered) -> None:
        """One proved block. Lets others run before: a block is a synced write, a range hundreds of them."""
        await trio.lowlevel.checkpoint()
        batches, header = block.batches, proved.header
        missing = missing_batches(block)
        if missing and header.height > self.notary.store.tip.height:
            batches = await self._fetch_batches(peer_id, timeout_s, missing)
        known = self.known
        if sum(map(len, batches)) > VERIFY_THREAD_BYTES:
            known = await trio.to_thread.run_sync(partial(self._verify, batches))
        if header.height <= self.notary.store.tip.height:
            return  # consensus was faster
        self.notary.commit(header, proved.certificate, batches, known, proved.path)
        self.fetched_blocks += 1
        self.on_synced(header, proved.certificate)

    def _verify(self, batches: tuple[bytes, ...]) -> dict[bytes, VerifiedTx]:
        """The signed transactions of a block by id. Runs in a thread."""
        return {tx.id: tx for tx in self.notary.transactions(batches, self.known)}

    async def _fetch_batches(
        self, peer_id: str, timeout_s: float, digests: tuple[bytes, ...]
    ) -> tuple[bytes, ...]:
        """The batches of one proved block. Raises Refused for a lie, RequestError."""
        found: dict[bytes, bytes] = {}
        failed: list[Refused | RequestError] = []
        room = trio.Semaphore(RANGE_BATCHES_AT_ONCE)

        async def fetch(digest: bytes) -> None:
            async with room:
                if failed:
                    return
                try:
                    data = await self.network.request(peer_id, "batch", digest, timeout_s)
                    found[digest] = check_batch(digest, data)
                except (Refused, RequestError) as error:
                    failed.append(error)

        async with trio.open_nursery() as nursery:
            for digest in digests:
                nursery.start_soon(fetch, digest)
        if failed:
            raise failed[0]
        return tuple(found[digest] for digest in digests)

    def _lied(self, peer_id: str, error: Refused) -> None:
        self.lies += 1
        log.warning("peer_fault", peer=peer_id, rule=error.rule, detail=error.detail)
        self.network.penalise(peer_id, error.rule, FAULT_POINTS)
