"""Approval policies: is this tree of k-of-n satisfied by these approvals, and what is missing?

A policy asks for places ("1 of role budget"); one approval fills one place only, where it helps
most. Finding that is a matching of signers to places, searched over the choices of `any`
(augmenting paths: Kuhn 1955; places that can be filled together form a transversal matroid, which
gives the bound that keeps the search short). The search is counted in steps, never in time, so
that all peers decide the same; past POLICY_STEPS_MAX a policy counts as not satisfied.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from ledger.errors import Refused
from ledger.limits import POLICY_STEPS_MAX
from ledger.manifest_types import Policies, Role, Rule
from ledger.policy_match import Goal, Group, Match, TooComplex, child_goal, goal_of

NOT_ASKED = "no approval asked by contract"


class Approval(msgspec.Struct, frozen=True):
    """A signer's last decision. `roles`: those it was signed in; empty: any that the signer holds.

    `expires_ms` is when a grant stops to count (`approval_expiry` gives it); 0: never. A rejection
    stands until its signer decides otherwise.
    """

    signer: bytes
    roles: tuple[str, ...]
    decision: Literal["granted", "rejected", "revoked"]
    expires_ms: int
    time_ms: int


class Decision(msgspec.Struct, frozen=True):
    """What a policy says now. `reasons` names each open rule; `used` is (place, signer) per filled place.

    `rejected`: those who have not rejected can no longer satisfy it.
    """

    satisfied: bool
    rejected: bool
    reasons: tuple[str, ...]
    used: tuple[tuple[str, bytes], ...]


def approval_expiry(policies: Policies, time_ms: int, expires_ms: int) -> int:
    """When a grant made at `time_ms` stops to count: its own expiry, or the policy's validity."""
    return expires_ms or time_ms + policies.validity_s * 1000


def excluded_signers(policies: Policies, author: bytes, consumer: bytes) -> frozenset[bytes]:
    """Keys whose approvals the contract does not count."""
    out: set[bytes] = set()
    if not policies.author_may_approve:
        out.add(author)
    if not policies.consumer_may_approve:
        out.add(consumer)
    return frozenset(out)


def roles_of(roles: Sequence[Role], signer: bytes) -> tuple[str, ...]:
    """Names of the roles that a key holds, in the manifest's order."""
    wanted = signer.hex()
    return tuple(role.name for role in roles if wanted in role.keys)


def evaluate(
    rule: Rule | None,
    roles: Sequence[Role],
    approvals: Iterable[Approval],
    now_ms: int,
    excluded: frozenset[bytes] = frozenset(),
) -> Decision:
    """The decision at `now_ms` (ledger time). Pure; never raises. Unknown signers count for nothing.

    Of several approvals of one signer the last counts.
    """
    if rule is None:
        return Decision(True, False, (NOT_ASKED,), ())
    last: dict[bytes, Approval] = {}
    for approval in approvals:
        held = last.get(approval.signer)
        if held is None or approval.time_ms >= held.time_ms:
            last[approval.signer] = approval
    holders = _holders(roles, excluded)
    granted: dict[bytes, tuple[str, ...]] = {}
    rejecting: set[bytes] = set()
    for signer in sorted(last):
        approval = last[signer]
        mine = holders.get(signer, ())
        if approval.roles:
            mine = tuple(name for name in mine if name in approval.roles)
        if not mine:
            continue
        if approval.decision == "rejected":
            rejecting.add(signer)
        elif approval.decision == "granted" and (not approval.expires_ms or approval.expires_ms > now_ms):
            granted[signer] = mine
    match = _solve(rule, granted)
    if match is not None:
        return Decision(True, False, (), match.used())
    rejected = bool(rejecting) and not _reachable(
        rule, {signer: names for signer, names in holders.items() if signer not in rejecting}
    )
    reasons, used = _open_rules(rule, granted, holders)
    return Decision(False, rejected, reasons, used)


