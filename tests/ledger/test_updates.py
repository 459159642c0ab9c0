"""Updates of running deployments: asked for, approved, rolled out, reverted; money and terms follow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from ledger.audit.audit import export, verify
from ledger.audit.report import AuditReport
from ledger.contracts.types import ContractRole, ResourcesTemplate, VolumeTemplate
from ledger.limits import MIB
from ledger.manifests.expansion import cost, decode_manifest
from ledger.manifests.types import Placement, Policies, Restart, Rule, UpdateStrategy
from ledger.records import Account, key_account, key_deployment
from ledger.state import MemoryState, write
from ledger.transactions import CancelDeployment, ExtendDeployment, Renew, RenewItem, SteerUpdate, TopUp
from tests.ledger.chain_fixture import ChainWorld
from tests.ledger.invariants import check
from tests.ledger.world import (
    BUDGET,
    CONSUMER,
    EXPERT,
    FARMERS,
    LEGAL,
    NODES,
    POLICIES,
    STRANGER,
    World,
    contract,
    job,
    service,
)

FAST = UpdateStrategy(min_healthy_s=5, deadline_s=60)
ANYWHERE = Placement(distinct="none")


def site(version: str = "1.0.0", strategy: UpdateStrategy = FAST, **changes: Any) -> Any:
    """Two replicas; another version serves something else."""
    terms = {
        k: changes.pop(k) for k in ("budget", "fee", "policies", "extension_s", "top_up") if k in changes
    }
    terms |= {k: changes.pop(k) for k in ("duration_s", "grace_s") if k in changes}
    fields = {"command": ("/bin/sh", "-c", f"serve {version}"), "update": strategy, "placement": ANYWHERE}
    return contract(service(**(fields | changes)), version=version, **terms)


@pytest.fixture
def world() -> Iterator[World]:
    """A chain with blocks. What a test did to its deployments is audited when it is over."""
    world = ChainWorld()
    world.add_nodes()
    yield world
    audited(world)


def audited(world: ChainWorld) -> list[AuditReport]:
    """Of every deployment: its whole life holds, checked from genesis."""
    world.run()
    world.run()
    reports = []
    for key, _ in list(world.state.scan(b"deployment/")):
        report = verify(export(world.store, key[len(b"deployment/") :]), world.genesis)
        assert report.ok, (report.rule, report.detail)
        reports.append(report)
    return reports


def serve(world: World, deployment: bytes, *names: str) -> None:
    """Nodes take these slots and run them."""
    for name in names:
        node = world.claimed(deployment, name, [NODES[0]])
        world.report(deployment, name, node, "fetching", "verified", "running")


def stop(world: World, deployment: bytes, *names: str) -> None:
    """Holders of released slots say that they stopped."""
    for name in names:
        slot = world.slot(deployment, name)
        assert slot.status == "released"
        holder = next(node for node in NODES if node.public == slot.holder)
        world.ok(holder, world.receipt(deployment, name, holder, "released"))


def renew(world: World, deployment: bytes) -> None:
    for node in NODES:
        slots = [world.slot(deployment, name) for name in world.deployment(deployment).slots]
        items = [
            RenewItem(deployment, s.name, s.term)
            for s in slots
            if s.holder == node.public and s.status != "released"
        ]
        if items:
            world.ok(node, Renew(tuple(items)))


def wait(world: World, deployment: bytes, seconds: int) -> None:
    """Time passes, leases are renewed."""
    for _ in range(0, seconds, 5):
        world.wait(5_000)
        renew(world, deployment)


def manifests(world: World, deployment: bytes) -> list[str]:
    """By slot: the version that its term is of, or that it waits for; then its status."""
    out = []
    for name in world.deployment(deployment).slots:
        slot = world.slot(deployment, name)
        data = slot.manifest if slot.holder else slot.next
        out.append(f"{version(world, data)} {slot.status}" if data else f"none {slot.status}")
    return out


def version(world: World, digest: bytes) -> str:
    data = world.state.get(b"manifest/" + digest)
    assert data is not None
    return decode_manifest(data).version


def in_force(world: World, deployment: bytes) -> str:
    return world.manifest(deployment).version


def checked(world: World) -> None:
    check(MemoryState(dict(world.state.scan(b""))), world.now_ms)


def running(world: World, **changes: Any) -> bytes:
    deployment = world.ordered(site(**changes))
    if changes.get("policies", POLICIES).deploy is not None:
        world.approve(deployment)
    serve(world, deployment, "web/0", "web/1")
    return deployment


# Its way.


def test_one_after_the_other_each_healthy_first(world: World) -> None:
    deployment = running(world)
    update = world.updated(deployment, site("1.1.0"))
    assert update.status == "awaiting_approval"
    assert manifests(world, deployment) == ["1.0.0 running", "1.0.0 running"]
    world.approve_update(deployment)
    assert world.update(deployment).status == "rolling"
    assert manifests(world, deployment) == ["1.0.0 released", "1.0.0 running"]
    stop(world, deployment, "web/0")
    assert manifests(world, deployment) == ["1.1.0 open", "1.0.0 running"]
    serve(world, deployment, "web/0")
    world.wait(3_000)
    assert manifests(world, deployment)[1] == "1.0.0 running", "web/0 is not healthy for long enough yet"
    world.wait(3_000)
    assert manifests(world, deployment) == ["1.1.0 running", "1.0.0 released"]
    assert in_force(world, deployment) == "1.0.0"
    stop(world, deployment, "web/1")
    serve(world, deployment, "web/1")
    world.wait(6_000)
    record = world.deployment(deployment)
    assert (in_force(world, deployment), record.status, record.generation) == ("1.1.0", "active", 1)
    assert not record.updating
    assert world.update(deployment).status == "done"
    assert world.slot(deployment, "web/0").term == 2
    checked(world)
    wait(world, deployment, 60)  # its approvals are those of the update
    assert manifests(world, deployment) == ["1.1.0 running", "1.1.0 running"]


def test_max_parallel(world: World) -> None:
    deployment = running(world)
    world.updated(deployment, site("1.1.0", UpdateStrategy(max_parallel=2, min_healthy_s=0)))
    world.approve_update(deployment)
    assert manifests(world, deployment) == ["1.0.0 released", "1.0.0 released"]
    stop(world, deployment, "web/0", "web/1")
    serve(world, deployment, "web/0", "web/1")
    assert in_force(world, deployment) == "1.1.0"


def test_a_canary_goes_alone(world: World) -> None:
    deployment = running(world)
    strategy = UpdateStrategy(canary=1, max_parallel=2, min_healthy_s=5, deadline_s=60)
    world.updated(deployment, site("1.1.0", strategy, replicas=3))
    world.approve_update(deployment)
    assert manifests(world, deployment) == ["1.0.0 released", "1.0.0 running", "none released"]
    stop(world, deployment, "web/0")
    serve(world, deployment, "web/0")
    assert manifests(world, deployment)[1:] == ["1.0.0 running", "none released"]
    world.wait(6_000)
    assert manifests(world, deployment) == ["1.1.0 running", "1.0.0 released", "1.1.0 open"]


def test_a_canary_that_fails_reverts_by_itself(world: World) -> None:
    deployment = running(world)
    world.updated(deployment, site("1.1.0", replace(FAST, canary=1), restart=Restart(attempts=0)))
    world.approve_update(deployment)
    stop(world, deployment, "web/0")
    node = world.claimed(deployment, "web/0", [NODES[1]])
    world.report(deployment, "web/0", node, "fetching", "verified", "running", "failed")
    update, record = world.update(deployment), world.deployment(deployment)
    assert (update.status, record.status, record.updating) == ("reverted", "active", b"")
    assert "web/0 failed" in update.reason
    assert manifests(world, deployment) == ["1.0.0 open", "1.0.0 running"]
    assert world.slot(deployment, "web/0").attempts == 0, "the failure was the update's"
    serve(world, deployment, "web/0")
    assert manifests(world, deployment) == ["1.0.0 running", "1.0.0 running"]
    assert "update.reverted" in world.kinds()
    checked(world)


def test_a_canary_that_nobody_takes_is_late(world: World) -> None:
    deployment = running(world)
    world.updated(deployment, site("1.1.0", **_too_big()))
    world.approve_update(deployment)
    stop(world, deployment, "web/0")
    wait(world, deployment, 40)
    assert world.update(deployment).status == "rolling"
    wait(world, deployment, 20)
    assert world.update(deployment).status == "reverted"
    assert "not healthy" in world.update(deployment).reason
    checked(world)


def _too_big() -> dict[str, Any]:
    """More than any node has."""
    return {"resources": ResourcesTemplate(cpu_millis=64_000, memory_bytes=64 * MIB, disk_bytes=0, pids=16)}


def test_an_outage_is_not_late(world: World) -> None:
    deployment = running(world)
    world.updated(deployment, site("1.1.0", **_too_big()))
    world.approve_update(deployment)
    world.run(step_ms=3_600_000, outage=True)
    assert world.update(deployment).status == "rolling"
    world.wait(65_000)
    assert world.update(deployment).status == "reverted"


def test_held_until_the_consumer_says(world: World) -> None:
    deployment = running(world)
    strategy = replace(FAST, on_failure="hold")
    world.updated(deployment, site("1.1.0", strategy, restart=Restart(attempts=0)))
    world.approve_update(deployment)
    stop(world, deployment, "web/0")
    node = world.claimed(deployment, "web/0", [NODES[1]])
    world.report(deployment, "web/0", node, "fetching", "failed")
    assert world.update(deployment).status == "held"
    assert manifests(world, deployment) == ["1.1.0 open", "1.0.0 running"]
    node = world.claimed(deployment, "web/0", [NODES[1]])
    world.report(deployment, "web/0", node, "fetching", "failed")
    assert world.deployment(deployment).status == "active"
    assert world.refused(STRANGER, SteerUpdate(deployment, 1, "go_on")) == "update.not_yours"
    world.ok(CONSUMER, SteerUpdate(deployment, 1, "go_on"))
    serve(world, deployment, "web/0")
    world.wait(6_000)
    assert manifests(world, deployment) == ["1.1.0 running", "1.0.0 released"]
    checked(world)
    world.ok(CONSUMER, SteerUpdate(deployment, 1, "cancel"))
    assert world.update(deployment).status == "reverted"
    assert manifests(world, deployment) == ["1.1.0 released", "1.0.0 released"]
    stop(world, deployment, "web/0", "web/1")
    assert manifests(world, deployment) == ["1.0.0 open", "1.0.0 open"]
    checked(world)


def test_held_for_too_long(world: World) -> None:
    short = replace(POLICIES, validity_s=120)
    deployment = running(world, policies=short)
    strategy = replace(FAST, on_failure="hold")
    world.updated(deployment, site("1.1.0", strategy, policies=short))
    world.approve_update(deployment)
    stop(world, deployment, "web/0")
    node = world.claimed(deployment, "web/0", [NODES[1]])
    world.report(deployment, "web/0", node, "failed")
    assert world.update(deployment).status == "held"
    world.wait(150_000)
    assert world.update(deployment).status == "reverted"


def test_what_stays_the_same_keeps_its_term(world: World) -> None:
    """Only a replica more: the two that run go on, and their terms are of the former manifest."""
    deployment = running(world)
    web = {"command": ("/bin/sh", "-c", "serve 1.0.0")}
    world.updated(deployment, site("1.1.0", replicas=3, **web))
    world.approve_update(deployment)
    serve(world, deployment, "web/2")
    world.wait(6_000)
    record = world.deployment(deployment)
    assert (in_force(world, deployment), record.generation) == ("1.1.0", 1)
    kept = world.slot(deployment, "web/0")
    assert (kept.term, version(world, kept.manifest), version(world, kept.next)) == (1, "1.0.0", "1.1.0")
    node = next(node for node in NODES if node.public == kept.holder)
    world.ok(node, world.receipt(deployment, "web/0", node, "running"))
    checked(world)
    world.ok(node, world.receipt(deployment, "web/0", node, "released"))
    serve(world, deployment, "web/0")
    assert version(world, world.slot(deployment, "web/0").manifest) == "1.1.0"


def test_fewer_replicas_and_then_more_again(world: World) -> None:
    deployment = running(world)
    web = {"command": ("/bin/sh", "-c", "serve 1.0.0")}
    world.updated(deployment, site("1.1.0", replicas=1, **web))
    world.approve_update(deployment)
    assert in_force(world, deployment) == "1.1.0"
    assert manifests(world, deployment) == ["1.0.0 running", "1.0.0 released"]
    stop(world, deployment, "web/1")
    assert manifests(world, deployment) == ["1.0.0 running", "none released"]
    checked(world)
    world.updated(deployment, site("1.2.0", replicas=2, **web))
    world.approve_update(deployment)
    assert world.slot(deployment, "web/1").status == "open"
    serve(world, deployment, "web/1")
    assert world.slot(deployment, "web/1").term == 2, "terms only grow"
    world.wait(6_000)
    assert in_force(world, deployment) == "1.2.0"
    checked(world)


def test_what_others_depend_on_comes_first(world: World) -> None:
    def pair(version: str) -> Any:
        web = service(name="web", depends_on=("db",), command=("/bin/sh", "-c", version), update=FAST)
        return contract(web, service(name="db", replicas=1, command=("/bin/sh", "-c", version), ports=(),
                        health=None, update=FAST), version=version, name="pair")  # fmt: skip

    deployment = world.ordered(pair("1.0.0"))
    world.approve(deployment)
    node = world.claimed(deployment, "db/0", [NODES[1]])
    world.report(deployment, "db/0", node, "fetching", "verified", "running")
    for name, taker in (("web/0", NODES[0]), ("web/1", NODES[2])):
        node = world.claimed(deployment, name, [taker])
        world.report(deployment, name, node, "fetching", "verified", "running")
    world.updated(deployment, pair("1.1.0"))
    world.approve_update(deployment)
    assert manifests(world, deployment) == ["1.0.0 running", "1.0.0 running", "1.0.0 released"]


def test_a_job_that_is_done_stays_done(world: World) -> None:
    def both(version: str) -> Any:
        web = service(command=("/bin/sh", "-c", version), placement=ANYWHERE, update=FAST, replicas=1)
        return contract(web, job(update=FAST), version=version, name="mixed")

    deployment = world.ordered(both("1.0.0"))
    world.approve(deployment)
    serve(world, deployment, "web/0")
    node = world.claimed(deployment, "mine/0", [NODES[0]])
    world.report(deployment, "mine/0", node, "fetching", "verified", "running", "succeeded")
    world.updated(deployment, both("1.1.0"))
    world.approve_update(deployment)
    stop(world, deployment, "web/0")
    serve(world, deployment, "web/0")
    world.wait(6_000)
    assert in_force(world, deployment) == "1.1.0"
    assert world.slot(deployment, "mine/0").status == "succeeded"
    checked(world)


# Approvals.


def test_a_changed_signer_set_satisfies_both_policies(world: World) -> None:
    deployment = running(world)
    other = site("1.1.0", policies=Policies(deploy=Rule(role="legal"), signoff=None))
    world.updated(deployment, other)
    world.ok(LEGAL, world.decide(deployment, LEGAL, "legal", "granted", "update"))
    assert world.update(deployment).status == "awaiting_approval", "the old policy wants budget, too"
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "granted", "update"))
    assert world.update(deployment).status == "rolling"


def test_the_old_policy_alone_is_not_enough(world: World) -> None:
    deployment = running(world)
    world.updated(deployment, site("1.1.0", policies=Policies(deploy=Rule(role="legal"), signoff=None)))
    world.approve_update(deployment)  # budget and it-expert: what the old one wants
    assert world.update(deployment).status == "awaiting_approval"


def test_new_people_in_the_same_role(world: World) -> None:
    """The role budget moves from one key to another: both must agree."""
    deployment = running(world)
    source = site("1.1.0")
    roles = tuple(
        ContractRole(name=r.name, bind="author", keys=(STRANGER.public.hex(),)) if r.name == "budget" else r
        for r in source.roles
    )
    world.updated(deployment, replace(source, roles=roles))
    world.approve_update(deployment)
    assert world.update(deployment).status == "awaiting_approval"
    world.ok(STRANGER, world.decide(deployment, STRANGER, "budget", "granted", "update"))
    assert world.update(deployment).status == "rolling"


def test_a_role_under_another_name(world: World) -> None:
    """[U3] [U9] What its holder signed for the update counts for the role's new name, then and afterwards."""
    deployment = running(world)
    source = site("1.1.0", policies=Policies(deploy=Rule(role="treasury"), signoff=None))
    roles = tuple(replace(role, name="treasury") if role.name == "budget" else role for role in source.roles)
    world.updated(deployment, replace(source, roles=roles))
    world.approve_update(deployment)
    for name in ("web/0", "web/1"):
        stop(world, deployment, name)
        serve(world, deployment, name)
        world.wait(6_000)
    assert in_force(world, deployment) == "1.1.0"
    wait(world, deployment, 20)
    assert world.deployment(deployment).status == "active"
    assert manifests(world, deployment) == ["1.1.0 running", "1.1.0 running"]
    world.ok(BUDGET, world.decide(deployment, BUDGET, "treasury", "revoked"))
    assert world.deployment(deployment).status == "awaiting_approval"


