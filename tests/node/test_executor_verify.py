"""A node's own proof: nothing is claimed or started that documents do not prove, whatever a state says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from ledger import transactions as t
from ledger.codec import encode
from ledger.documents import sign_approval
from ledger.keys import Key
from ledger.manifests.types import Policies, Rule
from ledger.predicates import ApprovalPredicate
from ledger.records import (
    ApprovalRecord,
    ContractRecord,
    key_approval,
    key_contract,
    key_deployment,
    key_manifest,
    key_open,
    key_slot,
)
from ledger.state import read
from node.executor.decide import Now, openings, refusal
from node.executor.verify import Case, Verdict, verify
from tests.ledger import world as people
from tests.ledger.world import BUDGET, CHAIN_ID, EXPERT, LEGAL, STRANGER, World, contract


class Site:
    """A deployment that waits for approval, in a world whose state may be forged."""

    def __init__(self, policies: Policies = people.POLICIES) -> None:
        self.world = World()
        self.world.add_nodes()
        source = contract(policies=policies)
        order = self.world.tx(people.CONSUMER, self.world.order_body(source, self.world.publish(source)))
        assert self.world.run(order).receipts[0].ok
        self.id, self.order = order.id, order.raw

    def verdict(self, order: bytes | None = b"", now_ms: int | None = None) -> Verdict:
        now = self.world.now_ms if now_ms is None else now_ms
        return verify(Case(self.world.state, CHAIN_ID, self.id, self.order if order == b"" else order, now))

    def forge(self) -> None:
        """Say that it is approved, and open its slots, as a false or broken state would."""
        record = self.world.deployment(self.id)
        self.world.state.put(
            key_deployment(self.id), encode(replace(record, status="approved", approved_ms=self.world.now_ms))
        )
        for name in record.slots:
            self.world.state.put(key_open(self.id, name), b"")

    def put(self, signer: Key, role: str, *, recorded: Key | None = None, **changes: object) -> None:
        """An approval record that no block ever judged."""
        recorded = recorded or signer
        manifest = changes.pop("manifest", self.world.deployment(self.id).manifest)
        record_role = changes.pop("record_role", role)
        decision = changes.pop("record_decision", changes.get("decision", "granted"))
        time_ms = changes.pop("time_ms", self.world.now_ms)
        fields = {
            "chain_id": CHAIN_ID,
            "deployment": self.id.hex(),
            "act": "deploy",
            "role": role,
            "decision": "granted",
        }
        envelope = sign_approval(signer, ApprovalPredicate(**(fields | changes)), manifest)  # type: ignore[arg-type]
        record = ApprovalRecord(
            recorded.public,
            record_role,
            "deploy",
            decision,
            bytes(32),
            envelope,
            2**50,
            1,
            time_ms,  # type: ignore[arg-type]
        )
        self.world.state.put(key_approval(self.id, "deploy", recorded.public), encode(record))


def test_what_the_policy_asks_for_is_proved_and_named() -> None:
    site = Site()
    assert not site.verdict().ok
    site.world.approve(site.id)
    verdict = site.verdict()
    assert verdict.ok and verdict.reasons == ()
    assert len(verdict.approvals) == 2


def test_a_contract_without_a_policy_needs_no_approval() -> None:
    site = Site(Policies(deploy=None, signoff=None))
    assert site.verdict().ok and site.verdict().approvals == ()


def test_a_forged_status_alone_proves_nothing_though_the_ledger_would_take_the_claim() -> None:
    site = Site()
    site.forge()
    now = Now(site.world.state, CHAIN_ID, site.world.height, site.world.now_ms)
    found = next(openings(now, lambda slot_id: False, 10))
    assert refusal(now, people.NODES[0].public, found) == ""
    verdict = site.verdict()
    assert not verdict.ok
    assert any("role budget" in reason for reason in verdict.reasons)


@pytest.mark.parametrize(
    ("forgery", "reason"),
    [
        (lambda s: s.put(BUDGET, "budget"), "needs 1"),  # one of two
        (lambda s: s.put(STRANGER, "budget"), "does not hold the role"),
        (lambda s: s.put(LEGAL, "budget"), "does not hold the role"),
        (lambda s: s.put(LEGAL, "legal", recorded=BUDGET, record_role="budget"), "another key"),
        (lambda s: s.put(BUDGET, "budget", chain_id="other"), "another chain"),
        (lambda s: s.put(BUDGET, "budget", deployment="00" * 32), "another chain or deployment"),
        (lambda s: s.put(BUDGET, "budget", manifest=bytes(32)), "another manifest"),
        (lambda s: s.put(BUDGET, "budget", act="signoff"), "something else"),
        (
            lambda s: s.put(BUDGET, "budget", decision="rejected", record_decision="granted"),
            "something else",
        ),
        (lambda s: s.put(BUDGET, "budget", expires_ms=1), "role budget"),
        (lambda s: s.put(BUDGET, "budget", time_ms=2**49), "in the future"),
    ],
)
def test_a_forged_approval_is_refused_with_its_reason(forgery: Callable[[Site], None], reason: str) -> None:
    site = Site()
    site.forge()
    site.put(EXPERT, "it-expert")
    if reason != "needs 1":
        assert not site.verdict().ok
    else:
        site.world.state.delete(key_approval(site.id, "deploy", EXPERT.public))
    forgery(site)
    verdict = site.verdict()
    assert not verdict.ok
    assert reason in "; ".join(verdict.reasons), verdict.reasons


def test_the_forgeries_above_differ_from_what_is_accepted_in_one_thing_each() -> None:
    site = Site()
    site.forge()
    site.put(EXPERT, "it-expert")
    site.put(BUDGET, "budget")
    assert site.verdict().ok


def test_an_approval_that_expired_no_longer_counts() -> None:
    site = Site()
    site.world.approve(site.id)
    validity_ms = people.POLICIES.validity_s * 1000
    assert site.verdict(now_ms=site.world.now_ms + validity_ms - 5_000).ok
    assert not site.verdict(now_ms=site.world.now_ms + validity_ms).ok


def test_a_revocation_that_the_status_hides_is_seen() -> None:
    site = Site()
    site.world.approve(site.id)
    site.world.ok(BUDGET, site.world.decide(site.id, BUDGET, "budget", "revoked"))
    site.forge()
    assert not site.verdict().ok


def test_another_manifest_contract_consumer_or_order_is_refused() -> None:
    site = Site()
    site.world.approve(site.id)
    state, record = site.world.state, site.world.deployment(site.id)
    assert "verify.order" in site.verdict(order=None).reasons[0]
    assert "verify.order" in site.verdict(order=site.order[:-64] + bytes(64)).reasons[0]
    other = site.world.tx(people.CONSUMER, t.Transfer(STRANGER.public, 1)).raw
    assert "verify.order" in site.verdict(order=other).reasons[0]
    data = state.get(key_manifest(record.manifest))
    assert data is not None
    state.put(key_manifest(record.manifest), data.replace(b'"serve"', b'"steal"'))
    assert "verify.manifest" in site.verdict().reasons[0]
    state.put(key_manifest(record.manifest), data)
    for changes in ({"consumer": STRANGER.public}, {"contract": bytes(32)}, {"manifest": bytes(32)}):
        state.put(key_deployment(site.id), encode(replace(record, **changes)))
        assert not site.verdict().ok, changes
    state.put(key_deployment(site.id), encode(record))
    assert site.verdict().ok
    held = read(state, ContractRecord, key_contract(record.contract))
    assert held is not None
    state.put(key_contract(record.contract), encode(replace(held, author=STRANGER.public)))
    assert "verify.contract" in site.verdict().reasons[0]
    assert state.get(key_slot(site.id, "web/0")) is not None


def test_what_runs_goes_on_for_as_long_as_the_contract_says() -> None:
    """[D8] It may go on, but nothing may start; and not for longer, whatever the state says."""
    site = Site(replace(people.POLICIES, run_on_s=600))
    world = site.world
    world.approve(site.id)
    world.ok(EXPERT, world.decide(site.id, EXPERT, "it-expert", "revoked"))
    lost_ms = world.deployment(site.id).lost_ms
    assert lost_ms == world.now_ms

    def may_run(now_ms: int, runs: bool) -> bool:
        return verify(Case(world.state, CHAIN_ID, site.id, site.order, now_ms, runs)).ok

    assert may_run(lost_ms + 599_999, True)
    assert not may_run(lost_ms + 600_000, True)
    assert not may_run(lost_ms, False)
    stopped = Site()
    stopped.world.approve(stopped.id)
    stopped.world.ok(EXPERT, stopped.world.decide(stopped.id, EXPERT, "it-expert", "revoked"))
    state, now_ms = stopped.world.state, stopped.world.now_ms
    assert not verify(Case(state, CHAIN_ID, stopped.id, stopped.order, now_ms, True)).ok


def test_a_named_key_is_proved_without_a_role() -> None:
    """[G2]"""
    site = Site(Policies(deploy=Rule(key=STRANGER.public.hex()), signoff=None))
    site.world.ok(STRANGER, site.world.decide(site.id, STRANGER, ""))
    assert site.verdict().ok
