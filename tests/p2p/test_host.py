"""What only the real host can get wrong: foreign bytes and identities on the port."""

import contextlib
import hashlib
import os
import pathlib
import signal
import sys

import multiaddr
import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.rsa import create_new_key_pair as create_rsa_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import StreamFailure
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.utils.varint import encode_uvarint

from p2p import frames, libp2p_fixes
from p2p.errors import ConnectFailed, LocalError
from p2p.frames import BULK_PROTOCOL, CONSENSUS_PROTOCOL, Kind
from p2p.host import Host, HostConfig
from p2p.ids import peer_id_of, public_key_of
from p2p.link import Pace
from p2p.network import Lane
from tests.p2p.conftest import CALM

SEED = hashlib.sha256(b"stranger").digest()
HELLO = frames.encode(Kind.HELLO, frames.hello_body(bytes(16), b"chain-1"))


def tcp_of(address: str) -> tuple[str, int]:
    parts = address.split("/")
    return parts[2], int(parts[4])


def noise_host(keys):
    noise = NoiseTransport(keys, noise_privkey=create_x25519_key_pair().private_key)
    return new_host(key_pair=keys, sec_opt={TProtocol(NOISE_PROTOCOL): noise})


@contextlib.asynccontextmanager
async def running(host):
    """A host of the library's own making, whose sockets are closed at the end."""
    async with host.run(listen_addrs=[]):
        try:
            yield
        finally:
            for connections in list(host.get_network().connections.values()):
                for connection in list(connections):
                    await libp2p_fixes.close_connection(connection)


async def dial(host, address: str):
    target = multiaddr.Multiaddr(address)
    return await host.get_network().dial_addr(target, ID.from_string(address.rpartition("/p2p/")[2]))


async def test_ids_agree_with_the_library():
    keys = create_new_key_pair(SEED)
    public_key = keys.public_key.to_bytes()
    assert peer_id_of(public_key) == str(ID.from_pubkey(keys.public_key))
    assert public_key_of(peer_id_of(public_key)) == public_key


async def test_plaintext_with_a_stolen_identity_is_refused(hosts, wait_until):
    one, other = await hosts.pair()
    # The impostor says over plaintext that it is `other`, whose private key it does not have.
    impostor_keys = create_new_key_pair(hashlib.sha256(b"peer 2").digest())
    plaintext = InsecureTransport(impostor_keys)
    impostor = new_host(key_pair=impostor_keys, sec_opt={TProtocol(PLAINTEXT_PROTOCOL_ID): plaintext})
    impostor.get_network().retry_config.max_retries = 0
    async with running(impostor):
        with pytest.raises(SwarmException):
            await dial(impostor, one.address)
    await wait_until(lambda: one.net.stats().get("fault.connection.handshake", 0) >= 1)
    assert len(one.seen.ups) == 1
    assert one.knows(other)


async def test_dialling_an_address_with_another_key_behind_it_fails(hosts):
    one, other = await hosts.pair()
    stranger = peer_id_of(create_new_key_pair(SEED).public_key.to_bytes())
    wrong = one.address.replace(one.id, stranger)
    with pytest.raises(ConnectFailed):
        await other.net.dial(wrong)
    assert other.knows(one)


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 5_000, b"\xff" * 100_000, b"\x13/multistream/1.0.0\n\x05/abc\n"],
)
async def test_garbage_on_the_port_is_counted_and_harmless(hosts, wait_until, garbage):
    one, other = await hosts.pair()
    stream = await trio.open_tcp_stream(*tcp_of(one.address))
    async with stream:
        try:
            await stream.send_all(garbage)
            await stream.send_eof()
        except trio.BrokenResourceError:
            pass  # it has already hung up
        await wait_until(lambda: one.net.stats().get("fault.connection.handshake", 0) >= 1)
    assert one.net.send(other.id, Lane.CONSENSUS, b"still fine")
    await wait_until(lambda: other.seen.messages)
    assert one.seen.downs == []


async def test_a_too_long_frame_over_libp2p_ends_that_link_only(hosts, wait_until):
    one, other = await hosts.pair(pace=CALM)
    stranger = noise_host(create_new_key_pair(SEED))
    async with running(stranger):
        await dial(stranger, one.address)
        target = ID.from_string(one.id)
        consensus = await stranger.new_stream(target, [TProtocol(CONSENSUS_PROTOCOL)])
        await consensus.write(HELLO)
        bulk = await stranger.new_stream(target, [TProtocol(BULK_PROTOCOL)])
        await wait_until(lambda: len(one.seen.ups) == 2)
        await bulk.write(b"\x7f\xff\xff\xff\x02")
        await wait_until(lambda: one.seen.downs)
    assert one.seen.downs == [(str(stranger.get_id()), "frame.too_long")]
    assert one.net.stats()["fault.frame.too_long"] == 1
    assert one.knows(other)


