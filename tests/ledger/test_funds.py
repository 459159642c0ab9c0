"""Top-ups and extensions: rules D10 and D11."""

from __future__ import annotations

from typing import Any

import pytest

from ledger.audit.audit import export, verify
from ledger.contracts.language import parse_contract
from ledger.errors import Refused
from ledger.fit import slot_share, term_cost
from ledger.keys import Key
from ledger.manifests.expansion import decode_manifest, expand, extension_cost, most_spent
from ledger.manifests.types import Placement, Policies, Rule, Terms
from ledger.policies.types import Auto
from ledger.transactions import (
    CancelDeployment,
    Claim,
    ExtendDeployment,
    Price,
    Renew,
    RenewItem,
    TopUp,
)
from ledger.transition.deal import extended
from tests.ledger.chain_fixture import ChainWorld
from tests.ledger.contract_samples import SOURCE
from tests.ledger.invariants import check
from tests.ledger.world import AUTHOR, BOT, CONSUMER, FARMERS, NODES, STRANGER, World, contract, service

HOUR_S = 3_600
BUDGET, FEE, TERM_S = 1_000_000, 100_000, 10 * HOUR_S


def alone(**terms: Any) -> Any:
    fields: dict[str, Any] = {
        "budget": BUDGET,
        "fee": FEE,
        "duration_s": TERM_S,
        "extension_s": 4 * HOUR_S,
        "top_up": 500_000,
    }
    source = service(replicas=1, placement=Placement(distinct="none"))
    return contract(source, name="alone", **(fields | terms))


def running(world: World, **terms: Any) -> bytes:
    world.add_nodes()
    return world.running(alone(**terms))


def longer(deployment: bytes, hours: int, extended_s: int = 0, amount: int | None = None) -> ExtendDeployment:
    """An extension at what it costs when nothing was topped up."""
    cost = (BUDGET - FEE) * hours // 10 if amount is None else amount
    return ExtendDeployment(deployment, extended_s, hours * HOUR_S, cost)


def live(world: World, deployment: bytes) -> None:
    """Blocks and renewals until it has ended."""
    while world.deployment(deployment).status == "active":
        world.run(step_ms=10_000)
        if world.deployment(deployment).status == "active":
            world.ok(NODES[0], Renew((RenewItem(deployment, "web/0", 1),)), step_ms=0)


def test_anybody_tops_up_and_the_rest_goes_to_the_consumer() -> None:
    """[D10]"""
    world = World()
    deployment = running(world)
    stranger, consumer = world.balance(STRANGER), world.balance(CONSUMER)
    world.ok(STRANGER, TopUp(deployment, 200_000))
    world.ok(STRANGER, TopUp(deployment, 300_000))
    record = world.deployment(deployment)
    assert (record.funded, record.topped_up) == (BUDGET + 500_000, 500_000)
    assert record.escrow + record.spent == record.funded
    assert world.balance(STRANGER) == stranger - 500_000
    assert world.refused(STRANGER, TopUp(deployment, 1)) == "top_up.amount"
    world.ok(CONSUMER, CancelDeployment(deployment, ""))
    spent = world.deployment(deployment).spent
    assert world.balance(CONSUMER) == consumer + BUDGET + 500_000 - spent
    check(world.state, world.now_ms)


@pytest.mark.parametrize("amount", [0, -1, 500_001, 2**62])
def test_a_top_up_stays_within_the_terms(amount: int) -> None:
    world = World()
    deployment = running(world)
    assert world.refused(STRANGER, TopUp(deployment, amount)) == "top_up.amount"


def test_contracts_that_say_nothing_of_it_let_nobody_top_up_or_extend() -> None:
    world = World()
    deployment = running(world, extension_s=0, top_up=0)
    assert world.refused(CONSUMER, TopUp(deployment, 1)) == "top_up.amount"
    assert world.refused(CONSUMER, longer(deployment, 1)) == "extend.duration"


