"""Who gets a place: ours stay free, no network of one owner takes all, and who is refused hears of others."""

import pytest

from p2p import room
from p2p.errors import LocalError
from p2p.ids import peer_id_of, peer_of_address
from p2p.limits import HELD_MAX, REASON_BYTES_MAX

ID = peer_id_of(b"\x01" * 32)


def at(host: str, port: int = 1) -> str:
    return f"/ip4/{host}/tcp/{port}/p2p/{ID}"


def test_a_quarter_is_ours() -> None:
    assert [room.inbound_max(n) for n in (1, 3, 4, 8, 64)] == [1, 3, 3, 6, 48]


def test_of_a_crowd_we_dial_few() -> None:
    assert [room.dialled_max(8, known) for known in (0, 16, 17, 5_000)] == [8, 8, 3, 3]
    assert [room.dialled_max(n, 5_000) for n in (1, 2, 4, 64)] == [1, 2, 2, 24]
    for places in range(1, 65):  # what is not dialled is room for others, and never less than is dialled
        assert places - room.dialled_max(places, 5_000) >= min(places // 4, room.dialled_max(places, 5_000))


def test_groups_are_what_one_owner_has() -> None:
    assert room.group_of(at("10.1.2.3")) == room.group_of(at("10.1.2.200")) != room.group_of(at("10.1.3.3"))
    assert room.group_of("/ip6/2001:db8:1::1/tcp/1") == room.group_of("/ip6/2001:db8:1:9::2/tcp/1")
    assert room.group_of("/ip6/2001:db8:1::1/tcp/1") != room.group_of("/ip6/2001:db8:2::1/tcp/1")
    assert room.group_of("") == ""


@pytest.mark.parametrize(
    ("guests", "newcomer", "who"),
    [
        ((), "10.0.0.1", None),
        (("10.0.0.1", "10.0.0.2"), "10.0.0.3", None),  # a LAN: all of one group, nobody gives way
        (("10.0.0.1", "10.0.0.2"), "10.9.0.1", 1),
        (("10.0.0.1",), "10.9.0.1", None),  # as many as the newcomer's would be: no to and fro
        (("10.0.0.1", "10.9.0.1", "10.0.0.2", "10.0.0.3"), "10.9.0.2", 3),
        (("10.0.0.1", "10.9.0.1", "10.0.0.2"), "10.9.0.2", None),
    ],
)
def test_the_largest_group_makes_room(guests: tuple[str, ...], newcomer: str, who: int | None) -> None:
    assert room.gives_way([at(host) for host in guests], at(newcomer)) == who


def test_a_refusal_names_others_and_fits() -> None:
    addresses = [at(f"10.0.{n}.1") for n in range(9)]
    text = room.refusal(addresses)
    assert len(text) <= REASON_BYTES_MAX
    told = room.read_refusal(f"goodbye: {text}")
    assert len(told) >= 2
    assert told == addresses[: len(told)]
    assert room.refusal([]) == "full"
    assert room.read_refusal("goodbye: full") == []


@pytest.mark.parametrize("text", ["", "full, try", "full, try x /ip4/1.2.3.4/tcp/1/p2p/me", "closed"])
def test_foreign_words_are_addresses_or_nothing(text: str) -> None:
    for address in room.read_refusal(text):
        peer_of_address(address)
    with pytest.raises(LocalError):
        peer_of_address("/ip4/1.2.3.4/tcp/1/p2p/me")


async def test_who_joins_by_a_full_peer_finds_another(world, wait_until) -> None:
    hub = await world.start(1, neighbours_max=1)
    member = await world.start(2, bootstrap=(hub.address,))
    await wait_until(lambda: hub.knows(member))
    late = await world.start(3, bootstrap=(hub.address,))
    await wait_until(lambda: late.knows(member))
    assert hub.net.stats()["refused.full"] >= 1


async def test_who_dials_us_first_leaves_places_for_those_that_we_choose(world, wait_until) -> None:
    chosen = await world.start(1)
    crowded = await world.start(2, neighbours_max=4)
    crowd = [await world.start(n, bootstrap=(crowded.address,), neighbours_max=1) for n in range(3, 8)]
    await wait_until(lambda: crowded.net.stats().get("refused.full", 0) >= 1)
    assert sum(crowded.knows(peer) for peer in crowd) == 3
    crowded.net.add_peer(chosen.address, keep=False)
    await wait_until(lambda: crowded.knows(chosen))


async def test_kept_connections_stand_beside_the_places(world, wait_until) -> None:
    hub = await world.start(1, neighbours_max=1)
    guest = await world.start(2, bootstrap=(hub.address,))
    await wait_until(lambda: hub.knows(guest))
    kept = await world.start(3)
    hub.net.add_peer(kept.address, keep=True)
    await wait_until(lambda: hub.knows(guest, kept))


async def test_other_networks_are_dialled_first(hosts, wait_until) -> None:
    """Whatever the book holds of one /24, a peer of another is dialled before the second of it."""
    one = await hosts.start(1, neighbours_max=2)
    crowd = [await hosts.start(n, neighbours_max=1) for n in range(2, 10)]
    elsewhere = await hosts.start(20, listen=("/ip4/127.9.9.9/tcp/0",), neighbours_max=1)
    one.net.add_peer(crowd[0].address, keep=False)
    await wait_until(lambda: one.knows(crowd[0]))
    for peer in (*crowd[1:], elsewhere):
        one.net._board.book.learn(peer.address)
    one.net._board.look()
    await wait_until(lambda: len(one.net.neighbours()) == 2)
    assert one.knows(crowd[0], elsewhere)


async def test_held_connections_stand_beside_the_places_until_others_are_held(world, wait_until) -> None:
    hub = await world.start(1, neighbours_max=1)
    guest = await world.start(2, bootstrap=(hub.address,))
    await wait_until(lambda: hub.knows(guest))
    held = [await world.start(n, neighbours_max=1) for n in (3, 4)]
    hub.net.hold(frozenset(peer.net.peer_id for peer in held))
    hub.net.add_peer(held[0].address, keep=False)  # dialled beyond the places …
    held[1].net.add_peer(hub.address, keep=False)  # … and let in
    await wait_until(lambda: hub.knows(guest, *held))
    hub.net.hold(frozenset())
    late = await world.start(5, bootstrap=(hub.address,), neighbours_max=1)
    await wait_until(lambda: late.net.stats().get("dial.connected", 0) >= 1)
    await wait_until(lambda: hub.net.stats().get("refused.full", 0) >= 1)
    with pytest.raises(LocalError, match="hold: 513 peers"):
        hub.net.hold(frozenset(map(str, range(HELD_MAX + 1))))
