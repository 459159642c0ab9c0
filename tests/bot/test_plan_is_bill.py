"""What a plan expects is what the ledger bills when nothing fails, to the micro-credit; and whatever fails,
the bill is never above what went into escrow. The examples' contracts in a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import ledger.transition.claims
import ledger.transition.leases
from bot.forecast import held_ms
from ledger.contracts.types import Contract, ResourcesTemplate, VolumeTemplate, WorkloadTemplate
from ledger.keys import Key
from ledger.limits import CLAIM_WINDOW_MS, MIB
from ledger.manifests.expansion import cost, decode_manifest, expand
from ledger.manifests.types import DISKS, Disk, Placement, Policies, Restart, Rule
from ledger.transactions import Price, RegisterFarm, Renew, RenewItem
from node.api.bot_seam import PlanRequest
from tests.bot.plan_life import Life
from tests.bot.test_examples import BUSYBOX, CREDIT, built
from tests.ledger.world import (
    AUTHOR,
    BUDGET,
    CONSUMER,
    NODES,
    World,
    contract,
    job,
    key_of,
    register_node,
    service,
)

BUDGET_SIGNS = {"budget": BUDGET}
FOREVER_MS = 20 * 366 * 86_400_000


def market_of(prices: list[int], cpu_millis: int = 64_000) -> World:
    """Two farms of two nodes, with these prices of a core."""
    world = World()
    world.add_nodes()
    for node, price in zip(NODES, prices, strict=True):
        world.ok(
            node,
            world.offer(
                cpu_millis=cpu_millis,
                memory_bytes=65_536 * MIB,
                attributes={"volumes": "enforced"},
                price=Price(price, price // 3 + 1, price // 17, price // 60),
            ),
        )
    return world


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    """Services and jobs with and without a time limit, some after others, for one to ten minutes."""
    duration_s = draw(st.integers(60, 600))
    workloads: list[WorkloadTemplate] = []
    for number in range(draw(st.integers(1, 4))):
        is_job = draw(st.booleans())
        known = [w.name for w in workloads if w.kind == "service" or w.time_limit_s]  # their end is known
        after = tuple(draw(st.lists(st.sampled_from(known), unique=True, max_size=2))) if known else ()
        changes: dict[str, Any] = {
            "name": f"w{number}",
            "replicas": draw(st.integers(1, 3)),
            "restart": Restart(attempts=draw(st.integers(0, 2))),
            "resources": ResourcesTemplate(
                cpu_millis=draw(st.integers(10, 3_000)),
                memory_bytes=draw(st.integers(4, 900)) * MIB + draw(st.integers(0, 999)),
                disk_bytes=draw(st.integers(0, 64)) * MIB,
                pids=8,
            ),
            "placement": Placement(distinct=draw(st.sampled_from(("none", "node")))),
            "depends_on": after,
        }
        kinds: list[Disk] = [] if is_job else draw(st.lists(st.sampled_from(DISKS), max_size=2))
        changes["volumes"] = tuple(
            VolumeTemplate(
                name=f"v{i}", path=f"/v{i}", size_bytes=draw(st.integers(16, 300)) * MIB, storage=kind,
                if_lost="empty",
            )
            for i, kind in enumerate(kinds)
        )  # fmt: skip
        if is_job:
            changes["time_limit_s"] = draw(st.just(0) | st.integers(1, duration_s + 30))
        workloads.append((job if is_job else service)(**changes))
    fee = draw(st.integers(0, 50_000))
    policies = Policies(deploy=Rule(role="budget"), signoff=Rule(role="budget"))
    return contract(*workloads, policies=policies, duration_s=duration_s, budget=fee + 5_000_000, fee=fee)


PRICES = st.lists(st.integers(1_000, 900_000), min_size=4, max_size=4)


def life_of(world: World, source: Contract) -> Life:
    keys = {key.public: key for key in NODES}
    life = Life(world, source, keys, BUDGET_SIGNS, PlanRequest(contract=source.name))
    assume(not life.draft.plan.missing)
    life.order()
    return life


def check_money(life: Life, consumer_before: int) -> int:
    """All of the bill is paid, the rest is back; micro-credits spent."""
    record = life.world.deployment(life.deployment)
    assert record.spent == sum(life.billed().values()) <= life.draft.plan.escrow
    assert consumer_before - life.world.balance(CONSUMER) == record.spent + record.escrow
    return record.spent


@settings(max_examples=60, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(source=contracts(), prices=PRICES)
def test_the_bill_is_the_plan_when_nothing_fails(source: Contract, prices: list[int]) -> None:
    world = market_of(prices)
    before = world.balance(CONSUMER)
    life = life_of(world, source)
    life.live()
    plan, billed = life.draft.plan, life.billed()
    assert {line.slot: billed.get(line.slot, 0) for line in plan.lines} == {
        line.slot: line.expected for line in plan.lines
    }
    assert billed[""] == plan.fee
    assert check_money(life, before) == plan.expected
    assert all(line.expected <= line.cost for line in plan.lines)


@settings(max_examples=60, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(source=contracts(), prices=PRICES, data=st.data())
def test_no_failure_makes_the_bill_higher_than_the_escrow(
    source: Contract, prices: list[int], data: st.DataObject
) -> None:
    world = market_of(prices)
    before = world.balance(CONSUMER)
    life = life_of(world, source)
    life.live(lambda slot: data.draw(st.integers(0, 9)) == 0, all_claim=True, renew_ms=20_000)
    check_money(life, before)


def test_a_job_is_never_billed_beyond_its_limit() -> None:
    world = market_of([40_000] * 4)
    source = contract(job(time_limit_s=60), duration_s=3_600, policies=Policies(deploy=None, signoff=None))
    deployment = world.ordered(source)
    assert world.claimed(deployment, "mine/0", [NODES[0]]) is NODES[0]
    world.report(deployment, "mine/0", NODES[0], "fetching", "verified", "running")
    slot = world.slot(deployment, "mine/0")

    for _ in range(9):
        world.ok(NODES[0], Renew((RenewItem(deployment, "mine/0", 1),)), step_ms=10_000)
    world.report(deployment, "mine/0", NODES[0], "succeeded")
    (bill,) = (found for found in world.bills(deployment) if found.slot)
    assert bill.amount == cost(slot.rate_hour, 0, 60_000)
    assert bill.to_ms - bill.from_ms == 60_000


def test_a_span_begins_with_the_window_and_ends_with_the_term() -> None:
    source = contract(
        job(name="a", time_limit_s=100),
        service(name="b", depends_on=("a",)),
        job(name="c", depends_on=("b",), time_limit_s=4_000),
        job(name="d"),
        service(name="e", depends_on=("c",)),
        duration_s=3_600,
        policies=Policies(deploy=None, signoff=None),
    )
    manifest = decode_manifest(expand(source, bytes(32), AUTHOR.public, CONSUMER.public, {}, {}))
    window, term = CLAIM_WINDOW_MS, 3_600_000
    assert held_ms(manifest) == {
        "a": (window, window + 100_000),
        "b": (100_000 + 2 * window, term),
        "c": (100_000 + 3 * window, term),
        "d": (window, term),
        "e": (term, term),
    }


# --- the examples ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A line of the table, in micro-credits."""

    contract: str
    expected: int
    escrow: int
    billed: int


