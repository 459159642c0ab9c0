"""Who has a place of those that owners share, and for how long."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from node.files.turns import Turns


def holders(turns: Turns, everybody: list[str], now_s: float) -> list[str]:
    return [who for who in everybody if turns.has(who, now_s)]


def test_one_alone_has_all_places_until_another_comes() -> None:
    turns = Turns(4, 10.0)
    many = [f"a{n}" for n in range(9)]
    for who in many:
        turns.want(who, "a", 0.0)
    assert holders(turns, many, 0.0) == many[:4]
    turns.want("b", "b", 1.0)
    assert turns.has("b", 1.0)  # at once
    assert len(holders(turns, many, 1.0)) == 3
    turns.leave("b")
    assert len(holders(turns, many, 1.0)) == 4
    assert turns.held == 4


def test_all_who_want_one_have_it_in_turn() -> None:
    turns = Turns(2, 10.0)
    many = [f"a{n}" for n in range(5)]
    for who in many:
        turns.want(who, "a", 0.0)
    seen: Counter[str] = Counter()
    for second in range(200):
        found = holders(turns, many, float(second))
        assert len(found) == 2
        seen.update(found)
    assert min(seen.values()) > 60  # of 80, were they even


def test_nobody_who_has_fewer_gives_way_to_one_who_has_more() -> None:
    turns = Turns(3, 10.0)
    for who in ("a0", "a1", "a2", "b0"):
        turns.want(who, who[0], 0.0)
    for second in range(100):
        assert turns.has("b0", float(second))


def test_who_else_waits_takes_the_place_for_the_one_that_has_fewer() -> None:
    turns = Turns(2, 10.0)
    for who in ("a0", "a1", "a2"):
        turns.want(who, "a", 0.0)
    assert not turns.has("a2", 0.0)
    turns.want("a2", "b", 1.0)
    assert turns.has("a2", 1.0)
    turns.want("a2", "a", 2.0)  # that one has more: no change
    assert turns.has("a2", 50.0)


@pytest.mark.parametrize("seed", range(20))
def test_places_are_never_too_many_and_never_far_from_even(seed: int) -> None:
    chance, turns = random.Random(seed), Turns(8, 4.0)
    wanting: dict[str, str] = {}
    waited: Counter[str] = Counter()
    for step in range(600):
        now_s = step * 0.5
        if chance.random() < 0.3 and len(wanting) < 40:
            who = f"w{step}"
            wanting[who] = f"owner{chance.randrange(6)}"
            turns.want(who, wanting[who], now_s)
        elif wanting and chance.random() < 0.2:
            who = chance.choice(list(wanting))
            turns.leave(who)
            del wanting[who]
        held = holders(turns, list(wanting), now_s)
        assert len(held) == turns.held == min(8, len(wanting))
        have = Counter(wanting[who] for who in held)
        for owner in set(wanting.values()):
            wants = sum(of == owner for of in wanting.values())
            assert have[owner] >= min(wants, max(have.values()) - 1) or have[owner] == wants
        waited = Counter({who: waited[who] + 1 for who in wanting if who not in held})
        assert max(waited.values(), default=0) < 2 * 4 * 40 / 8 * 6  # turns of all before it, and some
