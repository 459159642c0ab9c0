"""Health checks that are commands, as the executor uses them: by the contract alone, and what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.manifests.types import Health, Restart
from tests.node.executor_fixture import fleet, receipts_of, service
from tests.node.network_fixture import until

CHECK = Health(command=("/bin/program", "ok"), interval_s=1, timeout_s=1, failures=2)


async def test_a_service_runs_when_its_check_ends_with_0_and_is_restarted_when_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[E8]"""
    async with fleet(tmp_path, "node1", executors=False) as net:
        net.execute("node1", enforces=("health-exec",))
        driver = net.drivers["node1"]
        driver.checks = 1
        deployment = await net.approved(service(replicas=1, health=CHECK, restart=Restart(attempts=1)))
        await until(lambda: "check /bin/program ok" in driver.calls)
        assert net.statuses(deployment) == ["verified"] or net.statuses(deployment) == ["fetching"]
        driver.checks = 0
        await net.until_statuses(deployment, "running")
        assert len(driver.tasks) == 1
        monkeypatch.setattr("node.executor.watch.FIRST_HEALTHY_S", 3.0)  # of the second run
        driver.checks = None
        await until(lambda: len(driver.tasks) == 2)
        driver.checks = 7
        await until(lambda: any(r.status == "failed" for r in receipts_of(net, deployment, "web/0")))
        told = next(r for r in receipts_of(net, deployment, "web/0") if r.status == "failed")
        assert "its check ended with 7" in told.detail
        assert {call for call in driver.calls if call.startswith("check")} == {"check /bin/program ok"}


async def test_a_node_that_runs_no_commands_inside_does_not_claim(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1", executors=False) as net:
        net.execute("node1")
        deployment = await net.approved(service(replicas=1, health=CHECK))
        slot = f"{deployment.hex()}/web/0"
        refused = net.executors["node1"].status
        await until(lambda: refused().refused.get(slot, "").startswith("claim.feature"))
