"""Hostile machines in site b: honest peers go on. Plaintext with a stolen id, wrong keys behind an address
and too long frames are told apart in tests/p2p/test_host.py; here is what takes many machines."""

from __future__ import annotations

import signal
import statistics
import time
from typing import Any

import pytest

from tests.e2e.net import until
from tests.netns.conftest import IN_LONG
from tests.netns.grid import PORT, Grid
from tests.netns.hostile import Stranger, connections, strangers
from tests.netns.lab import Machine


@pytest.fixture(scope="session")
def attacker(grid: Grid) -> Machine:
    """A machine in a /24 of its own."""
    return grid.lab.machine("attacker", "b", "66.1")


def finality(grid: Grid, at: str, count: int) -> dict[str, int]:
    """How long transfers take now."""
    spent = sorted(grid.transfer(at) for _ in range(count))
    return {"p50_ms": round(statistics.median(spent) * 1e3), "max_ms": round(spent[-1] * 1e3)}


def test_500_connections_that_say_nothing_or_nonsense(
    grid: Grid, attacker: Machine, figures: dict[str, Any]
) -> None:
    """They are held at v1; it goes on, its links stay, and a peer that it knows comes back meanwhile."""
    before = {name for name in grid.neighbours("v1") if name.startswith("v")}
    failed = grid.events("v1", "fault.connection.handshake")
    found: dict[str, Any] = {"before": finality(grid, "v1", 5)}
    with connections(attacker, grid.members["v1"].machine.address, PORT, 500) as held:
        until("the attack stands", lambda: held["opened"] >= 500)
        found["meanwhile"] = finality(grid, "v1", 10)
        found["far"] = finality(grid, "v4", 3)
        grid.stop("obs1")
        begun = time.monotonic()
        grid.start("obs1")
        found["obs1_back_s"] = round(time.monotonic() - begun, 1)
        late = grid.lab.machine("late", "a", "0.80")
        home = str(grid.folder / "late")
        done = grid.command(late, "init", "--home", home, "--join", grid.members["v1"].address)
        assert done.returncode == 0  # v1 itself answers a newcomer
    assert before <= set(grid.neighbours("v1"))
    refused = grid.events("v1", "fault.connection.handshake") - failed
    refused += grid.events("v1", "shed.handshakes")
    assert refused > 0
    figures["connections_500"] = found | held | {"refused": int(refused)}


def test_a_flood_of_nonsense_gets_its_sender_banned(
    grid: Grid, attacker: Machine, figures: dict[str, Any]
) -> None:
    assert grid.genesis is not None
    stranger = Stranger(grid.genesis, (grid.members["v1"].address,))
    begun = time.monotonic()
    with strangers(attacker, stranger, flood=lambda one: one.send_for_ever(b"nonsense")):
        until(
            "it is banned",
            lambda: any(ban.peer_id == stranger.host.peer_id for ban in grid.peers("v1").banned),
        )
        spent = finality(grid, "v1", 5)
    figures["nonsense"] = {"banned_after_s": round(time.monotonic() - begun, 1), "meanwhile": spent}
    said = next(ban for ban in grid.peers("v1").banned if ban.peer_id == stranger.host.peer_id)
    assert said.rule.startswith("bulk.")
    assert grid.command("v1", "peers", "unban", stranger.host.peer_id).returncode == 0
    assert all(ban.peer_id != stranger.host.peer_id for ban in grid.peers("v1").banned)


def test_a_flood_of_valid_requests_is_served_within_bounds(
    grid: Grid, attacker: Machine, figures: dict[str, Any]
) -> None:
    assert grid.genesis is not None
    crowd = [Stranger(grid.genesis, (grid.members["v2"].address,)) for _ in range(3)]
    served = grid.events("v2", "request.served")
    with strangers(attacker, *crowd, flood=lambda one: one.ask_for_ever("p2p/addresses", b"")):
        until("they ask", lambda: grid.events("v2", "request.served") > served + 200)
        spent = finality(grid, "v1", 8)
    figures["valid_flood"] = {
        "meanwhile": spent,
        "served": int(grid.events("v2", "request.served") - served),
    }
    assert {"v1", "v3", "v4"} <= set(grid.neighbours("v2"))


def test_one_network_cannot_eclipse_a_peer(grid: Grid, attacker: Machine, figures: dict[str, Any]) -> None:
    """Sixteen strangers of one /24 crowd a starting observer, and tell of each other only."""
    assert grid.genesis is not None
    victim = grid.members["obs2"]
    grid.stop("obs2")
    crowd = [Stranger(grid.genesis, (victim.address,)) for _ in range(16)]
    with strangers(attacker, *crowd):
        grid.start("obs2", ready=False)
        until("the crowd is there", lambda: sum(one.ups for one in crowd) >= 6)
        grid.until_ready("obs2")
        ids = {one.host.peer_id for one in crowd}
        links = grid.peers("obs2").neighbours
        honest = [link for link in links if link.peer_id not in ids]
        assert honest
        height = grid.status("v1").height
        grid.transfer("v1")
        until("obs2 follows", lambda: grid.status("obs2").height > height)
    figures["eclipse"] = {"links": len(links), "of them honest": len(honest), "strangers": len(crowd)}


def test_a_half_open_link_is_noticed_and_mended(grid: Grid, figures: dict[str, Any]) -> None:
    """What v3 sends is silently lost; what it is sent arrives. The others drop it, and take it back."""
    machine = grid.members["v3"].machine
    begun = time.monotonic()
    machine.wall("out oifname eth0")
    try:
        until("v1 drops v3", lambda: "v3" not in grid.neighbours("v1"))
        noticed_s = time.monotonic() - begun
        spent = finality(grid, "v1", 3)
    finally:
        machine.wall()
    begun = time.monotonic()
    until("v3 is back", lambda: "v3" in grid.neighbours("v1"))
    figures["half_open"] = {
        "noticed_s": round(noticed_s, 1),
        "back_s": round(time.monotonic() - begun, 1),
        "meanwhile": spent,
    }
    grid.until_equal("v1", "v3")


@pytest.mark.parametrize("name", ["v2", pytest.param("node1", marks=IN_LONG)])
def test_a_peer_that_is_frozen_and_wakes(
    grid: Grid, figures: dict[str, Any], is_long: bool, name: str
) -> None:
    """SIGSTOP: a reader that reads nothing. It is dropped; nobody waits for it; it wakes and catches up."""
    grid.signal(name, signal.SIGSTOP)
    begun = time.monotonic()
    try:
        until("v1 drops it", lambda: name not in grid.neighbours("v1"))
        spent = finality(grid, "v1", 5)
        if is_long:
            until("a minute has passed", lambda: time.monotonic() > begun + 60, 90)
        height = grid.status("v1").height
    finally:
        frozen_s = time.monotonic() - begun
        grid.signal(name, signal.SIGCONT)
    begun = time.monotonic()
    until("it has caught up", lambda: grid.status(name).height >= height)
    figures[f"frozen_{name}"] = {
        "frozen_s": round(frozen_s, 1),
        "caught_up_s": round(time.monotonic() - begun, 1),
        "meanwhile": spent,
    }
