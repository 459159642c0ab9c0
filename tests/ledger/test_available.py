"""Services that run on without the notary: rules E9 and L4, and what the ledger makes of an outage."""

from __future__ import annotations

from typing import Any

import pytest

from ledger.contracts.language import parse_contract
from ledger.contracts.types import VolumeTemplate
from ledger.errors import Refused
from ledger.limits import AVAILABLE_S_MAX, LEASE_GUARD_MS, LEASE_MS, MIB
from ledger.text.yaml_tree import ContractError
from ledger.transactions import Renew, RenewItem
from tests.ledger.contract_samples import SOURCE, expanded
from tests.ledger.contract_samples import contract as sample
from tests.ledger.contract_samples import workload as template
from tests.ledger.invariants import check
from tests.ledger.world import HOUR_MS, NODES, World, contract, service

DATA = VolumeTemplate(name="data", path="/data", size_bytes=64 * MIB)
SIZED = "${= replicas * MINUTE}"
JOB = {"kind": "job", "ports": (), "health": None, "results": ("/result/x",)}


def web(world: World, available_s: int) -> bytes:
    """One replica, running on the first node."""
    world.add_nodes(NODES[:1])
    work = service(replicas=1, available_s=available_s)
    return world.running(contract(work, duration_s=24 * 3_600))


def test_a_source_says_it_and_the_manifest_carries_it() -> None:
    text = SOURCE.replace("    recheck: 10s\n", "    recheck: 10s\n    available: 6h\n")
    made = parse_contract(text, "c.yaml").contract
    assert made.workloads[0].available_s == 6 * 3_600
    assert expanded(sample(workloads=(template(available_s=SIZED),))).workloads[0].available_s == 120
    assert expanded().workloads[0].available_s == 0
    with pytest.raises(ContractError, match="available"):
        parse_contract(text.replace("6h", "25h"), "c.yaml")


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"available_s": AVAILABLE_S_MAX + 1}, "contract.range"),
        ({"available_s": -1}, "contract.range"),
        ({"available_s": 60, "volumes": (DATA,)}, "contract.available"),
        ({"available_s": SIZED, "volumes": (DATA,)}, "contract.available"),
        ({"available_s": 60, **JOB}, "contract.available"),
    ],
)
def test_what_has_a_state_or_runs_too_long_is_refused(changes: dict[str, Any], rule: str) -> None:
    """[E9]"""
    with pytest.raises(Refused) as caught:
        expanded(sample(workloads=(template(**changes),)))
    assert (caught.value.rule, caught.value.field) == (rule, "workloads.web.available")


def test_its_holder_keeps_the_slot_through_an_outage_and_is_not_paid_for_it() -> None:
    """[L4] [O1]"""
    world = World()
    deployment = web(world, 2 * 3_600)
    spent = world.deployment(deployment).spent
    world.run(step_ms=HOUR_MS, outage=True)
    slot = world.slot(deployment, "web/0")
    assert (slot.status, slot.holder, slot.term) == ("running", NODES[0].public, 1)
    assert slot.lease_until_ms == world.now_ms + LEASE_MS + LEASE_GUARD_MS
    assert "slot.lost" not in world.kinds()
    world.ok(NODES[0], Renew((RenewItem(deployment, "web/0", 1),)))
    check(world.state, world.now_ms)
    hour = slot.rate_hour
    assert world.deployment(deployment).spent - spent < hour // 10, "an hour was missed, seconds were not"
    assert world.node(NODES[0]).broken_leases == 0


def test_who_does_not_renew_after_it_loses_it_as_anybody_does() -> None:
    world = World()
    deployment = web(world, 2 * 3_600)
    world.run(step_ms=HOUR_MS, outage=True)
    world.wait(LEASE_MS + LEASE_GUARD_MS + 5_000, step_ms=5_000)
    assert (world.slot(deployment, "web/0").status, world.slot(deployment, "web/0").holder) == ("open", b"")
    assert world.node(NODES[0]).broken_leases == 1
    check(world.state, world.now_ms)


@pytest.mark.parametrize(
    ("available_s", "gap_ms"), [(0, HOUR_MS), (1_800, HOUR_MS), (3_600, HOUR_MS + LEASE_MS + 1_000)]
)
def test_an_outage_that_it_does_not_outlast_moves_it(available_s: int, gap_ms: int) -> None:
    """[L3] Its holder has stopped by then."""
    world = World()
    deployment = web(world, available_s)
    world.run(step_ms=gap_ms, outage=True)
    assert "slot.lost" in world.kinds()
    assert world.slot(deployment, "web/0").status == "open"
    assert world.node(NODES[0]).broken_leases == 0
    check(world.state, world.now_ms)


def test_without_an_outage_its_lease_ends_like_any_other() -> None:
    """[L3] Its node alone was cut off: the slot runs elsewhere, beside it as long as it hears nothing."""
    world = World()
    deployment = web(world, 2 * 3_600)
    world.wait(LEASE_MS + LEASE_GUARD_MS + 5_000, step_ms=5_000)
    assert world.slot(deployment, "web/0").status == "open"
    assert world.node(NODES[0]).broken_leases == 1
