"""Jobs whose replicas must agree: commit, tell, compare; who is paid, and who pays."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from ledger.audit.audit import export, verify
from ledger.codec import encode
from ledger.commitments import commitment_of
from ledger.contracts.types import WorkloadTemplate
from ledger.keys import Key
from ledger.limits import PENALTY_MS, REVEAL_MS, STRAGGLER_MS_MIN
from ledger.manifests.expansion import cost
from ledger.manifests.types import Placement, Restart
from ledger.records import Bill, key_bill, key_deployment
from ledger.state import read
from ledger.trade_records import Agreement, Penalty, key_agreement
from ledger.transactions import CancelDeployment, Claim, Renew, RenewItem
from tests.ledger.chain_fixture import ChainWorld
from tests.ledger.invariants import check
from tests.ledger.world import (
    BUDGET,
    CONSUMER,
    FARMERS,
    NODES,
    NONCE,
    RICH,
    World,
    contract,
    job,
    result_file,
)

A0, A1, B0, B1 = NODES  # two of farm a, two of farm b
WORDS = "/result/words.tsv"
GOOD, BAD, WORSE = {WORDS: "33" * 32}, {WORDS: "44" * 32}, {WORDS: "55" * 32}


def mining(replicas: int, agree: int, **changes: Any) -> WorkloadTemplate:
    return job(**{"replicas": replicas, "agree": agree, "placement": Placement()} | changes)


def approved(*workloads: WorkloadTemplate, world: Any = None) -> Any:
    world = world or World()
    world.add_nodes()
    deployment = world.ordered(contract(*workloads, budget=100_000_000, fee=0))
    world.approve(deployment)
    return world, deployment


def run(world: World, deployment: bytes, slot: str, node: Key) -> None:
    assert world.claimed(deployment, slot, [node]) is node
    world.report(deployment, slot, node, "fetching", "verified", "running")


def bind(world: World, deployment: bytes, slot: str, node: Key, results: dict[str, str]) -> None:
    run(world, deployment, slot, node)
    world.ok(node, world.commit(deployment, slot, node, results))


def bound(*found: dict[str, str], agree: int = 2, world: Any = None) -> Any:
    """All replicas have committed, each to what it has found."""
    world, deployment = approved(mining(len(found), agree), world=world)
    for index, results in enumerate(found):
        bind(world, deployment, f"mine/{index}", NODES[index], results)
    return world, deployment


def tell(world: World, deployment: bytes, index: int, results: dict[str, str]) -> None:
    node = NODES[index]
    world.ok(node, world.told(deployment, f"mine/{index}", node, results))


def told_of(world: World, kind: str) -> list[str]:
    return [str(dict(event.fields)["slot"]) for event in world.events if event.kind == kind]


def bill_of(world: World, deployment: bytes, slot: str) -> Bill:
    return next(bill for bill in world.bills(deployment) if bill.slot == slot)


def test_those_that_agree_are_paid_and_the_odd_one_out_pays() -> None:
    """[R8] [Y3] [Y4]"""
    world, deployment = bound(GOOD, BAD, GOOD)
    farmers = [world.balance(farmer) for farmer in FARMERS]
    record = world.deployment(deployment)
    assert farmers == [RICH, RICH], "nobody is paid before the results are compared"
    assert record.withheld == record.spent > 0
    check(world.state, world.now_ms)
    tell(world, deployment, 0, GOOD)
    tell(world, deployment, 1, BAD)
    assert world.deployment(deployment).status == "active"
    check(world.state, world.now_ms)
    tell(world, deployment, 2, GOOD)
    record = world.deployment(deployment)
    assert (record.status, record.withheld) == ("completed", 0)
    bills = [bill_of(world, deployment, f"mine/{n}").amount for n in range(3)]
    assert bills[1] == 0 < min(bills[0], bills[2])
    assert record.spent == sum(bills)
    (penalty,) = world.records(b"penalty/" + deployment, Penalty)
    assert (penalty.slot, penalty.node, penalty.payer) == ("mine/1", A1.public, FARMERS[0].public)
    assert penalty.owed == penalty.amount == cost(world.slot(deployment, "mine/1").rate_hour, 0, PENALTY_MS)
    assert world.balance(FARMERS[0]) == RICH + bills[0] - penalty.amount
    assert world.balance(FARMERS[1]) == RICH + bills[2]
    assert told_of(world, "slot.disagrees") == ["mine/1"]
    nodes = [world.node(node) for node in NODES[:3]]
    assert [(node.terms_kept, node.terms_failed) for node in nodes] == [(1, 0), (0, 1), (1, 0)]
    check(world.state, world.now_ms)


def test_when_none_agree_the_deployment_has_failed_and_the_consumer_has_all_of_it_back() -> None:
    """[R8] [Y4]"""
    before = World().balance(CONSUMER)
    world, deployment = bound(GOOD, BAD, WORSE)
    for index, results in enumerate((GOOD, BAD, WORSE)):
        tell(world, deployment, index, results)
    record = world.deployment(deployment)
    assert (record.status, record.reason) == ("failed", "mine: at most 1 agree, 2 wanted")
    assert (record.spent, record.withheld, record.escrow) == (0, 0, 0)
    assert world.balance(CONSUMER) == before
    assert [world.balance(farmer) for farmer in FARMERS] == [RICH, RICH]
    assert not world.records(b"penalty/" + deployment, Penalty), "nobody knows who was wrong"
    check(world.state, world.now_ms)


def test_who_does_not_tell_what_it_committed_to_pays() -> None:
    """[Y2] [Y3]"""
    world, deployment = bound(GOOD, GOOD, GOOD)
    tell(world, deployment, 0, GOOD)
    tell(world, deployment, 2, GOOD)
    world.wait(REVEAL_MS - 10_000, step_ms=10_000)
    assert world.deployment(deployment).status == "active"
    world.wait(20_000, step_ms=10_000)
    assert world.deployment(deployment).status == "completed"
    assert told_of(world, "slot.silent") == ["mine/1"]
    assert (world.slot(deployment, "mine/1").status, bill_of(world, deployment, "mine/1").amount) == (
        "failed",
        0,
    )
    (penalty,) = world.records(b"penalty/" + deployment, Penalty)
    assert penalty.node == A1.public
    assert world.refused(A1, world.told(deployment, "mine/1", A1, GOOD)) == "report.not_holder"
    check(world.state, world.now_ms)


def test_who_is_silent_pays_also_when_nothing_has_won() -> None:
    """[Y3]"""
    world, deployment = bound(GOOD, GOOD, GOOD)
    tell(world, deployment, 0, GOOD)
    world.wait(REVEAL_MS + 10_000, step_ms=10_000)
    assert world.deployment(deployment).status == "failed"
    assert told_of(world, "slot.silent") == ["mine/1", "mine/2"]
    assert world.deployment(deployment).spent == 0
    check(world.state, world.now_ms)


def test_an_outage_is_no_silence() -> None:
    """[Y2] [O1] Found by a random life: after a day without blocks all who had not told were charged."""
    world, deployment = bound(GOOD, GOOD, GOOD)
    tell(world, deployment, 0, GOOD)
    for _ in range(2):
        world.run(step_ms=24 * 3_600_000, outage=True)
        assert world.deployment(deployment).status == "active"
    world.wait(2_000, step_ms=1_000)
    assert "job.delayed" in world.kinds() and not told_of(world, "slot.silent")
    world.wait(REVEAL_MS - 30_000, step_ms=10_000)
    tell(world, deployment, 1, GOOD)
    world.wait(40_000, step_ms=10_000)
    assert told_of(world, "slot.silent") == ["mine/2"], "its time is over all the same"
    assert world.deployment(deployment).status == "completed"
    check(world.state, world.now_ms)


def test_an_outage_that_begins_within_a_second_of_its_end_gives_no_time_more() -> None:
    """[Y2] [O1] Found by a random life: overdue work was left ([W1])."""
    world, deployment = bound(GOOD, GOOD, GOOD)
    found = read(world.state, Agreement, key_agreement(deployment, "mine"))
    assert found is not None
    world.wait(found.due_ms - world.now_ms - 500, step_ms=5_000)
    assert world.deployment(deployment).status == "active"
    world.run(step_ms=24 * 3_600_000, outage=True)
    assert world.deployment(deployment).status == "failed"
    check(world.state, world.now_ms)


def test_an_outage_leaves_no_straggler_behind() -> None:
    """[Y2] [O1]"""
    world, deployment = approved(mining(3, 2))
    run(world, deployment, "mine/2", B0)
    bind(world, deployment, "mine/0", A0, GOOD)
    bind(world, deployment, "mine/1", A1, GOOD)
    renewal = Renew((RenewItem(deployment, "mine/2", 1),))
    world.ok(B0, renewal)
    world.run(step_ms=20_000, outage=True)
    world.ok(B0, renewal, step_ms=1_000)
    for _ in range((STRAGGLER_MS_MIN - 10_000) // 10_000):
        world.ok(B0, renewal, step_ms=10_000)
    assert world.slot(deployment, "mine/2").status == "running"
    world.wait(20_000, step_ms=10_000)
    assert world.slot(deployment, "mine/2").status == "released"


def test_nothing_is_told_before_all_have_committed_and_nobody_commits_after_that() -> None:
    """[Y1] [Y2] So nobody can copy."""
    world, deployment = approved(mining(3, 2))
    bind(world, deployment, "mine/0", A0, GOOD)
    bind(world, deployment, "mine/1", A1, GOOD)
    assert world.slot(deployment, "mine/0").results == {}
    assert world.refused(A0, world.told(deployment, "mine/0", A0, GOOD)) == "report.commitment"
    run(world, deployment, "mine/2", B0)
    plain = world.receipt(deployment, "mine/2", B0, "succeeded", results={WORDS: result_file()})
    assert world.refused(B0, plain) == "report.commitment"
    opened = world.told(deployment, "mine/2", B0, GOOD)
    assert world.refused(B0, opened) == "report.commitment"
    world.ok(B0, world.commit(deployment, "mine/2", B0, GOOD))
    tell(world, deployment, 0, GOOD)


def test_a_copied_commitment_opens_nothing() -> None:
    """[Y1] It names its node."""
    world, deployment = approved(mining(2, 2))
    run(world, deployment, "mine/0", A0)
    run(world, deployment, "mine/1", B0)
    copied = commitment_of("machine-test", deployment, "mine/0", 1, A0.public, NONCE, GOOD).hex()
    world.ok(A0, world.commit(deployment, "mine/0", A0, GOOD))
    world.ok(B0, world.commit(deployment, "mine/1", B0, GOOD, commitment=copied))
    tell(world, deployment, 0, GOOD)
    assert world.refused(B0, world.told(deployment, "mine/1", B0, GOOD)) == "report.commitment"
    world.wait(REVEAL_MS + 10_000, step_ms=10_000)
    assert world.deployment(deployment).status == "failed"
    check(world.state, world.now_ms)


@pytest.mark.parametrize(
    ("results", "changes"),
    [(BAD, {}), (GOOD, {"nonce": "00" * 32}), (GOOD, {"nonce": ""})],
)
def test_only_what_was_committed_to_is_told(results: dict[str, str], changes: dict[str, Any]) -> None:
    """[Y1]"""
    world, deployment = bound(GOOD, GOOD)
    body = world.told(deployment, "mine/0", A0, results, **changes)
    assert world.refused(A0, body) == "report.commitment"
    assert world.refused(B1, world.told(deployment, "mine/0", B1, GOOD)) == "report.not_holder"
    tell(world, deployment, 0, GOOD)


@pytest.mark.parametrize(
    ("agree", "status", "changes"),
    [
        (0, "committed", {"commitment": "11" * 32}),
        (2, "committed", {}),
        (2, "committed", {"commitment": "11" * 32, "results": {WORDS: result_file()}}),
        (2, "running", {"commitment": "11" * 32}),
        (2, "running", {"nonce": "11" * 32}),
        (0, "succeeded", {"nonce": "11" * 32}),
    ],
)
def test_commitments_stand_where_they_belong_alone(agree: int, status: str, changes: dict[str, Any]) -> None:
    """[Y1]"""
    world, deployment = approved(mining(3, agree))
    run(world, deployment, "mine/0", A0)
    assert (
        world.refused(A0, world.receipt(deployment, "mine/0", A0, status, **changes)) == "report.commitment"
    )


def test_a_straggler_is_left_behind_and_not_paid() -> None:
    """[Y2] [Y4] As long again as the slowest took; then who held it has worked for nothing."""
    world, deployment = approved(mining(4, 3))
    run(world, deployment, "mine/3", B1)
    for index, node in enumerate((A0, A1, B0)):
        bind(world, deployment, f"mine/{index}", node, GOOD)
    assert "job.enough_committed" in world.kinds()
    check(world.state, world.now_ms)
    for _ in range(STRAGGLER_MS_MIN // 10_000):
        assert world.slot(deployment, "mine/3").status == "running"
        world.do(B1, Renew((RenewItem(deployment, "mine/3", 1),)), step_ms=10_000)
    assert world.slot(deployment, "mine/3").status == "released"
    assert bill_of(world, deployment, "mine/3").amount == 0
    check(world.state, world.now_ms)
    world.ok(B1, world.receipt(deployment, "mine/3", B1, "released"))
    assert world.slot(deployment, "mine/3").status == "released"
    assert world.refused(B1, Claim(deployment, "mine/3", 2)) == "claim.not_open"
    for index in range(3):
        tell(world, deployment, index, GOOD)
    assert world.deployment(deployment).status == "completed"
    assert world.balance(FARMERS[1]) == RICH + bill_of(world, deployment, "mine/2").amount
    check(world.state, world.now_ms)


def test_a_slot_that_nobody_took_is_taken_off_the_list_and_cannot_be_had_to_copy() -> None:
    """[Y2]"""
    world, deployment = approved(mining(3, 2))
    bind(world, deployment, "mine/0", A0, GOOD)
    bind(world, deployment, "mine/1", A1, GOOD)
    world.wait(STRAGGLER_MS_MIN + 10_000, step_ms=10_000)
    tell(world, deployment, 0, GOOD)
    assert world.refused(B0, Claim(deployment, "mine/2", 1)) == "claim.not_open"
    check(world.state, world.now_ms)
    tell(world, deployment, 1, GOOD)
    assert world.deployment(deployment).status == "completed"


@pytest.mark.parametrize("status", ["failed", "quarantined", "released", "lost"])
def test_a_term_that_gives_no_commitment_is_not_paid_and_another_takes_its_place(status: str) -> None:
    """[Y4]"""
    world, deployment = approved(mining(2, 2))
    bind(world, deployment, "mine/1", B0, GOOD)
    run(world, deployment, "mine/0", A0)
    world.ok(A0, Renew((RenewItem(deployment, "mine/0", 1),)), step_ms=20_000)
    assert world.deployment(deployment).withheld > bill_of(world, deployment, "mine/1").amount
    if status == "lost":
        world.wait(60_000, step_ms=10_000)
    else:
        world.ok(A0, world.receipt(deployment, "mine/0", A0, status))
    assert bill_of(world, deployment, "mine/0").amount == 0
    assert world.slot(deployment, "mine/0").status == "open"
    check(world.state, world.now_ms)
    bind(world, deployment, "mine/0", A1, GOOD)
    for name, node in (("mine/0", A1), ("mine/1", B0)):
        world.ok(node, world.told(deployment, name, node, GOOD))
    assert world.deployment(deployment).status == "completed"
    check(world.state, world.now_ms)


@pytest.mark.parametrize("reveals", [False, True])
def test_who_has_committed_is_paid_when_the_consumer_cancels(reveals: bool) -> None:
    """[Y4] Work that was done is not had for nothing."""
    world, deployment = approved(mining(3, 2))
    for index, node in enumerate((A0, A1, B0) if reveals else (A0, A1)):
        bind(world, deployment, f"mine/{index}", node, GOOD)
    if reveals:
        tell(world, deployment, 0, GOOD)
    else:
        run(world, deployment, "mine/2", B0)
    world.ok(CONSUMER, CancelDeployment(deployment, "changed my mind"))
    record = world.deployment(deployment)
    bills = [bill_of(world, deployment, f"mine/{n}").amount for n in range(3)]
    assert min(bills) > 0
    assert (record.withheld, record.spent) == (0, sum(bills))
    assert world.balance(FARMERS[0]) == RICH + bills[0] + bills[1]
    assert world.balance(FARMERS[1]) == RICH + bills[2]
    check(world.state, world.now_ms)
    assert world.refused(A1, world.told(deployment, "mine/1", A1, GOOD)) == "report.commitment"


def test_a_comparison_waits_while_the_approval_is_withdrawn() -> None:
    """[Y2] What was committed to stays so."""
    world, deployment = bound(GOOD, GOOD)
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "revoked"))
    assert world.deployment(deployment).status == "awaiting_approval"
    tell(world, deployment, 0, GOOD)
    tell(world, deployment, 1, GOOD)
    world.wait(REVEAL_MS + 100_000, step_ms=10_000)
    assert world.deployment(deployment).status == "awaiting_approval"
    check(world.state, world.now_ms)
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget"))
    world.wait(70_000, step_ms=10_000)
    assert world.deployment(deployment).status == "completed"
    check(world.state, world.now_ms)


def test_of_two_jobs_each_is_compared_for_itself() -> None:
    """[R8]"""
    world, deployment = approved(mining(2, 2), mining(2, 2, name="more", restart=Restart(attempts=0)))
    for name, nodes in (("mine", (A0, B0)), ("more", (A1, B1))):
        for index, node in enumerate(nodes):
            bind(world, deployment, f"{name}/{index}", node, GOOD if name == "mine" else BAD)
    for name, nodes, found in (("mine", (A0, B0), GOOD), ("more", (A1, B1), BAD)):
        assert world.deployment(deployment).status == "active"
        for index, node in enumerate(nodes):
            world.ok(node, world.told(deployment, f"{name}/{index}", node, found))
    assert world.deployment(deployment).status == "completed"
    check(world.state, world.now_ms)


def pay_the_odd_one(world: Any, deployment: bytes) -> dict[bytes, bytes]:
    bill, record = bill_of(world, deployment, "mine/1"), world.deployment(deployment)
    return {
        key_bill(deployment, "mine/1", 1, 0): encode(replace(bill, amount=1)),
        key_deployment(deployment): encode(replace(record, spent=record.spent + 1, escrow=record.escrow - 1)),
    }


def withhold(world: Any, deployment: bytes) -> dict[bytes, bytes]:
    return {key_deployment(deployment): encode(replace(world.deployment(deployment), withheld=1))}


@pytest.mark.parametrize(
    ("lie", "rule"), [(pay_the_odd_one, "audit.agreement"), (withhold, "audit.withheld")]
)
def test_a_certified_lie_about_an_agreement_is_found(lie: Any, rule: str) -> None:
    """[Y3] [Y4]"""
    world, deployment = bound(GOOD, BAD, GOOD, world=ChainWorld())
    for index, results in enumerate((GOOD, BAD, GOOD)):
        tell(world, deployment, index, results)
    world.chain.grow(lie(world, deployment))
    for _ in range(3):
        world.chain.grow({})
    assert verify(export(world.store, deployment), world.genesis).rule == rule


@pytest.mark.parametrize("count", [0, 2, 3])
def test_an_audit_in_the_middle_of_a_comparison_holds(count: int) -> None:
    """[Y4] What is withheld is in nobody's account yet, and on the bills."""
    world, deployment = bound(GOOD, GOOD, BAD, world=ChainWorld())
    for index, results in enumerate((GOOD, GOOD, BAD)[:count]):
        tell(world, deployment, index, results)
    world.run()
    world.run()
    report = verify(export(world.store, deployment), world.genesis)
    assert report.ok, (report.rule, report.detail)


