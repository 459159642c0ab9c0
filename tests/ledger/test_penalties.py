"""Broken leases cost money, and how a node's terms ended is counted: rules E5, L3, R7."""

from __future__ import annotations

from msgspec.structs import replace

from ledger.manifests.expansion import cost
from ledger.records import Account, Node, key_account
from ledger.reputation import reputation, terms_ended
from ledger.state import write
from ledger.trade_records import Penalty
from ledger.transactions import CancelDeployment, Transfer
from tests.ledger.invariants import check
from tests.ledger.world import (
    CONSUMER,
    FARMERS,
    HOUR_MS,
    NODES,
    STRANGER,
    World,
    contract,
    job,
    service,
)


def vanished(world: World) -> bytes:
    """The node of a running service says nothing for a minute."""
    world.add_nodes(NODES[:1])
    deployment = world.running(contract(service(replicas=1), name="alone"))
    world.wait(60_000, step_ms=10_000)
    return deployment


def penalties(world: World, deployment: bytes) -> list[Penalty]:
    return world.records(b"penalty/" + deployment, Penalty)


def test_a_broken_lease_costs_the_farmer_an_hour_of_the_slot() -> None:
    """[E5]"""
    world = World()
    farmer, consumer = world.balance(FARMERS[0]), world.balance(CONSUMER)
    deployment = vanished(world)
    slot, record = world.slot(deployment, "web/0"), world.deployment(deployment)
    owed = cost(slot.rate_hour, 0, HOUR_MS)
    (penalty,) = penalties(world, deployment)
    assert penalty == Penalty(
        "web/0", 1, NODES[0].public, FARMERS[0].public, CONSUMER.public, owed, owed, penalty.time_ms
    )
    paid = sum(bill.amount for bill in world.bills(deployment) if bill.slot)
    assert world.balance(FARMERS[0]) == farmer - owed + paid
    assert world.balance(CONSUMER) == consumer - 2_000_000 + owed
    assert record.spent + record.escrow == 2_000_000, "the escrow has nothing to do with it"
    check(world.state, world.now_ms)


def test_no_account_goes_below_zero_and_the_rest_stays_on_record() -> None:
    """[E5] [M2]"""
    world = World()
    world.ok(FARMERS[0], Transfer(STRANGER.public, world.balance(FARMERS[0]) - 7))
    deployment = vanished(world)
    (penalty,) = penalties(world, deployment)
    assert (penalty.owed > 7, penalty.amount, world.balance(FARMERS[0])) == (True, 7, 0)
    check(world.state, world.now_ms)


def test_a_farmer_without_any_account_pays_nothing() -> None:
    world = World()
    world.add_nodes(NODES[:1])
    deployment = world.running(contract(service(replicas=1), name="alone"))
    held = world.balance(FARMERS[0])
    world.state.update({key_account(FARMERS[0].public): None})
    write(world.state, key_account(STRANGER.public), Account(world.balance(STRANGER) + held))
    world.wait(60_000, step_ms=10_000)
    (penalty,) = penalties(world, deployment)
    assert penalty.amount == 0
    check(world.state, world.now_ms)


def test_a_farmer_who_is_the_consumer_pays_to_themselves() -> None:
    world = World()
    world.add_nodes(NODES[:1])
    source = contract(service(replicas=1), name="own")
    contract_id = world.publish(source)
    body = world.order_body(source, contract_id, consumer=FARMERS[0])
    deployment = world.ok(FARMERS[0], body).id
    world.approve(deployment)
    world.claimed(deployment, "web/0", NODES[:1])
    before = world.balance(FARMERS[0])
    world.wait(60_000, step_ms=10_000)
    assert penalties(world, deployment)[0].amount > 0
    assert world.balance(FARMERS[0]) == before
    check(world.state, world.now_ms)


def test_a_slot_that_the_ledger_released_is_no_broken_lease() -> None:
    world = World()
    world.add_nodes(NODES[:1])
    deployment = world.running(contract(service(replicas=1), name="alone"))
    world.ok(CONSUMER, CancelDeployment(deployment, ""))
    world.wait(60_000, step_ms=10_000)
    assert world.node(NODES[0]).slots_held == 0
    assert (penalties(world, deployment), world.node(NODES[0]).broken_leases) == ([], 0)


def test_how_each_term_ended_is_counted() -> None:
    """[R7]"""
    world = World()
    world.add_nodes(NODES[:1])
    node = NODES[0]
    deployment = world.ordered(contract(job(), name="mining"))
    world.approve(deployment)
    for statuses in (("failed",), ("released",), ("fetching", "verified", "running", "succeeded")):
        world.claimed(deployment, "mine/0", [node])
        world.report(deployment, "mine/0", node, *statuses)
    other = world.running(contract(service(replicas=1), name="alone"))
    world.ok(CONSUMER, CancelDeployment(other, ""))
    world.report(other, "web/0", node, "released")
    found = world.node(node)
    counts = (found.terms_kept, found.terms_failed, found.terms_quarantined, found.terms_given_up)
    assert counts == (2, 1, 0, 1)
    assert (terms_ended(found), reputation(found)) == (4, 600)


def test_reputation_is_a_share_in_whole_numbers() -> None:
    world = World()
    world.add_nodes(NODES[:1])
    new = world.node(NODES[0])

    def after(**counts: int) -> int:
        node: Node = replace(new, **counts)
        return reputation(node)

    assert after() == 1_000
    assert after(terms_kept=99) == 1_000
    assert after(broken_leases=1) == after(terms_failed=1) == after(terms_given_up=1) == 500
    assert after(terms_quarantined=1) == 200
    assert after(terms_kept=98, broken_leases=1) == 990
    assert after(broken_leases=10**6) == 0
