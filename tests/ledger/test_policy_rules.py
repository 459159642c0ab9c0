"""What a rule may ask beyond roles and counts: rules G1-G8, each alone and against a brute-force judge."""

import itertools
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import Refused
from ledger.manifests.check import Report
from ledger.manifests.types import Policies, Role, Rule
from ledger.policies.check import check_policies
from ledger.policies.decision import (
    About,
    Approval,
    check_reachable,
    describe,
    evaluate,
    named_keys,
    standing_since,
)
from ledger.policies.types import Auto, Weight

A, B, C, D = (bytes([n]) * 32 for n in range(1, 5))
HOUR_MS = 3_600_000
NOW = 100 * HOUR_MS


def role(name: str, *holders: bytes) -> Role:
    return Role(name=name, keys=tuple(key.hex() for key in holders))


ROLES = (role("budget", A), role("it", B), role("legal", C), role("board", A, B, C))
BUDGET, IT, LEGAL = Rule(role="budget"), Rule(role="it"), Rule(role="legal")


def grant(signer: bytes, *roles: str, at_ms: int = 1, since_ms: int = 0, expires_ms: int = 0) -> Approval:
    return Approval(signer, roles, "granted", expires_ms, at_ms, since_ms)


def reject(signer: bytes, *roles: str) -> Approval:
    return Approval(signer, roles, "rejected", 0, 1)


def holds(rule: Rule, *approvals: Approval, now_ms: int = NOW, about: About | None = None) -> bool:
    return evaluate(rule, ROLES, approvals, now_ms, frozenset(), about or About()).satisfied


# ---------------------------------------------------------------------- keys and weights


def test_a_named_key() -> None:
    """[G2]"""
    rule = Rule(all=(Rule(key=D.hex()), IT))
    assert named_keys(rule) == {D}
    assert holds(rule, grant(D, ""), grant(B, "it"))
    assert not holds(rule, grant(C, "legal"), grant(B, "it"))
    assert evaluate(rule, ROLES, [grant(B)], NOW).reasons == (f"needs key {D.hex()[:16]}",)
    # The key counts whatever role it signed in, but for one place only.
    both = Rule(all=(Rule(key=B.hex()), IT))
    assert not holds(both, grant(B, "it"))
    assert holds(Rule(key=B.hex()), grant(B, "it"))


def test_weights_of_roles_and_keys() -> None:
    """[G2]"""
    rule = Rule(weigh=(Weight(weight=2, role="board"), Weight(weight=3, key=D.hex())), count=5)
    assert holds(rule, grant(A), grant(D))
    assert holds(rule, grant(A), grant(B), grant(C))
    assert not holds(rule, grant(A), grant(B))
    missing = evaluate(rule, ROLES, [grant(A), grant(B)], NOW)
    assert missing.reasons[0].startswith("needs weight 1 more of (key:")
    assert describe(rule) == f"weight 5 of (role board 2, key {D.hex()[:16]} 3)"


def test_a_signer_weighs_once_and_where_it_helps() -> None:
    """[G1] A could count in both weights; only one of the two ways satisfies both."""
    first = Rule(weigh=(Weight(weight=3, role="budget"), Weight(weight=3, role="it")), count=3)
    second = Rule(weigh=(Weight(weight=5, role="budget"),), count=5)
    assert holds(Rule(all=(first, second)), grant(A), grant(B))
    assert not holds(Rule(all=(first, second)), grant(A))


# ---------------------------------------------------------------------- exclusions and expiry


def test_exclusions_hold_below_their_rule_only() -> None:
    """[G3]"""
    about = About(author=A, consumer=B)
    rule = Rule(all=(Rule(role="board", exclude=("author",)), Rule(role="board")))
    assert not holds(rule, grant(A), about=about)
    assert holds(rule, grant(A), grant(B), about=about)
    for word in ("author", "role:budget", f"key:{A.hex()}"):
        assert not holds(Rule(role="board", exclude=(word,)), grant(A), about=about), word
        assert holds(Rule(role="board", exclude=(word,)), grant(B), about=about), word
    assert not holds(Rule(any=(Rule(role="board"),), exclude=("consumer",)), grant(B), about=about)


