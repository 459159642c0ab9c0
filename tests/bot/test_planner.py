"""Plans: the same nodes and numbers as the ledger's later choice and bill; clear words for what is amiss."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bot.matcher import match
from bot.planner import Draft, make_plan
from bot.view import Template, find_contract, market
from ledger.contracts.types import Contract, VolumeTemplate
from ledger.errors import Refused
from ledger.manifests.expansion import cost
from ledger.manifests.types import Placement
from ledger.transactions import Claim, OrderDeployment, Price, Renew, RenewItem
from node.api.bot_seam import PlanRequest
from tests.ledger import contract_samples as samples
from tests.ledger.world import (
    AUTHOR,
    BUDGET,
    CONSUMER,
    EXPERT,
    LEGAL,
    NODES,
    World,
    contract,
    job,
    service,
)

HOLDERS = {"it-expert": EXPERT, "legal": LEGAL, "budget": BUDGET}
ROLES = {role: (key.public.hex(),) for role, key in HOLDERS.items()}


def opened(prices: tuple[int, ...] = (40_000, 40_010, 40_020, 40_030)) -> World:
    """Two farms with two nodes each, priced apart."""
    world = World()
    world.add_nodes()
    for node, price in zip(NODES, prices, strict=True):
        world.ok(node, world.offer(price=Price(price, 10_000, 1_000, 250)))
    return world


def planned(world: World, source: Contract, **request: Any) -> Draft:
    """A plan for a contract that may be unpublished."""
    asked = PlanRequest(contract="x", **request)
    template = Template(bytes(32), AUTHOR.public, source)
    return make_plan(
        template, asked, CONSUMER.public, world.balance(CONSUMER), market(world.state), world.now_ms
    )


def reasons(draft: Draft) -> dict[str, list[str]]:
    """Rules by node."""
    return {
        x.node: [reason.partition(":")[0].split(" ")[0] for reason in x.reasons] for x in draft.plan.excluded
    }


def test_the_ledger_chooses_and_bills_as_planned() -> None:
    world = opened()
    source = contract(duration_s=600, budget=200_000)
    id_ = world.publish(source)
    template = find_contract(world.state, "site@1.0.0")
    assert template == find_contract(world.state, id_.hex()) == find_contract(world.state, "site")
    asked = PlanRequest(contract="site")
    draft = make_plan(template, asked, CONSUMER.public, 10**9, market(world.state), world.now_ms)
    plan = draft.plan
    assert plan.missing == []
    deployment = world.order(source, id_)
    assert world.deployment(deployment).manifest.hex() == plan.manifest
    assert world.deployment(deployment).escrow == plan.escrow
    world.approve(deployment)
    for line in plan.lines:
        holder = world.claimed(deployment, line.slot, NODES if line.slot == "web/0" else NODES[2:])
        assert holder.public.hex() == line.node
        assert world.slot(deployment, line.slot).rate_hour == line.rate_hour
        world.report(deployment, line.slot, holder, "fetching", "verified", "running")
    while world.deployment(deployment).status == "active":
        for line in plan.lines:
            slot = world.slot(deployment, line.slot)
            holder = next(key for key in NODES if key.public == slot.holder)
            world.do(holder, Renew((RenewItem(deployment, line.slot, slot.term),)), step_ms=10_000)
    bills = {bill.slot: bill for bill in world.bills(deployment)}
    for line in plan.lines:
        bill = bills[line.slot]
        assert bill.amount == cost(line.rate_hour, bill.from_ms, bill.to_ms)
        assert 0.9 * line.cost < bill.amount <= line.cost
    assert bills[""].amount == plan.fee
    assert plan.cost == sum(line.cost for line in plan.lines) <= plan.escrow - plan.fee
    assert plan.rate_hour == sum(line.rate_hour for line in plan.lines)


def test_who_cannot_take_a_workload_is_named_with_each_rule() -> None:
    world = opened((40_000, 40_000, 40_000, 4_000_000_000))
    draft = planned(world, contract(service(placement=Placement(countries=("BE",), farms=("farm-a",)))))
    assert [line.farm for line in draft.plan.lines] == ["farm-a", "farm-a"]
    told = [(c.workload, c.node) for c in draft.plan.candidates]
    assert sorted(told) == sorted(("web", node.public.hex()) for node in NODES[:2])
    assert reasons(draft) == {
        NODES[2].public.hex(): ["claim.country", "claim.farm"],
        NODES[3].public.hex(): ["claim.country", "claim.farm", "claim.price"],
    }


def test_candidates_are_told_with_their_prices_the_likeliest_first() -> None:
    """Every node is one, or is left out with its reasons."""
    world = opened((40_000, 20_000, 30_000, 4_000_000_000))
    plan = planned(world, contract(service(placement=Placement(distinct="none")))).plan
    assert [c.node for c in plan.candidates] == [NODES[n].public.hex() for n in (1, 2, 0)]
    rates = [c.rate_hour for c in plan.candidates]
    assert rates == sorted(rates) and rates[0] == plan.lines[0].rate_hour
    assert [x.node for x in plan.excluded] == [NODES[3].public.hex()]


def test_replicas_and_capacity_are_counted_down() -> None:
    world = opened()
    draft = planned(world, contract(service(replicas=3)))
    assert [line.slot for line in draft.plan.lines] == ["web/0", "web/1"]
    assert draft.plan.missing == ["capacity: no node for web/2 (4 nodes: claim.distinct)"]
    for node in NODES:
        world.ok(node, world.offer(cpu_millis=600))
    draft = planned(world, contract(job(replicas=5), budget=50_000_000))
    assert len({line.node for line in draft.plan.lines}) == 4
    assert draft.plan.missing == ["capacity: no node for mine/4 (4 nodes: claim.capacity: cpu_millis)"]


def test_each_kind_of_disk_is_counted_down_for_itself() -> None:
    """Hard disk for one replica on each of two nodes; no SSD makes up for what is missing."""
    world, gib = opened(), 1 << 30
    for node, hdd_bytes in zip(NODES, (gib, gib, gib - 1, 0), strict=True):
        said = {"volumes": "enforced"}
        world.ok(node, world.offer(attributes=said, ssd_bytes=99 * gib, hdd_bytes=hdd_bytes))
    data = VolumeTemplate(name="data", path="/data", size_bytes=gib, storage="hdd")
    source = contract(service(replicas=3, volumes=(data,), placement=Placement(distinct="none")))
    draft = planned(world, source)
    assert {line.node for line in draft.plan.lines} == {node.public.hex() for node in NODES[:2]}
    assert draft.plan.missing == ["capacity: no node for web/2 (4 nodes: claim.capacity: hdd_bytes)"]


def test_an_empty_market_and_an_empty_account_are_missing() -> None:
    draft = planned(World(), contract(budget=20_000_000_000, fee=0))
    assert draft.plan.missing == [
        "funds: 20,000 credits go into escrow, the account holds 10,000",
        "capacity: no node for web/0 (no node offers capacity)",
        "capacity: no node for web/1 (no node offers capacity)",
    ]


def test_approvers_and_policies_in_words() -> None:
    plan = planned(opened(), contract()).plan
    assert plan.policies == {
        "deploy": "role budget and any 1 of (role it-expert, role legal)",
        "signoff": "any 1 of (role it-expert, role budget)",
        "delete": "none",
        "update": "role budget and any 1 of (role it-expert, role legal)",
        "release": "none",
    }
    named = {(approver.act, approver.role): approver.keys for approver in plan.approvers}
    assert named[("deploy", "legal")] == [LEGAL.public.hex()]
    assert ("signoff", "legal") not in named


def test_the_author_is_no_approver_where_the_contract_does_not_count_him() -> None:
    source = samples.contract()
    roles = ROLES | {"legal": (AUTHOR.public.hex(), LEGAL.public.hex())}
    plan = planned(opened(), source, roles=roles).plan
    keys = {approver.role: approver.keys for approver in plan.approvers}
    assert keys["legal"] == [LEGAL.public.hex()]


def test_answers_and_roles_that_are_absent_are_all_named_at_once() -> None:
    source = samples.contract()
    title = replace(source.parameters[2], default=None, description="shown on top")
    source = replace(source, parameters=(*source.parameters[:2], title, source.parameters[3]))
    draft = planned(opened(), source, roles={"budget": ROLES["budget"]})
    assert draft.manifest is None
    assert draft.plan.manifest == ""
    assert draft.plan.missing == [
        "parameter title: a string wanted (shown on top)",
        "role it-expert: the order must name who holds it",
        "role legal: the order must name who holds it",
    ]


def test_text_becomes_what_the_contract_asks_for() -> None:
    texts = {"replicas": "1", "title": "7", "country": "BE", "budget": "2.5 credits"}
    draft = planned(opened(), samples.contract(), roles=ROLES, parameters=texts)
    assert draft.parameters == {"replicas": 1, "title": "7", "country": "BE", "budget": 2_500_000}
    assert draft.plan.escrow == 2_500_000


def test_a_budget_answers_the_parameter_that_the_contract_names() -> None:
    assert planned(opened(), samples.contract(), roles=ROLES, budget=3_000_000).plan.escrow == 3_000_000
    draft = planned(opened(), contract(budget=2_000_000), budget=1_999_999)
    assert draft.plan.missing == ["budget: the contract asks for 2 credits, at most 1.999999 given"]


@pytest.mark.parametrize(
    ("parameters", "rule"),
    [
        ({"replicas": "many"}, r"parameter\.type at parameters\.replicas"),
        ({"replicas": 5}, r"parameter\.range at parameters\.replicas: 5 is not in"),
        ({"titel": "x"}, r"parameter\.unknown at parameters\.titel"),
        ({"title": "x" * 41}, r"parameter\.length at parameters\.title"),
    ],
)
def test_wrong_values_are_refused_by_field(parameters: dict[str, Any], rule: str) -> None:
    for roles in (ROLES, {}):  # also while something else is missing
        with pytest.raises(Refused, match=rule):
            planned(opened(), samples.contract(), roles=roles, parameters=parameters)


def test_roles_that_the_contract_fixes_cannot_be_bound() -> None:
    with pytest.raises(Refused, match=r"role\.fixed at roles\.legal"):
        planned(opened(), contract(), roles={"legal": ROLES["legal"]})


VALUES = st.one_of(
    st.sampled_from(["1", "2", "BE", "NL", "BEL", "5 credits", "-1", "", "${x}"]),
    st.text(max_size=5),
    st.integers(-5, 10_000_000),
    st.booleans(),
)


@settings(max_examples=60)
@given(
    parameters=st.dictionaries(
        st.sampled_from(["replicas", "country", "title", "budget", "nothing"]), VALUES, max_size=3
    ),
    budget=st.none() | st.integers(0, 10_000_000),
    rich=st.booleans(),
)
def test_a_plan_without_anything_missing_can_be_ordered(
    parameters: dict[str, str | int | bool], budget: int | None, rich: bool
) -> None:
    world = opened()
    source = replace(samples.contract(), workloads=(samples.workload(),))
    id_ = world.publish(source)
    template = find_contract(world.state, "site")
    request = PlanRequest(contract="site", parameters=parameters, roles=ROLES, budget=budget)
    balance = world.balance(CONSUMER) if rich else 2_000_000
    try:
        draft = make_plan(template, request, CONSUMER.public, balance, market(world.state), world.now_ms)
    except Refused:
        return
    plan = draft.plan
    again = make_plan(template, request, CONSUMER.public, balance, market(world.state), world.now_ms)
    assert again == draft
    if plan.missing:
        return
    assert plan.escrow <= balance
    assert budget is None or plan.escrow <= budget
    body = OrderDeployment(id_, draft.parameters, ROLES, bytes.fromhex(plan.manifest), plan.escrow, b"")
    deployment = world.ok(CONSUMER, body).id
    world.approve(deployment)
    for line in plan.lines:
        world.ok(next(n for n in NODES if n.public.hex() == line.node), Claim(deployment, line.slot, 1))


def test_a_matching_has_every_slot_once_and_is_the_same_in_any_order_of_nodes() -> None:
    world = opened()
    draft = planned(world, contract(service(replicas=2), job(replicas=3), budget=90_000_000))
    assert draft.manifest is not None
    nodes = market(world.state)
    found = match(draft.manifest, nodes, world.now_ms)
    assert found == match(draft.manifest, tuple(reversed(nodes)), world.now_ms)
    assert [m.slot for m in found.matches] == ["web/0", "web/1", "mine/0", "mine/1", "mine/2"]
    assert {m.node.farm for m in found.matches[:2]} == {"farm-a", "farm-b"}
