"""One neighbour: a connection with its two channels, the hello, the heartbeat and the requests."""

import functools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from p2p import frames
from p2p.budget import Budget, Slowed
from p2p.channel import Channel
from p2p.errors import PeerFault, PeerGone, StreamClosed
from p2p.frames import Kind
from p2p.limits import (
    BULK_QUEUE_BYTES,
    BULK_QUEUE_FRAMES,
    BULK_RATE_PER_S,
    CONSENSUS_QUEUE_BYTES,
    CONSENSUS_QUEUE_FRAMES,
    CONSENSUS_RATE_PER_S,
    FLUSH_S,
    HANDSHAKE_S,
    HEARTBEAT_S,
    HEARTBEATS_MISSED_MAX,
    HEARTBEATS_PER_RTT,
    LINGER_S,
    PAYLOAD_BYTES_MAX,
)
from p2p.network import Lane
from p2p.ranges import Requests
from p2p.transport import Connection


@dataclass(frozen=True, slots=True)
class Pace:
    """The times of a link and of dialling; tests make them shorter."""

    heartbeat_s: float = HEARTBEAT_S
    handshake_s: float = HANDSHAKE_S
    backoff_scale: float = 1.0


class Owner(Protocol):
    """What a link asks of the switchboard that holds it."""

    instance: bytes

    def hello_for(self, peer_id: str) -> bytes:
        """Our hello text."""

    def check_hello(self, peer_id: str, text: bytes) -> None:
        """Raises PeerFault to refuse."""

    def admit(self, link: "Link") -> str | None:
        """Takes the link as the one to its peer and calls ``on_up``, or returns the reason why not."""

    def on_data(self, link: "Link", lane: Lane, payload: bytes) -> None:
        """Takes one DATA payload; a PeerFault out of the handler stays inside."""

    async def serve(self, link: "Link", method: str, body: bytes) -> bytes:
        """The answer to a request; raises Refused."""

    def on_fault(self, fault: PeerFault) -> None:
        """The peer broke a rule of the wire, whereupon the link ends, or of its budgets."""

    def on_slowed(self, lane: Lane) -> None:
        """A peer brings more than its budget and is read more slowly."""


