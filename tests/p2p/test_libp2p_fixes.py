"""Each work-round, and the fault of the library that makes it necessary. A test that fails after an upgrade
of libp2p says: look whether this work-round can go."""

import hashlib
import inspect
import logging
import subprocess
import sys
import time
from types import SimpleNamespace

import multiaddr
import pytest
import trio
import trio.testing
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.network.config import ConnectionConfig
from libp2p.network.connection import swarm_connection
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.mcache import MessageCache
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import YamuxStream

from p2p import lean_import, libp2p_fixes
from p2p.errors import LocalError
from p2p.limits import GOSSIP_PEER_QUEUE_MAX, HANDSHAKES_OF_GROUP_MAX, STREAMS_IN_MAX

PROTOCOL = "/meshsub/1.1.0"
ROUTER = {"protocols": [PROTOCOL], "degree": 6, "degree_low": 4, "degree_high": 12}


def keys(number: int = 0):
    return create_new_key_pair(hashlib.sha256(b"fix %d" % number).digest())


def message(data: bytes, seqno: int, sender: bytes = b"origin") -> rpc_pb2.Message:
    return rpc_pb2.Message(data=data, topicIDs=["t"], from_id=sender, seqno=seqno.to_bytes(8, "big"))


async def test_quiet_logs(caplog):
    assert "logging.warning(" in inspect.getsource(swarm_connection), (
        "the library still warns by the root logger"
    )
    libp2p_fixes.quiet_logs()
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("libp2p.network.swarm").error("expected event")
        swarm_connection.logging.warning("expected event")
    assert not caplog.records


