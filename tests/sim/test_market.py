"""Claims and leases on simulated networks, a short run; `python -m tests.sim.market` has the long one."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import ledger.transition
from ledger.keys import Key
from ledger.records import key_node
from ledger.rules import RULES as REFUSED
from ledger.transactions import Body, RegisterFarm
from tests.ledger.world import FARMS
from tests.sim.market import MarketVariant, MarketWorld, main, run
from tests.sim.market_coverage import COUNTED, EVENTS, REFUSALS, RULES
from tests.sim.market_node import MarketNode
from tests.sim.market_people import Office
from tests.sim.market_scenario import (
    MarketScenario,
    available_market,
    away_market,
    changing_market,
    cut_market,
    dark_market,
    full_market,
    late_market,
    leaving_market,
    make_market,
    refused_market,
    stalled_market,
    withdrawn_market,
)
from tests.sim.market_tenure import MarketTenure
from tests.sim.market_trade import KINDS

SEEDS = range(4)
CHANGING = (3, 4, 8, 13, 28)
once = functools.cache(run)


@pytest.mark.parametrize("seed", SEEDS)
def test_market(seed: int) -> None:
    """No checker complains, of the network's and of the market's; something ran."""
    result, counts = once(seed)
    assert result.violations == []
    assert counts["started"] > 0


def test_markets_see_what_leases_are_for() -> None:
    """The seeds above have wins and losses, renewals, leases that end, and what a restart gives back."""
    counts: Counter[str] = Counter()
    for seed in SEEDS:
        counts += once(seed)[1]
    wanted = ("claim won", "claim lost", "renewal final", "lease ended here", "orphan given back")
    assert [what for what in wanted if not counts[what]] == []


def test_markets_see_trade() -> None:
    """And money and time added, complaints, certificates, consents, nodes that leave."""
    counts: Counter[str] = Counter()
    for seed in SEEDS:
        counts += once(seed)[1]
    wanted = ("topped up", "extended", "dispute", "certified", "uncertified", "drain", "left")
    assert [what for what in wanted if not counts[what]] == []


def test_markets_see_changes() -> None:
    """And updates that are done or undone, results that replicas agree on and that are released, copies of
    volumes, members that are others; nothing is wrong in any of it."""
    counts: Counter[str] = Counter()
    for seed in CHANGING:
        result, found = once(seed)
        assert result.violations == []
        counts += found
    wanted = (
        *("U9 done", "U8 reverted", "R8 agreed", "Y7 released", "Y7 handed out"),
        *("C13 copies recorded", "C16 moved with all of it", "C18 copy restored", "N2 changed", "N3 rotated"),
        *("refusal approval.other_results", "refusal copies.not_holder", "refusal update.not_yours"),
    )
    assert [what for what in wanted if not counts[what]] == []


def test_each_rule_has_a_count_of_its_own() -> None:
    """Events that no code tells of any more, or that two rules share, would never be missed."""
    told = "".join(file.read_text() for file in Path(ledger.transition.__file__).parent.glob("*.py"))
    ends = {kind.partition(".")[2] for kind in EVENTS.values()}
    assert len(RULES) == len(set(RULES)) == len(EVENTS) + len(COUNTED) + len(REFUSALS)
    assert len(set(EVENTS.values())) == len(EVENTS)
    assert set(REFUSALS) <= set(REFUSED)
    assert [end for end in ends if end not in told] == []


def test_a_long_run_without_a_rule_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two seeds count as a long run here, and do not see all rules."""
    monkeypatch.setattr("tests.sim.market.LONG", 1)
    assert main(["--seed", "2"]) == 1
    assert "rules that never fired" in capsys.readouterr().out


@pytest.mark.parametrize("seed", [1, 3])
def test_same_seed_same_market(seed: int) -> None:
    """A seed replays exactly."""
    first, again = once(seed)[0], run(seed)[0]
    assert (first.trace, first.events, first.height) == (again.trace, again.events, again.height)
    assert once(seed)[1] == run(seed)[1]


def test_scenarios_hold_every_trouble() -> None:
    scenarios = [make_market(seed) for seed in range(100)]
    kinds = {trouble.kind for scenario in scenarios for trouble in scenario.troubles}
    assert kinds == {"cut", "crash", "pause", "wall"}
    assert {990_000, 1_010_000} <= {rate for scenario in scenarios for rate in scenario.rates_ppm}
    acts = {(word.act, word.decision) for s in scenarios for plan in s.plans for word in plan.words}
    deploys = {("deploy", "granted"), ("deploy", "revoked")}
    assert acts == deploys | {("signoff", "granted"), ("delete", "granted")}
    assert {deed.kind for scenario in scenarios for deed in scenario.deeds} == set(KINDS)
    assert any(plan.cancel_ms for s in scenarios for plan in s.plans)