def test_what_has_ended_takes_no_money() -> None:
    world = World()
    deployment = running(world)
    world.ok(CONSUMER, CancelDeployment(deployment, ""))
    assert world.refused(STRANGER, TopUp(deployment, 1)) == "top_up.ended"
    assert world.refused(CONSUMER, longer(deployment, 1)) == "extend.no_term"
    assert world.refused(STRANGER, TopUp(bytes(32), 1)) == "top_up.unknown_deployment"
    assert world.refused(CONSUMER, longer(bytes(32), 1)) == "extend.unknown_deployment"


def test_a_top_up_lets_slots_cost_more() -> None:
    """[C5]"""
    world = World()
    world.add_nodes(NODES[:1], price=Price(200_000, 0, 0, 0))
    deployment = world.ordered(alone())
    world.approve(deployment)
    assert world.refused(NODES[0], Claim(deployment, "web/0", 1)) == "claim.price"  # 1,000,000 of 900,000
    world.ok(STRANGER, TopUp(deployment, 99_999))
    assert world.refused(NODES[0], Claim(deployment, "web/0", 1)) == "claim.price"
    world.ok(STRANGER, TopUp(deployment, 1))
    world.claimed(deployment, "web/0", [NODES[0]])


@pytest.mark.parametrize("payer", [CONSUMER, BOT])
def test_an_extension_moves_the_end_and_pays_for_it(payer: Key) -> None:
    """[D11]"""
    world = World()
    deployment = running(world)
    before, ends_ms = world.balance(payer), world.deployment(deployment).ends_ms
    world.ok(payer, longer(deployment, 3))
    record = world.deployment(deployment)
    assert (record.ends_ms, record.extended_s) == (ends_ms + 3 * HOUR_S * 1000, 3 * HOUR_S)
    assert record.funded == BUDGET + 270_000
    assert world.balance(payer) == before - 270_000
    check(world.state, world.now_ms)


