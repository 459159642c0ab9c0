"""Ranges of final blocks, as peers ask for them and answer: what fits one frame, and big blocks in parts.

An answer is an array of StoredBlock. A block that does not fit stands there without its batches; each
of them is asked for by its digest (method "batch"), so that a block may be larger than a frame.
"""

from __future__ import annotations

import re
from typing import Final

from ledger.blocks import Header, batch_digest
from ledger.codec import decode, decode_exact, encode
from ledger.errors import Refused
from ledger.light import FINALITY_PATH_MAX
from ledger.store import Store
from ledger.stored import StoredBlock
from node.limits import RANGE_BYTES_MAX
from node.wire import RangeRequest

HELD_FROM: Final = "blocks are held from height "  # then the height: the follower reads it

_BLOCK_OVERHEAD_BYTES = 16 + 5 * 64  # msgpack's, of one block with the most batches


def answer_range(store: Store, body: bytes) -> bytes:
    """The answer to an encoded RangeRequest. Raises Refused("range.…").

    Blocks from the asked height on that end with a certified one, so that all can be proved; as many as
    fit, but a run without certificates is never cut: at the bound its blocks go without their batches.
    """
    request = decode_exact(RangeRequest, body, "range", 64)
    if request.first < 1:
        raise Refused("range.first", "heights start at 1", "first")
    if request.first < store.first_height:
        raise Refused("range.pruned", f"{HELD_FROM}{store.first_height}", "first")
    left = min(max(request.size_bytes_max, 1), RANGE_BYTES_MAX)
    found: list[StoredBlock] = []
    certified = 0
    for height in range(request.first, store.tip.height + 1):
        block = store.block(height)
        if block is None or len(found) - certified > FINALITY_PATH_MAX:
            break
        bare = _BLOCK_OVERHEAD_BYTES + len(block.header) + len(block.certificate)
        bare += sum(map(len, block.path)) + 3 * len(block.path)
        size = bare + sum(map(len, block.batches))
        if size > left and certified:
            break
        if size > left:
            block, size = StoredBlock(block.header, (), block.certificate, block.path), bare
        left -= size
        found.append(block)
        if block.certificate:
            certified = len(found)
    return encode(tuple(found[:certified]))


def answer_batch(store: Store, body: bytes) -> bytes:
    """A batch of a final block by its digest. Raises Refused("range.batch")."""
    data = store.batch(body) if len(body) == 32 else None
    if data is None:
        raise Refused("range.batch", "no such batch in a final block")
    return data


def held_from(refusal: str) -> int:
    """The first height that a peer holds by its refusal `range.pruned`; 0 when it is another refusal."""
    found = re.search(rf"range\.pruned: {HELD_FROM}([0-9]{{1,15}})", refusal)
    return int(found[1]) if found else 0


def decode_range(data: bytes) -> tuple[StoredBlock, ...]:
    """A foreign answer to a RangeRequest. Raises Refused("range.malformed"). Nothing in it is proved yet."""
    try:
        return decode(tuple[StoredBlock, ...], data)
    except ValueError as error:
        raise Refused("range.malformed", str(error)) from None


def missing_batches(block: StoredBlock) -> tuple[bytes, ...]:
    """Digests of the batches that must be asked for apart."""
    return () if block.batches else decode(Header, block.header).batches


def check_batch(digest: bytes, data: bytes) -> bytes:
    """A foreign batch, if it is the one of that digest. Raises Refused."""
    if batch_digest(data) != digest:
        raise Refused("range.batches", "not the batch that was asked for")
    return data
