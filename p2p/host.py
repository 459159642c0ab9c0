"""The real network: our links over a libp2p host with TCP, noise alone, and yamux.

Noise alone, because the library's default host also accepts plaintext, where anybody can claim anybody's
peer id. The library dials, listens, secures and multiplexes; who is a neighbour, when to redial and when to
give up is ours.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import multiaddr
import trio
from libp2p import new_host
from libp2p.abc import INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.rcmgr import Direction, ResourceLimits, new_resource_manager
from libp2p.rcmgr.connection_limits import ConnectionLimits
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_PROTOCOL
from libp2p.stream_muxer.yamux.yamux import Yamux

from p2p import libp2p_fixes
from p2p.errors import ConnectFailed, LocalError, StreamClosed
from p2p.frames import BULK_PROTOCOL, CONSENSUS_PROTOCOL
from p2p.gossip import Gossip
from p2p.ids import peer_id_of, peer_of_address, public_key_of
from p2p.limits import DIAL_S, HANDSHAKE_S, LINKS_PENDING_MAX, NEIGHBOURS_MAX, READ_BYTES
from p2p.link import Link, Pace
from p2p.network import Ban, Handlers, Lane, Neighbour, Started
from p2p.switchboard import Policy, Switchboard
from p2p.transport import Connection, Stream

_NEGOTIATE_S = int(HANDSHAKE_S)
_CONNECTIONS_PER_PEER_MAX = 4  # crossed dials and a restarted peer's old connection


@dataclass(frozen=True, slots=True)
class HostConfig:
    """``seed``: the 32-byte Ed25519 node key seed. ``listen``: multiaddrs, port 0 = any free. ``announce``:
    addresses to tell others instead of those (behind a NAT or proxy). ``book_path`` None keeps no peer
    book."""

    seed: bytes = field(repr=False)
    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    bootstrap: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    book_path: Path | None = None
    neighbours_max: int = NEIGHBOURS_MAX
    announce: tuple[str, ...] = ()
    pace: Pace = field(default_factory=Pace)


class _HostStream:
    """A libp2p stream; each of the library's many errors is the end of it."""

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream

    async def read(self) -> bytes:
        try:
            return await self._stream.read(READ_BYTES)
        except Exception as error:
            raise StreamClosed(type(error).__name__) from error

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.write(data)
        except Exception as error:
            raise StreamClosed(type(error).__name__) from error


class _HostConnection:
    """A libp2p connection with our two streams."""

    def __init__(self, owner: "Host", connection: SwarmConn, address: str, *, inbound: bool) -> None:
        self.peer_id = str(connection.muxed_conn.peer_id)
        self.address = address
        self.inbound = inbound
        self.connection = connection
        self.closed = trio.Event()
        self._owner = owner
        self._arrived: dict[str, Stream] = {}
        self._changed = trio.Event()

    async def stream(self, protocol: str) -> Stream:
        if not self.inbound:
            return _HostStream(await self.open(protocol))
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
        self._arrived[protocol] = _HostStream(stream)
        self.touch()
        return True

    def touch(self) -> None:
        """Wakes who waits for a stream."""
        self._changed.set()
        self._changed = trio.Event()

    async def close(self) -> None:
        self.closed.set()
        self.touch()
        self._owner.forget(self)
        await libp2p_fixes.close_connection(self.connection)


class _Watch:
    """The library's notifications; only `connected` matters."""

    def __init__(self, on_connected: Callable[[SwarmConn], None]) -> None:
        self._on_connected = on_connected

    async def connected(self, network: object, conn: SwarmConn) -> None:
        self._on_connected(conn)

    async def disconnected(self, network: object, conn: SwarmConn) -> None: ...

    async def opened_stream(self, network: object, stream: INetStream) -> None: ...

    async def closed_stream(self, network: object, stream: INetStream) -> None: ...

    async def listen(self, network: object, address: object) -> None: ...

    async def listen_close(self, network: object, address: object) -> None: ...


