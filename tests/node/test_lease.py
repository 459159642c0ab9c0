"""Leases: for all clocks within their rates, the workload is gone before the ledger frees the slot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.limits import (
    BLOCK_IDLE_MS,
    CLOCK_RATE_PERCENT,
    KILL_MS,
    LEASE_GUARD_MS,
    LEASE_MS,
    RENEW_SLOTS_MAX,
)
from node.executor.decide import SlotId
from node.executor.lease import (
    RENEW_EVERY_MS,
    SEEN_EVERY_MS,
    SEEN_MS,
    START_LEFT_MS,
    STOP_GRACE_MS,
    LeaseClock,
    LedgerTime,
    next_renewal,
)
from node.executor.limits import GUARD_REST_S, GUARD_TICK_S, KILL_WITHIN_S, TENURES_MAX

RATES = st.integers(100 - CLOCK_RATE_PERCENT, 100 + CLOCK_RATE_PERCENT).map(lambda p: Fraction(p, 100))


def local(real_ms: Fraction, rate: Fraction, start_ms: int) -> Fraction:
    """What a clock of this rate shows at a real time."""
    return start_ms + real_ms * rate


@given(
    node_rate=RATES,
    ledger_rate=RATES,
    boot_start_ms=st.integers(0, 10**12),
    sent_real_ms=st.lists(st.integers(0, 10 * LEASE_MS), min_size=1, max_size=12),
    delays_ms=st.lists(st.integers(0, 5 * LEASE_MS), min_size=12, max_size=12),
    lost=st.lists(st.booleans(), min_size=12, max_size=12),
    unheard=st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_the_local_stop_precedes_the_ledgers_free_time(
    node_rate: Fraction,
    ledger_rate: Fraction,
    boot_start_ms: int,
    sent_real_ms: list[int],
    delays_ms: list[int],
    lost: list[bool],
    unheard: list[bool],
) -> None:
    """Rules 3 to 5. Claims and renewals are sent, lost, late, and final without being heard of. At no real
    time is the slot free on the ledger while its former holder may still run it."""
    sends = sorted(sent_real_ms)
    clock: LeaseClock | None = None
    free_ledger: Fraction | None = None
    for number, sent in enumerate(sends):
        if number and lost[number]:
            continue  # never reached the ledger
        final_real = Fraction(sent + delays_ms[number])
        final_ledger = final_real * ledger_rate
        if free_ledger is not None and final_ledger >= free_ledger:
            break  # the slot was freed: this renewal is refused
        free_ledger = final_ledger + LEASE_MS + LEASE_GUARD_MS
        if number and unheard[number]:
            continue  # the ledger gave more than the node knows: only safer
        sent_boot = int(local(Fraction(sent), node_rate, boot_start_ms))
        clock = LeaseClock.claimed(sent_boot) if clock is None else clock.renewed(sent_boot)
    assert clock is not None and free_ledger is not None
    stopped_real = (clock.deadline_ms - boot_start_ms + KILL_MS) / node_rate
    assert stopped_real < free_ledger / ledger_rate


def test_the_guard_is_what_the_design_asks_for() -> None:
    rate = Fraction(CLOCK_RATE_PERCENT, 100)
    least = 2 * rate * LEASE_MS / (1 - rate) + KILL_MS + 2 * BLOCK_IDLE_MS + 1_000
    assert least <= LEASE_GUARD_MS


def test_the_stop_fits_into_k() -> None:
    """Noticing, also where the machine slept meanwhile, SIGTERM's grace, and the driver's kill."""
    assert GUARD_REST_S * 1000 + STOP_GRACE_MS + KILL_WITHIN_S * 1000 <= KILL_MS


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10 * LEASE_MS), max_size=20))
def test_a_deadline_never_moves_back_and_asking_alone_gains_nothing(start_ms: int, steps: list[int]) -> None:
    clock = LeaseClock.claimed(start_ms)
    for step in steps:
        before = clock
        clock = clock.asked(start_ms + step)
        assert clock.deadline_ms == before.deadline_ms
        clock = clock.renewed(start_ms + step)
        assert clock.deadline_ms == max(before.deadline_ms, start_ms + step + LEASE_MS)
        assert clock.asked_ms >= before.asked_ms


@pytest.mark.parametrize(
    ("age_ms", "start", "stop", "renew"),
    [
        (0, True, False, False),
        (RENEW_EVERY_MS - 1, True, False, False),
        (RENEW_EVERY_MS, True, False, True),
        (LEASE_MS - START_LEFT_MS, True, False, True),
        (LEASE_MS - START_LEFT_MS + 1, False, False, True),
        (LEASE_MS - 1, False, False, True),
        (LEASE_MS, False, True, True),
        (10 * LEASE_MS, False, True, True),
    ],
)
def test_what_may_be_done_at_which_age(age_ms: int, start: bool, stop: bool, renew: bool) -> None:
    clock, now_ms = LeaseClock.claimed(5_000), 5_000 + age_ms
    assert (clock.may_start(now_ms), clock.must_stop(now_ms), clock.renew_due(now_ms)) == (start, stop, renew)


@pytest.mark.parametrize("beyond_ms", [0, 10 * LEASE_MS])
def test_the_guard_looks_in_time_for_the_end_and_seldom_before(beyond_ms: int) -> None:
    """Rule 4: never a tick late, however far away the end was at the look before."""
    clock = replace(LeaseClock.claimed(5_000), beyond_ms=beyond_ms)
    now_ms, looks = 5_000.0, 0
    while not clock.must_stop(int(now_ms)):
        now_ms, looks = now_ms + clock.look_in_s(int(now_ms)) * 1000, looks + 1
    assert now_ms - clock.deadline_ms - beyond_ms <= TICK_MS
    assert looks <= (LEASE_MS + beyond_ms) / 1000 / GUARD_REST_S + 4
    assert clock.look_in_s(clock.deadline_ms + beyond_ms - 600) == 0.6


@pytest.mark.parametrize("beyond_ms", [0, 1_000, 10 * LEASE_MS])
def test_what_is_available_goes_on_by_as_much_as_its_contract_says(beyond_ms: int) -> None:
    """Rule 8. Its first start needs half a lease as any other; the end moves, and with it the launcher's."""
    strict = LeaseClock.claimed(5_000)
    clock = replace(strict, beyond_ms=beyond_ms)
    end_ms = 5_000 + LEASE_MS + beyond_ms
    assert (clock.must_stop(end_ms - 1), clock.must_stop(end_ms)) == (False, True)
    assert clock.kill_at_ms == strict.kill_at_ms + beyond_ms
    assert clock.grace_ms(end_ms) == strict.grace_ms(5_000 + LEASE_MS) == STOP_GRACE_MS
    assert not clock.may_start(end_ms - 1)
    assert clock.may_start(end_ms - 1, again=True) == (beyond_ms > 0)
    assert not clock.may_start(end_ms, again=True)
    for later in (clock.asked(9_000), clock.renewed(9_000)):
        assert later.beyond_ms == beyond_ms


