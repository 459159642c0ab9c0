"""Sizing rules: our part of CEL means what a CEL library says, within bounds; other text is refused."""

import importlib.util
import json
import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.contracts.language import parse_contract
from ledger.errors import Refused
from ledger.text.expression import UNITS, ExpressionError, Kind, evaluate, kind_of, names_in, parse_expression
from ledger.text.yaml_tree import ContractError
from tests.ledger.cel_judge import CASES, VALUES, judged, sample
from tests.ledger.contract_samples import SOURCE, contract, expanded, workload

KINDS: dict[str, Kind] = {
    name: "truth" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"
    for name, value in VALUES.items()
}


def ours(text: str) -> int | bool | str | None:
    part = parse_expression(text)
    kind_of(part, KINDS)
    try:
        return evaluate(part, VALUES)
    except ExpressionError:
        return None


def test_means_what_the_library_said() -> None:
    """400 recorded verdicts of a CEL library, errors among them."""
    rows = json.loads(CASES.read_text())
    assert len(rows) == 400 and 20 < sum(result is None for _, result in rows) < 200
    for text, verdict in rows:
        found = ours(text)
        assert (found, type(found)) == (verdict, type(verdict)), text


@pytest.mark.skipif(importlib.util.find_spec("cel") is None, reason="a CEL library: make setup brings it")
def test_means_what_the_library_says() -> None:
    rng = random.Random()
    for _ in range(2_000):
        text = sample(rng, rng.choice(["number", "truth"]), 4)
        try:
            found = ours(text)
        except ExpressionError as error:
            assert "more than" in str(error), text  # our bounds are tighter
            continue
        assert found == judged(text, UNITS), text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 / none == 1 || fast", True),
        ("fast || 1 / none == 1", True),
        ("1 / none == 1 && slow", False),
        ("1 / none == 1 || slow", None),
        ("1 / none == 1 && fast", None),
        ("fast ? 1 : 1 / none", 1),
        ("less / 2", -3),
        ("less % 3", -1),
        ("large + 1 - 1", None),
        ("-large - 1", -(1 << 63)),
        ("(-large - 1) / -1", None),
        ("1 < 2 == fast", True),
        ("--5", 5),
    ],
)
def test_what_cel_says_at_the_edges(text: str, value: int | bool | None) -> None:
    assert ours(text) == value
    if importlib.util.find_spec("cel") is not None:
        assert judged(text, UNITS) == value


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("", 1, "the end"),
        ("1 +", 4, "the end"),
        ("1 2", 3, "not expected"),
        ("users & 1", 7, "no meaning"),
        ("1.5", 2, "no meaning"),
        ("user + 1", 1, "no parameter or unit user"),
        ("(1 + 2", 7, "')' wanted"),
        ("f(1)", 1, "no function f"),
        ("min(1)", 1, "at least two"),
        ("ceil_div(1, 2, 3)", 1, "two numbers"),
        ("1 + true", 5, "a number wanted here, found a truth"),
        ("tier + 1", 1, "a number wanted here, found a text"),
        ("1 ? 2 : 3", 1, "a condition wanted"),
        ("true ? 2 : 'x'", 12, "a number wanted"),
        ("true ? 2", 9, "':' wanted"),
        ("tier in 'gold'", 9, "'[' wanted"),
        ("tier in []", 10, "a value wanted"),
        ("1 in [1, tier]", 10, "a number wanted"),
        ("9223372036854775808", 1, "64 bits"),
        ("!users", 2, "a truth wanted"),
        ("'a' < 'b'", 1, "a number wanted"),
        ("(" * 40 + "1" + ")" * 40, 17, "levels"),
        ("-" * 101 + "1", 1, "parts"),
        ("1+" * 60 + "1", 100, "parts"),
        ("1" * 501, 1, "characters"),
    ],
)
def test_what_is_refused_and_where(text: str, column: int, words: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        kind_of(parse_expression(text), KINDS)
    assert words in str(caught.value)
    assert abs(caught.value.column - column) <= (1 if "parts" in words else 0)


@given(st.text(alphabet="users tier()[],?:+-*/%<>=!&|'\"0123MiB.\\", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Fuzz: nothing but ExpressionError comes out, and what is read has a kind and a value, or no value."""
    try:
        part = parse_expression(text)
        kind_of(part, KINDS)
        assert set(names_in(part)) <= set(VALUES)
        evaluate(part, VALUES)
    except ExpressionError as error:
        assert 1 <= error.column <= len(text) + 1


def test_the_longest_expression_is_cheap() -> None:
    text = "+".join(["users"] * 50)
    started = time.monotonic()
    for _ in range(128):
        evaluate(parse_expression.__wrapped__(text), VALUES)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("changes", "values", "found"),
    [
        ({"replicas": "${= max(1, ceil_div(replicas, 2))}"}, {"replicas": 4}, ("replicas", 2)),
        ({"replicas": "${= country in ['BE', 'CH'] ? 3 : 1}"}, {"country": "CH"}, ("replicas", 3)),
        ({"environment": {"N": "n=${= replicas * 10};${title}"}}, {}, ("environment", {"N": "n=20;hello"})),
        ({"environment": {"N": "${= title == 'hello'}"}}, {}, ("environment", {"N": "true"})),
        ({"command": ("/bin/busybox", "${= 2 + 1}")}, {}, ("command", ("/bin/busybox", "3"))),
    ],
)
def test_where_a_sizing_rule_stands(changes: dict[str, Any], values: Any, found: tuple[str, Any]) -> None:
    made = expanded(contract(workloads=(workload(**changes),)), values).workloads[0]
    assert getattr(made, found[0]) == found[1]


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"replicas": "${= replicas / 0}"}, "manifest.expression"),
        ({"replicas": "${= replicas * 100}"}, "contract.range"),
        ({"replicas": "${= title}"}, "contract.reference_type"),
        ({"replicas": "${= users}"}, "contract.expression"),
        ({"replicas": "${= 1}${= 2}"}, "contract.reference"),
        ({"environment": {"A": "${= 1 +}"}}, "contract.expression"),
        ({"environment": {"A": "${= 1 % 0}"}}, "manifest.expression"),
        ({"environment": {f"A{n}": "${= 1}${= 2}${= 3}" for n in range(60)}}, "contract.too_many"),
        ({"command": ("/bin/busybox", "x", "${= 0 - replicas}")}, "manifest.option_injection"),
        ({"command": ("/bin/busybox", "sh", "-c", "sleep ${= 1}")}, "contract.shell_parameter"),
    ],
)
def test_what_a_sizing_rule_may_not(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(Refused) as caught:
        expanded(contract(workloads=(workload(**changes),)))
    assert caught.value.rule == rule


def test_an_error_in_a_source_names_line_field_and_column() -> None:
    with pytest.raises(ContractError) as caught:
        parse_contract(SOURCE.replace("replicas: ${replicas}", 'replicas: "${= replcas + 1}"'), "c.yaml")
    assert (
        "c.yaml:18:15: workloads.web.replicas: contract.expression: column 2: no parameter or unit replcas"
        in str(caught.value)
    )
    assert "did you mean 'replicas'?" in str(caught.value)
    with pytest.raises(ContractError) as caught:
        parse_contract(SOURCE.replace("replicas: ${replicas}", "replicas: ${= true ? 1 : 2}"), "c.yaml")
    assert "in quotes, as in" in str(caught.value)
