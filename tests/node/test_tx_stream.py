"""POST /v1/txs: many transactions over one request, over a real port and against real peers."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import trio

from ledger.errors import Refused
from ledger.limits import TX_BYTES_MAX
from ledger.transactions import Transfer
from node.api import models as m
from node.api import tx_stream
from node.api.limits import OVERLOAD_HOLD_S
from node.api.tx_stream import Frames
from node.seam import Overloaded
from tests.e2e.net import until as wait_until
from tests.ledger.world import AUTHOR, CONSUMER
from tests.ledger.world import RICH as CREDITS
from tests.node.api_fixture import BINARY, api_client, served
from tests.node.fake_peer import FakePeer
from tests.node.network_fixture import transfer, until, world


def framed(*raws: bytes) -> bytes:
    return b"".join(len(raw).to_bytes(4, "big") + raw for raw in raws)


def lines(data: bytes) -> list[m.TxLine]:
    return [msgspec.json.decode(line, type=m.TxLine) for line in data.splitlines()]


def transfers(peer: FakePeer, count: int) -> list[bytes]:
    return [peer.world.tx(CONSUMER, Transfer(AUTHOR.public, 1 + i)).raw for i in range(count)]


async def test_each_transaction_has_its_line(tmp_path: Path) -> None:
    peer = FakePeer()
    good = transfers(peer, 3)
    broke = peer.world.tx(CONSUMER, Transfer(AUTHOR.public, CREDITS * 2)).raw
    forged = good[0][:-1] + bytes([good[0][-1] ^ 1])
    async with api_client(peer, tmp_path) as client:
        body = framed(*good, broke, forged, b"\x01", good[1])
        answer = await client.post("/v1/txs", content=body, headers=BINARY)
    assert answer.status_code == 200
    found = {line.n: line for line in lines(answer.content)}
    assert sorted(found) == list(range(7)), "one line for each"
    assert all(found[n].state == "final" and found[n].ok for n in (0, 1, 2, 6))
    assert found[6].id == found[1].id, "sent twice, the same end"
    assert found[3].state == "final" and found[3].rule == "money.insufficient"
    assert (found[4].state, found[4].rule) == ("refused", "tx.signature")
    assert (found[5].state, found[5].rule) == ("refused", "tx.malformed")


@pytest.mark.parametrize(
    ("tail", "rule"),
    [(b"\0\0", "tx.malformed"), ((TX_BYTES_MAX + 1).to_bytes(4, "big"), "tx.too_long")],
)
async def test_a_broken_frame_ends_the_stream_and_what_came_before_counts(
    tail: bytes, rule: str, tmp_path: Path
) -> None:
    peer = FakePeer()
    async with api_client(peer, tmp_path) as client:
        answer = await client.post("/v1/txs", content=framed(*transfers(peer, 1)) + tail, headers=BINARY)
    first, last = lines(answer.content)
    assert (first.n, first.state) == (0, "final")
    assert (last.n, last.state, last.rule) == (1, "refused", rule)


async def test_an_overloaded_peer_says_so_for_each(tmp_path: Path) -> None:
    peer = FakePeer(overloaded=True)
    begin_s = trio.current_time()
    async with api_client(peer, tmp_path) as client:
        answer = await client.post("/v1/txs", content=framed(*transfers(peer, 2)), headers=BINARY)
    assert trio.current_time() - begin_s >= OVERLOAD_HOLD_S, "who brings too much is slowed down"
    assert [(line.n, line.state, line.retry_after_ms) for line in lines(answer.content)] == [
        (0, "overloaded", 2_000),
        (1, "overloaded", 2_000),
    ]


async def test_what_is_not_final_in_time_is_late_and_watched_no_more(tmp_path: Path) -> None:
    peer = FakePeer(final=False)
    async with api_client(peer, tmp_path) as client:
        body = framed(*transfers(peer, 2))
        answer = await client.post("/v1/txs?timeout=0.05", content=body, headers=BINARY)
        accepted = await client.post("/v1/txs?wait=accepted", content=body, headers=BINARY)
    assert [(line.n, line.state) for line in lines(answer.content)] == [(0, "late"), (1, "late")]
    assert not peer.watched
    assert [line.state for line in lines(accepted.content)] == ["accepted", "accepted"]


async def test_other_content_and_too_many_streams_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.api.core.STREAMS_MAX", 0)
    async with api_client(FakePeer(), tmp_path) as client:
        assert (await client.post("/v1/txs", content=b"", headers={})).status_code == 415
        busy = await client.post("/v1/txs", content=b"", headers=BINARY)
    assert busy.status_code == 429 and busy.headers["Retry-After"]


def test_a_client_reads_while_it_sends(tmp_path: Path) -> None:
    """The second transaction is sent after the first one's end was read, over one request."""
    peer = FakePeer()
    raws = transfers(peer, 2)
    with served(peer, tmp_path) as address:
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            head = "POST /v1/txs HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n"
            sock.sendall(f"{head}Content-Type: application/octet-stream\r\n\r\n".encode())
            answer = _chunk(sock, framed(raws[0]))
            response = http.client.HTTPResponse(sock)
            response.begin()
            assert (first := response.readline()) and lines(first)[0].ok
            _chunk(sock, framed(raws[1]))
            assert lines(response.readline())[0].n == 1
            sock.sendall(b"0\r\n\r\n")
            assert response.read() == b"", "the answer ends with the body"
    assert answer == len(framed(raws[0]))


