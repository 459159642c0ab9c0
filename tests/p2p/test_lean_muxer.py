"""The short way through yamux and noise: the same as the library's to the last bit of state, and shorter."""

import random
import socket
import struct
import sys
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.security.noise.io import NoiseTransportReadWriter
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable
from libp2p.stream_muxer.yamux.yamux import Yamux
from noise.connection import NoiseConnection

from p2p import libp2p_fixes
from p2p.circuit import CircuitStream
from p2p.errors import StreamClosed
from p2p.host_parts import HostStream
from p2p.lean_muxer import LeanStream, LeanYamux
from p2p.limits import CREDIT_BYTES, WRITE_BYTES_MAX

DATA, UPDATE, PING, GO_AWAY, UNKNOWN = 0, 1, 2, 3, 7
SYN, ACK, FIN, RST = 1, 2, 4, 8
WINDOW = 256 * 1024


def frame(kind: int, flags: int, stream_id: int, length: int, body: bytes = b"") -> bytes:
    return struct.pack("!BBHII", 0, kind, flags, stream_id, length) + body


_sockets: list[socket.socket] = []


def socket_pair():
    ends = socket.socketpair()
    _sockets.extend(ends)
    return [trio.socket.from_stdlib_socket(end) for end in ends]


@pytest.fixture(autouse=True)
def close_sockets():
    yield
    while _sockets:
        _sockets.pop().close()


def noise_pair():
    """Two noise states after their handshake."""
    one, other = (NoiseConnection.from_name(b"Noise_NN_25519_ChaChaPoly_SHA256") for _ in range(2))
    one.set_as_initiator()
    other.set_as_responder()
    one.start_handshake()
    other.start_handshake()
    other.read_message(bytes(one.write_message()))
    one.read_message(bytes(other.write_message()))
    return one, other


def session_over(stream, noise, is_initiator: bool) -> SecureSession:
    keys = create_new_key_pair(b"\7" * 32)
    return SecureSession(
        local_peer=ID(b"us"),
        local_private_key=keys.private_key,
        remote_peer=ID(b"them"),
        remote_permanent_pubkey=keys.public_key,
        is_initiator=is_initiator,
        conn=NoiseTransportReadWriter(RawConnection(stream, is_initiator), noise),
    )


async def wired(nursery, kind: type[Yamux]):
    """A running muxer, and the other end: its socket and its noise state."""
    near, far = socket_pair()
    mine, theirs = noise_pair()
    muxer = kind(session_over(TrioTCPStream(trio.SocketStream(near)), mine, False), ID(b"them"))
    muxer.accepted = []

    async def accept():
        try:
            while True:
                muxer.accepted.append(await muxer.accept_stream())
        except MuxedConnUnavailable:
            muxer.accepted.append(None)

    nursery.start_soon(muxer.start)
    nursery.start_soon(accept)
    await muxer.event_started.wait()
    return muxer, trio.SocketStream(far), theirs


async def pair(nursery, kind: type[Yamux] = LeanYamux):
    """Two muxers over one socket pair, and a stream from the second: both its ends."""
    near, far = socket_pair()
    mine, theirs = noise_pair()
    muxers = [
        kind(session_over(TrioTCPStream(trio.SocketStream(end)), noise, noise is theirs), ID(b"them"))
        for end, noise in ((near, mine), (far, theirs))
    ]
    for muxer in muxers:
        nursery.start_soon(muxer.start)
        await muxer.event_started.wait()
    out = await muxers[1].open_stream()
    return muxers, out, await muxers[0].accept_stream()


def host_stream(end) -> HostStream:
    return HostStream(NetStream(end, None, None))


def seal(noise, plain: bytes, rng: random.Random) -> bytes:
    """The bytes as noise messages of any sizes."""
    sealed = b""
    while plain:
        size = rng.choice((1, 7, 12, 13, 300, 5_000, 65_000))
        message = noise.encrypt(plain[:size])
        sealed += len(message).to_bytes(2, "big") + message
        plain = plain[size:]
    return sealed


