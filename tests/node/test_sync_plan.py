"""The scheduler of catch-up: bounded, from many sources, round who stalls and who lies."""

from __future__ import annotations

import random

import pytest

from node.limits import FOLLOW_HEDGE_S, FOLLOW_LIED_REST_S, FOLLOW_PACE_S, PIECES_MAX, PIECES_PER_SOURCE
from node.sync.sync_plan import Ask, SyncPlan


def plan_of(height: int, *names: str) -> SyncPlan:
    plan = SyncPlan()
    for name in names:
        plan.came(name, height)
    return plan


def all_of(plan: SyncPlan, tip: int = 0, now_s: float = 0.0) -> list[Ask]:
    found = []
    while (ask := plan.next(tip, now_s)) is not None:
        found.append(ask)
    return found


def test_pieces_follow_each_other_and_are_bounded_in_number_and_by_source() -> None:
    asks = all_of(plan_of(10**6, *"abcdefgh"))
    assert len(asks) == PIECES_MAX
    assert [ask.first for ask in asks] == [1, *(ask.last + 1 for ask in asks[:-1])]
    few = all_of(plan_of(10**6, "a", "b"))
    assert len(few) == 2 * PIECES_PER_SOURCE
    assert {ask.peer_id for ask in few[:2]} == {"a", "b"}


def test_what_waits_counts_as_room_until_it_is_used() -> None:
    plan = plan_of(10**6, *"abcdefgh")
    asks = all_of(plan)
    for ask in asks:
        plan.delivered(ask, ask.last, 1000, 0.1)
    assert plan.next(0, 0.1) is None
    first = plan.ready(0)
    assert first == 1
    plan.used(first)
    assert plan.next(asks[0].last, 0.1) is not None


def test_a_piece_is_as_large_as_blocks_of_late_say() -> None:
    plan = plan_of(10**6, "a")
    ask = plan.next(0, 0.0)
    assert ask is not None
    for _ in range(30):
        plan.delivered(ask, ask.first, 100_000, 0.0)
        plan.used(ask.first)
        nxt = plan.next(ask.first, 0.0)
        assert nxt is not None
        ask = nxt
    assert ask.blocks_max == 2


def test_an_answer_that_ends_early_leaves_a_gap_that_is_asked_for_next() -> None:
    plan = plan_of(10**6, "a", "b")
    one, two = plan.next(0, 0.0), plan.next(0, 0.0)
    assert one is not None and two is not None
    plan.delivered(one, one.first + 3, 1000, 0.1)
    gap = plan.next(0, 0.1)
    assert gap is not None
    assert (gap.first, gap.last) == (one.first + 4, one.last)


def test_a_slow_lowest_piece_is_asked_of_another_and_the_slow_one_rests() -> None:
    plan = plan_of(100, "slow", "other")
    ask = plan.next(0, 0.0)
    assert ask is not None and ask.last == 100
    assert plan.next(0, FOLLOW_HEDGE_S / 2) is None
    assert plan.wait_s(0, FOLLOW_HEDGE_S / 2) == pytest.approx(FOLLOW_HEDGE_S / 2)
    again = plan.next(0, FOLLOW_HEDGE_S)
    assert again is not None
    assert (again.first, again.last) == (ask.first, ask.last)
    assert again.peer_id != ask.peer_id
    assert plan.next(0, FOLLOW_HEDGE_S) is None, "two are enough"
    assert plan.delivered(again, 100, 1000, 1.0) == [ask]
    assert plan.sources[ask.peer_id].rest_until_s > 1.0
    assert plan.sources[ask.peer_id].asked == 0


def test_a_liar_loses_all_that_it_was_asked_for_and_is_left_alone() -> None:
    plan = plan_of(10**6, "liar", "honest")
    asks = all_of(plan)
    lies = [ask for ask in asks if ask.peer_id == "liar"]
    assert plan.lied(lies[0], 1.0) == lies[1:]
    for now_s in (1.0, FOLLOW_LIED_REST_S / 2):
        assert all(ask.peer_id == "honest" for ask in all_of(plan, 0, now_s))
    assert plan.best_height(0) == 10**6, "of the honest one"
    plan.gone("honest")
    assert plan.best_height(0) == 0


