"""What the last receipt of a term states, however it ended ([R9]); audits hold all of them to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ledger.audit.audit import export, verify
from ledger.manifests.types import Placement, Restart
from ledger.predicates import ReceiptPredicate
from ledger.transactions import CancelDeployment
from node.executor.drivers.base import Usage
from tests.ledger.world import CONSUMER
from tests.node.executor_fixture import PROGRAM, Fleet, artifact_of, fleet, job, receipts_of, service
from tests.node.network_fixture import until

ARTIFACTS = {"/bin/program": artifact_of(PROGRAM).sha256}
ISOLATION = {"landlock": "not tried", "namespaces": "enforced"}


async def fails(net: Fleet, deployment: bytes) -> None:
    net.drivers["node1"].running[0].end(3)


async def drifts(net: Fleet, deployment: bytes) -> None:
    net.drivers["node1"].running[0].drift = "b"


async def is_cancelled(net: Fleet, deployment: bytes) -> None:
    await net.do(CONSUMER, CancelDeployment(deployment, "enough"))


async def stops(net: Fleet, deployment: bytes) -> None:
    net.scopes["node1"].cancel()


async def crashes(net: Fleet, deployment: bytes) -> None:
    await net.crash("node1")
    await net.net.start("node1")
    net.execute("node1")


def states_what_runs(told: ReceiptPredicate) -> None:
    assert (told.driver, told.level, told.isolation) == ("sandbox", "sandbox", ISOLATION)
    assert told.artifacts == ARTIFACTS


def states_it_all(told: ReceiptPredicate) -> None:
    states_what_runs(told)
    assert told.checks >= 1
    assert told.usage.cpu_ms >= 700


async def audited(net: Fleet, deployment: bytes) -> None:
    """The deployment's whole life, as anybody checks it offline."""
    height = net.first.height
    await until(lambda: net.first.height > height + 2)
    report = verify(export(net.first.store, deployment), net.net.genesis)
    assert report.ok, (report.rule, report.detail)


@pytest.mark.parametrize(
    ("end", "status", "exit_code"),
    [
        (fails, "failed", 3),
        (drifts, "quarantined", None),
        (is_cancelled, "released", None),
        (stops, "released", None),
        (crashes, "released", None),
    ],
)
async def test_a_term_that_ends_early_states_it_all(
    tmp_path: Path, end: Callable[[Fleet, bytes], Awaitable[None]], status: str, exit_code: int | None
) -> None:
    async with fleet(tmp_path, "node1") as net:
        deployment = await net.approved(service(replicas=1, restart=Restart(attempts=0)))
        await until(lambda: bool(net.drivers["node1"].running))
        net.drivers["node1"].running[0].used = Usage(700, 5 << 20)
        await net.until_statuses(deployment, "running")

        def of_first_term() -> list[ReceiptPredicate]:
            return [told for told in receipts_of(net, deployment, "web/0") if told.term == 1]

        await until(lambda: of_first_term()[-1].checks >= 1)
        await end(net, deployment)
        await until(lambda: of_first_term()[-1].status == status)
        *before, last = of_first_term()
        if end is crashes:  # as far as its own chain had told when it looked
            states_what_runs(last)
            assert (last.checks, last.usage) in [(told.checks, told.usage) for told in before]
        else:
            states_it_all(last)
        assert last.exit_code == exit_code
        await audited(net, deployment)


async def test_a_replica_that_must_agree_states_it_all_twice(tmp_path: Path) -> None:
    """When it commits, and when it tells."""
    async with fleet(tmp_path, "node1", "node2") as net:
        deployment = await net.approved(job(replicas=2, agree=2, placement=Placement()))
        await until(lambda: all(net.drivers[name].running for name in ("node1", "node2")))
        for name in ("node1", "node2"):
            (task,) = net.drivers[name].running
            task.used = Usage(700, 5 << 20)
            task.results["/result/words.tsv"] = b"42"
            task.end(0)
        await until(lambda: net.deployment(deployment).status == "completed")
        for slot in ("mine/0", "mine/1"):
            committed, told = receipts_of(net, deployment, slot)[-2:]
            assert (committed.status, told.status) == ("committed", "succeeded")
            assert (committed.exit_code, told.exit_code) == (0, 0)
            states_it_all(committed)
            states_it_all(told)
        await audited(net, deployment)


async def test_what_was_never_verified_is_not_called_so(tmp_path: Path) -> None:
    """It stops while it waits for its files: told with what there is, and nothing more."""
    async with fleet(tmp_path, "node1") as net:
        nowhere = artifact_of(b"held by nobody" * 1000)
        deployment = await net.approved(service(replicas=1, artifacts=(nowhere,)))
        await until(lambda: net.slot(deployment, "web/0").status == "fetching")
        await net.do(CONSUMER, CancelDeployment(deployment, "enough"))
        await until(lambda: receipts_of(net, deployment, "web/0")[-1].status == "released")
        last = receipts_of(net, deployment, "web/0")[-1]
        assert (last.artifacts, last.checks, last.driver) == ({}, 0, "sandbox")
        await audited(net, deployment)
