"""No code of the ledger refuses by an unregistered rule, and no registered rule is dead."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from ledger.rules import RULES

# Where a rule's name stands among the arguments of what refuses, directly or for a caller.
POSITIONS = {
    "Refused": 0,
    "ContractError": 0,
    "TemplateError": 0,
    "report": 1,
    "refuse": 1,
    "_Stop": 1,
    "need": 2,
    "load": 2,
    "Problem": 2,
    "_add": 2,
}
SUFFIXES = ("too_long", "malformed", "not_canonical")  # what decode_exact adds to its family
RULE = re.compile(r"[a-z_]+\.[a-z_]+")


def constants(node: ast.AST) -> Iterator[str]:
    """Rule names in an expression: a string, or the branches of a choice."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and RULE.fullmatch(node.value):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from constants(node.body)
        yield from constants(node.orelse)


def rules_in(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "rule" for t in node.targets):
            yield from constants(node.value)
        if isinstance(node, ast.keyword) and node.arg == "rule":
            yield from constants(node.value)
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        place = POSITIONS.get(name)
        if place is not None and len(node.args) > place:
            yield from constants(node.args[place])
        if name in ("decode_exact", "decode_exact_json") and isinstance(node.args[2], ast.Constant):
            yield from (f"{node.args[2].value!s}.{suffix}" for suffix in SUFFIXES)


def found(checkout: Path) -> dict[str, str]:
    return {
        rule: path.name
        for path in sorted((checkout / "ledger").rglob("*.py"))
        if path.name != "rules.py"
        for rule in rules_in(path.read_text())
    }


def test_every_refusal_is_registered(checkout: Path) -> None:
    unknown = {rule: file for rule, file in found(checkout).items() if rule not in RULES}
    assert not unknown, f"add to ledger/rules.py: {unknown}"


def test_no_registered_rule_is_dead(checkout: Path) -> None:
    assert not set(RULES) - set(found(checkout))


def test_the_scan_sees_each_form() -> None:
    source = """
rule = "a.b" if x else "c.d"
raise Refused("e.f", "g.h")
report("field.path", "i.j", "")
env.need(Kind, key, "k.l")
decode_exact(Kind, data, "m", 1)
decode_exact_json(Kind, data, "n", 1, "field")
"""
    assert set(rules_in(source)) == {
        "a.b", "c.d", "e.f", "i.j", "k.l",
        "m.too_long", "m.malformed", "m.not_canonical", "n.too_long", "n.malformed", "n.not_canonical"
    }  # fmt: skip


def test_explanations_are_one_line() -> None:
    for rule, text in RULES.items():
        assert RULE.fullmatch(rule)
        assert 5 < len(text) < 100
        assert "\n" not in text
