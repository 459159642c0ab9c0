"""What an escrow never pays: time after the end, and to a farmer the author's fee, or what an update locked.
Mutants showed the gap."""

from __future__ import annotations

from msgspec.structs import replace

from ledger.records import Account, key_account, key_deployment
from ledger.state import write
from ledger.transactions import Renew, RenewItem
from tests.ledger.invariants import check
from tests.ledger.world import CONSUMER, FARMERS, NODES, World, contract, job, service


def renewed(world: World, deployment: bytes, name: str) -> None:
    term = world.slot(deployment, name).term
    world.ok(NODES[0], Renew((RenewItem(deployment, name, term),)), step_ms=0)


def test_time_after_the_end_is_not_billed() -> None:
    """[E1] The block that ends a deployment comes late."""
    world = World()
    world.add_nodes()
    deployment = world.running(contract(job(), name="brief", duration_s=60))
    ends_ms = world.deployment(deployment).ends_ms
    while world.now_ms < ends_ms - 15_000:
        world.run(step_ms=min(10_000, ends_ms - 15_000 - world.now_ms))
        renewed(world, deployment, "mine/0")
    world.run(step_ms=20_000)
    assert world.now_ms == ends_ms + 5_000
    assert world.deployment(deployment).status == "completed"
    (bill,) = [bill for bill in world.bills(deployment) if bill.slot]
    assert bill.to_ms == ends_ms
    check(world.state, world.now_ms)


def test_the_fee_is_kept_back_until_it_is_earned() -> None:
    """[E3] Held time that the rest cannot pay ends the deployment; the consumer gets the fee back."""
    world = World()
    world.add_nodes()
    deployment = world.ordered(contract(fee=100_000))
    world.approve(deployment)
    assert world.claimed(deployment, "web/0", [NODES[0]]) is NODES[0]
    record = world.deployment(deployment)
    returned = world.balance(CONSUMER) + record.escrow - 100_020
    write(world.state, key_deployment(deployment), replace(record, escrow=100_020))
    write(world.state, key_account(CONSUMER.public), Account(returned))
    world.run(step_ms=20_000)
    before = world.balance(FARMERS[0])
    renewed(world, deployment, "web/0")
    assert world.deployment(deployment).status == "failed"
    assert world.balance(FARMERS[0]) == before + 20
    assert world.balance(CONSUMER) == returned + 100_000
    check(world.state, world.now_ms)


def test_what_an_update_locked_is_kept_back_until_it_is_approved() -> None:
    """[U2] Held time that the rest cannot pay ends the deployment; the consumer has back what was locked."""
    world = World()
    world.add_nodes()
    web = service(replicas=1)
    deployment = world.running(contract(web, budget=1_000_000))
    assert world.updated(deployment, contract(web, version="1.1.0", budget=1_300_000)).locked == 300_000
    record = world.deployment(deployment)
    paid_in = record.paid_in - record.escrow + 300_020
    write(world.state, key_deployment(deployment), replace(record, escrow=300_020, paid_in=paid_in))
    returned = world.balance(CONSUMER) + record.escrow - 300_020
    write(world.state, key_account(CONSUMER.public), Account(returned))
    world.run(step_ms=20_000)
    before = world.balance(FARMERS[0])
    renewed(world, deployment, "web/0")
    assert world.deployment(deployment).status == "failed"
    assert world.balance(FARMERS[0]) == before + 20
    assert (world.update(deployment).status, world.update(deployment).refunded) == ("cancelled", 300_000)
    assert world.balance(CONSUMER) == returned + 300_000
    check(world.state, world.now_ms)
