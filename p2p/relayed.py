"""What a peer needs of relays: to be reached through them, and to reach others so (circuit relay v2, the
client's side).

A peer behind NAT (``wants`` True) holds reservations with some neighbours that it dialled, renews them, and
looks for others when one dies or refuses. Whoever reaches it says so by the address that it tells:
``RELAY/p2p-circuit/p2p/ID``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import multiaddr
import trio
from libp2p.abc import INetStream
from libp2p.connection_types import ConnectionType
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, PeerId, Status, StopMessage

from p2p.circuit import HOP_PROTOCOL, CircuitStream, end_stream, read_message, write_message
from p2p.errors import ConnectFailed, LocalError, StreamClosed
from p2p.host_parts import HostConnection, to_multiaddr
from p2p.ids import peer_of_address, relay_of_address
from p2p.limits import (
    ADDRESS_BYTES_MAX,
    RELAY_ASK_AGAIN_S,
    RELAY_LOOK_S,
    RELAY_RESERVATION_S,
    RELAY_STEP_S,
    RELAYS_WANTED,
)
from p2p.network import Neighbour


class ClientHost(Protocol):
    """What this asks of its host."""

    peer_id: str
    swarm: Any

    def neighbours(self) -> tuple[Neighbour, ...]:
        """Who is connected now."""

    def connection_of(self, stream: INetStream) -> HostConnection | None:
        """The connection on which the peer opened that stream."""

    def is_link_up(self, peer_id: str) -> bool:
        """Is that peer a neighbour?"""

    async def open_on_link(self, peer_id: str, protocol: str) -> INetStream:
        """Opens a stream to a neighbour; raises StreamClosed."""

    async def dial_plain(self, address: str) -> HostConnection:
        """Returns a connection without a link; raises ConnectFailed."""


@dataclass(slots=True)
class _Place:
    """A reservation: the relay's address, and when to renew it (trio's clock)."""

    address: str
    renew_s: float


class Relayed:
    """``announce`` is called when our addresses have changed; ``count`` takes names of counters."""

    def __init__(
        self,
        host: ClientHost,
        count: Callable[[str], None],
        announce: Callable[[], None],
        *,
        wants: bool,
        look_s: float = RELAY_LOOK_S,
    ) -> None:
        self.wants = wants
        self._host = host
        self._count = count
        self._announce = announce
        self._look_s = look_s
        self._places: dict[str, _Place] = {}
        self._refused: dict[str, float] = {}  # peer id -> when it may be asked again
        self._wake = trio.Event()

    def addresses(self) -> tuple[str, ...]:
        """Returns the addresses at which our relays let others reach us."""
        mine = [f"{place.address}/p2p-circuit/p2p/{self._host.peer_id}" for place in self._places.values()]
        return tuple(address for address in mine if len(address) <= ADDRESS_BYTES_MAX)

    # --- to be reached -------------------------------------------------------------------------------------

    def look(self) -> None:
        """A link came or went."""
        self._wake.set()

    async def run(self) -> None:
        """Holds reservations until cancelled."""
        while self.wants:
            before = self.addresses()
            self._places = {p: place for p, place in self._places.items() if self._host.is_link_up(p)}
            await self._hold()
            if self.addresses() != before:
                self._announce()
            self._wake = trio.Event()
            with trio.move_on_after(self._look_s):
                await self._wake.wait()

    async def _hold(self) -> None:
        now_s = trio.current_time()
        self._refused = {p: until_s for p, until_s in self._refused.items() if until_s > now_s}
        for peer_id, place in list(self._places.items()):
            if place.renew_s <= now_s:
                await self._reserve(peer_id, place.address)
        for one in self._host.neighbours():
            # Whom we dialled can be dialled; who dialled us perhaps not, and we do not know where.
            fits = not one.inbound and relay_of_address(one.address) is None
            if (
                len(self._places) < RELAYS_WANTED
                and fits
                and one.peer_id not in {**self._places, **self._refused}
            ):
                await self._reserve(one.peer_id, one.address)

    async def _reserve(self, peer_id: str, address: str) -> None:
        now_s = trio.current_time()
        try:
            stream = await self._host.open_on_link(peer_id, HOP_PROTOCOL)
            try:
                await write_message(stream, HopMessage(type=HopMessage.RESERVE))
                answer = await read_message(stream, HopMessage)
            finally:
                await end_stream(stream)
            if answer.type != HopMessage.STATUS or answer.status != Status.OK:
                raise StreamClosed(f"relay: refused ({answer.status})")
        except StreamClosed:
            self._count("relayed.refused")
            self._places.pop(peer_id, None)
            self._refused[peer_id] = now_s + RELAY_ASK_AGAIN_S
            return
        self._count("relayed.reserved")
        # The relay's own term counts, but its clock may be wrong: renew within half of what we would give.
        self._places[peer_id] = _Place(address, now_s + RELAY_RESERVATION_S / 2)

    async def accept(self, stream: INetStream) -> None:
        """Serves the stop protocol: a relay where we have a place brings somebody. Noise tells who it is."""
        found = self._host.connection_of(stream)
        try:
            message = await read_message(stream, StopMessage)
            place = self._places.get(found.peer_id) if found is not None else None
            if place is None or message.type != StopMessage.CONNECT:
                self._count("fault.relayed.unexpected")
                denied = StopMessage(type=StopMessage.STATUS, status=Status.PERMISSION_DENIED)
                await write_message(stream, denied)
                await stream.close()
                return
            await write_message(stream, StopMessage(type=StopMessage.STATUS, status=Status.OK))
        except StreamClosed:
            await end_stream(stream)
            return
        circuit = CircuitStream(stream)
        try:
            at = multiaddr.Multiaddr(f"{place.address}/p2p-circuit")
            raw = RawConnection(circuit, False, ConnectionType.RELAYED, [at])
            muxed = await self._host.swarm.upgrade_inbound_raw_conn(raw, at)
            self._count("relayed.in")
            await muxed.event_closed.wait()
        finally:
            await circuit.close()

    # --- to reach ------------------------------------------------------------------------------------------

    async def dial(self, address: str) -> SwarmConn:
        """Returns a connection through the relay in the address, proved to be with the peer at its end;
        raises ConnectFailed."""
        relay, target = relay_of_address(address), peer_of_address(address)[1]
        assert relay is not None
        try:
            relay_id = peer_of_address(relay)[1]
            to_multiaddr(relay)
        except LocalError as error:
            raise ConnectFailed(f"dial {address}: {error}") from error
        if relay_of_address(relay) is not None or relay_id == self._host.peer_id:
            raise ConnectFailed(f"dial {address}: needs one relay, and another one than us")
        carrier: HostConnection | None = None
        stream: INetStream | None = None
        try:
            if self._host.is_link_up(relay_id):
                stream = await self._host.open_on_link(relay_id, HOP_PROTOCOL)
            else:
                carrier = await self._host.dial_plain(relay)
                stream = await carrier.open(HOP_PROTOCOL)
            connection = await self._through(stream, carrier, target, address)
        except BaseException as error:
            if stream is not None:
                await end_stream(stream)
            if carrier is not None:
                await carrier.close()
            if isinstance(error, Exception):
                raise ConnectFailed(f"dial {address}: {error}") from error
            raise
        self._count("relayed.out")
        return connection

    async def _through(
        self, stream: INetStream, carrier: HostConnection | None, target: str, address: str
    ) -> SwarmConn:
        peer = PeerId(id=ID.from_string(target).to_bytes())
        await write_message(stream, HopMessage(type=HopMessage.CONNECT, peer=peer))
        answer = await read_message(stream, HopMessage)
        if answer.type != HopMessage.STATUS or answer.status != Status.OK:
            raise StreamClosed(f"relay: refused ({answer.status})")
        circuit = CircuitStream(stream, carrier.close if carrier is not None else None)
        at = multiaddr.Multiaddr(address)
        raw = RawConnection(circuit, True, ConnectionType.RELAYED, [at])
        with trio.fail_after(RELAY_STEP_S):
            connection: SwarmConn = await self._host.swarm.upgrade_outbound_raw_conn(
                raw, ID.from_string(target)
            )
        return connection
