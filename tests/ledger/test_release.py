"""Results that are held back until stakeholders release them, for exactly what was found."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import UNSET, to_builtins
from msgspec.structs import replace

from ledger.contracts.types import Contract
from ledger.documents import open_document, payload_of, sign_payload
from ledger.errors import Refused
from ledger.limits import RELEASE_MS_MAX
from ledger.manifests.types import Placement, Policies, Rule
from ledger.policies.types import Auto
from ledger.results import results_digest
from ledger.storage.retention import lives
from ledger.transactions import CancelDeployment, Report
from tests.ledger.invariants import check
from tests.ledger.world import (
    AUTHOR,
    BUDGET,
    CONSUMER,
    DEPLOY,
    EXPERT,
    LEGAL,
    NODES,
    SIGNOFF,
    STRANGER,
    World,
    contract,
    job,
    result_file,
    service,
)

RELEASE = Rule(all=(Rule(role="legal"), Rule(role="budget")))
HELD = Policies(deploy=DEPLOY, signoff=SIGNOFF, release=RELEASE)
DAY_MS = 24 * 3_600_000
PATH = "/result/words.tsv"


def mining(policies: Policies = HELD, **changes: Any) -> Contract:
    return contract(job(**changes), policies=policies, budget=50_000_000)


def approved(source: Contract) -> tuple[World, bytes]:
    world = World()
    world.add_nodes()
    deployment = world.ordered(source)
    world.approve(deployment)
    return world, deployment


def work(world: World, deployment: bytes, name: str = "mine/0", number: int = 0, digest: str = "33") -> None:
    node = world.claimed(deployment, name, [NODES[number]])
    world.report(deployment, name, node, "fetching", "verified", "running")
    results = {PATH: result_file(digest * 32)}
    world.ok(node, world.receipt(deployment, name, node, "succeeded", results=results))


def finished(source: Contract | None = None) -> tuple[World, bytes]:
    world, deployment = approved(source or mining())
    work(world, deployment)
    return world, deployment


def both(version: str = "1.0.0", **changes: Any) -> Contract:
    """A job whose results are held, and a service of one replica."""
    web = service(replicas=1, **changes)
    return contract(job(), web, policies=HELD, budget=50_000_000, version=version)


def granted_by_legal() -> tuple[World, bytes, bytes]:
    """The job beside the service is done, and legal has granted its results: the world, the deployment, the
    results' digest."""
    world, deployment = approved(both())
    work(world, deployment)
    world.ok(LEGAL, wish(world, deployment, LEGAL, "legal"))
    return world, deployment, world.deployment(deployment).results


def wish(
    world: World, deployment: bytes, key: Any, role: str, decision: str = "granted", **changes: Any
) -> Any:
    return world.decide(deployment, key, role, decision, "release", **changes)


def released(world: World, deployment: bytes) -> bool:
    return bool(world.deployment(deployment).released_ms)


def test_results_are_held_until_all_have_signed_for_them() -> None:
    """[Y6] [Y7]"""
    world, deployment = finished()
    record = world.deployment(deployment)
    assert (record.status, len(record.results), record.released_ms) == ("completed", 32, 0)
    assert "results.held" in world.kinds()
    world.ok(STRANGER, wish(world, deployment, LEGAL, "legal"))
    assert not released(world, deployment)
    check(world.state, world.now_ms)
    world.ok(STRANGER, wish(world, deployment, BUDGET, "budget"))
    assert world.deployment(deployment).released_ms == world.now_ms
    assert "results.released" in world.kinds()
    check(world.state, world.now_ms)


def test_no_other_approval_releases_anything() -> None:
    """[Y7] Approvals to deploy and the sign-off are other acts."""
    world, deployment = finished()
    world.ok(EXPERT, world.decide(deployment, EXPERT, "it-expert", "granted", "signoff"))
    assert world.deployment(deployment).signed_off_ms
    assert not released(world, deployment)
    assert lives(world.deployment(deployment))


@pytest.mark.parametrize(
    ("act", "results", "rule"),
    [
        ("release", UNSET, "approval.other_results"),
        ("release", "44" * 32, "approval.other_results"),
        ("signoff", "44" * 32, "approval.other_results"),
    ],
)
def test_a_decision_names_the_results_that_it_is_about(act: str, results: Any, rule: str) -> None:
    """[A9]"""
    world, deployment = finished()
    body = world.decide(deployment, BUDGET, "budget", "granted", act, results=results)
    assert world.refused(STRANGER, body) == rule


