"""`python -m tests.sim.market_leases --seeds 1000000`: leases alone, one partition a seed, as fast as can be.

A holder with production's `LeaseClock` against the ledger's rule (`ledger.transition.leases`: freed at the
last renewal + L + G of block time), in true time. Clocks run at rates within CLOCK_RATE_PERCENT; claims and
renewals are late, lost, or delivered when a partition ends; kills take as long as they may; block times are
off by what leaders' clocks are, and some leaders lie about theirs after a stall. The next holder is taken to
run from the very block that frees the slot. No seed may have two holders at one time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from bench.common import machine, save
from ledger.limits import (
    BLOCK_IDLE_MS,
    CLOCK_RATE_PERCENT,
    LEASE_GUARD_MS,
    LEASE_MS,
    TIME_AHEAD_MS_MAX,
)
from node.executor.lease import LeaseClock
from node.executor.limits import GUARD_TICK_S, KILL_WITHIN_S

TICK_MS: Final = int(GUARD_TICK_S * 1000)
WALL_ERROR_MS: Final = 500  # of an honest leader's clock
SEEN_ERROR_MS: Final = (
    2_000  # of `LedgerTime`: blocks come late, or from leaders that are ahead; clocks drift
)
STALLS: Final = 0.2  # of all seeds: nothing is committed for a while
LIARS: Final = 0.25  # of blocks after a stall: the leader says that no time has passed
CHUNK: Final = 10_000
FOREVER_MS: Final = 20 * LEASE_MS  # a broken rule may never stop


@dataclass(frozen=True, slots=True)
class Rules:
    """Production, or one rule broken. `behind`: whether a holder deducts what a block's time is behind."""

    guard_ms: int = LEASE_GUARD_MS
    from_arrival: bool = False  # renewals count from when they are final
    asking_is_enough: bool = False
    extends_kill_ms: int = 0
    rate_percent: int = CLOCK_RATE_PERCENT  # of the clocks, not of the rules
    behind: bool = True


@dataclass(slots=True)
class Ledger:
    """What the state machine keeps of one slot's lease, in its time."""

    rules: Rules
    rng: Random
    rate: float
    until_ms: float = -1.0
    last_ms: float = 0.0  # time of the last block
    stall: tuple[float, float] = (0.0, 0.0)  # true times between which nothing is committed

    def commits_ms(self, at_ms: float) -> float:
        """When a transaction that is there at a true time is in a block."""
        begin_ms, end_ms = self.stall
        return end_ms + self.rng.random() if begin_ms <= at_ms < end_ms else at_ms

    def block_ms(self, at_ms: float) -> float:
        """The time of a block made at a true time: never back, and off by what its leader's clock is."""
        begin_ms, end_ms = self.stall
        if begin_ms < end_ms <= at_ms < end_ms + 2.0 and self.rng.random() < LIARS:
            found = max(self.last_ms, begin_ms * self.rate - BLOCK_IDLE_MS)
        else:
            found = max(self.last_ms, at_ms * self.rate + self.rng.uniform(-WALL_ERROR_MS, WALL_ERROR_MS))
        self.last_ms = found
        return found

    def renew(self, block_ms: float) -> bool:
        """Lease anew from a block's time; False when it had ended."""
        if 0 <= self.until_ms <= block_ms:
            return False
        self.until_ms = block_ms + LEASE_MS + self.rules.guard_ms
        return True

    def freed_ms(self) -> float:
        """The first true time at which a block may free the slot: its leader is as far ahead as can be."""
        ahead_ms = self.rng.choice((0, 0, WALL_ERROR_MS, TIME_AHEAD_MS_MAX))
        at_ms = (self.until_ms - ahead_ms) / self.rate
        return self.commits_ms(max(at_ms, self.last_ms / self.rate - TIME_AHEAD_MS_MAX))


def partition(rng: Random, rules: Rules) -> tuple[float, float, int]:
    """One partition: true ms at which the holder's workload is gone, at which the slot is free, and how many
    renewals were final. The workload never started: gone at 0."""
    ledger = Ledger(rules, rng, _rate(rng, rules.rate_percent))
    rate = _rate(rng, rules.rate_percent)  # of the holder's boot clock
    seen_error_ms = rng.uniform(-SEEN_ERROR_MS, SEEN_ERROR_MS)
    cut_ms = rng.uniform(0, 3 * LEASE_MS)
    healed_ms = cut_ms + rng.uniform(LEASE_MS / 6, 4 * LEASE_MS)
    gone_ms = healed_ms + rng.uniform(0, 2 * LEASE_MS)  # from then on, cut off for good
    if rng.random() < STALLS:
        begin_ms = max(1.0, cut_ms - rng.uniform(0, LEASE_MS))
        ledger.stall = (begin_ms, min(cut_ms, begin_ms + rng.uniform(1_000, LEASE_MS)))
    late_ms = rng.choice((20.0, 200.0, 3_000.0, 12_000.0))
    lost = rng.choice((0.0, 0.1, 0.5))

    def delivered(sent_ms: float) -> float | None:
        """When something sent at a true time arrives; None: never."""
        if rng.random() < lost:
            return None
        arrives_ms = sent_ms + rng.random() * late_ms
        if cut_ms <= arrives_ms < healed_ms:
            return healed_ms if rng.random() < 0.5 else None
        return arrives_ms if arrives_ms < gone_ms else None

    def final(sent_ms: float, block_ms: float, heard_ms: float) -> LeaseClock:
        """The lease by a claim or renewal that is final."""
        counts_ms = heard_ms if rules.from_arrival else sent_ms
        behind_ms = max(0.0, sent_ms * ledger.rate + seen_error_ms - block_ms) if rules.behind else 0.0
        return _counted(lease, int(counts_ms * rate), int(behind_ms))

    sent_ms, lease = 0.0, None
    block_ms = ledger.block_ms(ledger.commits_ms(rng.random() * late_ms))
    ledger.renew(block_ms)
    heard_ms = delivered(max(sent_ms, block_ms / ledger.rate))
    if heard_ms is None:
        return 0.0, ledger.freed_ms(), 0
    lease = final(sent_ms, block_ms, heard_ms)
    if not lease.may_start(int(heard_ms * rate)):
        return 0.0, ledger.freed_ms(), 0
    news: list[tuple[float, float, float]] = []  # heard, sent, time of the block; both true but the last
    tick_ms, renewals = int(heard_ms * rate) + rng.randrange(TICK_MS), 0
    while tick_ms < FOREVER_MS:
        now_ms = tick_ms / rate
        for item in [n for n in news if n[0] <= now_ms]:
            news.remove(item)
            lease, renewals = final(item[1], item[2], item[0]), renewals + 1
        if lease.must_stop(tick_ms):
            break
        if lease.renew_due(tick_ms):
            lease = lease.asked(tick_ms)
            if rules.asking_is_enough:
                lease = lease.renewed(tick_ms)
            arrives_ms = delivered(now_ms)
            arrives_ms = None if arrives_ms is None else ledger.commits_ms(arrives_ms)
            if arrives_ms is not None and arrives_ms < ledger.freed_ms():
                block_ms = ledger.block_ms(arrives_ms)
                if ledger.renew(block_ms) and (back_ms := delivered(arrives_ms)) is not None:
                    news.append((back_ms, now_ms, block_ms))
        tick_ms = _next_tick(tick_ms, rate, lease, news)
    kill_ms = lease.grace_ms(tick_ms) + KILL_WITHIN_S * 1000 + rules.extends_kill_ms
    return (tick_ms + kill_ms) / rate, ledger.freed_ms(), renewals


