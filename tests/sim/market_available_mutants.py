"""Ledgers and 3nodes that break a rule of what is `available` (E9, L4, rule 8 of leases), each caught by the
checker that is there for it; as `tests.sim.market_mutants`."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import ledger.transition.leases
from tests.sim.market_mutants import DeafToTheLedger, ledger_mutant
from tests.sim.market_node import MarketNode
from tests.sim.market_scenario import (
    MarketScenario,
    away_market,
    cut_market,
    dark_market,
    late_market,
    running_on,
)
from tests.sim.market_tenure import MarketTenure


class OtherSpan(MarketNode):
    """What may run on does so for another time."""

    def beyond_ms(self, tenure: MarketTenure) -> int:
        return tenure.lease.beyond_ms

    def _tick(self) -> None:
        for tenure in self.tenures.values():
            tenure.lease = replace(tenure.lease, beyond_ms=self.beyond_ms(tenure))
        super()._tick()


class NeverStops(OtherSpan):
    """What is available runs on until it hears something."""

    def beyond_ms(self, tenure: MarketTenure) -> int:
        return 1 << 60 if tenure.workload.available_s else 0


class AllRunOn(OtherSpan):
    """Everything is taken for available."""

    def beyond_ms(self, tenure: MarketTenure) -> int:
        return 30_000


class StopsAll(OtherSpan):
    """Nothing is."""

    def beyond_ms(self, tenure: MarketTenure) -> int:
        return 0


class StartsAnyHow(MarketNode):
    """What is available begins its term, too, as long as it might run."""

    def _take_wins(self) -> None:
        super()._take_wins()
        for tenure in self.tenures.values():
            tenure.restarts = max(1, tenure.restarts)


def late_available_market(seed: int) -> MarketScenario:
    """Nodes hear late of what they won, which may run on."""
    return running_on(late_market(seed), 30)


_away = away_market
AVAILABLE_MUTANTS: Final = (
    ledger_mutant("what_is_available_never_stops", ("Leases",), node=NeverStops, scenario=_away),
    ledger_mutant("what_is_available_stops", ("Leases",), node=StopsAll, scenario=_away),
    ledger_mutant("what_is_available_hears_nothing", ("Told",), node=DeafToTheLedger, scenario=_away),
    ledger_mutant("everything_is_available", ("OneHolder", "Leases"), node=AllRunOn, scenario=cut_market),
    ledger_mutant(
        "what_is_available_starts_late", ("Leases",), node=StartsAnyHow, scenario=late_available_market
    ),
    ledger_mutant(
        "an_outage_moves_what_runs_on",
        ("Outages",),
        (ledger.transition.leases, "_runs_on", lambda *_: False),
        scenario=dark_market,
    ),
)
