"""The three protocols of the load generator, each against a library's server side of the same protocol."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator

import h11
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, PingAckReceived, RequestReceived, StreamEnded
from h2.settings import SettingCodes, Settings
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Event, Message, Ping, Pong, Request, TextMessage

from bench.load.channel import ChannelLost
from bench.load.grpc_channel import GrpcChannel, SigningGrpcChannel, put_request, varint
from bench.load.stream_channel import StreamChannel
from bench.load.ws_channel import WsChannel

WAIT_S = 10.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(WAIT_S)
        yield made


def _accept(listener: socket.socket) -> socket.socket:
    peer, _ = listener.accept()
    peer.settimeout(WAIT_S)
    return peer


# --- our own stream over HTTP/1.1 ---------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 \r\ncontent-type: application/jsonl\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(*lines: dict[str, object]) -> bytes:
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.fixture
def stream(listener: socket.socket) -> Iterator[StreamChannel]:
    channel = StreamChannel("127.0.0.1", listener.getsockname()[1], 20, "127.0.0.77")
    yield channel
    channel.close()


def test_a_stream_is_legal_http_and_comes_from_the_clients_own_address(
    stream: StreamChannel, listener: socket.socket
) -> None:
    """The h11 library judges every byte of ours."""
    for tag in (40, 41, 42):
        stream.put(tag, b"x" * 250)
    stream.flush()
    with _accept(listener) as sock:
        assert sock.getpeername()[0] == "127.0.0.77"
        server = h11.Connection(h11.SERVER)
        body = b""
        target = b""
        while len(body) < 3 * 254:
            event = server.next_event()
            if event is h11.NEED_DATA:
                server.receive_data(sock.recv(65_536))
            elif isinstance(event, h11.Request):
                target = event.target
            else:
                assert isinstance(event, h11.Data)
                body += event.data
    assert target == b"/v1/txs?wait=final&timeout=20"
    assert body == (b"\x00\x00\x00\xfa" + b"x" * 250) * 3


def test_a_streams_answer_may_come_in_any_pieces(stream: StreamChannel) -> None:
    for tag in (40, 41):
        stream.encode(tag, b"x")
    answer = (
        HEAD + chunk({"n": 1, "state": "final", "ok": True}) + chunk({"n": 0, "state": "final", "ok": True})
    )
    found = [done for place in range(len(answer)) for done in stream.parse(answer[place : place + 1])]
    assert found == [(41, ""), (40, "")]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ({"state": "overloaded", "rule": "peer.overloaded"}, "overloaded peer.overloaded"),
        ({"state": "final", "ok": False, "rule": "vault.version"}, "final vault.version"),
        ({"state": "accepted"}, "accepted"),
        ({"state": "late", "rule": "tx.not_final"}, "late tx.not_final"),
    ],
)
def test_a_stream_counts_only_a_final_good_outcome(
    stream: StreamChannel, line: dict[str, object], error: str
) -> None:
    stream.encode(9, b"")
    assert stream.parse(HEAD + chunk({"n": 0, **line})) == [(9, error)]


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 429 Too Many Requests\r\n\r\n",
        b"x" * 40_000,
        HEAD + b"0\r\n\r\n",
        HEAD + b"z" * 40,
        HEAD + chunk({"n": 0, "state": "final"}),
    ],
)
def test_a_stream_gives_up_a_server_that_breaks_the_protocol(stream: StreamChannel, data: bytes) -> None:
    with pytest.raises(ChannelLost):
        stream.parse(data)


# --- gRPC ---------------------------------------------------------------------------------------------


class GrpcServer:
    """The h2 library judges every byte of ours."""

    def __init__(self, sock: socket.socket, streams_max: int = 10_000) -> None:
        self.sock = sock
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        first = {SettingCodes.MAX_CONCURRENT_STREAMS: streams_max}
        self.h2.local_settings = Settings(client=False, initial_values=first)
        self.h2.initiate_connection()
        self.headers: list[dict[str, str]] = []
        self.messages: dict[int, bytearray] = {}
        self.ended: list[int] = []
        self.pongs = 0
        self.flush()

    def flush(self) -> None:
        self.sock.sendall(self.h2.data_to_send())

    def hear(self) -> None:
        for event in self.h2.receive_data(self.sock.recv(1 << 20)):
            if isinstance(event, RequestReceived):
                self.headers.append(dict(event.headers))  # type: ignore[arg-type]
                self.messages[event.stream_id] = bytearray()
            elif isinstance(event, DataReceived):
                self.messages[event.stream_id] += event.data
            elif isinstance(event, StreamEnded):
                self.ended.append(event.stream_id)
            elif isinstance(event, PingAckReceived):
                self.pongs += 1
        self.flush()

    def answer(self, stream: int, *, good: bool = True) -> None:
        self.h2.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
        if good:
            self.h2.send_data(stream, b"\x00\x00\x00\x00\x02\x0a\x00")
        self.h2.send_headers(stream, [("grpc-status", "0" if good else "14")], end_stream=True)
        self.flush()


def _finish(channel: GrpcChannel | WsChannel, count: int) -> list[tuple[int, str]]:
    channel.sock.settimeout(WAIT_S)
    done: list[tuple[int, str]] = []
    while len(done) < count:
        done += channel.receive()
    return done


def test_grpc_calls_are_legal_and_end_as_the_server_says(listener: socket.socket) -> None:
    channel = GrpcChannel("127.0.0.1", listener.getsockname()[1])
    with _accept(listener) as sock:
        server = GrpcServer(sock)
        wanted = put_request(b"key", b"v" * 247)
        for tag in (7, 8, 9):
            channel.put(tag, wanted)
        channel.flush()
        while len(server.ended) < 3:
            server.hear()
        assert server.headers[0][":path"] == "/etcdserverpb.KV/Put"
        assert server.headers[0]["te"] == "trailers"
        message = bytes(server.messages[1])
        assert message == b"\x00" + len(wanted).to_bytes(4, "big") + wanted
        server.answer(3)
        server.answer(1, good=False)
        server.h2.reset_stream(5)
        server.h2.ping(b"abcdefgh")
        server.flush()
        assert _finish(channel, 3) == [(8, ""), (7, "gRPC: refused"), (9, "gRPC: reset")]
        while not server.pongs:
            server.hear()
    channel.close()


def test_grpc_never_sends_more_than_the_server_has_room_for(listener: socket.socket) -> None:
    channel = GrpcChannel("127.0.0.1", listener.getsockname()[1])
    with _accept(listener) as sock:
        server = GrpcServer(sock)
        count = 600
        for tag in range(count):
            channel.put(tag, put_request(b"key", b"v" * 247))
        channel.flush()
        while len(server.ended) < 250:
            server.hear()  # h2 raises FlowControlError when we overdo it
        assert len(server.ended) < count, "the window of 65,535 bytes is full"
        channel.sock.settimeout(WAIT_S)
        while len(server.ended) < count:
            server.h2.increment_flow_control_window(50_000)
            server.flush()
            channel.receive()
            server.hear()
    channel.close()


def test_a_signing_client_writes_its_signature_and_verifies_it(listener: socket.socket) -> None:
    channel = SigningGrpcChannel("127.0.0.1", listener.getsockname()[1])
    with _accept(listener) as sock:
        server = GrpcServer(sock)
        plain = put_request(b"key", b"v" * 247)
        channel.put(1, plain)
        channel.put(2, plain)
        channel.flush()
        while len(server.ended) < 2:
            server.hear()
        sent = bytes(server.messages[1])[5:]
        assert len(sent) == len(plain) and sent[:-64] == plain[:-64] and sent[-64:] != plain[-64:]
        server.answer(1)
        server.answer(3, good=False)
        assert _finish(channel, 2) == [(1, ""), (2, "gRPC: refused")]
    channel.close()


def test_grpc_opens_no_more_streams_than_the_server_allows(listener: socket.socket) -> None:
    channel = GrpcChannel("127.0.0.1", listener.getsockname()[1])
    with _accept(listener) as sock:
        GrpcServer(sock, streams_max=3)
        channel.sock.settimeout(WAIT_S)
        while channel.room > 3:
            channel.receive()
        for tag in range(3):
            channel.put(tag, b"")
        assert channel.room == 0
    channel.close()


def test_protocol_buffers_lengths() -> None:
    assert varint(0) == b"\x00" and varint(127) == b"\x7f" and varint(300) == b"\xac\x02"
    assert put_request(b"k", b"v" * 200) == b"\x0a\x01k\x12\xc8\x01" + b"v" * 200


# --- WebSocket ----------------------------------------------------------------------------------------


class WsServer:
    """The wsproto library judges every byte of ours."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.ws = WSConnection(ConnectionType.SERVER)
        self.said: list[dict[str, object]] = []
        self.pongs = 0
        self._text = ""

    def hear(self) -> None:
        self.ws.receive_data(self.sock.recv(1 << 20))
        for event in self.ws.events():
            if isinstance(event, Request):
                self.send(AcceptConnection())
            elif isinstance(event, Message):
                self._text += str(event.data)
                if event.message_finished:
                    self.said.append(json.loads(self._text))
                    self._text = ""
            elif isinstance(event, Pong):
                self.pongs += 1

    def send(self, event: Event) -> None:
        self.sock.sendall(self.ws.send(event))

    def say(self, content: object) -> None:
        self.send(TextMessage(json.dumps(content)))


