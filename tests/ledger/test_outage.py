"""Outages of the notary: rule O1. Missed block time is neither billed nor counted, and ends nothing."""

from __future__ import annotations

import pytest

from ledger.audit.audit import export, verify
from ledger.keys import Key
from ledger.limits import BLOCK_IDLE_MS, LEASE_MS, OUTAGE_MS
from ledger.manifests.expansion import cost
from ledger.manifests.types import Policies
from ledger.records import Bill
from ledger.state import read
from ledger.trade_records import Missed
from ledger.transactions import Renew, RenewItem
from tests.ledger.chain_fixture import ChainWorld
from tests.ledger.invariants import check
from tests.ledger.world import FARMERS, HOUR_MS, NODES, POLICIES, World, contract, service

DAY_MS = 24 * HOUR_MS


def renewed(world: World, deployment: bytes, node: Key = NODES[0], name: str = "web/0") -> None:
    world.ok(node, Renew((RenewItem(deployment, name, world.slot(deployment, name).term),)), step_ms=0)


def alone(world: World, duration_s: int = 24 * 3_600) -> bytes:
    """One replica, running on the first node."""
    world.add_nodes(NODES[:1])
    return world.running(contract(service(replicas=1), name="alone", duration_s=duration_s))


def missed(world: World) -> int:
    found = read(world.state, Missed, b"missed")
    return 0 if found is None else found.total_ms


@pytest.mark.parametrize(
    ("gap_ms", "wanted"), [(1_000, 0), (OUTAGE_MS, 0), (OUTAGE_MS + 1, OUTAGE_MS + 1 - BLOCK_IDLE_MS)]
)
def test_a_gap_counts_when_no_holder_could_renew_in_time(gap_ms: int, wanted: int) -> None:
    world = World()
    assert OUTAGE_MS == LEASE_MS // 3
    result = world.run(step_ms=gap_ms, outage=True)
    assert missed(world) == wanted
    assert [e.kind for e in result.events] == (["notary.outage"] if wanted else [])


def test_missed_time_is_not_billed() -> None:
    """[O1] [E1]"""
    world = World()
    deployment = alone(world)
    slot = world.slot(deployment, "web/0")
    before = world.balance(FARMERS[0])
    world.run(step_ms=25_000, outage=True)
    renewed(world, deployment)
    world.run(step_ms=5_000)
    renewed(world, deployment)
    (bill,) = [bill for bill in world.bills(deployment) if bill.slot]
    held_ms = world.now_ms - slot.claimed_ms
    assert bill == Bill(
        "web/0",
        1,
        FARMERS[0].public,
        slot.claimed_ms,
        world.now_ms,
        cost(slot.rate_hour, 0, held_ms - 24_000),
        24_000,
    )
    assert bill.amount < cost(slot.rate_hour, 0, held_ms)
    assert world.balance(FARMERS[0]) == before + bill.amount
    check(world.state, world.now_ms)


def test_a_lease_that_an_outage_ended_is_not_counted_as_broken() -> None:
    """[O1] [L3]"""
    world = World()
    deployment = alone(world)
    before = world.balance(FARMERS[0])
    world.run(step_ms=HOUR_MS, outage=True)
    lost = next(event for event in world.events if event.kind == "slot.lost")
    assert lost.fields["missed_ms"] == HOUR_MS - BLOCK_IDLE_MS
    assert world.node(NODES[0]).broken_leases == 0
    assert "lease.penalty" not in world.kinds()
    assert world.balance(FARMERS[0]) == before
    assert (world.deployment(deployment).status, world.slot(deployment, "web/0").status) == ("active", "open")
    assert world.claimed(deployment, "web/0", [NODES[0]]) is NODES[0]
    world.wait(60_000, step_ms=10_000)
    assert world.node(NODES[0]).broken_leases == 1, "this one nobody else is to blame for"
    check(world.state, world.now_ms)


def test_an_outage_moves_the_end_of_a_term() -> None:
    """[O1] [D3]"""
    world = World()
    deployment = alone(world, duration_s=60)
    ends_ms = world.deployment(deployment).ends_ms
    world.run(step_ms=DAY_MS, outage=True)
    record = world.deployment(deployment)
    assert record.status == "active"
    assert record.ends_ms == ends_ms + DAY_MS - BLOCK_IDLE_MS
    assert "deployment.delayed" in world.kinds()
    check(world.state, world.now_ms)
    world.wait(record.ends_ms - world.now_ms, step_ms=5_000)
    assert world.deployment(deployment).status == "completed"
    check(world.state, world.now_ms)


