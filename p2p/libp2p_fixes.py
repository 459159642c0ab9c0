"""Every work-round for a fault of libp2p 0.8.1, in one place.

Each has a test in tests/p2p/test_libp2p_fixes.py that fails when the library no longer needs it.
What a small message costs is p2p/lean_muxer.py's matter, what its import costs p2p/lean_import.py's.

- `quiet_logs`: the library reports expected events as warnings, some through the root logger.
- `count_failed_upgrades`: garbage on the port leaves no trace that a program could count.
- `refuse_taken_port`: it listens with SO_REUSEPORT, so a second peer takes a port's connections.
- `close_connection`, `close_listeners`: closing can hang on a peer that reads no more, and a cancelled close
  leaves sockets open and entries behind.
- `stop_auto_connector`: with all its watermarks at zero it still dials whom it has heard of, past our bans.
- `bound_handshakes`: each inbound connection takes one of a fixed number of slots and never gives it back, so
  that a peer grows deaf with time; and one address may hold all of them without a word.
- `contain_streams`: an exception in any protocol's stream handler (a protobuf error from garbage) ends the
  whole host; and one peer may open as many streams as all peers together.
- `read_settings_once`: yamux looks its settings up in the environment at each read of a stream.
- `batch_window_updates`: yamux sends a window update for each small read, so each message costs two.
- `DigestCache`: the gossip cache ignores the configured message id, so each IHAVE asks for what is there.
- `widen_queues`: 32 messages per peer, then silent loss.
- `start_sequence`: sequence numbers are seconds at start, so a restarted peer repeats them and is ignored.
- `BoundedGossipSub`: 10 messages a second per topic (own ones too); lists that grow for ever; own messages do
  not go to peers outside the mesh, so nothing leaves before the first heartbeat.
"""

import contextlib
import errno
import functools
import hashlib
import logging
import socket
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any

import libp2p.network.connection.swarm_connection as swarm_connection
import multiaddr
import trio
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.mcache import CacheEntry, MessageCache
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import YamuxStream

from p2p.circuit import CircuitStream
from p2p.errors import LocalError
from p2p.limits import (
    CLOSE_S,
    GOSSIP_PEER_QUEUE_MAX,
    HANDSHAKES_MAX,
    HANDSHAKES_OF_GROUP_MAX,
    STREAMS_IN_MAX,
)
from p2p.room import group_of

_DELIVERY_TIMES_KEPT = 16


def quiet_logs() -> None:
    """Keeps the library's expected events out of our logs; what matters to us is raised or counted."""
    for name in ("libp2p", "multiaddr", "async_service"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.CRITICAL)
        logger.propagate = False  # some of its modules set a level of their own
        logger.handlers[:] = [logging.NullHandler()]
    # This module logs by `logging.warning`, the root logger, which also installs a handler on it.
    vars(swarm_connection)["logging"] = logging.getLogger("libp2p.network.connection")


def stop_auto_connector(swarm: Any) -> None:
    """Keeps the library from dialling whoever stands in its peer store, which no setting does."""

    async def nothing(*args: Any, **kwargs: Any) -> None:
        await trio.lowlevel.checkpoint()

    swarm.auto_connector.maybe_connect = nothing
    swarm.auto_connector.run_background_task = nothing


def batch_window_updates() -> None:
    """Makes yamux streams release their window when half of it was read, not at each small read; once for the
    whole process."""
    library = YamuxStream._auto_tune_and_send_window_update
    if hasattr(library, "library"):
        return

    async def batched(stream: YamuxStream, *, bytes_read: int = 0) -> None:
        held = len(stream.conn.stream_buffers.get(stream.stream_id, b""))
        threshold = stream._grow_threshold()
        slack = stream.target_recv_window - (stream.recv_window + held)
        if slack < threshold and stream._pending_recv_release + bytes_read < threshold:
            stream._pending_recv_release += bytes_read
            return
        await library(stream, bytes_read=bytes_read)

    batched.library = library  # type: ignore[attr-defined]
    YamuxStream._auto_tune_and_send_window_update = batched  # type: ignore[method-assign,assignment]


def read_settings_once() -> None:
    """Makes yamux look up each of its settings once; once for the whole process."""
    if not hasattr(yamux, "library_env"):
        yamux.library_env = yamux._py_yamux_env  # type: ignore[attr-defined]
        yamux._py_yamux_env = functools.cache(yamux._py_yamux_env)


def count_failed_upgrades(swarm: Any, on_failure: Callable[[], None]) -> None:
    """Calls ``on_failure`` for each inbound connection that did not get through noise and yamux."""
    upgrade = swarm.upgrade_inbound_raw_conn

    async def counted(*args: Any, **kwargs: Any) -> Any:
        try:
            return await upgrade(*args, **kwargs)
        except Exception:
            on_failure()
            raise

    swarm.upgrade_inbound_raw_conn = counted


def bound_handshakes(swarm: Any, on_shed: Callable[[], None]) -> None:
    """Bounds the inbound connections that are not secured yet, in all and of one /24; calls ``on_shed`` for
    each that is closed at once. One that is secured takes no slot: the library's own bound counts it."""
    pending: Counter[str] = Counter()

    async def handle(stream: Any, listener: multiaddr.Multiaddr) -> None:
        remote = stream.get_remote_address()
        group = group_of(f"/{'ip6' if ':' in remote[0] else 'ip4'}/{remote[0]}") if remote else ""
        if pending.total() >= HANDSHAKES_MAX or pending[group] >= HANDSHAKES_OF_GROUP_MAX:
            on_shed()
            return  # the listener closes what its handler leaves
        pending[group] += 1
        try:
            muxed = await swarm.upgrade_inbound_raw_conn(RawConnection(stream, False), listener)
        except Exception:  # noqa: BLE001 - whatever foreign bytes provoke; `count_failed_upgrades` counts it
            return
        finally:
            pending[group] -= 1
            if not pending[group]:
                del pending[group]
        await muxed.event_closed.wait()

    swarm._handle_inbound_connection = handle


