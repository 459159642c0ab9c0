"""What the host is built of: libp2p's own host set up our way, and its connections as our links see them."""

from collections.abc import Sequence
from typing import Any, Protocol

import multiaddr
import trio
from libp2p import new_host
from libp2p.abc import INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.rcmgr import ResourceLimits, new_resource_manager
from libp2p.rcmgr.connection_limits import ConnectionLimits
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_PROTOCOL
from libp2p.stream_muxer.yamux.yamux import Yamux

from p2p import libp2p_fixes
from p2p.errors import LocalError, StreamClosed
from p2p.lean_muxer import LeanStream, LeanYamux, use_lean_muxer
from p2p.limits import DIAL_S, HANDSHAKE_S, LINKS_PENDING_MAX, READ_BYTES
from p2p.transport import Stream

_NEGOTIATE_S = int(HANDSHAKE_S)
_CONNECTIONS_PER_PEER_MAX = 4  # crossed dials and a restarted peer's old connection


class HostStream:
    """A libp2p stream; each of the library's many errors is the end of it. While nothing is amiss bytes take
    the short way; what is amiss the library tells."""

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream
        muxed: Any = getattr(stream, "muxed_stream", None)
        self._lean = LeanStream(muxed) if isinstance(getattr(muxed, "conn", None), LeanYamux) else None

    async def read(self) -> bytes:
        try:
            data = None if self._lean is None else await self._lean.read()
            return await self._stream.read(READ_BYTES) if data is None else data
        except Exception as error:
            raise StreamClosed(type(error).__name__) from error

    async def write(self, data: bytes) -> None:
        try:
            if self._lean is None or not await self._lean.write(data):
                await self._stream.write(data)
        except Exception as error:
            raise StreamClosed(type(error).__name__) from error


class ConnectionOwner(Protocol):
    """What a connection asks of its host."""

    basic_host: Any

    def forget(self, connection: "HostConnection") -> None:
        """The connection is being closed."""


class HostConnection:
    """A libp2p connection with our two streams."""

    def __init__(self, owner: ConnectionOwner, connection: SwarmConn, address: str, *, inbound: bool) -> None:
        self.peer_id = str(connection.muxed_conn.peer_id)
        self.address = address
        self.inbound = inbound
        self.connection = connection
        self.closed = trio.Event()
        self.carried = 0  # circuits that we relay for this peer on this connection
        self.was_link = False
        self._owner = owner
        self._arrived: dict[str, Stream] = {}
        self._changed = trio.Event()

    async def stream(self, protocol: str) -> Stream:
        if not self.inbound:
            return HostStream(await self.open(protocol))
        while protocol not in self._arrived:
            if self.closed.is_set():
                raise StreamClosed
            await self._changed.wait()
        return self._arrived[protocol]

    async def open(self, protocol: str) -> INetStream:
        """Opens a stream of that protocol on this very connection; raises StreamClosed."""
        try:
            stream = await self.connection.new_stream()
            communicator = MultiselectCommunicator(stream)
            select = self._owner.basic_host.multiselect_client.select_one_of
            stream.set_protocol(await select([TProtocol(protocol)], communicator, _NEGOTIATE_S))
            return stream
        except Exception as error:
            raise StreamClosed(f"{protocol}: {error}") from error

    def arrive(self, protocol: str, stream: INetStream) -> bool:
        """Takes a stream that the peer opened; False when it is one too many."""
        if not self.inbound or protocol in self._arrived:
            return False
        self._arrived[protocol] = HostStream(stream)
        self.touch()
        return True

    def touch(self) -> None:
        """Wakes who waits for a stream."""
        self._changed.set()
        self._changed = trio.Event()

    async def close(self) -> None:
        self.closed.set()
        self.touch()
        if self.carried and not self.was_link:
            return  # who came for a circuit alone, without a word of ours, keeps it: see `release`
        self._owner.forget(self)
        await libp2p_fixes.close_connection(self.connection)

    async def release(self) -> None:
        """A circuit has ended: the last one takes a connection with it that has no other purpose."""
        if self.closed.is_set() and not self.carried:
            await self.close()


def to_multiaddr(address: str) -> multiaddr.Multiaddr:
    """Returns the address parsed; raises LocalError when it is malformed."""
    try:
        return multiaddr.Multiaddr(address)
    except Exception as error:
        raise LocalError(f"address {address[:80]!r}: {error}") from error


def build_host(seed: bytes, listen: Sequence[str], neighbours_max: int) -> Any:
    """Returns the library's host: noise and yamux alone, limits on, its own keeping of connections off."""
    libp2p_fixes.quiet_logs()
    libp2p_fixes.batch_window_updates()
    libp2p_fixes.read_settings_once()
    keys = create_new_key_pair(seed)
    noise = NoiseTransport(keys, noise_privkey=create_new_x25519_key_pair().private_key)
    connections_max = 2 * neighbours_max + 2 * LINKS_PENDING_MAX
    host: Any = new_host(
        key_pair=keys,
        sec_opt={TProtocol(NOISE_PROTOCOL): noise},
        muxer_opt={TProtocol(YAMUX_PROTOCOL): Yamux},
        listen_addrs=[to_multiaddr(address) for address in listen],
        resource_manager=new_resource_manager(
            limits=ResourceLimits(max_connections=connections_max, max_streams=16 * connections_max),
            connection_limits=ConnectionLimits(
                max_established_per_peer=_CONNECTIONS_PER_PEER_MAX, max_established_total=connections_max
            ),
            enable_metrics=False,
            enable_memory_limits=False,
            enable_memory_pooling=False,
            enable_circuit_breaker=False,
            enable_graceful_degradation=False,
        ),
        connection_config=ConnectionConfig(
            max_connections=connections_max,
            min_connections=0,
            low_watermark=0,
            high_watermark=connections_max,
            max_connections_per_peer=_CONNECTIONS_PER_PEER_MAX,
            dial_timeout=DIAL_S,
            inbound_upgrade_timeout=HANDSHAKE_S,
            outbound_upgrade_timeout=HANDSHAKE_S,
            outbound_stream_protocol_negotiation_timeout=HANDSHAKE_S,
            inbound_stream_protocol_negotiation_timeout=HANDSHAKE_S,
        ),
        disable_identify_address_discovery=True,
    )
    swarm = host.get_network()
    swarm.retry_config = RetryConfig(max_retries=0)  # the dial loop of the switchboard does that
    libp2p_fixes.stop_auto_connector(swarm)
    use_lean_muxer(swarm)
    return host