def test_an_approval_counts_for_a_rule_until_the_rule_says() -> None:
    """[G4]"""
    rule = Rule(all=(Rule(role="it", expires_s=3_600), BUDGET))
    given_ = (grant(B, at_ms=NOW), grant(A, at_ms=NOW))
    decision = evaluate(rule, ROLES, given_, NOW + HOUR_MS - 1)
    assert (decision.satisfied, decision.next_ms) == (True, NOW + HOUR_MS)
    assert not holds(rule, *given_, now_ms=NOW + HOUR_MS)
    # The shortest of the rules above counts.
    nested = Rule(all=(Rule(role="it", expires_s=7_200),), expires_s=3_600)
    assert not holds(nested, grant(B, at_ms=NOW), now_ms=NOW + HOUR_MS)


# ---------------------------------------------------------------------- order


def test_order() -> None:
    """[G5]"""
    rule = Rule(all=(LEGAL, IT, BUDGET), ordered=True)
    assert holds(rule, grant(C, at_ms=1), grant(B, at_ms=2), grant(A, at_ms=3))
    for times in itertools.permutations((1, 2, 3)):
        given_ = [grant(key, at_ms=at_ms) for key, at_ms in zip((C, B, A), times, strict=True)]
        assert holds(rule, *given_) == (times == (1, 2, 3)), times
    same = evaluate(rule, ROLES, [grant(C, at_ms=1), grant(B, at_ms=1)], NOW)
    assert not same.satisfied, "the same block is not later"
    early = evaluate(rule, ROLES, [grant(B, at_ms=1), grant(A, at_ms=2)], NOW)
    assert early.reasons[0] == "needs 1 of role legal"
    assert not early.rejected


def test_who_renews_without_a_break_keeps_the_turn() -> None:
    """[G5]"""
    rule = Rule(all=(LEGAL, IT), ordered=True)
    first, again = grant(C, "legal", at_ms=1, expires_ms=10), grant(C, "legal", at_ms=5)
    assert standing_since(first, again) == 1
    assert holds(rule, grant(C, at_ms=5, since_ms=1), grant(B, at_ms=2))
    assert standing_since(first, grant(C, "legal", at_ms=10)) == 10, "it had expired"
    assert standing_since(first, grant(C, "board", at_ms=5)) == 5, "another role"
    assert standing_since(Approval(C, (), "revoked", 0, 1), again) == 5
    assert standing_since(None, again) == 5
    assert not holds(rule, grant(C, at_ms=5), grant(B, at_ms=2))


def test_an_order_inside_an_order_and_with_a_wait() -> None:
    inner = Rule(all=(LEGAL, IT), ordered=True)
    rule = Rule(all=(inner, BUDGET), ordered=True)
    assert holds(rule, grant(C, at_ms=1), grant(B, at_ms=2), grant(A, at_ms=3))
    assert not holds(rule, grant(C, at_ms=1), grant(B, at_ms=3), grant(A, at_ms=2))
    waits = Rule(all=(Rule(role="legal", wait_s=3_600), BUDGET), ordered=True)
    assert not holds(waits, grant(C, at_ms=1), grant(A, at_ms=HOUR_MS)), "given before the wait was over"
    assert holds(waits, grant(C, at_ms=1), grant(A, at_ms=HOUR_MS + 2))


# ---------------------------------------------------------------------- wait and veto


def test_wait() -> None:
    """[G6]"""
    rule = Rule(all=(BUDGET, IT), wait_s=3_600)
    given_ = (grant(A, at_ms=NOW - HOUR_MS), grant(B, at_ms=NOW))
    early = evaluate(rule, ROLES, given_, NOW + HOUR_MS - 1)
    assert (early.satisfied, early.rejected, early.next_ms) == (False, False, NOW + HOUR_MS)
    assert early.reasons == ("needs 1 of role it (1 given, in their waiting time)",)
    assert holds(rule, *given_, now_ms=NOW + HOUR_MS)
    nested = Rule(all=(Rule(role="it", wait_s=3_600),), wait_s=3_600)
    assert not holds(nested, grant(B, at_ms=NOW), now_ms=NOW + 2 * HOUR_MS - 1)
    assert holds(nested, grant(B, at_ms=NOW), now_ms=NOW + 2 * HOUR_MS)


def test_veto() -> None:
    """[G7]"""
    rule = Rule(all=(BUDGET, IT), veto=("legal",))
    assert holds(rule, grant(A), grant(B))
    vetoed = evaluate(rule, ROLES, [grant(A), grant(B), reject(C)], NOW)
    assert (vetoed.satisfied, vetoed.rejected, vetoed.reasons) == (False, True, ("vetoed by role legal",))
    assert holds(rule, grant(A), grant(B), reject(C, "board")), "not as legal"
    assert holds(rule, grant(A), grant(B), grant(C)), "thought better of"
    branch = Rule(any=(Rule(role="it", veto=("legal",)), BUDGET))
    assert holds(branch, grant(A), reject(C)), "the other branch is free of it"
    assert not evaluate(branch, ROLES, [grant(B), reject(C)], NOW).rejected