def test_nothing_is_decided_before_the_results_are_there() -> None:
    """[Y6] [A9]"""
    world, deployment = approved(mining(replicas=2))
    work(world, deployment)
    assert world.deployment(deployment).results == b""
    slots = {"mine/0": world.slot(deployment, "mine/0"), "mine/1": world.slot(deployment, "mine/1")}
    manifest, digest = world.manifest(deployment), world.deployment(deployment).manifest
    assert results_digest(deployment, digest, manifest, slots) == b""
    assert world.refused(LEGAL, wish(world, deployment, LEGAL, "legal")) == "approval.closed"
    assert (
        world.refused(LEGAL, wish(world, deployment, LEGAL, "legal", results="33" * 32)) == "approval.closed"
    )
    work(world, deployment, "mine/1", 2)
    assert world.deployment(deployment).results


def test_the_digest_is_of_all_that_was_found() -> None:
    """[Y5] Another deployment, manifest, slot, term or byte is another digest."""
    world, deployment = finished()
    record, manifest = world.deployment(deployment), world.manifest(deployment)
    slot = world.slot(deployment, "mine/0")
    digest = results_digest(deployment, record.manifest, manifest, {"mine/0": slot})
    assert digest == record.results
    others = [
        results_digest(bytes(32), record.manifest, manifest, {"mine/0": slot}),
        results_digest(deployment, bytes(32), manifest, {"mine/0": slot}),
        results_digest(deployment, record.manifest, manifest, {"mine/0": replace(slot, term=2)}),
        results_digest(deployment, record.manifest, manifest, {"mine/0": replace(slot, results={"a": "b"})}),
    ]
    assert len({digest, *others}) == 5


def test_of_replicas_that_agree_the_odd_ones_results_are_never_released() -> None:
    """[Y5] [R8] And nothing is there to be released before they were compared."""
    world, deployment = approved(mining(replicas=3, agree=2, placement=Placement()))
    found = [{PATH: digest * 32} for digest in ("44", "33", "33")]
    for index, results in enumerate(found):
        node = world.claimed(deployment, f"mine/{index}", [NODES[index]])
        world.report(deployment, f"mine/{index}", node, "fetching", "verified", "running")
        world.ok(node, world.commit(deployment, f"mine/{index}", node, results))
    for index in (1, 2, 0):
        assert world.deployment(deployment).results == b""
        world.ok(NODES[index], world.told(deployment, f"mine/{index}", NODES[index], found[index]))
    record, manifest = world.deployment(deployment), world.manifest(deployment)
    slots = {name: world.slot(deployment, name) for name in record.slots}
    assert record.results == results_digest(deployment, record.manifest, manifest, slots) != b""
    slots["mine/0"] = replace(slots["mine/0"], results={PATH: "66" * 32})
    assert record.results == results_digest(deployment, record.manifest, manifest, slots)


def test_a_grant_is_taken_back_while_they_are_held_and_not_after() -> None:
    """[A9]"""
    world, deployment = finished()
    world.ok(LEGAL, wish(world, deployment, LEGAL, "legal"))
    world.ok(LEGAL, wish(world, deployment, LEGAL, "legal", "revoked"))
    world.ok(BUDGET, wish(world, deployment, BUDGET, "budget"))
    assert not released(world, deployment)
    world.ok(LEGAL, wish(world, deployment, LEGAL, "legal"))
    assert released(world, deployment)
    assert world.refused(LEGAL, wish(world, deployment, LEGAL, "legal", "revoked")) == "approval.closed"


def test_a_rejection_holds_them_until_its_signer_thinks_again() -> None:
    """[Y7]"""
    world, deployment = finished()
    world.ok(BUDGET, wish(world, deployment, BUDGET, "budget"))
    world.ok(LEGAL, wish(world, deployment, LEGAL, "legal", "rejected"))
    assert "results.release_rejected" in world.kinds()
    assert not released(world, deployment)
    world.ok(LEGAL, wish(world, deployment, LEGAL, "legal"))
    assert released(world, deployment)


def test_an_approval_that_expired_releases_nothing() -> None:
    """[A4] [Y7]"""
    world, deployment = finished()
    world.ok(LEGAL, wish(world, deployment, LEGAL, "legal", expires_ms=world.now_ms + 60_000))
    world.wait(61_000, step_ms=61_000)
    world.ok(BUDGET, wish(world, deployment, BUDGET, "budget"))
    assert not released(world, deployment)


