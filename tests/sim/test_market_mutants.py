"""Every hand-broken market is caught by the checker that is there for it; a survivor fails by name."""

from __future__ import annotations

import pytest

from tests.sim.market import MarketWorld
from tests.sim.market_available_mutants import AVAILABLE_MUTANTS
from tests.sim.market_change_mutants import CHANGE_MUTANTS
from tests.sim.market_mutants import MARKET_MUTANTS, MarketMutant
from tests.sim.market_trade_mutants import TRADE_MUTANTS

ALL = (*MARKET_MUTANTS, *TRADE_MUTANTS, *CHANGE_MUTANTS, *AVAILABLE_MUTANTS)


@pytest.mark.parametrize("mutant", ALL, ids=lambda m: m.variant.name)
def test_market_mutant_is_caught(mutant: MarketMutant) -> None:
    """Seeds go by until the named checker complains."""
    others: set[str] = set()
    for seed in range(mutant.start, mutant.start + mutant.seeds):
        world = MarketWorld(seed, mutant.variant, mutant.scenario(seed))
        world.stop_on = frozenset(mutant.caught_by)
        found = {checker for checker, _ in world.run().violations}
        if found & set(mutant.caught_by):
            return
        others |= found
    pytest.fail(
        f"{mutant.variant.name} survived {mutant.caught_by}; others complained: {sorted(others) or 'none'}"
    )