# ---------------------------------------------------------------------- auto


def test_auto_by_price_with_escalation() -> None:
    """[G8]"""
    rule = Rule(any=(Rule(auto=Auto(budget=100)), BUDGET))
    assert holds(rule, about=About(budget=100))
    assert not holds(rule, about=About(budget=101))
    assert holds(rule, grant(A), about=About(budget=101))
    dear = evaluate(rule, ROLES, [], NOW, frozenset(), About(budget=101))
    assert dear.reasons[0].startswith("needs 1 of any (nobody when the budget is at most 0.0001 credits")


def test_auto_by_precedent_and_wait() -> None:
    """[G8] [D9]"""
    rule = Rule(auto=Auto(approved_within_s=3_600))
    assert not holds(rule, about=About(ordered_ms=NOW))
    assert holds(rule, about=About(ordered_ms=NOW, precedent_ms=NOW - HOUR_MS))
    assert not holds(rule, about=About(ordered_ms=NOW, precedent_ms=NOW - HOUR_MS - 1))
    both = Rule(auto=Auto(approved_within_s=3_600, budget=5))
    assert not holds(both, about=About(budget=6, ordered_ms=NOW, precedent_ms=NOW - 1))
    window = Rule(auto=Auto(budget=5), wait_s=3_600, veto=("legal",))
    waiting = evaluate(window, ROLES, [], NOW, frozenset(), About(ordered_ms=NOW))
    assert (waiting.satisfied, waiting.next_ms) == (False, NOW + HOUR_MS)
    assert holds(window, now_ms=NOW + HOUR_MS, about=About(ordered_ms=NOW))
    assert not holds(window, reject(C), now_ms=NOW + HOUR_MS, about=About(ordered_ms=NOW))


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("rule", "refusal", "field"),
    [
        (Rule(), "policy.rule", ""),
        (Rule(role="it", key=A.hex()), "policy.rule", ""),
        (Rule(role="it", count=0), "policy.count", ".count"),
        (Rule(any=(IT,), count=0), "policy.count", ".any.count"),
        (Rule(weigh=(Weight(weight=1, role="it"),), count=0), "policy.count", ".weigh.least"),
        (Rule(weigh=(Weight(weight=1, key=A.hex()),), count=2), "policy.count", ".weigh.least"),
        (Rule(weigh=(Weight(weight=0, role="it"),)), "policy.count", ".weigh[0].weight"),
        (Rule(weigh=(Weight(weight=1, role="it", key=A.hex()),)), "policy.rule", ".weigh[0]"),
        (Rule(weigh=(Weight(weight=1, role="no"),)), "policy.unknown_role", ".weigh[0].role"),
        (Rule(weigh=(Weight(weight=1, role="it"),) * 2), "contract.duplicate", ".weigh"),
        (Rule(key="12"), "contract.role_keys", ".key"),
        (Rule(key=A.hex(), count=2), "policy.count", ".count"),
        (Rule(all=(IT,), count=2), "policy.count", ".count"),
        (Rule(auto=Auto()), "policy.rule", ".auto"),
        (Rule(auto=Auto(budget=-1)), "contract.range", ".auto.budget"),
        (Rule(all=(Rule(auto=Auto(budget=1)), IT), ordered=True), "policy.rule", ".all[0]"),
        (Rule(role="it", ordered=True), "policy.rule", ".ordered"),
        (Rule(role="it", exclude=("king",)), "policy.rule", ".exclude[0]"),
        (Rule(role="it", exclude=("role:no",)), "policy.unknown_role", ".exclude[0]"),
        (Rule(role="it", veto=("no",)), "policy.unknown_role", ".veto[0]"),
        (Rule(role="it", veto=("it", "it")), "policy.rule", ".veto"),
        (Rule(role="it", expires_s=5), "contract.range", ".expires"),
        (Rule(role="it", wait_s=-1), "contract.range", ".wait"),
        (Rule(role="it", wait_s=72 * 3_600), "policy.wait", ".wait"),
        (Rule(all=(Rule(role="it", expires_s=3_600),), wait_s=3_600), "policy.wait", ".all[0].wait"),
    ],
)
def test_a_wrong_rule_is_told(rule: Rule, refusal: str, field: str) -> None:
    found: list[tuple[str, str]] = []

    def report(where: str, which: str, _: str, way: str = "", /) -> None:
        found.append((where, which))

    told: Report = report
    check_policies(Policies(deploy=rule, signoff=None), [r.name for r in ROLES], told)
    assert (f"approval.deploy{field}", refusal) in found


