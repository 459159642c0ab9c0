"""The authenticated state: a sparse Merkle tree over sha256(key), with leaf shortcut.

Hash of a node: sha256(TREE_DOMAIN + record). A record is one of
  leaf   0x00 + sha256(key) + sha256(value)
  inner  0x01 + hash of the left child + hash of the right child (bit 0 goes left, most significant first)
An empty subtree hashes to 32 zero bytes and has no record; a subtree with one leaf *is* that leaf.
So the root depends on the set of pairs alone, never on the order of the writes.

Records are stored by path, so that an update replaces nodes in place. A path is the node's index in
a heap (root 1, children 2i and 2i+1) as big-endian bytes without leading zeros.

After Dahlberg, Pulls and Peeters, "Efficient Sparse Merkle Trees" (ePrint 2016/683), with the shortcut
of Diem's Jellyfish tree. This file never sees a store: it is given `read_node`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Final

import msgspec

from ledger.errors import LocalError
from ledger.limits import PROOF_DEPTH_MAX

ReadNode = Callable[[bytes], bytes | None]

EMPTY: Final = bytes(32)
TREE_DOMAIN: Final = b"gridpact/tree/1\0"
_BITS: Final = 256
_TOP: Final = 1 << _BITS  # leading 1 of a key hash as a heap index of depth 256
_LEAF: Final = b"\x00"
_INNER: Final = b"\x01"
_LEAF_TAG: Final = 0
_HASH_LEAF: Final = TREE_DOMAIN + _LEAF
_HASH_INNER: Final = TREE_DOMAIN + _INNER


class Proof(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Siblings from the root down; an empty subtree is b"". `leaf` is b"", or, when absence is
    proved by another leaf that stands where the key would be, its 64 bytes (key hash, value hash)."""

    siblings: tuple[bytes, ...]
    leaf: bytes