def _chunk(sock: socket.socket, data: bytes) -> int:
    sock.sendall(b"%x\r\n%b\r\n" % (len(data), data))
    return len(data)


class SlowPeer(FakePeer):
    """Takes what comes; the test says when it is final."""

    most = 0

    def watch_final(self, tx: bytes, told: Any) -> None:
        super().watch_final(tx, told)
        self.most = max(self.most, len(self.watched))


async def test_no_more_is_read_than_may_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tx_stream, "STREAM_TXS_MAX", 4)
    peer = SlowPeer(final=False)
    async with api_client(peer, tmp_path) as client:
        body = framed(*transfers(peer, 10))
        answer = await client.post("/v1/txs?timeout=0.05", content=body, headers=BINARY)
    assert peer.most == 4, "the bound"
    assert len(lines(answer.content)) == 10


async def test_signatures_are_checked_in_groups_that_hold_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tx_stream, "STREAM_GROUP_BYTES", 1_000)
    groups: list[list[int]] = []
    submit_many = FakePeer.submit_many

    async def noted(self: FakePeer, raws: Sequence[bytes], source: str = "") -> list[Any]:
        groups.append([len(raw) for raw in raws])
        return list(await submit_many(self, raws, source))

    monkeypatch.setattr(FakePeer, "submit_many", noted)
    peer = FakePeer()
    async with api_client(peer, tmp_path) as client:
        raws = [b"x" * 2_000, *transfers(peer, 20)]  # the first is too long for any group, and goes alone
        answer = await client.post("/v1/txs", content=framed(*raws), headers=BINARY)
    assert len(lines(answer.content)) == sum(map(len, groups)) == 21
    assert groups[0] == [2_000]
    assert all(sum(group) <= 1_000 for group in groups[1:])


def test_a_client_that_leaves_is_watched_for_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it keep its place: the next one has it."""
    monkeypatch.setattr("node.api.core.STREAMS_OF_CLIENT_MAX", 1)
    peer = FakePeer(final=False)
    with served(peer, tmp_path) as address:
        host, _, port = address.rpartition(":")
        for raw in transfers(peer, 2):
            with socket.create_connection((host, int(port)), timeout=10) as sock:
                head = "POST /v1/txs?timeout=300 HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                kind = "Transfer-Encoding: chunked\r\nContent-Type: application/octet-stream\r\n"
                sock.sendall(f"{head}{kind}\r\n".encode())
                assert sock.recv(12) == b"HTTP/1.1 200"
                _chunk(sock, framed(raw))
                wait_until("it is watched", lambda: len(peer.watched) == 1)
            wait_until("it is watched no more", lambda: not peer.watched)


async def test_who_cannot_be_watched_is_told_that_it_was_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: FakePeer, tx: bytes, told: Any) -> None:
        raise Overloaded(1.5)

    peer = FakePeer(final=False)
    monkeypatch.setattr(FakePeer, "watch_final", full)
    async with api_client(peer, tmp_path) as client:
        raws = transfers(peer, 2)
        answer = await client.post("/v1/txs", content=framed(*raws, raws[0]), headers=BINARY)
    found = [(line.n, line.state, line.retry_after_ms) for line in lines(answer.content)]
    assert found == [(n, "accepted", 1_500) for n in range(3)]


def test_frames_are_cut_alike_however_they_come() -> None:
    raws = [b"a" * n for n in (1, 0, 300, 2)]
    data = framed(*raws)
    for step in (1, 3, 7, 1000):
        frames = Frames()
        pieces: Iterator[bytes] = (data[i : i + step] for i in range(0, len(data), step))
        assert [raw for piece in pieces for raw in frames.feed(piece)] == raws
        frames.end()
        assert not frames.rule


async def _finals(peer: Any, raws: Iterable[bytes]) -> list[bytes]:
    """Submit to a real peer, wait for all: ids in the order of finality."""
    ends: list[bytes] = []
    for answer in await peer.submit_many(list(raws)):
        assert isinstance(answer, bytes), answer
        peer.watch_final(answer, lambda outcome: ends.append(outcome.receipt.id))
    return ends


@pytest.mark.parametrize(("name", "count"), [("validator1", 100), ("observer", 10)])
async def test_real_peers_take_many_and_tell_of_each(name: str, count: int) -> None:
    async with world([f"validator{n}" for n in range(4)] + ["observer"]) as net:
        peer = net.peers[name]
        await until(lambda: len(peer.handlers.members) >= 3)
        raws = [transfer(peer, amount, salt) for salt, amount in enumerate(range(1, 1 + count))]
        other = transfer(peer, 1, count)
        (refused,) = await peer.submit_many([other[:-1] + bytes([other[-1] ^ 1])])
        ends = await _finals(peer, raws)
        assert isinstance(refused, Refused) and refused.rule == "tx.signature"
        await until(lambda: len(ends) == len(raws))
        assert len(set(ends)) == len(raws) and peer.waiters.count == 0
        (again,) = await peer.submit_many(raws[:1])
        assert isinstance(again, Refused) and again.rule == "tx.duplicate"


async def test_waiters_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.waiters.WAITERS_MAX", 1)
    async with world(["validator0"]) as net:
        peer = net.peers["validator0"]
        told = cast(Any, lambda outcome: None)
        peer.watch_final(b"1" * 32, told)
        with pytest.raises(Overloaded):
            peer.watch_final(b"2" * 32, told)
        peer.unwatch(b"1" * 32, told)
        peer.unwatch(b"1" * 32, told)  # nothing happens
        peer.watch_final(b"2" * 32, told)
        assert peer.waiters.count == 1
