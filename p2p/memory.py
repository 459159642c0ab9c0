"""A network within one process, for tests: the production links, frames, credit, dialling and scoring over
byte pipes.

One ``MemoryHub`` is one world. Its seed decides delays and losses, so that a run under trio's MockClock can
be repeated as far as trio's scheduling allows. A partition stops bytes without closing anything, as a cut
cable does: the heartbeat finds it. ``loss`` drops whole messages and gossip after ``send`` said True, as a
broken connection would.
"""

import hashlib
import random
from collections import OrderedDict, deque
from collections.abc import Iterable

import trio

from p2p.errors import ConnectFailed, LocalError, PeerFault, StreamClosed
from p2p.ids import peer_id_of, peer_of_address
from p2p.limits import (
    FAULT_POINTS,
    GOSSIP_BYTES_MAX,
    GOSSIP_QUEUE_MAX,
    GOSSIP_SEEN_MAX,
    GOSSIP_VALIDATING_MAX,
    READ_BYTES,
    TOPICS_MAX,
)
from p2p.network import Ban, Handlers, Lane, Neighbour, Started, Verdict
from p2p.switchboard import Policy, Switchboard
from p2p.transport import Connection, Stream

_PIPE_BYTES_MAX = 1_048_576  # what a yamux window would hold: writers wait beyond it


class MemoryHub:
    """Who is there, who reaches whom, how slowly. ``delay_s`` is the range of one way's delay."""

    def __init__(
        self, seed: int = 0, *, delay_s: tuple[float, float] = (0.0, 0.0), loss: float = 0.0
    ) -> None:
        self.rng = random.Random(seed)
        self.delay_s = delay_s
        self.loss = loss
        self._running: dict[str, MemoryNetwork] = {}
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

    def find(self, peer_id: str) -> "MemoryNetwork | None":
        """Returns the running network with that id."""
        return self._running.get(peer_id)

    def join(self, network: "MemoryNetwork") -> None:
        """Makes a network reachable; raises LocalError when its id is taken."""
        if network.peer_id in self._running:
            raise LocalError(f"peer {network.peer_id} is already running")
        self._running[network.peer_id] = network

    def leave(self, network: "MemoryNetwork") -> None:
        """Makes it unreachable."""
        self._running.pop(network.peer_id, None)

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
    """One end of a stream; ``closed`` is what this end knows, which in a partition is more than the other does."""

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


class _MemoryTransport:
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


