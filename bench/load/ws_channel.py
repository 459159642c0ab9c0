"""A transaction to CometBFT: broadcast_tx_sync by JSON-RPC over a WebSocket (RFC 6455), final with its block.

Many at once on one connection. One channel of a client subscribes to NewBlock, which its node publishes
after it has executed and stored the block: the cheapest way for the nodes to tell, one message a block.
"""

from __future__ import annotations

import base64
from typing import Final

import msgspec

from bench.load.channel import Channel, ChannelLost, read_exactly

UNDER_WAY_MAX: Final = 4_000  # below the default mempool of 5,000
HEAD_BYTES_MAX: Final = 16 * 1024
_CONTINUED, _TEXT, _CLOSE, _PING, _PONG = 0, 1, 8, 9, 10
_QUERY: Final = b"tm.event='NewBlock'"
_SUBSCRIBE: Final = b'{"jsonrpc":"2.0","id":-1,"method":"subscribe","params":{"query":"%b"}}' % _QUERY


class _Error(msgspec.Struct):
    message: str = ""
    data: str = ""


class _Result(msgspec.Struct):
    code: int = 0
    log: str = ""
    data: msgspec.Raw = msgspec.Raw(b"")


class _Said(msgspec.Struct):
    id: int
    error: _Error | None = None
    result: _Result | None = None


class _Txs(msgspec.Struct):
    txs: list[str] | None = None


class _Block(msgspec.Struct):
    data: _Txs


class _TxResult(msgspec.Struct):
    code: int = 0


class _Finalized(msgspec.Struct):
    tx_results: list[_TxResult] | None = None


class _NewBlock(msgspec.Struct):
    block: _Block
    result_finalize_block: _Finalized


class _Event(msgspec.Struct):
    value: _NewBlock


def frame(opcode: int, payload: bytes) -> bytes:
    """A client's frame (section 5.2). The mask is zero: it must be there, and costs nothing so."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + bytes(4) + payload


class WsChannel(Channel):
    """`waiting`: transaction in base64 -> tag, shared by all channels of a client."""

    def __init__(
        self, host: str, port: int, waiting: dict[str, int], source: str = "", *, subscribes: bool
    ) -> None:
        super().__init__(host, port, source)
        self._waiting = waiting
        self._buffer = bytearray()
        self._message = bytearray()
        self._texts: dict[int, str] = {}
        key = base64.b64encode(bytes(16)).decode()
        self.sock.sendall(
            f"GET /websocket HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        try:
            head = read_exactly(self.sock, b"\r\n\r\n", HEAD_BYTES_MAX)
        except (OSError, ChannelLost):
            self.close()
            raise
        if not head.startswith(b"HTTP/1.1 101"):
            self.close()
            raise ChannelLost(f"no WebSocket: {head[:60]!r}")
        if subscribes:
            self.sock.sendall(frame(_TEXT, _SUBSCRIBE))
        self.open()

    @property
    def room(self) -> int:
        return UNDER_WAY_MAX - len(self.under_way)

    def encode(self, tag: int, payload: bytes) -> bytes:
        text = payload.decode()  # base64 already
        self._waiting[text] = tag
        self._texts[tag] = text
        said = b'{"jsonrpc":"2.0","id":%d,"method":"broadcast_tx_sync","params":{"tx":"%b"}}' % (tag, payload)
        return frame(_TEXT, said)

    def parse(self, data: bytes) -> list[tuple[int, str]]:
        self._buffer += data
        done: list[tuple[int, str]] = []
        while (found := self._next_frame()) is not None:
            is_last, opcode, payload = found
            if opcode == _PING:
                self.unsent += frame(_PONG, payload)
            elif opcode == _CLOSE:
                raise ChannelLost(f"closed: {payload[2:200]!r}")
            elif opcode in (_TEXT, _CONTINUED):
                self._message += payload
                if is_last:
                    self._hear(bytes(self._message), done)
                    self._message.clear()
        return done

    def _next_frame(self) -> tuple[bool, int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size, at = buffer[1] & 0x7F, 2
        if size >= 126:
            at = 4 if size == 126 else 10
            if len(buffer) < at:
                return None
            size = int.from_bytes(buffer[2:at], "big")
        if len(buffer) < at + size:
            return None
        found = bool(buffer[0] & 0x80), buffer[0] & 0x0F, bytes(buffer[at : at + size])
        del buffer[: at + size]
        return found

    def _hear(self, message: bytes, done: list[tuple[int, str]]) -> None:
        said = msgspec.json.decode(message, type=_Said)
        if said.id >= 0:
            error = said.error.data or said.error.message if said.error is not None else ""
            if said.result is not None and said.result.code:
                error = said.result.log or f"code {said.result.code}"
            text = self._texts.pop(said.id, "")
            if error and self._waiting.pop(text, None) is not None:
                done.append((said.id, error))
        elif said.error is not None:
            raise ChannelLost(f"no subscription: {said.error.data}")
        elif said.result is not None and len(said.result.data) > 2:
            block = msgspec.json.decode(said.result.data, type=_Event).value
            for text, result in zip(
                block.block.data.txs or (), block.result_finalize_block.tx_results or (), strict=True
            ):
                tag = self._waiting.pop(text, None)
                if tag is not None:
                    done.append((tag, f"code {result.code}" if result.code else ""))
