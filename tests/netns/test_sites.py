"""Machines far from each other: joining by one address, finality over long lines, cuts, and moves."""

from __future__ import annotations

import statistics
import time
from typing import Any

import pytest

from tests.e2e.net import until
from tests.netns.conftest import IN_LONG
from tests.netns.grid import Grid

EVERYBODY = ("v1", "v2", "v3", "v4", "node1", "node2", "node3", "obs1", "obs2", "obs3", "obs4", "bot1")


def last_vote(grid: Grid, at: str, name: str) -> float:
    """The last view in which a validator voted, as another has seen it."""
    assert grid.genesis is not None
    key = next(v.key for v in grid.genesis.validators if v.moniker == name)
    return grid.figures(at).get(("consensus_validator_last_vote_view", key), -1.0)


def until_votes(grid: Grid, at: str, name: str, timeout_s: float = 60.0) -> float:
    """Until a validator votes in a view that has only begun. Returns the seconds."""
    begun = time.monotonic()
    view = grid.status(at).view
    until(f"{name} votes again", lambda: last_vote(grid, at, name) > view, timeout_s)
    return round(time.monotonic() - begun, 1)


def test_one_address_finds_everybody(grid: Grid) -> None:
    """Who joined by v1's address knows others beside v1, and keeps them on disk."""
    grid.until_equal(*EVERYBODY)
    for name in EVERYBODY:
        until(f"{name} has found others", lambda name=name: len(grid.neighbours(name)) >= 3, 60)  # type: ignore[misc]
    assert grid.genesis is not None
    for name in EVERYBODY:
        assert grid.members[name].home.read_genesis() == grid.genesis


def test_a_wrong_hash_is_refused_over_the_network(grid: Grid) -> None:
    home = grid.folder / "wrong"
    words = ("init", "--home", str(home), "--join", grid.members["v1"].address, "--genesis-hash", "00" * 32)
    done = grid.command(grid.members["obs1"].machine, *words, code=4)
    assert "genesis.hash" in done.stderr
    assert not home.exists()


def test_finality_over_long_lines(grid: Grid, figures: dict[str, Any]) -> None:
    """Three one-way hops to the nearest BFT quorum; measured from near, far, and from behind NAT."""
    found: dict[str, Any] = {}
    for at in ("v1", "v4", "obs2", "bot1"):
        spent = sorted(grid.transfer(at) for _ in range(8))
        found[at] = {"p50_ms": round(statistics.median(spent) * 1e3), "max_ms": round(spent[-1] * 1e3)}
    figures["finality"] = found
    assert found["v1"]["p50_ms"] >= 60  # no quorum without site b: 20 ms there, three times
    assert found["v1"]["p50_ms"] < 5_000


def test_a_site_is_cut_off_and_healed(grid: Grid, figures: dict[str, Any]) -> None:
    """Without site c a BFT quorum is left and goes on; c comes back by itself."""
    before = grid.status("v4").height
    grid.lab.cut_off("c")
    try:
        spent = [grid.transfer("v1") for _ in range(5)]
        assert not grid.is_final_anywhere("v4", 3.0)
        until("v1 drops the silent one", lambda: "v4" not in grid.neighbours("v1"))
        ahead = grid.status("v1").height
        assert ahead > before
    finally:
        grid.lab.cut()
    begun = time.monotonic()
    until("c has caught up", lambda: grid.status("v4").height >= ahead)
    caught_up_s = time.monotonic() - begun
    figures["cut_c"] = {
        "finality_meanwhile_max_ms": round(max(spent) * 1e3),
        "caught_up_after_heal_s": round(caught_up_s, 1),
        "votes_after_heal_s": until_votes(grid, "v1", "v4"),
        "all_equal_s": round(grid.until_equal(*EVERYBODY), 1),
    }


def test_without_a_quorum_nothing_is_final_and_after_it_all_goes_on(
    grid: Grid, figures: dict[str, Any]
) -> None:
    """Half of the validators on each side: no block anywhere, none lost, none twice."""
    grid.lab.cut_off("a")
    try:
        assert not grid.is_final_anywhere("v1", 4.0)
        assert not grid.is_final_anywhere("v3", 4.0)
    finally:
        grid.lab.cut()
    begun = time.monotonic()
    until("blocks again", lambda: grid.is_final_anywhere("v1", 10.0))
    figures["cut_a"] = {
        "final_after_heal_s": round(time.monotonic() - begun, 1),
        "all_equal_s": round(grid.until_equal(*EVERYBODY), 1),
    }


@pytest.mark.parametrize("name", ["v3", pytest.param("obs4", marks=IN_LONG)])
def test_a_peer_whose_address_changes(grid: Grid, figures: dict[str, Any], name: str) -> None:
    """The process goes on; its machine gets another address, and nobody tells the old one."""
    machine = grid.members[name].machine
    old = machine.address
    begun = time.monotonic()
    grid.lab.give_address(machine, old.rsplit(".", 1)[0] + f".{200 + int(old.rsplit('.', 1)[1])}")

    def is_seen() -> bool:
        return machine.address in getattr(grid.neighbours("v1").get(name), "address", "")

    if name == "v3":
        until("v1 sees it at its new address", is_seen)
        until_votes(grid, "v1", name)
    grid.transfer("v1")
    wanted = grid.status("v1").height
    until("it follows again", lambda: grid.status(name).height >= wanted)
    figures[f"moved_{name}_s"] = round(time.monotonic() - begun, 1)