class Opener:
    """What the muxer sends, opened."""

    def __init__(self, stream, noise) -> None:
        self.plain = b""
        self._stream, self._noise, self._rest = stream, noise, b""

    async def more(self) -> bool:
        chunk = await self._stream.receive_some(65_536)
        self._rest += chunk
        while len(self._rest) >= 2 and len(self._rest) >= 2 + int.from_bytes(self._rest[:2], "big"):
            end = 2 + int.from_bytes(self._rest[:2], "big")
            self.plain += self._noise.decrypt(self._rest[2:end])
            self._rest = self._rest[end:]
        return bool(chunk)


def any_frames(rng: random.Random) -> bytes:
    """Frames as a peer might send them, good and odd, within the windows."""
    sent, frames = dict.fromkeys((1, 3, 5, 7, 9), 0), []
    for stream_id in (1, 3, 5):
        frames.append(frame(UPDATE, SYN, stream_id, 0))
    for number in range(60):
        stream_id = rng.choice(tuple(sent))
        flags = rng.choice((0, 0, 0, 0, 0, 0, SYN, ACK, FIN, RST, FIN | RST, 16))
        kind = rng.choice((DATA, DATA, DATA, UPDATE, PING, UNKNOWN))
        body = b""
        if kind == DATA:
            body = bytes([number]) * rng.choice((0, 1, 30, 200, 4_000, 16_000))
            if sent[stream_id] + len(body) > WINDOW:
                continue
            sent[stream_id] += len(body)
        length = len(body) if kind == DATA else rng.choice((0, 5, 70_000))
        frames.append(frame(kind, flags, stream_id, length, body))
    return b"".join(frames)


def state_of(muxer: Yamux) -> dict[str, object]:
    names = ("closed", "send_closed", "recv_closed", "reset_received", "send_window", "recv_window")
    return {
        "streams": {key: [getattr(one, name) for name in names] for key, one in muxer.streams.items()},
        "buffers": {key: bytes(one) for key, one in muxer.stream_buffers.items()},
        "events": {key: one.is_set() for key, one in muxer.stream_events.items()},
        "accepted": [one.stream_id for one in muxer.accepted],
    }


@pytest.mark.parametrize("seed", range(12))
async def test_same_state_and_answers_as_the_library(seed, nursery):
    """One byte stream, cut anywhere, through the library's muxer and through ours."""
    libp2p_fixes.quiet_logs()
    ends = []
    for kind in (Yamux, LeanYamux):
        rng = random.Random(seed)
        muxer, far, noise = await wired(nursery, kind)
        plain = any_frames(rng) + frame(PING, SYN, 0, 987_654)  # its answer says that all is handled
        sealed, opener = seal(noise, plain, rng), Opener(far, noise)

        async def send(sealed=sealed, far=far, rng=rng):
            while sealed:
                size = rng.choice((1, 2, 50, 3_000, 70_000))
                await far.send_all(sealed[:size])
                sealed = sealed[size:]

        nursery.start_soon(send)
        answer = frame(PING, ACK, 0, 987_654)
        with trio.fail_after(60):
            while not opener.plain.endswith(answer):
                assert await opener.more()
        own_pings = frame(PING, SYN, 0, 1)
        ends.append((state_of(muxer), opener.plain.replace(own_pings, b"")))
        await trio.aclose_forcefully(far)
    assert ends[0] == ends[1]
    assert len(ends[0][1]) >= 12 * 5
    nursery.cancel_scope.cancel()


