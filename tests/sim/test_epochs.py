"""Validators join, leave and change weight under all faults; each broken variant of rule 12 is caught."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.sim.epoch_mutants import EPOCH_MUTANTS, EpochMutant, scenarios
from tests.sim.epochs import EpochWorld, make_epochs, run

SEEDS = (3_000, 3_001, 3_002, 3_036)


def test_the_set_changes_under_all_faults() -> None:
    """No checker complains; members joined, left and lagged; certificates named blocks of a tail."""
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        result = run(seed)
        assert result.violations == []
        seen.update(result.faults)
    wanted = ("boundary", "turned", "joined", "left", "early", "late")
    assert all(seen[f"epoch.{what}"] >= 10 for what in wanted), seen
    assert seen["epoch.cut"] >= 3


def test_same_seed_same_run() -> None:
    first, again = run(3_001), run(3_001)
    assert (first.trace, first.events) == (again.trace, again.events)


def test_real_signatures() -> None:
    """With Ed25519 everywhere, changes of the set too."""
    assert run(3_006, ed25519=True).violations == []


def test_byzantine_leaders_lie_about_the_next_set() -> None:
    """One names a set of nobody, one leaves the pending set out; nobody follows them."""
    named, left_out = run(432), run(388)
    assert (make_epochs(432).lie, make_epochs(388).lie) == ("next", "leaves_out")
    assert named.violations == left_out.violations == []
    assert named.coverage.alarms["block.next_validators"] > 0


def test_a_set_bears_its_faulty_members() -> None:
    """No founding set has a Byzantine member or one that is down for ever beyond what it tolerates."""
    for seed in range(60):
        world = EpochWorld(seed)
        scenario = make_epochs(seed)
        chosen = world.founders()
        bad = {m for m in chosen if m == scenario.twin or m in scenario.always_down}
        assert 3 * sum(scenario.weights[m] for m in bad) < sum(scenario.weights[m] for m in chosen)


@pytest.mark.parametrize("mutant", EPOCH_MUTANTS, ids=lambda m: m.variant.name)
def test_epoch_mutant_is_caught(mutant: EpochMutant) -> None:
    """Seeds go by until the named checker complains."""
    others: set[str] = set()
    for seed, scenario in scenarios(mutant):
        world = EpochWorld(seed, mutant.variant, scenario=scenario)
        world.stop_on = frozenset(mutant.caught_by)
        found = {checker for checker, _ in world.run().violations}
        if found & set(mutant.caught_by):
            return
        others |= found
    pytest.fail(
        f"{mutant.variant.name} survived {mutant.caught_by}; others complained: {sorted(others) or 'none'}"
    )
