"""A network within one process, for tests: the production links, frames, credit, dialling and scoring over
byte pipes.

One ``MemoryHub`` is one world. Its seed decides delays and losses, so that a run under trio's MockClock can
be repeated as far as trio's scheduling allows. A partition stops bytes without closing anything, as a cut
cable does: the heartbeat finds it. ``loss`` drops whole messages and gossip after ``send`` said True, as a
broken connection would.
"""

import hashlib
from collections import OrderedDict, deque

import trio

from p2p.errors import LocalError, PeerFault
from p2p.ids import peer_id_of
from p2p.limits import (
    FAULT_POINTS,
    GOSSIP_BYTES_MAX,
    GOSSIP_QUEUE_MAX,
    GOSSIP_SEEN_MAX,
    GOSSIP_VALIDATING_MAX,
    TOPICS_MAX,
)
from p2p.memory_hub import MemoryHub, MemoryTransport
from p2p.network import Ban, Handlers, Lane, Neighbour, Started, Verdict
from p2p.switchboard import Policy, Switchboard
from p2p.transport import Connection

__all__ = ["MemoryHub", "MemoryNetwork", "Policy"]


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
        self._transport = MemoryTransport(hub, self.peer_id)
        if policy.random_seed is None:
            policy = Policy(
                bootstrap=policy.bootstrap,
                book_path=policy.book_path,
                neighbours_max=policy.neighbours_max,
                pace=policy.pace,
                random_seed=hub.next_seed(),
            )
        self._board = Switchboard(self._transport, policy)
        self.operator = self._board.operator
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

    def hold(self, peer_ids: frozenset[str]) -> None:
        """See ``Network``."""
        self._board.hold(peer_ids)

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
        try:
            while True:
                while self._outbox:
                    peer_id, topic, payload = self._outbox.popleft()
                    self._nursery.start_soon(self._carry, peer_id, topic, payload)
                self._outbox_changed = trio.Event()
                await self._outbox_changed.wait()
        finally:
            self._hub.leave(self)  # while the nursery is open: others may still have something on the way

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