def test_a_stricter_and_a_weaker_update_policy(world: World) -> None:
    for update, enough in (
        (Rule(all=(POLICIES.deploy, Rule(role="legal"))), False),
        (Rule(role="budget"), True),
    ):
        policies = replace(POLICIES, update=update)
        name = "strict" if not enough else "weak"
        deployment = world.ordered(replace(site(policies=policies), name=name))
        world.approve(deployment)
        serve(world, deployment, "web/0", "web/1")
        world.updated(deployment, replace(site("1.1.0", policies=policies), name=name))
        if enough:
            world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "granted", "update"))
        else:
            world.approve_update(deployment)
        assert (world.update(deployment).status == "rolling") == enough


def test_no_approval_only_where_it_is_written(world: World) -> None:
    policies = replace(POLICIES, update=None)
    deployment = running(world, policies=policies)
    assert world.updated(deployment, site("1.1.0", policies=policies)).status == "rolling"


def test_after_it_the_policy_of_updates_stands(world: World) -> None:
    """The weak policy that let it in must still be satisfied; a revocation stops what runs."""
    policies = replace(POLICIES, update=Rule(role="budget"))
    deployment = running(world, policies=policies)
    web = {"command": ("/bin/sh", "-c", "serve 1.0.0"), "replicas": 2}
    world.updated(deployment, site("1.1.0", policies=policies, recheck_s=31, **web))
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "granted", "update"))
    for name in ("web/0", "web/1"):
        stop(world, deployment, name)
        serve(world, deployment, name)
        world.wait(6_000)
    record = world.deployment(deployment)
    assert (record.ground, record.status, in_force(world, deployment)) == ("update", "active", "1.1.0")
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "revoked"))
    assert world.deployment(deployment).status == "awaiting_approval"
    checked(world)


