"""Records that are proved, certified, and wrong: what an audit finds even when all validators lied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from ledger.audit.audit import export, verify
from ledger.codec import decode, encode
from ledger.documents import open_document
from ledger.errors import Refused
from ledger.manifests.types import Policies, Rule
from ledger.policies.decision import Decision
from ledger.records import (
    ApprovalRecord,
    Bill,
    Deployment,
    ReceiptRecord,
    Slot,
    key_approval,
    key_bill,
    key_deployment,
    key_document,
    key_open,
    key_receipt,
    key_slot,
)
from ledger.trade_records import Penalty, key_penalty
from ledger.transactions import CancelDeployment, Claim
from tests.ledger.chain_fixture import ChainWorld
from tests.ledger.world import (
    BUDGET,
    CONSUMER,
    EXPERT,
    LEGAL,
    NODES,
    POLICIES,
    STRANGER,
    contract,
    job,
    service,
)

Lie = Callable[[ChainWorld, bytes], dict[bytes, bytes | None]]
NAME = "mine/0"
PENALTY = 20_641  # an hour of half a core, 64 MiB and 16 MiB of disk, rounded up once


def signed_off_job() -> tuple[ChainWorld, bytes]:
    """A job that one node finished at its second term, signed off."""
    world = ChainWorld()
    world.add_nodes(NODES[:2])
    deployment = world.ordered(contract(job(), name="mining"))
    world.approve(deployment)
    node = world.claimed(deployment, NAME, NODES[:1])
    world.report(deployment, NAME, node, "fetching", "failed")
    node = world.claimed(deployment, NAME, NODES[:1])
    world.report(deployment, NAME, node, "fetching", "verified", "running", "succeeded")
    world.ok(EXPERT, world.decide(deployment, EXPERT, "it-expert", act="signoff"))
    return world, deployment


def broken_lease() -> tuple[ChainWorld, bytes]:
    """A job whose node vanished while it ran; the farmer paid."""
    world = ChainWorld()
    world.add_nodes(NODES[:2])
    deployment = world.ordered(contract(job(), name="mining"))
    world.approve(deployment)
    node = world.claimed(deployment, NAME, NODES[:1])
    world.report(deployment, NAME, node, "fetching", "verified", "running")
    world.wait(60_000, step_ms=10_000)
    assert world.node(node).broken_leases == 1
    return world, deployment


def rule_after(world: ChainWorld, deployment: bytes, lie: Lie | None) -> str:
    """Commit the lie as certified state, then audit; also the rule by which it can't even be exported."""
    if lie is not None:
        world.chain.grow(lie(world, deployment))
    for _ in range(3):
        world.chain.grow({})
    try:
        return verify(export(world.store, deployment), world.genesis).rule
    except Refused as error:
        return error.rule


def edit(kind: type[Any], key: Callable[[bytes], bytes], **changes: Any) -> Lie:
    """Change fields of a record."""

    def lie(world: ChainWorld, deployment: bytes) -> dict[bytes, bytes | None]:
        found = world.state.get(key(deployment))
        assert found is not None
        record = decode(kind, found)
        assert replace(record, **changes) != record
        return {key(deployment): encode(replace(record, **changes))}

    return lie


def drop(key: Callable[[bytes], bytes]) -> Lie:
    """Remove a record."""

    def lie(world: ChainWorld, deployment: bytes) -> dict[bytes, bytes | None]:
        assert world.state.get(key(deployment)) is not None
        return {key(deployment): None}

    return lie


def bill_key(term: int) -> Callable[[bytes], bytes]:
    return lambda deployment: key_bill(deployment, NAME, term, 0)


def receipt_key(term: int, number: int) -> Callable[[bytes], bytes]:
    return lambda deployment: key_receipt(deployment, NAME, term, number)


def fee_key(deployment: bytes) -> bytes:
    return key_bill(deployment, "", 0, 0)


def slot_key(deployment: bytes) -> bytes:
    return key_slot(deployment, NAME)


def budget_key(deployment: bytes) -> bytes:
    return key_approval(deployment, "deploy", BUDGET.public)


def forget_document(world: ChainWorld, deployment: bytes) -> dict[bytes, bytes | None]:
    record = decode(ApprovalRecord, world.state.get(budget_key(deployment)) or b"")
    return {key_document(deployment, open_document(record.envelope, "approval").id): None}


def invent_approval(world: ChainWorld, deployment: bytes) -> dict[bytes, bytes | None]:
    record = decode(ApprovalRecord, world.state.get(budget_key(deployment)) or b"")
    forged = replace(record, signer=LEGAL.public, role="legal")
    return {key_approval(deployment, "deploy", LEGAL.public): encode(forged)}


