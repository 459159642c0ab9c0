"""A signed transaction to a Gridpact validator: POST /v1/tx?wait=final, HTTP/1.1, kept alive (RFC 9112)."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from bench.load.channel import Channel, ChannelLost

HEAD_BYTES_MAX: Final = 32 * 1024
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class _Answer(msgspec.Struct):
    state: str = ""
    ok: bool = False
    rule: str = ""


class HttpChannel(Channel):
    """One request at a time: HTTP/1.1 without pipelining, as every client library does it."""

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        super().__init__(host, port)
        self._head = (
            f"POST /v1/tx?wait=final&timeout={timeout_s:.0f} HTTP/1.1\r\nHost: {host}:{port}\r\n"
            "Content-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n"
        ).encode()
        self._buffer = bytearray()
        self._tag = -1
        self.open()

    @property
    def room(self) -> int:
        return 0 if self.under_way else 1

    def encode(self, tag: int, payload: bytes) -> bytes:
        self._tag = tag
        return self._head % len(payload) + payload

    def parse(self, data: bytes) -> list[tuple[int, str]]:
        buffer = self._buffer
        buffer += data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(buffer) > HEAD_BYTES_MAX:
                raise ChannelLost("a head without an end")
            return []
        found = _LENGTH.search(buffer, 0, end + 2)
        if found is None:
            raise ChannelLost("an answer without a length")
        whole = end + 4 + int(found[1])
        if len(buffer) < whole:
            return []
        status, body = int(buffer[9:12]), bytes(buffer[end + 4 : whole])
        del buffer[:whole]
        if not self.under_way:
            raise ChannelLost("an answer to nothing")
        return [(self._tag, _error(status, body))]


def _error(status: int, body: bytes) -> str:
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except msgspec.MsgspecError:
        return f"HTTP {status}"
    if status == 200 and answer.state == "final" and answer.ok:
        return ""
    return f"HTTP {status} {answer.rule or answer.state}"