def test_a_grant_of_one_update_is_none_of_the_next(world: World) -> None:
    """Held back when the update was cancelled, and carried in when the same manifest is asked for again."""
    deployment = running(world)
    source = site("1.1.0")
    contract_id = world.publish(source)
    world.ok(CONSUMER, world.update_body(deployment, source, contract_id))
    held_back = world.decide(deployment, BUDGET, "budget", "granted", "update")
    world.ok(CONSUMER, SteerUpdate(deployment, 1, "cancel"))
    assert world.refused(STRANGER, held_back) == "approval.closed"
    world.ok(CONSUMER, world.update_body(deployment, source, contract_id))
    assert world.refused(STRANGER, held_back) == "approval.other_update"
    fresh = world.decide(deployment, BUDGET, "budget", "granted", "update")
    world.ok(STRANGER, fresh)
    assert world.refused(STRANGER, world.decide(deployment, BUDGET, "budget", manifest=b"\1" * 32)) == (
        "approval.manifest_mismatch"
    )


def test_the_deploy_approval_is_none_of_the_update(world: World) -> None:
    deployment = running(world)
    update = world.updated(deployment, site("1.1.0"))
    word = world.decide(deployment, BUDGET, "budget", manifest=update.manifest)
    assert world.refused(STRANGER, word) == "approval.manifest_mismatch"