@pytest.mark.parametrize(
    "make",
    [cut_market, late_market, withdrawn_market, stalled_market, leaving_market, available_market],
)
def test_hard_markets(make: Callable[[int], MarketScenario]) -> None:
    """Where mutants are caught, production is not: holders that are cut off, claims that are late, approvals
    that come back, a leader that dates renewals from before they were sent."""
    world = MarketWorld(2, scenario=make(2))
    assert world.run().violations == []
    assert world.market.counts["started"] >= 2


def test_what_is_available_runs_on_where_it_is_cut_off() -> None:
    """[E9] For as long as it may, beside its next holder if need be: who is cut off for less stops nothing by
    the clock, who is cut off for longer does."""
    short: Counter[str] = Counter()
    long: Counter[str] = Counter()
    for seed in (0, 3):
        for counts, is_long in ((short, False), (long, True)):
            scenario = away_market(seed)
            scenario.troubles = [cut for cut in scenario.troubles if (cut.for_ms > 60_000) == is_long]
            world = MarketWorld(seed, scenario=scenario)
            assert world.run().violations == []
            counts += world.market.counts
    assert short["E9 ran on past its lease"] and not short["lease ended here"]
    assert long["E9 ran on past its lease"] and long["lease ended here"]
    assert short["E9 ran beside its next holder"]


def test_what_is_available_is_not_moved_for_an_outage() -> None:
    """[L4] Leases end while nothing is committed, and all goes on where it was."""
    world = MarketWorld(2, scenario=dark_market(2))
    assert world.run().violations == []
    counts = world.market.counts
    assert counts["E9 ran on past its lease"] == 2
    assert not counts["L3 lost"] and not counts["lease ended here"]


class AsksForAll(MarketNode):
    """Takes what it holds for asked for with the first renewal, which carries a part of it."""

    def asked_for(self, terms: list[MarketTenure], held: list[MarketTenure]) -> list[MarketTenure]:
        return held


@pytest.mark.parametrize("kind", [MarketNode, AsksForAll])
def test_a_node_with_more_than_one_renewal_carries_keeps_it_all(kind: type[MarketNode]) -> None:
    """Rule 3: several renewals, none of which waits for another."""
    world = MarketWorld(2, MarketVariant(kind.__name__, kind), full_market(2))
    assert world.run().violations == []
    counts = world.market.counts
    assert counts["started"] >= 7
    assert bool(counts["several renewals under way"]) == (kind is MarketNode)
    assert bool(counts["L3 lost"] + counts["lease ended here"]) == (kind is AsksForAll)


def test_who_may_not_leave_offers_on() -> None:
    """A notice that the ledger refused withdraws nothing: the node's offer stands, so it claims again."""
    world = MarketWorld(2, scenario=refused_market(2))
    assert world.run().violations == []
    assert world.market.counts["refusal drain.notice"] == 1
    assert world.market.counts["started"] >= 4


def test_an_update_is_done_without_replicas_that_were_left_behind() -> None:
    """[R8] Enough agree, so that nobody waits for the others: no checker takes that for a fault."""
    world = MarketWorld(65, scenario=changing_market(65))
    assert world.run().violations == []
    assert world.market.counts["U9 done"] and world.market.counts["R8 agreed"]


def test_a_job_whose_update_is_reverted_is_done_anew() -> None:
    """[Y10] Before its replicas had committed to anything: no checker counts what they told before."""
    result, counts = once(64)
    assert result.violations == []
    assert counts["U8 reverted"] and counts["R8 none agree"]


def test_nodes_are_registered_when_all_their_farms_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever farm comes last, no node is left out of the market."""
    send_as = Office.send_as

    def late(office: Office, key: Key, body: Body) -> None:
        is_first = isinstance(body, RegisterFarm) and body.name == FARMS[0][0]
        office.later(4_000 if is_first else 0, send_as, office, key, body)

    monkeypatch.setattr(Office, "send_as", late)
    world = MarketWorld(2, scenario=leaving_market(2))
    assert world.run().violations == []
    keys = [key_node(node.key.public) for node in world.market.nodes]
    assert all(world.market.chronicle.state.get(key) for key in keys)


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "1", "--start", "2", "--jobs", "1"]) == 0
    assert "simulated time" in capsys.readouterr().out
