"""The world of the in-memory network: who is there, who reaches whom, and the byte pipes between them."""

import random
from collections import deque
from collections.abc import Iterable
from typing import Protocol

import trio

from p2p.errors import ConnectFailed, LocalError, StreamClosed
from p2p.ids import peer_of_address
from p2p.limits import READ_BYTES
from p2p.transport import Connection, Stream

_PIPE_BYTES_MAX = 1_048_576  # what a yamux window would hold: writers wait beyond it


class Inhabitant(Protocol):
    """What the world asks of a running network."""

    peer_id: str

    def accept(self, connection: Connection) -> None:
        """Takes an inbound connection."""

    def take_gossip(self, topic: str, source: str, payload: bytes) -> None:
        """Takes a gossip message from a neighbour."""


class MemoryHub:
    """Who is there, who reaches whom, how slowly. ``delay_s`` is the range of one way's delay."""

    def __init__(
        self, seed: int = 0, *, delay_s: tuple[float, float] = (0.0, 0.0), loss: float = 0.0
    ) -> None:
        self.rng = random.Random(seed)
        self.delay_s = delay_s
        self.loss = loss
        self._running: dict[str, Inhabitant] = {}
        self._starts = 0
        self._group_of: dict[str, int] = {}
        self._changed = trio.Event()

    def partition(self, *groups: Iterable[str]) -> None:
        """Lets peers reach only those of their own group; peers in no group form one of their own."""
        self._group_of = {peer_id: number for number, group in enumerate(groups, 1) for peer_id in group}
        self._touch()

    def heal(self) -> None:
        """Ends the partition."""
        self.partition()

    def reaches(self, one: str, other: str) -> bool:
        """Returns whether bytes pass between the two."""
        return self._group_of.get(one, 0) == self._group_of.get(other, 0)

    def delay(self) -> float:
        """Returns the seconds that the next write travels."""
        return self.rng.uniform(*self.delay_s)

    async def passage(self, one: str, other: str) -> None:
        """Returns when bytes pass between the two."""
        while not self.reaches(one, other):
            await self._changed.wait()

    def find(self, peer_id: str) -> Inhabitant | None:
        """Returns the running network with that id."""
        return self._running.get(peer_id)

    def join(self, network: Inhabitant) -> None:
        """Makes a network reachable; raises LocalError when its id is taken."""
        if network.peer_id in self._running:
            raise LocalError(f"peer {network.peer_id} is already running")
        self._running[network.peer_id] = network

    def leave(self, network: Inhabitant) -> None:
        """Makes it unreachable; one that runs in its place since stays."""
        if self._running.get(network.peer_id) is network:
            del self._running[network.peer_id]

    def next_seed(self) -> int:
        """Returns a seed for the next network's own choices."""
        self._starts += 1
        return self.rng.getrandbits(63) ^ self._starts

    def _touch(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class _Pipe:
    """One direction of one stream: chunks with the time at which they arrive, in order."""

    def __init__(self, hub: MemoryHub, source: str, target: str) -> None:
        self._hub = hub
        self._ends = (source, target)
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._last_due = 0.0
        self._closed = False
        self._changed = trio.Event()

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        while self._bytes >= _PIPE_BYTES_MAX and not self._closed:
            await self._changed.wait()
        if self._closed:
            raise StreamClosed
        self._last_due = max(self._last_due, trio.current_time() + self._hub.delay())
        self._chunks.append((self._last_due, data))
        self._bytes += len(data)
        self._touch()

    async def read(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._chunks:
            if self._closed:
                return b""
            await self._changed.wait()
        await trio.sleep_until(self._chunks[0][0])
        await self._hub.passage(*self._ends)
        now, parts, size = trio.current_time(), [], 0
        while self._chunks and self._chunks[0][0] <= now and size < READ_BYTES:
            parts.append(self._chunks.popleft()[1])
            size += len(parts[-1])
        self._bytes -= size
        self._touch()
        return b"".join(parts)

    def close(self) -> None:
        self._closed = True
        self._touch()

    def _touch(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class _MemoryStream:
    """One end of a stream; ``closed`` is what this end knows: in a partition, more than the other."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self.closed = False
        self._incoming = incoming
        self._outgoing = outgoing

    async def read(self) -> bytes:
        if self.closed:
            raise StreamClosed
        return await self._incoming.read()

    async def write(self, data: bytes) -> None:
        if self.closed:
            raise StreamClosed
        await self._outgoing.write(data)

    def close_both_ends(self) -> None:
        self._incoming.close()
        self._outgoing.close()


class _MemoryConnection:
    """One end; both ends share nothing but pipes. A close is seen by the other end as the end of its
    streams."""

    def __init__(self, hub: MemoryHub, own_id: str, peer_id: str, *, inbound: bool) -> None:
        self.peer_id = peer_id
        self.address = f"/memory/0/p2p/{peer_id}"
        self.inbound = inbound
        self.other: _MemoryConnection | None = None
        self._hub = hub
        self._own_id = own_id
        self._streams: list[_MemoryStream] = []
        self._arrived: dict[str, Stream] = {}
        self._changed = trio.Event()
        self._closed = False

    async def stream(self, protocol: str) -> Stream:
        await trio.lowlevel.checkpoint()
        if not self.inbound:
            if self._closed or self.other is None or self.other._closed:
                raise StreamClosed
            there = _Pipe(self._hub, self._own_id, self.peer_id)
            back = _Pipe(self._hub, self.peer_id, self._own_id)
            ours, theirs = _MemoryStream(back, there), _MemoryStream(there, back)
            self._streams.append(ours)
            self.other._arrive(protocol, theirs)
            return ours
        while protocol not in self._arrived:
            if self._closed:
                raise StreamClosed
            await self._changed.wait()
        return self._arrived[protocol]

    def _arrive(self, protocol: str, stream: _MemoryStream) -> None:
        self._streams.append(stream)
        self._arrived[protocol] = stream
        self._touch()

    async def close(self) -> None:
        """Closes this end; the other end hears of it unless a partition stands between."""
        await trio.lowlevel.checkpoint()
        self._end()
        if self.other is not None and self._hub.reaches(self._own_id, self.peer_id):
            for stream in self._streams:
                stream.close_both_ends()
            self.other._end()

    def _end(self) -> None:
        self._closed = True
        for stream in self._streams:
            stream.closed = True
        self._touch()

    def _touch(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class MemoryTransport:
    def __init__(self, hub: MemoryHub, peer_id: str) -> None:
        self.peer_id = peer_id
        self.is_listening = False
        self._hub = hub

    def addresses(self) -> tuple[str, ...]:
        return (f"/memory/0/p2p/{self.peer_id}",) if self.is_listening else ()

    async def dial(self, address: str) -> Connection:
        peer_id = peer_of_address(address)[1]
        await trio.sleep(self._hub.delay() * 2)
        target = self._hub.find(peer_id)
        if target is None or not self._hub.reaches(self.peer_id, peer_id):
            raise ConnectFailed(f"peer {peer_id} cannot be reached")
        ours = _MemoryConnection(self._hub, self.peer_id, peer_id, inbound=False)
        theirs = _MemoryConnection(self._hub, peer_id, self.peer_id, inbound=True)
        ours.other, theirs.other = theirs, ours
        target.accept(theirs)
        return ours