def test_rejected(world: World) -> None:
    deployment = running(world)
    world.updated(deployment, site("1.1.0", budget=3_000_000))
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "rejected", "update"))
    update = world.update(deployment)
    assert (update.status, update.refunded, world.deployment(deployment).status) == (
        "rejected",
        update.locked,
        "active",
    )
    assert update.locked == 1_000_000
    checked(world)


def test_revoked_while_it_rolls(world: World) -> None:
    deployment = running(world)
    world.updated(deployment, site("1.1.0"))
    world.approve_update(deployment)
    stop(world, deployment, "web/0")
    serve(world, deployment, "web/0")
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "revoked", "update"))
    update = world.update(deployment)
    assert update.status == "reverted"
    assert "approval was lost" in update.reason
    assert manifests(world, deployment) == ["1.1.0 released", "1.0.0 running"]
    checked(world)


def test_its_approval_runs_out_while_it_rolls(world: World) -> None:
    deployment = running(world)
    world.updated(deployment, site("1.1.0", **_too_big()))
    soon = world.now_ms + 20_000
    word = world.decide(deployment, BUDGET, "budget", "granted", "update", expires_ms=soon)
    world.ok(BUDGET, word)
    world.ok(EXPERT, world.decide(deployment, EXPERT, "it-expert", "granted", "update"))
    assert world.update(deployment).status == "rolling"
    world.wait(20_000)
    assert world.update(deployment).status == "reverted"
    checked(world)


