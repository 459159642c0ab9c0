"""What is told in time, each once: rules I1 to I4."""

from __future__ import annotations

from msgspec.structs import replace

from ledger.limits import ESCROW_LOOK_MS, NOTICE_MS_MAX
from ledger.manifests.expansion import extension_cost
from ledger.manifests.types import Placement
from ledger.outcome import Event
from ledger.records import Account, ApprovalRecord, key_account, key_deployment
from ledger.state import write
from ledger.transactions import (
    CancelDeployment,
    DrainNode,
    ExtendDeployment,
    Renew,
    RenewItem,
    TopUp,
    WithdrawOffer,
)
from ledger.transition.outage import missed_ms
from ledger.warnings import standing_notices
from tests.ledger.invariants import check
from tests.ledger.world import BUDGET, CONSUMER, EXPERT, NODES, STRANGER, World, contract, job, service

TERM_S, GRACE_S = 3_600, 600
VALIDITY_S = 72 * 3_600


def opened(**terms: object) -> tuple[World, bytes]:
    """An approved deployment of one slot that nobody claims yet."""
    world = World()
    world.add_nodes()
    fields = {"duration_s": TERM_S, "grace_s": GRACE_S, "extension_s": TERM_S, "top_up": 500_000} | terms
    web = service(replicas=1, placement=Placement(distinct="none"))
    deployment = world.ordered(contract(web, **fields))  # type: ignore[arg-type]
    return world, deployment


def runs(world: World, deployment: bytes) -> None:
    world.approve(deployment)
    world.claimed(deployment, "web/0", [NODES[0]])
    world.report(deployment, "web/0", NODES[0], "fetching", "verified", "running")


def to(world: World, at_ms: int, deployment: bytes = b"") -> None:
    """Empty blocks, with renewals of the slot while it is held, the last at that time."""
    while world.now_ms < at_ms:
        world.run(step_ms=min(10_000 if deployment else 3_600_000, at_ms - world.now_ms))
        if deployment:
            slot = world.slot(deployment, "web/0")
            if slot.holder and slot.status != "released":
                item = RenewItem(deployment, "web/0", slot.term)
                world.ok(NODES[0], Renew((item,)), step_ms=0)
    check(world.state, world.now_ms)


def told(world: World, kind: str) -> list[Event]:
    return [event for event in world.events if event.kind == kind]


def standing(world: World, deployment: bytes) -> list[tuple[str, int]]:
    record = world.deployment(deployment)
    ends_ms = record.ends_ms + missed_ms(world.state) - record.missed_ms if record.ends_ms else 0
    slots = [world.slot(deployment, name) for name in record.slots]
    approvals = world.records(b"approval/" + deployment, ApprovalRecord)
    found = standing_notices(world.manifest(deployment), record, slots, approvals, ends_ms, world.now_ms)
    return [(item.kind, item.at_ms) for item in found]


# --- I1: a deployment's end ------------------------------------------------------------------------


def test_the_wait_for_approval_ends_soon() -> None:
    world, deployment = opened()
    record = world.deployment(deployment)
    assert record.notice_ms == record.ends_ms - VALIDITY_S * 100
    to(world, record.notice_ms - 1)
    assert not told(world, "deployment.ends_soon") and not standing(world, deployment)
    to(world, record.notice_ms)
    (event,) = told(world, "deployment.ends_soon")
    assert event.fields == {"status": "awaiting_approval", "ends_ms": record.ends_ms}
    assert standing(world, deployment) == [("deployment.ends_soon", record.ends_ms)]
    to(world, record.ends_ms)
    assert world.deployment(deployment).status == "expired"
    assert len(told(world, "deployment.ends_soon")) == 1
    assert standing(world, deployment) == []


def test_a_term_and_a_grace_end_soon_and_each_says_so_once() -> None:
    world, deployment = opened()
    runs(world, deployment)
    ends_ms = world.deployment(deployment).ends_ms
    to(world, ends_ms - TERM_S * 100 - 1, deployment)
    assert not told(world, "deployment.ends_soon")
    to(world, ends_ms, deployment)
    (event,) = told(world, "deployment.ends_soon")
    assert event.fields == {"status": "active", "ends_ms": ends_ms}
    (paused,) = told(world, "deployment.paused")
    assert paused.fields["until_ms"] == ends_ms + GRACE_S * 1000
    to(world, ends_ms + GRACE_S * 900)
    assert [e.fields["status"] for e in told(world, "deployment.ends_soon")] == ["active", "paused"]
    to(world, ends_ms + GRACE_S * 1000)
    assert world.deployment(deployment).status == "completed"
    assert len(told(world, "deployment.ends_soon")) == 2


def test_a_day_ahead_at_most() -> None:
    world, deployment = opened(duration_s=400 * 86_400, extension_s=0)
    world.approve(deployment)
    record = world.deployment(deployment)
    assert record.ends_ms - record.notice_ms == NOTICE_MS_MAX


def test_an_extension_moves_the_notice_and_an_end_by_hand_needs_none() -> None:
    world, deployment = opened()
    runs(world, deployment)
    first = world.deployment(deployment)
    price = extension_cost(world.manifest(deployment).terms, TERM_S)
    world.ok(CONSUMER, ExtendDeployment(deployment, 0, TERM_S, price))
    moved = world.deployment(deployment)
    assert moved.notice_ms > first.ends_ms
    check(world.state, world.now_ms)
    to(world, moved.notice_ms - 1, deployment)
    assert not told(world, "deployment.ends_soon")
    world.ok(CONSUMER, CancelDeployment(deployment, "enough"), step_ms=0)
    to(world, moved.ends_ms)
    assert not told(world, "deployment.ends_soon")