def _counted(lease: LeaseClock | None, sent_ms: int, behind_ms: int) -> LeaseClock:
    return LeaseClock.claimed(sent_ms, behind_ms) if lease is None else lease.renewed(sent_ms, behind_ms)


def _rate(rng: Random, percent: int) -> float:
    most = percent / 100
    return 1 + rng.choice((-most, most, rng.uniform(-most, most)))


def _next_tick(tick_ms: int, rate: float, lease: LeaseClock, news: list[tuple[float, float, float]]) -> int:
    """The next tick of the guard at which anything can happen: those between are passed over."""
    wanted = [lease.deadline_ms, lease.due_ms, *(int(heard_ms * rate) for heard_ms, _, _ in news)]
    ahead = min((at for at in wanted if at > tick_ms), default=tick_ms)
    return tick_ms + TICK_MS * max(1, -(-(ahead - tick_ms) // TICK_MS))


def run(seeds: range, rules: Rules = Rules()) -> Counter[str]:
    """Counts over these seeds; "first seed" is the first with two holders, plus one."""
    found: Counter[str] = Counter()
    least_ms = 10**9
    for seed in seeds:
        gone_ms, free_ms, renewals = partition(Random(seed), rules)
        found["renewals"] += renewals
        if gone_ms:
            found["ran"] += 1
            least_ms = min(least_ms, int(free_ms - gone_ms))
            if gone_ms > free_ms:
                found["two holders"] += 1
                found["first seed"] = found["first seed"] or seed + 1
    found["partitions"] = len(seeds)
    found["least gap ms"] = least_ms
    return found


def _chunks(start: int, count: int) -> Iterator[range]:
    for at in range(start, start + count, CHUNK):
        yield range(at, min(at + CHUNK, start + count))


def campaign(start: int, count: int, jobs: int) -> Counter[str]:
    """Many seeds, on several processes."""
    total: Counter[str] = Counter()
    least_ms = 10**9
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for found in pool.imap(run, _chunks(start, count)):
            least_ms = min(least_ms, found.pop("least gap ms"))
            first = total["first seed"] or found.pop("first seed", 0)
            total.update(found)
            total["first seed"] = first
    total["least gap ms"] = least_ms
    return total


def figures(found: Counter[str], seconds: float) -> dict[str, int]:
    """What is kept of a run."""
    return {
        "partitions": found["partitions"],
        "partitions_per_second": round(found["partitions"] / seconds),
        "ran": found["ran"],
        "renewals": found["renewals"],
        "clock_rate_percent": CLOCK_RATE_PERCENT,
        "least_gap_ms": found["least gap ms"],
        "two_holders": found["two holders"],
    }


def main(argv: list[str]) -> int:
    """Exit code: 0 when no slot had two holders, 1 when one had."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.market_leases", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000_000, help="how many partitions")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--save", action="store_true", help="write the result to bench/results")
    asked = parser.parse_args(argv)
    shape, began_s = machine(), time.monotonic()
    found = campaign(asked.start, asked.seeds, asked.jobs)
    seconds = time.monotonic() - began_s
    print(f"partitions            {found['partitions']:,} ({found['partitions'] / seconds:,.0f} a second)")
    print(f"workloads that ran    {found['ran']:,}, renewals {found['renewals']:,}")
    print(f"clock rates           within {CLOCK_RATE_PERCENT} %")
    print(f"least time between    {found['least gap ms']:,} ms")
    print(f"two holders at once   {found['two holders']:,}")
    if found["two holders"]:
        first = found["first seed"] - 1
        print(f"the first of them     python -m tests.sim.market_leases --start {first} --seeds 1")
    if asked.save:
        command = f"python -m tests.sim.market_leases --start {asked.start} --seeds {asked.seeds}"
        print(f"written: {save('leases', command, shape, figures(found, seconds)).name}")
    return 1 if found["two holders"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
