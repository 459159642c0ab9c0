"""Amounts as people read and write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.text.quantities import QuantityError
from node.client.amounts import (
    cpu_text,
    credits_text,
    duration_text,
    parse_credits,
    parse_span,
    room_text,
    size_text,
    span_text,
    term_text,
    time_text,
    value_text,
)


@pytest.mark.parametrize(
    ("text", "micro"),
    [("1.5", 1_500_000), ("1", 1_000_000), ("0.000001", 1), ("2.5 credits", 2_500_000), (" 3 ", 3_000_000)],
)
def test_credits_have_six_decimals(text: str, micro: int) -> None:
    assert parse_credits(text) == micro


@pytest.mark.parametrize("text", ["", "1.0000001", "-1", "1e3", "one", "1,5", "٣"])
def test_other_amounts_are_refused(text: str) -> None:
    with pytest.raises(QuantityError):
        parse_credits(text)


def test_words_of_what_cannot_be_read_are_for_who_typed_it() -> None:
    """They offered "a number of micro-credits" and "of seconds", which the command line does not take so."""
    with pytest.raises(QuantityError, match=r"^'5 EUR': credits wanted, such as 1\.5, with at most six"):
        parse_credits("5 EUR")
    for text in ("3600", "soon", "1w", ""):
        with pytest.raises(QuantityError, match=f"^--by {text}: a duration wanted, such as 30s, 5m, 72h or"):
            parse_span(text, "--by")
    assert parse_span("90m", "--by") == 5_400


@given(st.integers(0, 2**53 - 1))
def test_what_is_shown_reads_back(micro: int) -> None:
    assert parse_credits(credits_text(micro).replace(",", "")) == micro


def test_shown_for_people() -> None:
    assert credits_text(1_234_500_000) == "1,234.5"
    assert [size_text(n) for n in (12, 1 << 10, 3 << 19, 5 << 30)] == ["12 B", "1 KiB", "1.5 MiB", "5 GiB"]
    assert [cpu_text(n) for n in (1000, 250, 2000, 0)] == ["1 core", "0.25 cores", "2 cores", "0 cores"]
    spans = (340, 1_400, 20_000, 180_000, 7_500_000, 259_200_000)
    assert [span_text(ms) for ms in spans] == ["340 ms", "1.4 s", "20 s", "3 min", "2 h 5 min", "3 d"]
    assert time_text(0) == "-"
    assert time_text(1_700_000_000_000) == "2023-11-14 22:13:20"


def test_what_is_agreed_on_is_told_exactly() -> None:
    """Who signs for "1 min" has not signed for 119 s."""
    spans = (0, 59, 60, 119, 3_600, 90_061)
    told = ["0 s", "59 s", "1 min", "1 min 59 s", "1 h", "1 d 1 h 1 min 1 s"]
    assert [duration_text(s) for s in spans] == told
    sizes = (0, 999, 64 << 20, 3 << 19, 100_000_000)
    assert [room_text(n) for n in sizes] == ["0 B", "999 B", "64 MiB", "1.5 MiB", "95.3 MiB (100,000,000 B)"]


@pytest.mark.parametrize(
    ("field", "text", "told"),
    [
        ("terms.budget", "2500000", "2.5 credits"),
        ("terms.price.cpu_core_hour", "10000", "0.01 credits"),
        ("terms.grace_s", "119", "1 min 59 s"),
        ("workloads.web.resources.memory_bytes", "100000000", "95.3 MiB (100,000,000 B)"),
        ("workloads.web.resources.cpu_millis", "250", "0.25 cores"),
        ("workloads.web.replicas", "3", "3"),
        ("workloads.web.command", "3_s", "3_s"),
        ("parameters.most", "2500000", "2.5 credits"),
        ("parameters.code_s", "007", "007"),
        ("parameters.unknown_s", "007", "007"),
    ],
)
def test_a_field_stands_in_its_units(field: str, text: str, told: str) -> None:
    assert term_text(field, text, {"most": "money", "code_s": "string"}) == told


def test_parameters_are_shown_by_their_type() -> None:
    assert value_text("money", 5_000_000) == "5 credits"
    assert value_text("duration", 86_400) == "1 d"
    assert value_text("size", 64 << 20) == "64 MiB"
    assert value_text("integer", 2) == "2"
    assert value_text("boolean", True) == "true"
    assert value_text("country", "BE") == "BE"
