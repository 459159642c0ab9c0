"""What an audit finds about results that were held back: the release as it was signed, and lies about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from ledger.audit.audit import export, verify
from ledger.codec import decode, encode
from ledger.records import Deployment, Slot, key_deployment, key_slot
from tests.ledger.chain_fixture import ChainWorld
from tests.ledger.test_release import both, mining, work
from tests.ledger.world import BUDGET, LEGAL, NODES

Step = Callable[[ChainWorld, bytes], Any]


def life(*steps: Step) -> tuple[ChainWorld, bytes]:
    world = ChainWorld()
    world.add_nodes(NODES)
    deployment = world.ordered(mining())
    world.approve(deployment)
    work(world, deployment)
    for step in steps:
        step(world, deployment)
    for _ in range(3):
        world.chain.grow({})
    return world, deployment


def says(key: Any, role: str, decision: str = "granted") -> Step:
    return lambda w, d: w.ok(key, w.decide(d, key, role, decision, "release"))


BOTH = (says(LEGAL, "legal"), says(BUDGET, "budget"))


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ((), "held back"),
        ((says(LEGAL, "legal"),), "held back"),
        ((says(LEGAL, "legal", "rejected"), says(BUDGET, "budget")), "held back"),
        (BOTH, "released"),
        ((says(LEGAL, "legal"), says(LEGAL, "legal", "revoked"), *BOTH), "released"),
    ],
)
def test_each_stage_verifies(steps: tuple[Step, ...], words: str) -> None:
    """[Y7]"""
    world, deployment = life(*steps)
    report = verify(export(world.store, deployment), world.genesis)
    assert report.ok, report.detail
    assert (report.checks[-1].name, report.checks[-1].detail) == ("release", words)
    record = world.deployment(deployment)
    assert (report.facts.results, report.facts.released_ms) == (record.results.hex(), record.released_ms)
    asked = [row for row in report.facts.timeline if row.what.startswith("release ")]
    assert len(asked) == len(steps)


@pytest.mark.parametrize(
    ("steps", "changes", "rule"),
    [
        ((), {"released_ms": 7}, "audit.release_time"),
        (BOTH[:1], {"released_ms": 1_800_000_000_000}, "audit.release_time"),
        (BOTH, {"released_ms": 0}, "audit.release_time"),
        (BOTH, {"released_ms": 7}, "audit.release_time"),
        ((), {"results": bytes(32)}, "audit.results"),
        ((), {"results": b""}, "audit.results"),
        (BOTH, {"results": bytes(32)}, "audit.foreign"),
    ],
)
def test_a_certified_lie_about_the_release_is_found(
    steps: tuple[Step, ...], changes: dict[str, Any], rule: str
) -> None:
    """[Y5] [Y7]"""
    world, deployment = life(*steps)
    record = decode(Deployment, world.state.get(key_deployment(deployment)) or b"")
    world.chain.grow({key_deployment(deployment): encode(replace(record, **changes))})
    for _ in range(3):
        world.chain.grow({})
    assert verify(export(world.store, deployment), world.genesis).rule == rule


def test_results_that_were_exchanged_after_the_release_are_found() -> None:
    """[Y5]"""
    world, deployment = life(*BOTH)
    slot = decode(Slot, world.state.get(key_slot(deployment, "mine/0")) or b"")
    world.chain.grow({key_slot(deployment, "mine/0"): encode(replace(slot, term=2))})
    for _ in range(3):
        world.chain.grow({})
    assert not verify(export(world.store, deployment), world.genesis).ok


# Results of several manifests.


def beside_a_service(*steps: Step) -> tuple[ChainWorld, bytes]:
    """The job is done, and the service keeps its deployment going."""
    world = ChainWorld()
    world.add_nodes(NODES)
    deployment = world.ordered(both())
    world.approve(deployment)
    work(world, deployment)
    serve(world, deployment)
    for step in steps:
        step(world, deployment)
    return world, deployment


def serve(world: ChainWorld, deployment: bytes) -> None:
    world.claimed(deployment, "web/0", [NODES[2]])
    world.report(deployment, "web/0", NODES[2], "fetching", "verified", "running")


def begin(world: ChainWorld, deployment: bytes) -> None:
    """An update of the service rolls: the results are taken back (Y8)."""
    world.updated(deployment, both("2.0.0", recheck_s=40))
    world.approve_update(deployment)
    assert world.deployment(deployment).results == b""


def go_on(world: ChainWorld, deployment: bytes) -> None:
    """It is done."""
    world.report(deployment, "web/0", NODES[2], "released")
    serve(world, deployment)
    world.wait(60_000, step_ms=10_000)
    assert world.update(deployment).status == "done"


def give_up(world: ChainWorld, deployment: bytes) -> None:
    """It comes to nothing."""
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "revoked", "update"))
    assert world.update(deployment).status == "reverted"
    world.wait(3_000)


def do_again(world: ChainWorld, deployment: bytes) -> None:
    """An update of the job comes to nothing, and it is done anew by the former manifest."""
    other = both("2.0.0")
    again = replace(other.workloads[0], command=("/bin/sh", "-c", "another"))
    world.updated(deployment, replace(other, workloads=(again, *other.workloads[1:])))
    world.approve_update(deployment)
    give_up(world, deployment)
    work(world, deployment)
    world.wait(70_000, step_ms=10_000)


LEGAL_ALONE = BOTH[:1]
LIVES: dict[str, tuple[tuple[Step, ...], str]] = {
    "released, then updated": ((*BOTH, begin, go_on), "held back"),
    "released, updated, released anew": ((*BOTH, begin, go_on, *BOTH), "released"),
    "granted, updated, released": ((*LEGAL_ALONE, begin, go_on, *BOTH), "released"),
    "released while an update waits": ((*LEGAL_ALONE, begin, give_up, *BOTH[1:]), "released"),
    "released, and again after an update in vain": ((*BOTH, begin, give_up), "released"),
    "released, and an update rolls": ((*BOTH, begin), "held back"),
    "released, and done again": ((*BOTH, do_again), "held back"),
    "released, done again, released anew": ((*BOTH, do_again, *BOTH), "released"),
    "withdrawn after an update in vain": (
        (*LEGAL_ALONE, begin, give_up, says(LEGAL, "legal", "revoked"), *BOTH[1:]),
        "held back",
    ),
}


@pytest.mark.parametrize("name", LIVES)
def test_a_release_is_judged_by_the_results_of_its_time(name: str) -> None:
    """[Y7] [Y8]"""
    steps, words = LIVES[name]
    world, deployment = beside_a_service(*steps)
    for _ in range(3):
        world.chain.grow({})
    report = verify(export(world.store, deployment), world.genesis)
    assert report.ok, (report.rule, report.detail)
    assert report.checks[-1].detail == words
    assert bool(world.deployment(deployment).released_ms) == (words == "released")


@pytest.mark.parametrize("name", ["released, then updated", "withdrawn after an update in vain"])
def test_no_release_of_an_earlier_manifests_results_counts(name: str) -> None:
    """[Y7] [Y8] A ledger that says so."""
    world, deployment = beside_a_service(*LIVES[name][0])
    record = world.deployment(deployment)
    world.chain.grow({key_deployment(deployment): encode(replace(record, released_ms=world.now_ms))})
    for _ in range(3):
        world.chain.grow({})
    assert verify(export(world.store, deployment), world.genesis).rule == "audit.release_time"