class _Update:
    """One batch of changes on its way through the tree. Recursion is over shared paths only."""

    def __init__(self, read_node: ReadNode, changes: Mapping[bytes, bytes | None]) -> None:
        rows = []
        for key, value in changes.items():
            digest = sha256(key).digest()
            leaf = None if value is None else digest + sha256(value).digest()
            rows.append((_TOP | int.from_bytes(digest, "big"), leaf))
        rows.sort()  # key hashes are distinct, so leaves are never compared
        self.indexes = [row[0] for row in rows]
        self.leaves = [row[1] for row in rows]
        self.read_node = read_node
        self.writes: dict[bytes, bytes | None] = {}
        self.fresh: set[bytes] = set()  # of the written ones, those that were not there

    def run(self) -> bytes:
        """The new root."""
        if not self.indexes:
            record = self.read_node(_path(1))
            return EMPTY if record is None else _hash(record)
        return self.descend(1, 0, 0, len(self.indexes))[0]

    # Each step below returns (hash, leaf): leaf is the 64 bytes when the subtree is one leaf, else None.

    def descend(self, index: int, depth: int, low: int, high: int) -> tuple[bytes, bytes | None]:
        """Apply the changes [low, high), all below `index`, to the stored subtree there."""
        if high - low == 1:
            return self.single(index, depth, low)
        path = _path(index)
        record = self.read_node(path)
        if record is None or record[0] == _LEAF_TAG:
            return self.rebuild(index, depth, low, high, path, record)
        left_index, right_index = 2 * index, 2 * index + 1
        middle = bisect_left(self.indexes, right_index << (_BITS - depth - 1), low, high)
        left, right = record[1:33], record[33:]
        left_leaf = right_leaf = None
        if low < middle:
            left, left_leaf = self.descend(left_index, depth + 1, low, middle)
        if middle < high:
            right, right_leaf = self.descend(right_index, depth + 1, middle, high)
        if left == EMPTY:
            return self.pull_up(index, right_index, right, right_leaf)
        if right == EMPTY:
            return self.pull_up(index, left_index, left, left_leaf)
        return self.put_inner(path, left, right), None

    def single(self, index: int, depth: int, position: int) -> tuple[bytes, bytes | None]:
        """One change below `index`: walk down once, then fold up. The common case, kept flat for speed."""
        target, leaf = self.indexes[position], self.leaves[position]
        read_node = self.read_node
        trail: list[tuple[bytes, bytes, int]] = []  # path, sibling's hash, our side
        while True:
            path = index.to_bytes((index.bit_length() + 7) >> 3, "big")
            record = read_node(path)
            if record is None or record[0] == _LEAF_TAG:
                break
            depth += 1
            index = target >> (_BITS - depth)
            left, right = record[1:33], record[33:]
            if index & 1:
                trail.append((path, left, 1))
                below = right
            else:
                trail.append((path, right, 0))
                below = left
            if below == EMPTY:  # nothing is stored there, and asking a store for nothing is dear
                path, record = _path(index), None
                break
        digest, only = self.rebuild(index, depth, position, position + 1, path, record)
        if leaf is None:  # a deletion may collapse the parents
            while trail and (only is not None or digest == EMPTY):
                parent, sibling, side = trail[-1]
                if digest != EMPTY and sibling != EMPTY:
                    break
                trail.pop()
                if digest == EMPTY:
                    digest, only = self.pull_up(index >> 1, index ^ 1, sibling, None)
                else:
                    digest, only = self.pull_up(index >> 1, index, digest, only)
                index >>= 1
        if not trail:
            return digest, only
        writes = self.writes
        for parent, sibling, side in reversed(trail):
            body = sibling + digest if side else digest + sibling
            writes[parent] = _INNER + body
            digest = sha256(_HASH_INNER + body).digest()
        return digest, None

    def rebuild(
        self, index: int, depth: int, low: int, high: int, path: bytes, record: bytes | None
    ) -> tuple[bytes, bytes | None]:
        """The stored subtree is empty or one leaf: build it anew from that leaf and the changes."""
        indexes, leaves = self.indexes[low:high], self.leaves[low:high]
        if record is not None:
            old = _TOP | int.from_bytes(record[1:33], "big")
            at = bisect_left(indexes, old)
            if at == len(indexes) or indexes[at] != old:
                indexes.insert(at, old)
                leaves.insert(at, record[1:])
        rows = [(i, leaf) for i, leaf in zip(indexes, leaves, strict=True) if leaf is not None]
        if rows:
            return self.build(index, depth, rows)
        if record is not None:
            self.writes[path] = None
        return EMPTY, None

    def build(self, index: int, depth: int, rows: list[tuple[int, bytes]]) -> tuple[bytes, bytes | None]:
        """A fresh subtree of at least one leaf."""
        path = _path(index)
        if len(rows) == 1:
            leaf = rows[0][1]
            self.writes[path] = _LEAF + leaf
            return sha256(_HASH_LEAF + leaf).digest(), leaf
        boundary = (2 * index + 1) << (_BITS - depth - 1)
        middle = bisect_left(rows, boundary, key=_row_index)
        left = right = EMPTY
        if middle:
            left = self.build(2 * index, depth + 1, rows[:middle])[0]
            self.fresh.add(_path(2 * index))
        if middle < len(rows):
            right = self.build(2 * index + 1, depth + 1, rows[middle:])[0]
            self.fresh.add(_path(2 * index + 1))
        return self.put_inner(path, left, right), None

    def put_inner(self, path: bytes, left: bytes, right: bytes) -> bytes:
        body = left + right
        self.writes[path] = _INNER + body
        return sha256(_HASH_INNER + body).digest()

    def pull_up(
        self, index: int, child: int, digest: bytes, leaf: bytes | None
    ) -> tuple[bytes, bytes | None]:
        """`child` is the only child of `index` that is not empty (or is empty, too): a leaf moves up."""
        path = _path(index)
        if digest == EMPTY:
            self.writes[path] = None
            return EMPTY, None
        if leaf is None:
            record = self.stored(_path(child))
            if record[0] != _LEAF_TAG:
                inner = EMPTY + digest if child & 1 else digest + EMPTY
                return self.put_inner(path, inner[:32], inner[32:]), None
            leaf = record[1:]
        self.writes[_path(child)] = None
        self.writes[path] = _LEAF + leaf
        return digest, leaf

    def stored(self, path: bytes) -> bytes:
        """A record that the tree says is there: as written in this batch, or before."""
        record = self.writes[path] if path in self.writes else self.read_node(path)
        if record is None:
            raise LocalError(f"state tree: node {path.hex()} is missing, the store is damaged")
        return record


def _row_index(row: tuple[int, bytes]) -> int:
    return row[0]


def _path(index: int) -> bytes:
    return index.to_bytes((index.bit_length() + 7) >> 3, "big")


def _hash(record: bytes) -> bytes:
    return sha256(TREE_DOMAIN + record).digest()


def update(
    read_node: ReadNode, changes: Mapping[bytes, bytes | None]
) -> tuple[bytes, dict[bytes, bytes | None]]:
    """Apply `changes` (None deletes) in one pass: (new root, node records to write or delete by path).

    Nothing is written here. Raises LocalError when a node is missing that the tree names.
    """
    root, writes, _ = update_noting_fresh(read_node, changes)
    return root, writes


def update_noting_fresh(
    read_node: ReadNode, changes: Mapping[bytes, bytes | None]
) -> tuple[bytes, dict[bytes, bytes | None], set[bytes]]:
    """As `update`, and which of the written paths had no node before, as far as that is known without a read:
    below what was empty or one leaf. (To ask a store for what it does not hold is the dearest of reads.)"""
    batch = _Update(read_node, changes)
    root = batch.run()
    return root, batch.writes, batch.fresh


Row = tuple[int, bytes]  # where a leaf stands (its key hash below a leading 1), its 64 bytes