class Host:
    """A ``Network`` on libp2p. Raises LocalError for a bad seed, address or topic."""

    def __init__(self, config: HostConfig) -> None:
        libp2p_fixes.quiet_logs()
        if len(config.seed) != 32:
            raise LocalError(f"node key seed: must be 32 bytes, has {len(config.seed)}")
        self._config = config
        self._listen = [_multiaddr(address) for address in config.listen]
        self.basic_host = _basic_host(config)
        self._swarm: Any = self.basic_host.get_network()
        self._swarm.retry_config = RetryConfig(max_retries=0)  # the dial loop of the switchboard does that
        libp2p_fixes.stop_auto_connector(self._swarm)
        self.peer_id = peer_id_of(create_new_key_pair(config.seed).public_key.to_bytes())
        policy = Policy(
            bootstrap=config.bootstrap,
            book_path=config.book_path,
            neighbours_max=config.neighbours_max,
            pace=config.pace,
        )
        self._board = Switchboard(self, policy)
        self._board.on_link_up = self._link_up
        self._board.on_link_down = self._link_down
        libp2p_fixes.count_failed_upgrades(
            self._swarm, lambda: self._board.standing.count("fault.connection.handshake")
        )
        libp2p_fixes.contain_stream_faults(
            self._swarm, lambda: self._board.standing.count("fault.stream.failed")
        )
        self._gossip = Gossip(self, self._board, config.topics)
        self._connections: dict[Any, _HostConnection] = {}  # by the library's muxed connection
        self._links: dict[str, tuple[Link, _HostConnection]] = {}
        self._links_changed = trio.Event()
        self._nursery: trio.Nursery | None = None
        for protocol in (CONSENSUS_PROTOCOL, BULK_PROTOCOL):
            self.basic_host.set_stream_handler(TProtocol(protocol), self._handler_for(protocol))
        self._swarm.register_notifee(_Watch(self._connected))

    # --- Network -------------------------------------------------------------------------------------------

    def addresses(self) -> tuple[str, ...]:
        """See ``Network``."""
        if self._nursery is None:
            return ()
        if self._config.announce:
            return tuple(f"{address}/p2p/{self.peer_id}" for address in self._config.announce)
        return tuple(str(address) for address in self.basic_host.get_addrs())

    def neighbours(self) -> tuple[Neighbour, ...]:
        """See ``Network``."""
        return self._board.neighbours()

    def send(self, peer_id: str, lane: Lane, payload: bytes) -> bool:
        """See ``Network``."""
        return self._board.send(peer_id, lane, payload)

    async def request(self, peer_id: str, method: str, body: bytes, timeout_s: float) -> bytes:
        """See ``Network``."""
        return await self._board.request(peer_id, method, body, timeout_s)

    def publish(self, topic: str, payload: bytes) -> bool:
        """See ``Network``."""
        return self._gossip.publish(topic, payload)

    def penalise(self, peer_id: str, rule: str, points: int) -> None:
        """See ``Network``."""
        self._board.penalise(peer_id, rule, points)

    def add_peer(self, address: str, *, keep: bool) -> None:
        """See ``Network``."""
        _multiaddr(address)
        self._board.add_peer(address, keep=keep)

    def banned(self) -> tuple[Ban, ...]:
        """See ``Network``."""
        return self._board.banned()

    def stats(self) -> dict[str, int]:
        """See ``Network``."""
        return self._board.stats()

    async def run(self, handlers: Handlers, *, task_status: Started = trio.TASK_STATUS_IGNORED) -> None:
        """See ``Network``; raises LocalError when it cannot listen."""
        for address in self._listen:
            libp2p_fixes.refuse_taken_port(address)
        async with self.basic_host.run(listen_addrs=self._listen):
            if len(self._swarm.listeners) < len(self._listen):
                raise LocalError(f"listen: not all of {', '.join(self._config.listen)} could be opened")
            try:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._board.run, handlers)
                    await nursery.start(self._gossip.run, handlers)
                    task_status.started(self.addresses())
            finally:
                await libp2p_fixes.close_listeners(self._swarm)
                for ours in list(self._connections.values()):
                    await libp2p_fixes.close_connection(ours.connection)

    # --- Transport -----------------------------------------------------------------------------------------

    async def dial(self, address: str) -> Connection:
        """See ``Transport``."""
        peer_id = peer_of_address(address)[1]
        try:
            with trio.fail_after(DIAL_S):
                connection = await self._swarm.dial_addr(_multiaddr(address), ID.from_string(peer_id))
        except trio.TooSlowError as error:
            raise ConnectFailed(f"dial {address}: no answer in {DIAL_S} s") from error
        except Exception as error:
            raise ConnectFailed(f"dial {address}: {error}") from error
        ours = _HostConnection(self, connection, address, inbound=False)
        self._connections[connection.muxed_conn] = ours
        return ours

    def _handler_for(self, protocol: str) -> Callable[[INetStream], Any]:
        async def handle(stream: INetStream) -> None:
            connection = getattr(stream, "swarm_conn", None)
            if connection is not None:
                self._connected(connection)  # the peer's first stream may be faster than the notification
            ours = self._connections.get(stream.muxed_conn)
            if ours is None or not ours.arrive(protocol, stream):
                self._board.standing.count("fault.stream.unexpected")
                await stream.reset()
                return
            await ours.closed.wait()

        return handle

    def _connected(self, connection: SwarmConn) -> None:
        """A connection is secured. Inbound ones become links, or end with the handshake's time-out."""
        is_ours = connection.muxed_conn in self._connections or connection.direction is not Direction.INBOUND
        if is_ours or connection.is_closed or self._nursery is None:
            return
        peer_id = str(connection.muxed_conn.peer_id)
        muxed: Any = connection.muxed_conn
        remote = muxed.get_remote_address()
        host, port = remote if remote is not None else ("0.0.0.0", 0)
        address = f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}/p2p/{peer_id}"
        ours = _HostConnection(self, connection, address, inbound=True)
        self._connections[connection.muxed_conn] = ours
        self._nursery.start_soon(self._incoming, ours)

    async def _incoming(self, ours: _HostConnection) -> None:
        try:
            public_key_of(ours.peer_id)
        except LocalError:
            self._board.standing.count("fault.connection.key_type")
            await ours.close()
        else:
            await self._board.incoming(ours)

    def forget(self, ours: _HostConnection) -> None:
        """A connection of ours is being closed."""
        self._connections.pop(ours.connection.muxed_conn, None)
        self._touch()

    # --- links as gossip sees them -------------------------------------------------------------------------

    def is_link_up(self, peer_id: str) -> bool:
        """See ``LinkHost``."""
        return peer_id in self._links

    async def open_on_link(self, peer_id: str, protocol: str) -> INetStream:
        """See ``LinkHost``."""
        found = self._links.get(peer_id)
        if found is None:
            raise StreamClosed(f"peer {peer_id} is not connected")
        return await found[1].open(protocol)

    async def is_stream_of_link(self, stream: INetStream) -> bool:
        """See ``LinkHost``."""
        ours = self._connections.get(stream.muxed_conn)
        while ours is not None and not ours.closed.is_set():
            found = self._links.get(ours.peer_id)
            if found is not None and found[1] is ours:
                return True
            await self._links_changed.wait()
        return False

    def _link_up(self, link: Link) -> None:
        connection = link.connection
        assert isinstance(connection, _HostConnection)
        self._links[link.peer_id] = (link, connection)
        self._touch()
        self._gossip.link_up(link.peer_id)

    def _link_down(self, link: Link) -> None:
        connection = link.connection
        assert isinstance(connection, _HostConnection)
        if self._links.get(link.peer_id, (None,))[0] is link:
            del self._links[link.peer_id]
        self._touch()
        self._gossip.link_down(link.peer_id)

    def _touch(self) -> None:
        self._links_changed.set()
        self._links_changed = trio.Event()


def _multiaddr(address: str) -> multiaddr.Multiaddr:
    try:
        return multiaddr.Multiaddr(address)
    except Exception as error:
        raise LocalError(f"address {address[:80]!r}: {error}") from error


def _basic_host(config: HostConfig) -> Any:
    """Builds the library's host: noise and yamux only, its own connection keeping switched off, its limits
    on."""
    keys = create_new_key_pair(config.seed)
    noise = NoiseTransport(keys, noise_privkey=create_new_x25519_key_pair().private_key)
    connections_max = 2 * config.neighbours_max + 2 * LINKS_PENDING_MAX
    return new_host(
        key_pair=keys,
        sec_opt={TProtocol(NOISE_PROTOCOL): noise},
        muxer_opt={TProtocol(YAMUX_PROTOCOL): Yamux},
        listen_addrs=[_multiaddr(address) for address in config.listen],
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
