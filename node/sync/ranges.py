"""Ranges of final blocks, as peers ask for them and answer: what fits one frame, and big blocks in parts.

An answer is an array of StoredBlock. A block that does not fit stands there without its batches; each
of them is asked for by its digest (method "batch"), so that a block may be larger than a frame.
"""

from __future__ import annotations

import re
from typing import Final

import structlog
import trio

from ledger.blocks import batch_digest
from ledger.codec import decode, decode_exact, encode
from ledger.errors import Refused
from ledger.proofs.light import FINALITY_PATH_MAX
from ledger.storage.store import Store
from ledger.storage.stored import StoredBlock
from node.limits import FAULT_POINTS, RANGE_BATCHES_AT_ONCE, RANGE_BYTES_MAX
from node.wire import RangeRequest
from p2p.errors import RequestError
from p2p.network import Network

log = structlog.get_logger("ranges")

HELD_FROM: Final = "blocks are held from height "  # then the height: the follower reads it

_BLOCK_OVERHEAD_BYTES = 16 + 5 * 64  # msgpack's, of one block with the most batches


def answer_range(store: Store, body: bytes) -> bytes:
    """The answer to an encoded RangeRequest. Raises Refused("range.…").

    Blocks from the asked height on that end with a certified one, so that all can be proved; as many as
    fit and were asked for, but a run without certificates is never cut: beyond `blocks_max` it goes on to
    the next certificate, and beyond the bound of bytes its blocks go without their batches.
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
        if certified and len(found) >= request.blocks_max > 0:
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


def answer_order(store: Store, body: bytes) -> bytes:
    """The signed order of a deployment by its id. Raises Refused("order.unknown").

    For 3nodes that began from a state. The order of one that still lives is kept however old its block is
    (ledger.storage.retention), and proves itself: its id is its hash.
    """
    found = store.tx(body) if len(body) == 32 else None
    if found is None:
        raise Refused("order.unknown", "no such transaction in a final block here")
    return found.raw


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


def check_batch(digest: bytes, data: bytes) -> bytes:
    """A foreign batch, if it is the one of that digest. Raises Refused."""
    if batch_digest(data) != digest:
        raise Refused("range.batches", "not the batch that was asked for")
    return data


async def fetch_batches(
    network: Network, peer_id: str, digests: tuple[bytes, ...], timeout_s: float
) -> tuple[bytes, ...]:
    """The batches of one proved block from one peer, a few at a time. Raises Refused for a lie,
    RequestError."""
    found: dict[bytes, bytes] = {}
    failed: list[Refused | RequestError] = []
    room = trio.Semaphore(RANGE_BATCHES_AT_ONCE)

    async def fetch(digest: bytes) -> None:
        async with room:
            if failed:
                return
            try:
                data = await network.request(peer_id, "batch", digest, timeout_s)
                found[digest] = check_batch(digest, data)
            except (Refused, RequestError) as error:
                failed.append(error)

    async with trio.open_nursery() as nursery:
        for digest in digests:
            nursery.start_soon(fetch, digest)
    if failed:
        raise failed[0]
    return tuple(found[digest] for digest in digests)


def blame(network: Network, peer_id: str, error: Refused) -> None:
    """A peer's answer was a lie: say so and lower its score."""
    log.warning("peer_fault", peer=peer_id, rule=error.rule, detail=error.detail)
    network.penalise(peer_id, error.rule, FAULT_POINTS)
