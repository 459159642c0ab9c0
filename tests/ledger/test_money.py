"""Transfers, and what leaves an escrow: rules M1, M2, E1-E4."""

import pytest
from msgspec.structs import replace

from ledger.keys import Key
from ledger.limits import AMOUNT_MAX
from ledger.manifests.expansion import cost
from ledger.records import Account, Bill, key_account, key_deployment
from ledger.state import write
from ledger.text.quantities import credits_text
from ledger.transactions import CancelDeployment, Renew, RenewItem, Transfer
from tests.ledger.invariants import check
from tests.ledger.world import AUTHOR, CONSUMER, FARMERS, NODES, RICH, STRANGER, World, contract, key_of

ELSEWHERE = key_of("somebody new")


def test_transfer() -> None:
    world = World()
    receipt = world.ok(CONSUMER, Transfer(ELSEWHERE.public, RICH))
    assert (world.balance(CONSUMER), world.balance(ELSEWHERE)) == (0, RICH)
    assert receipt.events[0].fields == {
        "sender": CONSUMER.public.hex(),
        "to": ELSEWHERE.public.hex(),
        "amount": RICH,
    }


@pytest.mark.parametrize(
    ("key", "to", "amount", "rule"),
    [
        (CONSUMER, CONSUMER.public, 1, "money.to_oneself"),
        (CONSUMER, AUTHOR.public, 0, "money.amount"),
        (CONSUMER, AUTHOR.public, -1, "money.amount"),
        (CONSUMER, AUTHOR.public, AMOUNT_MAX + 1, "money.amount"),
        (CONSUMER, AUTHOR.public, AMOUNT_MAX, "money.insufficient"),
        (CONSUMER, AUTHOR.public, RICH + 1, "money.insufficient"),
        (ELSEWHERE, AUTHOR.public, 1, "money.insufficient"),
        (CONSUMER, bytes(31), 1, "money.recipient"),
    ],
)
def test_refused_transfers(key: Key, to: bytes, amount: int, rule: str) -> None:
    assert World().refused(key, Transfer(to, amount)) == rule


def test_what_is_lacking_is_told_in_credits() -> None:
    receipt = World().do(CONSUMER, Transfer(ELSEWHERE.public, RICH + 500_000))
    assert receipt.detail == f"balance {credits_text(RICH)}, wanted {credits_text(RICH + 500_000)}"


def test_transfers_in_one_block_see_each_other() -> None:
    world = World()
    first = world.tx(CONSUMER, Transfer(ELSEWHERE.public, 10))
    second = world.tx(ELSEWHERE, Transfer(STRANGER.public, 10))
    assert [r.ok for r in world.run(second, first).receipts] == [False, True]
    third = world.tx(ELSEWHERE, Transfer(STRANGER.public, 10))
    assert [r.ok for r in world.run(third).receipts] == [True]


def renewed(world: World, deployment: bytes, node: Key, name: str) -> None:
    world.ok(node, Renew((RenewItem(deployment, name, world.slot(deployment, name).term),)))


def slot_bills(world: World, deployment: bytes, name: str) -> list[Bill]:
    return [bill for bill in world.bills(deployment) if bill.slot == name]


def test_held_time_is_paid_to_the_farmer_and_rounded_once() -> None:
    """[E1]"""
    world = World()
    world.add_nodes()
    deployment = world.running(contract())
    slot = world.slot(deployment, "web/0")
    before = world.balance(FARMERS[0])
    for _ in range(7):
        world.run(step_ms=3_333)
        renewed(world, deployment, NODES[0], "web/0")
    (bill,) = slot_bills(world, deployment, "web/0")
    assert bill.from_ms == slot.claimed_ms
    assert bill.to_ms == world.now_ms
    assert bill.amount == cost(slot.rate_hour, slot.claimed_ms, world.now_ms)
    assert world.balance(FARMERS[0]) == before + bill.amount
    assert bill.payee == FARMERS[0].public


def test_a_lost_lease_is_not_paid_past_its_renewal() -> None:
    """[E2]"""
    world = World()
    world.add_nodes()
    deployment = world.running(contract())
    renewed(world, deployment, NODES[0], "web/0")
    (paid,) = slot_bills(world, deployment, "web/0")
    world.wait(60_000, step_ms=10_000)
    assert "slot.lost" in world.kinds()
    assert slot_bills(world, deployment, "web/0") == [paid]


def test_the_fee_is_paid_once_with_the_first_run() -> None:
    """[E3]"""
    world = World()
    world.add_nodes()
    deployment = world.ordered(contract(fee=100_000))
    world.approve(deployment)
    before = world.balance(AUTHOR)
    assert world.claimed(deployment, "web/0", [NODES[0]]) is NODES[0]
    world.report(deployment, "web/0", NODES[0], "fetching", "verified")
    assert world.balance(AUTHOR) == before
    world.report(deployment, "web/0", NODES[0], "running", "running")
    assert world.balance(AUTHOR) == before + 100_000
    assert world.claimed(deployment, "web/1", [NODES[2]]) is NODES[2]
    world.report(deployment, "web/1", NODES[2], "fetching", "verified", "running")
    assert world.balance(AUTHOR) == before + 100_000


def test_the_rest_is_refunded() -> None:
    """[E4]"""
    world = World()
    world.add_nodes()
    before = world.balance(CONSUMER)
    deployment = world.running(contract(budget=2_000_000))
    assert world.balance(CONSUMER) == before - 2_000_000
    world.ok(CONSUMER, CancelDeployment(deployment, ""))
    record = world.deployment(deployment)
    assert record.escrow == 0
    assert record.spent > 100_000
    assert world.balance(CONSUMER) == before - record.spent


def test_an_empty_escrow_without_grace_ends_and_settles() -> None:
    """[L2] Shares make this all but impossible, so most of the escrow goes back to the consumer by hand."""
    world = World()
    world.add_nodes()
    deployment = world.running(contract())
    record = world.deployment(deployment)
    returned = world.balance(CONSUMER) + record.escrow - 20
    write(world.state, key_deployment(deployment), replace(record, escrow=20))
    write(world.state, key_account(CONSUMER.public), Account(returned))
    world.run(step_ms=20_000)
    before = world.balance(FARMERS[0])
    renewed(world, deployment, NODES[0], "web/0")
    ended = world.deployment(deployment)
    assert (ended.status, ended.desired, ended.escrow) == ("failed", "stop", 0)
    assert world.balance(FARMERS[0]) == before + 20
    assert {world.slot(deployment, name).status for name in ended.slots} == {"released"}
    assert world.refused(NODES[2], Renew((RenewItem(deployment, "web/1", 1),))) == "renew.released"
    world.wait(60_000, step_ms=10_000)
    assert world.node(NODES[0]).slots_held == 0
    check(world.state, world.now_ms)