def test_a_signoff_is_never_automatic_and_a_run_on_is_bounded() -> None:
    found: list[tuple[str, str]] = []
    policies = Policies(deploy=None, signoff=Rule(auto=Auto(budget=1)), run_on_s=-1)
    check_policies(policies, [], lambda where, which, _: found.append((where, which)))
    assert found == [("approval.signoff", "policy.rule"), ("approval.on_revoked", "contract.range")]


def test_unreachable_for_weights_exclusions_and_auto() -> None:
    for rule in (
        Rule(weigh=(Weight(weight=1, role="board"),), count=4),
        Rule(role="budget", exclude=("role:board",)),
        Rule(auto=Auto(budget=5)),
        Rule(auto=Auto(approved_within_s=60)),
    ):
        with pytest.raises(Refused, match="policy_unreachable"):
            check_reachable(rule, ROLES, frozenset(), "approval.deploy", About(budget=6))
    check_reachable(Rule(all=(IT, BUDGET), ordered=True, wait_s=60), ROLES, frozenset(), "approval.deploy")


def test_a_policy_that_is_too_much_to_decide_is_never_ordered() -> None:
    """It would count as not satisfied for ever (POLICY_STEPS_MAX), whoever signs."""
    everybody = [bytes([9, n]) * 16 for n in range(12)]
    roles = [role(f"r{n}", *everybody) for n in range(4)]
    entries = tuple(Weight(role=f"r{n}", weight=5 - n) for n in range(4))
    check_reachable(Rule(all=(Rule(weigh=entries, count=15),) * 4), roles, frozenset(), "approval.deploy")
    with pytest.raises(Refused, match=r"policy_unreachable at approval\.deploy: too many combinations"):
        check_reachable(Rule(all=(Rule(weigh=entries, count=16),) * 4), roles, frozenset(), "approval.deploy")


def test_words() -> None:
    rule = Rule(
        all=(LEGAL, Rule(role="it", expires_s=86_400)),
        ordered=True,
        wait_s=60,
        veto=("board",),
        exclude=("author",),
    )
    assert describe(rule) == (
        "role legal, then role it [each for 1 d] "
        "[not counting author; after a wait of 1 min; unless vetoed by role board]"
    )


# ---------------------------------------------------------------------- against a judge that tries everything


def options(rule: Rule) -> list[list[str]]:
    """Every multiset of places ("role x" or "key …") that satisfies a rule, small ones first."""
    if rule.role is not None:
        return [[f"role {rule.role}"] * rule.count]
    if rule.key is not None:
        return [[f"key {rule.key}"]]
    if rule.weigh:
        names = [f"role {w.role}" if w.role else f"key {w.key}" for w in rule.weigh]
        counts = itertools.product(*(range(6 if w.role else 2) for w in rule.weigh))
        return [
            [name for name, count in zip(names, chosen, strict=True) for _ in range(count)]
            for chosen in counts
            if sum(w.weight * count for w, count in zip(rule.weigh, chosen, strict=True)) >= rule.count
        ]
    groups = [rule.all] if rule.all else list(itertools.combinations(rule.any, rule.count))
    return [
        list(itertools.chain(*chosen))
        for group in groups
        for chosen in itertools.product(*(options(child) for child in group))
    ]


def fills(wanted: Sequence[str], signers: dict[bytes, set[str]]) -> bool:
    if len(wanted) > len(signers):
        return False
    return not wanted or any(
        fills(wanted[1:], {k: v for k, v in signers.items() if k != signer})
        for signer, names in signers.items()
        if wanted[0] in names
    )


WEIGHTS = st.lists(
    st.builds(lambda r, w: Weight(role=r, weight=w), st.sampled_from("abc"), st.integers(1, 3)),
    min_size=1, max_size=2, unique_by=lambda w: w.role,
)  # fmt: skip
LEAVES = (
    st.builds(lambda name, count: Rule(role=name, count=count), st.sampled_from("abc"), st.integers(1, 2))
    | st.sampled_from((Rule(key=A.hex()), Rule(key=B.hex())))
    | st.builds(lambda entries, least: Rule(weigh=tuple(entries), count=least), WEIGHTS, st.integers(1, 6))
)


