"""Approval policies: is this tree of rules satisfied by these approvals, and what is missing?

A policy asks for places ("1 of role budget"); one approval fills one place only, where it helps
most. Finding that is a matching of signers to places, searched over the choices of `any` and the
entries of `weigh` (augmenting paths: Kuhn 1955; places that can be filled together form a transversal
matroid, which gives the bounds that keep the search short). Which approval counts in which place,
and when, is worked out first (`ledger.policies.plan`). The search is counted in steps, never in time,
so that all peers decide the same; past POLICY_STEPS_MAX a policy counts as not satisfied.

[G1] One approval fills one place; those beyond the threshold are recorded all the same.
[G2] A `role` place is filled by an approval signed in that role, a `key` place by any approval of that key;
     a `weigh` needs so much weight of approvals, each counted in one entry.
[G3] Who is excluded by a rule or a rule above it fills no place there: author, consumer, a role, a key.
[G4] An approval counts for a rule until the rule's `expires` after it was accepted.
[G5] In an ordered `all`, a child counts only approvals that stand since a later block than the one at which
     the children before it were met. Who approves anew without a break keeps their turn.
[G6] A rule with a `wait` holds when the standing approvals have met it for so long.
[G7] While a holder of a role with a veto on it rejects, a rule does not hold.
[G8] `auto` holds without a signature, from the order on, when the budget is at most its own and the same
     manifest was approved by signatures at most so long before; otherwise the rules beside it decide.
[G9] In a role that an organisation holds, an approval counts while its signer holds there, without a break,
     what it held when it was given: who leaves takes it along, also when they come back.
[G10] All keys that a member had by rotation sign as one: the last decision counts, and one place is filled.
     Who is excluded by one of its keys is so by all, also by those that were lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from ledger.errors import Refused
from ledger.policies.match import Match, Node, TooComplex, goal_of
from ledger.policies.people import EACH_KEY_ONE_PERSON, NOTHING, Held, People, Roll
from ledger.policies.plan import About, Grant, Plan
from ledger.policies.types import Policies, Role, Rule
from ledger.policies.words import brief, describe

__all__ = ["About", "describe"]

NOT_ASKED = "no approval asked by contract"
NO_ONE = About()


class Approval(msgspec.Struct, frozen=True):
    """A signer's last decision. `roles`: those it was signed in; empty: any that the signer holds.

    `expires_ms` is when a grant stops to count (`approval_expiry` gives it); 0: never. A rejection
    stands until its signer decides otherwise. `since_ms`: since when the signer grants without a break
    (`standing_since` gives it); 0: since `time_ms`. `number`: of the decisions on the deployment it is this
    one. `seat`: what the signer held in the organisation that holds the role (ledger.policies.people.Roll).
    """

    signer: bytes
    roles: tuple[str, ...]
    decision: Literal["granted", "rejected", "revoked"]
    expires_ms: int
    time_ms: int
    since_ms: int = 0
    number: int = 0
    seat: Held = NOTHING

    @property
    def order(self) -> tuple[int, int]:
        """Smaller: decided earlier."""
        return self.time_ms, self.number


class Decision(msgspec.Struct, frozen=True):
    """What a policy says now. `reasons` names each open rule; `used` is (place, signer) per filled place.

    `rejected`: those who have not rejected can no longer satisfy it. `next_ms`: when a wait or an expiry
    of the policy's own may change this; 0: none to come.
    """

    satisfied: bool
    rejected: bool
    reasons: tuple[str, ...]
    used: tuple[tuple[str, bytes], ...]
    next_ms: int = 0


def approval_expiry(policies: Policies, time_ms: int, expires_ms: int) -> int:
    """When a grant made at `time_ms` stops to count: its own expiry, or the policy's validity."""
    return expires_ms or time_ms + policies.validity_s * 1000


def standing_since(former: Approval | None, latest: Approval) -> int:
    """[G5] Since when a signer grants in a role without a break, given the decision before the latest."""
    if (
        former is None
        or (former.decision, latest.decision) != ("granted", "granted")
        or former.roles != latest.roles
        or (former.expires_ms and former.expires_ms <= latest.time_ms)
    ):
        return latest.time_ms
    return former.since_ms or former.time_ms


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


def rules_in(rule: Rule | None) -> Iterator[Rule]:
    """A rule and all below it."""
    pending = [] if rule is None else [rule]
    while pending:
        node = pending.pop()
        yield node
        pending += (*node.any, *node.all)