def test_the_deployment_loses_its_approval_while_it_rolls(world: World) -> None:
    deployment = running(world)
    world.updated(deployment, site("1.1.0"))
    world.approve_update(deployment)
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "revoked"))
    assert world.deployment(deployment).status == "awaiting_approval"
    assert world.update(deployment).status == "reverted"
    checked(world)


def test_it_waits_while_the_deployment_runs_on_without_approval(world: World) -> None:
    policies = replace(POLICIES, run_on_s=600)
    deployment = running(world, policies=policies)
    world.updated(deployment, site("1.1.0", policies=policies))
    world.ok(STRANGER, world.decide(deployment, BUDGET, "budget", "granted", "update"))
    world.ok(EXPERT, world.decide(deployment, EXPERT, "it-expert", "revoked"))
    assert world.deployment(deployment).lost_ms
    world.ok(EXPERT, world.decide(deployment, EXPERT, "it-expert", "granted", "update"))
    assert world.update(deployment).status == "awaiting_approval"
    world.ok(EXPERT, world.decide(deployment, EXPERT, "it-expert"))
    assert world.update(deployment).status == "rolling"
    checked(world)


def test_not_approved_in_time(world: World) -> None:
    short = replace(POLICIES, validity_s=120)
    deployment = running(world, policies=short)
    for who, role in ((BUDGET, "budget"), (EXPERT, "it-expert")):  # those of the deployment stand for long
        later_ms = world.now_ms + 10**9
        world.ok(STRANGER, world.decide(deployment, who, role, expires_ms=later_ms))
    before = world.balance(CONSUMER)
    world.updated(deployment, site("1.1.0", policies=short, budget=3_000_000))
    assert world.balance(CONSUMER) == before - 1_000_000
    world.run(step_ms=3_600_000, outage=True)
    assert world.update(deployment).status == "awaiting_approval", "nobody could have signed"
    world.wait(115_000)
    assert world.update(deployment).status == "awaiting_approval"
    world.wait(8_000)
    assert world.update(deployment).status == "expired"
    assert world.balance(CONSUMER) == before
    checked(world)