def test_an_outage_moves_the_notice() -> None:
    world, deployment = opened()
    world.approve(deployment)
    record = world.deployment(deployment)
    world.run(step_ms=1_000_000, outage=True)
    to(world, record.notice_ms)
    assert not told(world, "deployment.ends_soon")
    later = world.deployment(deployment)
    assert later.ends_ms == record.ends_ms + missed_ms(world.state)
    check(world.state, world.now_ms)
    to(world, later.notice_ms)
    (event,) = told(world, "deployment.ends_soon")
    assert event.fields["ends_ms"] == later.ends_ms


def test_a_completed_job_that_waits_for_its_sign_off_says_nothing() -> None:
    world = World()
    world.add_nodes()
    deployment = world.ordered(contract(job(), duration_s=TERM_S))
    world.approve(deployment)
    world.claimed(deployment, "mine/0", [NODES[0]])
    world.report(deployment, "mine/0", NODES[0], "fetching", "verified", "running", "succeeded")
    assert world.deployment(deployment).status == "completed"
    to(world, world.deployment(deployment).ends_ms)
    assert not told(world, "deployment.ends_soon")


# --- I2: an approval's -----------------------------------------------------------------------------


def test_an_approval_expires_soon() -> None:
    world, deployment = opened(duration_s=2 * VALIDITY_S)
    world.approve(deployment)
    (budget,) = (r for r in world.records(b"approval/", ApprovalRecord) if r.role == "budget")
    to(world, budget.time_ms + VALIDITY_S * 900 - 1)
    assert not told(world, "approval.expires_soon") and standing(world, deployment) == []
    to(world, budget.time_ms + VALIDITY_S * 900)
    (event,) = told(world, "approval.expires_soon")
    assert event.fields["signer"] == BUDGET.public.hex()
    assert event.fields["expires_ms"] == budget.expires_ms
    assert standing(world, deployment) == [("approval.expires_soon", budget.expires_ms)]


def test_one_that_is_renewed_or_revoked_says_nothing() -> None:
    world, deployment = opened(duration_s=2 * VALIDITY_S)
    world.approve(deployment)
    (budget,) = (r for r in world.records(b"approval/", ApprovalRecord) if r.role == "budget")
    to(world, world.now_ms + 1_000_000)
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget"))
    world.ok(EXPERT, world.decide(deployment, EXPERT, "it-expert", "revoked"))
    to(world, budget.time_ms + VALIDITY_S * 900)
    assert not told(world, "approval.expires_soon")
    to(world, budget.expires_ms)
    assert [e.fields["signer"] for e in told(world, "approval.expires_soon")] == [BUDGET.public.hex()]


# --- I3: the escrow --------------------------------------------------------------------------------


def take_back(world: World, deployment: bytes, leave: int) -> None:
    """By hand: no rule lets an escrow shrink."""
    record = world.deployment(deployment)
    paid_in = record.paid_in - record.escrow + leave
    write(world.state, key_deployment(deployment), replace(record, escrow=leave, paid_in=paid_in))
    returned = world.balance(CONSUMER) + record.escrow - leave
    write(world.state, key_account(CONSUMER.public), Account(returned))


def test_an_escrow_that_does_not_last_is_told_once_until_money_comes() -> None:
    world, deployment = opened()
    runs(world, deployment)
    to(world, world.now_ms + 20_000, deployment)
    assert world.deployment(deployment).look_ms and not told(world, "deployment.escrow_low")
    take_back(world, deployment, 15_000)  # of some 20,000 that the hour costs
    to(world, world.now_ms + ESCROW_LOOK_MS, deployment)
    (event,) = told(world, "deployment.escrow_low")
    assert 0 < int(event.fields["short"]) < 15_000
    assert [kind for kind, _ in standing(world, deployment)] == ["deployment.escrow_low"]
    to(world, world.now_ms + 2 * ESCROW_LOOK_MS, deployment)
    assert len(told(world, "deployment.escrow_low")) == 1
    world.ok(STRANGER, TopUp(deployment, 1))
    to(world, world.now_ms + 10_000, deployment)
    assert len(told(world, "deployment.escrow_low")) == 2
    world.ok(STRANGER, TopUp(deployment, 400_000))
    to(world, world.now_ms + 2 * ESCROW_LOOK_MS, deployment)
    assert len(told(world, "deployment.escrow_low")) == 2
    assert "deployment.escrow_low" not in [kind for kind, _ in standing(world, deployment)]


# --- I4: an offer's --------------------------------------------------------------------------------


def test_an_offer_whose_time_is_over_says_so_unless_it_was_renewed_or_taken_back() -> None:
    world = World()
    world.add_nodes()
    at_ms = world.now_ms + 60_000
    for node in NODES:
        world.ok(node, world.offer(valid_until_ms=at_ms), step_ms=1)
    world.ok(NODES[1], world.offer(valid_until_ms=at_ms + 60_000))
    world.ok(NODES[2], WithdrawOffer())
    world.ok(NODES[3], DrainNode(at_ms + 10_000_000))
    to(world, at_ms - 1)
    assert not told(world, "offer.expired")
    to(world, at_ms)
    assert [e.subject for e in told(world, "offer.expired")] == [NODES[0].public.hex()]
    to(world, at_ms + 1_000_000)
    assert [e.subject for e in told(world, "offer.expired")] == [n.public.hex() for n in NODES[:2]]
    world.ok(NODES[0], world.offer())
    check(world.state, world.now_ms)
