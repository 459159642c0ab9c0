"""The real network: our links over a libp2p host with TCP, noise alone, and yamux.

Noise alone, because the library's default host also accepts plaintext, where anybody can claim anybody's
peer id. The library dials, listens, secures and multiplexes; who is a neighbour, when to redial and when to
give up is ours.
"""

import p2p.lean_import  # noqa: F401 - before anything of the library

# isort: split
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from libp2p.abc import INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.peer.id import ID
from libp2p.rcmgr import Direction

from p2p import libp2p_fixes
from p2p.circuit import HOP_PROTOCOL, STOP_PROTOCOL
from p2p.dht import PROTOCOL as KAD_PROTOCOL
from p2p.dht import Dht
from p2p.errors import ConnectFailed, LocalError, StreamClosed
from p2p.frames import BULK_PROTOCOL, CONSENSUS_PROTOCOL
from p2p.gossip import Gossip
from p2p.host_parts import HostConnection, build_host, to_multiaddr
from p2p.ids import peer_id_of, peer_of_address, public_key_of, relay_of_address
from p2p.lan import Lan
from p2p.limits import DIAL_S, NEIGHBOURS_MAX
from p2p.link import Link, Pace
from p2p.network import Ban, Handlers, Lane, Neighbour, Started
from p2p.public import PublicValue
from p2p.reach import HERE, scope_of
from p2p.relay import Relay
from p2p.relayed import Relayed
from p2p.switchboard import Policy, Switchboard
from p2p.transport import Connection


