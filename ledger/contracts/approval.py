"""Reads `approval:` of a contract's source: the forms of a rule, and `none` where none is asked."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from ledger.contracts.reader import Reader
from ledger.policies.types import Auto, Policies, Rule, Weight
from ledger.text.quantities import parse_duration, parse_integer, parse_money
from ledger.text.yaml_tree import Node, Scalar

VALIDITY_S_DEFAULT: Final = 72 * 3600
_FORMS: Final = (
    "'role: NAME', 'role: NAME' with 'count: N', 'key: HEX', 'all: [RULE, …]', "
    "'any: {count: N, of: [RULE, …]}', "
    "'weigh: {least: N, of: [{role: NAME, weight: N}, …]}' or 'auto: {budget: AMOUNT}'"
)
_KEYS: Final = ("role", "key", "all", "any", "weigh", "auto")
_BESIDE: Final = ("exclude", "expires", "wait", "veto")


def read_policies(reader: Reader, node: Node | None) -> Policies:
    """The policies of all acts. An act without a rule is a problem: that no approval is asked must be
    written. An update without one asks for what the deployment did; results are held back where `release` is
    written only."""
    optional = ("update", "release", "validity", "on_revoked", "author_may_approve", "consumer_may_approve")
    entries = reader.mapping(node, "approval", ("deploy", "signoff", "delete"), optional)
    return Policies(
        deploy=_act(reader, entries.get("deploy"), "approval.deploy"),
        signoff=_act(reader, entries.get("signoff"), "approval.signoff"),
        delete=_act(reader, entries.get("delete"), "approval.delete"),
        update=_act(reader, entries["update"], "approval.update") if "update" in entries else "as_deploy",
        release=_act(reader, entries.get("release"), "approval.release"),
        validity_s=reader.parsed(
            entries.get("validity"), "approval.validity", parse_duration, VALIDITY_S_DEFAULT
        ),
        run_on_s=_on_revoked(reader, entries.get("on_revoked")),
        author_may_approve=reader.boolean(
            entries.get("author_may_approve"), "approval.author_may_approve", False
        ),
        consumer_may_approve=reader.boolean(
            entries.get("consumer_may_approve"), "approval.consumer_may_approve", True
        ),
    )


def _on_revoked(reader: Reader, node: Node | None) -> int:
    """`stop`, or `{run_until: DURATION}`: seconds that what runs goes on without approval."""
    field = "approval.on_revoked"
    if node is None or (isinstance(node, Scalar) and node.text == "stop"):
        return 0
    if isinstance(node, Scalar):
        detail = f"{node.text[:80]!r} is neither 'stop' nor 'run_until: DURATION'"
        reader.report(field, "contract.choice", detail)
        return 0
    entries = reader.mapping(node, field, ("run_until",))
    return reader.parsed(entries.get("run_until"), f"{field}.run_until", parse_duration, 0)


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
    entries = reader.mapping(node, field, (), (*_KEYS, "count", "ordered", *_BESIDE))
    forms = [form for form in _KEYS if form in entries]
    if len(forms) != 1:
        reader.report(field, "policy.rule", f"one of {_FORMS} wanted")
        return None
    form = forms[0]
    if "count" in entries and form != "role":
        reader.report(f"{field}.count", "policy.rule", "count stands beside role, or inside any")
    rule = _form(reader, form, entries, field)
    if rule is None:
        return None
    return replace(
        rule,
        ordered=reader.boolean(entries.get("ordered"), f"{field}.ordered", False),
        exclude=reader.texts(entries.get("exclude"), f"{field}.exclude"),
        expires_s=reader.parsed(entries.get("expires"), f"{field}.expires", parse_duration, 0),
        wait_s=reader.parsed(entries.get("wait"), f"{field}.wait", parse_duration, 0),
        veto=tuple(reader.text(item, path) for item, path in reader.some(entries["veto"], f"{field}.veto"))
        if "veto" in entries
        else (),
    )


def _form(reader: Reader, form: str, entries: dict[str, Node], field: str) -> Rule | None:
    node, where = entries[form], f"{field}.{form}"
    if form == "role":
        count = reader.parsed(entries.get("count"), f"{field}.count", parse_integer, 1)
        return Rule(role=reader.text(node, where), count=count)
    if form == "key":
        return Rule(key=reader.text(node, where))
    if form == "auto":
        inside = reader.mapping(node, where, (), ("budget", "approved_within"))
        budget, within = inside.get("budget"), inside.get("approved_within")
        return Rule(
            auto=Auto(
                budget=None if budget is None else reader.parsed(budget, f"{where}.budget", parse_money, 0),
                approved_within_s=None
                if within is None
                else reader.parsed(within, f"{where}.approved_within", parse_duration, 60),
            )
        )
    if form == "all":
        return _group(reader, Rule(all=_rules(reader, node, where)), field)
    if form == "weigh":
        inside = reader.mapping(node, where, ("least", "of"))
        entries_ = tuple(_weight(reader, item, at) for item, at in _inside(reader, inside.get("of"), where))
        least = reader.parsed(inside.get("least"), f"{where}.least", parse_integer, 1)
        return _group(reader, Rule(weigh=entries_, count=least), field)
    inside = reader.mapping(node, where, ("count", "of"))
    children = tuple(
        child
        for item, at in _inside(reader, inside.get("of"), where)
        if (child := _rule(reader, item, at)) is not None
    )
    count = reader.parsed(inside.get("count"), f"{where}.count", parse_integer, 1)
    return _group(reader, Rule(any=children, count=count), field)


def _weight(reader: Reader, node: Node, field: str) -> Weight:
    entries = reader.mapping(node, field, ("weight",), ("role", "key"))
    role, key = entries.get("role"), entries.get("key")
    return Weight(
        weight=reader.parsed(entries.get("weight"), f"{field}.weight", parse_integer, 1),
        role=None if role is None else reader.text(role, f"{field}.role"),
        key=None if key is None else reader.text(key, f"{field}.key"),
    )


def _inside(reader: Reader, node: Node | None, field: str) -> list[tuple[Node, str]]:
    """Items of an `of:` list; their fields are those of the rule, without the `of`."""
    return [(item, f"{field}[{index}]") for index, (item, _) in enumerate(reader.sequence(node, field))]


def _rules(reader: Reader, node: Node, field: str) -> tuple[Rule, ...]:
    items = reader.sequence(node, field)
    return tuple(child for item, path in items if (child := _rule(reader, item, path)) is not None)


def _group(reader: Reader, rule: Rule, field: str) -> Rule | None:
    if not rule.all and not rule.any and not rule.weigh:
        reader.report(field, "policy.rule", "at least one rule wanted inside")
        return None
    return rule