def move_spending(world: ChainWorld, deployment: bytes) -> dict[bytes, bytes | None]:
    """A bill far above the rate, with the sum made to fit."""
    bill = decode(Bill, world.state.get(bill_key(2)(deployment)) or b"")
    record = world.deployment(deployment)
    return {
        bill_key(2)(deployment): encode(replace(bill, amount=bill.amount + 500)),
        key_deployment(deployment): encode(replace(record, spent=record.spent + 500)),
    }


def invent_receipt(world: ChainWorld, deployment: bytes) -> dict[bytes, bytes | None]:
    record = decode(ReceiptRecord, world.state.get(receipt_key(2, 3)(deployment)) or b"")
    return {receipt_key(2, 4)(deployment): encode(record)}


LIES: dict[str, tuple[str, Lie]] = {
    "another consumer": ("audit.order_record", edit(Deployment, key_deployment, consumer=STRANGER.public)),
    "ordered earlier": ("audit.order_record", edit(Deployment, key_deployment, ordered_ms=1)),
    "approved earlier": ("audit.approved_time", edit(Deployment, key_deployment, approved_ms=1)),
    "signed off later": ("audit.signoff_time", edit(Deployment, key_deployment, signed_off_ms=5)),
    "cancelled by nobody": ("audit.cancelled", edit(Deployment, key_deployment, status="cancelled")),
    "a hidden decision": ("audit.incomplete", edit(Deployment, key_deployment, decisions=9)),
    "a document forgotten": ("audit.not_accepted", forget_document),
    "another decision": ("audit.approval_record", edit(ApprovalRecord, budget_key, decision="rejected")),
    "another expiry": ("audit.approval_record", edit(ApprovalRecord, budget_key, expires_ms=7)),
    "a decision removed": ("audit.approval_record", drop(budget_key)),
    "a decision invented": ("audit.approval_record", invent_approval),
    "another receipt": ("audit.receipt_record", edit(ReceiptRecord, receipt_key(2, 1), status="running")),
    "a receipt of another node": (
        "audit.receipt_record",
        edit(ReceiptRecord, receipt_key(2, 0), node=NODES[1].public),
    ),
    "a receipt removed": ("audit.receipt_record", drop(receipt_key(1, 1))),
    "a receipt invented": ("audit.incomplete", invent_receipt),
    "other results": ("audit.results", edit(Slot, slot_key, results={"/result/words.tsv": "00" * 32})),
    "results held back, unasked": ("audit.results", edit(Deployment, key_deployment, results=bytes(32))),
    "results released, unasked": ("audit.results", edit(Deployment, key_deployment, released_ms=5)),
    "a lower term": ("audit.receipt_record", edit(Slot, slot_key, term=1)),
    "another holder": ("audit.two_holders", edit(Slot, slot_key, holder=NODES[1].public)),
    "a stranger paid": ("audit.payee", edit(Bill, bill_key(1), payee=STRANGER.public)),
    "a larger bill": ("audit.bills", edit(Bill, bill_key(1), amount=77_777)),
    "a bill above the rate": ("audit.bill_amount", move_spending),
    "a bill below zero": ("audit.bill_amount", edit(Bill, bill_key(1), amount=-1)),
    "a bill before approval": ("audit.bill_time", edit(Bill, bill_key(1), from_ms=1)),
    "more missed than passed": ("audit.bill_time", edit(Bill, bill_key(1), missed_ms=1 << 40)),
    "an endless bill": ("audit.bill_time", edit(Bill, bill_key(1), to_ms=1 << 50)),
    "a bill removed": ("audit.bills", drop(bill_key(1))),
    "a larger fee": ("audit.fee", edit(Bill, fee_key, amount=100_001)),
    "a fee to another": ("audit.fee", edit(Bill, fee_key, payee=STRANGER.public)),
    "a fee removed": ("audit.fee", drop(fee_key)),
    "escrow out of nothing": ("audit.escrow", edit(Deployment, key_deployment, escrow=123)),
    "funds that nobody paid": ("audit.funds", edit(Deployment, key_deployment, funded=2_000_001)),
    "a term that nobody extended": ("audit.funds", edit(Deployment, key_deployment, extended_s=60)),
    "more spent than billed": ("audit.bills", edit(Deployment, key_deployment, spent=123)),
}


@pytest.mark.parametrize("name", LIES)
def test_a_certified_lie_is_found(name: str) -> None:
    rule, lie = LIES[name]
    world, deployment = signed_off_job()
    assert rule_after(world, deployment, lie) == rule


def penalty_key(deployment: bytes) -> bytes:
    return key_penalty(deployment, NAME, 1)


PENALTY_LIES: dict[str, Lie] = {
    "more than was owed": edit(Penalty, penalty_key, amount=PENALTY + 1),
    "more owed": edit(Penalty, penalty_key, owed=PENALTY + 1),
    "below zero": edit(Penalty, penalty_key, amount=-1),
    "of another term": edit(Penalty, penalty_key, term=2),
    "paid by a stranger": edit(Penalty, penalty_key, payer=STRANGER.public),
    "paid to a stranger": edit(Penalty, penalty_key, payee=STRANGER.public),
    "for another node": edit(Penalty, penalty_key, node=NODES[1].public),
}


