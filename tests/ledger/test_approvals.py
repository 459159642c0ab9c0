"""Decisions of stakeholders: rules A1-A6, D4."""

from typing import Any

import pytest
from msgspec.structs import replace

from ledger.documents import sign_payload
from ledger.keys import Key
from ledger.limits import APPROVALS_PER_DEPLOYMENT_MAX, LEASE_GUARD_MS, LEASE_MS
from ledger.manifests.types import Policies, Rule
from ledger.records import ApprovalRecord, key_approval, key_deployment
from ledger.state import read, write
from ledger.transactions import CancelDeployment, Claim, Decide, Renew, RenewItem
from tests.ledger.invariants import check
from tests.ledger.world import (
    AUTHOR,
    BUDGET,
    CONSUMER,
    DEPLOY,
    EXPERT,
    LEGAL,
    NODES,
    POLICIES,
    STRANGER,
    World,
    contract,
)


def awaiting(**changes: Any) -> tuple[World, bytes]:
    world = World()
    world.add_nodes()
    return world, world.ordered(contract(policies=replace(POLICIES, **changes)))


def running(**changes: Any) -> tuple[World, bytes]:
    world = World()
    world.add_nodes()
    return world, world.running(contract(policies=replace(POLICIES, **changes)))


def status(world: World, deployment: bytes) -> str:
    return world.deployment(deployment).status


def test_budget_and_one_more_approve() -> None:
    world, deployment = awaiting()
    world.ok(STRANGER, world.decide(deployment, LEGAL, "legal"))  # anybody may carry it
    world.ok(EXPERT, world.decide(deployment, EXPERT, "it-expert"))
    assert status(world, deployment) == "awaiting_approval"
    assert not list(world.state.scan(b"open/"))
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget"))
    record = world.deployment(deployment)
    assert (record.status, record.approved_ms) == ("approved", world.now_ms)
    assert len(list(world.state.scan(b"open/"))) == 2


@pytest.mark.parametrize(
    ("key", "role", "changes", "rule"),
    [
        (STRANGER, "budget", {}, "approval.not_a_stakeholder"),
        (LEGAL, "budget", {}, "approval.wrong_role"),
        (BUDGET, "king", {}, "approval.unknown_role"),
        (BUDGET, "budget", {"chain_id": "other"}, "approval.foreign_chain"),
        (BUDGET, "budget", {"deployment": "00" * 32}, "approval.unknown_deployment"),
        (BUDGET, "budget", {"manifest": bytes(32)}, "approval.manifest_mismatch"),
        (BUDGET, "budget", {"expires_ms": 1}, "approval.expired"),
        (BUDGET, "budget", {"decision": "revoked"}, "approval.nothing_to_revoke"),
        (BUDGET, "budget", {"act": "signoff"}, "approval.closed"),
    ],
)
def test_refused_decisions(key: Key, role: str, changes: dict[str, Any], rule: str) -> None:
    world, deployment = awaiting()
    assert world.refused(STRANGER, world.decide(deployment, key, role, **changes)) == rule


def test_a_rejection_is_taken_back_by_an_approval_and_that_is_said() -> None:
    world, deployment = awaiting()
    world.ok(EXPERT, world.decide(deployment, EXPERT, "it-expert", "rejected"))
    refused = world.do(EXPERT, world.decide(deployment, EXPERT, "it-expert", "revoked"))
    assert refused.rule == "approval.nothing_to_revoke"
    assert refused.detail.endswith("an approval takes a rejection back")
    world.ok(EXPERT, world.decide(deployment, EXPERT, "it-expert"))


def test_a_forged_approval() -> None:
    world, deployment = awaiting()
    envelope = world.decide(deployment, BUDGET, "budget").envelope
    assert world.refused(STRANGER, Decide(envelope.replace(b'"sig":"', b'"sig":"A'))).startswith("document.")
    other = sign_payload(STRANGER, b"{}").replace(
        STRANGER.public.hex().encode(), BUDGET.public.hex().encode()
    )
    assert world.refused(STRANGER, Decide(other)) == "document.malformed"
    stranger = world.decide(deployment, STRANGER, "budget").envelope
    forged = stranger.replace(STRANGER.public.hex().encode(), BUDGET.public.hex().encode())
    assert world.refused(STRANGER, Decide(forged)) == "document.signature"


