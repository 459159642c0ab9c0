"""Bytes at the API's port that the HTTP server fails at end their own connection, and nothing else."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from node.client.sdk import Client
from tests.e2e.net import until
from tests.node.api_fixture import served
from tests.node.fake_peer import FakePeer
from tests.node.test_server_bounds import closing, connected, count

HOST = b"Host: localhost\r\n"
H2C = (
    b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: "
)
SOCKET = (
    b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
)


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    """RFC 9113, section 4.1."""
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def head(method: bytes, path: bytes, flags: int) -> bytes:
    """HEADERS of stream 1 (RFC 9113, section 6.2): a method and :scheme of HPACK's static table, :authority
    and :path as literals (RFC 7541, section 6.2.2)."""
    named = b"\x01\x09localhost" + b"\x04" + bytes([len(path)]) + path
    return frame(1, 4 | flags, 1, method + b"\x86" + named)


DATA, PRIORITY, END_STREAM = 0, 2, 1
GET, POST = b"\x82", b"\x83"
BEGIN = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")  # the preface, and no SETTINGS
ASKED_OF_MANY = b"".join(frame(PRIORITY, 0, at, bytes(4) + b"\x0f") for at in range(1, 2_201, 2))


def read_on(one: socket.socket) -> bytes:
    """All that comes until the connection ends."""
    found = b""
    one.settimeout(60)
    try:
        while piece := one.recv(65_536):
            found += piece
    except ConnectionError:
        pass
    return found


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(H2C + b"A\r\n\r\n", id="settings that are no base64"),
        pytest.param(H2C + b"AAAAAAA=\r\n\r\n", id="settings of five bytes"),
        pytest.param(SOCKET + b"Sec-WebSocket-Protocol: \xff\r\n\r\n", id="a subprotocol that is no ASCII"),
        pytest.param(BEGIN + head(GET, b"/\xff", END_STREAM), id="a path that is no ASCII"),
        pytest.param(BEGIN + ASKED_OF_MANY, id="priorities of more streams than it counts"),
    ],
)
def test_what_the_server_fails_at_ends_its_connection_alone(tmp_path: Path, sent: bytes) -> None:
    """Each of these once ended the whole peer: anybody who reached the port could."""
    with served(FakePeer(), tmp_path) as address:
        one = connected(address)
        with closing(one):
            one.sendall(sent)
            read_on(one)
            assert Client(address).is_ready()
            until("it is counted", lambda: count(address, "dropped.fault") == 1)


def test_a_body_that_goes_on_after_the_answer_ends_its_connection_alone(tmp_path: Path) -> None:
    with served(FakePeer(), tmp_path) as address:
        one = connected(address)
        with closing(one):
            one.sendall(BEGIN + head(POST, b"/nowhere", 0))
            found = b""
            while frame(DATA, END_STREAM, 1, b"") not in found:
                found += (piece := one.recv(65_536))
                assert piece, found
            one.sendall(frame(DATA, END_STREAM, 1, b"more"))
            read_on(one)
            assert Client(address).is_ready()
            until("it is counted", lambda: count(address, "dropped.fault") == 1)