async def test_a_second_stream_of_a_kind_is_refused(hosts, wait_until):
    one = await hosts.start(1, pace=CALM)
    stranger = noise_host(create_new_key_pair(SEED))
    async with running(stranger):
        await dial(stranger, one.address)
        target = ID.from_string(one.id)
        await stranger.new_stream(target, [TProtocol(CONSENSUS_PROTOCOL)])
        with contextlib.suppress(StreamFailure):  # or only reset later: that is up to timing
            await stranger.new_stream(target, [TProtocol(CONSENSUS_PROTOCOL)])
        await wait_until(lambda: one.net.stats().get("fault.stream.unexpected") == 1)


async def test_a_connection_that_never_says_hello_is_closed(hosts, wait_until, world_parts):
    one = await hosts.start(1, pace=world_parts.FAST.__class__(heartbeat_s=0.2, handshake_s=0.3))
    stranger = noise_host(create_new_key_pair(SEED))
    async with running(stranger):
        connection = await dial(stranger, one.address)
        await wait_until(lambda: connection.is_closed)
    await wait_until(lambda: not one.net._connections)
    assert not one.seen.ups


async def test_a_key_of_another_kind_is_refused(hosts, wait_until):
    one = await hosts.start(1, pace=CALM)
    stranger = noise_host(create_rsa_key_pair(2048))
    async with running(stranger):
        await dial(stranger, one.address)
        await wait_until(lambda: one.net.stats().get("fault.connection.key_type") == 1)


async def test_nothing_is_left_after_links_have_come_and_gone(hosts, wait_until):
    one = await hosts.start(1)
    for _ in range(5):
        other = await hosts.start(2, bootstrap=(one.address,))
        await wait_until(lambda other=other: one.knows(other))
        await other.stop()
        await wait_until(lambda: not one.net.neighbours())
    await wait_until(lambda: not one.net._connections)
    await wait_until(lambda: not one.net.basic_host.get_network().connections)


async def test_gossip_starts_again_with_a_reconnected_peer(hosts, wait_until):
    one = await hosts.start(1)
    listen = one.address.rpartition("/p2p/")[0]
    other = await hosts.start(2)
    other.net.add_peer(one.address, keep=True)
    for round_number in range(3):
        await wait_until(lambda one=one: one.knows(other) and other.knows(one))
        with trio.fail_after(60):
            count = 0
            while not one.seen.gossip:
                other.net.publish("approvals", b"round %d, %d" % (round_number, count))
                count += 1
                await trio.sleep(0.1)
            while not other.seen.gossip:
                one.net.publish("transactions", b"round %d, %d" % (round_number, count))
                count += 1
                await trio.sleep(0.1)
        other.seen.gossip.clear()
        await one.stop()
        one = await hosts.start(1, listen=(listen,))


def rpc(**fields) -> bytes:
    body = rpc_pb2.RPC(**fields).SerializeToString()
    return encode_uvarint(len(body)) + body


def gossip_message(**fields) -> rpc_pb2.Message:
    return rpc_pb2.Message(
        **{"data": b"x", "topicIDs": ["approvals"], "from_id": b"y", "seqno": b"1", **fields}
    )


@pytest.mark.parametrize(
    "wire",
    [
        b"\x05\xff\xff\xff\xff\xff",
        b"\xff" * 20,
        b"\xff\xff\xff\x7f" + bytes(100),
        rpc(publish=[gossip_message(key=b"\xff\xff", signature=b"z")]),
        rpc(publish=[gossip_message(from_id=b"", seqno=b"")]),
        rpc(publish=[gossip_message(topicIDs=["approvals", "transactions"])]),
        rpc(senderRecord=b"\xff\xff\xff"),
        rpc(
            control=rpc_pb2.ControlMessage(
                ihave=[rpc_pb2.ControlIHave(topicID="approvals", messageIDs=[b"zz"])]
            )
        ),
    ],
)
async def test_garbage_in_gossip_never_ends_the_host(hosts, wait_until, wire):
    one, other = await hosts.pair(pace=CALM)
    stranger = noise_host(create_new_key_pair(SEED))
    async with running(stranger):
        await dial(stranger, one.address)
        target = ID.from_string(one.id)
        consensus = await stranger.new_stream(target, [TProtocol(CONSENSUS_PROTOCOL)])
        await consensus.write(HELLO)
        await stranger.new_stream(target, [TProtocol(BULK_PROTOCOL)])
        await wait_until(lambda: len(one.seen.ups) == 2)
        gossip = await stranger.new_stream(target, [TProtocol("/meshsub/1.1.0")])
        await gossip.write(wire)
        await wait_until(lambda: one.net._gossip._pubsub.peer_topics.get("approvals"))
        for number in range(20):  # whatever it did to one, others still gossip with it
            other.net.publish("approvals", b"honest %d" % number)
        await wait_until(lambda: len(one.seen.gossip) >= 1)
    assert {sender for _, sender, _ in one.seen.gossip} == {other.id}
    assert one.knows(other)