def test_a_renewal_dated_before_it_was_sent_is_worth_less() -> None:
    """After a stall a leader may date a block from before it; the ledger counts from there."""
    seen = LedgerTime()
    for second in range(5):
        seen.saw(1_000_000 + second * 1_000, 7_000 + second * 1_000)
    sent_ms = 27_000  # nothing was committed for sixteen seconds
    assert seen.at(sent_ms) == 1_020_000
    assert LedgerTime.behind_ms(seen.at(sent_ms), 1_021_000) == 0
    behind_ms = LedgerTime.behind_ms(seen.at(sent_ms), 1_004_000)
    assert behind_ms == 16_000
    assert LeaseClock.claimed(sent_ms, behind_ms).deadline_ms == sent_ms + LEASE_MS - 16_000
    held = LeaseClock.claimed(7_000)
    assert held.renewed(sent_ms, behind_ms).deadline_ms == sent_ms + LEASE_MS - 16_000
    assert held.renewed(sent_ms, 2 * LEASE_MS).deadline_ms == held.deadline_ms  # a deadline never moves back


@given(
    st.lists(st.tuples(st.integers(1, 5_000), st.integers(0, 3_000)), min_size=1, max_size=400),
    st.integers(0, LEASE_MS),
)
def test_ledger_time_is_never_ahead_of_the_blocks_and_keeps_few(
    blocks: list[tuple[int, int]], later_ms: int
) -> None:
    """Blocks come late, never early: what is told is at most true, and as good as the best of them."""
    seen, now_ms, told = LedgerTime(), 0, []
    for step_ms, late_ms in blocks:
        now_ms += step_ms
        seen.saw(10**9 + now_ms - late_ms, now_ms)
        told.append(seen.at(now_ms))
        assert 10**9 + now_ms - 3_000 <= told[-1] <= 10**9 + now_ms
        assert len(seen._seen) <= SEEN_MS // SEEN_EVERY_MS + 1
    assert seen.at(now_ms + later_ms) == told[-1] + later_ms


