"""Blocks larger than a frame: final on validators, and fetched in parts by an observer that comes late."""

from __future__ import annotations

from ledger import transactions as t
from p2p.limits import PAYLOAD_BYTES_MAX
from tests.node.network_fixture import CHAIN_ID, RICH, until, world

FOUR = ["validator0", "validator1", "validator2", "validator3"]


def record(n: int) -> bytes:
    """A transaction of some 60 KB."""
    body = t.PutVault(f"r{n}", 1, bytes(60_000))
    return t.sign_tx(RICH, t.Tx(CHAIN_ID, RICH.public, 500, n.to_bytes(8, "big"), body))


async def test_a_block_larger_than_a_frame_becomes_final_and_reaches_a_late_observer() -> None:
    async with world(FOUR) as net:
        first = net.peers["validator0"]
        await until(lambda: len(first.handlers.members) == 3)
        # At once, so that the loop turns only when all wait: a first block takes what is bundled first, a
        # second one the rest. Unpaced: a window that begins small would spread them over many small blocks.
        first.mempool.pace = None
        ids = [first.handlers.accept(record(n), "").id for n in range(60)]
        for id_ in ids:
            assert (await first.wait_final(id_, 20)).receipt.ok
        sizes = []
        for height in range(1, first.height + 1):
            block = first.store.block(height)
            assert block is not None
            sizes.append(sum(map(len, block.batches)))
        assert max(sizes) > PAYLOAD_BYTES_MAX
        late = await net.start("late")
        await until(lambda: all(late.store.tx(id_) is not None for id_ in ids))
        assert late.follower.lies == 0
