"""Twelve peers on twelve machines in three sites, for all tests here; skipped without root."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.netns.grid import Grid
from tests.netns.lab import Lab, why_not

RTT_MS = {("a", "b"): 40.0, ("a", "c"): 120.0, ("b", "c"): 120.0}
VALIDATORS = {"v1": "a", "v2": "a", "v3": "b", "v4": "c"}
JOINERS = {
    "node1": "a", "node2": "b", "node3": "c",
    "obs1": "a", "obs2": "b", "obs3": "b", "obs4": "c",
}  # fmt: skip


IN_LONG = pytest.mark.skipif(os.environ.get("NET_LONG") != "1", reason="in `make net` only")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test waits for twelve peers, and a loaded machine takes its time."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(400))


@pytest.fixture(scope="session")
def is_long() -> bool:
    """`make net` is the long form."""
    return os.environ.get("NET_LONG") == "1"


@pytest.fixture(scope="session")
def figures() -> Iterator[dict[str, Any]]:
    """What was measured; written to the file that NET_FIGURES names, at the end."""
    found: dict[str, Any] = {}
    yield found
    print("\n" + json.dumps(found, indent=2))
    if target := os.environ.get("NET_FIGURES"):
        Path(target).write_text(json.dumps(found, indent=2) + "\n")


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Three sites with long lines between them."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with Lab(("a", "b", "c")) as made:
        made.lines(RTT_MS)
        yield made


@pytest.fixture(scope="session")
def grid(lab: Lab, figures: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    """Four validators, three 3nodes, four observers, and a 3bot behind NAT."""
    made = Grid(lab, tmp_path_factory.mktemp("grid"))
    try:
        begun = time.monotonic()
        made.found({n: lab.machine(n, site, f"0.{10 + i}") for i, (n, site) in enumerate(VALIDATORS.items())})
        made.start(*VALIDATORS)
        figures["validators_up_s"] = round(time.monotonic() - begun, 1)
        begun = time.monotonic()
        assert made.genesis is not None
        hash_hex = made.genesis.hash.hex()
        via = made.members["v1"].address
        for i, (name, site) in enumerate(JOINERS.items()):
            words = ("--role", "node", "--farm", "alpha", "--country", "BE") if "node" in name else ()
            machine = lab.machine(name, site, f"0.{20 + i}")
            made.join(name, machine, via, *words, genesis_hash=hash_hex)
            if "node" not in name:
                made.members[name].words = ("--p2p.relay", "serve")
            made.start(name, ready=False)
        made.join("bot1", lab.behind_nat("bot1", "c", "0.30"), via, "--role", "bot", genesis_hash=hash_hex)
        made.start("bot1")
        made.until_ready(*JOINERS)
        figures["eight_joined_s"] = round(time.monotonic() - begun, 1)
        yield made
    finally:
        made.down()
    for name in made.members:
        log = made.log(name)
        at = log.find("Traceback")
        assert at < 0, f"{name}: {log[max(0, at - 500) : at + 3_000]}"