def test_extended_it_runs_to_its_new_end_and_the_escrow_lasts() -> None:
    """[C5] [D11] At the highest price that fits."""
    world = World()
    world.add_nodes(NODES[:1], price=Price(1, 1, 1, 1))
    deployment = world.ordered(alone(duration_s=120, extension_s=60))
    manifest = world.manifest(deployment)
    (workload,) = manifest.workloads
    share = slot_share(manifest, workload)
    rate = share * 30  # of two minutes: exactly the share
    assert term_cost(manifest, rate) == share
    world.ok(NODES[0], world.offer(price=Price(rate * 2, 0, 0, 0)))
    world.approve(deployment)
    world.claimed(deployment, "web/0", [NODES[0]])
    world.report(deployment, "web/0", NODES[0], "fetching", "verified", "running")
    ends_ms = world.deployment(deployment).ends_ms
    world.ok(CONSUMER, ExtendDeployment(deployment, 0, 60, (BUDGET - FEE) // 2))
    live(world, deployment)
    record = world.deployment(deployment)
    assert (record.status, record.reason) == ("completed", "its term is over")
    assert record.ended_ms in range(ends_ms + 60_000, ends_ms + 70_000)
    assert record.spent <= record.funded
    check(world.state, world.now_ms)


def test_bad_extensions() -> None:
    world = World()
    deployment = running(world)
    cases: list[tuple[Key, ExtendDeployment, str]] = [
        (STRANGER, longer(deployment, 1), "extend.not_yours"),
        (AUTHOR, longer(deployment, 1), "extend.not_yours"),
        (CONSUMER, longer(deployment, 0), "extend.duration"),
        (CONSUMER, longer(deployment, -1), "extend.duration"),
        (CONSUMER, longer(deployment, 5), "extend.duration"),
        (CONSUMER, longer(deployment, 1, amount=89_999), "extend.amount"),
        (CONSUMER, longer(deployment, 1, amount=90_001), "extend.amount"),
        (CONSUMER, longer(deployment, 1, extended_s=1), "extend.stale"),
    ]
    for key, body, rule in cases:
        assert world.refused(key, body) == rule
    world.ok(CONSUMER, longer(deployment, 3))
    again = ExtendDeployment(deployment, 0, HOUR_S, 90_000)
    assert world.refused(CONSUMER, again) == "extend.stale", "the same wish does not count twice"
    assert world.refused(CONSUMER, longer(deployment, 2, 3 * HOUR_S)) == "extend.duration"
    world.ok(CONSUMER, longer(deployment, 1, 3 * HOUR_S))


def test_nothing_is_extended_before_it_is_approved() -> None:
    world = World()
    deployment = world.ordered(alone())
    assert world.refused(CONSUMER, longer(deployment, 1)) == "extend.no_term"


def test_who_cannot_pay_extends_nothing() -> None:
    world = World()
    deployment = running(world, budget=9_000_000_000, fee=0)
    rich = extension_cost(world.manifest(deployment).terms, 4 * HOUR_S)
    assert rich > world.balance(CONSUMER)
    body = ExtendDeployment(deployment, 0, 4 * HOUR_S, rich)
    assert world.refused(CONSUMER, body) == "money.insufficient"


def test_no_order_of_top_ups_and_extensions_costs_more_than_was_approved() -> None:
    world = World()
    deployment = running(world)
    most = most_spent(world.manifest(deployment).terms)
    assert most == BUDGET + 500_000 + (BUDGET + 500_000 - FEE) * 4 // 10
    world.ok(STRANGER, TopUp(deployment, 500_000))
    for hour in range(4):
        record = world.deployment(deployment)
        cost = extension_cost(extended(world.manifest(deployment), record).terms, HOUR_S)
        world.ok(CONSUMER, ExtendDeployment(deployment, hour * HOUR_S, HOUR_S, cost))
    assert world.deployment(deployment).funded == most


@pytest.mark.parametrize(
    ("terms", "status"),
    [
        ({}, "approved"),
        ({"extension_s": 1}, "awaiting_approval"),
        ({"top_up": 1}, "awaiting_approval"),
    ],
)
def test_a_rule_about_the_budget_looks_at_all_that_may_be_spent(terms: dict[str, int], status: str) -> None:
    world = World()
    cheap = Rule(any=(Rule(auto=Auto(budget=BUDGET)), Rule(role="budget")))
    plain = {"extension_s": 0, "top_up": 0}
    deployment = world.ordered(alone(policies=Policies(deploy=cheap, signoff=None), **(plain | terms)))
    assert world.deployment(deployment).status == status


def test_costs_round_up() -> None:
    terms = Terms(duration_s=7, budget=11, fee=1)
    assert [extension_cost(terms, s) for s in (1, 7, 8)] == [2, 10, 12]


def test_the_language_has_both() -> None:
    source = SOURCE.replace("terms: {", "terms: {extension: 30d, top_up: 2.5 credits, ")
    assert source != SOURCE
    terms = parse_contract(source, "contract.yaml").contract.terms
    assert (terms.extension_s, terms.top_up) == (30 * 86_400, 2_500_000)
    for bad, field in ((alone(extension_s=-1), "terms.extension"), (alone(top_up=-1), "terms.top_up")):
        with pytest.raises(Refused) as refused:
            expand(bad, bytes(32), AUTHOR.public, CONSUMER.public, {}, {})
        assert (refused.value.rule, refused.value.field) == ("contract.range", field)
    data = expand(alone(), bytes(32), AUTHOR.public, CONSUMER.public, {}, {})
    assert decode_manifest(data).terms.top_up == 500_000


def test_an_audit_adds_it_up() -> None:
    world = ChainWorld()
    deployment = running(world)
    world.ok(STRANGER, TopUp(deployment, 200_000))
    record = world.deployment(deployment)
    cost = extension_cost(extended(world.manifest(deployment), record).terms, HOUR_S)
    world.ok(CONSUMER, ExtendDeployment(deployment, 0, HOUR_S, cost))
    world.ok(CONSUMER, CancelDeployment(deployment, "done"))
    world.run()
    world.run()
    report = verify(export(world.store, deployment), world.genesis)
    assert report.ok, (report.rule, report.detail)
    facts = report.facts
    assert (facts.escrow, facts.extended_s) == (BUDGET + 200_000 + cost, HOUR_S)
    assert facts.spent + facts.refunded == facts.escrow
    assert [row.what for row in facts.timeline][-3:] == ["topped up", "extended", "cancelled"]
    assert world.balance(FARMERS[0]) > 0
