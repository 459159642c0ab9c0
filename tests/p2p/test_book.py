"""Addresses, back-off, scores: the plain data behind dialling."""

import pathlib
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import discovery
from p2p.book import PeerBook, write_book
from p2p.errors import LocalError, PeerFault
from p2p.ids import base58_decode, base58_encode, peer_id_of, peer_of_address, public_key_of
from p2p.limits import BACKOFF_MAX_S, BOOK_ADDRESSES_MAX, BOOK_FAILURES_MAX, BOOK_PEERS_MAX, SCORE_MIN
from p2p.standing import Standing

OWN = peer_id_of(bytes(32))


def peer(number: int) -> str:
    return peer_id_of(number.to_bytes(32, "big"))


def address(number: int, port: int = 1) -> str:
    return f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer(number)}"


def book() -> PeerBook:
    return PeerBook(OWN, random.Random(1))


@given(st.binary(max_size=60))
def test_base58_round_trips(data: bytes) -> None:
    assert base58_decode(base58_encode(data)) == data


@given(st.binary(min_size=32, max_size=32))
def test_peer_ids_hold_their_key(key: bytes) -> None:
    assert peer_id_of(key).startswith("12D3KooW")
    assert public_key_of(peer_id_of(key)) == key


@given(st.text(max_size=300))
def test_foreign_addresses_parse_or_are_refused(text: str) -> None:
    for candidate in (text, "/ip4/1.2.3.4/tcp/1/p2p/" + text):
        try:
            head, peer_id = peer_of_address(candidate)
        except LocalError:
            continue
        assert candidate.isascii()
        assert candidate == f"{head}/p2p/{peer_id}"


def test_we_never_dial_ourselves() -> None:
    own = book()
    assert not own.learn(f"/ip4/127.0.0.1/tcp/1/p2p/{OWN}")
    assert own.entries == {}


def test_a_failing_peer_is_dialled_ever_more_rarely_and_then_forgotten() -> None:
    ours, waits = book(), []
    ours.learn(address(1))
    ours.learn(address(1, port=2))
    used = set()
    for _ in range(BOOK_FAILURES_MAX - 1):
        used.add(ours.next_address(ours.entries[peer(1)]))
        ours.failed(peer(1), 100.0)
        waits.append(ours.entries[peer(1)].due_s - 100.0)
        assert ours.due(100.0, ()) == []
    assert waits[-1] > 4 * waits[0]
    assert max(waits) <= BACKOFF_MAX_S
    assert used == {address(1), address(1, port=2)}
    ours.failed(peer(1), 100.0)
    assert ours.entries == {}


def test_a_kept_peer_is_never_forgotten_and_comes_first() -> None:
    ours = book()
    ours.learn(address(2))
    ours.learn(address(1), keep=True)
    for _ in range(3 * BOOK_FAILURES_MAX):
        ours.failed(peer(1), 0.0)
    assert ours.entries[peer(1)].due_s <= BACKOFF_MAX_S
    assert [entry.peer_id for entry in ours.due(1_000.0, ())] == [peer(1), peer(2)]
    assert [entry.peer_id for entry in ours.due(1_000.0, (peer(1),))] == [peer(2)]


def test_the_book_is_bounded() -> None:
    ours = book()
    for number in range(1, BOOK_PEERS_MAX + 50):
        ours.learn(address(number))
    assert len(ours.entries) == BOOK_PEERS_MAX
    for port in range(1, 50):
        ours.learn(address(BOOK_PEERS_MAX + 49, port=port))
    assert len(ours.entries[peer(BOOK_PEERS_MAX + 49)].addresses) == BOOK_ADDRESSES_MAX


def test_configured_peers_never_make_room() -> None:
    ours = book()
    for number in range(1, BOOK_PEERS_MAX + 1):
        ours.learn(address(number), pinned=True)
    assert not ours.learn(address(BOOK_PEERS_MAX + 1))


def test_the_book_survives_on_disk(tmp_path) -> None:
    ours = book()
    ours.learn(address(1))
    ours.learn(address(2))
    ours.dialled(peer(1))
    path = tmp_path / "deep" / "peers.json"
    write_book(path, ours.snapshot())
    again = book()
    again.load(path)
    assert list(again.entries) == [peer(1)], "only what was dialled with success is kept"
    book().load(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b"not json", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "format"),
        (b'{"format": 99}', "format"),
        (b'{"format": 1, "addresses": [1]}', "addresses"),
        (b'{"format": 1, "addresses": ["x"]}', "multiaddr"),
        (b" " * 5_000_000, "above"),
    ],
)
def test_a_damaged_book_is_named(tmp_path, content, field) -> None:
    path = tmp_path / "peers.json"
    path.write_bytes(content)
    with pytest.raises(LocalError, match=field):
        book().load(path)


