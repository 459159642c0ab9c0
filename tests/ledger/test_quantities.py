"""Quantities and patterns: what people write, exactly, and matching that costs little."""

import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.text.pattern import PatternError, matches, parse_pattern
from ledger.text.quantities import (
    QuantityError,
    parse_country,
    parse_cpu,
    parse_duration,
    parse_integer,
    parse_money,
    parse_size,
)


@pytest.mark.parametrize(
    ("parse", "text", "number"),
    [
        (parse_size, "64MiB", 64 * 2**20),
        (parse_size, "1.5GiB", 3 * 2**29),
        (parse_size, "2GB", 2 * 10**9),
        (parse_size, 5, 5),
        (parse_duration, "72h", 72 * 3600),
        (parse_duration, "30d", 30 * 86_400),
        (parse_duration, 9, 9),
        (parse_cpu, "100m", 100),
        (parse_cpu, "0.5", 500),
        (parse_cpu, 2, 2_000),
        (parse_money, "2.5 credits", 2_500_000),
        (parse_money, "1 credit", 1_000_000),
        (parse_money, 7, 7),
        (parse_integer, -3, -3),
    ],
)
def test_quantities(parse: Callable[[object], int], text: object, number: int) -> None:
    assert parse(text) == number


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_size, "64"),
        (parse_size, "64mib"),
        (parse_size, "0.3B"),
        (parse_size, "9999999999TiB"),
        (parse_size, -1),
        (parse_size, True),
        (parse_size, None),
        (parse_size, "٣MiB"),
        (parse_duration, "1.5h"),
        (parse_duration, "h"),
        (parse_duration, "999999999999d"),
        (parse_cpu, "0.0001"),
        (parse_cpu, "1e3"),
        (parse_cpu, 2**53),
        (parse_money, "0.0000001 credits"),
        (parse_money, "5"),
        (parse_money, "-5 credits"),
        (parse_integer, "3"),
        (parse_integer, False),
        (parse_integer, 2**53),
        (parse_country, "be"),
        (parse_country, "BEL"),
        (parse_country, "ÉÉ"),
        (parse_country, 3),
    ],
)
def test_what_is_no_quantity(parse: Callable[[object], object], text: object) -> None:
    with pytest.raises(QuantityError):
        parse(text)


@pytest.mark.parametrize(
    "pattern",
    ["(a)", "a|b", "^a", "a$", "*a", "a**", "a{", "a{2", "a{3,2}", "a{,2}", "a{1001}", "[a", "[]", "[z-a]",
     "[à-é]", "\\", "\\b", "\\1", "a" * 201, "ab" * 20, "]", "}", "[\\"],
)  # fmt: skip
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(PatternError):
        parse_pattern(pattern)


ATOMS = st.sampled_from(["a", "b", "[ab]", "[^a]", ".", "\\d", "\\w", "[a-c0-9]", "\\.", "-"])
REPEATS = st.sampled_from(["", "", "?", "*", "+", "{2}", "{1,}", "{0,3}", "{2,3}"])
PATTERNS = st.lists(st.tuples(ATOMS, REPEATS).map("".join), max_size=6).map("".join)


@given(PATTERNS, st.text(alphabet="ab01._-é", max_size=10))
def test_means_what_a_regular_expression_means(pattern: str, text: str) -> None:
    assert matches(pattern, text) == (re.fullmatch(pattern, text, re.ASCII | re.DOTALL) is not None)


def test_a_pattern_that_ruins_backtracking_is_cheap() -> None:
    started = time.monotonic()
    assert not matches("a*" * 31 + "b", "a" * 1_000)
    assert time.monotonic() - started < 30