def _groups(children: st.SearchStrategy[Rule]) -> st.SearchStrategy[Rule]:
    several = st.lists(children, min_size=1, max_size=3).map(tuple)
    return st.builds(lambda c: Rule(all=c), several) | several.flatmap(
        lambda c: st.builds(lambda n: Rule(any=c, count=n), st.integers(1, len(c)))
    )


HOLDINGS = st.dictionaries(st.sampled_from((A, B, C, D)), st.sets(st.sampled_from("abc")), max_size=4)


@settings(max_examples=400, deadline=None)
@given(st.recursive(LEAVES, _groups, max_leaves=3), HOLDINGS)
def test_agrees_with_brute_force(rule: Rule, holdings: dict[bytes, set[str]]) -> None:
    roles = tuple(role(name, *(k for k, names in holdings.items() if name in names)) for name in "abc")
    decision = evaluate(rule, roles, [grant(signer) for signer in holdings], NOW)
    signers = {k: {f"role {n}" for n in names} | {f"key {k.hex()}"} for k, names in holdings.items()}
    assert decision.satisfied == any(fills(option, signers) for option in options(rule))
    assert bool(decision.reasons) != decision.satisfied
    used = [signer for _, signer in decision.used]
    assert len(set(used)) == len(used), "one approval fills one place"


@settings(max_examples=300, deadline=None)
@given(
    st.permutations((A, B, C)).map(tuple),
    st.lists(st.integers(1, 6), min_size=3, max_size=3),
    st.lists(st.sampled_from((0, 2, 3)), min_size=3, max_size=3),
    st.integers(1, 14),
)
def test_order_and_waits_agree_with_brute_force(
    keys: tuple[bytes, ...], given_s: list[int], waits_s: list[int], now_s: int
) -> None:
    """Each place in turn: given later than the one before was met, met when its wait is over."""
    places = (Rule(key=k.hex(), wait_s=w) for k, w in zip(keys, waits_s, strict=True))
    rule = Rule(all=tuple(places), ordered=True)
    met_s, expected = -1, True
    for at_s, wait_s in zip(given_s, waits_s, strict=True):
        expected = expected and at_s > met_s and at_s + wait_s <= now_s
        met_s = at_s + wait_s
    approvals = [grant(k, at_ms=s * 1000) for k, s in zip(keys, given_s, strict=True) if s <= now_s]
    assert holds(rule, *approvals, now_ms=now_s * 1000) == expected


def test_a_hundred_signers_are_judged_at_once() -> None:
    """Some 10 ms; the bound leaves room for a loaded machine."""
    signers = [bytes([1, n]) * 16 for n in range(100)]
    roles = [role(f"r{j}", *signers[j * 10 : j * 10 + 60]) for j in range(5)]
    rule = Rule(
        all=(
            Rule(any=tuple(Rule(role=f"r{j}", count=15) for j in range(5)), count=4),
            Rule(weigh=tuple(Weight(role=f"r{j}", weight=j + 1) for j in range(5)), count=60),
        ),
        ordered=True,
    )
    approvals = [grant(signer, at_ms=n) for n, signer in enumerate(signers)]
    started_s = time.process_time()
    decision = evaluate(rule, roles, approvals, NOW)
    assert time.process_time() - started_s < 2
    assert decision.satisfied or decision.reasons


def test_the_search_is_bounded_for_order_waits_and_weights() -> None:
    """Some 20 ms each; without the bound each would take minutes and more."""
    signers = [n.to_bytes(2, "big") * 16 for n in range(500)]
    roles = [role(f"r{j}", *(signers[(j * 13 + k * 7) % 500] for k in range(64))) for j in range(32)]
    approvals = [grant(signer, at_ms=n + 1) for n, signer in enumerate(signers)]
    chain = tuple(Rule(role=f"r{j % 32}", wait_s=j) for j in range(126))
    weights = tuple(
        Rule(weigh=tuple(Weight(role=f"r{(i + j) % 32}", weight=j + 1) for j in range(9)), count=300)
        for i in range(12)
    )
    started_s = time.process_time()
    for rule, given_ in ((Rule(all=chain, ordered=True), approvals), (Rule(all=weights), approvals[:300])):
        decision = evaluate(rule, roles, given_, NOW)
        assert (decision.satisfied, decision.rejected) == (False, False)
        assert decision.reasons[0].startswith("too many combinations")
    assert time.process_time() - started_s < 2
