"""A 3bot behind a NAT that lets nothing in: it reaches the network, and the network reaches it; and what the
library's relay and hole punching do for such a machine."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import pytest

from p2p.ids import relay_of_address
from tests.e2e.net import until
from tests.netns.conftest import IN_LONG
from tests.netns.grid import PORT, Grid
from tests.netns.relay import Trial


def test_nobody_can_dial_it(grid: Grid) -> None:
    """The NAT is one: the box's own address leads nowhere, from the same site too."""
    box = grid.lab.machines["bot1-nat"]
    address = f"/ip4/{box.address}/tcp/{PORT}/p2p/{grid.members['bot1'].peer_id}"
    for at in ("v1", "obs4"):
        done = grid.command(
            grid.members[at].machine, "init", "--home", str(grid.folder / "x"), "--join", address, code=3
        )
        assert "dial" in done.stderr


def test_it_holds_connections_and_is_known_by_the_nats_address(grid: Grid, figures: dict[str, Any]) -> None:
    box = grid.lab.machines["bot1-nat"]

    def holds() -> bool:
        """Asked one by one, so a link may have come or gone meanwhile."""
        links = grid.neighbours("bot1")
        seen = [grid.neighbours(name).get("bot1") for name in links if name in grid.members]
        return (
            len(links) >= 3
            and not any(link.inbound for link in links.values())
            and all(
                s is not None and s.inbound and s.address.startswith(f"/ip4/{box.address}/") for s in seen
            )
        )

    until("bot1 holds three connections, all its own", holds)
    figures["gave_way"] = {name: int(grid.events(name, "link.gave_way")) for name in grid.members}


def test_it_writes_and_hears(grid: Grid, figures: dict[str, Any]) -> None:
    """What it sends becomes final, and what others make final it holds."""
    figures["nat_transfer_ms"] = round(grid.transfer("bot1") * 1e3)
    grid.transfer("v2")
    grid.until_equal("v2", "bot1")


def test_it_is_reached(grid: Grid, tmp_path: Path) -> None:
    """Its neighbours ask it over the connections that it holds: an artifact that nobody else has."""
    data = b"made behind a NAT" * 5_000
    digest = hashlib.sha256(data).hexdigest()
    file = tmp_path / "artifact"
    file.write_bytes(data)

    def give(client: Any) -> bool:
        client.put_artifact(digest, file)
        return True

    assert grid.ask("bot1", give)
    asker = next(name for name in grid.neighbours("bot1") if name in grid.members)
    assert grid.ask(asker, lambda client: client.fetch_artifact(digest, len(data)), 60.0) == data


def circuits_of(grid: Grid, name: str, at: str) -> dict[str, str]:
    """The addresses of a peer that stand in another one's book and lead through a relay, by the relay."""
    known = next((p for p in grid.peers(at).known if p.peer_id == grid.members[name].peer_id), None)
    names = {member.peer_id: member.name for member in grid.members.values()}
    found = {relay_of_address(address): address for address in (known.addresses if known else ())}
    return {names.get(relay.rpartition("/")[2], relay): address for relay, address in found.items() if relay}


def ways_to_bot1(grid: Grid) -> dict[str, str]:
    """What bot1 has told its neighbours, whichever relays it has chosen."""
    found: dict[str, str] = {}
    for at in grid.neighbours("bot1"):
        if at in grid.members:
            found |= circuits_of(grid, "bot1", at)
    return found


@IN_LONG
def test_it_has_places_at_relays_and_others_hear_of_it(grid: Grid, figures: dict[str, Any]) -> None:
    """A 3bot asks for them by itself, where somebody serves; whom it links with is told."""

    def reserved() -> bool:
        return grid.events("bot1", "relayed.reserved") >= 1

    if not any(name.startswith("obs") for name in grid.neighbours("bot1")):
        grid.command("bot1", "peers", "add", grid.members["obs1"].address)
    until("bot1 has a place at a relay", reserved)
    asker = next(name for name in grid.neighbours("bot1") if name in grid.members)
    until("its neighbour knows the way", lambda: circuits_of(grid, "bot1", asker))
    figures["relayed"] = {"places": int(grid.events("bot1", "relayed.reserved"))}


