"""Every hand-broken variant is caught by the checker that is there for it; a survivor fails by name."""

from __future__ import annotations

import pytest

from tests.sim.mutants import MUTANTS, Mutant, scenarios
from tests.sim.world import World


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.variant.name)
def test_mutant_is_caught(mutant: Mutant) -> None:
    """Seeds go by until the named checker complains."""
    others: set[str] = set()
    for seed, scenario in scenarios(mutant):
        world = World(seed, mutant.variant, scenario)
        world.stop_on = frozenset(mutant.caught_by)
        found = {checker for checker, _ in world.run().violations}
        if found & set(mutant.caught_by):
            return
        others |= found
    pytest.fail(
        f"{mutant.variant.name} survived {mutant.caught_by}; others complained: {sorted(others) or 'none'}"
    )
