"""Signed transactions to a Gridpact validator: POST /v1/txs, one long HTTP/1.1 request with both bodies open.

Each transaction is a frame of the request's body; each gets a JSON line of the answer's once it is final.
Both bodies are chunked (RFC 9112, section 7.1); what is put in one turn of the loop goes as one chunk.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bench.load.channel import Channel, ChannelLost

UNDER_WAY_MAX: Final = 4_000  # as on the others' connections, and below what a peer takes
HEAD_BYTES_MAX: Final = 32 * 1024
CHUNK_BYTES_MAX: Final = 16 * 1024 * 1024


class _Line(msgspec.Struct):
    n: int
    state: str = ""
    ok: bool = False
    rule: str = ""


class StreamChannel(Channel):
    """`n` of the answers counts the frames of this connection; tags are the loop's own."""

    def __init__(self, host: str, port: int, timeout_s: float, source: str = "") -> None:
        super().__init__(host, port, source)
        self.unsent += (
            f"POST /v1/txs?wait=final&timeout={timeout_s:.0f} HTTP/1.1\r\nHost: {host}:{port}\r\n"
            "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        ).encode()
        self._frames = bytearray()
        self._tags: list[int] = []
        self._buffer = bytearray()
        self._lines = bytearray()
        self._headed = False
        self._decode = msgspec.json.Decoder(_Line).decode
        self.open()

    @property
    def room(self) -> int:
        return UNDER_WAY_MAX - len(self.under_way)

    def encode(self, tag: int, payload: bytes) -> bytes:
        self._tags.append(tag)
        self._frames += len(payload).to_bytes(4, "big") + payload
        return b""

    def flush(self) -> None:
        if self._frames:
            self.unsent += b"%x\r\n%b\r\n" % (len(self._frames), self._frames)
            self._frames.clear()
        super().flush()

    def parse(self, data: bytes) -> list[tuple[int, str]]:
        self._buffer += data
        if not self._headed and not self._head():
            return []
        while self._chunk():
            pass
        end = self._lines.rfind(b"\n")
        if end < 0:
            return []
        whole = bytes(self._lines[:end])
        del self._lines[: end + 1]
        return [self._outcome(line) for line in whole.split(b"\n")]

    def _head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_BYTES_MAX:
                raise ChannelLost("a head without an end")
            return False
        head = bytes(self._buffer[:end]).lower()
        if not head.startswith(b"http/1.1 200") or b"transfer-encoding: chunked" not in head:
            raise ChannelLost(f"refused: {bytes(self._buffer[:400])!r}")
        del self._buffer[: end + 4]
        self._headed = True
        return True

    def _chunk(self) -> bool:
        """Move one whole chunk to the lines. False: there is none yet."""
        buffer = self._buffer
        end = buffer.find(b"\r\n", 0, 32)
        if end < 0:
            if len(buffer) >= 32:
                raise ChannelLost("no chunk")
            return False
        try:
            size = int(buffer[:end].partition(b";")[0], 16)
        except ValueError:
            raise ChannelLost("no chunk") from None
        if size == 0:
            raise ChannelLost("the peer ended the stream")
        if size > CHUNK_BYTES_MAX:
            raise ChannelLost("a chunk too long")
        if len(buffer) < end + 2 + size + 2:
            return False
        self._lines += buffer[end + 2 : end + 2 + size]
        del buffer[: end + 2 + size + 2]
        return True

    def _outcome(self, text: bytes) -> tuple[int, str]:
        line = self._decode(text)
        if line.n >= len(self._tags):
            raise ChannelLost(f"an answer to nothing: {text[:200]!r}")
        good = line.state == "final" and line.ok
        return self._tags[line.n], "" if good else f"{line.state} {line.rule}".strip()
