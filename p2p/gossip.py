"""Gossip: what is rare and must reach strangers, on libp2p's gossipsub (/meshsub/1.1.0).

The library sees peers only through our links: a peer exists for it while its link is up, its stream runs on
the link's own connection, and each new link brings a new stream and a new hello (the library sends none to a
peer that reconnects while its old connection lingers). What gossip loses, range requests bring.

Messages are signed by their origin (strict), and one content is one message (see
``libp2p_fixes.message_id``). Of each neighbour so many messages of a topic are judged a second; what is more
is dropped unjudged, as it may pass on another's flood. Who floods in its own name, or brings more than any
honest neighbour passes on, is read more slowly, and breaks a rule when it goes on. GOSSIP_VALIDATING_MAX may
be judged at once.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

import trio
from libp2p.abc import INetStream
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.validators import signature_validator
from libp2p.tools.anyio_service import background_trio_service

from p2p.budget import Budget, Slowed
from p2p.errors import LocalError, PeerFault
from p2p.intake import Intake
from p2p.libp2p_fixes import BoundedGossipSub, message_id, start_sequence, widen_queues
from p2p.limits import (
    FAULT_POINTS,
    GOSSIP_BYTES_MAX,
    GOSSIP_HEARTBEAT_S,
    GOSSIP_PUBLISH_BURST,
    GOSSIP_PUBLISH_PER_S,
    GOSSIP_QUEUE_MAX,
    GOSSIP_SEEN_S,
    GOSSIP_VALIDATING_MAX,
    TOPIC_BYTES_MAX,
    TOPICS_MAX,
)
from p2p.network import Handlers, Verdict
from p2p.switchboard import Switchboard

PROTOCOL = "/meshsub/1.1.0"
_RPC_BYTES_MAX = 1_048_576
_VALIDATE_S = 5.0


class LinkHost(Protocol):
    """What gossip needs of the host: the streams of links that are up, and the rest of libp2p's host."""

    basic_host: Any

    def is_link_up(self, peer_id: str) -> bool:
        """Whether a neighbour of that id is there."""

    async def open_on_link(self, peer_id: str, protocol: str) -> INetStream:
        """Opens a stream on the link's connection; raises ConnectFailed or StreamClosed."""

    async def is_stream_of_link(self, stream: INetStream) -> bool:
        """Waits until the stream's connection has become an admitted link; False when it ends instead."""


class _NetworkView:
    """The library's network as gossip may see it: a peer is connected when its link is up."""

    def __init__(self, links: LinkHost) -> None:
        self._links = links

    def register_notifee(self, notifee: object) -> None:
        """Refused on purpose: links say who is there, not raw connections."""

    def get_connections(self, peer_id: ID | None = None) -> list[object]:
        """Returns something for a peer with a link, nothing for others."""
        return [object()] if peer_id is not None and self._links.is_link_up(str(peer_id)) else []


class _HostView:
    """The library's host as gossip may see it."""

    def __init__(self, links: LinkHost) -> None:
        self._links = links
        self._network = _NetworkView(links)

    def get_network(self) -> _NetworkView:
        return self._network

    async def new_stream(self, peer_id: ID, protocol_ids: Any) -> INetStream:
        try:
            return await self._links.open_on_link(str(peer_id), PROTOCOL)
        except Exception as error:
            raise SwarmException(str(error)) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._links.basic_host, name)


class _PacedStream:
    """A stream that waits before each read."""

    def __init__(self, stream: INetStream, pause: Callable[[], Awaitable[None]]) -> None:
        self._stream = stream
        self._pause = pause

    async def read(self, count: int | None = None) -> bytes:
        await self._pause()
        return await self._stream.read(count)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Router(BoundedGossipSub):
    """The library's router; what it hears counts for the neighbour's budget."""

    on_control: Callable[[str], None] = staticmethod(lambda peer_id: None)

    async def handle_rpc(self, rpc: rpc_pb2.RPC, sender_peer_id: ID) -> None:
        """Takes a neighbour's talk about meshes and messages."""
        self.on_control(str(sender_peer_id))
        await super().handle_rpc(rpc, sender_peer_id)


