"""The API on a real port: events over the wire, clients that leave, ports in use, uploads by the client."""

from __future__ import annotations

import http.client
import time
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

from ledger.codec import sha256
from ledger.errors import LocalError
from ledger.transactions import Transfer
from node.api import models as m
from node.api.app import serve_api
from node.client.sdk import ApiError, Client, TimedOut, Unreachable
from node.files.artifacts import ArtifactStore
from node.home import write_secret
from node.seam import Overloaded
from tests.ledger.world import AUTHOR, CONSUMER
from tests.node.api_fixture import TOKEN, served
from tests.node.fake_peer import FakePeer


def test_events_over_the_wire_and_a_client_that_leaves(tmp_path: Path) -> None:
    peer = FakePeer()
    txs = [peer.world.tx(CONSUMER, Transfer(AUTHOR.public, amount)) for amount in (1, 2)]
    with served(peer, tmp_path) as address:
        host, _, port = address.rpartition(":")
        stream = http.client.HTTPConnection(host, int(port), timeout=10)
        stream.request("GET", "/v1/events")
        answer = stream.getresponse()
        assert answer.getheader("content-type", "").startswith("text/event-stream")
        assert answer.readline() == b": gridpact events\n"
        client = Client(address)
        for tx in txs:
            assert client.submit(tx.raw).ok
        seen = []
        while len(seen) < 2:
            line = answer.readline()
            assert line, "the stream ended"
            if line.startswith(b"data: "):
                seen.append(msgspec.json.decode(line[6:], type=m.EventView))
        assert [event.fields["amount"] for event in seen] == [1, 2]
        assert "gridpact_api_event_clients 1.0" in client.call("GET", "/metrics").decode()
        answer.close()
        stream.close()
        deadline = time.monotonic() + 60
        while "gridpact_api_event_clients 0.0" not in client.call("GET", "/metrics").decode():
            assert time.monotonic() < deadline, "the place of a client that left is still taken"


def test_a_stream_without_events_says_that_it_is_still_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxies close what is silent."""
    monkeypatch.setattr("node.api.events.HEARTBEAT_S", 0.05)
    with served(FakePeer(), tmp_path) as address:
        host, _, port = address.rpartition(":")
        stream = http.client.HTTPConnection(host, int(port), timeout=60)
        stream.request("GET", "/v1/events")
        answer = stream.getresponse()
        found = [answer.readline() for _ in range(7)]
        assert found.count(b": still here\n") == 2, found
        answer.close()
        stream.close()


def test_the_client_gives_artifacts_with_its_token(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 700_000)
    digest = sha256(file.read_bytes()).hex()
    write_secret(tmp_path / "token", TOKEN)
    write_secret(tmp_path / "wrong", "wrong")
    with served(FakePeer(), tmp_path) as address:
        with pytest.raises(ApiError) as caught:
            Client(address, tmp_path / "wrong").put_artifact(digest, file)
        assert caught.value.status == 401
        client = Client(address, tmp_path / "token")
        with pytest.raises(ApiError) as caught:
            client.put_artifact("ab" * 32, file)
        assert caught.value.problem.rule == "artifact.digest"
        client.put_artifact(digest, file)
        client.put_artifact(digest, file)
        assert client.call("GET", f"/v1/artifacts/{digest}") == file.read_bytes()


class Relenting(FakePeer):
    """Overloaded as often as it is told."""

    def __init__(self, refusals: int, retry_s: float = 0.2) -> None:
        super().__init__()
        self.refusals = refusals
        self.retry_s = retry_s
        self.sources: list[str] = []

    async def submit(self, raw: bytes, source: str = "") -> bytes:
        self.sources.append(source)
        if self.refusals:
            self.refusals -= 1
            raise Overloaded(self.retry_s)
        return await super().submit(raw, source)


def test_an_overloaded_peer_is_asked_again_when_it_says(tmp_path: Path) -> None:
    peer, said = Relenting(refusals=2), list[str]()
    tx = peer.world.tx(CONSUMER, Transfer(AUTHOR.public, 1))
    with served(peer, tmp_path) as address:
        begin = time.monotonic()
        assert Client(address, on_wait=said.append).submit(tx.raw).ok
        assert time.monotonic() - begin >= 2 * (0.2 + 0.2)  # the answer is kept back, then the client waits
    assert peer.sources == ["http:127.0.0.1"] * 3
    assert len(said) == 2
    assert said[0].startswith("peer.overloaded: too much is waiting here; asking again in 0.2 s")


def test_a_peer_that_stays_overloaded_is_a_time_out(tmp_path: Path) -> None:
    peer = Relenting(refusals=1_000)
    tx = peer.world.tx(CONSUMER, Transfer(AUTHOR.public, 1))
    with served(peer, tmp_path) as address:
        with pytest.raises(TimedOut, match=r"peer\.overloaded.*not accepted in time"):
            Client(address).submit(tx.raw, timeout_s=3.0)
        asked = len(peer.sources)
        assert 2 <= asked <= 8
        with pytest.raises(ApiError) as caught:
            Client(address).submit(tx.raw, wait="none")
        assert (caught.value.status, caught.value.problem.retry_after_ms) == (429, 200)
        assert len(peer.sources) == asked + 1


def test_nobody_there_and_nobody_answering() -> None:
    with pytest.raises(Unreachable):
        Client("127.0.0.1:1").status()
    with pytest.raises(Unreachable, match="host:port"):
        Client("nonsense").status()
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(TimedOut):
            Client(f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.2).status()


def test_an_answer_of_another_kind_is_told_as_such(tmp_path: Path) -> None:
    from node.client.sdk import ClientError

    with served(FakePeer(), tmp_path) as address, pytest.raises(ClientError, match="another version"):
        Client(address).get("/v1/status", m.Validators)


async def test_a_port_in_use_is_a_clear_error(tmp_path: Path) -> None:
    peer = FakePeer()
    with trio.socket.socket() as holder:
        await holder.bind(("127.0.0.1", 0))
        holder.listen()
        listen = f"127.0.0.1:{holder.getsockname()[1]}"
        serve = partial(serve_api, peer, listen=listen, token="t", artifacts=ArtifactStore(tmp_path / "a"))
        with pytest.raises(LocalError, match=listen):
            await serve()