class Link:
    """Runs one connection from its handshake to its end. ``run`` returns the reason of the end; it raises
    only for faults of our own (LocalError, a bug in a handler)."""

    def __init__(self, connection: Connection, owner: Owner, pace: Pace) -> None:
        self.peer_id = connection.peer_id
        self.address = connection.address
        self.inbound = connection.inbound
        self.up = False
        self.hello = b""
        self.instance = b""
        self.since_ms = 0
        self.rtt_ms: float | None = None
        self._dropped = 0
        self.ended = trio.Event()
        self.reason = ""
        self.connection = connection
        self._owner = owner
        self._pace = pace
        self._channels: dict[Lane, Channel] = {}
        self._hello_here = trio.Event()
        self._admitted = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._say_goodbye = False
        self._silent = trio.Event()  # a stream ended at the peer's side: nothing to wait for
        self._requests: Requests | None = None
        self._ping_token = 0
        self._ping_at = 0.0
        now = trio.current_time()
        self._budgets = {
            Lane.CONSENSUS: Budget(CONSENSUS_RATE_PER_S, CONSENSUS_QUEUE_FRAMES, now),
            Lane.BULK: Budget(BULK_RATE_PER_S, BULK_QUEUE_FRAMES, now),
        }
        self._slowed = {
            lane: Slowed(functools.partial(owner.on_slowed, lane), functools.partial(self._flood, lane))
            for lane in Lane
        }

    @property
    def bytes_in(self) -> int:
        """Bytes read from both streams."""
        return sum(channel.bytes_in for channel in self._channels.values())

    @property
    def bytes_out(self) -> int:
        """Bytes written to both streams."""
        return sum(channel.bytes_out for channel in self._channels.values())

    @property
    def dropped(self) -> int:
        """Messages that we shed for this peer."""
        return self._dropped + (self._requests.dropped if self._requests is not None else 0)

    @property
    def was_admitted(self) -> bool:
        """True when ``on_up`` was called for this link at some time."""
        return self._admitted.is_set()

    def unacknowledged_bytes(self, lane: Lane) -> int:
        """Bytes under way on a lane: written, not acknowledged."""
        return self._channels[lane].unacknowledged_bytes

    def send(self, lane: Lane, payload: bytes) -> bool:
        """Queues a DATA message; False and counted in ``dropped`` when the queue is full or the link not
        up."""
        if self.up and self._channels[lane].put(Kind.DATA, payload):
            return True
        self._dropped += 1
        return False

    async def request(self, method: str, body: bytes, timeout_s: float) -> bytes:
        """See ``Network.request``."""
        if not self.up or self._requests is None:
            raise PeerGone(f"peer {self.peer_id} is not connected")
        return await self._requests.ask(method, body, timeout_s)

    def end(self, reason: str, *, goodbye: bool) -> None:
        """Ends the link soon; the first reason counts. ``goodbye``: tell it to the peer first."""
        if self.ended.is_set():
            return
        self.up = False
        self.reason = reason
        self._say_goodbye = goodbye
        self.ended.set()
        if self._requests is not None:
            self._requests.end(reason)

    async def run(self) -> str:
        """Runs the link; returns the reason of its end."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._guard, self._live)
                nursery.start_soon(self._guard, self._handshake_deadline)
                await self.ended.wait()
                await self._last_words()
                nursery.cancel_scope.cancel()
        finally:
            self.end("stopped", goodbye=False)
            with trio.CancelScope(shield=True):
                await self.connection.close()
        return self.reason

    async def _last_words(self) -> None:
        channel = self._channels.get(Lane.CONSENSUS)
        if not self._say_goodbye or channel is None:
            return
        channel.put_last(Kind.GOODBYE, frames.goodbye_body(self.reason))
        with trio.move_on_after(FLUSH_S):
            await channel.flushed()
            with trio.move_on_after(LINGER_S):
                await self._silent.wait()

    async def _guard(self, task: Callable[[], Awaitable[None]]) -> None:
        """Turns the end of any task into the end of the link."""
        try:
            await task()
        except StreamClosed as closed:
            self.end(f"closed: {closed}" if str(closed) else "closed", goodbye=False)
        except PeerFault as fault:
            already_ended = self.ended.is_set()
            self.end(fault.rule, goodbye=True)
            if not already_ended:
                self._owner.on_fault(fault)

    async def _handshake_deadline(self) -> None:
        with trio.move_on_after(self._pace.handshake_s):
            await self._admitted.wait()
        if not self._admitted.is_set():
            self.end("handshake took too long", goodbye=False)

    async def _live(self) -> None:
        consensus = await self._open(Lane.CONSENSUS, CONSENSUS_QUEUE_BYTES, CONSENSUS_QUEUE_FRAMES)
        text = self._owner.hello_for(self.peer_id)
        consensus.put(Kind.HELLO, frames.hello_body(self._owner.instance, text))
        await self._hello_here.wait()
        self._owner.check_hello(self.peer_id, self.hello)
        bulk = await self._open(Lane.BULK, BULK_QUEUE_BYTES, BULK_QUEUE_FRAMES)
        if self.ended.is_set():
            return
        assert bulk is self._channels[Lane.BULK]
        self.since_ms = time.time_ns() // 1_000_000
        self.up = True
        refusal = self._owner.admit(self)
        if refusal is not None:
            self.end(refusal, goodbye=True)
            return
        self._admitted.set()
        await self._heartbeat(consensus)

    async def _open(self, lane: Lane, queue_bytes: int, queue_frames: int) -> Channel:
        protocol = frames.CONSENSUS_PROTOCOL if lane is Lane.CONSENSUS else frames.BULK_PROTOCOL
        stream = await self.connection.stream(protocol)
        channel = Channel(stream, self.peer_id, queue_bytes=queue_bytes, queue_frames=queue_frames)
        self._channels[lane] = channel
        if lane is Lane.BULK:
            self._requests = Requests(self.peer_id, channel, functools.partial(self._owner.serve, self))
        on_frame = self._on_consensus_frame if lane is Lane.CONSENSUS else self._on_bulk_frame

        async def read() -> None:
            try:
                await channel.read_loop(on_frame, self._admitted.wait, functools.partial(self._pause, lane))
            except StreamClosed:
                self._silent.set()
                raise
            self._silent.set()
            self.end("closed by the peer", goodbye=False)

        assert self._nursery is not None
        self._nursery.start_soon(self._guard, channel.write_loop)
        self._nursery.start_soon(self._guard, read)
        return channel

    async def _heartbeat(self, consensus: Channel) -> None:
        """Pings who was quiet (others now and then, for the round trip), and counts ticks without a word.
        Ticks, not time: when this process itself slept, nobody is silent."""
        heard, missed, ticks = self.bytes_in, 0, 0
        is_quiet = True
        while True:
            if is_quiet or ticks % HEARTBEATS_PER_RTT == 0:
                self._ping_token = (self._ping_token + 1) % 2**64
                self._ping_at = trio.current_time()
                consensus.put_control(Kind.PING, frames.number_body(self._ping_token))
            await trio.sleep(self._pace.heartbeat_s)
            ticks += 1
            is_quiet = self.bytes_in == heard
            missed = missed + 1 if is_quiet else 0
            heard = self.bytes_in
            if missed >= HEARTBEATS_MISSED_MAX:
                self.end("silent", goodbye=False)
                return

    def _on_consensus_frame(self, kind: Kind, body: bytes) -> None:
        if kind is Kind.DATA:
            self._on_data(Lane.CONSENSUS, body)
        elif kind is Kind.HELLO:
            if self._hello_here.is_set():
                raise PeerFault(self.peer_id, "hello.twice")
            self.instance, self.hello = frames.parse_hello(self.peer_id, body)
            self._hello_here.set()
        else:
            self._on_common_frame(Lane.CONSENSUS, kind, body)

    def _on_bulk_frame(self, kind: Kind, body: bytes) -> None:
        assert self._requests is not None
        assert self._nursery is not None
        if kind is Kind.DATA:
            self._on_data(Lane.BULK, body)
        elif kind is Kind.REQUEST:
            self._budgets[Lane.BULK].spend(trio.current_time())
            work = self._requests.on_request(body)
            if work is not None:
                self._nursery.start_soon(self._guard, work)
        elif kind is Kind.RESPONSE:
            self._requests.on_response(body)
        else:
            self._on_common_frame(Lane.BULK, kind, body)

    async def _pause(self, lane: Lane) -> None:
        budget = self._budgets[lane]
        if budget.is_in_debt:
            await self._slowed[lane].pause(budget.debt_s(trio.current_time()))

    def _flood(self, lane: Lane) -> None:
        self._owner.on_fault(PeerFault(self.peer_id, f"flood.{lane.value}"))

    def _on_common_frame(self, lane: Lane, kind: Kind, body: bytes) -> None:
        if kind is Kind.PING:
            frames.parse_number(self.peer_id, body)
            self._channels[lane].put_control(Kind.PONG, body)
        elif kind is Kind.PONG:
            if frames.parse_number(self.peer_id, body) == self._ping_token:
                self.rtt_ms = (trio.current_time() - self._ping_at) * 1_000
        elif kind is Kind.GOODBYE:
            self.end(f"goodbye: {frames.parse_reason(body)}", goodbye=False)
        else:
            raise PeerFault(self.peer_id, "frame.wrong_stream", f"{kind.name} on {lane.value}")

    def _on_data(self, lane: Lane, payload: bytes) -> None:
        if not self.up:
            return  # ended, or replaced by a newer link: its last messages are lost like those under way
        self._budgets[lane].spend(trio.current_time())
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise PeerFault(self.peer_id, "frame.too_long", f"payload above {PAYLOAD_BYTES_MAX} B")
        self._owner.on_data(self, lane, payload)
