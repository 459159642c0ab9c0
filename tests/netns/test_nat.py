"""A 3bot behind a NAT that lets nothing in: it reaches the network, and the network reaches it; and what the
library's relay and hole punching do for such a machine."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tests.e2e.net import until
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

    until("bot1 holds three connections, all its own", holds, 60)
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
    assert grid.ask(asker, lambda client: client.fetch_artifact(digest, len(data)), 30.0) == data


def test_the_library_s_relay_reaches_it_and_hole_punching_is_tried(
    grid: Grid, figures: dict[str, Any], is_long: bool
) -> None:
    """Relay v2 of libp2p 0.8.1 carries a connection to a machine behind NAT. What hole punching does is
    noted, not demanded: see docs/operating.md."""
    lab = grid.lab
    trial = Trial(
        lab.machine("relay", "a", "0.90"),
        lab.behind_nat("hidden", "c", "0.91"),
        lab.machine("source", "b", "0.92"),
        punch_s=75.0 if is_long else 0.0,
    )
    found = trial.run()
    figures["relay"] = found
    assert found["reservation"] == "ok"
    assert found["dial by relay"] == "ok"
    assert found["echo by relay"] == "ok"