def test_a_block_that_is_newer_within_the_second_counts() -> None:
    """Who comes back sees an old block first, and the tip right after it."""
    seen = LedgerTime()
    seen.saw(1_000_000, 7_000)
    seen.saw(1_040_000, 7_000 + SEEN_EVERY_MS // 2)
    assert seen.at(7_000 + SEEN_EVERY_MS) == 1_040_000 + SEEN_EVERY_MS // 2
    seen.saw(1_000_500, 7_000 + SEEN_EVERY_MS - 1)
    assert seen.at(7_000 + SEEN_EVERY_MS) == 1_040_000 + SEEN_EVERY_MS // 2
    assert len(seen._seen) == 1


def test_ledger_time_of_nothing_seen() -> None:
    assert LedgerTime.behind_ms(LedgerTime().at(5_000), 1_000_000) == 0


@pytest.mark.parametrize(
    ("late_ms", "grace_ms"),
    [
        (-LEASE_MS, STOP_GRACE_MS),
        (0, STOP_GRACE_MS),
        (int(GUARD_TICK_S * 1000), STOP_GRACE_MS),
        (KILL_MS - int(KILL_WITHIN_S * 1000) - 1_000, 1_000),
        (KILL_MS, 0),
        (100 * LEASE_MS, 0),
    ],
)
def test_a_stop_that_is_late_gives_no_grace(late_ms: int, grace_ms: int) -> None:
    """Rule 4: over within K of the deadline, or at once where that is past, as after a machine's sleep."""
    clock = LeaseClock.claimed(5_000)
    assert clock.grace_ms(clock.deadline_ms + late_ms) == grace_ms


TICK_MS = int(GUARD_TICK_S * 1000)


@dataclass
class Term:
    """A term as renewals see it."""

    id: SlotId
    lease: LeaseClock


@dataclass
class Holder:
    """A node's renewals, tick by tick; each is final at once unless `lost` says so of its number."""

    terms: list[Term]
    most: int
    lost: Callable[[int], bool] = lambda number: False
    sent: list[tuple[int, list[Term]]] = field(default_factory=list)
    least_left_ms: int = LEASE_MS

    def run(self, for_ms: int) -> None:
        for now_ms in range(0, for_ms, TICK_MS):
            terms = next_renewal(self.terms, now_ms, (), self.most)
            for term in terms:
                lease = term.lease.asked(now_ms)
                term.lease = lease if self.lost(len(self.sent)) else lease.renewed(now_ms)
            if terms:
                self.sent.append((now_ms, terms))
            self.least_left_ms = min([self.least_left_ms, *(t.lease.left_ms(now_ms) for t in self.terms)])


def terms_of(*claimed_ms: int) -> list[Term]:
    return [Term((b"deployment", str(n)), LeaseClock.claimed(at)) for n, at in enumerate(claimed_ms)]


@given(st.lists(st.integers(-9_000, 0), min_size=1, max_size=40), st.integers(1, 12))
def test_all_that_a_node_holds_is_renewed_however_little_one_renewal_carries(
    claimed_ms: list[int], most: int
) -> None:
    """Rule 3: each term every third of a lease, but for the ticks that its turn takes; and in as few
    transactions as carry them all, and one."""
    node = Holder(terms_of(*claimed_ms), most)
    node.run(4 * LEASE_MS)
    needed = -(-len(claimed_ms) // most)
    assert node.least_left_ms >= LEASE_MS - RENEW_EVERY_MS - (needed + 1) * TICK_MS
    for begin_ms, _ in node.sent:
        within = [terms for at_ms, terms in node.sent if begin_ms <= at_ms < begin_ms + RENEW_EVERY_MS]
        assert len(within) <= needed + 1
    assert max(len(terms) for _, terms in node.sent) <= most
    assert all(len({term.id for term in terms}) == len(terms) for _, terms in node.sent)


def test_a_full_node_renews_within_a_lease_with_renewals_to_spare() -> None:
    """Two thirds of a lease are left of each, to a second or two: of two in a row, one may be lost."""
    node = Holder(terms_of(*([0] * TENURES_MAX)), RENEW_SLOTS_MAX)
    node.run(3 * LEASE_MS)
    assert node.least_left_ms >= LEASE_MS - RENEW_EVERY_MS - 2_000
    flaky = Holder(terms_of(*([0] * TENURES_MAX)), RENEW_SLOTS_MAX, lambda number: number % 3 == 0)
    flaky.run(3 * LEASE_MS)
    assert flaky.least_left_ms > 0


def test_of_what_is_due_what_ends_first_goes_first_and_room_goes_to_what_is_due_next() -> None:
    now_ms = 50_000
    first, second, third, fourth, fifth = terms_of(28_000, 34_000, 39_000, 45_000, 42_000)
    second.lease = second.lease.asked(39_500)  # lost, as nothing came of it
    held = [fifth, fourth, third, second, first]
    assert next_renewal(held, now_ms, (), 2) == [first, second]
    assert next_renewal(held, now_ms, (), 4) == [first, second, third, fifth]
    assert next_renewal(held, now_ms, (), 9) == [first, second, third, fifth, fourth]
    assert next_renewal([fourth, fifth], now_ms, (), 9) == []


def test_what_is_past_its_lease_waits_for_what_is_under_way_and_no_other_term_does() -> None:
    """Rule 8."""
    past, other, due = terms_of(0, 0, 25_000)
    now_ms = LEASE_MS + 10_000
    waits = Counter([past.id])
    assert next_renewal([past], now_ms, waits, 4) == []
    assert next_renewal([past, other], now_ms, waits, 1) == [other]
    assert next_renewal([due], now_ms, Counter([due.id]), 4) == [due]
    assert next_renewal([past], now_ms, waits - Counter([past.id]), 4) == [past]
