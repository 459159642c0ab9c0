"""A short enumeration of twins in every test run (`make twins` has the long one), and what it must catch."""

from __future__ import annotations

import pytest

from consensus.core import Core
from tests.sim.twins import (
    Cast,
    Found,
    Search,
    leader_orders,
    narrow,
    one_of_each,
    partitions,
    renamed,
    renamings,
    replay,
    shaped,
    wide,
)
from tests.sim.twins_mutants import MUTANTS, TwinsMutant, hunt
from tests.sim.twins_net import Net, Violation, validators


def test_two_rounds_of_twins() -> None:
    """Every scenario of two rounds in which a twin leads first, then an honest member, and the other way."""
    total = Found()
    for leaders in ((0, 1), (1, 0)):
        total.add(Search(Cast(), leaders, shaped("nn")).run())
    assert total.violations == []
    assert total.scenarios > 1_500


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_mutant_is_caught(mutant: TwinsMutant) -> None:
    """The named check complains, and the script that is told does it again."""
    found = hunt(mutant)
    assert found.violations, f"{mutant.name} survived {found.scenarios} scenarios"
    check, what, script = found.violations[0]
    assert check in mutant.caught_by, what
    with pytest.raises(Violation) as again:
        replay(script, mutant.cast)
    assert again.value.args == (check, what)


def test_what_is_enumerated() -> None:
    """Bell numbers, and each kind of round once."""
    assert [len(partitions(groups)) for groups in (1, 2, 3, 5)] == [1, 16, 41, 52]
    assert len(set(narrow())) == 16 * 3
    assert len(set(wide())) == len(wide()) == (16 * 16 + 16 * 15) * 3
    assert leader_orders(1) == [(0,), (1,)]
    assert leader_orders(2) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]


def test_symmetry_leaves_one_of_each() -> None:
    """All rounds come back by renaming those that are left; what is left of a name is left for good."""
    alike = renamings((0,))
    assert len(alike) == 12
    left = [one for one, _ in one_of_each(narrow(), alike)]
    assert len(left) < len(narrow()) / 2
    back = {(tuple(renamed(g, by) for g in one.hops), one.timeouts) for one in left for by in alike}
    assert back == {(one.hops, one.timeouts) for one in narrow()}
    assert renamings((1, 2)) == [(0, 1, 2, 3, 4), (1, 0, 2, 3, 4)]


def test_a_clone_goes_its_own_way() -> None:
    """What happens to a clone leaves the other as it was."""
    net = Net(Core, Core, validators())
    copy = net.clone()
    copy.heal()
    assert [core.chain.tip.height for core in net.cores] == [0] * 5
    assert net.cores[2].views[1].signatures == {} and net.committed == {}
    net.heal()
    assert net.committed == copy.committed
