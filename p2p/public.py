"""What anybody may read from a peer before they share a chain with it, such as the chain's genesis.

One protocol, one value: the reader opens a stream and sends nothing; the answer is the value's length (4
bytes, big-endian) and the value, then the stream ends. Noise has proved who answers.
"""

import p2p.lean_import  # noqa: F401 - before anything of the library

# isort: split
import secrets
from collections.abc import Callable
from typing import Any

import trio
from libp2p.abc import INetStream
from libp2p.peer.id import ID

from p2p.errors import ConnectFailed, PeerFault, StreamClosed
from p2p.host_parts import HostConnection, HostStream, build_host, to_multiaddr
from p2p.ids import peer_of_address
from p2p.limits import (
    DIAL_S,
    HANDSHAKE_S,
    LENGTH_BYTES,
    PUBLIC_READERS_MAX,
    PUBLIC_VALUE_BYTES_MAX,
    WRITE_BYTES_MAX,
)


class PublicValue:
    """Hands one value out, to a bounded number of readers at once and to each in bounded time."""

    def __init__(self, value: bytes, count: Callable[[str], None]) -> None:
        self._wire = len(value).to_bytes(LENGTH_BYTES, "big") + value
        self._count = count
        self._readers = 0

    async def handle(self, stream: INetStream) -> None:
        """Answers one stream."""
        if self._readers >= PUBLIC_READERS_MAX:
            self._count("shed.public")
            await stream.reset()
            return
        self._readers += 1
        try:
            # A reader that does not read loses its connection by this, as it should.
            with trio.move_on_after(HANDSHAKE_S) as scope:
                for start in range(0, len(self._wire), WRITE_BYTES_MAX):
                    await stream.write(self._wire[start : start + WRITE_BYTES_MAX])
                await stream.close()
            self._count("shed.public" if scope.cancelled_caught else "public.served")
        finally:
            self._readers -= 1


class _Dialler:
    """A host that only dials: what a connection asks of its owner."""

    def __init__(self) -> None:
        self.basic_host: Any = build_host(secrets.token_bytes(32), (), 1)

    def forget(self, connection: HostConnection) -> None:
        """Nothing is kept."""


async def read_public(address: str, protocol: str, size_bytes_max: int) -> bytes:
    """The value that the peer of that address (with /p2p/ID) hands out, from a fresh identity of ours.

    Raises LocalError for a malformed address, ConnectFailed when the peer is not there or hands out none,
    PeerFault ``public.malformed`` for an answer that is too long or cut short.
    """
    peer_of_address(address)
    to_multiaddr(address)
    dialler = _Dialler()
    failure: ConnectFailed | PeerFault
    async with dialler.basic_host.run(listen_addrs=[]):
        try:
            return await _ask(dialler, address, protocol, min(size_bytes_max, PUBLIC_VALUE_BYTES_MAX))
        except (ConnectFailed, PeerFault) as error:
            failure = error  # raised outside: the host would wrap it in groups
    raise failure


async def _ask(dialler: _Dialler, address: str, protocol: str, size_bytes_max: int) -> bytes:
    peer_id = peer_of_address(address)[1]
    try:
        with trio.fail_after(DIAL_S):
            network = dialler.basic_host.get_network()
            dialled = await network.dial_addr(to_multiaddr(address), ID.from_string(peer_id))
    except trio.TooSlowError as error:
        raise ConnectFailed(f"dial {address}: no answer in {DIAL_S} s") from error
    except Exception as error:
        raise ConnectFailed(f"dial {address}: {error}") from error
    connection = HostConnection(dialler, dialled, address, inbound=False)
    try:
        with trio.fail_after(HANDSHAKE_S):
            stream = HostStream(await connection.open(protocol))
            return await _read_value(peer_id, stream, size_bytes_max)
    except trio.TooSlowError as error:
        raise ConnectFailed(f"{address}: {protocol}: no answer in {HANDSHAKE_S} s") from error
    except StreamClosed as error:
        raise ConnectFailed(f"{address}: {error}") from error
    finally:
        await connection.close()


async def _read_value(peer_id: str, stream: HostStream, size_bytes_max: int) -> bytes:
    buffer = b""
    wanted = LENGTH_BYTES
    while len(buffer) < wanted:
        piece = await stream.read()
        if not piece:
            raise PeerFault(peer_id, "public.malformed", f"{len(buffer)} B, then the end")
        buffer += piece
        if len(buffer) >= LENGTH_BYTES:
            size = int.from_bytes(buffer[:LENGTH_BYTES], "big")
            if size > size_bytes_max:
                raise PeerFault(peer_id, "public.malformed", f"{size} B, at most {size_bytes_max} B")
            wanted = LENGTH_BYTES + size
    if len(buffer) > wanted:
        raise PeerFault(peer_id, "public.malformed", "bytes after the value")
    return buffer[LENGTH_BYTES:]