def check_reachable(rule: Rule, roles: Sequence[Role], excluded: frozenset[bytes], field: str) -> None:
    """Raises Refused(manifest.policy_unreachable) when not even all holders together satisfy `rule`."""
    holders = _holders(roles, excluded)
    if _solve(rule, holders) is None:
        reasons, _ = _open_rules(rule, holders, holders)
        raise Refused("manifest.policy_unreachable", "even if all sign: " + "; ".join(reasons), field)


def describe(rule: Rule | None) -> str:
    """A policy in plain words, such as "1 of role budget and any 1 of (role it-expert, role legal)"."""
    if rule is None:
        return "none"
    if rule.role is not None:
        return f"{rule.count} of role {rule.role}"
    if rule.all:
        return " and ".join(_brief(child) for child in rule.all)
    return f"any {rule.count} of ({', '.join(_brief(child) for child in rule.any)})"


def _brief(rule: Rule) -> str:
    if rule.role is not None:
        return f"role {rule.role}" if rule.count == 1 else f"{rule.count} of role {rule.role}"
    return f"({describe(rule)})" if rule.all else describe(rule)


def _holders(roles: Sequence[Role], excluded: frozenset[bytes]) -> dict[bytes, tuple[str, ...]]:
    """Role names by key, without the excluded ones; in the order of keys."""
    out: dict[bytes, tuple[str, ...]] = {}
    for role in roles:
        for text in role.keys:
            key = bytes.fromhex(text)
            if key not in excluded:
                out[key] = (*out.get(key, ()), role.name)
    return dict(sorted(out.items()))


def _groups(signers: dict[bytes, tuple[str, ...]]) -> tuple[Group, ...]:
    """Signers with the same roles are interchangeable: one group with a capacity."""
    by_roles: dict[frozenset[str], list[bytes]] = {}
    for signer, names in signers.items():
        by_roles.setdefault(frozenset(names), []).append(signer)
    ordered = sorted(by_roles.items(), key=lambda item: (len(item[0]), sorted(item[0])))
    return tuple(Group(names, tuple(keys)) for names, keys in ordered)


def _solve(rule: Rule, signers: dict[bytes, tuple[str, ...]]) -> Match | None:
    """A match that satisfies `rule`, or None."""
    try:
        return Match(_groups(signers), POLICY_STEPS_MAX).solve((goal_of(rule),))
    except TooComplex:
        return None


def _reachable(rule: Rule, signers: dict[bytes, tuple[str, ...]]) -> bool:
    """True also when the search is cut: a rejection is final, so it must be certain."""
    try:
        return Match(_groups(signers), POLICY_STEPS_MAX).solve((goal_of(rule),)) is not None
    except TooComplex:
        return True


def _open_rules(
    rule: Rule, signers: dict[bytes, tuple[str, ...]], holders: dict[bytes, tuple[str, ...]]
) -> tuple[tuple[str, ...], tuple[tuple[str, bytes], ...]]:
    """One sentence for each rule that is open, and the places that are filled meanwhile."""
    match = Match(_groups(signers), POLICY_STEPS_MAX)
    reasons: list[str] = []
    try:
        for goal in match.flatten((goal_of(rule),)):
            solved = match.solve((goal,))
            role = goal.rule.role
            if solved is not None:
                match = solved
            elif role is not None:
                match, missing = match.fill(goal)
                held = sum(role in names for names in holders.values())
                known = "" if held >= goal.need else f", which {held} may sign"
                reasons.append(
                    f"needs {missing} {'more ' if missing < goal.need else ''}of role {role}{known}"
                )
            else:
                match, reason = _fill_any(goal, match)
                reasons.append(reason)
    except TooComplex:
        reasons.append("too many combinations to decide this policy with these approvals")
    return tuple(reasons), match.used()


def _fill_any(goal: Goal, match: Match) -> tuple[Match, str]:
    """What an open `any` has, and what it still needs."""
    met = 0
    waiting: list[str] = []
    for index, child in enumerate(goal.rule.any):
        solved = match.solve((child_goal(child, goal.path, "any", index),))
        if solved is not None:
            match, met = solved, met + 1
        else:
            waiting.append(_brief(child))
    return match, f"needs {goal.need - met} {'more ' if met else ''}of any ({', '.join(waiting)})"