def test_what_was_agreed_on_is_not_asked_for_again() -> None:
    """[R8] A slot that was left behind stays so, also when all others open again."""
    world, deployment = approved(mining(3, 2), mining(2, 2, name="more"))
    bind(world, deployment, "mine/0", A0, GOOD)
    bind(world, deployment, "mine/1", A1, GOOD)
    world.wait(STRAGGLER_MS_MIN + 10_000, step_ms=10_000)
    tell(world, deployment, 0, GOOD)
    tell(world, deployment, 1, GOOD)
    assert "job.agreed" in world.kinds()
    for decision in ("revoked", "granted"):
        world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", decision))
    assert world.slot(deployment, "more/0").status == "open"
    assert world.slot(deployment, "mine/2").status == "released"
    check(world.state, world.now_ms)


def test_an_audit_shows_who_agreed_and_who_paid() -> None:
    """[R8] [Y3]"""
    world, deployment = bound(GOOD, BAD, GOOD, world=ChainWorld())
    for index, results in enumerate((GOOD, BAD, GOOD)):
        tell(world, deployment, index, results)
    world.run()
    world.run()
    report = verify(export(world.store, deployment), world.genesis)
    assert report.ok, (report.rule, report.detail)
    assert [row.slot for row in report.facts.penalties] == ["mine/1"]
    assert [row.amount > 0 for row in report.facts.holdings] == [True, False, True]


def test_an_audit_finds_a_ledger_that_let_results_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """[Y1] The machine took results that nobody had committed to; its word alone does not pass."""
    monkeypatch.setattr("ledger.transition.reports._check_commitment", lambda *_: None)
    world, deployment = bound(GOOD, BAD, world=ChainWorld())
    for index in range(2):
        tell(world, deployment, index, GOOD)
    assert world.deployment(deployment).status == "completed"
    world.run()
    world.run()
    report = verify(export(world.store, deployment), world.genesis)
    assert (report.rule, "mine/1" in report.detail) == ("audit.agreement", True)
