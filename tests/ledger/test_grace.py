"""Paused before it ends: rule D13."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from ledger.contracts.language import parse_contract
from ledger.errors import Refused
from ledger.manifests.expansion import expand, extension_cost
from ledger.manifests.types import Placement, Policies
from ledger.records import Account, key_account, key_deployment
from ledger.state import write
from ledger.transactions import CancelDeployment, Claim, ExtendDeployment, Renew, RenewItem, TopUp
from tests.ledger.contract_samples import SOURCE
from tests.ledger.invariants import check
from tests.ledger.world import (
    AUTHOR,
    BUDGET,
    CONSUMER,
    FARMERS,
    NODES,
    POLICIES,
    STRANGER,
    World,
    contract,
    service,
)

GRACE_S, TERM_S = 600, 3_600


def source(**terms: Any) -> Any:
    fields: dict[str, Any] = {
        "budget": 1_000_000,
        "duration_s": TERM_S,
        "grace_s": GRACE_S,
        "extension_s": TERM_S,
        "top_up": 500_000,
    }
    web = service(replicas=1, placement=Placement(distinct="none"))
    return contract(web, name="alone", **(fields | terms))


def running(world: World, **terms: Any) -> bytes:
    world.add_nodes()
    return world.running(source(**terms))


def renew(world: World, deployment: bytes) -> None:
    slot = world.slot(deployment, "web/0")
    world.ok(NODES[0], Renew((RenewItem(deployment, "web/0", slot.term),)), step_ms=0)


def out_of_money(world: World, **terms: Any) -> bytes:
    """Most of the escrow goes back by hand; the next stretch cannot be paid."""
    deployment = running(world, **terms)
    record = world.deployment(deployment)
    returned = world.balance(CONSUMER) + record.escrow - 20
    write(
        world.state,
        key_deployment(deployment),
        replace(record, escrow=20, paid_in=record.paid_in - record.escrow + 20),
    )
    write(world.state, key_account(CONSUMER.public), Account(returned))
    world.run(step_ms=20_000)
    renew(world, deployment)
    return deployment


def out_of_time(world: World, **terms: Any) -> bytes:
    """To the end of its term, with renewals."""
    deployment = running(world, **terms)
    ends_ms = world.deployment(deployment).ends_ms
    while world.now_ms < ends_ms:
        world.run(step_ms=min(10_000, ends_ms - world.now_ms))
        if world.now_ms < ends_ms:
            renew(world, deployment)
    return deployment


def stop_reported(world: World, deployment: bytes) -> None:
    world.report(deployment, "web/0", NODES[0], "released")


def works_again(world: World, deployment: bytes) -> None:
    term = world.slot(deployment, "web/0").term
    assert world.claimed(deployment, "web/0", [NODES[2]]) is NODES[2]
    assert world.slot(deployment, "web/0").term == term + 1
    world.report(deployment, "web/0", NODES[2], "fetching", "verified", "running")
    assert world.deployment(deployment).status == "active"


def extension(world: World, deployment: bytes, extra_s: int = 600) -> ExtendDeployment:
    record = world.deployment(deployment)
    terms = world.manifest(deployment).terms
    now = replace(terms, budget=record.funded, duration_s=terms.duration_s + record.extended_s)
    return ExtendDeployment(deployment, record.extended_s, extra_s, extension_cost(now, extra_s))


def test_without_money_it_waits_and_a_top_up_lets_it_go_on() -> None:
    """[D13]"""
    world = World()
    deployment = out_of_money(world)
    record = world.deployment(deployment)
    assert (record.status, record.desired, record.ended_ms) == ("paused", "run", 0)
    assert record.ends_ms == world.now_ms + GRACE_S * 1000
    left_ms, before = record.left_ms, world.balance(FARMERS[0])
    assert 0 < left_ms < TERM_S * 1000
    stop_reported(world, deployment)
    assert world.slot(deployment, "web/0").status == "released", "nobody may claim it"
    assert world.refused(NODES[2], Claim(deployment, "web/0", 2)) == "claim.not_open"
    world.wait(500_000, step_ms=10_000)
    check(world.state, world.now_ms)
    world.ok(STRANGER, TopUp(deployment, 400_000))
    record = world.deployment(deployment)
    assert (record.status, record.left_ms) == ("approved", 0)
    assert record.ends_ms == world.now_ms + left_ms, "its clock stood still"
    assert world.balance(FARMERS[0]) == before, "nothing was paid meanwhile"
    works_again(world, deployment)
    check(world.state, world.now_ms)


def test_without_money_to_the_end_of_the_grace_it_has_failed() -> None:
    world = World()
    deployment = out_of_money(world)
    world.wait(GRACE_S * 1000, step_ms=10_000)
    record = world.deployment(deployment)
    assert (record.status, record.reason) == ("failed", "the escrow cannot pay any more")
    assert (record.escrow, record.desired) == (0, "stop")
    assert world.node(NODES[0]).slots_held == 0
    assert world.refused(STRANGER, TopUp(deployment, 1)) == "top_up.ended"
    check(world.state, world.now_ms)


def test_at_the_end_of_its_term_it_waits_for_an_extension() -> None:
    """[D13] [D11]"""
    world = World()
    deployment = out_of_time(world)
    record = world.deployment(deployment)
    assert (record.status, record.reason, record.left_ms) == ("paused", "its term is over", 0)
    stop_reported(world, deployment)
    world.ok(STRANGER, TopUp(deployment, 1))
    assert world.deployment(deployment).status == "paused", "it has money, but no time"
    world.ok(CONSUMER, extension(world, deployment))
    record = world.deployment(deployment)
    assert (record.status, record.ends_ms) == ("approved", world.now_ms + 600_000)
    works_again(world, deployment)
    check(world.state, world.now_ms)


def test_not_extended_it_completes_and_the_rest_goes_back() -> None:
    world = World()
    before = world.balance(CONSUMER)
    deployment = out_of_time(world)
    world.wait(GRACE_S * 1000, step_ms=10_000)
    record = world.deployment(deployment)
    assert (record.status, record.reason, record.escrow) == ("completed", "its term is over", 0)
    assert world.balance(CONSUMER) == before - record.spent
    check(world.state, world.now_ms)


@pytest.mark.parametrize("terms", [{"grace_s": 0}, {"extension_s": 0}], ids=["no grace", "no extension"])
def test_what_cannot_be_extended_does_not_wait(terms: dict[str, int]) -> None:
    world = World()
    deployment = out_of_time(world, **terms)
    assert world.deployment(deployment).status == "completed"


def test_a_used_up_extension_is_no_reason_to_wait() -> None:
    world = World()
    deployment = running(world, duration_s=60, extension_s=60)
    world.ok(CONSUMER, extension(world, deployment, 60))
    while world.deployment(deployment).status == "active":
        world.run(step_ms=10_000)
        if world.deployment(deployment).status == "active":
            renew(world, deployment)
    assert world.deployment(deployment).status == "completed"


def test_paused_it_is_cancelled_as_ever() -> None:
    world = World()
    deployment = out_of_time(world)
    world.ok(CONSUMER, CancelDeployment(deployment, "enough"))
    assert world.deployment(deployment).status == "cancelled"
    assert world.deployment(deployment).escrow == 0
    check(world.state, world.now_ms)


def test_an_approval_withdrawn_meanwhile_holds_when_it_resumes() -> None:
    """[A5] [D13]"""
    world = World()
    deployment = out_of_money(world)
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "revoked"))
    assert world.deployment(deployment).status == "paused"
    world.ok(STRANGER, TopUp(deployment, 400_000))
    stop_reported(world, deployment)
    assert world.deployment(deployment).status == "awaiting_approval"
    assert world.refused(NODES[2], Claim(deployment, "web/0", 2)) == "claim.not_open"
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget"))
    works_again(world, deployment)
    check(world.state, world.now_ms)


def test_an_approval_that_runs_out_meanwhile_ends_nothing_by_itself() -> None:
    world = World()
    policies = Policies(deploy=POLICIES.deploy, signoff=None, validity_s=300)
    deployment = out_of_money(world, policies=policies)
    world.wait(400_000, step_ms=10_000)
    assert world.deployment(deployment).status == "paused"
    world.ok(STRANGER, TopUp(deployment, 400_000))
    assert world.deployment(deployment).status == "awaiting_approval"
    check(world.state, world.now_ms)


def test_an_outage_moves_the_end_of_the_grace() -> None:
    """[O1]"""
    world = World()
    deployment = out_of_money(world)
    world.run(step_ms=10 * GRACE_S * 1000, outage=True)
    assert world.deployment(deployment).status == "paused"
    check(world.state, world.now_ms)


def test_the_language_has_it_within_bounds() -> None:
    changed = SOURCE.replace("terms: {", "terms: {grace: 7d, ")
    assert parse_contract(changed, "contract.yaml").contract.terms.grace_s == 7 * 86_400
    for grace_s in (-1, 90 * 86_400 + 1):
        with pytest.raises(Refused) as refused:
            expand(source(grace_s=grace_s), bytes(32), AUTHOR.public, CONSUMER.public, {}, {})
        assert (refused.value.rule, refused.value.field) == ("contract.range", "terms.grace")
