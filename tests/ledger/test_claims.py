"""Claims, selection, leases and renewals: rules C1-C7, L1-L3, S1-S3."""

from typing import Any

import pytest
from msgspec.structs import replace

from ledger.fit import slot_share
from ledger.keys import Key
from ledger.limits import (
    CANDIDATES_PER_SLOT_MAX,
    CLAIM_WINDOW_MS,
    LEASE_GUARD_MS,
    LEASE_MS,
)
from ledger.machine import next_due_ms
from ledger.manifests.expansion import cost, slot_rate
from ledger.manifests.types import Placement
from ledger.records import Candidate, key_candidate, key_node
from ledger.state import write
from ledger.transactions import Claim, Price, Renew, RenewItem, WithdrawOffer
from tests.ledger.invariants import check
from tests.ledger.world import (
    BUDGET,
    NODES,
    PRICE,
    STRANGER,
    World,
    contract,
    job,
    key_of,
    service,
)

FREE = Placement(distinct="none")


def approved(source: Any = None, **node_changes: Any) -> tuple[World, bytes]:
    world = World()
    world.add_nodes(**node_changes)
    deployment = world.ordered(source or contract())
    world.approve(deployment)
    return world, deployment


def test_window_term_and_lease() -> None:
    """[C1] [C7]"""
    world, deployment = approved()
    world.ok(NODES[0], Claim(deployment, "web/0", 1))
    opened_ms = world.now_ms
    assert world.slot(deployment, "web/0").window_closes_ms == opened_ms + CLAIM_WINDOW_MS
    assert next_due_ms(world.state) == opened_ms + CLAIM_WINDOW_MS
    world.run(step_ms=CLAIM_WINDOW_MS - 1)
    assert world.slot(deployment, "web/0").status == "open"
    world.run(step_ms=1)
    slot = world.slot(deployment, "web/0")
    assert (slot.status, slot.holder, slot.term) == ("claimed", NODES[0].public, 1)
    assert slot.lease_until_ms == world.now_ms + LEASE_MS + LEASE_GUARD_MS
    assert slot.claimed_ms == slot.billed_ms == slot.renewed_ms == world.now_ms
    node = world.node(NODES[0])
    assert (node.used_cpu_millis, node.slots_held) == (500, 1)
    assert world.deployment(deployment).claimed_ms == world.now_ms
    assert world.refused(NODES[2], Claim(deployment, "web/0", 2)) == "claim.not_open"


def test_guard_covers_clocks_kill_and_blocks() -> None:
    """Design section 8, rule 5: G >= 2 rho L / (1 - rho) + K + 2 blocks + 1 s."""
    rho = 0.01
    assert 2 * rho * LEASE_MS / (1 - rho) + 10_000 + 2 * 1_000 + 1_000 <= LEASE_GUARD_MS


@pytest.mark.parametrize(
    ("key", "slot", "term", "rule"),
    [
        (NODES[0], "web/2", 1, "claim.unknown_slot"),
        (NODES[0], "web/00", 1, "claim.unknown_slot"),
        (NODES[0], "web/0", 0, "claim.stale_term"),
        (NODES[0], "web/0", 2, "claim.stale_term"),
        (STRANGER, "web/0", 1, "claim.unknown_node"),
    ],
)
def test_bad_claims(key: Key, slot: str, term: int, rule: str) -> None:
    world, deployment = approved()
    assert world.refused(key, Claim(deployment, slot, term)) == rule
    assert world.refused(key, Claim(bytes(32), slot, term)) == "claim.unknown_deployment"


