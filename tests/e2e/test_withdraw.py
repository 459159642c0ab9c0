"""What runs stops when its approval is withdrawn, or when its bytes are not those that were verified."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.e2e.net import Net, page, until
from tests.e2e.workloads import alive, tamper, workloads

STOPPED_S = 60.0  # from the command to the last process: one block, then the driver's grace


@pytest.fixture
def site(sandbox: None, net: Net, published: str) -> Iterator[str]:
    """A site of its own that runs; cancelled at the end."""
    deployment = net.deploy("e2e-site")
    net.approve(deployment)
    net.until_running(deployment)
    yield deployment
    net.data("deployment", "cancel", deployment, "--yes")


def node_of(net: Net, node_key: str) -> dict[str, object]:
    """A node as the market shows it."""
    return next(
        {"held": node.slots_held, "cpu": node.used_cpu_millis}
        for node in net.api().nodes()
        if node.key == node_key
    )


def test_a_withdrawn_approval_stops_the_work_and_a_new_one_starts_it_again(net: Net, site: str) -> None:
    slot = net.slot(site)
    name, before = net.name_of(slot["holder"]), node_of(net, slot["holder"])
    pids = workloads(net, name, site)
    assert len(alive(pids)) >= 2
    net.decide("revoke", site, "budget")
    until("no process is left", lambda: not alive(pids), STOPPED_S)
    open_slot = until("the slot is released", lambda: free_slot(net, site), STOPPED_S)
    assert open_slot["term"] == slot["term"]
    assert net.show(site)["status"] != "active"
    until("the capacity is given back", lambda: node_of(net, slot["holder"]) != before)
    after = node_of(net, slot["holder"])
    assert after == {"held": before["held"] - 1, "cpu": before["cpu"] - 100}  # type: ignore[operator]
    with pytest.raises(OSError):
        page(slot["endpoints"]["http"])

    net.decide("approve", site, "budget")
    again = net.until_running(site, term=slot["term"])
    assert "Gridpact end to end" in page(again["endpoints"]["http"])
    assert not alive(pids)


def free_slot(net: Net, deployment: str) -> dict[str, object] | None:
    slot = net.slot(deployment)
    return slot if not slot["holder"] else None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change bytes under a running workload")
def test_bytes_changed_under_a_running_workload_are_quarantined(net: Net, site: str) -> None:
    slot = net.slot(site)
    name, pids = net.name_of(slot["holder"]), workloads(net, net.name_of(slot["holder"]), site)
    tamper(pids, "/www/index.html", "<title>hijacked</title>")
    receipt = until("a quarantined receipt", lambda: quarantined(net, site), STOPPED_S)
    assert receipt["receipt"]["term"] == slot["term"] and receipt["node"] == slot["holder"]
    detail = receipt["receipt"]["detail"]
    assert detail.startswith("bytes drifted: ") and "/www/index.html" in detail
    until("no process is left", lambda: not alive(pids), STOPPED_S)
    assert net.figure(name, "executor_ended_total", "quarantined") >= 1
    again = net.until_running(site, term=slot["term"])
    assert "Gridpact end to end" in page(again["endpoints"]["http"])


def quarantined(net: Net, deployment: str) -> dict[str, dict[str, object]] | None:
    return next((r for r in net.show(deployment)["receipts"] if r["status"] == "quarantined"), None)
