"""`python -m tests.sim.market --seeds 20`: contracts, approvals, claims and leases on simulated networks.

A world of the simulator (validators with production's core and ledger, and their faults) with 3nodes, a 3bot
and people on top. The market's checkers compare what really ran, in true time, with what the ledger says.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

import ledger.transition.agreement
from consensus.core import Core
from ledger import keys
from ledger.errors import LocalError
from ledger.records import Deployment, Slot, key_slot
from ledger.state import read
from ledger.transition.deal import RUNS
from node.executor.decide import SlotId
from node.executor.lease import LeaseClock
from tests.ledger.world import PEOPLE
from tests.sim.market_approved import Approved
from tests.sim.market_board import Ring
from tests.sim.market_chain import Chronicle
from tests.sim.market_change import Changer
from tests.sim.market_change_checkers import CHANGE_CHECKERS
from tests.sim.market_checkers import MARKET_CHECKERS, MarketChecker
from tests.sim.market_coverage import RULES, fired
from tests.sim.market_follow import Followed
from tests.sim.market_node import MarketNode
from tests.sim.market_peer import MarketPeer
from tests.sim.market_people import Bot, Office, Plan
from tests.sim.market_result_checkers import RESULT_CHECKERS
from tests.sim.market_scenario import PAST, MarketScenario, Trouble, make_market
from tests.sim.market_trade import Trader
from tests.sim.market_trade_checkers import TRADE_CHECKERS
from tests.sim.node import Clock, SimNode
from tests.sim.world import GENESIS_MS, PROBE_MS, Result, Variant, World

HEAL_MS: Final = 110_000  # two leases, their guards, and what it takes to claim and start
SETTLE_MS: Final = 5_000
LONG: Final = 100  # seeds: a run of so many must see every rule fire
Patch = tuple[Any, str, Any]
"""Module or class, attribute, what stands there instead while a world runs."""
QUICKER: Final[tuple[Patch, ...]] = (
    (ledger.transition.agreement, "STRAGGLER_MS_MIN", 10_000),
    (ledger.transition.agreement, "REVEAL_MS", 30_000),
)
"""Waits that would be longer than a market's life."""
CHECKERS: Final = (*MARKET_CHECKERS, Approved, *TRADE_CHECKERS, *CHANGE_CHECKERS, *RESULT_CHECKERS)


@dataclass(frozen=True, slots=True)
class MarketVariant:
    """What is run: production, or a mutant."""

    name: str = "production"
    node: type[MarketNode] = MarketNode
    patches: tuple[Patch, ...] = ()