async def calls_for_messages(kind: type[Yamux], count: int) -> int:
    """Python calls that it takes to bring so many small messages through one stream, both ends."""
    async with trio.open_nursery() as nursery:
        _, out, into = await pair(nursery, kind)
        streams = [host_stream(end) for end in (out, into)]
        calls = 0

        def count_call(_frame, event, _argument):
            nonlocal calls
            calls += event == "call"

        with trio.fail_after(60):
            for number in range(count):
                if number == 1:
                    sys.setprofile(count_call)
                try:
                    await streams[0].write(b"x" * 200)
                    assert await streams[1].read() == b"x" * 200
                except BaseException:
                    sys.setprofile(None)
                    raise
            sys.setprofile(None)
        nursery.cancel_scope.cancel()
    return calls


async def test_shorter_than_the_library():
    """Fault: a small message costs the library more than twice as many calls, trio's own counted on both."""
    libp2p_fixes.quiet_logs()
    libp2p_fixes.batch_window_updates()
    library, ours = [await calls_for_messages(kind, 50) for kind in (Yamux, LeanYamux)]
    assert library > 2 * ours, f"{library} and {ours} calls: the library is as short now"


@pytest.mark.parametrize("flags", [0, ACK, SYN, FIN])
async def test_more_than_the_window_ends_the_connection(flags, nursery):
    muxer, far, noise = await wired(nursery, LeanYamux)
    much = b"" if flags == SYN else frame(UPDATE, SYN, 1, 0)
    much += frame(DATA, flags, 1, WINDOW + 1)
    await far.send_all(seal(noise, much, random.Random(1)))
    with trio.fail_after(60):
        await muxer.event_closed.wait()
        while await far.receive_some(65_536):
            pass


@pytest.mark.parametrize("harm", ["tag", "cut", "silence"])
async def test_broken_bytes_end_the_connection(harm, nursery):
    muxer, far, noise = await wired(nursery, LeanYamux)
    stream = frame(UPDATE, SYN, 1, 0) + frame(DATA, 0, 1, 5, b"hello")
    sealed = bytearray(seal(noise, stream, random.Random(1)))
    if harm == "tag":
        sealed[-1] ^= 1
    await far.send_all(bytes(sealed[:-1] if harm == "cut" else sealed))
    if harm != "tag":
        await trio.aclose_forcefully(far)
    with trio.fail_after(60):
        await muxer.event_closed.wait()
    assert not muxer.streams


async def test_bytes_before_the_muxer_are_not_lost(nursery):
    """What the session has opened already when the muxer takes over is the muxer's."""
    near, far = socket_pair()
    mine, theirs = noise_pair()
    session = session_over(TrioTCPStream(trio.SocketStream(near)), mine, False)
    far_stream = trio.SocketStream(far)
    message = theirs.encrypt(b"negotiated" + frame(UPDATE, SYN, 1, 0) + frame(DATA, 0, 1, 5, b"hello"))
    await far_stream.send_all(len(message).to_bytes(2, "big") + message)
    assert await session.read(10) == b"negotiated"
    muxer = LeanYamux(session, ID(b"them"))
    nursery.start_soon(muxer.start)
    with trio.fail_after(60):
        stream = await muxer.accept_stream()
        assert await LeanStream(stream).read() == b"hello"
    nursery.cancel_scope.cancel()


async def test_a_cancelled_write_breaks_nothing(nursery):
    """The socket is full, a write is cancelled, another waits: all comes whole and in order."""
    muxer, far, noise = await wired(nursery, LeanYamux)
    count = 0
    with trio.move_on_after(0.2) as scope:
        while True:
            count += 1
            await muxer.wire.write(frame(UNKNOWN, 0, count, 0) + b"y" * 60_000)
    assert scope.cancelled_caught and count > 1
    nursery.start_soon(muxer.wire.write, b"one")
    nursery.start_soon(muxer.wire.write, b"two")
    opener = Opener(far, noise)
    with trio.fail_after(60):
        while not opener.plain.endswith((b"onetwo", b"twoone")):
            assert await opener.more()
    assert opener.plain.count(b"y") == count * 60_000
    await trio.aclose_forcefully(far)
    nursery.cancel_scope.cancel()


