"""Approval policies in plain words, for people who sign."""

from __future__ import annotations

import msgspec

from ledger.policies.types import Auto, Policies, Rule, Weight
from ledger.text.quantities import credits_text

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


def describe(rule: Rule | None) -> str:
    """A policy in plain words, such as "1 of role budget and any 1 of (role it-expert, role legal)"."""
    if rule is None:
        return "none"
    return _plain(rule) + _beside(rule)


def brief(rule: Rule) -> str:
    """A rule inside another, such as "role legal" or "2 of role legal"."""
    if rule.role is not None and rule.count == 1:
        return f"role {rule.role}{_beside(rule)}"
    return f"({describe(rule)})" if rule.all else describe(rule)


def weights_text(entries: tuple[Weight, ...]) -> str:
    """Who weighs what, such as "role board 2, key 1f2e3d4c 1"."""
    return ", ".join(f"{_who(entry)} {entry.weight}" for entry in entries)


class PolicyLine(msgspec.Struct, frozen=True):
    """A rule of a policy as a line of its outline. `path`: where it stands, as `Decision.used` names it;
    `signs`: it is filled by signatures itself, and not by the lines below it."""

    depth: int
    path: str
    words: str
    signs: bool


def outline(rule: Rule | None, path: str = "", depth: int = 0) -> tuple[PolicyLine, ...]:
    """A policy as a tree in lines, each rule above those inside it; none for no policy."""
    if rule is None:
        return ()
    inside = [("all", child) for child in rule.all] + [("any", child) for child in rule.any]
    lines = [PolicyLine(depth, path, _heading(rule) + _beside(rule), not inside and rule.auto is None)]
    for index, (form, child) in enumerate(inside):
        below = f"{form}[{index}]"
        lines += outline(child, f"{path}.{below}" if path else below, depth + 1)
    return tuple(lines)


def _heading(rule: Rule) -> str:
    if rule.role is not None:
        many = "one signature" if rule.count == 1 else f"{rule.count} signatures"
        return f"{many} of role {rule.role}"
    if rule.key is not None:
        return f"the signature of key {rule.key[:16]}"
    if rule.weigh:
        return f"signatures that weigh {rule.count} together, of {weights_text(rule.weigh)}"
    if rule.all:
        return "all of these, one after the other:" if rule.ordered else "all of these:"
    return f"any {rule.count} of these:" if rule.any else _plain(rule)


def describe_rest(policies: Policies) -> str:
    """What holds beside the rules: how long approvals count, who does not, what a lost approval does."""
    parts = [f"an approval counts {span(policies.validity_s)}"]
    parts += ["the author's does not count"] if not policies.author_may_approve else []
    parts += ["the consumer's does not count"] if not policies.consumer_may_approve else []
    parts += [] if policies.release is None else [f"results are released by {describe(policies.release)}"]
    lost = f"runs on for {span(policies.run_on_s)}" if policies.run_on_s else "is stopped at once"
    return "; ".join([*parts, f"without approval what runs {lost}"])


def span(seconds: int) -> str:
    """A duration in its largest whole unit, such as 3 d."""
    for size, unit in _UNITS:
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _who(entry: Weight) -> str:
    return f"role {entry.role}" if entry.role is not None else f"key {(entry.key or '')[:16]}"


def _plain(rule: Rule) -> str:
    if rule.role is not None:
        return f"{rule.count} of role {rule.role}"
    if rule.key is not None:
        return f"key {rule.key[:16]}"
    if rule.auto is not None:
        return _auto(rule.auto)
    if rule.weigh:
        return f"weight {rule.count} of ({weights_text(rule.weigh)})"
    if rule.all:
        return (", then " if rule.ordered else " and ").join(brief(child) for child in rule.all)
    return f"any {rule.count} of ({', '.join(brief(child) for child in rule.any)})"


def _auto(auto: Auto) -> str:
    parts = []
    if auto.budget is not None:
        parts.append(f"the budget is at most {credits_text(auto.budget)} credits")
    if auto.approved_within_s is not None:
        parts.append(f"the same manifest was approved within {span(auto.approved_within_s)} before the order")
    return f"nobody when {' and '.join(parts)}"


def _beside(rule: Rule) -> str:
    parts = []
    if rule.exclude:
        parts.append("not counting " + ", ".join(word.replace(":", " ")[:21] for word in rule.exclude))
    if rule.expires_s:
        parts.append(f"each for {span(rule.expires_s)}")
    if rule.wait_s:
        parts.append(f"after a wait of {span(rule.wait_s)}")
    if rule.veto:
        parts.append("unless vetoed by role " + ", ".join(rule.veto))
    return f" [{'; '.join(parts)}]" if parts else ""
