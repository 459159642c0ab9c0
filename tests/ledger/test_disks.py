"""Two kinds of disk in an offer: each is counted, priced, bound and given back for itself."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ledger.audit.audit import export, verify
from ledger.contracts.types import PriceTemplate, VolumeTemplate
from ledger.fit import bound, left_over
from ledger.limits import CAPACITY_MAX, MIB
from ledger.manifests.expansion import cost, slot_rate
from ledger.manifests.types import CAPACITY, DISKS, Disk, Needs, Placement
from ledger.transactions import CancelDeployment, Claim, Price
from tests.ledger.chain_fixture import ChainWorld
from tests.ledger.invariants import check
from tests.ledger.world import CONSUMER, NODES, World, contract, service

A0, A1, B0, _ = NODES
SCRATCH = 16 * MIB  # of `service()`
SIZES = {"ssd": 32 * MIB, "hdd": 64 * MIB}
NEEDED = {"ssd": SCRATCH + SIZES["ssd"], "hdd": SIZES["hdd"]}


def both() -> tuple[VolumeTemplate, ...]:
    return tuple(VolumeTemplate(name=d, path=f"/{d}", size_bytes=SIZES[d], storage=d) for d in DISKS)


def world_with(*offering: dict[str, int], replicas: int = 1) -> tuple[World, bytes]:
    """An approved service with a volume of each kind; the first nodes offer disks as said, others none."""
    world = World()
    world.add_nodes()
    place = Placement(distinct="none")
    deployment = world.ordered(contract(service(replicas=replicas, placement=place, volumes=both())))
    world.approve(deployment)
    for node, sizes in zip(NODES, (*offering, *({} for _ in NODES)), strict=False):
        given = {"ssd": 0, "hdd": 0} | sizes
        offer = world.offer(
            attributes={"volumes": "enforced"}, ssd_bytes=given["ssd"], hdd_bytes=given["hdd"]
        )
        world.ok(node, offer)
    return world, deployment


def used(world: World) -> dict[str, int]:
    node = world.node(A0)
    return {"ssd": node.used_ssd_bytes, "hdd": node.used_hdd_bytes}


@pytest.mark.parametrize("short", DISKS)
def test_one_kind_never_stands_in_for_the_other(short: Disk) -> None:
    """[C3] A byte too little of one is too little, however much there is of the other."""
    much = dict.fromkeys(DISKS, CAPACITY_MAX)
    world, deployment = world_with(much | {short: NEEDED[short] - 1}, dict(NEEDED))
    receipt = world.do(A0, Claim(deployment, "web/0", 1))
    assert receipt.rule == "claim.capacity" and receipt.detail.endswith(f": {short}_bytes"), receipt
    assert world.claimed(deployment, "web/0", [A1]) is A1


def test_each_kind_is_bound_and_given_back_once() -> None:
    """[C7] [S3] A node that has exactly enough takes one replica at a time, term after term."""
    world, deployment = world_with(dict(NEEDED), replicas=2)
    for term in (1, 2, 3):
        assert used(world) == {"ssd": 0, "hdd": 0}
        world.claimed(deployment, "web/0", [A0])
        assert used(world) == NEEDED and world.slot(deployment, "web/0").term == term
        assert world.refused(A0, Claim(deployment, "web/1", 1)) == "claim.capacity"
        world.report(deployment, "web/0", A0, "fetching", "released")
        check(world.state, world.now_ms)
    world.claimed(deployment, "web/0", [A0])
    while world.slot(deployment, "web/0").holder:  # its lease ends: the same way back
        world.wait(10_000, 5_000)
    assert used(world) == {"ssd": 0, "hdd": 0}
    check(world.state, world.now_ms)


def test_a_selection_does_not_bind_more_of_a_kind_than_there_is() -> None:
    """[C6] Both claims fitted when they were made; when the second is decided the disk is taken."""
    world, deployment = world_with({"ssd": 4 * NEEDED["ssd"], "hdd": NEEDED["hdd"]}, replicas=2)
    for slot in ("web/0", "web/1"):
        world.ok(A0, Claim(deployment, slot, 1), step_ms=0)
    world.wait(10_000)
    assert sorted(world.slot(deployment, f"web/{n}").holder for n in (0, 1)) == [b"", A0.public]
    assert used(world) == NEEDED
    check(world.state, world.now_ms)


@pytest.mark.parametrize("kind", DISKS)
def test_an_offer_keeps_what_is_used_of_each_kind(kind: Disk) -> None:
    """[F3]"""
    world, deployment = world_with(dict(NEEDED))
    world.claimed(deployment, "web/0", [A0])
    sizes = {f"{disk}_bytes": size for disk, size in NEEDED.items()}
    receipt = world.do(A0, world.offer(**sizes | {f"{kind}_bytes": NEEDED[kind] - 1}))
    assert (receipt.rule, receipt.detail.partition(":")[0]) == ("offer.below_used", f"{kind}_bytes")
    for wrong in (-1, CAPACITY_MAX + 1):
        receipt = world.do(A0, world.offer(**sizes | {f"{kind}_bytes": wrong}))
        assert (receipt.rule, receipt.detail.partition(":")[0]) == ("offer.capacity", f"{kind}_bytes")
    receipt = world.do(A0, world.offer(**sizes, price=Price(0, 0, *(-1 if d == kind else 0 for d in DISKS))))
    assert (receipt.rule, receipt.detail.partition(":")[0]) == ("offer.price", f"price.{kind}_gib_hour")
    world.ok(A0, world.offer(**sizes))
    assert used(world) == NEEDED


def test_each_kind_is_paid_at_its_own_price() -> None:
    world, deployment = world_with(dict(NEEDED))
    sizes = {f"{disk}_bytes": size for disk, size in NEEDED.items()}
    price = Price(0, 0, 4096, 1024)
    world.ok(A0, world.offer(attributes={"volumes": "enforced"}, price=price, **sizes))
    world.claimed(deployment, "web/0", [A0])
    slot = world.slot(deployment, "web/0")
    # 48 MiB of a GiB at 4096, and 64 MiB at 1024.
    assert slot.rate_hour == 192 + 64 == slot_rate(world.workload(slot.manifest, "web/0"), price)
    world.report(deployment, "web/0", A0, "fetching", "verified", "running")
    world.wait(20_000, 5_000)
    world.ok(A0, world.receipt(deployment, "web/0", A0, "released"))
    paid = [bill for bill in world.bills(deployment) if bill.slot == "web/0"]
    assert paid and sum(b.amount for b in paid) == cost(256, paid[0].from_ms, paid[-1].to_ms)


def test_what_is_bound_comes_back_whole() -> None:
    world = World()
    world.add_nodes()
    node = world.node(A0)
    needs = Needs(**{name: n for n, name in enumerate(CAPACITY, 1)})
    taken = bound(node, needs)
    assert [getattr(taken, f"used_{name}") for name in CAPACITY] == [1, 2, 3, 4]
    assert bound(taken, needs, -1) == node
    free = left_over(node, needs)
    assert [getattr(node, name) - getattr(free, name) for name in CAPACITY] == [1, 2, 3, 4]


def test_a_life_on_both_kinds_passes_the_audit() -> None:
    """Other peers expand volumes and caps of both kinds to the same bytes, and find the same bills."""
    world = ChainWorld()
    world.add_nodes()
    source = contract(service(replicas=1, placement=Placement(distinct="none"), volumes=both()))
    caps = PriceTemplate(ssd_gib_hour=1_000, hdd_gib_hour=250)
    deployment = world.ordered(replace(source, terms=replace(source.terms, price=caps)))
    world.approve(deployment)
    world.ok(A0, world.offer(attributes={"volumes": "enforced"}))
    world.claimed(deployment, "web/0", [A0])
    world.report(deployment, "web/0", A0, "fetching", "verified", "running")
    world.wait(20_000, 5_000)
    world.ok(A0, world.receipt(deployment, "web/0", A0, "released"))
    world.ok(CONSUMER, CancelDeployment(deployment, "enough"))
    world.run()
    world.run()
    report = verify(export(world.store, deployment), world.genesis)
    assert report.ok, (report.rule, report.detail)