class _LinkedPubsub(Pubsub):
    """The library's pubsub, with bounded intake, driven by links."""

    admits: Callable[[ID, rpc_pb2.Message], bool]
    repeated: Callable[[ID], None]
    links: LinkHost
    on_malformed: Callable[[str], None]
    on_forged: Callable[[str], None]
    pause: Callable[[str], Awaitable[None]]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._judging: set[bytes] = set()
        self._unproved: set[bytes] = set()  # of these, those that did not come as far as being judged (yet)

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        if msg_forwarder == self.my_id:
            await super().push_msg(msg_forwarder, msg)
            return
        digest = message_id(msg)
        if self.seen_messages.has(digest) or digest in self._judging:
            self.repeated(msg_forwarder)
            return
        if not self.admits(msg_forwarder, msg):
            return
        self._judging.add(digest)
        self._unproved.add(digest)
        try:
            await super().push_msg(msg_forwarder, msg)
            if digest in self._unproved and not signature_validator(msg):
                self.on_forged(str(msg_forwarder))
        except Exception:  # noqa: BLE001 - such as a key that does not decode; the library would end with it
            self.on_malformed(str(msg_forwarder))
        finally:
            self._judging.discard(digest)
            self._unproved.discard(digest)

    async def validate_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Judges a message; the library comes here only with those that their origin signed."""
        self._unproved.discard(message_id(msg))
        await super().validate_msg(msg_forwarder, msg)

    async def stream_handler(self, stream: INetStream) -> None:
        if not await self.links.is_stream_of_link(stream):
            await stream.reset()
            return
        try:
            await super().stream_handler(stream)
        except Exception:  # noqa: BLE001 - such as bytes that are no protobuf
            self.on_malformed(str(stream.muxed_conn.peer_id))
            await stream.reset()

    async def continuously_read_stream(self, stream: INetStream) -> None:
        """Reads a peer's stream, slowed down to the peer's budget."""
        peer_id = str(stream.muxed_conn.peer_id)
        await super().continuously_read_stream(_PacedStream(stream, partial(self.pause, peer_id)))  # type: ignore[arg-type]

    def notify_subscriptions(self, publish_message: rpc_pb2.Message) -> None:
        """Does nothing: messages reach us in the validator, and nobody reads the library's queue."""

    def _forget_all_subscriptions(self, peer_id: ID) -> None:
        if not self._peer_is_connected(
            peer_id
        ):  # a stream of the old link that dies late takes nothing along
            super()._forget_all_subscriptions(peer_id)


