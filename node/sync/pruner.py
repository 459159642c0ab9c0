"""Keeps the block history within its byte budget (`store.size_mib_max`): drops the oldest, then compacts.

Files shrink by compaction only, so a round measures, drops as many blocks as the average says, compacts
and measures again next time. Planning and compaction run in a thread; the loop is held for one atomic,
unsynced write a block. What one of those takes is told as `prune_step_seconds_max`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog
import trio

from ledger.storage.store import Store
from node.limits import PRUNE_EVERY_BLOCKS, PRUNE_KEEP_BLOCKS, PRUNE_KEPT_PER_ROUND, PRUNE_TO_PERCENT

log = structlog.get_logger("pruner")


@dataclass(slots=True)
class Pruner:
    """See the module. `next_block` waits until the height is above the given one."""

    store: Store
    budget_bytes: int
    next_block: Callable[[int], Awaitable[int]]
    keep_blocks: int = PRUNE_KEEP_BLOCKS
    keep_from: Callable[[], int | None] = lambda: None  # blocks from there on are needed by others
    store_use: trio.Lock = field(default_factory=trio.Lock)  # the store stays open while it is held
    size_bytes: int = 0  # as last measured
    dropped: int = 0
    step_s_max: float = 0.0
    _kept_next: int = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            async with self.store_use:
                await self.round()
            await self.next_block(self.store.tip.height + PRUNE_EVERY_BLOCKS)

    async def round(self) -> int:
        """Measure, and drop what is over the budget. Returns how many blocks went. Raises LocalError."""
        store = self.store
        history_bytes = store.history_bytes()
        self.size_bytes = history_bytes + store.staged_bytes()  # it stands beside ours until it is whole
        if self.size_bytes <= self.budget_bytes:
            return 0
        first, above = store.first_height, store.tip.height + 1
        over_bytes = self.size_bytes - self.budget_bytes * PRUNE_TO_PERCENT // 100
        wanted = -(-over_bytes * (above - first) // max(1, history_bytes))
        wanted_from = self.keep_from()
        count = min(wanted, above - self.keep_blocks - first)
        if wanted_from is not None:
            count = min(count, wanted_from - first)
        if count <= 0:
            log.warning("budget_too_small", size_bytes=self.size_bytes, kept_blocks=above - first)
            return 0
        for height in range(first, first + count):
            await self._drop(height)
        await self._look_again()
        await trio.to_thread.run_sync(store.compact_history)
        before_bytes, self.size_bytes = self.size_bytes, store.history_bytes() + store.staged_bytes()
        log.info("pruned", first_height=store.first_height, size_bytes=self.size_bytes, before=before_bytes)
        return count

    async def _look_again(self) -> None:
        """At what was kept: deployments have ended since."""
        heights = self.store.retention.kept(self._kept_next, PRUNE_KEPT_PER_ROUND)
        for height in heights:
            await self._drop(height)
        self._kept_next = heights[-1] if len(heights) == PRUNE_KEPT_PER_ROUND else 0

    async def _drop(self, height: int) -> None:
        retention = self.store.retention
        planned = await trio.to_thread.run_sync(partial(retention.plan, height))
        start_s = time.perf_counter()
        retention.drop(planned)
        self.step_s_max = max(self.step_s_max, time.perf_counter() - start_s)
        self.dropped += 1

    def metrics(self) -> Sequence[tuple[str, dict[str, str], float, str]]:
        """Rows as of PeerSeam.metrics."""
        return [
            ("store_history_bytes", {}, self.size_bytes, "gauge"),
            ("store_blocks_dropped_total", {}, self.dropped, "counter"),
            ("store_prune_step_seconds_max", {}, self.step_s_max, "gauge"),
        ]