def named_keys(rule: Rule | None) -> frozenset[bytes]:
    """Keys that a policy names themselves, without a role."""
    out: set[bytes] = set()
    for node in rules_in(rule):
        out |= {bytes.fromhex(key) for key in (node.key, *(entry.key for entry in node.weigh)) if key}
    return frozenset(out)


def evaluate(
    rule: Rule | None,
    roles: Sequence[Role],
    approvals: Iterable[Approval],
    now_ms: int,
    excluded: frozenset[bytes] = frozenset(),
    about: About = NO_ONE,
    people: People = EACH_KEY_ONE_PERSON,
) -> Decision:
    """The decision at `now_ms` (ledger time). Pure; never raises. Unknown signers count for nothing.

    Of several approvals of one signer the last counts; `people` says which keys are one.
    """
    if rule is None:
        return Decision(True, False, (NOT_ASKED,), ())
    last = latest(approvals, people)
    names = _names(rule, roles)
    holders = _holders(names, excluded, people)
    granted: dict[bytes, Grant] = {}
    rejecting: dict[bytes, tuple[str, ...]] = {}
    for signer in sorted(last):
        approval = last[signer]
        mine = names.get(approval.signer, frozenset()) if signer in holders else frozenset()
        if approval.roles:
            mine = frozenset(x for x in mine if x.startswith("key ") or x[5:] in approval.roles)
        if not mine:
            continue
        if approval.decision == "rejected":
            rejecting[signer] = tuple(x[5:] for x in mine if x.startswith("role "))
        elif approval.decision == "granted" and (not approval.expires_ms or approval.expires_ms > now_ms):
            granted[signer] = Grant(mine, approval.since_ms or approval.time_ms, approval.time_ms)
    try:
        plan = Plan(rule, roles, granted, rejecting, about, now_ms, people)
        match = plan.match(now_ms).solve((goal_of(plan.root),))
    except TooComplex:
        reasons: tuple[str, ...] = ("too many combinations to decide this policy with these approvals",)
        return Decision(False, False, reasons, ())
    if match is not None:
        return Decision(True, False, (), _signed(match.used(), last), plan.next_ms())
    rejected = False
    if rejecting:
        others = {s: Grant(names, 0, 0) for s, names in holders.items() if s not in rejecting}
        rejected = not _reachable(Plan(rule, roles, others, rejecting, about, now_ms, people, ever=True))
    reasons, used = _open_rules(plan, rule, holders, now_ms)
    return Decision(False, rejected, reasons, _signed(used, last), plan.next_ms())


def latest(approvals: Iterable[Approval], people: People) -> dict[bytes, Approval]:
    """[G10] The last decision of each signer, by the key that stands for them."""
    last: dict[bytes, Approval] = {}
    for approval in approvals:
        signer = people.one(approval.signer)
        held = last.get(signer)
        if held is None or approval.order >= held.order:
            last[signer] = approval
    return last


def _signed(
    used: Iterable[tuple[str, bytes]], last: Mapping[bytes, Approval]
) -> tuple[tuple[str, bytes], ...]:
    """Places with the keys that signed."""
    return tuple((place, last[signer].signer) for place, signer in used)


def judge(
    policies: Policies,
    act: str,
    roll: Roll,
    approvals: Iterable[Approval],
    now_ms: int,
    about: About,
) -> Decision:
    """`evaluate` for an act of a deployment: with those excluded whom its policies exclude, and of those who
    hold a role in an organisation, what they signed as its members of now ([G9])."""
    excluded = excluded_signers(policies, about.author, about.consumer)
    theirs = [x for x in approvals if all(roll.belongs(role, x.signer, x.seat) for role in x.roles)]
    last = latest(theirs, roll.people).values()
    given = [x for x in last if all(roll.counts(role, x.signer, x.seat) for role in x.roles)]
    return evaluate(policies.of(act), roll.roles, given, now_ms, excluded, about, roll.people)


def check_reachable(
    rule: Rule,
    roles: Sequence[Role],
    excluded: frozenset[bytes],
    field: str,
    about: About = NO_ONE,
    people: People = EACH_KEY_ONE_PERSON,
) -> None:
    """Raises Refused(manifest.policy_unreachable) when not even all holders together satisfy `rule`."""
    holders = _holders(_names(rule, roles), excluded, people)
    grants = {signer: Grant(names, 0, 0) for signer, names in holders.items()}
    try:
        plan = Plan(rule, roles, grants, {}, about, 0, people, ever=True)
        solved = plan.match(0).solve((goal_of(plan.root),))
    except TooComplex:
        raise Refused("manifest.policy_unreachable", "too many combinations to decide it", field) from None
    if solved is None:
        reasons, _ = _open_rules(plan, rule, holders, 0)
        raise Refused("manifest.policy_unreachable", "even if all sign: " + "; ".join(reasons), field)