class Market:
    """All peers on top of one network of validators, and what they do to each other."""

    def __init__(self, world: MarketWorld, scenario: MarketScenario, variant: MarketVariant) -> None:
        self.world, self.scenario = world, scenario
        self.rng = Random(f"fates/{world.result.seed}")
        self.loss = scenario.loss
        self.counts: Counter[str] = Counter()
        self.chronicle = Chronicle(world.genesis)
        self.heights: dict[int, int] = {}  # of validators
        self.plans = scenario.plans
        self.ordered: dict[bytes, Plan] = {}
        self.followed = Followed(self.chronicle, self.plans)
        self.ring = Ring(Random(f"ring/{world.result.seed}"))
        self.checkers: list[MarketChecker] = [kind(self) for kind in CHECKERS]
        self.nodes = [
            variant.node(self, f"n{i}", keys.Key(bytes([3, i]) * 16), self._clock(rate), cpu)
            for i, (rate, cpu) in enumerate(zip(scenario.rates_ppm, scenario.cpu_millis, strict=True))
        ]
        self.office = Office(self, "office", keys.Key(bytes([4, 0]) * 16), self._clock(1_000_000))
        self.bot = Bot(self, self._clock(1_000_000))
        clock = Clock(1_000_000, 0, GENESIS_MS + 1_000)  # without a random number of this market
        self.trader = Trader(self, "trade", keys.Key(bytes([4, 1]) * 16), clock)
        self.changer = Changer(self, "change", keys.Key(bytes([4, 2]) * 16), replace(clock))

    def _clock(self, rate_ppm: int) -> Clock:
        return Clock(rate_ppm, self.rng.randint(0, 10**6), GENESIS_MS + 1_000)

    def start(self) -> None:
        """Everybody starts; troubles are on their way."""
        for peer in self.peers():
            peer.boot()
        for trouble in self.scenario.troubles:
            self.world.at(trouble.at_ms * 1_000, None, self._begin, trouble)

    def peers(self) -> list[MarketPeer]:
        peers: list[MarketPeer] = [self.office, self.bot, *self.nodes]
        peers += [self.trader] if self.scenario.deeds else []
        return [*peers, self.changer] if self.scenario.changes else peers

    def nodes_of(self, keys: Iterable[bytes]) -> list[MarketNode]:
        """The 3nodes that have these keys."""
        wanted = set(keys)
        return [node for node in self.nodes if node.key.public in wanted]

    def latency_ms(self) -> int:
        return self.rng.randint(*self.scenario.latency_ms)

    def count(self, what: str) -> None:
        """For the table."""
        self.counts[what] += 1

    # ------------------------------------------------------------------ told

    def committed(self, node: SimNode, block: Any) -> None:
        """A validator that is honest has a block on disk."""
        self.heights[node.id] = block.header.height
        if block.header.height == self.chronicle.height + 1:
            final = self.chronicle.append(block.header, block.batches, self.world.now_us)
            self.followed.final(final)
            fired(self.counts, final)
            for checker in self.checkers:
                checker.final(final)

    def sent(self, peer: MarketPeer, tx_id: bytes, raw: bytes) -> None:
        for checker in self.checkers:
            checker.sent(peer, tx_id, raw)

    def started(self, node: MarketNode, slot_id: SlotId, term: int, lease: LeaseClock) -> None:
        """Bytes of the workload run from now on."""
        self.count("started")
        if self.world.log:
            self.world.log(f"    {node.name} starts {slot_id[1]} of {slot_id[0].hex()[:8]} term {term}")
        for checker in self.checkers:
            checker.started(node, slot_id, term)

    def stopped(self, node: MarketNode, slot_id: SlotId, term: int) -> None:
        """Nothing of it runs any more."""
        if self.world.log:
            self.world.log(f"    {node.name} stopped {slot_id[1]} of {slot_id[0].hex()[:8]} term {term}")
        for checker in self.checkers:
            checker.stopped(node, slot_id, term)

    def lease_over(self, node: MarketNode, slot_id: SlotId, term: int) -> None:
        """Its holder's guard stops a term by the clock."""
        self.count("lease ended here")
        for checker in self.checkers:
            checker.lease_over(node, slot_id, term)

    def resumed(self, node: MarketNode) -> None:
        for checker in self.checkers:
            checker.resumed(node)

    def handed_out(self, node: MarketNode, deployment: bytes, results: bytes) -> None:
        """A node gives results that were held back to whoever asks, from now on."""
        for checker in self.checkers:
            checker.handed_out(node, deployment, results)

    # ------------------------------------------------------------------ troubles

    def _begin(self, trouble: Trouble) -> None:
        node = self.nodes[trouble.node]
        until_us = self.world.now_us + trouble.for_ms * 1_000
        self.world.result.faults[f"3node.{trouble.kind}"] += 1
        match trouble.kind:
            case "cut":
                node.cut = trouble.members
                self.world.at(until_us, None, self._joined, node, trouble.members)
            case "crash":
                node.crash()
                self.world.at(until_us, None, self._boot, node)
            case "pause":
                if node.up:
                    node.sleep(until_us)
                    self.world.at(until_us, None, self._resumed, node, node.life)
            case "wall":
                node.clock.wall_ms += trouble.by_ms

    def _joined(self, node: MarketNode, members: frozenset[int]) -> None:
        if node.cut == members:
            node.cut = frozenset()

    def _boot(self, node: MarketNode) -> None:
        node.boot()

    def _resumed(self, node: MarketNode, life: int) -> None:
        if node.up and node.life == life and not node.is_paused:
            self.resumed(node)

    def heal(self) -> None:
        """No more troubles."""
        self.loss = 0.0
        for node in self.nodes:
            node.cut = frozenset()
            node.boot()

    def missing(self) -> str | None:
        """What is still awaited after the faults: every slot that may run does, or finds no place."""
        state = self.chronicle.state
        for peer in self.peers():
            if peer.is_paused:
                return f"{peer.name} is paused"
        for node in self.nodes:
            late = [t.id[1] for t in node.tenures.values() if t.is_stopping and t.lease.beyond_ms]
            if late:  # it has just heard that it holds them no more
                return f"{node.name} stops {', '.join(late)}"
        for deployment in self.ordered:
            record = read(state, Deployment, b"deployment/" + deployment)
            if record is None:
                return f"order {deployment.hex()[:8]} is not final"
            for name in record.slots if record.status in RUNS else ():
                slot = read(state, Slot, key_slot(deployment, name))
                assert slot is not None
                if slot.holder and slot.status != "running":
                    return f"{name} of {deployment.hex()[:8]} is {slot.status}"
                bad = slot.next and self.followed.is_bad(slot.next, name)
                if slot.status == "open" and not bad and self._has_room(deployment, name):
                    return f"{name} of {deployment.hex()[:8]} is open, and there is room"
        return None

    def _has_room(self, deployment: bytes, name: str) -> bool:
        """Would the ledger take a claim of one of the nodes that are up?"""
        return any(node.up and node.could_claim(self.chronicle, (deployment, name)) for node in self.nodes)