@dataclass(frozen=True, slots=True)
class HostConfig:
    """``seed``: the 32-byte Ed25519 node key seed. ``listen``: multiaddrs, port 0 = any free. ``announce``:
    addresses to tell others instead of those (behind a NAT or proxy). ``book_path`` None keeps no peer
    book. ``public``: values that strangers may read, by protocol (see ``p2p.public``). ``serves_relay``:
    carry circuits to neighbours that ask for it; ``wants_relays``: be reached through such neighbours.
    ``mdns``: find peers on the local network, and be found. ``dht``: by Kademlia's FIND_NODE."""

    seed: bytes = field(repr=False)
    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    bootstrap: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    book_path: Path | None = None
    neighbours_max: int = NEIGHBOURS_MAX
    announce: tuple[str, ...] = ()
    public: tuple[tuple[str, bytes], ...] = ()
    serves_relay: bool = False
    wants_relays: bool = False
    mdns: bool = False
    dht: bool = False
    pace: Pace = field(default_factory=Pace)


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
        if len(config.seed) != 32:
            raise LocalError(f"node key seed: must be 32 bytes, has {len(config.seed)}")
        self._config = config
        for address in (*config.announce, *config.bootstrap):
            to_multiaddr(address)
        self._listen = [to_multiaddr(address) for address in config.listen]
        self.basic_host = build_host(config.seed, config.listen, config.neighbours_max)
        self.swarm: Any = self.basic_host.get_network()
        self.peer_id = peer_id_of(create_new_key_pair(config.seed).public_key.to_bytes())
        policy = Policy(
            bootstrap=config.bootstrap,
            book_path=config.book_path,
            neighbours_max=config.neighbours_max,
            pace=config.pace,
        )
        self._board = Switchboard(self, policy)
        self.operator = self._board.operator
        self._board.on_link_up = self._link_up
        self._board.on_link_down = self._link_down
        libp2p_fixes.count_failed_upgrades(
            self.swarm, lambda: self._board.standing.count("fault.connection.handshake")
        )
        libp2p_fixes.bound_handshakes(self.swarm, lambda: self._board.standing.count("shed.handshakes"))
        libp2p_fixes.contain_streams(self.swarm, lambda: self._board.standing.count("fault.stream.failed"))
        self._gossip = Gossip(self, self._board, config.topics)
        self._connections: dict[Any, HostConnection] = {}  # by the library's muxed connection
        self._links: dict[str, tuple[Link, HostConnection]] = {}
        self._links_changed = trio.Event()
        self._nursery: trio.Nursery | None = None
        for protocol in (CONSENSUS_PROTOCOL, BULK_PROTOCOL):
            self.basic_host.set_stream_handler(TProtocol(protocol), self._handler_for(protocol))
        for protocol, value in config.public:
            self.basic_host.set_stream_handler(
                TProtocol(protocol), PublicValue(value, self._board.standing.count).handle
            )
        self.relay: Relay | None = None
        self._set_up_services(config)
        self.swarm.register_notifee(_Watch(self._connected))

    # --- Network -------------------------------------------------------------------------------------------

    def addresses(self) -> tuple[str, ...]:
        """See ``Network``."""
        if self._nursery is None:
            return ()
        if self._config.announce:
            return tuple(f"{address}/p2p/{self.peer_id}" for address in self._config.announce)
        relayed = self.relayed.addresses()
        return relayed or tuple(str(address) for address in self.basic_host.get_addrs())

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
        to_multiaddr(address)
        self._board.add_peer(address, keep=keep)

    def _learn(self, address: str) -> None:
        """Takes an address that the local network told."""
        try:
            to_multiaddr(address)
        except LocalError:
            self._board.standing.count("fault.mdns.address")
            return
        if scope_of(address) not in (None, HERE):
            self._board.add_peer(address, keep=False)

    def hold(self, peer_ids: frozenset[str]) -> None:
        """See ``Network``."""
        self._board.hold(peer_ids)

    def banned(self) -> tuple[Ban, ...]:
        """See ``Network``."""
        return self._board.banned()

    def stats(self) -> dict[str, int]:
        """See ``Network``."""
        carried = {} if self.relay is None else {"relay.bytes": self.relay.carried_bytes}
        return {**self._board.stats(), **carried}

    async def run(self, handlers: Handlers, *, task_status: Started = trio.TASK_STATUS_IGNORED) -> None:
        """See ``Network``; raises LocalError when it cannot listen."""
        for address in self._listen:
            libp2p_fixes.refuse_taken_port(address)
        async with self.basic_host.run(listen_addrs=self._listen):
            if len(self.swarm.listeners) < len(self._listen):
                raise LocalError(f"listen: not all of {', '.join(self._config.listen)} could be opened")
            try:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    await nursery.start(self._gossip.run, handlers)  # first: a link that comes up needs it
                    nursery.start_soon(self._board.run, handlers)
                    nursery.start_soon(self.relayed.run)
                    if self._config.dht:
                        nursery.start_soon(self.dht.run)
                    if self._config.mdns:
                        nursery.start_soon(Lan(self.addresses, self._learn, self._board.standing.count).run)
                    task_status.started(self.addresses())
            finally:
                await libp2p_fixes.close_listeners(self.swarm)
                for ours in list(self._connections.values()):
                    await libp2p_fixes.close_connection(ours.connection)

    # --- Transport -----------------------------------------------------------------------------------------

    async def dial(self, address: str) -> Connection:
        """See ``Transport``."""
        if relay_of_address(address) is None:
            return await self.dial_plain(address)
        return self._take(await self.relayed.dial(address), address)

    async def dial_plain(self, address: str) -> HostConnection:
        """Returns a connection over TCP; raises ConnectFailed."""
        peer_id = peer_of_address(address)[1]
        try:
            with trio.fail_after(DIAL_S):
                connection = await self.swarm.dial_addr(to_multiaddr(address), ID.from_string(peer_id))
        except trio.TooSlowError as error:
            raise ConnectFailed(f"dial {address}: no answer in {DIAL_S} s") from error
        except Exception as error:
            raise ConnectFailed(f"dial {address}: {error}") from error
        return self._take(connection, address)

    def _take(self, connection: SwarmConn, address: str) -> HostConnection:
        ours = HostConnection(self, connection, address, inbound=False)
        self._connections[connection.muxed_conn] = ours
        return ours

    def _set_up_services(self, config: HostConfig) -> None:
        count = self._board.standing.count
        self.relayed = Relayed(self, count, self._board.announce, wants=config.wants_relays)
        if config.wants_relays:
            self.basic_host.set_stream_handler(TProtocol(STOP_PROTOCOL), self.relayed.accept)
        self.dht = Dht(self, self._board)
        if config.dht:
            self.basic_host.set_stream_handler(TProtocol(KAD_PROTOCOL), self.dht.handle)
        if config.serves_relay:
            self.relay = Relay(self, count, self._board.is_banned)
            self._board.is_sheltered = self.relay.holds
            self.basic_host.set_stream_handler(TProtocol(HOP_PROTOCOL), self.relay.handle)

    def _handler_for(self, protocol: str) -> Callable[[INetStream], Any]:
        async def handle(stream: INetStream) -> None:
            ours = self.connection_of(stream)
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
        for at in muxed.get_transport_addresses():
            if str(at).endswith("/p2p-circuit"):  # as `Relayed.accept` says
                address = f"{at}/p2p/{peer_id}"
        ours = HostConnection(self, connection, address, inbound=True)
        self._connections[connection.muxed_conn] = ours
        self._nursery.start_soon(self._incoming, ours)

    async def _incoming(self, ours: HostConnection) -> None:
        try:
            public_key_of(ours.peer_id)
        except LocalError:
            self._board.standing.count("fault.connection.key_type")
            await ours.close()
        else:
            await self._board.incoming(ours)

    def forget(self, ours: HostConnection) -> None:
        """A connection of ours is being closed."""
        self._connections.pop(ours.connection.muxed_conn, None)
        self._touch()

    def connection_of(self, stream: INetStream) -> HostConnection | None:
        """The connection on which the peer opened that stream."""
        connection = getattr(stream, "swarm_conn", None)
        if connection is not None:
            self._connected(connection)  # the peer's first stream may be faster than the notification
        return self._connections.get(stream.muxed_conn)

    # --- links as gossip and relays see them ---------------------------------------------------------------

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
        ours = self.connection_of(stream)
        while ours is not None and not ours.closed.is_set():
            found = self._links.get(ours.peer_id)
            if found is not None and found[1] is ours:
                return True
            await self._links_changed.wait()
        return False

    def _link_up(self, link: Link) -> None:
        connection = link.connection
        assert isinstance(connection, HostConnection)
        connection.was_link = True
        self._links[link.peer_id] = (link, connection)
        self._touch()
        self.relayed.look()
        self._gossip.link_up(link.peer_id)

    def _link_down(self, link: Link) -> None:
        connection = link.connection
        assert isinstance(connection, HostConnection)
        if self._links.get(link.peer_id, (None,))[0] is link:
            del self._links[link.peer_id]
        self._touch()
        self.relayed.look()
        self._gossip.link_down(link.peer_id)

    def _touch(self) -> None:
        self._links_changed.set()
        self._links_changed = trio.Event()