def row(key: bytes, value: bytes) -> Row:
    """The leaf of a pair. Rows sort as the tree's leaves stand, from left to right."""
    digest = sha256(key).digest()
    return _TOP | int.from_bytes(digest, "big"), digest + sha256(value).digest()


def subtree(index: int, rows: list[Row]) -> tuple[bytes, bytes | None, dict[bytes, bytes]]:
    """The subtree at a heap index that holds exactly these sorted rows, all of them below it: (its hash, its
    leaf when it is one leaf, its node records by path)."""
    if not rows:
        return EMPTY, None, {}
    builder = _Update(_no_node, {})
    digest, leaf = builder.build(index, depth_of(index), rows)
    return digest, leaf, {path: record for path, record in builder.writes.items() if record is not None}


def depth_of(index: int) -> int:
    """How many levels below the root a heap index stands."""
    return index.bit_length() - 1


def is_below(index: int, row: int) -> bool:
    """Does a leaf's place, as `row` gives it, stand at or below a heap index?"""
    return row >> (_BITS - depth_of(index)) == index


def span(rows: Sequence[Row], index: int) -> tuple[int, int]:
    """Which of sorted rows stand at or below a heap index: from the first up to before the second."""
    shift = _BITS - depth_of(index)
    low = bisect_left(rows, index << shift, key=_row_index)
    return low, bisect_left(rows, (index + 1) << shift, low, key=_row_index)


def fold(index: int, digest: bytes, siblings: Sequence[bytes]) -> tuple[bytes, dict[bytes, bytes]]:
    """The root above a subtree with this hash, given the other subtrees on the way, from the root down
    (b"": an empty one), and the records of the nodes above it by path."""
    nodes: dict[bytes, bytes] = {}
    for sibling in reversed(siblings):
        other = sibling or EMPTY
        body = other + digest if index & 1 else digest + other
        index >>= 1
        nodes[_path(index)] = _INNER + body
        digest = sha256(_HASH_INNER + body).digest()
    return digest, nodes


def join(left: tuple[bytes, bytes | None], right: tuple[bytes, bytes | None]) -> tuple[bytes, bytes | None]:
    """(hash, leaf when it is one leaf) of the subtree over two such."""
    if left[0] == EMPTY and (right[1] is not None or right[0] == EMPTY):
        return right
    if right[0] == EMPTY and left[1] is not None:
        return left
    return sha256(_HASH_INNER + left[0] + right[0]).digest(), None


def path_of(index: int) -> bytes:
    """A heap index as node records are stored."""
    return _path(index)


def _no_node(path: bytes) -> bytes | None:
    return None


def root_of(read_node: ReadNode) -> bytes:
    """The root hash of the stored tree."""
    record = read_node(_path(1))
    return EMPTY if record is None else _hash(record)


def prove(read_node: ReadNode, key: bytes) -> Proof:
    """A proof of presence or absence of `key` under the current root. Raises LocalError on a damaged tree."""
    digest = sha256(key).digest()
    target = _TOP | int.from_bytes(digest, "big")
    siblings: list[bytes] = []
    record = read_node(_path(1))
    while record is not None and record[0] != _LEAF_TAG:
        bit = target >> (_BITS - len(siblings) - 1) & 1
        ours, other = (record[33:], record[1:33]) if bit else (record[1:33], record[33:])
        siblings.append(b"" if other == EMPTY else other)
        record = read_node(_path(target >> (_BITS - len(siblings))))
        if record is None and ours != EMPTY:
            raise LocalError("state tree: a node is missing, the store is damaged")
    leaf = b"" if record is None or record[1:33] == digest else record[1:]
    return Proof(tuple(siblings), leaf)


def verify(root: bytes, key: bytes, value: bytes | None, proof: Proof) -> bool:
    """True when `proof` shows that under `root` the key holds `value`, or, for None, is absent.

    Never raises on foreign proofs. One fact under one root has one proof.
    """
    depth = len(proof.siblings)
    if depth > PROOF_DEPTH_MAX or any(len(s) not in (0, 32) or s == EMPTY for s in proof.siblings):
        return False
    digest = sha256(key).digest()
    target = int.from_bytes(digest, "big")
    if value is not None:
        if proof.leaf:
            return False
        node = sha256(_HASH_LEAF + digest + sha256(value).digest()).digest()
    elif not proof.leaf:
        node = EMPTY
    else:
        other = proof.leaf[:32]
        if len(proof.leaf) != 64 or other == digest:
            return False
        if (int.from_bytes(other, "big") ^ target) >> (_BITS - depth):
            return False  # that leaf does not stand on the key's path
        node = sha256(_HASH_LEAF + proof.leaf).digest()
    for level in range(depth - 1, -1, -1):
        sibling = proof.siblings[level] or EMPTY
        bit = target >> (_BITS - level - 1) & 1
        node = sha256(_HASH_INNER + (sibling + node if bit else node + sibling)).digest()
    return node == root