@pytest.mark.parametrize(
    ("workload", "offer", "rule"),
    [
        ({}, {"runtimes": ("wasm",)}, "claim.runtime"),
        ({}, {"cpu_millis": 499}, "claim.capacity"),
        ({}, {"memory_bytes": 64 * 2**20 - 1}, "claim.capacity"),
        ({}, {"ssd_bytes": 16 * 2**20 - 1}, "claim.capacity"),
        ({}, {"price": Price(10**9, 0, 0, 0)}, "claim.price"),
        ({"placement": Placement(countries=("NL",))}, {}, "claim.country"),
        ({"placement": Placement(farms=("farm-b",))}, {}, "claim.farm"),
    ],
)
def test_who_may_claim(workload: dict[str, Any], offer: dict[str, Any], rule: str) -> None:
    """[C2] [C3] [C5]"""
    world, deployment = approved(contract(service(**workload)))
    world.ok(NODES[0], world.offer(**offer))
    assert world.refused(NODES[0], Claim(deployment, "web/0", 1)) == rule
    assert world.claimed(deployment, "web/0", [NODES[2]]) is NODES[2]


def test_offers_end() -> None:
    """[F4]"""
    world, deployment = approved()
    world.ok(NODES[0], world.offer(valid_until_ms=world.now_ms + 5_000))
    world.ok(NODES[1], WithdrawOffer())
    assert world.refused(NODES[1], Claim(deployment, "web/0", 1)) == "claim.offer"
    world.run(step_ms=5_000)
    assert world.refused(NODES[0], Claim(deployment, "web/0", 1)) == "claim.offer"


def test_replicas_stay_apart() -> None:
    """[C4] Checked at the claim, and again when two windows close together."""
    world, deployment = approved()
    assert world.claimed(deployment, "web/0", [NODES[0]]) is NODES[0]
    for node in NODES[:2]:
        assert world.refused(node, Claim(deployment, "web/1", 1)) == "claim.distinct"
    second = world.ordered(contract(version="1.0.1"))
    world.approve(second)
    claims = [world.tx(node, Claim(second, f"web/{n}", 1)) for n, node in enumerate(NODES[:2])]
    assert all(receipt.ok for receipt in world.run(*claims).receipts)
    world.run()
    holders = {world.slot(second, name).holder for name in ("web/0", "web/1")}
    assert holders == {NODES[0].public, b""}
    assert "slot.unclaimed" in world.kinds()


def test_the_cheapest_wins() -> None:
    """[C6]"""
    world, deployment = approved()
    world.ok(NODES[2], world.offer(price=Price(39_000, 10_000, 1_000, 250)))
    assert world.claimed(deployment, "web/0", NODES) is NODES[2]


def test_other_farm_before_other_node_before_price() -> None:
    """[C6] Anti-affinity comes before the price."""
    world, deployment = approved(contract(service(replicas=3, placement=FREE)))
    assert world.claimed(deployment, "web/0", [NODES[0]]) is NODES[0]
    world.ok(NODES[0], world.offer(price=Price(0, 0, 0, 0)))
    world.ok(NODES[1], world.offer(price=Price(1, 0, 0, 0)))
    assert world.claimed(deployment, "web/1", [NODES[0], NODES[1], NODES[2]]) is NODES[2]
    world.ok(NODES[3], WithdrawOffer())
    assert world.claimed(deployment, "web/2", [NODES[0], NODES[1]]) is NODES[1]


def test_best_fit() -> None:
    """[C6] Equal otherwise: least capacity left over."""
    world, deployment = approved()
    world.ok(NODES[3], world.offer(cpu_millis=600))
    assert world.claimed(deployment, "web/0", NODES) is NODES[3]


def test_ties_are_broken_by_a_hash_of_the_parent_block() -> None:
    """[C6] Not by key order: over many slots each of four equal nodes wins some."""
    world, deployment = approved(contract(job(replicas=24), budget=10**8))
    winners = set()
    for n in range(24):
        winner = world.claimed(deployment, f"mine/{n}", NODES)
        winners.add(winner.public)
        world.report(deployment, f"mine/{n}", winner, "fetching", "verified", "running", "succeeded")
    assert len(winners) == 4


