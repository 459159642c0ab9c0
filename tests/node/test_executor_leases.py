"""Leases in whole networks, on a fast clock: what a lost node held runs elsewhere, and never twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from ledger.limits import KILL_MS, LEASE_GUARD_MS, LEASE_MS
from tests.node.executor_fixture import Fleet, fleet, service
from tests.node.network_fixture import paced, until

GENESIS_MS = 1_700_000_000_000
RATE = 20.0  # seconds of the network in a second of ours, at the most


@pytest.fixture
def fast(mock_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch) -> trio.testing.MockClock:
    """One clock for engines, blocks, leases and sleeps; `paced`, it is faster than ours."""

    def now() -> int:
        return int(trio.current_time() * 1000)

    for module in ("node.engine", "node.peer"):
        monkeypatch.setattr(f"{module}.now_ms", now)
        monkeypatch.setattr(f"{module}.wall_ms", lambda: GENESIS_MS + now())
    return mock_clock


async def two_running(net: Fleet) -> tuple[bytes, str, str, str]:
    """Two replicas; the deployment, the slot on farm b, who holds it, and the spare node of that farm."""
    deployment = await net.approved(service(recheck_s=5))
    await net.until_statuses(deployment, "running", "running", timeout_s=300)
    slot = next(s for s in net.slots(deployment) if net.name_of(s.holder) != "node1")
    holder = net.name_of(slot.holder)
    return deployment, slot.name, holder, "node2" if holder == "node3" else "node3"


async def test_what_a_killed_node_held_is_claimed_again_with_a_higher_term(
    tmp_path: Path, fast: trio.testing.MockClock
) -> None:
    names, slow = ("node1", "node2", "node3"), {"timeout_ms": 4_000, "idle_ms": 1_000}
    async with paced(fast, RATE), fleet(tmp_path, *names, **slow) as net:
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
    names, slow = ("node1", "node2", "node3"), {"timeout_ms": 4_000, "idle_ms": 1_000}
    async with paced(fast, RATE), fleet(tmp_path, *names, **slow) as net:
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
