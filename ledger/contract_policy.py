"""Reads `approval:` of a contract's source: the forms of a rule, and `none` where none is asked."""

from __future__ import annotations

from ledger.contract_reader import Reader
from ledger.manifest_types import Policies, Rule
from ledger.quantities import parse_duration, parse_integer
from ledger.yaml_tree import Node, Scalar

VALIDITY_S_DEFAULT = 72 * 3600
_FORMS = "'role: NAME', 'role: NAME' with 'count: N', 'all: [RULE, …]' or 'any: {count: N, of: [RULE, …]}'"


def read_policies(reader: Reader, node: Node | None) -> Policies:
    """Both policies. An act without a rule is a problem: that no approval is asked must be written."""
    optional = ("validity", "author_may_approve", "consumer_may_approve")
    entries = reader.mapping(node, "approval", ("deploy", "signoff"), optional)
    return Policies(
        deploy=_act(reader, entries.get("deploy"), "approval.deploy"),
        signoff=_act(reader, entries.get("signoff"), "approval.signoff"),
        validity_s=reader.parsed(
            entries.get("validity"), "approval.validity", parse_duration, VALIDITY_S_DEFAULT
        ),
        author_may_approve=reader.boolean(
            entries.get("author_may_approve"), "approval.author_may_approve", False
        ),
        consumer_may_approve=reader.boolean(
            entries.get("consumer_may_approve"), "approval.consumer_may_approve", True
        ),
    )


def _act(reader: Reader, node: Node | None, field: str) -> Rule | None:
    if node is None or (isinstance(node, Scalar) and node.text == "none"):
        return None
    if isinstance(node, Scalar):
        reader.report(
            field, "policy.rule", f"one of {_FORMS} wanted", "write 'none' when no approval is asked"
        )
        return None
    return _rule(reader, node, field)


def _rule(reader: Reader, node: Node, field: str) -> Rule | None:
    entries = reader.mapping(node, field, (), ("role", "count", "all", "any"))
    forms = [form for form in ("role", "all", "any") if form in entries]
    if len(forms) != 1:
        reader.report(field, "policy.rule", f"one of {_FORMS} wanted")
        return None
    if "count" in entries and forms != ["role"]:
        reader.report(f"{field}.count", "policy.rule", "count stands beside role, or inside any")
    if forms == ["role"]:
        count = reader.parsed(entries.get("count"), f"{field}.count", parse_integer, 1)
        return Rule(role=reader.text(entries["role"], f"{field}.role"), count=count)
    if forms == ["all"]:
        return _group(reader, Rule(all=_rules(reader, entries["all"], f"{field}.all")), field)
    inside = reader.mapping(entries["any"], f"{field}.any", ("count", "of"))
    children = tuple(
        child
        for index, item in enumerate(_inside(reader, inside.get("of"), f"{field}.any"))
        if (child := _rule(reader, item, f"{field}.any[{index}]")) is not None
    )
    count = reader.parsed(inside.get("count"), f"{field}.any.count", parse_integer, 1)
    return _group(reader, Rule(any=children, count=count), field)


def _inside(reader: Reader, node: Node | None, field: str) -> list[Node]:
    """Items of an `of:` list; their fields are those of the rule, without the `of`."""
    return [item for item, _ in reader.sequence(node, field)]


def _rules(reader: Reader, node: Node, field: str) -> tuple[Rule, ...]:
    items = reader.sequence(node, field)
    return tuple(child for item, path in items if (child := _rule(reader, item, path)) is not None)


def _group(reader: Reader, rule: Rule, field: str) -> Rule | None:
    if not rule.all and not rule.any:
        reader.report(field, "policy.rule", "at least one rule wanted inside")
        return None
    return rule