def test_a_document_is_accepted_once() -> None:
    """Else anybody could carry a grant in again after its signer had revoked it."""
    world, deployment = running()
    grant = world.decide(deployment, LEGAL, "legal")
    world.ok(STRANGER, grant)
    assert world.refused(STRANGER, grant) == "approval.duplicate"
    world.ok(LEGAL, world.decide(deployment, LEGAL, "legal", "revoked"))
    assert world.refused(STRANGER, grant) == "approval.duplicate"


@pytest.mark.parametrize("excluded", ["author", "consumer"])
def test_excluded_signers(excluded: str) -> None:
    key = AUTHOR if excluded == "author" else CONSUMER
    source = contract()
    roles = tuple(
        replace(role, keys=(*role.keys, key.public.hex())) if role.name == "legal" else role
        for role in source.roles
    )
    policies = replace(POLICIES, author_may_approve=False, consumer_may_approve=False)
    world = World()
    deployment = world.ordered(replace(source, roles=roles, policies=policies))
    assert world.refused(key, world.decide(deployment, key, "legal")) == "approval.excluded"


def test_not_asked() -> None:
    world, deployment = running(signoff=None)
    assert (
        world.refused(EXPERT, world.decide(deployment, EXPERT, "it-expert", "granted", "signoff"))
        == "approval.not_asked"
    )
    world = World()
    deployment = world.ordered(contract(policies=Policies(deploy=None, signoff=None)))
    assert world.refused(BUDGET, world.decide(deployment, BUDGET, "budget")) == "approval.not_asked"


def test_the_last_decision_counts() -> None:
    world, deployment = awaiting()
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget"))
    world.ok(LEGAL, world.decide(deployment, LEGAL, "legal", "rejected"))
    assert status(world, deployment) == "awaiting_approval"
    world.ok(LEGAL, world.decide(deployment, LEGAL, "legal"))
    assert status(world, deployment) == "approved"
    record = read(world.state, ApprovalRecord, key_approval(deployment, "deploy", LEGAL.public))
    assert record is not None
    assert record.decision == "granted"


def test_a_grant_held_back_does_not_replace_a_later_decision() -> None:
    """[A3]"""
    world, deployment = awaiting()
    made_ms = world.now_ms
    held_back = world.decide(deployment, LEGAL, "legal", made_ms=made_ms)
    world.ok(LEGAL, world.decide(deployment, LEGAL, "legal", "rejected", made_ms=made_ms + 1))
    assert world.refused(STRANGER, held_back) == "approval.superseded"
    undated = world.decide(deployment, LEGAL, "legal")
    assert world.refused(STRANGER, undated) == "approval.superseded"
    world.ok(LEGAL, world.decide(deployment, LEGAL, "legal", made_ms=made_ms + 1))


def test_rejected_out_of_reach() -> None:
    world, deployment = awaiting()
    before = world.balance(CONSUMER)
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "rejected"))
    record = world.deployment(deployment)
    assert (record.status, record.escrow) == ("rejected", 0)
    assert world.balance(CONSUMER) == before + 2_000_000
    assert world.refused(BUDGET, world.decide(deployment, BUDGET, "budget")) == "approval.closed"


def test_revoked_while_it_runs() -> None:
    """[D4] Stops; nobody else may start before the holders are surely down; then it goes on."""
    world, deployment = running()
    world.ok(EXPERT, world.decide(deployment, EXPERT, "it-expert", "revoked"))
    assert status(world, deployment) == "awaiting_approval"
    for name, node in (("web/0", NODES[0]), ("web/1", NODES[2])):
        slot = world.slot(deployment, name)
        assert (slot.status, slot.holder, slot.term) == ("released", node.public, 1)
        assert world.refused(node, Renew((RenewItem(deployment, name, 1),))) == "renew.released"
    world.ok(LEGAL, world.decide(deployment, LEGAL, "legal"))
    assert status(world, deployment) == "approved"
    assert world.refused(NODES[1], Claim(deployment, "web/0", 2)) == "claim.not_open"
    world.report(deployment, "web/0", NODES[0], "released")
    assert world.claimed(deployment, "web/0", [NODES[1]]) is NODES[1]
    world.wait(LEASE_MS + LEASE_GUARD_MS, step_ms=5_000)
    slot = world.slot(deployment, "web/1")
    assert (slot.status, slot.holder, slot.term) == ("open", b"", 1)
    assert world.node(NODES[2]).broken_leases == 0
    check(world.state, world.now_ms)


