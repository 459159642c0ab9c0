"""States on offer that are let go of while somebody reads them: an error of theirs would end the peer."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from ledger.codec import decode, encode
from ledger.errors import Refused
from ledger.storage.snapshot import StateChunk
from ledger.storage.store import Store
from node import limits as node_limits
from node.notary import Notary
from node.sync.snapshots import Snapshots
from node.sync.state_wire import ChunkRequest
from tests.node.final_chain import new_notary
from tests.node.network_fixture import CHAIN_ID, until
from tests.node.state_fixture import EVERY, Server, grow, server_of

WHOLE = encode(ChunkRequest(20, b"\1", node_limits.SNAPSHOT_CHUNK_BYTES))


async def test_a_chunk_that_is_being_cut_outlives_the_offer() -> None:
    """The oldest state in use goes when newer ones are, also while a chunk waits for its turn."""
    server = server_of(25)
    snapshots = server.snapshots
    cut: list[StateChunk] = []

    async def ask() -> None:
        cut.append(decode(StateChunk, await snapshots._chunk("peer", WHOLE)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(snapshots.run)
        with pytest.raises(Refused):
            await snapshots._chunk("peer", WHOLE)
        await until(lambda: snapshots.made == 1)
        spool = snapshots._snapshots[20].spool
        assert spool is not None
        spool._read.clear()  # the buckets come from the file
        async with snapshots._room:
            for _ in range(2):
                nursery.start_soon(ask)
            await until(lambda: snapshots._room.statistics().tasks_waiting == 2)
            snapshots._drop(20)
        await until(lambda: len(cut) == 2)
        assert cut[0].pairs and cut[0] == cut[1]
        assert spool._file.closed
        with pytest.raises(Refused) as refused:
            await snapshots._chunk("peer", WHOLE)
        assert refused.value.rule == "snapshot.gone"
        nursery.cancel_scope.cancel()


async def test_a_state_that_waits_to_be_sorted_when_all_are_let_go_of(tmp_path: Path) -> None:
    """As before another store takes the place of this one: LevelDB's snapshot is closed by then."""
    plain = new_notary()
    store = Store.open(tmp_path / "store", CHAIN_ID, plain.genesis.hash)
    notary = Notary.open(plain.genesis, store, plain.scheme)
    snapshots = Snapshots(store, every_blocks=EVERY)
    notary.on_commit.append(snapshots.committed)
    grow(Server(notary, snapshots), 25)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(snapshots.run)
        async with snapshots._room:
            with pytest.raises(Refused):
                await snapshots._chunk("peer", WHOLE)
            await until(lambda: snapshots._room.statistics().tasks_waiting == 1)
            snapshots._wanted.clear()
            snapshots._drop(20)  # as `close`, when its turn is before the one who sorts
        await until(lambda: snapshots._room.statistics().borrowed_tokens == 0)
        await trio.testing.wait_all_tasks_blocked()
        grow(Server(notary, snapshots), 10)
        assert snapshots.heights == (10, 30) and snapshots.made == 0
        nursery.cancel_scope.cancel()
    store.close()