async def test_a_gossip_stream_that_is_faster_than_the_notification_waits_for_the_link(
    hosts, wait_until, monkeypatch
):
    """Other implementations open theirs at once; a stream that is reset takes their first messages along."""

    async def never(watch, network, connection) -> None: ...

    monkeypatch.setattr("p2p.host._Watch.connected", never)
    one = await hosts.start(1, pace=CALM)
    stranger = noise_host(create_new_key_pair(SEED))
    async with running(stranger):
        await dial(stranger, one.address)
        target = ID.from_string(one.id)
        gossip = await stranger.new_stream(target, [TProtocol("/meshsub/1.1.0")])
        await gossip.write(rpc(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid="approvals")]))
        consensus = await stranger.new_stream(target, [TProtocol(CONSENSUS_PROTOCOL)])
        await consensus.write(HELLO)
        await stranger.new_stream(target, [TProtocol(BULK_PROTOCOL)])
        await wait_until(lambda: one.net._gossip._pubsub.peer_topics.get("approvals"))


async def test_garbage_on_the_library_s_own_protocols_never_ends_the_host(hosts, wait_until):
    one, other = await hosts.pair(pace=CALM)
    stranger = noise_host(create_new_key_pair(SEED))
    async with running(stranger):
        await dial(stranger, one.address)
        target = ID.from_string(one.id)
        for protocol in ("/ipfs/id/push/1.0.0", "/ipfs/ping/1.0.0", "/ipfs/id/1.0.0"):
            stream = await stranger.new_stream(target, [TProtocol(protocol)])
            with contextlib.suppress(StreamError):
                await stream.write(b"\x7f" + b"\xff" * 500)
            await stream.reset()
    assert one.net.send(other.id, Lane.CONSENSUS, b"still fine")
    await wait_until(lambda: other.seen.messages)


FROZEN_CHILD = """
import sys, trio
from p2p.host import Host, HostConfig
class Quiet:
    def hello(self, peer_id): return b"chain-1"
    def check_hello(self, peer_id, hello): pass
    def on_up(self, neighbour): print("up", flush=True)
    def on_down(self, peer_id, reason): pass
    def on_message(self, peer_id, lane, payload): pass
trio.run(Host(HostConfig(seed=b"f" * 32, bootstrap=(sys.argv[1],))).run, Quiet())
"""


async def test_a_frozen_process_is_dropped_even_with_full_queues(hosts, wait_until):
    one = await hosts.start(1, pace=Pace(heartbeat_s=1.0, backoff_scale=0.2))
    root = pathlib.Path(__file__).parents[2]
    command = [sys.executable, "-c", FROZEN_CHILD, one.address]
    child = await trio.lowlevel.open_process(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    try:
        await wait_until(lambda: one.seen.ups)
        child.send_signal(signal.SIGSTOP)
        while one.net.send(one.seen.ups[0].peer_id, Lane.BULK, bytes(1_000_000)):
            await trio.lowlevel.checkpoint()
        await wait_until(lambda: one.seen.downs)
        assert one.seen.downs == [(one.seen.ups[0].peer_id, "silent")]
        await wait_until(lambda: not one.net.basic_host.get_network().connections)
    finally:
        child.kill()
        await child.wait()


def by_nobody(message: rpc_pb2.Message) -> bytes:
    return b""


def by_another(message: rpc_pb2.Message) -> bytes:
    return create_new_key_pair(SEED).private_key.sign(b"libp2p-pubsub:" + message.SerializeToString())


@pytest.mark.parametrize("sign", [by_nobody, by_another])
async def test_gossip_that_its_origin_did_not_sign_is_its_bringer_s_fault(hosts, wait_until, sign):
    """Strict signing: it is not judged, and no peer that checks would have passed it on."""
    one, other = await hosts.pair()
    pubsub = other.net._gossip._pubsub
    await wait_until(lambda: pubsub.peer_topics.get("approvals"))
    assert other.net.publish("approvals", b"honest")
    await wait_until(lambda: one.seen.gossip)
    origin = ID.from_string(other.id).to_bytes()
    for number in range(5):  # a fault costs 20 points of 100
        forged = gossip_message(data=b"%d" % number, from_id=origin, seqno=number.to_bytes(8, "big"))
        forged.signature = sign(forged)
        await pubsub.router.publish(pubsub.my_id, forged)
    await wait_until(lambda: one.net.banned())
    assert [(ban.peer_id, ban.rule) for ban in one.net.banned()] == [(other.id, "gossip.signature")]
    assert [data for _, _, data in one.seen.gossip] == [b"honest"]


def test_a_bad_configuration_is_refused():
    with pytest.raises(LocalError, match="seed"):
        Host(HostConfig(seed=b"short"))
    with pytest.raises(LocalError, match="address"):
        Host(HostConfig(seed=SEED, listen=("127.0.0.1:80",)))
    with pytest.raises(LocalError, match="address"):
        Host(HostConfig(seed=SEED, bootstrap=("/ip4/127.0.0.1/tcp/80",)))
    with pytest.raises(LocalError, match="topics"):
        Host(HostConfig(seed=SEED, topics=("",)))
    assert "seed" not in repr(HostConfig(seed=SEED))
