"""The state at one height in chunks, each of which proves itself against the state root alone.

[H1] A chunk is all pairs below one place of the state tree, and the hashes beside the way from that place up
     to the root. The place's hash follows from the pairs, the root from that and those hashes: so nothing can
     be left out, added or changed in a chunk, and no list of chunks needs to be trusted.
[H2] Who asks for a place that is too large for an answer gets the leftmost part of it that is not. The
     hashes beside the way show what else there is: those places are asked for next, empty ones never.
[H3] What is not under the root (`seen/`) is in no chunk: it follows from the blocks of the replay window.
[H4] A root is believed when a final header names it (ledger.proofs.light), never on a peer's word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec

from ledger.codec import decode_exact, sha256
from ledger.errors import Refused
from ledger.limits import PROOF_DEPTH_MAX, SNAPSHOT_CHUNK_BYTES_MAX
from ledger.proofs import tree

ROOT: Final = 1  # heap index of the whole tree
PAIR_OVERHEAD_BYTES: Final = 12  # of a pair's encoding, at the most
BUCKET_BITS: Final = 8
BUCKETS: Final = 1 << BUCKET_BITS  # parts in which a server sorts the state: one of them fits in memory
_HASHED_ANEW_MAX: Final = 16  # pairs of a part whose hash is not kept: strangers can name very many of these


class StateChunk(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """All pairs below the place with this path (ledger.proofs.tree), in the tree's order; the hashes beside
    the way from the root down to it, b"" for an empty subtree."""

    place: bytes
    pairs: tuple[tuple[bytes, bytes], ...]
    siblings: tuple[bytes, ...]


class Proved(NamedTuple):
    """What a checked chunk gives: its pairs, all node records below its place and on the way up to the root,
    and the places beside the way that are not empty (heap indexes)."""

    place: int
    pairs: tuple[tuple[bytes, bytes], ...]
    nodes: dict[bytes, bytes]
    beside: tuple[int, ...]


def place_of(path: bytes) -> int:
    """The heap index of a path. Raises Refused("snapshot.place") for what is none."""
    index = int.from_bytes(path, "big")
    is_canonical = 1 <= len(path) <= PROOF_DEPTH_MAX // 8 + 1 and path[0] != 0
    if not is_canonical or tree.depth_of(index) > PROOF_DEPTH_MAX:
        raise Refused("snapshot.place", f"{path[:40].hex()} is no place in a state tree", "place")
    return index


def check_chunk(root: bytes, data: bytes) -> Proved:
    """[H1] A foreign chunk, if it is true under `root`. Raises Refused("state_chunk.…" | "snapshot.…")."""
    chunk = decode_exact(StateChunk, data, "state_chunk", SNAPSHOT_CHUNK_BYTES_MAX)
    index = place_of(chunk.place)
    if len(chunk.siblings) != tree.depth_of(index):
        raise Refused("snapshot.siblings", f"{len(chunk.siblings)} hashes for depth {tree.depth_of(index)}")
    if any(len(sibling) not in (0, 32) or sibling == tree.EMPTY for sibling in chunk.siblings):
        raise Refused("snapshot.siblings", "a hash is 32 bytes, an empty subtree none")
    if not chunk.pairs and index != ROOT:
        raise Refused("snapshot.empty", "a chunk below the root holds at least one pair")
    rows = [tree.row(key, value) for key, value in chunk.pairs]
    if any(not tree.is_below(index, place) for place, _ in rows):
        raise Refused("snapshot.outside", "a pair that does not stand below the chunk's place", "pairs")
    if any(one[0] >= other[0] for one, other in pairwise(rows)):
        raise Refused("snapshot.order", "pairs stand in the tree's order, each once", "pairs")
    digest, _, nodes = tree.subtree(index, rows)
    found, above = tree.fold(index, digest, chunk.siblings)
    if found != root:
        raise Refused("snapshot.root", "not what the state root commits to", "pairs")
    return Proved(index, chunk.pairs, nodes | above, tuple(_beside(index, chunk.siblings)))


def _beside(index: int, siblings: tuple[bytes, ...]) -> Iterable[int]:
    for sibling in reversed(siblings):
        if sibling:
            yield index ^ 1
        index >>= 1


def is_within(inner: int, outer: int) -> bool:
    """Is a place the other one, or below it?"""
    deeper = tree.depth_of(inner) - tree.depth_of(outer)
    return deeper >= 0 and inner >> deeper == outer


@dataclass(slots=True)
class Bucket:
    """All pairs below one place, sorted, with the hashes of its parts that were asked for."""

    index: int
    pairs: list[tuple[bytes, bytes]]
    rows: list[tree.Row] = field(init=False)
    _known: dict[int, tuple[bytes, bytes | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        made = sorted((tree.row(key, value), (key, value)) for key, value in self.pairs)
        self.rows = [row for row, _ in made]
        self.pairs = [pair for _, pair in made]

    def top(self, index: int) -> tuple[bytes, bytes | None]:
        """(hash, leaf when it is one leaf) of the part at an index."""
        found = self._known.get(index)
        if found is None:
            low, high = tree.span(self.rows, index)
            found = tree.subtree(index, self.rows[low:high])[:2]
            if high - low > _HASHED_ANEW_MAX:
                self._known[index] = found
        return found

    def part(self, index: int) -> list[tuple[bytes, bytes]]:
        """The pairs at or below an index."""
        low, high = tree.span(self.rows, index)
        return self.pairs[low:high]


class Shelf:
    """A whole state sorted into BUCKETS, of which only sizes (bytes in an answer) and hashes are in memory.
    `read` gives a bucket by its number."""

    def __init__(self, sizes: list[int], read: Callable[[int], Bucket]) -> None:
        self._sizes = sizes
        self._read = read
        self._tops: dict[int, tuple[bytes, bytes | None]] = {}
        for number, size in enumerate(sizes):
            index = BUCKETS + number
            self._tops[index] = read(number).top(index) if size else (tree.EMPTY, None)
        for index in range(BUCKETS - 1, 0, -1):
            self._tops[index] = tree.join(self._tops[2 * index], self._tops[2 * index + 1])

    @property
    def root(self) -> bytes:
        """The state root."""
        return self._tops[ROOT][0]

    @property
    def size_bytes(self) -> int:
        """Of all pairs in answers."""
        return sum(self._sizes)

    def cut(self, place: int, size_bytes_max: int) -> StateChunk:
        """[H2] The chunk for a place. `size_bytes_max` is at least a pair's. Raises
        Refused("snapshot.nothing") when nothing stands there."""
        index = place
        pairs = self._pairs(index, size_bytes_max)
        while pairs is None:
            index = 2 * index + (self._top(2 * index)[0] == tree.EMPTY)
            pairs = self._pairs(index, size_bytes_max)
        if not pairs and index != ROOT:
            raise Refused("snapshot.nothing", "nothing stands below that place", "place")
        siblings = [self._top((index >> up) ^ 1)[0] for up in range(tree.depth_of(index))]
        beside = tuple(b"" if digest == tree.EMPTY else digest for digest in reversed(siblings))
        return StateChunk(tree.path_of(index), tuple(pairs), beside)

    def _pairs(self, index: int, size_bytes_max: int) -> list[tuple[bytes, bytes]] | None:
        """The pairs below an index; None when they are too many for one answer."""
        depth = tree.depth_of(index)
        if depth > BUCKET_BITS:
            pairs = self._bucket(index).part(index)
            size_bytes = sum(map(pair_bytes, pairs))
            return pairs if size_bytes <= size_bytes_max or len(pairs) == 1 else None
        width = 1 << (BUCKET_BITS - depth)
        low = index * width - BUCKETS
        numbers = [number for number in range(low, low + width) if self._sizes[number]]
        if sum(self._sizes[number] for number in numbers) > size_bytes_max:
            return None
        return [pair for number in numbers for pair in self._read(number).pairs]

    def _top(self, index: int) -> tuple[bytes, bytes | None]:
        return self._tops[index] if tree.depth_of(index) <= BUCKET_BITS else self._bucket(index).top(index)

    def _bucket(self, index: int) -> Bucket:
        return self._read((index >> (tree.depth_of(index) - BUCKET_BITS)) - BUCKETS)


def pair_bytes(pair: tuple[bytes, bytes]) -> int:
    """What a pair takes in an answer, at the most."""
    return len(pair[0]) + len(pair[1]) + PAIR_OVERHEAD_BYTES


def bucket_of(key: bytes) -> int:
    """In which of the BUCKETS a key's pair stands: the first bits of its place."""
    return sha256(key)[0]
