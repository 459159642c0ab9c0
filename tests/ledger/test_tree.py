"""The state tree: same set, same root; every fact has one proof; damage is noticed."""

from __future__ import annotations

import random
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.codec import decode_exact, encode
from ledger.errors import LocalError, Refused
from ledger.proofs import tree


class Stored:
    """A tree and its pairs in dicts."""

    def __init__(self) -> None:
        self.nodes: dict[bytes, bytes] = {}
        self.pairs: dict[bytes, bytes] = {}
        self.root = tree.EMPTY

    def apply(self, changes: dict[bytes, bytes | None]) -> None:
        self.root, writes, fresh = tree.update_noting_fresh(self.nodes.get, changes)
        assert fresh <= writes.keys(), "of what is written"
        assert fresh.isdisjoint(self.nodes), "a node that was there is called fresh: an undo would lose it"
        for store, delta in ((self.nodes, writes), (self.pairs, changes)):
            for key, value in delta.items():
                if value is None:
                    store.pop(key, None)
                else:
                    store[key] = value


def naive_root(pairs: dict[bytes, bytes]) -> bytes:
    """The definition, written down: no sharing, no storage."""

    def subtree(rows: list[tuple[str, bytes]], depth: int) -> bytes:
        if not rows:
            return bytes(32)
        if len(rows) == 1:
            return sha256(b"gridpact/tree/1\0\x00" + rows[0][1]).digest()
        left = subtree([r for r in rows if r[0][depth] == "0"], depth + 1)
        right = subtree([r for r in rows if r[0][depth] == "1"], depth + 1)
        return sha256(b"gridpact/tree/1\0\x01" + left + right).digest()

    rows = []
    for key, value in pairs.items():
        digest = sha256(key).digest()
        bits = "".join(f"{byte:08b}" for byte in digest)
        rows.append((bits, digest + sha256(value).digest()))
    return subtree(rows, 0)


keys = st.integers(0, 40).map(lambda n: b"k%d" % n)
deltas = st.lists(st.dictionaries(keys, st.none() | st.binary(max_size=3), max_size=12), max_size=8)


@settings(max_examples=150, deadline=None)
@given(deltas)
def test_root_is_that_of_the_naive_model_and_no_node_is_left_over(
    batches: list[dict[bytes, bytes | None]],
) -> None:
    stored = Stored()
    for changes in batches:
        stored.apply(changes)
        assert stored.root == naive_root(stored.pairs) == tree.root_of(stored.nodes.get)
    fresh = Stored()
    for key in sorted(stored.pairs, reverse=True):  # one by one, in another order
        fresh.apply({key: stored.pairs[key]})
    assert fresh.root == stored.root
    assert fresh.nodes == stored.nodes


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(keys, st.binary(max_size=3), max_size=30), keys, st.binary(max_size=3))
def test_presence_and_absence(pairs: dict[bytes, bytes], key: bytes, wrong: bytes) -> None:
    stored = Stored()
    stored.apply(dict(pairs))
    proof = tree.prove(stored.nodes.get, key)
    value = pairs.get(key)
    assert tree.verify(stored.root, key, value, proof)
    if wrong != value:
        assert not tree.verify(stored.root, key, wrong, proof)
    if value is not None:
        assert not tree.verify(stored.root, key, None, proof)
    assert not tree.verify(sha256(b"other").digest(), key, value, proof)
    assert not tree.verify(stored.root, key + b"x", value, proof) or value is None


def test_every_byte_of_a_proof_counts() -> None:
    stored = Stored()
    stored.apply({b"k%d" % n: b"v%d" % n for n in range(60)})
    for key in (b"k7", b"k31", b"absent", b"gone", b"none"):
        proof = tree.prove(stored.nodes.get, key)
        value = stored.pairs.get(key)
        data = encode(proof)
        for position in range(len(data)):
            for bit in (0x01, 0x80):
                changed = bytearray(data)
                changed[position] ^= bit
                try:
                    other = decode_exact(tree.Proof, bytes(changed), "proof", 20_000)
                except Refused:
                    continue
                assert not tree.verify(stored.root, key, value, other), (key, position)


def test_malformed_proofs_are_false_not_errors() -> None:
    stored = Stored()
    stored.apply({b"a": b"1", b"b": b"2"})
    for proof in (
        tree.Proof((bytes(32),) * 3, b""),
        tree.Proof((b"x" * 31,), b""),
        tree.Proof((b"x" * 32,) * 257, b""),
        tree.Proof((), b"x" * 63),
        tree.Proof((), sha256(b"a").digest() + sha256(b"1").digest()),
    ):
        assert not tree.verify(stored.root, b"a", b"1", proof)
        assert not tree.verify(stored.root, b"a", None, proof)


def test_empty_tree_proves_absence() -> None:
    proof = tree.prove(Stored().nodes.get, b"a")
    assert tree.verify(tree.EMPTY, b"a", None, proof)
    assert not tree.verify(tree.EMPTY, b"a", b"", proof)


def test_empty_value_is_not_absence() -> None:
    stored = Stored()
    stored.apply({b"open/1": b""})
    proof = tree.prove(stored.nodes.get, b"open/1")
    assert tree.verify(stored.root, b"open/1", b"", proof)
    assert not tree.verify(stored.root, b"open/1", None, proof)


def test_a_missing_node_is_a_local_error() -> None:
    stored = Stored()
    stored.apply({b"k%d" % n: b"v" for n in range(20)})
    del stored.nodes[b"\x02"]
    on_the_left = next(k for k in stored.pairs if sha256(k).digest()[0] < 128)
    with pytest.raises(LocalError, match="damaged"):
        tree.prove(stored.nodes.get, on_the_left)


def test_large_batches_agree_with_small_ones() -> None:
    rng = random.Random(7)
    one, many = Stored(), Stored()
    pairs = {rng.randbytes(8): rng.randbytes(4) for _ in range(3_000)}
    one.apply(dict(pairs))
    items = list(pairs.items())
    rng.shuffle(items)
    for start in range(0, len(items), 97):
        many.apply(dict(items[start : start + 97]))
    doomed = dict.fromkeys(rng.sample(sorted(pairs), 2500))
    one.apply(dict(doomed))
    for key in doomed:
        many.apply({key: None})
    assert one.root == many.root == naive_root(one.pairs)
    assert one.nodes == many.nodes