class PastLiar(Core):
    """A leader that says no time has passed since its block's parent."""

    def _propose(self) -> None:
        true_ms, self._wall_ms = self._wall_ms, 0
        super()._propose()
        self._wall_ms = true_ms


class MarketWorld(World):
    """A world with a market on top."""

    def __init__(
        self,
        seed: int,
        variant: MarketVariant = MarketVariant(),
        scenario: MarketScenario | None = None,
        network: Variant | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self.market_variant = variant
        self.market_scenario = scenario or make_market(seed)
        super().__init__(seed, network or Variant(), self.market_scenario.network, log=log)

    def core_of(self, node: SimNode) -> type[Core]:
        if self.scenario.lie == PAST and not node.is_honest:
            return PastLiar
        return super().core_of(node)

    def accounts(self) -> dict[str, int]:
        rich = {key.public.hex(): 10_000_000_000 for key in PEOPLE}
        return super().accounts() | rich

    def build(self) -> None:
        super().build()
        self.market = Market(self, self.market_scenario, self.market_variant)
        self.at(0, None, self.market.start)

    def run(self) -> Result:
        with ExitStack() as stack:
            for owner, name, value in (*QUICKER, *self.market_variant.patches):
                stack.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, value)
            result = super().run()
            for checker in self.market.checkers:
                checker.end()
        return result

    def committed(self, node: SimNode, block: Any) -> None:
        super().committed(node, block)
        if self.is_honest(node.member):
            try:
                self.market.committed(node, block)
            except LocalError as error:
                self.report("StateMachine", f"{error}")
                self.stopped = True

    def _heal(self) -> None:
        super()._heal()
        self.market.heal()

    def _probe(self, since_us: int) -> None:
        passed_ms = (self.now_us - since_us) // 1_000
        missing = self.market.missing()
        if missing is None and passed_ms > SETTLE_MS:
            super()._probe(since_us)
        elif passed_ms > HEAL_MS:
            self.report("Settled", f"{passed_ms} ms after the faults ended: {missing}")
            self.stopped = True
        else:
            self.at(self.now_us + 10 * PROBE_MS * 1_000, None, self._probe, since_us)


def run(seed: int) -> tuple[Result, Counter[str]]:
    """One seed of production: what was found, and how often what happened."""
    world = MarketWorld(seed)
    return world.run(), world.market.counts


def _table(results: list[tuple[Result, Counter[str]]], seconds: float) -> str:
    counts: Counter[str] = Counter()
    for result, found in results:
        counts += found + result.faults
    simulated_s = sum(r.simulated_ms for r, _ in results) / 1_000
    rows = [
        ("seeds", f"{len(results)}"),
        ("events", f"{sum(r.events for r, _ in results):,}"),
        ("blocks", f"{sum(r.height for r, _ in results):,}"),
        ("simulated time", f"{simulated_s / 3_600:.2f} h ({simulated_s / seconds:,.1f} h an hour)"),
        *((f"rule {rule}", f"{counts.pop(rule, 0):,}") for rule in RULES),
        *((name, f"{count:,}") for name, count in sorted(counts.items())),
        ("rules that never fired", ", ".join(_never(results)) or "none"),
        ("violations", f"{sum(len(r.violations) for r, _ in results)}"),
    ]
    return "\n".join(f"{name:<44} {value}" for name, value in rows)


def _never(results: list[tuple[Result, Counter[str]]]) -> list[str]:
    return [rule for rule in RULES if not any(counts[rule] for _, counts in results)]


def main(argv: list[str]) -> int:
    """Exit code: 0 clean, 1 violations (printed, with the command that replays each), or a rule that never
    fired in a long run."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.market", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds")
    parser.add_argument("--start", type=int, default=0, help="the first one")
    parser.add_argument("--seed", type=int, help="this one only, with a trace")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    asked = parser.parse_args(argv)
    began_s = time.monotonic()
    if asked.seed is not None:
        world = MarketWorld(asked.seed, log=print)
        results = [(world.run(), world.market.counts)]
    else:
        seeds = range(asked.start, asked.start + asked.seeds)
        with multiprocessing.get_context("spawn").Pool(max(1, min(asked.jobs, len(seeds)))) as pool:
            results = list(pool.imap(functools.partial(run), seeds, chunksize=1))
    print(_table(results, time.monotonic() - began_s))
    bad = [result for result, _ in results if result.violations]
    for result in bad:
        print(f"\nseed {result.seed}: replay with  python -m tests.sim.market --seed {result.seed}")
        for checker, what in result.violations:
            print(f"  {checker}: {what}")
    return 1 if bad or (len(results) >= LONG and _never(results)) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
