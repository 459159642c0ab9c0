"""Kademlia's FIND_NODE over links: who is told, what is refused, and that the library's own peers agree."""

import hashlib

import pytest
import trio
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.kad_dht.utils import sort_peer_ids_by_distance
from libp2p.peer.id import ID
from libp2p.utils.varint import encode_varint_prefixed, read_varint_prefixed_bytes_limited
from nacl.signing import SigningKey

from p2p.book import Entry
from p2p.dht import PROTOCOL, addresses_of, closest
from p2p.errors import StreamClosed
from p2p.ids import peer_id_of
from p2p.limits import DHT_MESSAGE_BYTES_MAX, DHT_PEERS_MAX
from tests.p2p.conftest import CALM, until


def peer(number: int) -> str:
    return peer_id_of(SigningKey(hashlib.sha256(b"dht %d" % number).digest()).verify_key.encode())


def test_the_nearest_are_those_of_the_library():
    ids = [peer(number) for number in range(60)]
    for key in (b"", b"\x00" * 32, ID.from_string(ids[7]).to_bytes()):
        ours = [entry.peer_id for entry in closest(key, [Entry(one) for one in ids])]
        theirs = [str(one) for one in sort_peer_ids_by_distance(key, [ID.from_string(one) for one in ids])]
        assert ours == theirs[:DHT_PEERS_MAX]
    assert closest(ID.from_string(ids[7]).to_bytes(), [Entry(one) for one in ids])[0].peer_id == ids[7]


def test_malformed_addresses_are_left_out():
    answer = Message.Peer(
        id=ID.from_string(peer(1)).to_bytes(), addrs=[b"\xff\xff", b"", b"\x04\x7f\x00\x00\x01\x06\x00\x50"]
    )
    assert addresses_of(answer) == [f"/ip4/127.0.0.1/tcp/80/p2p/{peer(1)}"]
    assert addresses_of(Message.Peer(id=b"nobody", addrs=[b"\x04\x7f\x00\x00\x01\x06\x00\x50"])) == []


async def test_who_knows_one_finds_others_by_it(hosts):
    one = await hosts.start(1, pace=CALM, dht=True)
    other = await hosts.start(2, pace=CALM, dht=True, bootstrap=(one.address,))
    await until(lambda: one.knows(other))
    asker = await hosts.start(3, pace=CALM, dht=True, bootstrap=(one.address,), neighbours_max=1)
    await until(lambda: asker.knows(one) and one.knows(asker))
    target = ID.from_string(other.id).to_bytes()
    found: list[str] = []
    with trio.fail_after(60):
        while not found:  # until `other` has said where it listens
            found = await asker.net.dht.ask(one.id, target)
            await trio.sleep(0.1)
    assert found == [other.address]
    assert other.id in asker.net._board.book.entries
    assert not any(asker.id in address for address in found)


async def test_it_is_off_unless_asked_for(hosts):
    one = await hosts.start(1, pace=CALM)
    other = await hosts.start(2, pace=CALM, bootstrap=(one.address,))
    await until(lambda: other.knows(one) and one.knows(other))
    with pytest.raises(StreamClosed):
        await other.net.open_on_link(one.id, PROTOCOL)
    assert await other.net.dht.ask(one.id, b"key") == []


async def test_no_record_is_taken_and_nonsense_ends_the_stream_alone(hosts):
    one = await hosts.start(1, pace=CALM, dht=True)
    other = await hosts.start(2, pace=CALM, bootstrap=(one.address,))
    await until(lambda: other.knows(one) and one.knows(other))
    put = encode_varint_prefixed(Message(type=Message.PUT_VALUE, key=b"k").SerializeToString())
    too_long = b"\xff\xff\x7f"
    for words in (put, b"\xff" * 30, too_long):
        stream = await other.net.open_on_link(one.id, PROTOCOL)
        await stream.write(words)
        with trio.fail_after(60), pytest.raises(Exception):  # noqa: B017 - however the end is told
            await read_varint_prefixed_bytes_limited(stream, DHT_MESSAGE_BYTES_MAX)
    assert one.net.stats()["dht.refused"] == 1
    assert one.knows(other)
