"""A short way for the frequent: the library's yamux over noise, with few calls for a small message.

The library (0.8.1) takes each small frame through some forty coroutines, locks, log lines and timers of
noise, yamux and its streams. Here `NoiseWire` stands in the place of the muxer's secure connection. It reads
what the socket has, opens all noise messages in it, and takes plain DATA and WINDOW_UPDATE frames itself,
many in one go. A frame that opens, acknowledges, ends or resets a stream, a ping or a GO_AWAY it hands to the
library's own loop as before, so all rules of yamux but those two stay the library's. On the wire nothing
differs.

Two things are stricter than in the library: DATA beyond the window that we gave ends the connection (it let
the buffer grow), and a cancelled write breaks nothing: what is left of it goes before the next.

Specifications: libp2p/specs, noise and yamux; hashicorp/yamux, spec.md. tests/p2p/test_lean_muxer.py compares
both ways and fails when the library's own is as short.
"""

import os
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from libp2p.abc import ISecureConn
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError, IOException
from libp2p.io.trio import TrioTCPStream
from libp2p.peer.id import ID
from libp2p.security.noise.io import MAX_PLAINTEXT_LENGTH
from libp2p.stream_muxer.yamux.yamux import (
    DEFAULT_WINDOW_SIZE,
    HEADER_SIZE,
    TYPE_DATA,
    TYPE_WINDOW_UPDATE,
    YAMUX_HEADER_FORMAT,
    Yamux,
    YamuxStream,
)

from p2p.limits import LONG_WRITE_BYTES, READ_AHEAD_BYTES, READ_BYTES, READS_IN_A_ROW_MAX, WINDOW_BYTES

_HEADER = struct.Struct(YAMUX_HEADER_FORMAT)
_LENGTH = struct.Struct(">H")
_PIECES_MAX = 256  # in one call; a system takes 1,024 at the least
_NONCE = struct.Struct("<4xQ")  # Noise Protocol Framework 12.3: 32 zero bits, then the counter