def _block(texts: list[str], codes: list[int]) -> dict[str, object]:
    value = {
        "block": {"header": {"height": "5"}, "data": {"txs": texts}},
        "result_finalize_block": {"tx_results": [{"code": code} for code in codes]},
    }
    return {"jsonrpc": "2.0", "id": -1, "result": {"query": "q", "data": {"type": "t", "value": value}}}


def test_websocket_transactions_are_final_with_their_block(listener: socket.socket) -> None:
    import threading

    waiting: dict[str, int] = {}
    servers: list[WsServer] = []

    def greet() -> None:
        servers.append(WsServer(_accept(listener)))
        while not servers[0].said:
            servers[0].hear()

    thread = threading.Thread(target=greet)
    thread.start()
    channel = WsChannel("127.0.0.1", listener.getsockname()[1], waiting, subscribes=True)
    thread.join(WAIT_S)
    server = servers[0]
    assert server.said.pop()["params"] == {"query": "tm.event='NewBlock'"}
    server.say({"jsonrpc": "2.0", "id": -1, "result": {}})
    texts = [base64.b64encode(b"k%d=" % n + b"v" * 247).decode() for n in range(4)]
    for tag, text in enumerate(texts):
        channel.put(tag, text.encode())
    channel.put(4, base64.b64encode(b"big=" + b"v" * 70_000))
    channel.flush()
    while len(server.said) < 5:
        server.hear()
    assert server.said[0]["method"] == "broadcast_tx_sync"
    assert server.said[1]["params"] == {"tx": texts[1]}
    for tag in (0, 1, 3):
        server.say({"jsonrpc": "2.0", "id": tag, "result": {"code": 0, "data": "", "log": "", "hash": "A"}})
    server.say(
        {"jsonrpc": "2.0", "id": 2, "error": {"code": -32603, "message": "no", "data": "mempool is full"}}
    )
    server.send(Ping(b"abc"))
    foreign = base64.b64encode(b"not=ours").decode()
    server.say(_block([texts[0], foreign, texts[3]], [0, 0, 7]))
    assert _finish(channel, 3) == [(2, "mempool is full"), (0, ""), (3, "code 7")]
    while not server.pongs:
        server.hear()
    server.say(_block([texts[1]], [0]))
    assert _finish(channel, 1) == [(1, "")]
    server.sock.close()
    channel.close()


def test_websocket_says_when_there_can_be_no_subscription(listener: socket.socket) -> None:
    import threading

    sockets: list[socket.socket] = []

    def refuse() -> None:
        sockets.append(_accept(listener))
        sockets[0].sendall(b"HTTP/1.1 404 Not Found\r\n\r\n")

    thread = threading.Thread(target=refuse)
    thread.start()
    with pytest.raises(ChannelLost, match="no WebSocket"):
        WsChannel("127.0.0.1", listener.getsockname()[1], {}, subscribes=True)
    thread.join(WAIT_S)
    sockets[0].close()