def test_shared_addresses_are_proved_or_linked() -> None:
    ours = book()
    for number in range(1, 5):
        ours.learn(address(number))
    ours.dialled(peer(1))
    assert sorted(ours.shareable(10, [peer(2), peer(3)], skip=peer(3))) == sorted([address(1), address(2)])
    assert len(ours.shareable(1, [peer(2), peer(3)], skip="")) == 1


def test_exchange_answers_round_trip() -> None:
    body = discovery.answer([address(1)], [address(2), address(3)])
    assert discovery.parse(peer(1), body, address(1)) == [address(1), address(2), address(3)]
    assert discovery.parse(peer(1), b"", address(1)) == []


def test_a_wildcard_address_becomes_the_host_that_we_see() -> None:
    body = discovery.answer([f"/ip4/0.0.0.0/tcp/9/p2p/{peer(1)}"], [f"/ip4/0.0.0.0/tcp/9/p2p/{peer(2)}"])
    assert discovery.parse(peer(1), body, f"/ip4/10.0.0.7/tcp/55555/p2p/{peer(1)}") == [
        f"/ip4/10.0.0.7/tcp/9/p2p/{peer(1)}"
    ]


@pytest.mark.parametrize(
    "body", [b"\xff", b"nonsense", b"\n", b"a" * 20_000, b"\n".join([address(1).encode()] * 65)]
)
def test_a_malformed_answer_is_the_peer_s_fault(body) -> None:
    with pytest.raises(PeerFault) as caught:
        discovery.parse(peer(1), body, address(1))
    assert caught.value.rule == "addresses.malformed"


def test_scores_fall_recover_and_ban() -> None:
    now = [0.0]
    standing = Standing(lambda: now[0])
    assert not standing.fault("p", "r", 60)
    assert standing.score("p") == -60
    now[0] += 100
    assert standing.score("p") == -50
    assert standing.fault("p", "worse", 50)
    assert standing.score("p") <= SCORE_MIN / 2
    assert [(ban.peer_id, ban.rule, ban.left_s) for ban in standing.banned()] == [("p", "worse", 300.0)]
    assert standing.is_banned("p")
    now[0] += 301
    assert not standing.is_banned("p")
    assert standing.banned() == ()
    assert not standing.fault("p", "r", 40), "half forgiven after the ban"
    assert standing.counts["fault.r"] == 2
    assert standing.counts["banned"] == 1


def test_foreign_names_cannot_fill_the_counters() -> None:
    standing = Standing(lambda: 0.0)
    for number in range(10_000):
        standing.count(f"fault.{number}")
    assert len(standing.counts) <= 513
    assert sum(standing.counts.values()) == 10_000


def test_what_clients_need_does_not_import_the_library() -> None:
    code = "import sys, p2p.ids, p2p.limits; print('libp2p' in sys.modules, 'trio' in sys.modules)"
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_who_is_seen_through_a_relay_is_not_where_the_relay_is():
    said = f"/ip4/0.0.0.0/tcp/9/p2p/{peer(1)}"
    body = discovery.answer([said, address(1)], [])
    seen = f"/ip4/10.0.0.7/tcp/5/p2p/{peer(3)}/p2p-circuit/p2p/{peer(1)}"
    assert discovery.parse(peer(1), body, seen) == [address(1)]
    assert not any("0.0.0.0" in one or "127." in one for one in discovery.concrete([said]))
    assert discovery.concrete([address(1)]) == [address(1)]


def test_what_a_peer_says_of_itself_takes_the_place_of_its_old_relays():
    book = PeerBook(peer(9), random.Random(1))
    old, new = (f"/ip4/10.0.0.{i}/tcp/5/p2p/{peer(3)}/p2p-circuit/p2p/{peer(1)}" for i in (1, 2))
    book.learn(address(1))
    book.learn(old)
    book.said(peer(1), [new])
    assert book.entries[peer(1)].addresses == [new, address(1)]
    book.said(peer(1), [], None)  # who says nothing changes nothing
    assert book.entries[peer(1)].addresses == [new, address(1)]
    book.said(peer(2), [new])  # nobody knows it
    assert peer(2) not in book.entries