def test_a_wait_is_waited_for_and_a_veto_stops_it() -> None:
    """[G6] [G7] [Y7] The ledger judges by itself when the wait is over."""
    slow = Rule(all=(Rule(role="budget"),), wait_s=3_600, veto=("legal",))
    world, deployment = finished(mining(replace(HELD, release=slow)))
    world.ok(BUDGET, wish(world, deployment, BUDGET, "budget"))
    assert not released(world, deployment)
    world.ok(LEGAL, wish(world, deployment, LEGAL, "legal", "rejected"))
    world.wait(3_700_000, step_ms=600_000)
    assert not released(world, deployment)
    check(world.state, world.now_ms)
    world.ok(LEGAL, wish(world, deployment, LEGAL, "legal"))
    world.wait(3_700_000, step_ms=600_000)
    assert released(world, deployment)
    check(world.state, world.now_ms)


def test_what_is_not_released_in_time_never_is() -> None:
    """[Y9]"""
    world, deployment = finished()
    world.ok(LEGAL, wish(world, deployment, LEGAL, "legal"))
    check(world.state, world.now_ms)
    world.wait(RELEASE_MS_MAX, step_ms=10 * DAY_MS)
    record = world.deployment(deployment)
    assert (record.results, record.released_ms, record.release_until_ms) == (b"", 0, 0)
    assert "results.withheld" in world.kinds()
    assert world.refused(BUDGET, wish(world, deployment, BUDGET, "budget")) == "approval.closed"
    assert not lives(record)
    check(world.state, world.now_ms)


def test_a_cancelled_deployment_releases_nothing() -> None:
    """[Y9]"""
    source = contract(job(), service(), policies=HELD, budget=50_000_000)
    world, deployment = approved(source)
    work(world, deployment)
    assert (world.deployment(deployment).status, bool(world.deployment(deployment).results)) == (
        "active",
        True,
    )
    world.ok(CONSUMER, CancelDeployment(deployment, "no more"))
    assert world.deployment(deployment).results == b""
    assert world.refused(BUDGET, wish(world, deployment, BUDGET, "budget")) == "approval.closed"
    check(world.state, world.now_ms)


def test_beside_a_service_they_are_released_while_it_runs() -> None:
    """[Y9] And not while its approval to run is withdrawn."""
    world, deployment = approved(contract(job(), service(), policies=HELD, budget=50_000_000))
    work(world, deployment)
    world.ok(LEGAL, wish(world, deployment, LEGAL, "legal"))
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "revoked"))
    assert world.deployment(deployment).status == "awaiting_approval"
    assert world.refused(BUDGET, wish(world, deployment, BUDGET, "budget")) == "approval.closed"
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget"))
    world.wait(2_000)
    world.claimed(deployment, "web/0", [NODES[0]])
    world.report(deployment, "web/0", NODES[0], "fetching", "verified", "running")
    world.ok(BUDGET, wish(world, deployment, BUDGET, "budget"))
    assert released(world, deployment)
    check(world.state, world.now_ms)


def test_an_update_takes_the_digest_back_and_asks_anew() -> None:
    """[Y8] Approvals of the results of one manifest never count for those of another."""
    world, deployment, former = granted_by_legal()
    world.claimed(deployment, "web/0", [NODES[2]])
    world.report(deployment, "web/0", NODES[2], "fetching", "verified", "running")
    world.updated(deployment, both("2.0.0", recheck_s=40))
    assert world.deployment(deployment).results == former
    world.approve_update(deployment)
    assert world.update(deployment).status == "rolling"
    assert world.deployment(deployment).results == b""
    assert world.refused(BUDGET, wish(world, deployment, BUDGET, "budget")) == "approval.closed"
    check(world.state, world.now_ms)
    world.report(deployment, "web/0", NODES[2], "released")
    world.claimed(deployment, "web/0", [NODES[2]])
    world.report(deployment, "web/0", NODES[2], "fetching", "verified", "running")
    world.wait(60_000, step_ms=10_000)
    record = world.deployment(deployment)
    assert world.update(deployment).status == "done"
    assert record.results not in (b"", former)
    world.ok(BUDGET, wish(world, deployment, BUDGET, "budget"))
    assert not released(world, deployment), "the grant was for another manifest's results"
    world.ok(LEGAL, wish(world, deployment, LEGAL, "legal"))
    assert released(world, deployment)
    check(world.state, world.now_ms)


def test_an_update_that_comes_to_nothing_gives_the_digest_back_with_its_approvals() -> None:
    """[Y8]"""
    world, deployment, former = granted_by_legal()
    world.updated(deployment, both("2.0.0", recheck_s=40))
    world.approve_update(deployment)
    assert world.deployment(deployment).results == b""
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "revoked", "update"))
    assert world.update(deployment).status == "reverted"
    assert world.deployment(deployment).results == former
    world.wait(2_000)
    world.ok(BUDGET, wish(world, deployment, BUDGET, "budget"))
    assert released(world, deployment)
    check(world.state, world.now_ms)