def test_two_failures_at_once_are_one() -> None:
    plan = plan_of(10**6, "a")
    one, two = plan.next(0, 0.0), plan.next(0, 0.0)
    assert one is not None and two is not None
    plan.failed(one, 1.0)
    plan.failed(two, 1.0)
    assert plan.sources["a"].failures == 1


def test_who_dropped_the_blocks_is_not_asked_for_them() -> None:
    plan = plan_of(1000, "pruned")
    plan.lacks("pruned", 500)
    assert plan.is_too_old(0)
    assert plan.next(0, 0.0) is None
    plan.came("whole", 1000)
    assert not plan.is_too_old(0)
    ask = plan.next(0, 0.0)
    assert ask is not None and ask.peer_id == "whole"


def test_a_source_that_leaves_gives_back_its_pieces() -> None:
    plan = plan_of(100, "a")
    ask = plan.next(0, 0.0)
    plan.gone("a")
    plan.came("b", 100)
    again = plan.next(0, 0.1)
    assert ask is not None and again is not None
    assert (again.first, again.last, again.peer_id) == (ask.first, ask.last, "b")


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_all_blocks_come_in_the_end(seed: int) -> None:
    """Sources that fail, lie, leave, come back, answer short or too long: one honest one is enough."""
    rng = random.Random(seed)
    plan, tip, height, now_s = plan_of(3_000, "good", "bad", "ugly"), 0, 3_000, 0.0
    under_way: list[Ask] = []
    for _ in range(20_000):
        now_s += 0.05
        while (ask := plan.next(tip, now_s)) is not None:
            under_way.append(ask)
        assert len(plan._asks) <= PIECES_MAX + 1
        assert len(plan._asks) + len(plan._held) <= PIECES_MAX + 1
        if under_way:
            ask = under_way.pop(rng.randrange(len(under_way)))
            what = rng.random() if ask.peer_id != "good" else 1.0
            if what < 0.2:
                plan.failed(ask, now_s)
            elif what < 0.25:
                plan.lied(ask, now_s)
            elif what < 0.3:
                plan.gone(ask.peer_id)
                plan.came(ask.peer_id, height)
            elif what < 0.9:
                plan.delivered(
                    ask, min(height, ask.first + rng.randrange(300)), rng.randrange(1, 10**6), now_s
                )
            else:
                plan.delivered(ask, ask.last, 1000 * ask.blocks_max, now_s)
        plan.past(tip)
        while (first := plan.ready(tip)) is not None:
            tip = max(tip, plan._held[first])
            plan.used(first)
        if tip == height:
            return
    raise AssertionError(f"stuck at {tip}: {plan}")


def test_blocks_at_the_tip_are_asked_for_together() -> None:
    """The first at once, those told of within FOLLOW_PACE_S in one request; what did not come, at once."""
    plan = plan_of(1, "a", "b")
    ask = plan.next(0, 0.0)
    assert ask is not None and (ask.first, ask.last) == (1, 1)
    plan.delivered(ask, 1, 1_000, 0.01)
    plan.used(1)
    for height in (2, 3, 4):
        plan.told("a", height)
        plan.told("b", height)
        assert plan.next(1, 0.02 * height) is None
    assert plan.wait_s(1, 0.08) == pytest.approx(FOLLOW_PACE_S - 0.08)
    ask = plan.next(1, FOLLOW_PACE_S)
    assert ask is not None and (ask.first, ask.last) == (2, 4)
    plan.failed(ask, FOLLOW_PACE_S)
    again = plan.next(1, FOLLOW_PACE_S)
    assert again is not None, "no new height: it is only asked of another"
    assert (again.first, again.last, again.peer_id != ask.peer_id) == (2, 4, True)


def test_whole_pieces_are_not_paced() -> None:
    plan = plan_of(10**6, "a", "b")
    assert len(all_of(plan)) == 2 * PIECES_PER_SOURCE


def test_a_pause_forgets_what_was_asked_for() -> None:
    """After `forget` the chain may go on lower down: its heights are new again, and paced as such."""
    plan = plan_of(100, "a")
    assert plan.next(0, 0.0) is not None
    plan.forget()
    plan.sources["a"].told = 50
    assert plan.next(0, FOLLOW_PACE_S / 2) is None
    assert plan.next(0, FOLLOW_PACE_S) is not None
