"""A seed's market: its 3nodes and their clocks, what is ordered, approved, withdrawn and cancelled, and the
faults of 3nodes. The validators' part is a scenario of the simulator, stretched to leases' length."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

import msgspec

from ledger.contracts.types import Contract
from ledger.limits import RENEW_SLOTS_MAX
from ledger.manifests.types import Placement, Restart
from tests.ledger.world import contract, job, service
from tests.sim.market_change import change, versions
from tests.sim.market_people import Plan, Word
from tests.sim.market_trade import Deed, trade
from tests.sim.scenario import Fault, Scenario, make

ORDERS_UNTIL_MS: Final = 25_000
PAST: Final = "past"  # the lie of a leader that dates its blocks from their parents' time


@dataclass(frozen=True, slots=True)
class Trouble:
    """What befalls one 3node: `kind` at `at_ms`, for `for_ms`. `members`: whom a cut keeps from it; `by_ms`:
    how far its wall clock jumps."""

    at_ms: int
    kind: str
    node: int
    for_ms: int
    members: frozenset[int] = frozenset()
    by_ms: int = 0


@dataclass(slots=True)
class MarketScenario:
    """All that is random, but single messages' fates."""

    network: Scenario
    rates_ppm: tuple[int, ...]  # of the 3nodes
    cpu_millis: tuple[int, ...]
    plans: tuple[Plan, ...]
    loss: float
    latency_ms: tuple[int, int]
    troubles: list[Trouble] = field(default_factory=list)
    deeds: tuple[Deed, ...] = ()
    changes: tuple[Deed, ...] = ()
    renewed_at_once: int = RENEW_SLOTS_MAX  # terms in one renewal


def make_market(seed: int) -> MarketScenario:
    """The market of a seed."""
    rng = Random(f"market/{seed}")
    network = _network(seed, rng)
    count = rng.randint(3, 5)
    scenario = MarketScenario(
        network=network,
        rates_ppm=tuple(
            1_000_000 + rng.choice((-10_000, 10_000, rng.randint(-9_000, 9_000))) for _ in range(count)
        ),
        cpu_millis=tuple(rng.choice((500, 1_000, 2_000)) for _ in range(count)),
        plans=tuple(_plan(rng, number) for number in range(rng.randint(2, 3))),
        loss=rng.choice((0.0, 0.02, 0.2)),
        latency_ms=rng.choice(((1, 5), (5, 60), (50, 400))),
    )
    for _ in range(rng.randint(6, 12)):
        scenario.troubles.append(_trouble(rng, scenario))
    scenario.troubles.sort(key=lambda trouble: trouble.at_ms)
    if is_changing(seed):
        change(Random(f"change/{seed}"), scenario)
    trade(Random(f"trade/{seed}"), scenario)
    if is_changing(seed):
        scenario.plans = tuple(versions(plan) for plan in scenario.plans)
    else:
        scenario.renewed_at_once = 2  # so few that a node has several under way
    return scenario


