"""A batch's digest is a Merkle root over its transactions, so that one transaction can be shown to be
in a block without the other hundreds.

The tree has the shape of RFC 6962 section 2.1 (the left part is the largest power of two below n),
with its leaf and inner prefixes; the digest also covers the count.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

import msgspec

from ledger.keys import hash_tagged
from ledger.limits import BATCH_TXS_MAX

_LEAF: Final = b"gridpact/batchtx/1\0\x00"
_INNER: Final = b"gridpact/batchtx/1\0\x01"
PATH_MAX: Final = (BATCH_TXS_MAX - 1).bit_length()


class Inclusion(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Where a transaction stands in a batch of `count`, and the sibling hashes from the leaf up."""

    index: int
    count: int
    path: tuple[bytes, ...]


def _levels(txs: Sequence[bytes]) -> list[list[bytes]]:
    """All levels from the leaves up. A last node without a sibling moves up as it is."""
    level = [sha256(_LEAF + tx).digest() for tx in txs]
    levels = [level]
    while len(level) > 1:
        above = [sha256(_INNER + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        if len(level) & 1:
            above.append(level[-1])
        levels.append(above)
        level = above
    return levels


def _digest(count: int, root: bytes) -> bytes:
    return hash_tagged("batch/1", count.to_bytes(4, "big") + root)


def txs_digest(txs: Sequence[bytes]) -> bytes:
    """32 bytes that name a batch of at least one transaction, in this order."""
    return _digest(len(txs), _levels(txs)[-1][0])


def prove_inclusion(txs: Sequence[bytes], index: int) -> Inclusion:
    """The path of `txs[index]`."""
    path = []
    position = index
    for level in _levels(txs)[:-1]:
        sibling = position ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        position >>= 1
    return Inclusion(index, len(txs), tuple(path))


def verify_inclusion(digest: bytes, tx: bytes, inclusion: Inclusion) -> bool:
    """True when `tx` stands at that index in the batch named `digest`. Never raises on foreign values."""
    index, count, path = inclusion.index, inclusion.count, inclusion.path
    if not 0 <= index < count <= BATCH_TXS_MAX or len(path) > PATH_MAX:
        return False
    node = sha256(_LEAF + tx).digest()
    used, width = 0, count
    while width > 1:
        if index ^ 1 < width:
            if used == len(path) or len(path[used]) != 32:
                return False
            sibling = path[used]
            node = sha256(_INNER + (sibling + node if index & 1 else node + sibling)).digest()
            used += 1
        index >>= 1
        width = (width + 1) >> 1
    return used == len(path) and _digest(count, node) == digest
