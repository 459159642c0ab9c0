"""The state in chunks: each true alone, and no lie in one gets through."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger.codec import decode, encode, sha256
from ledger.errors import Refused
from ledger.proofs import tree
from ledger.storage.snapshot import (
    BUCKETS,
    ROOT,
    Bucket,
    Shelf,
    StateChunk,
    bucket_of,
    check_chunk,
    is_within,
    pair_bytes,
    place_of,
)

State = dict[bytes, bytes]


def no_node(path: bytes) -> bytes | None:
    return None


def root_of(state: State) -> bytes:
    return tree.update(no_node, dict(state))[0]


def shelf_of(state: State) -> Shelf:
    parts: list[list[tuple[bytes, bytes]]] = [[] for _ in range(BUCKETS)]
    for key, value in state.items():
        parts[bucket_of(key)].append((key, value))
    buckets = {number: Bucket(BUCKETS + number, pairs) for number, pairs in enumerate(parts)}
    return Shelf([sum(map(pair_bytes, pairs)) for pairs in parts], lambda number: buckets[number])


def state_of(count: int, seed: int = 1) -> State:
    rng = random.Random(seed)
    return {b"key/%d" % n: rng.randbytes(rng.choice((0, 3, 40, 300))) for n in range(count)}


def fetch_all(shelf: Shelf, root: bytes, size_bytes: int) -> tuple[State, dict[bytes, bytes], int]:
    """As a client does it: from the root on, what stands beside the way next."""
    state: State = {}
    nodes: dict[bytes, bytes] = {}
    todo, count = [ROOT], 0
    while todo:
        place = todo.pop()
        proved = check_chunk(root, encode(shelf.cut(place, size_bytes)))
        assert is_within(proved.place, place)
        assert not state.keys() & {key for key, _ in proved.pairs}
        state.update(proved.pairs)
        nodes.update(proved.nodes)
        todo += [other for other in proved.beside if is_within(other, place)]
        count += 1
    return state, nodes, count


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50, 3_000])
@pytest.mark.parametrize("size_bytes", [400, 5_000, 10**9])
def test_all_chunks_are_the_state_and_its_tree(count: int, size_bytes: int) -> None:
    """[H2] From the root on, each answer shows what else there is."""
    state = state_of(count)
    root, written = tree.update(no_node, dict(state))
    shelf = shelf_of(state)
    assert shelf.root == root
    found, nodes, chunks = fetch_all(shelf, root, size_bytes)
    assert found == state
    assert nodes == {path: record for path, record in written.items() if record is not None}
    assert chunks <= max(1, count)
    assert size_bytes < 10**9 or chunks == 1


@settings(max_examples=60)
@given(
    state=st.dictionaries(st.binary(max_size=4), st.binary(max_size=30), max_size=40),
    size_bytes=st.integers(50, 600),
)
def test_any_state_comes_over_whole(state: State, size_bytes: int) -> None:
    root, written = tree.update(no_node, dict(state))
    found, nodes, _ = fetch_all(shelf_of(state), root, size_bytes)
    assert found == state
    assert nodes == {path: record for path, record in written.items() if record is not None}


def test_keys_that_stand_close_together_still_come_in_bounded_chunks() -> None:
    """Somebody may grind keys into one corner of the tree."""
    close = [key for n in range(60_000) if sha256(key := b"%d" % n)[0] == 7]
    state = {key: bytes(100) for key in close}
    root = root_of(state)
    shelf = shelf_of(state)
    found, _, chunks = fetch_all(shelf, root, 2_000)
    assert found == state
    assert chunks < len(state) / 4


def chunk_of(state: State, size_bytes: int = 600) -> StateChunk:
    chunk = shelf_of(state).cut(ROOT, size_bytes)
    assert len(chunk.pairs) > 2
    assert len(chunk.siblings) > 1
    return chunk


def changed_value(c: StateChunk) -> StateChunk:
    key, value = c.pairs[1]
    return replace(c, pairs=(c.pairs[0], (key, value + b"\0"), *c.pairs[2:]))


def added(c: StateChunk, index: int, below: bool = True) -> StateChunk:
    """With one more key that stands below the chunk's place, or does not."""
    for n in range(10**6):
        key = b"added %d" % n
        row, _ = tree.row(key, b"")
        if tree.is_below(index, row) == below:
            pairs = sorted((*c.pairs, (key, b"")), key=lambda pair: sha256(pair[0]))
            return replace(c, pairs=tuple(pairs))
    raise AssertionError


