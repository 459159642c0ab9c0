"""Approval policies: who fills which place, what is missing, when it is lost; against a brute-force judge."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import Refused
from ledger.manifests.types import Policies, Role, Rule
from ledger.policies.decision import (
    NOT_ASKED,
    Approval,
    approval_expiry,
    check_reachable,
    describe,
    evaluate,
    excluded_signers,
    roles_of,
)

A, B, C, D = (bytes([n]) * 32 for n in range(1, 5))
NOW = 1_000


def role(name: str, *holders: bytes) -> Role:
    return Role(name=name, keys=tuple(key.hex() for key in holders))


def grant(signer: bytes, *roles: str, expires_ms: int = 0, time_ms: int = 1) -> Approval:
    return Approval(signer, roles, "granted", expires_ms, time_ms)


def reject(signer: bytes, time_ms: int = 1) -> Approval:
    return Approval(signer, (), "rejected", 0, time_ms)


def revoke(signer: bytes, time_ms: int = 2) -> Approval:
    return Approval(signer, (), "revoked", 0, time_ms)


ROLES = (role("budget", A), role("it", B), role("legal", C))
RULE = Rule(all=(Rule(role="budget"), Rule(any=(Rule(role="it"), Rule(role="legal")))))


def test_two_of_three_with_budget_required() -> None:
    outcomes = {
        signers: evaluate(RULE, ROLES, map(grant, signers), NOW).satisfied
        for size in range(4)
        for signers in itertools.combinations((A, B, C), size)
    }
    assert {signers for signers, yes in outcomes.items() if yes} == {(A, B), (A, C), (A, B, C)}


def test_reasons_and_places() -> None:
    nothing = evaluate(RULE, ROLES, [], NOW)
    assert nothing.reasons == ("needs 1 of role budget", "needs 1 of any (role it, role legal)")
    one = evaluate(RULE, ROLES, [grant(C)], NOW)
    assert one.reasons == ("needs 1 of role budget",)
    assert one.used == (("all[1].any[1] legal", C),)
    full = evaluate(RULE, ROLES, [grant(A), grant(B)], NOW)
    assert (full.reasons, full.rejected) == ((), False)
    assert full.used == (("all[0] budget", A), ("all[1].any[0] it", B))
    assert evaluate(Rule(role="it", count=3), ROLES, [grant(B)], NOW).reasons == (
        "needs 2 more of role it, which 1 may sign",
    )


def test_no_policy_is_satisfied_and_says_so() -> None:
    assert evaluate(None, ROLES, [], NOW).satisfied
    assert evaluate(None, ROLES, [reject(A)], NOW).reasons == (NOT_ASKED,)


def test_one_approval_fills_one_place_where_it_helps_most() -> None:
    both = (role("budget", A), role("it", A, B))
    rule = Rule(all=(Rule(role="it"), Rule(role="budget")))
    assert not evaluate(rule, both, [grant(A)], NOW).satisfied
    # A comes first and could take `it`, but only A can be `budget`.
    assert dict(evaluate(rule, both, [grant(A), grant(B)], NOW).used) == {"all[0] it": B, "all[1] budget": A}


def test_a_place_that_is_filled_moves_to_make_room() -> None:
    # `b` goes to A first; then `a`, which A alone can fill, moves it on to B.
    roles = (role("a", A), role("b", A, B), role("c", B))
    rule = Rule(all=(Rule(role="b"), Rule(role="a")))
    assert dict(evaluate(rule, roles, [grant(A), grant(B)], NOW).used) == {"all[0] b": B, "all[1] a": A}


def test_a_role_signed_for_is_the_role_that_counts() -> None:
    both = (role("budget", A), role("it", A))
    assert evaluate(Rule(role="budget"), both, [grant(A, "budget")], NOW).satisfied
    assert not evaluate(Rule(role="budget"), both, [grant(A, "it")], NOW).satisfied
    assert not evaluate(Rule(role="legal"), ROLES, [grant(A, "legal")], NOW).satisfied


def test_a_choice_inside_a_choice_is_searched_fully() -> None:
    # Only (any: 1 of c) leaves A for budget: the first inner choice that fits is the wrong one.
    roles = (role("budget", A), role("it", A), role("c", C))
    inner = Rule(any=(Rule(role="it"), Rule(role="c")))
    rule = Rule(any=(inner, Rule(any=(Rule(role="budget"),))), count=2)
    assert evaluate(rule, roles, [grant(A), grant(C)], NOW).satisfied


def test_strangers_and_excluded_count_for_nothing() -> None:
    assert not evaluate(Rule(role="it"), ROLES, [grant(D)], NOW).satisfied
    assert not evaluate(Rule(role="it"), ROLES, [grant(B)], NOW, frozenset((B,))).satisfied
    assert not evaluate(Rule(role="it"), ROLES, [reject(D)], NOW).rejected


def test_revoked_expired_and_replaced() -> None:
    rule = Rule(role="it")
    assert evaluate(rule, ROLES, [grant(B, expires_ms=NOW + 1)], NOW).satisfied
    assert not evaluate(rule, ROLES, [grant(B, expires_ms=NOW)], NOW).satisfied
    revoked = evaluate(rule, ROLES, [grant(B), revoke(B)], NOW)
    assert (revoked.satisfied, revoked.rejected) == (False, False)
    assert evaluate(rule, ROLES, [revoke(B), grant(B, time_ms=3)], NOW).satisfied
    assert evaluate(rule, ROLES, [grant(B, time_ms=3), reject(B)], NOW).satisfied


def test_rejected_only_when_it_can_no_longer_be_reached() -> None:
    assert evaluate(RULE, ROLES, [reject(A)], NOW).rejected
    assert not evaluate(RULE, ROLES, [reject(B)], NOW).rejected
    assert evaluate(RULE, ROLES, [reject(B), reject(C)], NOW).rejected
    done = evaluate(RULE, ROLES, [grant(A), grant(B), reject(C)], NOW)
    assert (done.satisfied, done.rejected) == (True, False)


def test_expiry_and_exclusions_follow_the_policy() -> None:
    policies = Policies(deploy=RULE, signoff=None, validity_s=60)
    assert approval_expiry(policies, 5_000, 0) == 65_000
    assert approval_expiry(policies, 5_000, 7_000) == 7_000
    assert excluded_signers(policies, A, B) == {A}
    open_to_author = Policies(deploy=RULE, signoff=None, author_may_approve=True, consumer_may_approve=False)
    assert excluded_signers(open_to_author, A, B) == {B}
    assert roles_of((role("x", A), role("y", B, A)), A) == ("x", "y")


def test_a_policy_that_nobody_can_meet_is_refused() -> None:
    check_reachable(RULE, ROLES, frozenset(), "approval.deploy")
    with pytest.raises(Refused, match="needs 1 of role budget, which 0 may sign") as caught:
        check_reachable(RULE, ROLES, frozenset((A,)), "approval.deploy")
    assert (caught.value.rule, caught.value.field) == ("manifest.policy_unreachable", "approval.deploy")
    one_person = (role("budget", A), role("it", A), role("legal", A))
    with pytest.raises(Refused, match="policy_unreachable"):
        check_reachable(RULE, one_person, frozenset(), "approval.deploy")


def test_plain_words() -> None:
    assert describe(None) == "none"
    assert describe(RULE) == "role budget and any 1 of (role it, role legal)"
    assert describe(Rule(role="it", count=2)) == "2 of role it"


# --- against a judge that tries everything ---


def places(rule: Rule) -> list[list[str]]:
    """Every multiset of roles that satisfies a rule when each is filled by another signer."""
    if rule.role is not None:
        return [[rule.role] * rule.count]
    if rule.all:
        return [
            list(itertools.chain(*chosen)) for chosen in itertools.product(*(places(r) for r in rule.all))
        ]
    return [
        list(itertools.chain(*chosen))
        for group in itertools.combinations(rule.any, rule.count)
        for chosen in itertools.product(*(places(r) for r in group))
    ]


def fills(wanted: Sequence[str], signers: dict[bytes, set[str]]) -> bool:
    if not wanted:
        return True
    return any(
        fills(wanted[1:], {k: v for k, v in signers.items() if k != signer})
        for signer, names in signers.items()
        if wanted[0] in names
    )


LEAVES = st.builds(
    lambda name, count: Rule(role=name, count=count), st.sampled_from("abc"), st.integers(1, 2)
)


def _groups(children: st.SearchStrategy[Rule]) -> st.SearchStrategy[Rule]:
    several = st.lists(children, min_size=1, max_size=3).map(tuple)
    return st.builds(lambda c: Rule(all=c), several) | several.flatmap(
        lambda c: st.builds(lambda n: Rule(any=c, count=n), st.integers(1, len(c)))
    )


RULES = st.recursive(LEAVES, _groups, max_leaves=5)
HOLDINGS = st.dictionaries(
    st.integers(1, 6).map(lambda n: bytes([n]) * 32), st.sets(st.sampled_from("abc")), max_size=5
)


@settings(max_examples=400)
@given(RULES, HOLDINGS)
def test_agrees_with_brute_force(rule: Rule, holdings: dict[bytes, set[str]]) -> None:
    roles = tuple(role(name, *(k for k, names in holdings.items() if name in names)) for name in "abc")
    decision = evaluate(rule, roles, [grant(signer) for signer in holdings], NOW)
    wanted = places(rule)
    assert decision.satisfied == any(fills(option, holdings) for option in wanted)
    assert bool(decision.reasons) != decision.satisfied
    signers = [signer for _, signer in decision.used]
    assert len(set(signers)) == len(signers), "one approval fills one place"
    for place, signer in decision.used:
        assert place.split()[-1] in holdings[signer]
    if decision.satisfied:
        filled = sorted(place.split()[-1] for place, _ in decision.used)
        assert filled in [sorted(option) for option in wanted]


def test_the_search_is_bounded() -> None:
    # Eight choices of 3 of 5 among ten roles that overlap: far more combinations than steps.
    signers = [bytes([1, n]) * 16 for n in range(100)]
    roles = [role(f"r{j}", *(s for n, s in enumerate(signers) if (n * 7 + j * j) % 5 < 2)) for j in range(10)]
    choice = [
        Rule(any=tuple(Rule(role=f"r{(j + k) % 10}", count=1 + k % 3) for k in range(5)), count=3)
        for j in range(8)
    ]
    rule = Rule(all=tuple(choice))
    assert evaluate(rule, roles, map(grant, signers), NOW).satisfied
    few = evaluate(rule, roles, map(grant, signers[:40]), NOW)
    assert (few.satisfied, few.rejected) == (False, False)
    assert few.reasons