def test_an_outage_moves_an_end_that_was_told_already() -> None:
    """[O1] Also after the notice that it comes, which looks at missed time by itself."""
    world = World()
    deployment = alone(world, duration_s=60)
    ends_ms = world.deployment(deployment).ends_ms
    while world.now_ms < ends_ms - 3_000:
        world.run(step_ms=min(5_000, ends_ms - 3_000 - world.now_ms))
        renewed(world, deployment)
    assert world.kinds().count("deployment.ends_soon") == 1
    world.run(step_ms=HOUR_MS, outage=True)
    record = world.deployment(deployment)
    assert (record.status, record.ends_ms) == ("active", ends_ms + HOUR_MS - BLOCK_IDLE_MS)
    check(world.state, world.now_ms)


def test_an_end_that_has_come_all_the_same_is_an_end() -> None:
    """The outage began within a second of it: what is left of the term is over in the same block."""
    world = World()
    deployment = alone(world, duration_s=60)
    ends_ms = world.deployment(deployment).ends_ms
    while world.now_ms < ends_ms - 500:
        world.run(step_ms=min(5_000, ends_ms - 500 - world.now_ms))
        renewed(world, deployment)
    world.run(step_ms=HOUR_MS, outage=True)
    record = world.deployment(deployment)
    assert (record.status, record.ends_ms) == ("completed", 0)
    check(world.state, world.now_ms)


def test_an_end_that_comes_with_its_notice_after_an_outage_is_an_end() -> None:
    """Both are due in one block: the notice moved the end to before that block, where nobody looked."""
    world = World()
    world.add_nodes(NODES[:1])
    deployment = world.ordered(contract(service(replicas=1), name="brief", duration_s=60))
    world.approve(deployment)
    ends_ms = world.deployment(deployment).ends_ms
    world.run(step_ms=11_000, outage=True)
    world.run(step_ms=70_000)
    record = world.deployment(deployment)
    assert (record.status, record.ends_ms) == ("expired", 0)
    (told,) = (event.fields for event in world.events if event.kind == "deployment.ends_soon")
    assert told["ends_ms"] == ends_ms + 11_000 - BLOCK_IDLE_MS
    check(world.state, world.now_ms)


def test_an_outage_moves_the_wait_for_approval() -> None:
    world = World()
    world.add_nodes(NODES[:1])
    policies = Policies(deploy=POLICIES.deploy, signoff=None, validity_s=60)
    deployment = world.ordered(contract(service(replicas=1), name="brief", policies=policies))
    world.run(step_ms=DAY_MS, outage=True)
    assert world.deployment(deployment).status == "awaiting_approval"
    world.approve(deployment)
    assert world.deployment(deployment).status == "approved"


def test_each_outage_counts_once() -> None:
    world = World()
    deployment = alone(world, duration_s=600)
    ends_ms = world.deployment(deployment).ends_ms
    for _ in range(3):
        world.run(step_ms=20_000, outage=True)
        renewed(world, deployment)
        world.run(step_ms=10_000)
        renewed(world, deployment)
    assert missed(world) == 57_000
    while world.deployment(deployment).status == "active":
        world.run(step_ms=10_000)
        if world.deployment(deployment).status == "active":
            renewed(world, deployment)
    assert world.deployment(deployment).ended_ms - ends_ms in range(57_000, 67_001)
    (bill,) = [bill for bill in world.bills(deployment) if bill.slot]
    assert (bill.missed_ms, bill.to_ms) == (57_000, ends_ms + 57_000)
    check(world.state, world.now_ms)


def test_an_audit_shows_it() -> None:
    world = ChainWorld()
    deployment = alone(world)
    world.run(step_ms=25_000, outage=True)
    renewed(world, deployment)
    world.run()
    world.run()
    report = verify(export(world.store, deployment), world.genesis)
    assert report.ok, (report.rule, report.detail)
    (fee, bill) = sorted(report.facts.bills, key=lambda bill: bill.slot)
    assert fee.slot == ""
    assert bill.amount < cost(bill.rate_hour, bill.from_ms, bill.to_ms)