@pytest.fixture
def long_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """One lease lasts for a whole term: renewals split a bill, and add nothing to it ([E1])."""
    monkeypatch.setattr(ledger.transition.claims, "LEASE_MS", FOREVER_MS)
    monkeypatch.setattr(ledger.transition.leases, "LEASE_MS", FOREVER_MS)


def open_market() -> tuple[World, dict[bytes, Key]]:
    """Four farms in each of six countries, a node each, with different prices."""
    world, nodes = World(), {}
    for country in ("BE", "CH", "DE", "LU", "NL", "FR"):
        for n in range(4):
            farm = f"{country.lower()}-{n}"
            farmer, node = key_of(f"farmer {country} {n}"), key_of(f"{country} {n}")
            world.ok(farmer, RegisterFarm(farm, country), step_ms=1)
            world.ok(farmer, register_node(node, farmer, farm, country), step_ms=1)
            price = Price(36_000 + 2_000 * n, 8_000 + 500 * n, 900, 200)
            size = {"memory_bytes": 65_536 * MIB, "ssd_bytes": 512 << 30, "hdd_bytes": 4096 << 30}
            said = {"volumes": "enforced"}
            world.ok(node, world.offer(cpu_millis=16_000, price=price, attributes=said, **size), step_ms=1)
            nodes[node.public] = node
    return world, nodes


@pytest.mark.skipif(not BUSYBOX.is_file(), reason="the examples are made of /bin/busybox")
@pytest.mark.usefixtures("long_leases")
def test_the_examples_are_billed_as_planned(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_EXAMPLES", str(tmp_path_factory.mktemp("examples")))
    table = []
    for name in ("archive", "crm", "bank", "ai-mining"):
        world, nodes = open_market()
        source = built(name)
        holders = {role.name: key_of(f"holder of {role.name}") for role in source.roles}
        roles = {role: (key.public.hex(),) for role, key in holders.items()}
        life = Life(world, source, nodes, holders, PlanRequest(contract=name, roles=roles))
        assert life.draft.plan.missing == []
        life.order()
        life.live(renew_ms=FOREVER_MS)
        spent = world.deployment(life.deployment).spent
        table.append(Row(name, life.draft.plan.expected, life.draft.plan.escrow, spent))
    for row in table:
        expected, billed, most = (n / CREDIT for n in (row.expected, row.billed, row.escrow))
        print(f"{row.contract:10} plan {expected:12.6f}  bill {billed:12.6f}  at most {most:8.2f}")
    assert [row.billed for row in table] == [row.expected for row in table]
    assert all(row.billed < row.escrow for row in table)