def test_candidates_once_and_bounded() -> None:
    world, deployment = approved()
    world.ok(NODES[0], Claim(deployment, "web/0", 1))
    assert world.refused(NODES[0], Claim(deployment, "web/0", 1)) == "claim.duplicate"
    template = world.node(NODES[1])
    for n in range(CANDIDATES_PER_SLOT_MAX - 1):
        key = key_of(f"crowd {n}").public
        write(world.state, key_node(key), replace(template, key=key))
        write(world.state, key_candidate(deployment, "web/0", key), Candidate(key, 1))
    assert world.refused(NODES[1], Claim(deployment, "web/0", 1)) == "claim.too_many_candidates"
    world.run()
    assert not list(world.state.scan(b"candidate/"))
    assert world.slot(deployment, "web/0").term == 1


def test_shares_never_exceed_the_budget() -> None:
    """[C5] Also for workloads of different needs."""
    big = service(name="big", replicas=3, resources=replace(service().resources, cpu_millis=3_000))
    world = World()
    deployment = world.ordered(contract(big, service(), job(), budget=1_000_003, fee=7))
    manifest = world.manifest(deployment)
    shares = {w.name: slot_share(manifest, w) for w in manifest.workloads}
    assert sum(shares[w.name] * w.replicas for w in manifest.workloads) <= 1_000_003 - 7
    assert shares["big"] > 5 * shares["web"]
    assert shares["web"] == shares["mine"]


def test_the_price_cap_is_exact() -> None:
    """[C5] A rate that just fits is taken, the next higher one is not."""
    world, deployment = approved(contract(job(), budget=240_000, fee=0))
    (workload,) = world.manifest(deployment).workloads
    share, day_ms = slot_share(world.manifest(deployment), workload), 24 * 3_600_000
    assert share == 240_000
    dear = Price(20_002, 0, 0, 0)
    assert cost(slot_rate(workload, dear), 0, day_ms) > share
    world.ok(NODES[0], world.offer(price=dear))
    assert world.refused(NODES[0], Claim(deployment, "mine/0", 1)) == "claim.price"
    fitting = Price(20_000, 0, 0, 0)
    assert cost(slot_rate(workload, fitting), 0, day_ms) == share
    world.ok(NODES[0], world.offer(price=fitting))
    assert world.claimed(deployment, "mine/0", [NODES[0]]) is NODES[0]


def test_renewal_extends_from_block_time() -> None:
    """[L1]"""
    world, deployment = approved()
    world.claimed(deployment, "web/0", [NODES[0]])
    for _ in range(5):
        world.run(step_ms=20_000)
        world.ok(NODES[0], Renew((RenewItem(deployment, "web/0", 1),)))
        slot = world.slot(deployment, "web/0")
        assert slot.lease_until_ms == world.now_ms + LEASE_MS + LEASE_GUARD_MS
        assert slot.renewed_ms == world.now_ms
    check(world.state, world.now_ms)


def test_refused_renewals() -> None:
    world, deployment = approved()
    world.claimed(deployment, "web/0", [NODES[0]])

    def one(key: Key, *item: Any) -> str:
        return world.refused(key, Renew((RenewItem(*item),)))

    assert one(NODES[0], deployment, "web/0", 2) == "renew.stale_term"
    assert one(NODES[0], deployment, "web/0", 0) == "renew.stale_term"
    assert one(NODES[1], deployment, "web/0", 1) == "renew.not_holder"
    assert one(NODES[0], deployment, "web/1", 0) == "renew.not_holder"
    assert one(NODES[0], deployment, "web/7", 1) == "renew.unknown_slot"
    assert one(NODES[0], bytes(32), "web/0", 1) == "renew.unknown_deployment"
    assert world.refused(NODES[0], Renew(())) == "renew.items"
    item = RenewItem(deployment, "web/0", 1)
    assert world.refused(NODES[0], Renew((item, item))) == "renew.items"


def test_each_renewed_item_stands_alone() -> None:
    """[L1]"""
    world, deployment = approved()
    world.claimed(deployment, "web/0", [NODES[0]])
    world.run(step_ms=10_000)
    good = RenewItem(deployment, "web/0", 1)
    other = RenewItem(bytes(32), "web/0", 1)
    receipt = world.ok(NODES[0], Renew((other, good)))
    assert [(e.kind, e.fields.get("rule")) for e in receipt.events] == [
        ("lease.refused", "renew.unknown_deployment"),
        ("lease.renewed", None),
    ]
    assert world.slot(deployment, "web/0").renewed_ms == world.now_ms


