"""One real network, and the foreign peers that this machine can run, joined to it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from node.client.sdk import ApiError
from tests.e2e.conftest import SITE, check_logs
from tests.e2e.net import Net, until
from tests.interop.build import LANGUAGES, Made, NotHere, made
from tests.interop.foreign import Foreign

ROLES = {"js": "it-expert", "go": "budget"}  # the two that the site's contract needs


@dataclass
class World:
    """`why`: the reason where a language has no peer here."""

    net: Net
    folder: Path
    commands: dict[str, Made]
    peers: dict[str, Foreign]
    why: dict[str, str]

    @cached_property
    def contract(self) -> str:
        """Id of the site's contract, published while the foreign peers listen."""
        return str(self.net.publish(SITE, self.folder / "site")["id"])

    @cached_property
    def built(self) -> dict[str, Any]:
        """The contract as it was built."""
        assert self.contract
        shown = json.loads(self.net.api().call("GET", "/v1/contracts/e2e-site"))
        return dict(shown["contract"])

    @cached_property
    def deployment(self) -> str:
        """An order that waits for approvals."""
        assert self.contract
        return self.net.deploy("e2e-site")

    def caught_up(self, foreign: Foreign, height: int) -> dict[str, Any]:
        """The foreign peer has proved the chain up to that height."""
        return foreign.ask("follow", peer=self.net.peer("v1").peer_id, height=height)

    def final_height(self, tx: str) -> int:
        """Where a transaction is final, as our API says; it must have been applied."""
        view = until(f"{tx} is final", lambda: tx_of(self, tx), 20)
        assert view.ok, f"{view.rule}: {view.detail}"
        return view.height


def tx_of(world: World, tx: str) -> Any:
    """A final transaction, or None when there is none of that id yet."""
    try:
        return world.net.api().tx(tx)
    except ApiError as error:
        assert error.status == 404
        return None


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Four validators, a 3node, a 3bot, and who comes from elsewhere."""
    if os.environ.get("INTEROP") != "1":
        pytest.skip("foreign peers have to be fetched and built: make interop does, and runs these")
    commands: dict[str, Made] = {}
    why: dict[str, str] = {}
    for language in LANGUAGES:
        try:
            commands[language] = made(language)
        except NotHere as reason:
            why[language] = str(reason)
    folder = tmp_path_factory.mktemp("interop")
    net = Net.up(folder / "net", validators=4, nodes=1, bots=1)
    peers: dict[str, Foreign] = {}
    try:
        for language, command in commands.items():
            log = folder / f"{language}.log"
            peers[language] = Foreign(language, command, net.folder / "genesis.json", log)
        yield World(net, folder, commands, peers, why)
    finally:
        for peer in peers.values():
            peer.stop()
        net.down()
    check_logs(net)


@pytest.fixture(scope="session", params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    """Each of the foreign implementations."""
    return str(request.param)


@pytest.fixture(scope="session")
def joined(world: World) -> dict[str, dict[str, Any]]:
    """What each peer reported of its joining v1: all of them before anything is gossiped."""
    return {name: peer.ask("join", address=world.net.peer("v1").p2p) for name, peer in world.peers.items()}


@pytest.fixture
def foreign(world: World, joined: dict[str, dict[str, Any]], language: str) -> Foreign:
    """A foreign peer, joined to v1."""
    if language not in world.peers:
        pytest.skip(world.why[language])
    return world.peers[language]