class Gossip:
    """Publishes and judges. Raises LocalError for too many topics or a bad name."""

    def __init__(self, links: LinkHost, board: Switchboard, topics: tuple[str, ...]) -> None:
        if len(topics) > TOPICS_MAX or any(
            not 0 < len(topic.encode()) <= TOPIC_BYTES_MAX for topic in topics
        ):
            raise LocalError(f"topics: at most {TOPICS_MAX}, each of 1 to {TOPIC_BYTES_MAX} B")
        self._board = board
        self._topics = topics
        self._outbox: deque[tuple[str, bytes]] = deque()
        self._work = trio.Event()
        self._crash: BaseException | None = None
        self._crashed = trio.Event()
        self._judging = 0
        self._intakes: dict[str, Intake] = {}
        self._handlers: Handlers | None = None
        self._router = _Router(
            protocols=[PROTOCOL],
            degree=6,
            degree_low=4,
            degree_high=12,
            heartbeat_interval=GOSSIP_HEARTBEAT_S,
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,
            eclipse_protection_enabled=False,
        )
        host_view: Any = _HostView(links)
        self._pubsub = _LinkedPubsub(
            host=host_view,
            router=self._router,
            seen_ttl=int(GOSSIP_SEEN_S),
            strict_signing=True,
            msg_id_constructor=message_id,
            max_concurrent_validator_count=GOSSIP_VALIDATING_MAX,
            validation_cache_ttl=0,
            validation_timeout=_VALIDATE_S,
            max_subscriptions_per_rpc=TOPICS_MAX,
            max_subscriptions_per_peer=TOPICS_MAX,
            max_inbound_rpc_size=_RPC_BYTES_MAX,
            allowed_topics=frozenset(topics),
        )
        self._pubsub.admits = self._admits
        self._pubsub.repeated = lambda peer_id: self._intake(str(peer_id)).spend_total()
        self._pubsub.links = links
        self._pubsub.on_malformed = self._malformed
        self._pubsub.on_forged = self._forged
        self._pubsub.pause = self._pause
        self._router.on_control = lambda peer_id: self._intake(peer_id).spend_own()
        widen_queues(self._pubsub)
        start_sequence(self._pubsub)

    def publish(self, topic: str, payload: bytes) -> bool:
        """See ``Network.publish``."""
        if topic not in self._topics:
            raise LocalError(f"gossip: topic {topic!r} is not configured")
        if len(payload) > GOSSIP_BYTES_MAX:
            raise LocalError(f"gossip: {len(payload)} B, at most {GOSSIP_BYTES_MAX} B")
        if len(self._outbox) >= GOSSIP_QUEUE_MAX:
            self._board.standing.count("shed.gossip")
            return False
        self._outbox.append((topic, payload))
        self._work.set()
        return True

    def link_up(self, peer_id: str) -> None:
        """A link came up: open our gossip stream to that peer and tell it our topics."""
        if self._pubsub.manager.is_running:
            self._pubsub.manager.run_task(self._pubsub._handle_new_peer_with_retry, ID.from_string(peer_id))

    def link_down(self, peer_id: str) -> None:
        """A link ended: forget the peer's stream and topics."""
        self._intakes.pop(peer_id, None)
        self._pubsub._handle_dead_peer(ID.from_string(peer_id))

    async def run(self, handlers: Handlers, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled; raises what a handler raised, when it was no PeerFault."""
        self._handlers = handlers
        try:
            async with background_trio_service(self._pubsub), background_trio_service(self._router):
                await self._pubsub.wait_until_ready()
                for topic in self._topics:
                    self._pubsub.set_topic_validator(topic, self._validate, is_async_validator=True)
                    await self._pubsub.subscribe(topic)
                task_status.started()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._publish_loop)
                    await self._crashed.wait()
                    nursery.cancel_scope.cancel()
                assert self._crash is not None
                raise self._crash
        finally:
            self._pubsub.seen_messages.stop()

    async def _publish_loop(self) -> None:
        budget = Budget(GOSSIP_PUBLISH_PER_S, GOSSIP_PUBLISH_BURST, trio.current_time())
        while True:
            while self._outbox:
                budget.spend(trio.current_time())
                await trio.sleep(budget.debt_s(trio.current_time()))
                topic, payload = self._outbox.popleft()
                await self._pubsub.publish(topic, payload)
                self._board.standing.count("gossip.published")
            self._work = trio.Event()
            await self._work.wait()

    def _admits(self, forwarder: ID, message: rpc_pb2.Message) -> bool:
        """Cheap checks before any signature is verified."""
        peer_id = str(forwarder)
        if len(message.topicIDs) != 1 or len(message.data) > GOSSIP_BYTES_MAX:
            self._malformed(peer_id)
            return False
        if not self._intake(peer_id).admits(message.topicIDs[0], message.from_id == forwarder.to_bytes()):
            self._board.standing.count("shed.gossip_rate")
            return False
        if self._judging >= GOSSIP_VALIDATING_MAX:
            self._board.standing.count("shed.gossip_in")
            return False
        return True

    def _intake(self, peer_id: str) -> Intake:
        intake = self._intakes.get(peer_id)
        if intake is None:
            count, penalise = self._board.standing.count, self._board.penalise
            slowed = Slowed(
                partial(count, "slowed.gossip"), partial(penalise, peer_id, "flood.gossip", FAULT_POINTS)
            )
            intake = self._intakes[peer_id] = Intake(slowed)
        return intake

    async def _pause(self, peer_id: str) -> None:
        """Before each read of a neighbour's stream."""
        if peer_id in self._board.links:
            intake = self._intake(peer_id)
            intake.spend_read()
            debt_s, is_own = intake.debt_s()
            await intake.slowed.pause(debt_s, is_fault=is_own)

    def _malformed(self, peer_id: str) -> None:
        self._board.penalise(peer_id, "gossip.malformed", FAULT_POINTS)

    def _forged(self, peer_id: str) -> None:
        """Signed by nobody, or not by whom it names: no peer that checks would have passed it on."""
        self._board.penalise(peer_id, "gossip.signature", FAULT_POINTS)

    async def _validate(self, forwarder: ID, message: rpc_pb2.Message) -> bool:
        peer_id, topic = str(forwarder), message.topicIDs[0]
        if peer_id == self._board.peer_id:
            return True
        assert self._handlers is not None
        self._judging += 1
        try:
            verdict = await self._handlers.on_gossip(topic, peer_id, message.data)
        except PeerFault as fault:
            self._board.on_fault(fault)
            return False
        except Exception as error:  # noqa: BLE001 - ours: the library would swallow it, so it is raised out of `run`
            self._crash = error
            self._crashed.set()
            return False
        finally:
            self._judging -= 1
        self._board.standing.count(f"gossip.{verdict.value}")
        if verdict is Verdict.REJECT:
            self._board.penalise(peer_id, f"gossip.{topic}", FAULT_POINTS)
        return verdict is Verdict.ACCEPT
