"""A relay for peers that nobody can dial (libp2p's circuit relay v2, the relay's side).

A neighbour reserves a place; anybody may then ask for a circuit to it. What is relayed is bounded in number
(in all, for one target, from one peer, from one /24), in bytes and in time. Circuits over circuits are
refused, as the specification says.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import trio
from libp2p.abc import INetStream
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import (
    HopMessage,
    Limit,
    PeerId,
    Reservation,
    Status,
    StopMessage,
)

from p2p.circuit import STOP_PROTOCOL, end_stream, read_message, write_message
from p2p.errors import StreamClosed
from p2p.host_parts import HostConnection
from p2p.ids import relay_of_address
from p2p.limits import (
    READ_BYTES,
    RELAY_CIRCUIT_BYTES,
    RELAY_CIRCUIT_BYTES_S,
    RELAY_CIRCUIT_HURRY_S,
    RELAY_CIRCUIT_S,
    RELAY_CIRCUITS_MAX,
    RELAY_CIRCUITS_OF_GROUP_MAX,
    RELAY_CIRCUITS_OF_PEER_MAX,
    RELAY_RESERVATION_S,
    RELAY_RESERVATIONS_MAX,
    RELAY_RESERVATIONS_OF_GROUP_MAX,
    WRITE_BYTES_MAX,
)
from p2p.room import group_of

_LIMIT: Final = Limit(duration=RELAY_CIRCUIT_S, data=RELAY_CIRCUIT_BYTES)


class RelayHost(Protocol):
    """What a relay asks of its host."""

    def connection_of(self, stream: INetStream) -> HostConnection | None:
        """The connection on which the peer opened that stream."""

    async def is_stream_of_link(self, stream: INetStream) -> bool:
        """Waits until the stream's connection is a neighbour's; False when it never will be."""

    def is_link_up(self, peer_id: str) -> bool:
        """Is that peer a neighbour?"""

    async def open_on_link(self, peer_id: str, protocol: str) -> INetStream:
        """Opens a stream to a neighbour; raises StreamClosed."""


@dataclass(frozen=True, slots=True)
class _Circuit:
    source: str
    target: str
    group: str


@dataclass(slots=True)
class _Budget:
    """What a circuit may still carry, both ways together, and how fast: it ends with its bytes, and a source
    may open another one at once. ``ahead_s``: so long it has to wait; below 0 it may hurry."""

    left_bytes: int
    at_s: float
    ahead_s: float = -RELAY_CIRCUIT_HURRY_S

    def carry(self, size_bytes: int, now_s: float) -> float:
        """Counts bytes; returns for how many seconds to read no more."""
        self.left_bytes -= size_bytes
        self.ahead_s = max(-RELAY_CIRCUIT_HURRY_S, self.ahead_s - (now_s - self.at_s))
        self.at_s = now_s
        self.ahead_s += size_bytes / RELAY_CIRCUIT_BYTES_S
        return max(0.0, self.ahead_s)


class Relay:
    """Serves the hop protocol. ``count`` takes the names of counters; ``is_banned`` tells of peers."""

    def __init__(
        self, host: RelayHost, count: Callable[[str], None], is_banned: Callable[[str], bool]
    ) -> None:
        self.reservations: dict[str, float] = {}  # peer id -> when it ends, on trio's clock
        self.carried_bytes = 0  # by all circuits, both ways
        self._groups: dict[str, str] = {}  # of those that have a place
        self._circuits: list[_Circuit] = []
        self._host = host
        self._count = count
        self._is_banned = is_banned

    @property
    def circuits(self) -> int:
        """How many circuits there are now."""
        return len(self._circuits)

    def holds(self, peer_id: str) -> bool:
        """Has that peer a place? Its link stands beside the places of neighbours: it would give way to
        others, and be reached no more."""
        return self.reservations.get(peer_id, 0.0) > trio.current_time()

    async def handle(self, stream: INetStream) -> None:
        """Serves one stream of the hop protocol: one question, and for a circuit all that follows."""
        try:
            found = self._host.connection_of(stream)
            message = await read_message(stream, HopMessage)
            if found is None or relay_of_address(found.address) is not None:
                await self._answer(stream, Status.PERMISSION_DENIED)
            elif message.type == HopMessage.RESERVE:
                await self._reserve(stream, found)
            elif message.type == HopMessage.CONNECT:
                await self._connect(stream, found, message.peer.id)
            else:
                self._count("fault.relay.message")
                await self._answer(stream, Status.UNEXPECTED_MESSAGE)
            await stream.close()
        except StreamClosed:
            self._count("relay.broken")
            await end_stream(stream)

    async def _answer(self, stream: INetStream, status: Any, **fields: Any) -> None:
        await write_message(stream, HopMessage(type=HopMessage.STATUS, status=status, **fields))

    async def _reserve(self, stream: INetStream, asker: HostConnection) -> None:
        if not await self._host.is_stream_of_link(stream):
            await self._answer(stream, Status.PERMISSION_DENIED)
            return
        self._forget()
        peer_id, group = asker.peer_id, group_of(asker.address)
        of_group = sum(one == group for one in self._groups.values())
        is_full = (
            len(self.reservations) >= RELAY_RESERVATIONS_MAX or of_group >= RELAY_RESERVATIONS_OF_GROUP_MAX
        )
        if peer_id not in self.reservations and is_full:
            self._count("relay.full")
            await self._answer(stream, Status.RESERVATION_REFUSED)
            return
        self.reservations[peer_id] = trio.current_time() + RELAY_RESERVATION_S
        self._groups[peer_id] = group
        self._count("relay.reserved")
        expire = int(time.time()) + RELAY_RESERVATION_S
        await self._answer(stream, Status.OK, reservation=Reservation(expire=expire), limit=_LIMIT)

    def _forget(self) -> None:
        """A reservation ends with its time or its link."""
        now_s = trio.current_time()
        self.reservations = {
            peer_id: end_s
            for peer_id, end_s in self.reservations.items()
            if end_s > now_s and self._host.is_link_up(peer_id)
        }
        self._groups = {one: group for one, group in self._groups.items() if one in self.reservations}

    async def _connect(self, stream: INetStream, source: HostConnection, raw_target: bytes) -> None:
        self._forget()
        target = str(ID(raw_target)) if len(raw_target) <= 64 else ""
        circuit = _Circuit(source.peer_id, target, group_of(source.address))
        refusal = self._refusal(circuit)
        if refusal is not None:
            self._count("relay.refused")
            await self._answer(stream, refusal)
            return
        async with self._counted(circuit, source):
            try:
                there = await self._reach(circuit)
            except StreamClosed:
                self._count("relay.unreached")
                await self._answer(stream, Status.CONNECTION_FAILED)
                return
            try:
                await self._answer(stream, Status.OK, limit=_LIMIT)
                self._count("relay.circuits")
                await self._carry(stream, there)
            finally:
                await end_stream(there)
                await end_stream(stream)

    def _refusal(self, circuit: _Circuit) -> Any:
        """The status with which a circuit is refused, or None."""
        if self._is_banned(circuit.source):
            return Status.PERMISSION_DENIED
        if circuit.target not in self.reservations:
            return Status.NO_RESERVATION
        now = self._circuits
        is_full = (
            len(now) >= RELAY_CIRCUITS_MAX
            or sum(one.group == circuit.group for one in now) >= RELAY_CIRCUITS_OF_GROUP_MAX
            or sum(one.source == circuit.source for one in now) >= RELAY_CIRCUITS_OF_PEER_MAX
            or sum(one.target == circuit.target for one in now) >= RELAY_CIRCUITS_OF_PEER_MAX
        )
        return Status.RESOURCE_LIMIT_EXCEEDED if is_full else None

    @asynccontextmanager
    async def _counted(self, circuit: _Circuit, source: HostConnection) -> AsyncIterator[None]:
        """Counts the circuit, and keeps its source's connection for it."""
        self._circuits.append(circuit)
        source.carried += 1
        try:
            yield
        finally:
            self._circuits.remove(circuit)
            source.carried -= 1
            await source.release()

    async def _reach(self, circuit: _Circuit) -> INetStream:
        """Asks the target; returns the stream that it has accepted. Raises StreamClosed."""
        there = await self._host.open_on_link(circuit.target, STOP_PROTOCOL)
        try:
            peer = PeerId(id=ID.from_string(circuit.source).to_bytes())
            await write_message(there, StopMessage(type=StopMessage.CONNECT, peer=peer, limit=_LIMIT))
            answer = await read_message(there, StopMessage)
            if answer.type != StopMessage.STATUS or answer.status != Status.OK:
                raise StreamClosed(f"relay: the target refused ({answer.status})")
        except BaseException:
            await end_stream(there)
            raise
        return there

    async def _carry(self, here: INetStream, there: INetStream) -> None:
        """Both ways, until one end closes or the circuit has had its share."""
        budget = _Budget(RELAY_CIRCUIT_BYTES, trio.current_time())
        with trio.move_on_after(RELAY_CIRCUIT_S):
            async with trio.open_nursery() as nursery:

                async def one_way(source: INetStream, target: INetStream) -> None:
                    await self._pump(source, target, budget)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(one_way, here, there)
                nursery.start_soon(one_way, there, here)

    async def _pump(self, source: INetStream, target: INetStream, budget: _Budget) -> None:
        while budget.left_bytes > 0:
            try:
                data = await source.read(READ_BYTES)
                wait_s = budget.carry(len(data), trio.current_time())
                self.carried_bytes += len(data)
                for start in range(0, len(data), WRITE_BYTES_MAX):
                    with trio.CancelScope(shield=True):  # half a write breaks the whole connection
                        await target.write(data[start : start + WRITE_BYTES_MAX])
            except Exception:  # noqa: BLE001 - each of the library's many errors is the circuit's end
                return
            if not data:
                return
            await trio.sleep(wait_s)  # a quarter of a second at the most: yamux resets who waits for five
        self._count("relay.spent")