@IN_LONG
def test_two_machines_behind_nats_meet_by_a_relay_and_by_another_when_it_dies(
    grid: Grid, figures: dict[str, Any]
) -> None:
    """Neither can be dialled. Their link runs over an observer, noise from end to end."""
    for relay in ("obs1", "obs3"):
        grid.command("bot1", "peers", "add", grid.members[relay].address)
    via = grid.members["v2"].address
    grid.join("bot2", grid.lab.behind_nat("bot2", "b", "0.31"), via)
    grid.start("bot2")

    until("bot1 says two ways", lambda: len(ways_to_bot1(grid)) >= 2)
    begun = time.monotonic()
    grid.command("bot2", "peers", "add", next(iter(ways_to_bot1(grid).values())))
    until("they are linked", lambda: relay_at(grid) is not None)
    figures["relayed"] = {**figures.get("relayed", {}), "linked_s": round(time.monotonic() - begun, 1)}
    link = grid.neighbours("bot1")["bot2"]
    assert link.inbound
    assert ", relayed" in grid.command("bot1", "peers", "list").stdout
    data = b"by a relay" * 50_000
    digest = hashlib.sha256(data).hexdigest()
    file = grid.folder / "relayed-artifact"
    file.write_bytes(data)
    assert grid.ask("bot1", lambda client: client.put_artifact(digest, file) or True)
    assert grid.ask("bot2", lambda client: client.fetch_artifact(digest, len(data)), 60.0) == data
    first = relay_at(grid)
    assert first is not None
    begun = time.monotonic()
    grid.stop(first, kill=True)
    until("linked by another relay", lambda: relay_at(grid) not in (None, first), 120)
    figures["relayed"]["other_relay_s"] = round(time.monotonic() - begun, 1)
    grid.start(first)
    grid.stop("bot2")


def relay_at(grid: Grid) -> str | None:
    """Who relays between the two bots, as bot2 sees it; None while they have no link."""
    link = grid.neighbours("bot2").get("bot1")
    relay = relay_of_address(link.address) if link is not None else None
    names = {member.peer_id: member.name for member in grid.members.values()}
    return names.get(relay.rpartition("/")[2]) if relay else None


@IN_LONG
def test_who_is_in_the_open_gets_a_direct_link_through_the_relayed_one(
    grid: Grid, figures: dict[str, Any]
) -> None:
    """obs4 cannot dial bot1; it calls through a relay, and bot1 dials back."""
    if "bot1" not in grid.neighbours("obs4"):
        until("bot1 says a way", lambda: ways_to_bot1(grid))
        grid.command("obs4", "peers", "add", next(iter(ways_to_bot1(grid).values())))

    def is_direct() -> bool:
        link = grid.neighbours("obs4").get("bot1")
        return link is not None and relay_of_address(link.address) is None

    begun = time.monotonic()
    until("a direct link", is_direct)
    figures["relayed"] = {**figures.get("relayed", {}), "direct_s": round(time.monotonic() - begun, 1)}
    assert grid.neighbours("obs4")["bot1"].inbound


@IN_LONG
@pytest.mark.parametrize("is_source_hidden", [False, True], ids=["source-open", "source-behind-nat"])
def test_hole_punching_is_tried(grid: Grid, figures: dict[str, Any], is_source_hidden: bool) -> None:
    """DCUtR of libp2p 0.8.1, over its own relay. What it does is noted, not demanded: see
    docs/operating.md."""
    lab = grid.lab
    site, number = ("b", "1") if is_source_hidden else ("b", "0")
    hide = lab.behind_nat if is_source_hidden else lab.machine
    trial = Trial(
        lab.machine(f"relay{number}", "a", f"0.9{number}"),
        lab.behind_nat(f"hidden{number}", "c", f"0.9{number}"),
        hide(f"source{number}", site, f"0.9{number}"),
        punch_s=75.0,
    )
    found = trial.run()
    figures[f"hole_punch_{'nat' if is_source_hidden else 'open'}"] = found
    assert found["reservation"] == "ok"
    assert found["dial by relay"] == "ok"
    assert found["echo by relay"] == "ok"
