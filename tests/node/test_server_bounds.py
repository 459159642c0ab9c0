"""The API under clients that mean ill: connections without end, answers that nobody reads, slow bodies."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ledger.transactions import Transfer
from node.api import server, tx_stream
from node.api.app import serve_api
from node.client.sdk import Client
from node.files.artifacts import ArtifactStore
from tests.e2e.net import until
from tests.ledger.world import AUTHOR, CONSUMER
from tests.node.api_fixture import TOKEN, served
from tests.node.fake_peer import FakePeer
from tests.node.test_tx_stream import framed


def connected(address: str, source: str = "127.0.0.1") -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10, source_address=(source, 0))


def is_answered(one: socket.socket) -> bool:
    """Does the API answer on that connection?"""
    try:
        one.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        found = b""
        while b"HTTP/1.1 200" not in found:  # behind what was left unread of an earlier answer
            found += (piece := one.recv(1_000))
            if not piece:
                return False
        return True
    except OSError:
        return False


@contextmanager
def closing(*held: socket.socket) -> Iterator[None]:
    try:
        yield
    finally:
        for one in held:
            one.close()


def count(address: str, rule: str) -> float:
    text = Client(address).call("GET", "/metrics").decode()
    name = f'gridpact_api_refused_total{{rule="{rule}"}} '
    return next((float(line[len(name) :]) for line in text.splitlines() if line.startswith(name)), 0.0)


def test_connections_of_one_client_are_bounded_and_others_get_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two loud addresses take all places: a third has one all the same, from the loudest. (Q9)"""
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 12)
    monkeypatch.setattr(server, "CONNECTIONS_OF_CLIENT_MAX", 8)
    with served(FakePeer(), tmp_path) as address:
        loud = [connected(address, "127.0.0.2") for _ in range(10)]
        with closing(*loud):
            assert [is_answered(one) for one in loud] == [True] * 8 + [False] * 2
            more = [connected(address, "127.0.0.3") for _ in range(4)]
            with closing(*more):
                assert all(map(is_answered, more))
                quiet = connected(address)
                with closing(quiet):
                    assert is_answered(quiet)
                    assert not is_answered(loud[7]), "the newest of the loudest made room"
                    assert is_answered(loud[0])
                    assert all(map(is_answered, more))
                    again = connected(address, "127.0.0.2")
                    with closing(again):
                        assert not is_answered(again), "nobody makes room for who has the most himself"
                    assert is_answered(loud[0]) and is_answered(quiet)
        until("they have left", lambda: count(address, "connections_of_client") >= 2)


def test_connections_that_ended_leave_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 2)
    monkeypatch.setattr(server, "CONNECTIONS_OF_CLIENT_MAX", 2)

    def gets_in(address: str) -> bool:
        one = connected(address)
        with closing(one):
            return is_answered(one)

    with served(FakePeer(), tmp_path) as address:
        for _ in range(6):
            until("there is room", lambda: gets_in(address))


async def test_a_connection_leaves_once() -> None:
    """One that made room for another ends later than its place does."""
    counts: list[str] = []
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    held = server.Connections(counts.append)
    async with listener, await trio.open_tcp_stream(*listener.socket.getsockname()[:2]):
        one = held.admit(await listener.accept())
        assert one is not None
        async with await trio.open_tcp_stream(*listener.socket.getsockname()[:2]):
            other = held.admit(await listener.accept())
            assert other is not None and held.total == 2
            held.leave(one)
            held.leave(one)
            assert held.total == 1
            held.leave(other)
            held.leave(other)
        one.drop()
        other.drop()
    assert (held.total, held._by_client, counts) == (0, {}, [])


