"""Floods of good form from hostile machines: gossip of all kinds, votes and batches. Honest peers go on, and
none of them is banned for what it passed on. And a peer that comes back while its old
connection still stands."""

from __future__ import annotations

import signal
import statistics
import time
from typing import Any

import pytest

from node.client.sdk import Client
from p2p.network import Lane
from tests.e2e.net import until
from tests.netns.conftest import IN_LONG
from tests.netns.grid import Grid
from tests.netns.hostile import Stranger, strangers
from tests.netns.lab import Machine

HONEST = ("v1", "v2", "v3", "v4", "node1", "node2", "node3", "obs1", "obs2", "obs3", "obs4")
GOSSIP = ("contracts", "approvals", "transactions")


@pytest.fixture(scope="session")
def flooder(grid: Grid) -> Machine:
    """A machine in a /24 of its own."""
    return grid.lab.machine("flooder", "c", "77.1")


def finality(grid: Grid, count: int) -> dict[str, int]:
    """How long transfers take now, at validators near to and far from the flood."""
    spent = sorted(grid.transfer(at) for at in ("v1", "v4") for _ in range(count))
    return {"p50_ms": round(statistics.median(spent) * 1e3), "max_ms": round(spent[-1] * 1e3)}


def nobody_honest_is_banned(grid: Grid) -> None:
    ids = {member.peer_id: name for name, member in grid.members.items()}
    for name in HONEST:
        banned = {ids[ban.peer_id]: ban.rule for ban in grid.peers(name).banned if ban.peer_id in ids}
        assert not banned, f"{name} has banned {banned}"


@pytest.mark.parametrize(
    "kinds",
    [GOSSIP, *(pytest.param((kind,), marks=IN_LONG) for kind in GOSSIP)],
    ids=lambda kinds: "+".join(kinds),
)
def test_a_flood_of_valid_gossip(
    grid: Grid, flooder: Machine, figures: dict[str, Any], is_long: bool, kinds: tuple[str, ...]
) -> None:
    """By observers alone: what reaches validators is passed on by honest peers."""
    assert grid.genesis is not None
    crowd = [
        Stranger(grid.genesis, (grid.members[name].address,))
        for name in ("obs3", "obs4", "obs2")
        for _ in kinds
    ]
    height = grid.status("v1").height
    plan = dict(zip(map(id, crowd), kinds * 3, strict=True))
    found: dict[str, Any] = {"before": finality(grid, 2)}
    begun = time.monotonic()
    with strangers(flooder, *crowd, flood=lambda one: one.gossip_for_ever(plan[id(one)], height)):
        until("the flood runs", lambda: sum(one.said for one in crowd) > 300)
        found["meanwhile"] = finality(grid, 6 if is_long else 3)
        if is_long:
            until("a flood has lasted", lambda: time.monotonic() > begun + 60, 90)
            found["later"] = finality(grid, 6)
        nobody_honest_is_banned(grid)
        for name in ("v1", "v2", "v3", "v4"):
            assert {"v1", "v2", "v3", "v4"} - {name} <= set(grid.neighbours(name))
    found["said"] = sum(one.said for one in crowd)
    found["banned"] = sum(ban.rule == "flood.gossip" for name in HONEST for ban in grid.peers(name).banned)
    figures[f"gossip_{'+'.join(kinds)}"] = found
    height = grid.status("v1").height
    until("all follow", lambda: all(grid.status(name).height >= height for name in HONEST))


@pytest.mark.parametrize("what", ["votes", "batches"])
def test_a_flood_of_what_only_validators_say(
    grid: Grid, flooder: Machine, figures: dict[str, Any], what: str
) -> None:
    """Good in form, by nobody with a seat: its sender is banned at once."""
    assert grid.genesis is not None
    one = Stranger(grid.genesis, (grid.members["v4"].address,))
    status = grid.status("v4")
    payload, lane = (
        (one.vote(status.view), Lane.CONSENSUS) if what == "votes" else (one.batch(status.height), Lane.BULK)
    )
    begun = time.monotonic()
    with strangers(flooder, one, flood=lambda peer: peer.send_for_ever(payload, lane)):
        until("it is banned", lambda: any(b.peer_id == one.host.peer_id for b in grid.peers("v4").banned))
        spent = time.monotonic() - begun
        found = finality(grid, 2)
    said = next(ban for ban in grid.peers("v4").banned if ban.peer_id == one.host.peer_id)
    assert said.rule == ("consensus.not_a_validator" if what == "votes" else "bulk.not_a_validator")
    nobody_honest_is_banned(grid)
    figures[f"flood_{what}"] = {"banned_after_s": round(spent, 1), "meanwhile": found}


def test_who_comes_back_while_its_old_connection_lingers(grid: Grid, figures: dict[str, Any]) -> None:
    """obs3 is killed behind a wall, so nobody hears of its end, and starts anew at once: the new link takes
    the old one's place, and gossip and requests go over it."""
    machine, peer_id = grid.members["obs3"].machine, grid.members["obs3"].peer_id
    until("v1 has it", lambda: "obs3" in grid.neighbours("v1"))
    before = grid.neighbours("v1")["obs3"].since_ms
    machine.wall("out oifname eth0")
    try:
        grid.signal("obs3", signal.SIGKILL)
        grid.stop("obs3", kill=True)
    finally:
        machine.wall("out tcp flags rst")  # the old ends stay in doubt
    begun = time.monotonic()
    try:
        grid.start("obs3")
        back_s = time.monotonic() - begun
    finally:
        machine.wall()
    until("v1 has the new one", lambda: _since(grid, "obs3") > before)
    spent = grid.transfer("obs3")
    client_says = grid.ask("obs3", lambda client: _is_ready(client))
    assert client_says
    # On a busy machine the new link may be in the middle of being made once more.
    until("v1 has it once", lambda: _links(grid, "v1", peer_id) == 1)
    nobody_honest_is_banned(grid)
    figures["lingering"] = {"back_s": round(back_s, 1), "final_s": round(spent, 2)}


def _links(grid: Grid, name: str, peer_id: str) -> int:
    return sum(link.peer_id == peer_id for link in grid.peers(name).neighbours)


def _since(grid: Grid, name: str) -> int:
    found = grid.neighbours("v1").get(name)
    return found.since_ms if found is not None else 0


def _is_ready(client: Client) -> bool:
    return client.is_ready()