def test_a_sign_off_is_asked_for_anew(world: World) -> None:
    deployment = running(world)
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "granted", "signoff"))
    assert world.deployment(deployment).signed_off_ms
    web = {"command": ("/bin/sh", "-c", "serve 1.0.0"), "replicas": 2}
    world.updated(deployment, site("1.1.0", UpdateStrategy(), **web))
    world.approve_update(deployment)
    assert in_force(world, deployment) == "1.1.0"
    assert not world.deployment(deployment).signed_off_ms
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "granted", "signoff"))
    assert world.deployment(deployment).signed_off_ms
    checked(world)


# Money.


def test_more_is_locked_and_less_goes_back(world: World) -> None:
    deployment = running(world)
    web = {"command": ("/bin/sh", "-c", "serve 1.0.0")}
    before = world.balance(CONSUMER)
    world.updated(deployment, site("1.1.0", budget=3_000_000, **web))
    world.approve_update(deployment)
    assert in_force(world, deployment) == "1.1.0"
    first = world.update(deployment)
    assert first.locked == 1_000_000
    assert 0 < first.refunded < 1_000, "some seconds of the term are over, and took less than they might"
    assert world.balance(CONSUMER) == before - first.locked + first.refunded
    checked(world)
    half_ms = (world.deployment(deployment).ends_ms - world.now_ms) // 2
    for _ in range(4):  # with a good half of the term over, its cost is known
        world.run(step_ms=half_ms // 4)
        renew_late(world, deployment)
    record, balance = world.deployment(deployment), world.balance(CONSUMER)
    world.updated(deployment, site("1.2.0", budget=1_000_000, **web))
    world.approve_update(deployment)
    after = world.deployment(deployment)
    back = world.balance(CONSUMER) - balance
    assert back == world.update(deployment).refunded > 0
    assert after.escrow == record.escrow - (after.spent - record.spent) - back
    manifest = world.manifest(deployment)
    left_ms = after.ends_ms - world.now_ms
    share = -(-(manifest.terms.budget - manifest.terms.fee) * left_ms // (24 * 3_600_000))
    rates = [world.slot(deployment, name).rate_hour for name in after.slots]
    taken = sum(cost(rate, 0, left_ms) for rate in rates)
    assert after.escrow == taken > share, "what its holders take for the rest of the term, and no more"
    checked(world)


def renew_late(world: World, deployment: bytes) -> None:
    """Slots whose leases ran out are taken again."""
    for name in world.deployment(deployment).slots:
        if world.slot(deployment, name).status == "open":
            for node in NODES:
                world.ok(node, world.offer())
            serve(world, deployment, name)
        if not world.deployment(deployment).approved_ms:
            world.approve(deployment)


def test_what_is_locked_is_not_spent_before_it_is_approved() -> None:
    """The escrow runs dry while one waits: nobody is paid of what it locked, and all of it goes back."""
    world = World()
    world.add_nodes()
    deployment = running(world)
    world.updated(deployment, site("1.1.0", budget=3_000_000))
    locked = world.update(deployment).locked
    assert locked == 1_000_000
    record, farmers = world.deployment(deployment), [world.balance(farmer) for farmer in FARMERS]
    less = record.escrow - locked - 20  # all else but 20 goes back by hand, as no transaction would
    poor = replace(record, escrow=locked + 20, paid_in=record.paid_in - less)
    write(world.state, key_deployment(deployment), poor)
    before = world.balance(CONSUMER) + less
    write(world.state, key_account(CONSUMER.public), Account(before))
    wait(world, deployment, 20)
    record, update = world.deployment(deployment), world.update(deployment)
    assert (record.status, record.reason) == ("failed", "the escrow cannot pay any more")
    assert sum(world.balance(farmer) for farmer in FARMERS) == sum(farmers) + 20
    assert (update.status, update.refunded) == ("cancelled", locked)
    assert world.balance(CONSUMER) == before + locked
    check(world.state, world.now_ms)


def test_a_term_that_ends_while_an_update_waits_gives_back_what_it_locked(world: World) -> None:
    poor = {"duration_s": 60, "budget": 700, "fee": 3, "replicas": 1}
    deployment = world.ordered(site(**poor))
    world.approve(deployment)
    serve(world, deployment, "web/0")
    before = world.balance(CONSUMER)
    world.updated(deployment, site("1.1.0", **(poor | {"budget": 5_000})))
    wait(world, deployment, 90)
    record = world.deployment(deployment)
    assert record.status == "completed"
    assert world.update(deployment).status == "cancelled"
    assert world.update(deployment).refunded == 4_300
    assert world.balance(CONSUMER) >= before
    checked(world)


def test_the_author_is_paid_what_the_fee_is_more(world: World) -> None:
    deployment = running(world)
    web = {"command": ("/bin/sh", "-c", "serve 1.0.0")}
    spent = world.deployment(deployment).spent
    world.updated(deployment, site("1.1.0", fee=150_000, budget=2_050_000, **web))
    world.approve_update(deployment)
    fees = [bill for bill in world.bills(deployment) if not bill.slot]
    assert [(bill.term, bill.amount) for bill in fees] == [(0, 100_000), (1, 50_000)]
    assert world.deployment(deployment).spent >= spent + 50_000
    world.updated(deployment, site("1.2.0", fee=10_000, **web))
    world.approve_update(deployment)
    assert sum(bill.amount for bill in world.bills(deployment) if not bill.slot) == 150_000
    checked(world)


def test_reverted_it_gives_back_what_it_locked(world: World) -> None:
    deployment = running(world)
    before = world.balance(CONSUMER)
    world.updated(deployment, site("1.1.0", budget=3_000_000))
    world.approve_update(deployment)
    stop(world, deployment, "web/0")
    serve(world, deployment, "web/0")
    world.ok(CONSUMER, SteerUpdate(deployment, 1, "cancel"))
    update = world.update(deployment)
    assert (update.status, update.refunded) == ("reverted", 1_000_000)
    assert world.balance(CONSUMER) == before
    checked(world)


def test_nothing_is_paid_twice(world: World) -> None:
    """Terms of a slot follow each other without overlap, each billed at its own rate, whichever manifest."""
    deployment = running(world)
    world.updated(deployment, site("1.1.0"))
    world.approve_update(deployment)
    stop(world, deployment, "web/0")
    serve(world, deployment, "web/0")
    wait(world, deployment, 10)
    stop(world, deployment, "web/1")
    serve(world, deployment, "web/1")
    wait(world, deployment, 30)
    world.ok(CONSUMER, CancelDeployment(deployment, "done"))
    for name in ("web/0", "web/1"):
        first, second = sorted((b for b in world.bills(deployment) if b.slot == name), key=lambda b: b.term)
        assert first.to_ms <= second.from_ms
    record = world.deployment(deployment)
    assert record.spent == sum(bill.amount for bill in world.bills(deployment))
    assert record.escrow == 0
    checked(world)


# Refusals.


def test_refused_wishes(world: World) -> None:
    first = site(extension_s=3_600, top_up=1_000)
    contract_id = world.publish(first)
    deployment = world.order(first, contract_id)
    second = site("1.1.0", extension_s=3_600, top_up=1_000)
    second_id = world.publish(second)
    good = world.update_body(deployment, second, second_id)
    assert world.refused(CONSUMER, good) == "update.not_running"
    world.approve(deployment)
    assert world.refused(STRANGER, good) == "update.not_yours"
    assert world.refused(CONSUMER, replace(good, deployment=bytes(32))) == "update.unknown_deployment"
    assert world.refused(CONSUMER, replace(good, former=bytes(32))) == "update.stale"
    assert world.refused(CONSUMER, replace(good, contract=bytes(32))) == "order.unknown_contract"
    assert world.refused(CONSUMER, replace(good, manifest=bytes(32))) == "update.manifest_mismatch"
    assert world.refused(CONSUMER, replace(good, amount=1)) == "update.amount"
    same = world.update_body(deployment, first, contract_id)
    assert world.refused(CONSUMER, same) == "update.same"
    other = replace(second, name="other")
    assert world.refused(CONSUMER, world.update_body(deployment, other, world.publish(other))) == (
        "update.contract"
    )
    longer = site("1.2.0", duration_s=7_200)
    assert world.refused(CONSUMER, world.update_body(deployment, longer, world.publish(longer))) == (
        "update.terms"
    )
    world.ok(STRANGER, TopUp(deployment, 1_000))
    none = site("1.3.0", extension_s=3_600)
    assert world.refused(CONSUMER, world.update_body(deployment, none, world.publish(none))) == "update.terms"
    world.ok(CONSUMER, world.update_body(deployment, second, second_id))
    assert world.refused(CONSUMER, world.update_body(deployment, second, second_id)) == "update.pending"
    assert world.refused(CONSUMER, SteerUpdate(deployment, 2, "cancel")) == "update.none"
    assert world.refused(CONSUMER, SteerUpdate(deployment, 1, "wait")) == "update.action"
    assert world.refused(CONSUMER, SteerUpdate(deployment, 1, "go_on")) == "update.not_held"
    assert world.refused(CONSUMER, ExtendDeployment(deployment, 0, 60, 1)) == "extend.update"
    checked(world)


def test_volumes_stay_as_they_are(world: World) -> None:
    def kept(version: str, size: int) -> Any:
        return site(version, volumes=(VolumeTemplate(name="data", path="/data", size_bytes=size),))

    deployment = world.ordered(kept("1.0.0", 64 * MIB))
    world.approve(deployment)
    larger, same = kept("1.1.0", 128 * MIB), kept("1.2.0", 64 * MIB)
    body = world.update_body(deployment, larger, world.publish(larger))
    assert world.refused(CONSUMER, body) == "update.volumes"
    world.ok(CONSUMER, world.update_body(deployment, same, world.publish(same)))


def test_too_many_slots_in_all(world: World) -> None:
    def sized(version: str, name: str, replicas: int) -> Any:
        work = job(name=name, replicas=replicas, results=("/result/words.tsv",))
        more = [job(name=f"{name}{n}", replicas=64) for n in range(3)]
        return contract(work, *more, version=version, name="big", budget=10**9)

    deployment = world.ordered(sized("1.0.0", "a", 64))
    world.approve(deployment)
    source = sized("1.1.0", "b", 1)
    assert world.refused(CONSUMER, world.update_body(deployment, source, world.publish(source))) == (
        "update.slots"
    )


def test_too_many_updates(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.transition.updates.UPDATES_MAX", 1)
    deployment = running(world)
    world.updated(deployment, site("1.1.0"))
    world.ok(CONSUMER, SteerUpdate(deployment, 1, "cancel"))
    source = site("1.2.0")
    assert world.refused(CONSUMER, world.update_body(deployment, source, world.publish(source))) == (
        "update.too_many"
    )
