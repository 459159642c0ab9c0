"""Claims and leases on simulated networks, a short run; `python -m tests.sim.market` has the long one."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable

import pytest

from tests.sim.market import MarketWorld, main, run
from tests.sim.market_scenario import (
    MarketScenario,
    cut_market,
    late_market,
    leaving_market,
    make_market,
    stalled_market,
    withdrawn_market,
)
from tests.sim.market_trade import KINDS

SEEDS = range(4)
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


def test_same_seed_same_market() -> None:
    """A seed replays exactly."""
    first, again = once(1)[0], run(1)[0]
    assert (first.trace, first.events, first.height) == (again.trace, again.events, again.height)


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


@pytest.mark.parametrize("make", [cut_market, late_market, withdrawn_market, stalled_market, leaving_market])
def test_hard_markets(make: Callable[[int], MarketScenario]) -> None:
    """Where mutants are caught, production is not: holders that are cut off, claims that are late, approvals
    that come back, a leader that dates renewals from before they were sent."""
    world = MarketWorld(2, scenario=make(2))
    assert world.run().violations == []
    assert world.market.counts["started"] >= 2


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "1", "--start", "2", "--jobs", "1"]) == 0
    assert "simulated time" in capsys.readouterr().out