@pytest.mark.parametrize("name", PENALTY_LIES)
def test_a_lie_about_a_penalty_is_found(name: str) -> None:
    """[E5]"""
    world, deployment = broken_lease()
    assert rule_after(world, deployment, PENALTY_LIES[name]) == "audit.penalty"


def test_the_truth_holds() -> None:
    for world, deployment in (signed_off_job(), broken_lease()):
        assert rule_after(world, deployment, None) == ""


def test_work_without_approval_is_found() -> None:
    """The ledger opened a slot that nobody approved."""
    world = ChainWorld()
    world.add_nodes(NODES[:2])
    deployment = world.ordered(contract(job(), name="mining"))
    world.ok(EXPERT, world.decide(deployment, EXPERT, "it-expert"))
    world.chain.grow({key_open(deployment, NAME): b""})
    world.height = world.store.tip.height
    world.ok(NODES[0], Claim(deployment, NAME, 1))
    assert rule_after(world, deployment, None) == "audit.not_approved"


def held_job(*statuses: str, **changes: Any) -> tuple[ChainWorld, bytes]:
    """A job that a node holds, and has told so much of."""
    world = ChainWorld()
    world.add_nodes(NODES[:2])
    deployment = world.ordered(contract(job(**changes), name="mining"))
    world.approve(deployment)
    node = world.claimed(deployment, NAME, NODES[:1])
    world.report(deployment, NAME, node, *statuses)
    return world, deployment


def test_a_term_of_a_manifest_that_is_not_the_deployments_is_found() -> None:
    """[C7] Also when its holder has told nothing yet."""
    world, deployment = held_job()
    assert rule_after(world, deployment, edit(Slot, slot_key, manifest=bytes(32))) == "audit.terms"


def test_a_bill_for_longer_than_the_time_limit_is_found() -> None:
    """[E6] Though it asks for no more than the time until then would cost."""
    world, deployment = held_job("fetching", "verified", "running", "succeeded", time_limit_s=60)
    assert rule_after(world, deployment, None) == ""
    from_ms = decode(Bill, world.state.get(bill_key(1)(deployment)) or b"").from_ms
    for to_ms, rule in ((from_ms + 60_000, ""), (from_ms + 60_001, "audit.bill_time")):
        assert rule_after(world, deployment, edit(Bill, bill_key(1), to_ms=to_ms)) == rule


def test_a_cancel_that_had_no_effect_is_found() -> None:
    world, deployment = signed_off_job()
    other = world.ordered(contract(job(), name="other"))
    world.ok(CONSUMER, CancelDeployment(other, "changed my mind"))
    assert rule_after(world, other, None) == ""
    lie = edit(Deployment, key_deployment, status="completed")
    assert rule_after(world, other, lie) == "audit.cancelled"


def test_a_cancel_without_consent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """[D7] A ledger that asks nobody."""
    world = ChainWorld()
    deployment = world.ordered(contract(policies=replace(POLICIES, delete=Rule(role="legal"))))
    world.approve(deployment)
    yes = Decision(True, False, (), (), 0)
    monkeypatch.setattr("ledger.transition.deployments.evaluate_act", lambda *_: yes)
    world.ok(CONSUMER, CancelDeployment(deployment, "enough"))
    assert rule_after(world, deployment, None) == "audit.cancelled"


def test_a_sign_off_that_comes_due_while_work_is_suspended_verifies() -> None:
    """[A5] [A6] Its wait ends while nothing may be signed off: it is asked again when work runs again."""
    world = ChainWorld()
    world.add_nodes(NODES[:2])
    policies = Policies(deploy=Rule(role="budget"), signoff=Rule(role="legal", wait_s=60))
    deployment = world.ordered(contract(service(replicas=1), policies=policies))

    def run() -> None:
        world.ok(BUDGET, world.decide(deployment, BUDGET, "budget"))
        node = world.claimed(deployment, "web/0", NODES[:1])
        world.report(deployment, "web/0", node, "fetching", "verified", "running")

    def holds() -> int:
        world.run()
        world.run()
        report = verify(export(world.store, deployment), world.genesis)
        assert report.ok, (report.rule, report.detail)
        return report.facts.signed_off_ms

    run()
    world.ok(LEGAL, world.decide(deployment, LEGAL, "legal", act="signoff"))
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "revoked"))
    world.ok(NODES[0], world.receipt(deployment, "web/0", NODES[0], "released"))
    world.wait(200_000, step_ms=20_000)
    assert holds() == 0
    run()
    world.wait(70_000, step_ms=10_000)
    assert holds() == world.deployment(deployment).signed_off_ms > 0