def _names(rule: Rule, roles: Sequence[Role]) -> dict[bytes, frozenset[str]]:
    """What each key may count for, in the order of keys."""
    out: dict[bytes, set[str]] = {}
    for role in roles:
        for text in role.keys:
            out.setdefault(bytes.fromhex(text), set()).add(f"role {role.name}")
    for key in named_keys(rule):
        out.setdefault(key, set()).add(f"key {key.hex()}")
    return {key: frozenset(names) for key, names in sorted(out.items())}


def _holders(
    names: Mapping[bytes, frozenset[str]], excluded: frozenset[bytes], people: People
) -> dict[bytes, frozenset[str]]:
    """The same by signer, without the excluded ones."""
    out: dict[bytes, frozenset[str]] = {}
    kept_out = people.kept_out(excluded)
    for key, found in names.items():
        signer = people.one(key)
        if signer not in kept_out:
            out[signer] = out.get(signer, frozenset()) | found
    return dict(sorted(out.items()))


def _reachable(plan: Plan) -> bool:
    """True also when the search is cut: a rejection is final, so it must be certain."""
    try:
        return plan.match(0).solve((goal_of(plan.root),)) is not None
    except TooComplex:
        return True


# ---------------------------------------------------------------------- what is missing, in words


def _open_rules(
    plan: Plan, rule: Rule, holders: dict[bytes, frozenset[str]], now_ms: int
) -> tuple[tuple[str, ...], tuple[tuple[str, bytes], ...]]:
    """One sentence for each rule that is open, and the places that are filled meanwhile."""
    match = plan.match(now_ms)
    reasons: list[str] = []
    try:
        for goal in match.flatten((goal_of(plan.root),)):
            solved = match.solve((goal,))
            node = goal.node
            if solved is not None:
                match = solved
            elif node.form == "fixed":
                reasons.append(f"needs {node.name}" if not node.name.startswith("veto") else node.name)
            elif node.form == "leaf":
                match, reason = _fill_leaf(plan, node, match, holders)
                reasons.append(reason)
            elif node.form == "weigh":
                match, total = match.heaviest(node)
                names = ", ".join(f"{name[:20]} {weight}" for _, weight, name in node.weights)
                more = "more " if total else ""
                reasons.append(f"needs weight {node.need - total} {more}of ({names}){_waits(plan, node)}")
            else:
                match, reason = _fill_any(plan, node, match, rule)
                reasons.append(reason)
    except TooComplex:
        reasons.append("too many combinations to decide this policy with these approvals")
    return tuple(reasons), match.used()


def _fill_leaf(
    plan: Plan, node: Node, match: Match, holders: dict[bytes, frozenset[str]]
) -> tuple[Match, str]:
    ask = plan.asks[node.ask]
    match, missing = match.fill(node)
    if ask.name.startswith("key "):
        return match, f"needs {ask.name[:20]}{_waits(plan, node)}"
    held = sum(ask.name in names for signer, names in holders.items() if signer not in ask.exclude)
    known = "" if held >= node.need else f", which {held} may sign"
    more = "more " if missing < node.need else ""
    return match, f"needs {missing} {more}of {ask.name}{known}{_waits(plan, node)}"


def _waits(plan: Plan, node: Node) -> str:
    asks = [node.ask] if node.ask >= 0 else [ask for ask, _, _ in node.weights]
    waiting = sum(plan.waiting(ask) for ask in asks)
    return f" ({waiting} given, in their waiting time)" if waiting else ""


def _fill_any(plan: Plan, node: Node, match: Match, root: Rule) -> tuple[Match, str]:
    """What an open `any` has, and what it still needs."""
    met = 0
    waiting: list[str] = []
    rules = _rule_at(root, node.path).any
    for child, rule in zip(node.children, rules, strict=True):
        solved = match.solve((goal_of(child),))
        if solved is not None:
            match, met = solved, met + 1
        else:
            waiting.append(brief(rule) + _waits(plan, child))
    return match, f"needs {node.need - met} {'more ' if met else ''}of any ({', '.join(waiting)})"


def _rule_at(rule: Rule, path: str) -> Rule:
    """The rule at a path such as "all[1].any[0]"."""
    for step in path.split(".") if path else ():
        form, _, index = step[:-1].partition("[")
        rule = (rule.all if form == "all" else rule.any)[int(index)]
    return rule
