"""The budget of faults: never does more weight fail than a set in force, or about to be, can bear."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ledger.proofs.certificate import Validator, ValidatorSet
from ledger.proofs.quorum import tolerated
from tests.sim.clients import small_pool
from tests.sim.crypto import fast_signatures
from tests.sim.epochs import EpochFaults, EpochWorld, make_epochs
from tests.sim.run import one
from tests.sim.scenario import Fault


@contextmanager
def seven(*founders: int) -> Iterator[EpochWorld]:
    """Seven honest nodes of weight 1, all up, in epoch 0 with these founders; time 0."""
    scenario = make_epochs(1)
    scenario.weights, scenario.twin, scenario.lie, scenario.always_down = (1,) * 7, None, "nothing", ()
    scenario.faults = []

    class Founded(EpochWorld):
        def founders(self) -> tuple[int, ...]:
            return founders

    world = Founded(1, scenario=scenario)
    with fast_signatures(True), small_pool():
        world.build()
        for node in world.nodes:
            node.boot()
        yield world


def the_set(world: EpochWorld, epoch: int, *who: int) -> ValidatorSet:
    """A set of these nodes, weight 1 each."""
    return ValidatorSet(epoch, tuple(Validator(world.key_of[m].public, 1, f"v{m}") for m in who))


def harm(world: EpochWorld, member: int) -> None:
    """Damage a sign state in a pair that is not read at the start: nobody notices yet."""
    node = world.nodes[member]
    node.disk.write({b"u/never read": b""})
    assert node.disk.flip(world.rng, b"u/")
    assert node.up and not node.lost_for_good


def faults(world: EpochWorld) -> EpochFaults:
    assert isinstance(world.faults, EpochFaults)
    return world.faults


def test_damage_that_nobody_noticed_counts() -> None:
    """The member is up, and lost all the same: a set of six bears one such, so a second may not fail."""
    with seven(0, 1, 2, 3, 4, 5) as world:
        assert faults(world).may_fail(world.nodes[1])
        harm(world, 4)
        assert faults(world).down() == {4}
        assert not faults(world).may_fail(world.nodes[1])
        assert faults(world).may_fail(world.nodes[4]) and faults(world).may_fail(world.nodes[6])


def test_a_second_flip_is_refused_while_the_first_is_unnoticed() -> None:
    """As it came in seed 1257: the fault itself, not only the question."""
    with seven(0, 1, 2, 3, 4, 5) as world:
        harm(world, 4)
        faults(world).begin(Fault(0, "flip", 300, (1,), point="sign_state"))
        assert world.nodes[1].up and world.result.faults["flip.sign_state"] == 0
        assert not world.nodes[1].votes_no_more


def test_damage_that_is_written_over_counts_no_more() -> None:
    """A key that is put or deleted before anybody reads it is whole again."""
    with seven(0, 1, 2, 3, 4, 5) as world:
        harm(world, 4)
        world.nodes[4].disk.write({}, [b"u/never read"])
        assert faults(world).down() == set()
        assert faults(world).may_fail(world.nodes[1])


def test_a_set_that_is_signed_and_not_yet_in_force_counts() -> None:
    """Of seven two may be lost; of the six that are signed already only one."""
    with seven(0, 1, 2, 3, 4, 5, 6) as world:
        harm(world, 4)
        assert faults(world).may_fail(world.nodes[1])
        world.proposed = the_set(world, 1, 0, 1, 2, 3, 4, 5)
        assert not faults(world).may_fail(world.nodes[1])
        assert faults(world).may_fail(world.nodes[6])


def test_a_set_in_force_counts_beside_the_one_before() -> None:
    """Who lags still needs the votes of the epoch that is over."""
    with seven(0, 1, 2, 3) as world:
        world.sets[1] = the_set(world, 1, 0, 1, 2, 3, 4, 5, 6)
        harm(world, 4)
        assert faults(world).may_fail(world.nodes[3])
        harm(world, 3)
        assert not faults(world).may_fail(world.nodes[2])


@pytest.mark.parametrize("lost", [(4,), (1, 4)])
def test_no_set_is_proposed_that_cannot_bear_the_lost(lost: tuple[int, ...]) -> None:
    """Nor one too many of them, whether noticed or not."""
    with seven(0, 1, 2, 3, 4, 5, 6) as world:
        harm(world, lost[0])
        for member in lost[1:]:
            world.nodes[member].lost_for_good = True
        source, found = world.nodes[0], []
        for _ in range(100):
            candidate = world._candidate(source, source.notary.validators)
            assert candidate is not None
            weight = {world.number_of[m.key]: m.weight for m in candidate.members}
            assert sum(weight.get(member, 0) for member in lost) <= tolerated(candidate.total)
            found.append(len(set(lost) & set(weight)))
        assert max(found) > 0  # sets that bear them are drawn, too


def test_seed_1257() -> None:
    """Two sign states damaged, the first unnoticed, in a set of six: no further change could be voted for."""
    assert one(1257).violations == []
