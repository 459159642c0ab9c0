"""What strangers may read: a value from whom it is wanted, whole or not at all."""

import hashlib

import pytest
import trio

from p2p import public
from p2p.errors import ConnectFailed, PeerFault
from p2p.ids import peer_id_of
from p2p.limits import PUBLIC_READERS_MAX, PUBLIC_VALUE_BYTES_MAX

PROTOCOL = "/test/value/1"
STRANGER = peer_id_of(hashlib.sha256(b"a stranger").digest())


@pytest.mark.parametrize("size_bytes", [0, 1, 65_500, PUBLIC_VALUE_BYTES_MAX])
async def test_a_stranger_reads_a_value(hosts, size_bytes):
    value = bytes(i * 7 % 251 for i in range(1024)) * (size_bytes // 1024 + 1)
    one = await hosts.start(1, public=((PROTOCOL, value[:size_bytes]),))
    assert await public.read_public(one.address, PROTOCOL, PUBLIC_VALUE_BYTES_MAX) == value[:size_bytes]
    assert not one.seen.ups  # it was never a neighbour
    assert not one.net.banned()


async def test_a_value_that_nobody_hands_out_is_named(hosts):
    one = await hosts.start(1)
    with pytest.raises(ConnectFailed, match=PROTOCOL):
        await public.read_public(one.address, PROTOCOL, 10)


async def test_the_value_of_another_peer_is_not_taken(hosts):
    one = await hosts.start(1, public=((PROTOCOL, b"value"),))
    with pytest.raises(ConnectFailed):
        await public.read_public(one.address.replace(one.id, STRANGER), PROTOCOL, 10)


async def test_a_peer_that_is_not_there_is_named(hosts):
    one = await hosts.start(1, public=((PROTOCOL, b"value"),))
    address = one.address
    await one.stop()
    with pytest.raises(ConnectFailed):
        await public.read_public(address, PROTOCOL, 10)


async def test_a_value_above_the_bound_is_not_read(hosts):
    one = await hosts.start(1, public=((PROTOCOL, b"x" * 11),))
    with pytest.raises(PeerFault, match=r"public\.malformed"):
        await public.read_public(one.address, PROTOCOL, 10)


class _Answers:
    """A stream that gives these pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    async def read(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.pieces.pop(0) if self.pieces else b""


@pytest.mark.parametrize(
    "pieces",
    [(), (b"\0\0",), (b"\0\0\0\2", b"a"), (b"\0\0\0\1ab",), (b"\xff\xff\xff\xff",)],
    ids=["nothing", "half a length", "cut short", "too much", "huge"],
)
async def test_a_malformed_answer_is_the_peers_fault(pieces):
    with pytest.raises(PeerFault, match=r"public\.malformed"):
        await public._read_value("peer", _Answers(*pieces), 1_000)


async def test_a_value_in_small_pieces_is_whole():
    assert await public._read_value("peer", _Answers(b"\0", b"\0\0", b"\3a", b"b", b"c"), 3) == b"abc"


class _Stuck:
    """A stream whose reader does not read."""

    def __init__(self) -> None:
        self.was_reset = False

    async def write(self, data: bytes) -> None:
        await trio.sleep_forever()

    async def close(self) -> None:
        raise AssertionError("closed as if all was written")

    async def reset(self) -> None:
        await trio.lowlevel.checkpoint()
        self.was_reset = True


async def test_readers_that_do_not_read_are_few_and_end(autojump_clock):
    counts: list[str] = []
    value = public.PublicValue(b"value", counts.append)
    stuck = [_Stuck() for _ in range(PUBLIC_READERS_MAX + 3)]
    async with trio.open_nursery() as nursery:
        for stream in stuck:
            nursery.start_soon(value.handle, stream)
    assert sum(stream.was_reset for stream in stuck) == 3
    assert counts == ["shed.public"] * len(stuck)
    assert value._readers == 0
