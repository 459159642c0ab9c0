"""Plans of updates: where slots would go, counted down one after the other, and why one would go nowhere."""

from __future__ import annotations

from bot.trial import Here
from bot.updates import make_update_plan
from bot.view import build_view, find_contract
from ledger.contracts.types import WorkloadTemplate
from ledger.manifests.types import Placement
from node.api.update_seam import UpdatePlan, UpdateRequest
from tests.ledger.world import CHAIN_ID, CONSUMER, NODES, World, contract, service


def planned(world: World, now: WorkloadTemplate, then: WorkloadTemplate) -> UpdatePlan:
    """The plan of an update of what runs as `now`, with much to spend."""
    budget = 50_000_000
    deployment = world.running(contract(now, budget=budget))
    id_ = world.publish(contract(then, version="1.1.0", budget=budget))
    view = build_view(world.state, world.height, world.now_ms, CONSUMER.public, (deployment,))
    here = Here(world.state, CHAIN_ID, world.height, world.now_ms, CONSUMER.public, world.balance(CONSUMER))
    template = find_contract(world.state, id_.hex())
    return make_update_plan(here, view.own[0], template, UpdateRequest(deployment=deployment.hex())).plan


def opened(cpu_millis: int = 4_000) -> World:
    """Two farms with two nodes each."""
    world = World()
    world.add_nodes()
    for node in NODES:
        world.ok(node, world.offer(cpu_millis=cpu_millis))
    return world


def test_new_replicas_stand_apart_from_each_other() -> None:
    plan = planned(opened(), service(replicas=1), service(replicas=3))
    assert [(c.slot, c.what, c.rate_then > 0) for c in plan.slots] == [
        ("web/0", "kept", True),
        ("web/1", "new", True),
        ("web/2", "new", False),
    ]
    assert plan.missing == ["capacity: no node for web/2 (4 nodes: claim.distinct)"]


def test_what_one_replica_takes_the_next_has_not() -> None:
    """Of four nodes with room for one each, one holds the first already."""
    anywhere = Placement(distinct="none")
    one, five = (service(replicas=n, placement=anywhere) for n in (1, 5))
    need = one.resources.cpu_millis
    assert isinstance(need, int)
    plan = planned(opened(need), one, five)
    assert plan.missing == ["capacity: no node for web/4 (4 nodes: claim.capacity: cpu_millis)"]


def test_replicas_that_change_take_the_places_that_they_leave() -> None:
    plan = planned(opened(), service(replicas=2), service(replicas=2, environment={"MODE": "new"}))
    assert [(c.what, c.rate_then > 0) for c in plan.slots] == [("changes", True), ("changes", True)]
    assert plan.missing == []