async def test_count_failed_upgrades():
    libp2p_fixes.quiet_logs()
    failures = []
    host = new_host(key_pair=keys(), listen_addrs=[multiaddr.Multiaddr("/ip4/127.0.0.1/tcp/0")])
    swarm = host.get_network()
    assert swarm.metric_send_channel is None
    libp2p_fixes.count_failed_upgrades(swarm, lambda: failures.append(1))
    async with host.run(listen_addrs=[multiaddr.Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        port = int(str(host.get_addrs()[0]).split("/")[4])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"garbage\n" * 10)
            await stream.send_eof()
            with trio.fail_after(60):
                while not failures:
                    await trio.sleep(0.005)
        await libp2p_fixes.close_listeners(swarm)
    assert failures == [1]


async def test_contain_streams():
    libp2p_fixes.quiet_logs()
    listen = [multiaddr.Multiaddr("/ip4/127.0.0.1/tcp/0")]
    for fixed in (True, False):
        failures: list[int] = []
        host = new_host(key_pair=keys(1), listen_addrs=listen)

        async def explode(stream) -> None:
            raise ValueError("foreign bytes")

        async def session(host=host, fixed=fixed, failures=failures) -> None:
            swarm, dialler = host.get_network(), new_host(key_pair=keys(2))
            if fixed:
                libp2p_fixes.contain_streams(swarm, lambda: failures.append(1))
            async with host.run(listen_addrs=listen), dialler.run(listen_addrs=[]):
                try:
                    await dialler.get_network().dial_addr(host.get_addrs()[0], host.get_id())
                    await dialler.new_stream(host.get_id(), ["/explode"])
                    with trio.fail_after(60):
                        while not failures:
                            await trio.sleep(0.005)
                finally:
                    await libp2p_fixes.close_listeners(swarm)
                    for network in (dialler.get_network(), swarm):
                        for connections in list(network.connections.values()):
                            for connection in list(connections):
                                await libp2p_fixes.close_connection(connection)

        host.set_stream_handler("/explode", explode)
        if fixed:
            await session()
            assert failures  # once for ours; a stream of the library's own that the end cut short counts, too
        else:
            with pytest.RaisesGroup(ValueError, flatten_subgroups=True, allow_unwrapped=True):
                await session()


async def test_contain_streams_bounds_one_peer():
    failures: list[int] = []
    release = trio.Event()

    class Stream:
        def __init__(self, muxed_conn: str) -> None:
            self.muxed_conn = muxed_conn
            self.was_reset = False

        async def reset(self) -> None:
            self.was_reset = True

    async def wait(stream: Stream) -> None:
        await release.wait()

    swarm = SimpleNamespace(common_stream_handler=wait)
    libp2p_fixes.contain_streams(swarm, lambda: failures.append(1))
    greedy = [Stream("greedy") for _ in range(STREAMS_IN_MAX + 5)]
    modest = Stream("modest")
    async with trio.open_nursery() as nursery:
        for stream in [*greedy, modest]:
            nursery.start_soon(swarm.common_stream_handler, stream)
        await trio.testing.wait_all_tasks_blocked()
        assert sum(stream.was_reset for stream in greedy) == len(failures) == 5
        assert not modest.was_reset
        release.set()


async def test_refuse_taken_port():
    libp2p_fixes.quiet_logs()
    free = multiaddr.Multiaddr("/ip4/127.0.0.1/tcp/0")
    first = new_host(key_pair=keys(1), listen_addrs=[free])
    async with first.run(listen_addrs=[free]):
        port = str(first.get_addrs()[0]).split("/")[4]
        taken = multiaddr.Multiaddr(f"/ip4/127.0.0.1/tcp/{port}")
        second = new_host(key_pair=keys(2), listen_addrs=[taken])
        async with second.run(listen_addrs=[taken]):
            assert second.get_addrs(), "the library lets two hosts listen on one port"
            await libp2p_fixes.close_listeners(second.get_network())
        with pytest.raises(LocalError, match="port is taken"):
            libp2p_fixes.refuse_taken_port(taken)
        await libp2p_fixes.close_listeners(first.get_network())
    libp2p_fixes.refuse_taken_port(taken)
    libp2p_fixes.refuse_taken_port(free)


async def test_close_connection_is_bounded_and_closes_the_socket(monkeypatch):
    monkeypatch.setattr(libp2p_fixes, "CLOSE_S", 0.05)
    ours, theirs = await socket_pair()
    removed = []

    class Hanging:
        muxed_conn = SimpleNamespace(secured_conn=SimpleNamespace(stream=ours))
        swarm = SimpleNamespace(remove_conn=removed.append)

        async def close(self) -> None:
            await trio.sleep_forever()

    connection = Hanging()
    with trio.fail_after(60):
        with trio.CancelScope() as scope:
            scope.cancel()  # also when we are being cancelled
            await libp2p_fixes.close_connection(connection)
        assert removed == [connection]
        assert await theirs.receive_some(1) == b""
    await theirs.aclose()


async def socket_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    left, right = trio.socket.socketpair()
    return trio.SocketStream(left), trio.SocketStream(right)


async def test_the_socket_is_found_under_the_library_s_layers(hosts):
    one, other = await hosts.pair()
    for peer in (one, other):
        for ours in peer.net._connections.values():
            found = libp2p_fixes._bottom(ours.connection.muxed_conn)
            assert isinstance(found, trio.SocketStream)


def test_digest_cache():
    library, ours = MessageCache(3, 5), libp2p_fixes.DigestCache(3, 5)
    first, same = message(b"data", 1), message(b"data", 2, b"another")
    for cache in (library, ours):
        cache.put(first)
        cache.put(same)
    assert len(library.window("t")) == 2, "the library's cache does not know our message id"
    assert ours.window("t") == [libp2p_fixes.message_id(first)]
    assert ours.get(libp2p_fixes.message_id(same)) is first
    assert libp2p_fixes.message_id(message(b"other", 1)) != libp2p_fixes.message_id(first)


async def test_widen_queues():
    assert RpcQueue()._queue.max_size == 32
    pubsub = Pubsub(new_host(key_pair=keys()), GossipSub(**ROUTER))
    libp2p_fixes.widen_queues(pubsub)
    pubsub.peer_queues[ID(b"x")] = queue = RpcQueue()
    pushed = sum(queue.push(rpc_pb2.RPC()) for _ in range(GOSSIP_PEER_QUEUE_MAX + 5))
    assert pushed == GOSSIP_PEER_QUEUE_MAX
    pubsub.seen_messages.stop()


async def test_start_sequence():
    pubsub = Pubsub(new_host(key_pair=keys()), GossipSub(**ROUTER))
    assert pubsub.counter < 2**40, "the library counts from the second of its start"
    before = time.time_ns()
    libp2p_fixes.start_sequence(pubsub)
    assert pubsub.counter >= before
    pubsub.seen_messages.stop()


async def test_stop_auto_connector():
    libp2p_fixes.quiet_logs()
    listen = [multiaddr.Multiaddr("/ip4/127.0.0.1/tcp/0")]
    target = new_host(key_pair=keys(1), listen_addrs=listen)
    idle = ConnectionConfig(min_connections=0, low_watermark=0)
    async with target.run(listen_addrs=listen):
        for fixed in (False, True):
            host = new_host(key_pair=keys(2), connection_config=idle, listen_addrs=listen)
            host.get_peerstore().add_addrs(target.get_id(), target.get_addrs(), 1_000)
            swarm = host.get_network()
            if fixed:
                libp2p_fixes.stop_auto_connector(swarm)
            async with host.run(listen_addrs=listen):
                with trio.move_on_after(3 if not fixed else 0.5):
                    while not swarm.connections:
                        await trio.sleep(0.005)
                assert bool(swarm.connections) is not fixed
                await libp2p_fixes.close_listeners(swarm)
                for connections in list(swarm.connections.values()):
                    for connection in list(connections):
                        await libp2p_fixes.close_connection(connection)
        for connections in list(target.get_network().connections.values()):
            for connection in list(connections):
                await libp2p_fixes.close_connection(connection)
        await libp2p_fixes.close_listeners(target.get_network())


async def test_bounded_gossipsub():
    library, ours = GossipSub(**ROUTER), libp2p_fixes.BoundedGossipSub(**ROUTER)
    burst = [message(b"%d" % number, number) for number in range(50)]
    peer = ID(b"someone")
    assert sum(library._check_spam_protection(peer, item) for item in burst) < 50
    assert all(ours._check_spam_protection(peer, item) for item in burst)
    for router in (library, ours):
        for number in range(1_000):
            router.recent_message_deliveries["t"].append(float(number))
    assert len(library.recent_message_deliveries["t"]) == 1_000
    assert len(ours.recent_message_deliveries["t"]) < 100
    for router in (library, ours):
        router.pubsub = SimpleNamespace(my_id=peer, peer_topics={"t": {ID(b"a"), ID(b"b")}})
        router.mesh["t"] = set()
    assert set(library._get_peers_to_send(["t"], peer, peer)) == set()
    assert set(ours._get_peers_to_send(["t"], peer, peer)) == {ID(b"a"), ID(b"b")}
    assert set(ours._get_peers_to_send(["t"], ID(b"a"), ID(b"c"))) == set(), (
        "others' messages keep to the mesh"
    )


async def small_reads(updates: list[int]) -> None:
    """100 small messages from one host to another; each window update of the reader is noted."""
    got = trio.Event()
    left = [100]

    async def read(stream):
        muxed = stream.muxed_stream
        library = muxed.send_window_update

        async def send(increment, **options):
            updates.append(increment)
            await library(increment, **options)

        muxed.send_window_update = send
        while left[0]:
            await stream.read(1)
            left[0] -= 1
        got.set()

    hosts = [new_host(key_pair=keys(n), muxer_preference="YAMUX") for n in (7, 8)]
    address = multiaddr.Multiaddr("/ip4/127.0.0.1/tcp/0")
    async with hosts[0].run(listen_addrs=[address]), hosts[1].run(listen_addrs=[address]):
        hosts[0].set_stream_handler("/small/1", read)
        dialled = await hosts[1].get_network().dial_addr(hosts[0].get_addrs()[0], hosts[0].get_id())
        stream = await hosts[1].new_stream(hosts[0].get_id(), ["/small/1"])
        for _ in range(100):
            await stream.write(b"x")
        with trio.fail_after(60):
            await got.wait()
        for end in (dialled, *hosts[0].get_network().get_connections(hosts[1].get_id())):
            await libp2p_fixes.close_connection(end)


async def test_batch_window_updates(monkeypatch):
    """Fault: an update for each small read. With the work-round none, until half the window was read."""
    libp2p_fixes.quiet_logs()
    batched = YamuxStream._auto_tune_and_send_window_update
    library = getattr(batched, "library", batched)
    monkeypatch.setattr(YamuxStream, "_auto_tune_and_send_window_update", library)
    before: list[int] = []
    await small_reads(before)
    assert len(before) >= 50, "the library now batches window updates by itself"
    libp2p_fixes.batch_window_updates()
    after: list[int] = []
    await small_reads(after)
    assert after == []


async def test_read_settings_once(monkeypatch):
    """Fault: a look into the environment for each of 100 reads."""
    libp2p_fixes.quiet_logs()
    library = getattr(yamux, "library_env", yamux._py_yamux_env)
    monkeypatch.setattr(yamux, "_py_yamux_env", library)
    monkeypatch.delattr(yamux, "library_env", raising=False)
    looks = [0]

    def getenv(*names):
        looks[0] += 1
        return library_getenv(*names)

    library_getenv = yamux.os.getenv
    monkeypatch.setattr(yamux.os, "getenv", getenv)
    await small_reads([])
    before, looks[0] = looks[0], 0
    assert before >= 100, "the library no longer looks for each read"
    libp2p_fixes.read_settings_once()
    await small_reads([])
    assert looks[0] < 20


def run_python(*statements: str) -> str:
    """What a new interpreter prints."""
    command = [sys.executable, "-c", "\n".join(statements)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def loaded(*statements: str) -> set[str]:
    """Names of the modules that a new interpreter holds after these statements."""
    return set(run_python(*statements, "import sys", "print(*sys.modules)").split())


def test_lean_import():
    heavy = {"aioquic", "cffi", "httpx2", "trio_websocket", "zeroconf", "libp2p.peer.persistent"}
    assert heavy <= loaded("import libp2p"), "the library no longer loads what we never use"
    ours = loaded("import p2p.host")
    assert "libp2p.network.swarm" in ours
    assert not {name for name in ours if lean_import.is_left_out(name) or name in lean_import.ABSENT}
    real = "import aioquic.quic.connection"
    assert "aioquic.tls" in loaded("import p2p.host", real, "aioquic.quic.connection.QuicConnection")
    rsa = "import libp2p.crypto.rsa as rsa; print(rsa.create_new_key_pair(2048).public_key.verify(b'', b''))"
    assert run_python("import p2p.host, cffi", rsa).strip() == "False"


def test_what_was_left_out_says_so():
    use = "try: libp2p.create_sync_peerstore('x')\nexcept Exception as error: print(error)"
    said = run_python("import p2p.host, libp2p", use)
    assert said.strip() == "libp2p.peer.persistent.create_sync_peerstore: this part of libp2p is left out"


async def test_bound_handshakes_gives_slots_back(hosts, wait_until):
    """Needed while the library's slot stays taken after its connection has ended."""
    one = await hosts.start(1)
    swarm = one.net.swarm
    swarm._inbound_limiter = trio.CapacityLimiter(1)
    for number in range(2, 6):
        other = await hosts.start(number, bootstrap=(one.address,))
        await wait_until(lambda other=other: one.knows(other))
        await other.stop()
        await wait_until(lambda other=other: not one.knows(other))
    del swarm._handle_inbound_connection  # the library's own from here on
    for number in (6, 7):
        other = await hosts.start(number, bootstrap=(one.address,))
        if number == 6:
            await wait_until(lambda other=other: one.knows(other))
            await other.stop()
            await wait_until(lambda other=other: not one.knows(other))
    with trio.move_on_after(2):
        await wait_until(lambda: one.knows(other))
    assert not one.knows(other)


async def test_bound_handshakes_keeps_one_network_from_taking_all(hosts, wait_until):
    one = await hosts.start(1, listen=("/ip4/0.0.0.0/tcp/0",))
    port = int(one.address.split("/")[4])
    silent = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(HANDSHAKES_OF_GROUP_MAX + 5)]
    await wait_until(lambda: one.net.stats().get("shed.handshakes", 0) == 5)
    with trio.socket.socket() as elsewhere:
        await elsewhere.bind(("127.9.9.9", 0))
        await elsewhere.connect(("127.0.0.1", port))
        await elsewhere.send(b"\x13/multistream/1.0.0\n")
        with trio.fail_after(60):
            assert await elsewhere.recv(1) != b""  # it is greeted
    for stream in silent:
        await trio.aclose_forcefully(stream)
