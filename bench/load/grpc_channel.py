"""A write to etcd: unary gRPC calls of etcdserverpb.KV/Put, many at once on an HTTP/2 connection (RFC 9113).

By hand, because a gRPC library costs a Python client more than etcd's three members spend on the write, and
the client would be what is measured. Only what a unary client needs: header blocks without compression
state, flow control for what we send, pings answered. A call is good when its answer has a message: gRPC
sends none with an error.
"""

from __future__ import annotations

import secrets
from collections import deque
from typing import Final

from bench.load.channel import Channel, ChannelLost
from ledger.keys import SIGNATURE_BYTES, Key, verify_raw

STREAMS_MAX: Final = 4_000  # at once on one connection; etcd allows any number
WINDOW_BYTES: Final = 65_535  # RFC 9113, 6.9.2: until the server says otherwise
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_MAX_CONCURRENT_STREAMS: Final = 3
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame (section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def put_request(key: bytes, value: bytes) -> bytes:
    """The encoding of etcdserverpb.PutRequest: field 1 key, field 2 value."""
    return b"\x0a" + varint(len(key)) + key + b"\x12" + varint(len(value)) + value


def varint(number: int) -> bytes:
    """Protocol buffers' base-128 encoding."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _header_block(authority: str) -> bytes:
    """Literal fields without indexing or Huffman codes (RFC 7541, 6.2.2): no state on either side."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/etcdserverpb.KV/Put",
        ":authority": authority,
        "content-type": "application/grpc",
        "te": "trailers",
    }
    block = bytearray()
    for name, value in fields.items():
        block += b"\x00" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
    return bytes(block)


class GrpcChannel(Channel):
    """Payloads are encoded PutRequests."""

    def __init__(self, host: str, port: int, source: str = "") -> None:
        super().__init__(host, port, source)
        self._headers = _header_block(f"{host}:{port}")
        self._buffer = bytearray()
        self._next_stream = 1
        self._tags: dict[int, int] = {}
        self._good: set[int] = set()
        self._window = WINDOW_BYTES
        self._streams_max = STREAMS_MAX
        self._waiting: deque[tuple[int, bytes]] = deque()  # messages that the window has no room for
        # A window of 2 GiB for what we receive: never to be renewed within a measurement.
        self.sock.sendall(
            _PREFACE + frame(_SETTINGS, 0, 0, b"") + frame(_WINDOW_UPDATE, 0, 0, (1 << 30).to_bytes(4, "big"))
        )
        self.open()

    @property
    def room(self) -> int:
        return self._streams_max - len(self._tags)

    def encode(self, tag: int, payload: bytes) -> bytes:
        stream = self._next_stream
        self._next_stream += 2
        self._tags[stream] = tag
        self._waiting.append((stream, b"\x00" + len(payload).to_bytes(4, "big") + payload))
        return self._let_go()

    def _let_go(self) -> bytes:
        """Frames of the calls that fit the server's window."""
        out = bytearray()
        while self._waiting and len(self._waiting[0][1]) <= self._window:
            stream, message = self._waiting.popleft()
            self._window -= len(message)
            out += frame(_HEADERS, _END_HEADERS, stream, self._headers)
            out += frame(_DATA, _END_STREAM, stream, message)
        return bytes(out)

    def parse(self, data: bytes) -> list[tuple[int, str]]:
        buffer = self._buffer
        buffer += data
        done: list[tuple[int, str]] = []
        at, size = 0, len(buffer)
        while size - at >= 9:
            length = int.from_bytes(buffer[at : at + 3], "big")
            if size - at < 9 + length:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            stream = int.from_bytes(buffer[at + 5 : at + 9], "big")
            if kind == _DATA:
                if length > 5:
                    self._good.add(stream)
            elif kind not in (_HEADERS, _RST_STREAM):
                self._control(kind, flags, stream, bytes(buffer[at + 9 : at + 9 + length]))
            if kind == _RST_STREAM or (kind <= _HEADERS and flags & _END_STREAM):
                self._end(stream, kind == _RST_STREAM, done)
            at += 9 + length
        del buffer[:at]
        self.unsent += self._let_go()
        return done

    def _end(self, stream: int, is_reset: bool, done: list[tuple[int, str]]) -> None:
        tag = self._tags.pop(stream, None)
        if tag is None:
            return
        good = stream in self._good and not is_reset
        self._good.discard(stream)
        done.append((tag, "" if good else "gRPC: reset" if is_reset else "gRPC: refused"))

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _PING and not flags & _ACK:
            self.unsent += frame(_PING, _ACK, 0, payload)
        elif kind == _SETTINGS and not flags & _ACK:
            for at in range(0, len(payload) - 5, 6):
                if int.from_bytes(payload[at : at + 2], "big") == _MAX_CONCURRENT_STREAMS:
                    self._streams_max = min(STREAMS_MAX, int.from_bytes(payload[at + 2 : at + 6], "big"))
            self.unsent += frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _WINDOW_UPDATE and stream == 0:  # a stream's own is never full: one call is smaller
            self._window += int.from_bytes(payload, "big") & 0x7FFF_FFFF
        elif kind == _GOAWAY:
            raise ChannelLost(f"GOAWAY {payload[8:200]!r}")


class SigningGrpcChannel(GrpcChannel):
    """What authenticity costs users of a store without signatures: the writer signs, the reader verifies.

    Both in this client, at the time of the write; the value keeps its length, its end is the signature.
    """

    def __init__(self, host: str, port: int, source: str = "") -> None:
        super().__init__(host, port, source)
        self._key = Key(secrets.token_bytes(32))
        self._kept: dict[int, tuple[bytes, bytes]] = {}

    def encode(self, tag: int, payload: bytes) -> bytes:
        plain = payload[:-SIGNATURE_BYTES]
        signature = self._key.sign_raw(plain)
        self._kept[tag] = plain, signature
        return super().encode(tag, plain + signature)

    def parse(self, data: bytes) -> list[tuple[int, str]]:
        return [(tag, self._checked(tag, error)) for tag, error in super().parse(data)]

    def _checked(self, tag: int, error: str) -> str:
        plain, signature = self._kept.pop(tag)
        if error:
            return error
        return "" if verify_raw(self._key.public, plain, signature) else "not signed"