@pytest.mark.parametrize("policies", [HELD, replace(HELD, release=None)])
@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"sealed": None}, "document.malformed"),
        ({"sealed_bytes": None}, "document.malformed"),
        ({"sealed": ""}, "document.field"),
        ({"sealed_bytes": 0}, "document.field"),
        ({"sealed_bytes": 10}, "document.field"),  # as long as what it should hide
        ({"size_bytes": -1, "sealed_bytes": 79}, "document.field"),
    ],
)
def test_a_receipt_names_the_sealed_form_of_each_result(
    policies: Policies, changes: dict[str, Any], rule: str
) -> None:
    """[Y6] Held back or not."""
    world, deployment = approved(mining(policies))
    node = world.claimed(deployment, "mine/0", [NODES[0]])
    world.report(deployment, "mine/0", node, "fetching", "verified", "running")
    good = world.receipt(deployment, "mine/0", node, "succeeded")
    document = open_document(good.envelope, "receipt")
    said = to_builtins(document.predicate)
    file = said["results"][PATH] | changes
    said["results"][PATH] = {name: value for name, value in file.items() if value is not None}
    bad = sign_payload(node, payload_of("receipt", "manifest", document.subject, said))
    assert world.refused(node, Report(bad)) == rule
    world.ok(node, good)


def test_without_a_policy_nothing_is_held_and_nobody_is_asked() -> None:
    world, deployment = approved(mining(replace(HELD, release=None)))
    node = world.claimed(deployment, "mine/0", [NODES[0]])
    world.report(deployment, "mine/0", node, "fetching", "verified", "running", "succeeded")
    assert world.deployment(deployment).results == b""
    assert world.refused(LEGAL, wish(world, deployment, LEGAL, "legal")) == "approval.not_asked"


@pytest.mark.parametrize(
    ("source", "rule", "field"),
    [
        (contract(policies=HELD), "contract.release", "approval.release"),
        (contract(job(results=()), policies=HELD), "contract.release", "approval.release"),
        (mining(replace(HELD, release=Rule(role="king"))), "policy.unknown_role", "approval.release.role"),
        (
            mining(replace(HELD, release=Rule(any=(Rule(role="legal"), Rule(auto=Auto(budget=9))), count=1))),
            "policy.rule",
            "approval.release.any[1]",
        ),
    ],
)
def test_policies_that_are_refused(source: Contract, rule: str, field: str) -> None:
    from ledger.contracts.check import check_contract

    check_contract(mining())
    with pytest.raises(Refused) as caught:
        check_contract(source)
    assert (caught.value.rule, caught.value.field) == (rule, field)


def test_who_is_excluded_releases_nothing() -> None:
    """[A2] By the author's word, not even if the author holds the role."""
    world, deployment = finished()
    assert world.refused(AUTHOR, wish(world, deployment, AUTHOR, "legal")) == "approval.not_a_stakeholder"


def test_one_job_of_two_is_not_all() -> None:
    """[Y5]"""
    world, deployment = approved(contract(job(), job(name="more"), policies=HELD, budget=50_000_000))
    work(world, deployment)
    assert world.deployment(deployment).results == b""
    work(world, deployment, "more/0", 1)
    assert len(world.deployment(deployment).results) == 32


def test_a_grant_for_what_a_job_found_is_none_for_what_it_finds_when_it_runs_again() -> None:
    """[Y7] [Y8] An update had the job run anew, and came to nothing: same manifest, another term."""
    world, deployment, former = granted_by_legal()
    changed = contract(
        job(command=("/bin/sh", "-c", "other")),
        service(replicas=1),
        policies=HELD,
        budget=50_000_000,
        version="2.0.0",
    )
    world.updated(deployment, changed)
    world.approve_update(deployment)
    assert world.slot(deployment, "mine/0").status == "open"
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "revoked", "update"))
    assert world.update(deployment).status == "reverted"
    assert world.deployment(deployment).results == b""
    work(world, deployment)
    record = world.deployment(deployment)
    assert (record.generation, record.results not in (b"", former)) == (0, True)
    world.ok(BUDGET, wish(world, deployment, BUDGET, "budget"))
    assert not released(world, deployment)
    assert world.refused(LEGAL, wish(world, deployment, LEGAL, "legal", "revoked")) == (
        "approval.nothing_to_revoke"
    )
    world.ok(LEGAL, wish(world, deployment, LEGAL, "legal"))
    assert released(world, deployment)
    check(world.state, world.now_ms)