def changing_market(seed: int) -> MarketScenario:
    """One of those where something does."""
    return make_market(seed // 2 * 5 + 3 + seed % 2)


def is_changing(seed: int) -> bool:
    """Does anything change while it runs in this seed's market?"""
    return seed % 5 > 2


def _plain(seed: int, *words: Word) -> MarketScenario:
    """Four honest validators, four nodes of which two have slow clocks, one service, no faults."""
    scenario = make_market(seed)
    network = scenario.network
    network.weights, network.twin, network.faults, network.always_down = (1, 1, 1, 1), None, [], ()
    network.rates_ppm, network.wall_offsets_ms = (1_000_000,) * 4, (0,) * 4
    network.timing = replace(network.timing, timeout_max_ms=3_000, standstill_ms=1_000, idle_ms=1_000)
    network.faults_end_ms = 120_000
    web = service(replicas=2, placement=Placement(distinct="node"), restart=Restart(attempts=9))
    said = (Word(500, "budget"), Word(900, "legal"), *words)
    scenario.plans = (Plan(contract(web, name="site-0", duration_s=3600), 5_000, said),)
    scenario.rates_ppm, scenario.cpu_millis = (990_000, 990_000, 1_000_000, 1_000_000), (2_000,) * 4
    scenario.loss, scenario.latency_ms, scenario.troubles = 0.0, (1, 5), []
    scenario.deeds, scenario.changes = (), ()
    return scenario


def _cut(rng: Random, nodes: Iterable[int], at_ms: tuple[int, int], for_ms: int) -> list[Trouble]:
    """Nodes that reach nobody."""
    return [Trouble(rng.randint(*at_ms), "cut", node, for_ms, frozenset(range(4))) for node in nodes]


def full_market(seed: int) -> MarketScenario:
    """One node holds three times what a renewal carries, and nothing goes wrong."""
    scenario = _plain(seed)
    web = service(replicas=7, placement=Placement(distinct="none"))
    source = contract(web, name="site-0", duration_s=3600)
    scenario.plans = tuple(replace(plan, contract=source) for plan in scenario.plans)
    scenario.rates_ppm, scenario.cpu_millis = (990_000,), (4_000,)
    scenario.renewed_at_once = 2
    return scenario


def cut_market(seed: int) -> MarketScenario:
    """Holders with slow clocks are cut off while others are ready, and their wall clocks are set back."""
    scenario, rng = _plain(seed), Random(f"cut/{seed}")
    scenario.troubles = [
        *_cut(rng, rng.sample(range(4), 2), (30_000, 45_000), 70_000),
        *(Trouble(50_000, "wall", node, 0, by_ms=-40_000) for node in range(4)),
    ]
    return scenario


def late_market(seed: int) -> MarketScenario:
    """Nodes that claimed are cut off until half of what they won is over, and again when they have heard."""
    scenario, rng = _plain(seed), Random(f"late/{seed}")
    first = _cut(rng, range(4), (6_950, 7_900), rng.randint(15_000, 20_000))
    heard = ((cut.node, cut.at_ms + cut.for_ms + 350) for cut in first)
    again = [trouble for node, at_ms in heard for trouble in _cut(rng, [node], (at_ms, at_ms), 8_000)]
    scenario.troubles = first + again
    return scenario


def withdrawn_market(seed: int) -> MarketScenario:
    """An approval is withdrawn and given again while holders are cut off, and so know nothing of it."""
    scenario = _plain(seed, Word(40_000, "budget", "revoked"), Word(42_000, "budget"))
    scenario.troubles = _cut(Random(f"back/{seed}"), (seed % 4, (seed + 1) % 4), (38_000, 44_000), 60_000)
    return scenario


def leaving_market(seed: int) -> MarketScenario:
    """A holder tells that it leaves, and does."""
    scenario = _plain(seed)
    scenario.deeds = (Deed(25_000, "drain", seed),)
    return scenario


def refused_market(seed: int) -> MarketScenario:
    """A holder's notice to leave comes too late to count, since nothing is committed for a while; later both
    nodes start again, and each is needed."""
    scenario = _plain(seed)
    scenario.rates_ppm, scenario.cpu_millis = (990_000, 1_000_000), (2_000, 2_000)
    scenario.deeds = (Deed(25_500, "drain", seed),)
    scenario.network.faults = [Fault(25_000, "outage", 12_000)]
    scenario.troubles = [Trouble(60_000, "crash", node, 500) for node in range(2)]
    return scenario


def stalled_market(seed: int) -> MarketScenario:
    """Nothing is committed for a while; a Byzantine leader may date the first block after it, and renewals
    in it, from before. Then the holders are cut off."""
    scenario, rng = _plain(seed), Random(f"stall/{seed}")
    begin_ms, length_ms = rng.randint(45_000, 55_000), rng.randint(18_000, 24_000)
    scenario.network.twin, scenario.network.lie = rng.randrange(4), PAST
    scenario.network.faults = [Fault(begin_ms, "split", length_ms, (0, 1))]
    end_ms = begin_ms + length_ms
    scenario.troubles = _cut(rng, rng.sample(range(4), 2), (end_ms + 1_300, end_ms + 2_500), 60_000)
    return scenario


def running_on(scenario: MarketScenario, available_s: int) -> MarketScenario:
    """Its services without volumes may go on past their leases for so long."""

    def freed(source: Contract) -> Contract:
        work = (
            msgspec.structs.replace(one, available_s=available_s)
            if one.kind == "service" and not one.volumes
            else one
            for one in source.workloads
        )
        return msgspec.structs.replace(source, workloads=tuple(work))

    scenario.plans = tuple(
        replace(plan, contract=freed(plan.contract), later=tuple(map(freed, plan.later)))
        for plan in scenario.plans
    )
    return scenario


def available_market(seed: int) -> MarketScenario:
    """Any market, whose services go on for a while when they are cut off."""
    return running_on(make_market(seed), Random(f"available/{seed}").choice((10, 30, 60)))


def away_market(seed: int) -> MarketScenario:
    """What goes on for 30 s past its lease is cut off on two nodes, on one for less, on one for longer."""
    scenario, rng = running_on(_plain(seed), 30), Random(f"away/{seed}")
    short, long = rng.sample(range(4), 2)
    scenario.troubles = [
        *_cut(rng, [short], (30_000, 45_000), rng.randint(40_000, 48_000)),
        *_cut(rng, [long], (30_000, 40_000), 100_000),
    ]
    return scenario


def dark_market(seed: int) -> MarketScenario:
    """Nothing is committed for a minute, for longer than leases and their guard last; services go on."""
    scenario, rng = running_on(_plain(seed), 90), Random(f"dark/{seed}")
    scenario.network.faults = [Fault(rng.randint(30_000, 45_000), "outage", 60_000)]
    return scenario


def _network(seed: int, rng: Random) -> Scenario:
    """A quiet network of validators with few faults, for long enough that leases end."""
    scenario = make(seed)
    until_ms = rng.randint(110_000, 170_000)
    stretch = until_ms / scenario.faults_end_ms
    scenario.timing = replace(scenario.timing, idle_ms=1_000)
    scenario.batch_every_ms = 8_000
    scenario.faults = [_later(fault, stretch) for fault in scenario.faults[:5]]
    scenario.faults_end_ms = until_ms
    if rng.random() < 0.2:  # nobody commits for a while
        scenario.faults.append(Fault(rng.randint(30_000, 60_000), "outage", rng.randint(5_000, 40_000)))
    scenario.faults.sort(key=lambda fault: fault.at_ms)
    return scenario


def _later(fault: Fault, stretch: float) -> Fault:
    return Fault(int(fault.at_ms * stretch), fault.kind, fault.for_ms, fault.who, fault.rate, fault.point)


def _sample(rng: Random, number: int) -> Contract:
    distinct = rng.choice(("none", "node", "farm"))
    web = service(replicas=2, placement=Placement(distinct=distinct), restart=Restart(attempts=2))
    work = job(restart=Restart(attempts=2))
    workloads = rng.choice(((web,), (work,), (web, work)))
    return contract(*workloads, name=f"site-{number}", duration_s=3600)


def _plan(rng: Random, number: int) -> Plan:
    """Mostly approved within seconds; sometimes late, withdrawn and granted again, or never complete."""
    words = [Word(rng.randint(200, 6_000), "budget", again_ms=rng.choice((0, 3_000, 30_000)))]
    second = rng.choice(("it-expert", "legal"))
    if rng.random() < 0.9:
        words.append(Word(rng.choice((rng.randint(200, 6_000), rng.randint(10_000, 40_000))), second))
    if rng.random() < 0.6:
        revoked_ms = rng.randint(30_000, 80_000)
        words.append(Word(revoked_ms, "budget", "revoked", again_ms=rng.choice((0, 20_000))))
        granted_ms = revoked_ms + rng.choice((1_500, 6_000, 30_000))
        words.append(Word(granted_ms, "budget"))
    if rng.random() < 0.5:
        words.append(Word(rng.randint(40_000, 90_000), "it-expert", act="signoff"))
    cancel_ms = rng.randint(40_000, 100_000) if rng.random() < 0.25 else 0
    return Plan(_sample(rng, number), rng.randint(5_000, ORDERS_UNTIL_MS), tuple(words), cancel_ms)


def _trouble(rng: Random, scenario: MarketScenario) -> Trouble:
    node = rng.randrange(len(scenario.rates_ppm))
    at_ms = rng.randint(15_000, scenario.network.faults_end_ms - 1_000)
    members = range(len(scenario.network.weights))
    match rng.choice(("cut", "cut", "cut", "some", "crash", "crash", "pause", "wall")):
        case "cut":
            return Trouble(at_ms, "cut", node, rng.choice((9_000, 35_000, 60_000)), frozenset(members))
        case "some":
            some = frozenset(m for m in members if rng.random() < 0.6)
            return Trouble(at_ms, "cut", node, rng.randint(1_000, 60_000), some)
        case "crash":
            return Trouble(at_ms, "crash", node, rng.choice((500, 5_000, 50_000)))
        case "pause":
            return Trouble(at_ms, "pause", node, rng.choice((300, 4_000, 25_000, 50_000)))
        case _:
            return Trouble(at_ms, "wall", node, 0, by_ms=rng.choice((-40_000, -3_000, 3_000, 40_000)))