class NoiseWire:
    """The two ends of one secured connection: ``read`` and ``write`` are what the library's loop calls."""

    def __init__(self, session: Any, muxer: Yamux) -> None:
        self.conn = session  # by this name `libp2p_fixes` finds the layers below
        transport = session.conn
        protocol = transport.noise_state.noise_protocol
        self._opening, self._sealing = protocol.cipher_state_decrypt, protocol.cipher_state_encrypt
        self._raw = transport.read_writer.read_write_closer
        bottom = self._raw.stream
        self._socket: Any = bottom.stream.socket if isinstance(bottom, TrioTCPStream) else None
        self._muxer = muxer
        self._in_a_row = 0  # reads without another task's turn between
        self._sealed = b""  # the start of a noise message
        self._plain: bytes = session._drain(None)  # opened and not taken, from `_at` on
        self._at = 0
        self._body_of = 0  # the stream of the DATA frame that is coming in
        self._body_left = 0
        self._rare_left = 0  # the body of a frame that the library has the header of
        self._out: list[bytes] = []  # sealed, not yet taken by the socket
        self._out_lock = trio.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.conn, name)  # addresses, ids and closing are the session's

    async def read(self, n: int) -> bytes:
        """Returns the header of the next frame that is the library's to handle, or up to ``n`` bytes of its
        body. Raises IncompleteReadError at the end, ConnectionClosedError and IOException when it broke."""
        if not self._rare_left:
            while (header := self._take_frames()) is None:
                await self._fill()
            return header
        if self._at == len(self._plain):
            await self._fill()
        end = min(self._at + n, self._at + self._rare_left, len(self._plain))
        piece = self._plain[self._at : end]
        self._at = end
        self._rare_left -= len(piece)
        return piece

    def _take_frames(self) -> bytes | None:
        """Handles all plain frames that are here; returns the header of the next other one, or None."""
        data, streams = self._plain, self._muxer.streams
        while True:
            if self._body_left:
                piece = memoryview(data)[self._at : self._at + self._body_left]
                self._at += len(piece)
                self._body_left -= len(piece)
                if len(piece):
                    self._deliver(piece)
                if self._body_left:
                    return None
            start = self._at
            if len(data) - start < HEADER_SIZE:
                return None
            _, kind, flags, stream_id, length = _HEADER.unpack_from(data, start)
            self._at = start + HEADER_SIZE
            stream = streams.get(stream_id)
            if kind == TYPE_DATA and (stream is not None or flags):
                window = DEFAULT_WINDOW_SIZE if stream is None else stream.recv_window
                if length > window:
                    raise IOException(f"yamux: {length} B, the window is {window}")
            if flags or kind > TYPE_WINDOW_UPDATE:
                self._rare_left = length if kind == TYPE_DATA else 0
                return data[start : self._at]
            if kind == TYPE_DATA:
                self._body_of, self._body_left = stream_id, length
            elif stream is not None:
                stream.send_window += length

    def _deliver(self, piece: memoryview) -> None:
        muxer, stream_id = self._muxer, self._body_of
        stream = muxer.streams.get(stream_id)
        if stream is not None:  # else it was reset by us, and the peer does not know yet
            muxer.stream_buffers[stream_id].extend(piece)
            stream.recv_window -= len(piece)
            muxer.stream_events[stream_id].set()

    async def _fill(self) -> None:
        """Reads what has come, opens it and adds it to ``_plain``."""
        left = self._plain[self._at :]
        opened: list[bytes] = []
        state = self._opening
        while not opened:
            chunk = await self._receive()
            if not chunk:
                raise IncompleteReadError("closed", HEADER_SIZE, len(left) + len(self._sealed))
            data = self._sealed + chunk if self._sealed else chunk
            view, at, end = memoryview(data), 0, len(data)
            decrypt = state.cipher.cipher.decrypt
            while end - at >= 2:
                stop = at + 2 + _LENGTH.unpack_from(data, at)[0]
                if stop > end:
                    break
                opened.append(decrypt(_NONCE.pack(state.n), view[at + 2 : stop], None))
                state.n += 1
                at = stop
            self._sealed = data[at:]
        if left:
            opened.insert(0, left)
        self._plain, self._at = opened[0] if len(opened) == 1 else b"".join(opened), 0

    async def _receive(self) -> bytes:
        if self._socket is None:  # a circuit
            piece: bytes = await self._raw.read(READ_AHEAD_BYTES)
            return piece
        while True:
            try:
                if self._in_a_row == READS_IN_A_ROW_MAX:
                    self._in_a_row = 0
                if not self._in_a_row:
                    await trio.lowlevel.wait_readable(self._socket)
                chunk = os.read(self._socket.fileno(), READ_AHEAD_BYTES)
                # A full read: more is there, most likely, and to ask for it costs less than to wait for it.
                self._in_a_row = self._in_a_row + 1 if len(chunk) == READ_AHEAD_BYTES else 0
                return chunk
            except BlockingIOError:
                self._in_a_row = 0
            except (OSError, ValueError, trio.ClosedResourceError) as error:
                raise ConnectionClosedError(f"read: {error}") from error

    async def write(self, data: bytes) -> None:
        """Seals and sends all; raises ConnectionClosedError. A task switch only when the socket is full."""
        state = self._sealing
        for start in range(0, len(data), MAX_PLAINTEXT_LENGTH):
            piece = data[start : start + MAX_PLAINTEXT_LENGTH] if len(data) > MAX_PLAINTEXT_LENGTH else data
            sealed = state.cipher.cipher.encrypt(_NONCE.pack(state.n), piece, None)
            state.n += 1
            self._out.append(_LENGTH.pack(len(sealed)))
            self._out.append(sealed)
        if self._out_lock.locked() or not self._send():
            async with self._out_lock:
                while not self._send():
                    await self._send_later()

    def _send(self) -> bool:
        """Gives the socket what it takes; returns True when nothing is left."""
        out = self._out
        if not out or self._socket is None:
            return not out
        try:
            sent = os.writev(self._socket.fileno(), out[:_PIECES_MAX])
        except BlockingIOError:
            return False
        except OSError as error:
            out.clear()
            raise ConnectionClosedError(f"write: {error}") from error
        for done, piece in enumerate(out):
            if sent < len(piece):
                out[: done + 1] = [piece[sent:]]
                return False
            sent -= len(piece)
        out.clear()
        return True

    async def _send_later(self) -> None:
        if self._socket is None:
            out, self._out = self._out, []
            await self._raw.write(b"".join(out))
            return
        try:
            await trio.lowlevel.wait_writable(self._socket)
        except (OSError, ValueError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(f"write: {error}") from error


class LeanYamux(Yamux):
    """The library's muxer over a `NoiseWire`; for connections secured by noise."""

    def __init__(
        self,
        secured_conn: ISecureConn,
        peer_id: ID,
        is_initiator: bool | None = None,
        on_close: Callable[[], Awaitable[Any]] | None = None,
    ) -> None:
        super().__init__(secured_conn, peer_id, is_initiator, on_close)
        self.wire = NoiseWire(secured_conn, self)
        vars(self)["secured_conn"] = self.wire

    async def _write_frame(self, data: bytes) -> None:
        await self.wire.write(data)
        await trio.lowlevel.checkpoint()


def use_lean_muxer(swarm: Any) -> None:
    """Gives the host's connections a LeanYamux; the library takes its own class whatever its options name."""
    multistream = swarm.upgrader.muxer_multistream

    async def new_conn(session: Any, peer_id: ID) -> Any:
        choice = multistream._selector.select(session, session.is_initiator, multistream.negotiate_timeout)
        protocol, _ = await choice
        muxer = LeanYamux(session, peer_id, session.is_initiator)
        return multistream._annotate_connection(muxer, session, protocol)

    multistream.new_conn = new_conn


class LeanStream:
    """The short way in and out of one stream of a LeanYamux, for one reader and one writer."""

    def __init__(self, stream: YamuxStream) -> None:
        self._stream = stream
        self._id = stream.stream_id
        self._muxer: Any = stream.conn
        self._in_a_row_bytes = 0  # written without another task's turn between

    async def read(self) -> bytes | None:
        """Returns what has come; None when there is nothing and the stream has ended, somehow."""
        stream, muxer, stream_id = self._stream, self._muxer, self._id
        if stream.target_recv_window < WINDOW_BYTES:
            await self._widen()
        while not (buffer := muxer.stream_buffers.get(stream_id)):
            event = muxer.stream_events.get(stream_id)
            if buffer is None or event is None or stream.recv_closed or stream.closed:
                return None
            if event.is_set():
                event = muxer.stream_events[stream_id] = trio.Event()
            await event.wait()
        with memoryview(buffer) as view:
            data = bytes(view[:READ_BYTES])
        del buffer[:READ_BYTES]
        released = stream._pending_recv_release + len(data)
        half = stream.target_recv_window // 2
        if released < half and stream.target_recv_window - stream.recv_window - len(buffer) < half:
            stream._pending_recv_release = released
        else:
            await stream._auto_tune_and_send_window_update(bytes_read=len(data))
        return data

    async def _widen(self) -> None:
        """Gives the peer a window that its credit never fills: at a full one the library looks for room every
        10 ms."""
        more = WINDOW_BYTES - self._stream.target_recv_window
        self._stream.target_recv_window = WINDOW_BYTES
        self._stream.recv_window += more
        await self._stream.send_window_update(more, skip_lock=True)

    async def write(self, data: bytes) -> bool:
        """Sends all; returns False, and has sent nothing, when the library must: no window, or an end."""
        stream = self._stream
        if stream.send_closed or stream.closed or len(data) > stream.send_window:
            return False
        stream.send_window -= len(data)
        await self._muxer.wire.write(_HEADER.pack(0, TYPE_DATA, 0, self._id, len(data)) + data)
        self._in_a_row_bytes += len(data)
        if self._in_a_row_bytes > LONG_WRITE_BYTES:
            self._in_a_row_bytes = 0
            await trio.lowlevel.checkpoint()
        return True
