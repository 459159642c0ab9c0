"""Audit files are made beside all else: the peer goes on, its store stays open, a row of them is refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from ledger.audit import audit
from ledger.audit.audit import export, verify
from ledger.audit.file import decode_audit
from ledger.errors import Refused
from ledger.storage.chain import Chain
from ledger.storage.views import UNDO_COMMITS_MAX
from node.api.app import make_app
from node.api.limits import AUDITS_MAX, AUDITS_OF_CLIENT_MAX
from node.files.artifacts import ArtifactStore
from node.sync import state_fetch
from node.sync.repair import Repair
from tests.ledger.world import contract
from tests.node.api_fixture import TOKEN
from tests.node.fake_peer import FakePeer
from tests.node.network_fixture import until, world
from tests.node.state_fixture import client_of, server_of, take_blocks

HELD_S = 30.0

# The test client does not close a body that the application refused to read; ours is not at fault.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'httpx2:ResourceWarning")


class Slow:
    """Audit files take until `go_on`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        self._gate = threading.Event()
        self.go_on = self._gate.set

        def slow(store: Chain, deployment: bytes, look: Callable[[], object]) -> bytes:
            self.begun += 1
            assert self._gate.wait(HELD_S), "nobody lets it go on"
            return export(store, deployment, look)

        monkeypatch.setattr(audit, "export", slow)


class Clients:
    """Clients of one peer's API, each of an address of its own."""

    def __init__(self, peer: FakePeer, folder: Path, deployment: bytes) -> None:
        self._app = make_app(peer, token=TOKEN, artifacts=ArtifactStore(folder / "artifacts"))
        self._path = f"/v1/audit/{deployment.hex()}"
        self.answers: list[Any] = []

    @property
    def places(self) -> int:
        return int(self._app._app.state.api.audits.total)  # type: ignore[attr-defined]

    async def get(self, path: str = "", address: str = "192.0.2.1") -> Any:
        transport = httpx2.ASGITransport(app=self._app, client=(address, 4000))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get(path or self._path)

    async def ask(self, address: str = "192.0.2.1") -> None:
        self.answers.append(await self.get(address=address))


@pytest.fixture
def peer() -> FakePeer:
    return FakePeer()


@pytest.fixture
def deployment(peer: FakePeer) -> bytes:
    peer.world.add_nodes()
    found = peer.world.running(contract())
    for _ in range(3):
        peer.block()
    return found


@pytest.fixture
def clients(peer: FakePeer, deployment: bytes, tmp_path: Path) -> Clients:
    return Clients(peer, tmp_path, deployment)


async def test_the_peer_goes_on_while_one_is_made_of_the_moment_when_it_was_begun(
    peer: FakePeer, deployment: bytes, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = export(peer.store, deployment)
    slow = Slow(monkeypatch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clients.ask)
        await until(lambda: slow.begun == 1)
        for _ in range(2 * UNDO_COMMITS_MAX):
            peer.block()
        assert (await clients.get("/v1/status")).json()["height"] == peer.height
        assert not clients.answers
        slow.go_on()
    assert clients.answers[0].content == before != export(peer.store, deployment)
    assert clients.answers[0].headers["content-length"] == str(len(before))
    assert verify(before, peer.genesis).ok


async def test_a_row_of_them_is_refused(
    deployment: bytes, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One client has not all places, and one file is made at a time."""
    slow = Slow(monkeypatch)

    async def refused(address: str) -> None:
        answer = await clients.get(address=address)
        assert (answer.status_code, answer.json()["rule"]) == (429, "audit.busy")
        assert int(answer.headers["retry-after"]) >= 1

    async with trio.open_nursery() as nursery:
        for _ in range(AUDITS_OF_CLIENT_MAX):
            nursery.start_soon(clients.ask)
        await until(lambda: clients.places == AUDITS_OF_CLIENT_MAX and slow.begun == 1)
        await refused("192.0.2.1")
        for _ in range(AUDITS_MAX - AUDITS_OF_CLIENT_MAX):
            nursery.start_soon(clients.ask, "192.0.2.2")
        await until(lambda: clients.places == AUDITS_MAX)
        await refused("192.0.2.3")
        assert slow.begun == 1
        slow.go_on()
    assert [answer.status_code for answer in clients.answers] == [200] * AUDITS_MAX
    assert slow.begun == AUDITS_MAX
    assert clients.places == 0
    assert (await clients.get()).status_code == 200


async def test_what_is_refused_is_told_and_its_place_is_free(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pruned(store: Chain, deployment: bytes, look: Callable[[], object]) -> bytes:
        raise Refused("audit.pruned", "gone")

    monkeypatch.setattr(audit, "export", pruned)
    for _ in range(AUDITS_MAX + 1):
        answer = await clients.get()
        assert (answer.status_code, answer.json()["rule"]) == (410, "audit.pruned")
    assert clients.places == 0


async def test_a_peer_that_stops_does_not_wait_for_the_file(
    peer: FakePeer, deployment: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the thread: the store is closed next."""
    ended = threading.Event()

    def endless(store: Chain, deployment: bytes, look: Callable[[], object]) -> bytes:
        try:
            until_s = time.monotonic() + HELD_S
            while time.monotonic() < until_s:
                begun.set()
                look()
                time.sleep(0.001)
            raise AssertionError("nobody stops it")
        finally:
            ended.set()

    begun = threading.Event()
    monkeypatch.setattr(audit, "export", endless)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.audits.export, deployment)
        await until(begun.is_set)
        nursery.cancel_scope.cancel()
    assert ended.is_set()
    assert not peer.audits.use.locked()


def test_each_step_looks_whether_it_is_to_stop(peer: FakePeer, deployment: bytes) -> None:
    steps: list[str] = []
    file = decode_audit(export(peer.store, deployment, lambda: steps.append("look")))
    assert len(steps) == len(file.records) + sum(len(block.txs) for block in file.blocks) > 40
    for stop in (1, len(steps) // 2, len(steps)):
        left = [stop]

        def look(left: list[int] = left) -> None:
            left[0] -= 1
            if not left[0]:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            export(peer.store, deployment, look)


async def test_another_state_takes_the_place_when_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the store would be closed below the thread."""
    monkeypatch.setattr(state_fetch, "STATE_PREPARING_S", 0.02)
    server = server_of(35)
    async with client_of({"one": server.answer}, server, follow=False) as client:
        client.came(35)
        async with trio.open_nursery() as nursery:
            async with client.sync.audit_use:  # an audit file is being made
                nursery.start_soon(client.sync.attempt, 0)
                await until(lambda: client.sync.audit_use.statistics().tasks_waiting == 1)
                assert client.sync.phase == "install"
                assert client.installed == []
            await until(lambda: client.installed == [30])


async def test_a_state_that_is_made_anew_takes_the_place_when_nobody_reads() -> None:
    source = server_of(12)
    async with client_of({}, source) as client, trio.open_nursery() as nursery:
        take_blocks(client, source)
        client.sync.enabled = False
        client.notary.differs = 12
        async with client.sync.audit_use:
            nursery.start_soon(Repair(client.notary, client.sync)._mend)
            await until(lambda: client.sync.audit_use.statistics().tasks_waiting == 1)
            assert client.installed == []
        await until(lambda: client.installed == [12])


async def test_a_peer_that_is_put_together_holds_its_store_so() -> None:
    async with world(["validator0", "observer"]) as made:
        peer = made.peers["observer"]
        assert peer.audits.use is peer.state_sync.audit_use
