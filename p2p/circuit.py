"""Circuits of libp2p's relay v2 (libp2p/specs, relay/circuit-v2.md): messages, and a circuit as raw bytes.

A circuit is a stream to a relay, joined by it to a stream to the target. Both ends speak noise and yamux
within, so the relay sees neither words nor may it pretend to be anybody. The library's own relay is not used:
it dials past our links and bans, and keeps one circuit per peer in its books.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from libp2p.abc import INetStream
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import IOException
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, StopMessage
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited

from p2p.errors import StreamClosed
from p2p.limits import CLOSE_S, RELAY_MESSAGE_BYTES_MAX, RELAY_STEP_S

HOP_PROTOCOL: Final = "/libp2p/circuit/relay/0.2.0/hop"  # a client asks its relay
STOP_PROTOCOL: Final = "/libp2p/circuit/relay/0.2.0/stop"  # a relay asks the target


class CircuitStream(ReadWriteCloser):
    """One end of a circuit, as the library's upgrade to a connection wants it. Whatever breaks it is its end.

    A write is not cancelled: half of it would break the connection to the relay, and all circuits on it.
    """

    def __init__(self, stream: INetStream, on_close: Callable[[], Awaitable[None]] | None = None) -> None:
        # No name that libp2p_fixes looks for: under it stands the relay's socket, which is not ours to close.
        self._carrier = stream
        self._on_close = on_close
        self._is_closed = False

    async def read(self, n: int | None = None) -> bytes:
        """Returns up to ``n`` bytes; ``b""`` at the end, however it came."""
        try:
            return await self._carrier.read(n)
        except Exception:  # noqa: BLE001 - the library has many errors for one end
            return b""

    async def write(self, data: bytes) -> None:
        """Writes all; raises the library's IOException at the end."""
        try:
            with trio.CancelScope(shield=True):
                await self._carrier.write(data)
        except Exception as error:
            raise IOException(f"circuit: {error}") from error

    async def close(self) -> None:
        """Ends the circuit; bounded in time, never raises."""
        if self._is_closed:
            return
        self._is_closed = True
        await end_stream(self._carrier)
        if self._on_close is not None:
            await self._on_close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Returns the relay's host and port."""
        return self._carrier.get_remote_address()


async def read_message(stream: INetStream, kind: type[Any]) -> Any:
    """Returns the next HopMessage or StopMessage; raises StreamClosed for anything else, and when it does not
    come in RELAY_STEP_S."""
    try:
        with trio.fail_after(RELAY_STEP_S):
            raw = await read_varint_prefixed_bytes_limited(stream, RELAY_MESSAGE_BYTES_MAX)
            return kind.FromString(raw)
    except Exception as error:
        raise StreamClosed(f"relay: {type(error).__name__}: {error}") from error


async def write_message(stream: INetStream, message: HopMessage | StopMessage) -> None:
    """Writes one message; raises StreamClosed."""
    try:
        with trio.CancelScope(shield=True):
            await stream.write(encode_varint_prefixed(message.SerializeToString()))
    except Exception as error:
        raise StreamClosed(f"relay: {error}") from error


async def end_stream(stream: INetStream) -> None:
    """Resets a stream, also when we are being cancelled; bounded in time, never raises."""
    with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_S):
        try:
            await stream.reset()
        except Exception:  # noqa: BLE001 - it has ended already
            return