def test_a_lost_lease_is_claimed_again_with_a_higher_term() -> None:
    """[L3]"""
    world, deployment = approved()
    world.claimed(deployment, "web/0", [NODES[0]])
    lease_until_ms = world.slot(deployment, "web/0").lease_until_ms
    world.run(step_ms=lease_until_ms - world.now_ms - 1)
    assert world.slot(deployment, "web/0").holder == NODES[0].public
    world.run(step_ms=1)
    slot = world.slot(deployment, "web/0")
    assert (slot.status, slot.holder, slot.term) == ("open", b"", 1)
    node = world.node(NODES[0])
    assert (node.broken_leases, node.slots_held, node.used_cpu_millis) == (1, 0, 0)
    assert world.refused(NODES[0], Renew((RenewItem(deployment, "web/0", 1),))) == "renew.not_holder"
    assert world.claimed(deployment, "web/0", [NODES[2]]) is NODES[2]
    assert world.slot(deployment, "web/0").term == 2
    late = world.receipt(deployment, "web/0", NODES[0], "fetching", term=1)
    assert world.refused(NODES[0], late) == "report.stale_term"


def test_suspension_closes_windows() -> None:
    world, deployment = approved()
    world.ok(NODES[0], Claim(deployment, "web/0", 1))
    world.run(world.tx(BUDGET, world.decide(deployment, BUDGET, "budget", "revoked")), step_ms=0)
    assert not list(world.state.scan(b"candidate/"))
    assert world.slot(deployment, "web/0").window_closes_ms == 0
    world.run()
    assert world.slot(deployment, "web/0").term == 0
    check(world.state, world.now_ms)


@pytest.mark.parametrize(
    ("limit", "value"),
    [("ledger.transition.timed.DUE_PER_BLOCK_MAX", 3), ("ledger.machine.DUE_SLOTS_PER_BLOCK_MAX", 17)],
)
def test_timed_work_is_bounded_and_none_is_lost(
    limit: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[W1] Three entries a block: by their number, or as each touches a deployment of 8 slots."""
    monkeypatch.setattr(limit, value)
    world, deployment = approved(contract(job(replicas=8), budget=10**8))
    world.run(*(world.tx(NODES[n % 4], Claim(deployment, f"mine/{n}", 1)) for n in range(8)))

    def held() -> int:
        return sum(bool(world.slot(deployment, f"mine/{n}").holder) for n in range(8))

    for expected in (3, 6, 8):
        world.run(step_ms=1_000 if expected == 3 else 0)
        assert held() == expected


def test_a_lease_that_ended_is_not_renewed_even_before_it_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more timed work than a block does, a lease may have ended and still be there."""
    world, deployment = approved()
    world.claimed(deployment, "web/0", [NODES[0]])
    until_ms = world.slot(deployment, "web/0").lease_until_ms
    monkeypatch.setattr("ledger.transition.timed.DUE_PER_BLOCK_MAX", 0)
    world.run(step_ms=until_ms - world.now_ms)
    assert world.slot(deployment, "web/0").holder == NODES[0].public
    assert world.refused(NODES[0], Renew((RenewItem(deployment, "web/0", 1),))) == "renew.lapsed"


def test_claim_prices_hold_for_the_whole_term() -> None:
    """A later, dearer offer changes nothing for a slot that is held."""
    world, deployment = approved()
    world.claimed(deployment, "web/0", [NODES[0]])
    rate = world.slot(deployment, "web/0").rate_hour
    assert rate == slot_rate(world.manifest(deployment).workloads[0], PRICE)
    world.ok(NODES[0], world.offer(price=Price(10**6, 0, 0, 0)))
    world.ok(NODES[0], Renew((RenewItem(deployment, "web/0", 1),)))
    assert world.slot(deployment, "web/0").rate_hour == rate