def test_a_spare_approval_keeps_it_running() -> None:
    world, deployment = running()
    world.ok(LEGAL, world.decide(deployment, LEGAL, "legal"))
    world.ok(EXPERT, world.decide(deployment, EXPERT, "it-expert", "revoked"))
    assert status(world, deployment) == "active"


def test_rejection_while_it_runs_ends_it() -> None:
    world, deployment = running()
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "rejected"))
    record = world.deployment(deployment)
    assert (record.status, record.escrow) == ("rejected", 0)
    assert record.spent > 100_000


def test_expiry_suspends() -> None:
    """[A4] Exactly at its time; a later grant of the same signer moves it."""
    world, deployment = awaiting()
    expires_ms = world.now_ms + 100_000
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget"))
    world.ok(EXPERT, world.decide(deployment, EXPERT, "it-expert", expires_ms=world.now_ms + 50_000))
    world.ok(EXPERT, world.decide(deployment, EXPERT, "it-expert", expires_ms=expires_ms))
    world.run(step_ms=expires_ms - world.now_ms - 1)
    assert status(world, deployment) == "approved"
    world.run(step_ms=1)
    assert status(world, deployment) == "awaiting_approval"
    assert "approval.expired" in world.kinds()
    assert not list(world.state.scan(b"open/"))


def test_default_validity_counts_from_acceptance() -> None:
    world, deployment = awaiting(validity_s=7_200)
    world.wait(3_600_000, step_ms=3_600_000)
    world.approve(deployment)
    record = read(world.state, ApprovalRecord, key_approval(deployment, "deploy", BUDGET.public))
    assert record is not None
    assert record.expires_ms == record.time_ms + 7_200_000


def test_nothing_expires_after_the_end() -> None:
    world, deployment = running()
    world.ok(CONSUMER, CancelDeployment(deployment, ""))
    assert not [key for key, _ in world.state.scan(b"due/") if b"approval/" in key]


def test_decisions_are_bounded() -> None:
    world, deployment = awaiting()
    record = world.deployment(deployment)
    full = replace(record, decisions=APPROVALS_PER_DEPLOYMENT_MAX)
    write(world.state, key_deployment(deployment), full)
    assert world.refused(BUDGET, world.decide(deployment, BUDGET, "budget")) == "approval.too_many"


def test_signoff_can_be_rejected_without_effect_on_money() -> None:
    world, deployment = running(signoff=Rule(role="budget"))
    before = world.deployment(deployment)
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "rejected", "signoff"))
    assert "deployment.signoff_rejected" in world.kinds()
    after = world.deployment(deployment)
    assert (after.status, after.escrow, after.signed_off_ms) == ("active", before.escrow, 0)
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "granted", "signoff"))
    assert world.deployment(deployment).signed_off_ms
    again = world.decide(deployment, BUDGET, "budget", "granted", "signoff")
    assert world.refused(BUDGET, again) == "approval.closed"


def test_one_approval_fills_one_place() -> None:
    """Budget alone holds two roles here, and still needs a second person."""
    source = contract()
    roles = tuple(
        replace(role, keys=(*role.keys, BUDGET.public.hex())) if role.name == "legal" else role
        for role in source.roles
    )
    world = World()
    world.add_nodes()
    deployment = world.ordered(replace(source, roles=roles, policies=replace(POLICIES, deploy=DEPLOY)))
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget"))
    world.ok(BUDGET, world.decide(deployment, BUDGET, "legal"))
    assert status(world, deployment) == "awaiting_approval"