async def test_long_writes_and_windows(nursery):
    """Twenty windows through the short way, with gaps in the reading: none lost, none beyond the window."""
    _, out, into = await pair(nursery)
    streams = [host_stream(end) for end in (out, into)]
    total, got = 20 * WINDOW, 0
    rng = random.Random(3)

    async def send():
        left = total
        while left:
            size = min(left, rng.choice((1, 500, WRITE_BYTES_MAX)))
            await streams[0].write(bytes(size))
            left -= size

    nursery.start_soon(send)
    with trio.fail_after(60):
        while got < total:
            got += len(await streams[1].read())
            if rng.random() < 0.05:
                await trio.testing.wait_all_tasks_blocked()
    assert got == total
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("first", [CREDIT_BYTES // 2 - WRITE_BYTES_MAX, CREDIT_BYTES - WRITE_BYTES_MAX])
async def test_all_of_the_credit_fits_what_is_left_of_the_window(nursery, first):
    """As much was read as is not given back yet: still no write meets a full window, where the library would
    look for room every 10 ms only, and end the stream after 5 s."""
    _, out, into = await pair(nursery)
    sender, reader = LeanStream(out), host_stream(into)

    async def send(total: int) -> None:
        for at in range(0, total, WRITE_BYTES_MAX):
            assert await sender.write(bytes(min(WRITE_BYTES_MAX, total - at)))

    async def read(total: int) -> None:
        while total:
            total -= len(await reader.read())
        await reader.write(b"c")  # the credit: it comes after the window, on the same line
        assert await host_stream(out).read() == b"c"

    with trio.fail_after(60):
        async with trio.open_nursery() as both:
            both.start_soon(read, 1)
            await trio.testing.wait_all_tasks_blocked()  # who reads has given its window
            await send(1)
        await send(first)
        await read(first)
        for _ in range(10):
            await send(CREDIT_BYTES)
            await read(CREDIT_BYTES)
    nursery.cancel_scope.cancel()


async def test_end_and_reset_are_heard(nursery):
    _, out, into = await pair(nursery)
    lean = host_stream(into)
    await out.write(b"last")
    await out.close()
    assert await lean.read() == b"last"
    with pytest.raises(StreamClosed):
        await lean.read()
    await out.reset()
    with trio.fail_after(60):
        while not into.closed:
            await trio.lowlevel.checkpoint()
    with pytest.raises(StreamClosed):
        await lean.write(b"x")
    nursery.cancel_scope.cancel()


async def test_over_a_circuit(nursery):
    """Where no socket is at the bottom, the layer below is asked."""
    one, other = trio.testing.memory_stream_pair()
    mine, theirs = noise_pair()

    def carrier(stream):
        return CircuitStream(
            SimpleNamespace(read=stream.receive_some, write=stream.send_all, reset=stream.aclose)
        )

    muxers = [
        LeanYamux(session_over(carrier(end), noise, noise is theirs), ID(b"them"))
        for end, noise in ((one, mine), (other, theirs))
    ]
    for muxer in muxers:
        nursery.start_soon(muxer.start)
        await muxer.event_started.wait()
    out = await muxers[1].open_stream()
    with trio.fail_after(60):
        into = await muxers[0].accept_stream()
        assert await LeanStream(out).write(b"through")
        assert await LeanStream(into).read() == b"through"
        await muxers[1].close()
        await muxers[0].event_closed.wait()
    nursery.cancel_scope.cancel()


async def test_a_closed_socket_is_the_end(nursery):
    muxer, far, _ = await wired(nursery, LeanYamux)
    await libp2p_fixes.close_connection(
        SimpleNamespace(
            close=muxer.close, swarm=SimpleNamespace(remove_conn=lambda _: None), muxed_conn=muxer
        )
    )
    with pytest.raises(ConnectionClosedError):
        await muxer.wire.write(b"x")
    with pytest.raises(ConnectionClosedError):
        await muxer.wire.read(12)
    assert await far.receive_some(1) in (b"", b"\0")
    await trio.aclose_forcefully(far)
