"""Leases in whole networks, on a fast clock: what a lost node held runs elsewhere, and never twice, but for
services that are to run on without the notary."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from ledger.contracts.types import WorkloadTemplate
from ledger.limits import KILL_MS, LEASE_GUARD_MS, LEASE_MS
from ledger.manifests.types import Placement
from tests.node.executor_fixture import Fleet, fleet, service
from tests.node.network_fixture import paced, until

GENESIS_MS = 1_700_000_000_000
RATE = 20.0  # seconds of the network in a second of ours, at the most
SLOW = {"timeout_ms": 4_000, "idle_ms": 1_000}


@pytest.fixture
def fast(mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch) -> trio.testing.MockClock:
    """One clock for engines, blocks, leases and sleeps; `paced`, it is faster than ours."""

    def now() -> int:
        return int(trio.current_time() * 1000)

    for module in ("node.voting.engine", "node.peer"):
        monkeypatch.setattr(f"{module}.now_ms", now)
        monkeypatch.setattr(f"{module}.wall_ms", lambda: GENESIS_MS + now())
    return mock_clock


async def two_running(net: Fleet, work: WorkloadTemplate | None = None) -> tuple[bytes, str, str, str]:
    """Two replicas; the deployment, the slot on farm b, who holds it, and the spare node of that farm."""
    deployment = await net.approved(work or service(recheck_s=5))
    await net.until_statuses(deployment, "running", "running", timeout_s=300)
    slot = next(s for s in net.slots(deployment) if net.name_of(s.holder) != "node1")
    holder = net.name_of(slot.holder)
    return deployment, slot.name, holder, "node2" if holder == "node3" else "node3"


async def test_what_a_killed_node_held_is_claimed_again_with_a_higher_term(
    tmp_path: Path, fast: trio.testing.MockClock
) -> None:
    names = ("node1", "node2", "node3")
    async with paced(fast, RATE), fleet(tmp_path, *names, **SLOW) as net:
        deployment, slot, holder, spare = await two_running(net)
        await net.crash(holder)
        crashed_s = trio.current_time()
        await until(lambda: net.slot(deployment, slot).term == 2, 300)
        waited_ms = (trio.current_time() - crashed_s) * 1000
        assert waited_ms >= LEASE_MS + LEASE_GUARD_MS - LEASE_MS // 3 - 3_000  # from the last renewal on
        await net.until_statuses(deployment, "running", "running", timeout_s=300)
        assert net.name_of(net.slot(deployment, slot).holder) == spare
        assert len(net.drivers[spare].running) == 1
        assert len(net.drivers["node1"].tasks) == 1  # the other replica went on undisturbed


async def test_a_node_that_is_cut_off_stops_before_its_slot_runs_elsewhere(
    tmp_path: Path, fast: trio.testing.MockClock
) -> None:
    names = ("node1", "node2", "node3")
    async with paced(fast, RATE), fleet(tmp_path, *names, **SLOW) as net:
        deployment, slot, holder, spare = await two_running(net)
        old = net.drivers[holder].running[0]
        await until(lambda: trio.current_time() > old.started_s + 1.5 * LEASE_MS / 1000, 300)
        assert old.stopped_s is None  # renewed: it outlives its first lease
        assert net.slot(deployment, slot).term == 1
        net.net.hub.partition([net.net.peers[holder].network.peer_id])
        cut_s = trio.current_time()
        await until(lambda: bool(net.drivers[spare].running), 300)
        new = net.drivers[spare].running[0]
        assert old.stopped_s is not None
        assert cut_s < old.stopped_s <= cut_s + (LEASE_MS + KILL_MS) / 1000
        assert old.stopped_s < new.started_s
        net.net.hub.heal()
        await net.until_statuses(deployment, "running", "running", timeout_s=300)
        assert net.slot(deployment, slot).term == 2
        await until(lambda: not net.executors[holder].status().slots, 300)
        assert len(net.drivers[holder].tasks) == 1


async def test_a_node_keeps_more_slots_than_one_renewal_carries(
    tmp_path: Path, fast: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("ledger.transition.leases", "node.executor.renewals"):
        monkeypatch.setattr(f"{module}.RENEW_SLOTS_MAX", 2)
    work = service(replicas=5, recheck_s=5, placement=Placement(distinct="none"))
    async with paced(fast, RATE), fleet(tmp_path, "node1", **SLOW) as net:
        deployment = await net.approved(work)
        await net.until_statuses(deployment, *["running"] * 5, timeout_s=300)
        begun_s = trio.current_time()
        await until(lambda: trio.current_time() > begun_s + 2.5 * LEASE_MS / 1000, 300)
        assert [(slot.status, slot.term) for slot in net.slots(deployment)] == [("running", 1)] * 5
        assert len(net.drivers["node1"].tasks) == 5
        rows = net.executors["node1"].metrics()
        ended = {labels["result"] for name, labels, _, _ in rows if name == "executor_renewals_total"}
        assert ended == {"final"}


async def test_a_service_that_is_available_runs_on_where_it_is_cut_off_until_it_hears(
    tmp_path: Path, fast: trio.testing.MockClock
) -> None:
    """[8] Also when it ends meanwhile, it is started again. The other side has given its slot to another."""
    work = service(recheck_s=5, available_s=600)
    async with paced(fast, RATE), fleet(tmp_path, "node1", "node2", "node3", **SLOW) as net:
        deployment, slot, holder, spare = await two_running(net, work)
        driver = net.drivers[holder]
        net.net.hub.partition([net.net.peers[holder].network.peer_id])
        cut_s = trio.current_time()
        await until(lambda: bool(net.drivers[spare].running), 300)
        await until(lambda: trio.current_time() > cut_s + (2 * LEASE_MS + KILL_MS) / 1000, 300)
        (old,) = driver.running
        old.end(1)
        await until(lambda: len(driver.tasks) == 2 and bool(driver.running), 300)
        net.net.hub.heal()
        await until(lambda: not driver.running, 300)
        assert driver.tasks[1].stopped_s is not None
        await net.until_statuses(deployment, "running", "running", timeout_s=300)
        assert net.slot(deployment, slot).term == 2
        assert len(net.drivers[spare].running) == 1


async def test_what_is_available_stops_when_its_time_is_over(
    tmp_path: Path, fast: trio.testing.MockClock
) -> None:
    work = service(recheck_s=5, available_s=40)
    async with paced(fast, RATE), fleet(tmp_path, "node1", "node2", "node3", **SLOW) as net:
        _, _, holder, _ = await two_running(net, work)
        (old,) = net.drivers[holder].running
        net.net.hub.partition([net.net.peers[holder].network.peer_id])
        cut_s = trio.current_time()
        await until(lambda: old.stopped_s is not None, 300)
        assert old.stopped_s is not None
        assert cut_s + 40 + LEASE_MS * 2 / 3_000 - 1 < old.stopped_s
        assert old.stopped_s <= cut_s + 40 + (LEASE_MS + KILL_MS) / 1000


async def test_without_a_quorum_of_the_notary_what_is_available_is_not_even_moved(
    tmp_path: Path, fast: trio.testing.MockClock
) -> None:
    """[8] [L4] All else stops. What was sent meanwhile does not pile up."""
    strict = service(name="strict", replicas=1, recheck_s=5)
    work = service(replicas=1, recheck_s=5, available_s=600)
    async with paced(fast, RATE), fleet(tmp_path, "node1", **SLOW) as net:
        deployment = await net.approved(work, strict)
        await net.until_statuses(deployment, "running", "running", timeout_s=300)
        tasks = {task.task_id.split(".")[1]: task for task in net.drivers["node1"].running}
        peer = net.net.peers["node1"]
        lone = [net.net.peers[name].network.peer_id for name in ("validator2", "validator3")]
        net.net.hub.partition(lone)
        cut_s, height = trio.current_time(), net.first.height
        await until(lambda: trio.current_time() > cut_s + (3 * LEASE_MS + LEASE_GUARD_MS) / 1000, 300)
        assert net.first.height <= height + 2
        assert tasks["strict"].stopped_s is not None and tasks["web"].stopped_s is None
        assert len(peer.outbox.entries) < 12
        net.net.hub.heal()
        healed_ms = GENESIS_MS + int(trio.current_time() * 1000)
        await until(lambda: net.slot(deployment, "web/0").renewed_ms > healed_ms, 300)
        assert (net.slot(deployment, "web/0").term, tasks["web"].stopped_s) == (1, None)
        await until(lambda: net.slot(deployment, "strict/0").term == 2, 300)