LIES = {
    "a value changed": ("snapshot.root", changed_value),
    "a key left out": ("snapshot.root", lambda c: replace(c, pairs=c.pairs[1:])),
    "the last key left out": ("snapshot.root", lambda c: replace(c, pairs=c.pairs[:-1])),
    "a key added": ("snapshot.root", lambda c: added(c, place_of(c.place))),
    "a key twice": ("snapshot.order", lambda c: replace(c, pairs=(c.pairs[0], *c.pairs))),
    "another order": ("snapshot.order", lambda c: replace(c, pairs=c.pairs[::-1])),
    "nothing in it": ("snapshot.empty", lambda c: replace(c, pairs=())),
    "a key of elsewhere": ("snapshot.outside", lambda c: added(c, place_of(c.place), below=False)),
    "a hash beside changed": (
        "snapshot.root",
        lambda c: replace(c, siblings=(bytes(31) + b"\1", *c.siblings[1:])),
    ),
    "a part hidden": ("snapshot.root", lambda c: replace(c, siblings=(b"", *c.siblings[1:]))),
    "a hash too few": ("snapshot.siblings", lambda c: replace(c, siblings=c.siblings[1:])),
    "a hash too short": ("snapshot.siblings", lambda c: replace(c, siblings=(b"x", *c.siblings[1:]))),
    "zeros for an empty part": (
        "snapshot.siblings",
        lambda c: replace(c, siblings=(bytes(32), *c.siblings[1:])),
    ),
    "no place": ("snapshot.place", lambda c: replace(c, place=b"")),
    "a place with zeros before": ("snapshot.place", lambda c: replace(c, place=b"\0" + c.place)),
    "a place too deep": ("snapshot.place", lambda c: replace(c, place=b"\2" + bytes(32))),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_in_a_chunk_is_refused(lie: str) -> None:
    """[H1] Nothing left out, added or changed."""
    state = state_of(40)
    rule, change = LIES[lie]
    chunk = chunk_of(state)
    check_chunk(root_of(state), encode(chunk))
    with pytest.raises(Refused) as refused:
        check_chunk(root_of(state), encode(change(chunk)))
    assert refused.value.rule == rule


def test_a_chunk_of_another_state_is_refused() -> None:
    with pytest.raises(Refused, match=r"snapshot\.root"):
        check_chunk(root_of(state_of(40)), encode(chunk_of(state_of(40, seed=2))))


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(max_examples=200)
def test_no_flipped_bit_gets_through(at: int, bit: int) -> None:
    state = state_of(40)
    data = bytearray(encode(chunk_of(state)))
    data[at % len(data)] ^= 1 << bit
    with pytest.raises(Refused):
        check_chunk(root_of(state), bytes(data))


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "state_chunk.malformed"),
        (b"\xc1", "state_chunk.malformed"),
        (b"\x93\xc4\1\1\x90\xdc\0\0", "state_chunk.not_canonical"),
        (bytes(901 * 1024), "state_chunk.too_long"),
    ],
)
def test_garbage_is_refused(data: bytes, rule: str) -> None:
    with pytest.raises(Refused) as refused:
        check_chunk(root_of(state_of(3)), data)
    assert refused.value.rule == rule


def test_nothing_stands_at_an_empty_place() -> None:
    state = {b"one": b"", b"two": b""}
    first = {sha256(key)[0] for key in state}
    empty = next(n for n in range(BUCKETS) if n not in first)
    with pytest.raises(Refused, match=r"snapshot\.nothing"):
        shelf_of(state).cut(BUCKETS + empty, 1_000)


def test_encodings_are_exact() -> None:
    chunk = chunk_of(state_of(40))
    assert decode(StateChunk, encode(chunk)) == chunk
    longer = encode(chunk).replace(b"\xdc", b"\xdd\x00\x00", 1)
    if longer != encode(chunk):
        with pytest.raises(Refused, match="state_chunk"):
            check_chunk(root_of(state_of(40)), longer)


def test_who_asks_for_the_deepest_places_fills_no_memory_of_the_server() -> None:
    """Such places stand below leaves: no honest peer asks for them."""
    keys = (b"key/%d" % n for n in range(60_000))
    made = Bucket(BUCKETS, [(key, b"") for key in keys if not bucket_of(key)])
    sizes = [sum(map(pair_bytes, made.pairs))] + [0] * (BUCKETS - 1)
    shelf = Shelf(sizes, lambda number: made)
    assert len(made.rows) > 150
    for place, _ in made.rows:
        shelf.cut(place, 1_000)
    assert len(made._known) < len(made.rows)
