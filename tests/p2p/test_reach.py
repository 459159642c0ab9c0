"""Poisoned addresses: who sends us to a victim, to our own machine or to a local network gains little."""

import hashlib
import random

import pytest
import trio
from nacl.signing import SigningKey

from p2p.book import PeerBook
from p2p.ids import peer_id_of
from p2p.limits import BOOK_ADDRESSES_MAX, DIAL_FAILURES_BURST, DIAL_FAILURES_PER_S, DIALS_OF_GROUP_MAX
from p2p.reach import DialRation, may_hear, scope_of
from tests.p2p.conftest import until


def peer(number: int) -> str:
    return peer_id_of(SigningKey(hashlib.sha256(b"reach %d" % number).digest()).verify_key.encode())


def at(host: str, number: int = 1, port: int = 7) -> str:
    return f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}/p2p/{peer(number)}"


@pytest.mark.parametrize(
    ("host", "scope"),
    [
        ("127.0.0.1", 0), ("::1", 0), ("::ffff:127.0.0.1", 0),
        ("10.1.2.3", 1), ("192.168.0.1", 1), ("169.254.169.254", 1), ("100.64.0.1", 1), ("fe80::1", 1),
        ("8.8.8.8", 2), ("2606:4700::1", 2),
        ("0.0.0.0", None), ("224.0.0.1", None), ("255.255.255.255", None), ("nonsense", None), ("::", None),
    ],
)  # fmt: skip
def test_how_far_away_an_address_may_be(host: str, scope: int | None) -> None:
    assert scope_of(at(host)) == scope


def test_nobody_sends_us_nearer_than_it_stands() -> None:
    far, near, here = at("8.8.8.8"), at("10.0.0.1"), at("127.0.0.1")
    told = {(t, s) for t in (far, near, here) for s in (far, near, here) if may_hear(t, s)}
    assert told == {(far, far), (far, near), (far, here), (near, near), (near, here), (here, here)}
    assert not may_hear(at("224.0.0.1"), here)
    hidden = f"{at('127.0.0.1')}/p2p-circuit/p2p/{peer(2)}"
    assert not may_hear(hidden, far), "its relay would be dialled"
    book = PeerBook(peer(0), random.Random(1))
    assert not book.hear(here, far)
    assert not book.entries
    assert book.hear(at("8.8.4.4"), far)


def test_a_network_that_does_not_answer_is_tried_seldom_and_others_are_not() -> None:
    now = [0.0]
    ration = DialRation(lambda: now[0])
    dialled = 0
    for second in range(600):
        now[0] = float(second)
        for number in range(50):
            victim = at(f"192.0.2.{number}")
            if ration.allows(victim):
                dialled += 1
                ration.failed(victim)
    assert dialled <= DIAL_FAILURES_BURST + 600 * DIAL_FAILURES_PER_S + 2
    assert dialled > 600 * DIAL_FAILURES_PER_S - 2, "never for good"
    assert ration.allows(at("198.51.100.1"))
    under_way = [at("198.51.100.1")] * DIALS_OF_GROUP_MAX
    assert not ration.allows(at("198.51.100.2"), under_way)
    assert ration.allows(at("203.0.113.1"), under_way)


def test_lies_that_fill_an_entry_make_room_for_the_truth() -> None:
    book = PeerBook(peer(0), random.Random(1))
    for number in range(BOOK_ADDRESSES_MAX):
        book.learn(at("8.8.8.8", 1, 1_000 + number))
    truth = at("8.8.4.4", 1)
    assert not book.learn(truth)
    book.failed(peer(1), 0.0)
    assert book.learn(truth)
    assert truth in book.entries[peer(1)].addresses


async def test_a_neighbour_that_names_a_victim_makes_us_dial_it_a_few_times(hosts, monkeypatch) -> None:
    """A hundred peers that nobody is, at one network: refused connections at the victim are counted."""
    monkeypatch.setattr("p2p.reach.DIAL_FAILURES_BURST", 6)
    one, other = await hosts.pair()
    board = one.net._board
    for number in range(100):
        board.book.hear(f"/ip4/127.0.0.1/tcp/{9 + number % 3}/p2p/{peer(10 + number)}", other.address)
    board.look()
    await until(lambda: one.net.stats().get("dial.failed", 0) >= 6)
    for _ in range(20):  # whatever wakes the dialler
        board.look()
        await trio.sleep(0.02)
    assert one.net.stats()["dial.failed"] <= 6 + DIALS_OF_GROUP_MAX + 1
    assert one.knows(other)
    third = await hosts.start(3, bootstrap=(one.address,))
    await until(lambda: one.knows(third))