def contain_streams(swarm: Any, on_failure: Callable[[], None]) -> None:
    """Resets a stream whose handler failed on foreign bytes, or that is one too many on its connection.

    Each time it calls ``on_failure``, and the host goes on.
    """
    handle = swarm.common_stream_handler
    open_streams: Counter[Any] = Counter()

    async def contained(stream: Any) -> None:
        connection = stream.muxed_conn
        open_streams[connection] += 1
        try:
            if open_streams[connection] > STREAMS_IN_MAX:
                raise LocalError("too many streams")
            await handle(stream)
        except Exception:  # noqa: BLE001 - whatever foreign bytes provoke in the library
            on_failure()
            with contextlib.suppress(Exception):
                await stream.reset()
        finally:
            open_streams[connection] -= 1
            if not open_streams[connection]:
                del open_streams[connection]

    swarm.common_stream_handler = contained


def refuse_taken_port(address: multiaddr.Multiaddr) -> None:
    """Raises LocalError when another socket listens at the TCP address; port 0 is always free."""
    names = {protocol.name for protocol in address.protocols()}
    family, host_name = (socket.AF_INET6, "ip6") if "ip6" in names else (socket.AF_INET, "ip4")
    port = int(address.value_for_protocol("tcp") or 0)
    if port == 0:
        return
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((str(address.value_for_protocol(host_name)), port))
        except OSError as error:
            reason = "port is taken" if error.errno == errno.EADDRINUSE else str(error)
            raise LocalError(f"listen {address}: {reason}") from error


async def close_connection(connection: SwarmConn) -> None:
    """Closes a connection within CLOSE_S, and its socket in any case; never raises."""
    with trio.CancelScope(shield=True):
        with trio.move_on_after(CLOSE_S), contextlib.suppress(Exception):
            await connection.close()
        connection.swarm.remove_conn(connection)
        bottom = _bottom(connection.muxed_conn)
        if isinstance(bottom, CircuitStream):
            await bottom.close()
        elif bottom is not None:
            await trio.aclose_forcefully(bottom)


async def close_listeners(swarm: Any) -> None:
    """Stops listening, also when we are being cancelled; never raises."""
    with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_S):
        for listener in list(swarm.listeners.values()):
            with contextlib.suppress(Exception):
                await listener.close()


def _bottom(layer: Any) -> trio.SocketStream | CircuitStream | None:
    """Finds trio's socket, or the circuit, under the library's layers (muxer, secure session, raw connection,
    stream)."""
    for _ in range(8):
        if isinstance(layer, trio.SocketStream | CircuitStream):
            return layer
        names = ("secured_conn", "conn", "read_writer", "read_write_closer", "stream")
        layer = next((getattr(layer, name) for name in names if getattr(layer, name, None) is not None), None)
    return None


def message_id(message: rpc_pb2.Message) -> bytes:
    """Returns our gossip message id: sha256 over each topic with a zero byte, then the data. Equal content
    is one message, whoever sent it and whenever."""
    digest = hashlib.sha256()
    for topic in message.topicIDs:
        digest.update(topic.encode() + b"\0")
    digest.update(message.data)
    return digest.digest()


class DigestCache(MessageCache):
    """The message cache by our message id."""

    def put(self, msg: rpc_pb2.Message) -> None:
        """Keeps a message under the id that the network knows it by."""
        mid = message_id(msg)
        if mid not in self.msgs:
            self.msgs[mid] = msg
            self.history[0].append(CacheEntry(mid, msg.topicIDs))


class _WideQueues(dict[ID, Any]):
    def __setitem__(self, peer_id: ID, queue: Any) -> None:
        queue._queue.max_size = GOSSIP_PEER_QUEUE_MAX
        super().__setitem__(peer_id, queue)


def widen_queues(pubsub: Pubsub) -> None:
    """Gives each peer's outbound queue GOSSIP_PEER_QUEUE_MAX places."""
    pubsub.peer_queues = _WideQueues()


def start_sequence(pubsub: Pubsub) -> None:
    """Starts the sequence numbers at the time in ns, so that a restarted peer never repeats one."""
    pubsub.counter = time.time_ns()


class BoundedGossipSub(GossipSub):
    """Gossipsub with our limits: rates are kept by ``p2p.gossip``, lists are bounded, own messages go to all
    subscribers that we are connected to (flood publishing, gossipsub v1.1)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mcache = DigestCache(self.mcache.window_size, self.mcache.history_size)
        bounded: Any = defaultdict(lambda: deque(maxlen=_DELIVERY_TIMES_KEPT))
        self.recent_message_deliveries = bounded

    def _check_spam_protection(self, peer_id: ID, msg: rpc_pb2.Message) -> bool:
        return True

    def _check_equivocation(self, msg: rpc_pb2.Message) -> bool:
        return True  # our message id is the content, so two contents are two messages

    def _get_peers_to_send(
        self, topic_ids: Iterable[str], msg_forwarder: ID, origin: ID, msg_id: bytes | None = None
    ) -> Iterable[ID]:
        topics = list(topic_ids)
        peers = set(super()._get_peers_to_send(topics, msg_forwarder, origin, msg_id))
        if self.pubsub is not None and origin == self.pubsub.my_id:
            for topic in topics:
                peers |= self.pubsub.peer_topics.get(topic, set())
        return peers - {msg_forwarder, origin}