class MemoryNetwork:
    """A ``Network`` in a hub. ``public_key`` is any 32 bytes; the peer id follows from it as it does for the
    host."""

    def __init__(
        self, hub: MemoryHub, public_key: bytes, policy: Policy, topics: tuple[str, ...] = ()
    ) -> None:
        if len(topics) > TOPICS_MAX:
            raise LocalError(f"topics: {len(topics)}, at most {TOPICS_MAX}")
        self.peer_id = peer_id_of(public_key)
        self._hub = hub
        self._transport = _MemoryTransport(hub, self.peer_id)
        if policy.random_seed is None:
            policy = Policy(
                bootstrap=policy.bootstrap,
                book_path=policy.book_path,
                neighbours_max=policy.neighbours_max,
                pace=policy.pace,
                random_seed=hub.next_seed(),
            )
        self._board = Switchboard(self._transport, policy)
        self._topics = frozenset(topics)
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._outbox: deque[tuple[str, str, bytes]] = deque()
        self._outbox_changed = trio.Event()
        self._handlers: Handlers | None = None
        self._nursery: trio.Nursery | None = None
        self._validating = 0

    def addresses(self) -> tuple[str, ...]:
        """See ``Network``."""
        return self._transport.addresses()

    def neighbours(self) -> tuple[Neighbour, ...]:
        """See ``Network``."""
        return self._board.neighbours()

    def send(self, peer_id: str, lane: Lane, payload: bytes) -> bool:
        """See ``Network``; the hub's ``loss`` may drop what it took."""
        if self._hub.loss and self._hub.rng.random() < self._hub.loss:
            self._board.standing.count("memory.lost")
            return True
        return self._board.send(peer_id, lane, payload)

    async def request(self, peer_id: str, method: str, body: bytes, timeout_s: float) -> bytes:
        """See ``Network``."""
        return await self._board.request(peer_id, method, body, timeout_s)

    def penalise(self, peer_id: str, rule: str, points: int) -> None:
        """See ``Network``."""
        self._board.penalise(peer_id, rule, points)

    def add_peer(self, address: str, *, keep: bool) -> None:
        """See ``Network``."""
        self._board.add_peer(address, keep=keep)

    def banned(self) -> tuple[Ban, ...]:
        """See ``Network``."""
        return self._board.banned()

    def stats(self) -> dict[str, int]:
        """See ``Network``."""
        return self._board.stats()

    async def run(self, handlers: Handlers, *, task_status: Started = trio.TASK_STATUS_IGNORED) -> None:
        """See ``Network``."""
        self._handlers = handlers
        self._hub.join(self)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._transport.is_listening = True
                nursery.start_soon(self._board.run, handlers)
                nursery.start_soon(self._gossip_loop)
                task_status.started(self.addresses())
        finally:
            self._transport.is_listening = False
            self._hub.leave(self)

    def accept(self, connection: Connection) -> None:
        """Takes an inbound connection."""
        assert self._nursery is not None
        self._nursery.start_soon(self._board.incoming, connection)

    # --- gossip: a flood with memory, enough to stand in for gossipsub -------------------------------------

    def publish(self, topic: str, payload: bytes) -> bool:
        """See ``Network``."""
        if topic not in self._topics:
            raise LocalError(f"gossip: topic {topic!r} is not configured")
        if len(payload) > GOSSIP_BYTES_MAX:
            raise LocalError(f"gossip: {len(payload)} B, at most {GOSSIP_BYTES_MAX} B")
        if len(self._outbox) >= GOSSIP_QUEUE_MAX:
            self._board.standing.count("shed.gossip")
            return False
        self._board.standing.count("gossip.published")
        self._is_new(topic, payload)
        self._forward(topic, payload, "")
        return True

    def _is_new(self, topic: str, payload: bytes) -> bool:
        digest = hashlib.sha256(topic.encode() + b"\0" + payload).digest()
        if digest in self._seen:
            return False
        self._seen[digest] = None
        if len(self._seen) > GOSSIP_SEEN_MAX:
            self._seen.popitem(last=False)
        return True

    def _forward(self, topic: str, payload: bytes, source: str) -> None:
        for neighbour in self._board.neighbours():
            if neighbour.peer_id != source and len(self._outbox) < GOSSIP_QUEUE_MAX:
                self._outbox.append((neighbour.peer_id, topic, payload))
        self._outbox_changed.set()

    async def _gossip_loop(self) -> None:
        assert self._nursery is not None
        while True:
            while self._outbox:
                peer_id, topic, payload = self._outbox.popleft()
                self._nursery.start_soon(self._carry, peer_id, topic, payload)
            self._outbox_changed = trio.Event()
            await self._outbox_changed.wait()

    async def _carry(self, peer_id: str, topic: str, payload: bytes) -> None:
        lost = self._hub.rng.random() < self._hub.loss
        await trio.sleep(self._hub.delay())
        target = self._hub.find(peer_id)
        if not lost and target is not None and self._hub.reaches(self.peer_id, peer_id):
            target.take_gossip(topic, self.peer_id, payload)

    def take_gossip(self, topic: str, source: str, payload: bytes) -> None:
        """Takes a gossip message from a neighbour."""
        if topic not in self._topics or not self._is_new(topic, payload) or self._nursery is None:
            return
        if self._validating >= GOSSIP_VALIDATING_MAX:
            self._board.standing.count("shed.gossip_in")
            return
        self._validating += 1
        self._nursery.start_soon(self._validate, topic, source, payload)

    async def _validate(self, topic: str, source: str, payload: bytes) -> None:
        assert self._handlers is not None
        try:
            verdict = await self._handlers.on_gossip(topic, source, payload)
        except PeerFault as fault:
            self._board.penalise(source, fault.rule, FAULT_POINTS)
            verdict = Verdict.IGNORE
        finally:
            self._validating -= 1
        self._board.standing.count(f"gossip.{verdict.value}")
        if verdict is Verdict.ACCEPT:
            self._forward(topic, payload, source)
        elif verdict is Verdict.REJECT:
            self._board.penalise(source, f"gossip.{topic}", FAULT_POINTS)
