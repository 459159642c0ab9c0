"""Rates: nobody gets more than the rate over time, and who comes after a pause does not wait."""

from __future__ import annotations

import random

from node.files.rates import BURST_S, FileRates, Rate


def test_no_rate_never_waits() -> None:
    rate = Rate(0)
    assert [rate.take(1 << 30, 1.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert rate.delay_s(1.0) == 0
    assert rate.is_even(1.0)
    assert FileRates() == FileRates(0, 0, 0)


def test_over_any_stretch_no_more_goes_than_the_rate_and_a_burst() -> None:
    chance, rate, now_s, sent = random.Random(3), Rate(1_000_000), 100.0, []
    for _ in range(2_000):
        size = chance.choice((1, 999, 262_144))
        sent.append((now_s + rate.take(size, now_s), size))
        now_s += chance.random() * 0.3
    for first in range(0, 2_000, 37):
        for last in (first + 5, first + 50, first + 400):
            if last < 2_000:
                span_s = sent[last][0] - sent[first][0]
                size = sum(size for _, size in sent[first:last])  # the last one is on its way only
                assert size <= 1_000_000 * (span_s + BURST_S) + 262_144


def test_a_pause_is_not_saved_up() -> None:
    rate = Rate(1_000)
    assert rate.take(250, 0.0) == 0.0
    assert rate.take(1_000, 1_000.0) == 0.0
    assert not rate.is_even(1_000.0)
    assert rate.take(1, 1_000.0) == 1 - BURST_S
    assert rate.is_even(1_002.0)
