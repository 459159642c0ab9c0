"""Which chunk is asked of whom: in order, the rarest first, taken over when somebody stalls, none lost."""

from __future__ import annotations

import random

import pytest

from node.files.picks import Picks
from node.limits import ARTIFACT_COPIES_MAX, ARTIFACT_STEAL_S


def picks(count: int, missing: list[int] | None = None, seed: int = 1) -> Picks:
    return Picks(list(range(count)) if missing is None else missing, count, random.Random(seed))


def test_whole_sources_share_the_chunks_in_order() -> None:
    plan = picks(6, [1, 2, 4, 5])
    plan.has("a", None)
    plan.has("b", None)
    assert [plan.next(who, 0.0, 0.0) for who in "abab"] == [1, 2, 4, 5]
    assert plan.next("a", 0.0, 0.0) is None
    for index in (1, 2, 4):
        assert plan.came(index)
    assert not plan.is_done
    assert plan.came(5)
    assert plan.is_done


def test_a_source_that_has_a_part_is_asked_for_that_alone() -> None:
    plan = picks(40)
    plan.has("part", 0b1011 << 20)
    found = {plan.next("part", 0.0, 0.0) for _ in range(3)}
    assert found == {20, 21, 23}
    assert plan.next("part", 0.0, 0.0) is None
    plan.has("part", 0b1111 << 20)
    assert plan.next("part", 0.0, 0.0) == 22
    plan.has_not("part", 22)
    plan.over(22, "part")
    assert plan.next("part", 0.0, 0.0) is None


def test_the_rarest_comes_first() -> None:
    plan = picks(16)
    plan.has("whole", None)
    for number in range(3):
        plan.has(f"part{number}", 0xFFFF ^ 1 << 9 ^ 1 << 3)
    plan.has("part3", 1 << 3)
    assert [plan.next("whole", 0.0, 0.0) for _ in range(2)] == [9, 3]
    plan.gone("part0")  # what it had is rarer now
    plan.has("part1", 0)
    plan.has("part2", 1 << 5)
    assert plan.next("whole", 0.0, 0.0) not in (5, 9, 3)


def test_those_who_fetch_at_once_choose_differently() -> None:
    order = []
    for seed in range(4):
        plan = picks(400, seed=seed)
        plan.has("whole", None)
        plan.spread()
        order.append([plan.next("whole", 0.0, 0.0) for _ in range(20)])
    assert len({index for chosen in order for index in chosen}) > 60


def test_what_a_stalling_source_was_asked_for_is_taken_over() -> None:
    plan = picks(2)
    plan.has("slow", None)
    plan.has("fast", None)
    assert plan.next("slow", 10.0, 0.0) == 0
    assert plan.next("fast", 10.0, 0.0) == 1
    assert plan.came(1)
    plan.over(1, "fast")
    assert plan.next("fast", 10.0 + ARTIFACT_STEAL_S / 2, 0.01) is None  # too early
    assert plan.next("fast", 10.1 + ARTIFACT_STEAL_S, 3.0) is None  # it would not be faster
    assert plan.next("fast", 10.1 + ARTIFACT_STEAL_S, 0.01) == 0
    assert plan.next("fast", 99.0, 0.01) is None  # it is asked already
    for number in range(2, ARTIFACT_COPIES_MAX):
        plan.has(f"s{number}", None)
        assert plan.next(f"s{number}", 99.0 * number, 0.01) == 0  # the one that took over stalls, too
    plan.has("last", None)
    assert plan.next("last", 9_999.0, 0.01) is None
    assert plan.came(0)
    assert not plan.came(0)  # the slow one's comes late
    plan.over(0, "slow")
    plan.over(0, "fast")
    assert plan.is_done
    assert plan.next("last", 9_999.0, 0.01) is None


def test_a_source_that_is_only_slow_is_robbed_at_the_end_alone() -> None:
    plan = picks(3)
    plan.has("slow", None)
    plan.has("part", 1)
    plan.has("fast", None)
    asked = {plan.next("slow", 0.0, 9.0), plan.next("slow", 0.0, 9.0)}
    plan.has("part", sum(1 << index for index in asked if index is not None))
    assert plan.next("part", 2.0, 0.1) is None  # there is more to do, if not for this one
    last = plan.next("fast", 2.0, 0.1)
    assert last not in asked
    assert plan.next("part", 2.0, 0.1) in asked
    assert plan.next("fast", 2.0, 4.0) is None  # it is not much faster
    assert plan.next("fast", 8.9, 0.1) is not None  # the other one of them
    assert plan.next("fast", 8.9, 0.1) is None  # both are asked of two


def test_a_chunk_that_did_not_come_is_asked_for_again_once() -> None:
    plan = picks(2)
    plan.has("a", None)
    plan.has("b", None)
    assert plan.next("a", 0.0, 0.0) == 0
    plan.over(0, "a")
    plan.over(0, "a")
    assert [plan.next("b", 0.0, 0.0) for _ in range(3)] == [0, 1, None]


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_every_chunk_comes_and_none_is_forgotten(seed: int) -> None:
    chance = random.Random(seed)
    count = chance.choice((1, 7, 64, 300))
    plan, now_s = Picks(list(range(count)), count, random.Random(seed)), 0.0
    asked: list[tuple[str, int]] = []
    have: dict[str, int | None] = {}
    for step in range(40_000):
        now_s += chance.random() * 0.2
        name = f"s{chance.randrange(6)}"
        match chance.randrange(10):
            case 0 if name not in have or have[name] is not None:
                have[name] = None if chance.random() < 0.2 else chance.getrandbits(count)
                plan.has(name, have[name])
            case 1 if name in have and not any(who == name for who, _ in asked):
                plan.gone(name)
                del have[name]
            case 2 | 3 if asked:
                who, index = asked.pop(chance.randrange(len(asked)))
                if chance.random() < 0.8:
                    plan.came(index)
                plan.over(index, who)
            case _ if name in have and sum(who == name for who, _ in asked) < 4:
                index_or_none = plan.next(name, now_s, chance.random())
                if index_or_none is not None:
                    held = have[name]
                    assert held is None or held >> index_or_none & 1
                    assert plan.is_missing(index_or_none)
                    assert (name, index_or_none) not in asked
                    asked.append((name, index_or_none))
        assert all(n <= ARTIFACT_COPIES_MAX for n in _counts(asked).values())
        if plan.is_done:
            break
        if step == 30_000:
            have["last"] = None
            plan.has("last", None)
    while not plan.is_done:
        now_s += 10
        index_or_none = plan.next("last", now_s, 0.0)
        if index_or_none is not None:
            plan.came(index_or_none)
            plan.over(index_or_none, "last")
            continue
        who, index = asked.pop()
        plan.over(index, who)
    assert plan.next("last", now_s, 0.0) is None if "last" in have else True


def _counts(asked: list[tuple[str, int]]) -> dict[int, int]:
    found: dict[int, int] = {}
    for _, index in asked:
        found[index] = found.get(index, 0) + 1
    return found