def test_a_client_that_left_before_it_was_taken_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address of its socket is known no more."""
    admit, left = server.Connections.admit, [True]

    def gone(self: server.Connections, stream: trio.SocketStream) -> server.ClientStream | None:
        if left:
            left.clear()
            raise OSError(107, "Transport endpoint is not connected")
        return admit(self, stream)

    with served(FakePeer(), tmp_path) as address:
        monkeypatch.setattr(server.Connections, "admit", gone)
        first = connected(address)
        with closing(first):
            assert not is_answered(first)
        assert Client(address).is_ready()


def ask_and_never_read(address: str, body: bytes) -> socket.socket:
    """A stream of transactions on a connection with the smallest buffer; its answer is not read."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    host, _, port = address.rpartition(":")
    one.connect((host, int(port)))
    one.sendall(
        b"POST /v1/txs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    one.settimeout(1.0)
    try:
        while True:
            one.sendall(b"%x\r\n%b\r\n" % (len(body), body))
    except OSError:  # no more is taken from it
        return one


def test_who_does_not_read_its_answers_fills_no_memory_and_loses_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty frames cost four bytes each, and their refusals some hundred."""
    monkeypatch.setattr(server, "SEND_S", 1.0)
    monkeypatch.setattr(tx_stream, "_GONE_AFTER_S", 3.0)
    made: list[tx_stream.TxStream] = []
    init = tx_stream.TxStream.__init__

    def noted(self: tx_stream.TxStream, *args: Any) -> None:
        init(self, *args)
        made.append(self)

    monkeypatch.setattr(tx_stream.TxStream, "__init__", noted)
    with served(FakePeer(), tmp_path) as address:
        with closing(ask_and_never_read(address, bytes(64_000))):
            assert made
            assert len(made[0]._lines) <= tx_stream.STREAM_TXS_MAX
            until("it is dropped", lambda: count(address, "dropped.slow_reader") >= 1)
            until("its place is free", lambda: made[0]._api.tx_streams.total == 0)
        assert Client(address).is_ready()


def test_a_transaction_sent_again_and_again_holds_no_more_than_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each copy waits for the same end and has a line of its own: they count, too."""
    monkeypatch.setattr(tx_stream, "STREAM_TXS_MAX", 50)
    owed: list[int] = []
    take = tx_stream.TxStream._take

    async def noted(self: tx_stream.TxStream, raws: list[bytes]) -> int:
        taken = await take(self, raws)
        owed.append(sum(map(len, self._places.values())) + len(self._lines))
        return taken

    monkeypatch.setattr(tx_stream.TxStream, "_take", noted)
    peer = FakePeer(final=False)
    raw = peer.world.tx(CONSUMER, Transfer(AUTHOR.public, 1)).raw
    with served(peer, tmp_path) as address:
        host, _, port = address.rpartition(":")
        asked = http.client.HTTPConnection(host, int(port), timeout=10)
        asked.request(
            "POST", "/v1/txs?timeout=1", framed(*[raw] * 200), {"Content-Type": "application/octet-stream"}
        )
        answer = asked.getresponse()
        first = answer.readline()
        assert b"late" in first
        rest = answer.read().splitlines()
        assert len(rest) == 199
        asked.close()
    assert 0 < max(owed) <= 50


def test_a_peer_stops_while_somebody_does_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write under way cannot be cancelled, so its connection is closed."""
    monkeypatch.setattr(server, "SEND_S", 600.0)
    started: list[Any] = []
    up = threading.Event()

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            address = await nursery.start(_serve, tmp_path)
            started.extend((address, trio.lowlevel.current_trio_token(), nursery.cancel_scope))
            up.set()

    thread = threading.Thread(target=trio.run, args=(run,), daemon=True)
    thread.start()
    assert up.wait(60)
    address, token, scope = started
    with closing(ask_and_never_read(address, bytes(64_000))):
        token.run_sync_soon(scope.cancel)
        thread.join(60)
        assert not thread.is_alive()


async def _serve(folder: Path, *, task_status: Any) -> None:
    store = ArtifactStore(folder / "artifacts")
    await serve_api(FakePeer(), listen="127.0.0.1:0", token=TOKEN, artifacts=store, task_status=task_status)


def test_a_body_that_trickles_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.api.core.BODY_S", 0.3)
    with served(FakePeer(), tmp_path) as address:
        one = connected(address)
        with closing(one):
            one.sendall(
                b"POST /v1/tx HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
                b"Content-Length: 200\r\n\r\nab"
            )
            assert one.recv(1_000).startswith(b"HTTP/1.1 408")


def test_streams_of_one_client_leave_some_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.api.core.STREAMS_OF_CLIENT_MAX", 2)
    head = (
        b"POST /v1/txs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    with served(FakePeer(), tmp_path) as address:
        loud, quiet = [connected(address, "127.0.0.2") for _ in range(3)], connected(address)
        with closing(*loud, quiet):
            answers = []
            for one in (*loud, quiet):
                one.sendall(head)
                answers.append(one.recv(12))
            assert answers == [b"HTTP/1.1 200", b"HTTP/1.1 200", b"HTTP/1.1 429", b"HTTP/1.1 200"]
