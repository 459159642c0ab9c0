"""Audits of deployments that were updated: each manifest, its approvals, its bills, and lies about them."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from ledger.audit.audit import export, verify
from ledger.audit.file import AuditFile, decode_audit
from ledger.audit.report import AuditReport
from ledger.codec import decode, encode
from ledger.manifests.types import Policies, Restart, Rule
from ledger.policies.decision import Decision
from ledger.policies.records import change_sides
from ledger.records import Bill, Deployment, Slot, key_approval, key_bill, key_deployment, key_slot
from ledger.trade_records import UpdateRecord, key_update
from ledger.transactions import CancelDeployment, SteerUpdate, TopUp
from node.web.audit_page import audit_page
from tests.ledger.chain_fixture import ChainWorld
from tests.ledger.test_audit_lies import Lie, edit, rule_after
from tests.ledger.test_updates import FAST, running, serve, site, stop, wait
from tests.ledger.world import BUDGET, CONSUMER, EXPERT, LEGAL, NODES, POLICIES, STRANGER

FEE = 150_000


def updated_life() -> tuple[ChainWorld, bytes]:
    """One update cancelled, one reverted by its canary, one done with other signers and a higher fee."""
    world = ChainWorld()
    world.add_nodes()
    deployment = running(world, top_up=50_000)
    world.updated(deployment, site("1.1.0", top_up=50_000))
    world.ok(STRANGER, world.decide(deployment, BUDGET, "budget", "granted", "update"))
    world.ok(CONSUMER, SteerUpdate(deployment, 1, "cancel"))
    fails = site("1.2.0", replace(FAST, canary=1), restart=Restart(attempts=0), top_up=50_000)
    world.updated(deployment, fails)
    world.approve_update(deployment)
    stop(world, deployment, "web/0")
    node = world.claimed(deployment, "web/0", [NODES[1]])
    world.report(deployment, "web/0", node, "fetching", "verified", "running", "failed")
    serve(world, deployment, "web/0")
    world.ok(STRANGER, TopUp(deployment, 50_000))
    policies = Policies(deploy=Rule(role="legal"), signoff=None)
    world.updated(deployment, site("2.0.0", policies=policies, fee=FEE, top_up=50_000))
    world.ok(LEGAL, world.decide(deployment, LEGAL, "legal", "granted", "update"))
    world.approve_update(deployment)
    for name in ("web/0", "web/1"):
        stop(world, deployment, name)
        serve(world, deployment, name)
        world.wait(6_000)
    assert world.deployment(deployment).generation == 3
    return world, deployment


def audited(world: ChainWorld, deployment: bytes) -> AuditReport:
    world.run()
    world.run()
    return verify(export(world.store, deployment), world.genesis)


@pytest.fixture(scope="module")
def life() -> tuple[ChainWorld, bytes]:
    return updated_life()


def test_each_manifest_with_its_approvals_and_bills() -> None:
    world, deployment = updated_life()
    world.ok(CONSUMER, CancelDeployment(deployment, "done"))
    report = audited(world, deployment)
    assert report.ok, (report.rule, report.detail)
    facts = report.facts
    rows = facts.generations
    assert [(r.number, r.contract, r.status) for r in rows] == [
        (0, "site@1.0.0", "was in force"),
        (1, "site@1.1.0", "cancelled"),
        (2, "site@1.2.0", "reverted"),
        (3, "site@2.0.0", "in force"),
    ]
    assert facts.contract == "site@2.0.0"
    assert rows[1].reason == "cancelled by the consumer"
    assert "web/0 failed" in rows[2].reason
    assert ("version", "1.0.0", "2.0.0") in rows[3].changes, (
        "from what was in force, not from what was reverted"
    )
    assert len(rows[3].asked_for) == 2, "before and after"
    assert isinstance(rows[0].decision, Decision) and rows[0].decision.satisfied
    assert isinstance(rows[1].decision, Decision) and not rows[1].decision.satisfied
    assert isinstance(rows[3].decision, Decision)
    assert {key for _, key in rows[3].decision.used} == {LEGAL.public, BUDGET.public, EXPERT.public}
    held = [(h.slot, h.term, h.generation) for h in facts.holdings]
    assert held == [
        ("web/0", 1, 0), ("web/0", 2, 2), ("web/0", 3, 0), ("web/0", 4, 3), ("web/1", 1, 0), ("web/1", 2, 3),
    ]  # fmt: skip
    fees = [(bill.generation, bill.amount) for bill in facts.bills if not bill.slot]
    assert fees == [(0, 100_000), (3, FEE - 100_000)]
    assert {bill.generation for bill in facts.bills if bill.slot} == {0, 2, 3}
    assert facts.spent + facts.left + facts.refunded == facts.escrow
    what = [row.what for row in facts.timeline]
    assert what.count("update asked for") == 3
    assert "update cancelled" in what
    assert "approval of update 3 granted" in what
    page = audit_page(report, "00" * 32)
    for words in ("update 2", "web/0 failed", "site@2.0.0", "1.0.0", "reverted"):
        assert words in page


def test_nothing_of_an_update_can_be_left_out(life: tuple[ChainWorld, bytes]) -> None:
    world, deployment = life
    world.run()
    world.run()
    file = decode_audit(export(world.store, deployment))

    def without(mark: bytes, number: int) -> AuditFile:
        """Without a block of one transaction."""
        found = [n for n, block in enumerate(file.blocks) if any(mark in tx.raw for tx in block.txs)]
        assert len(file.blocks[found[number]].txs) == 1
        return replace(file, blocks=tuple(b for n, b in enumerate(file.blocks) if n != found[number]))

    lies = {
        "an update": ("audit.order", without(b"deployment.update", 0)),
        "its contract": ("audit.incomplete", without(b"contract.publish", 1)),
        "its cancel": ("audit.update_record", without(b"deployment.steer_update", 0)),
        "an approval": ("audit.record", without(b"approval.decide", -1)),
        "a record": ("audit.record", replace(file, records=(file.records[0], *file.records[2:]))),
    }
    for name, (rule, lie) in lies.items():
        assert verify(encode(lie), world.genesis).rule == rule, name


def update(number: int, **changes: Any) -> Lie:
    return edit(UpdateRecord, lambda deployment: key_update(deployment, number), **changes)


def deal(**changes: Any) -> Lie:
    return edit(Deployment, key_deployment, **changes)


def _fee(deployment: bytes) -> bytes:
    return key_bill(deployment, "", 3, 0)


def _slot(deployment: bytes) -> bytes:
    return key_slot(deployment, "web/0")


def _no_fee(world: ChainWorld, deployment: bytes) -> dict[bytes, bytes | None]:
    record = world.deployment(deployment)
    return {
        _fee(deployment): None,
        key_deployment(deployment): encode(replace(record, spent=record.spent - FEE + 100_000)),
    }


def _an_approval_less(world: ChainWorld, deployment: bytes) -> dict[bytes, bytes | None]:
    return {key_approval(deployment, "deploy", LEGAL.public, 3): None}


def _back_in_force(world: ChainWorld, deployment: bytes) -> dict[bytes, bytes | None]:
    """The last update never was."""
    record, first = world.deployment(deployment), world.update(deployment)
    return {
        key_deployment(deployment): encode(
            replace(record, manifest=first.former, generation=0, ground="deploy", asked_ms=0)
        )
    }


def given_back(more: int, number: int = 0) -> Lie:
    """So much more came back, or less; by this update, or by none. All else adds up."""

    def lie(world: ChainWorld, deployment: bytes) -> dict[bytes, bytes | None]:
        record = world.deployment(deployment)
        sums = {"returned": record.returned + more, "escrow": record.escrow - more}
        recorded: dict[bytes, bytes | None] = {key_deployment(deployment): encode(replace(record, **sums))}
        if number:
            found = decode(UpdateRecord, world.state.get(key_update(deployment, number)) or b"")
            changed = replace(found, refunded=found.refunded + more)
            recorded[key_update(deployment, number)] = encode(changed)
        return recorded

    return lie


LIES: dict[str, tuple[str, Lie]] = {
    "another sender": ("audit.update_record", update(1, sender=STRANGER.public)),
    "another manifest": ("audit.update_record", update(2, manifest=bytes(32))),
    "another former": ("audit.update_record", update(2, former=bytes(32))),
    "more locked": ("audit.update_record", update(3, locked=9)),
    "another ground": ("audit.update_record", update(3, ground="update")),
    "asked earlier": ("audit.update_record", update(2, requested_ms=1)),
    "approved though cancelled": ("audit.update_record", update(1, approved_ms=1_800_000_100_000)),
    "approved earlier": ("audit.update_record", update(2, approved_ms=5)),
    "never approved": ("audit.update_record", update(3, approved_ms=0)),
    "cancelled by nobody": ("audit.update_record", update(1, reason="it expired", status="expired")),
    "rejected by nobody": ("audit.update_record", update(1, status="rejected")),
    "still under way": ("audit.update_record", update(2, status="rolling")),
    "no end": ("audit.update_record", update(3, ended_ms=0)),
    "reverted, and in force": ("audit.order_record", update(3, status="reverted", refunded=0)),
    "out of force again": ("audit.order_record", _back_in_force),
    "another in force": ("audit.order_record", deal(generation=2)),
    "no such in force": ("audit.incomplete", deal(generation=4)),
    "one update more": ("audit.incomplete", deal(updates=4)),
    "one under way": ("audit.order_record", deal(updating=bytes(32))),
    "asked for at another time": ("audit.order_record", deal(asked_ms=7)),
    "more came back": ("audit.escrow", update(2, refunded=1)),
    "more came back in all": ("audit.escrow", deal(returned=12)),
    "more came back than was locked": ("audit.escrow", given_back(1, 2)),
    "more came back than by updates": ("audit.escrow", given_back(1)),
    "more paid in": ("audit.funds", deal(paid_in=1)),
    "other funds": ("audit.funds", deal(funded=1)),
    "a fee that is not paid": ("audit.fee", _no_fee),
    "a larger fee": ("audit.fee", edit(Bill, _fee, amount=FEE)),
    "an approval less": ("audit.approval_record", _an_approval_less),
    "a slot of another manifest": ("audit.terms", edit(Slot, _slot, manifest=bytes(32))),
}


@pytest.mark.parametrize("name", LIES)
def test_a_certified_lie_about_an_update_is_found(name: str) -> None:
    rule, lie = LIES[name]
    world, deployment = updated_life()
    assert rule_after(world, deployment, lie) == rule


def test_less_that_came_back_than_was_locked_is_found() -> None:
    """[U4] What was cancelled before anybody approved it costs nothing."""
    world = ChainWorld()
    world.add_nodes()
    deployment = running(world)
    assert world.updated(deployment, site("1.1.0", budget=3_000_000)).locked == 1_000_000
    world.ok(CONSUMER, SteerUpdate(deployment, 1, "cancel"))
    assert audited(world, deployment).ok
    assert rule_after(world, deployment, given_back(-1, 1)) == "audit.escrow"


def _yes(*_: object) -> Decision:
    return Decision(True, False, (), (), 0)


def test_an_update_that_rolls_without_approval_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """[U3] A ledger that lets every update through."""
    world = ChainWorld()
    world.add_nodes()
    deployment = running(world)
    monkeypatch.setattr("ledger.transition.approvals.judge_change", _yes)
    assert world.updated(deployment, site("1.1.0")).status == "rolling"
    stop(world, deployment, "web/0")
    node = world.claimed(deployment, "web/0", [NODES[0]])
    assert audited(world, deployment).rule == "audit.update_approval"
    world.report(deployment, "web/0", node, "fetching")
    assert audited(world, deployment).rule == "audit.not_approved"


def test_the_new_signers_alone_are_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """[U3] A ledger that asks only those who decide from then on."""
    monkeypatch.setattr("ledger.transition.approvals.change_sides", lambda *a: change_sides(*a)[-1:])
    world = ChainWorld()
    world.add_nodes()
    deployment = running(world)
    world.updated(deployment, site("1.1.0", policies=Policies(deploy=Rule(role="legal"), signoff=None)))
    world.ok(LEGAL, world.decide(deployment, LEGAL, "legal", "granted", "update"))
    assert world.update(deployment).status == "rolling"
    assert audited(world, deployment).rule == "audit.update_approval"


def test_one_that_goes_on_without_its_approval_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """[U3] A ledger that forgets to revert."""
    world = ChainWorld()
    world.add_nodes()
    deployment = running(world)
    world.updated(deployment, site("1.1.0", replace(FAST, deadline_s=600)))
    world.approve_update(deployment)
    monkeypatch.setattr("ledger.transition.approvals.judge_change", _yes)
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "revoked", "update"))
    wait(world, deployment, 70)
    assert world.update(deployment).status == "rolling"
    assert audited(world, deployment).rule == "audit.update_approval", "it only waits, but for too long"
    serve(world, deployment, "web/0")
    assert audited(world, deployment).rule == "audit.not_approved"


def test_a_ledger_that_locks_too_little_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """[U2]"""
    world = ChainWorld()
    world.add_nodes()
    deployment = running(world)
    source = site("1.1.0", budget=3_000_000)
    body = world.update_body(deployment, source, world.publish(source))
    assert body.amount == 1_000_000
    monkeypatch.setattr("ledger.transition.updates.funds_under", lambda terms, record: record.funded)
    world.ok(CONSUMER, replace(body, amount=0))
    assert audited(world, deployment).rule == "audit.funds"


def test_work_by_a_manifest_that_nobody_approved_is_found() -> None:
    """[U5] A ledger that hands out a slot of an update that still waits for its approval."""
    world = ChainWorld()
    world.add_nodes()
    deployment = world.ordered(site())
    world.approve(deployment)
    digest = world.updated(deployment, site("1.1.0")).manifest
    world.chain.grow({_slot(deployment): encode(replace(world.slot(deployment, "web/0"), next=digest))})
    world.height = world.store.tip.height
    node = world.claimed(deployment, "web/0", [NODES[0]])
    assert audited(world, deployment).ok, "who only claims does not say for what"
    world.report(deployment, "web/0", node, "fetching")
    report = audited(world, deployment)
    assert report.rule == "audit.not_approved"
    assert "by another manifest" in report.detail


def test_after_it_its_approval_must_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    """[U9] A ledger that goes on under the former approvals when those of the update are withdrawn."""
    policies = replace(POLICIES, update=Rule(role="budget"))
    world = ChainWorld()
    world.add_nodes()
    deployment = running(world, policies=policies)
    world.updated(deployment, site("1.1.0", policies=policies))
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "granted", "update"))
    for name in ("web/0", "web/1"):
        stop(world, deployment, name)
        serve(world, deployment, name)
        world.wait(6_000)
    assert world.deployment(deployment).generation == 1
    assert audited(world, deployment).ok
    monkeypatch.setattr("ledger.transition.approvals.lose", lambda deal, reason: None)
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "revoked"))
    node = next(node for node in NODES if node.public == world.slot(deployment, "web/0").holder)
    world.ok(node, world.receipt(deployment, "web/0", node, "running"))
    assert audited(world, deployment).rule == "audit.not_approved"


def test_a_rejected_one_verifies() -> None:
    chain = ChainWorld()
    chain.add_nodes()
    deployment = running(chain)
    chain.updated(deployment, site("1.1.0"))
    chain.ok(BUDGET, chain.decide(deployment, BUDGET, "budget", "rejected", "update"))
    assert chain.update(deployment).status == "rejected"
    report = audited(chain, deployment)
    assert report.ok, (report.rule, report.detail)
    decision = report.facts.generations[1].decision
    assert isinstance(decision, Decision) and decision.rejected


def test_one_that_nobody_rejected_is_found() -> None:
    """It lay until it expired; certified state that says somebody had said no."""
    short = replace(POLICIES, validity_s=120)
    chain = ChainWorld()
    chain.add_nodes()
    deployment = running(chain, policies=short)
    for who, role in ((BUDGET, "budget"), (EXPERT, "it-expert")):  # those of the deployment stand for long
        later_ms = chain.now_ms + 10**9
        chain.ok(STRANGER, chain.decide(deployment, who, role, expires_ms=later_ms))
    chain.updated(deployment, site("1.1.0", policies=short))
    chain.wait(125_000, step_ms=5_000)
    assert chain.update(deployment).status == "expired"
    assert audited(chain, deployment).ok
    lie = update(1, status="rejected")
    assert rule_after(chain, deployment, lie) == "audit.update_approval"
