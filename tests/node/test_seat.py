"""A validator key's seat over epochs: crashes at each write of a change, what goes along with it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import trio

from consensus.messages import Record
from ledger.blocks import Header
from ledger.codec import decode
from ledger.machine import Context
from ledger.proofs.certificate import Ed25519Scheme, VoteKind
from ledger.records import Account, key_account
from ledger.state import read
from ledger.storage.kv import MemoryKv
from ledger.storage.store import Store
from node.notary import Notary
from node.voting.mempool import Mempool, open_batch
from node.voting.safety_store import SafetyStore
from node.voting.seat import Seat
from tests.node.epochs_fixture import change_tx, set_of
from tests.node.final_chain import batch_of, transfer_tx
from tests.node.network_fixture import CHAIN_ID, POOR, genesis, key, until
from tests.node.scripted_network import ScriptedNetwork
from tests.node.test_engine import Crash, CrashingKv

NEXT = set_of(1, [0], {0: 3})  # the one validator weighs more from then on


@dataclass
class Alone:
    """The only validator of a chain, over disks that outlive it."""

    chain: CrashingKv = field(default_factory=CrashingKv)
    votes: CrashingKv = field(default_factory=CrashingKv)

    def start(self) -> None:
        """A new process."""
        self.notary = Notary.open(genesis(1, idle_ms=20), Store(self.chain, CHAIN_ID), Ed25519Scheme())
        self.mempool, safety = Mempool(CHAIN_ID), SafetyStore(self.votes)
        self.seat = Seat(
            self.notary, self.mempool, ScriptedNetwork(), key("validator0"), safety, lambda peer, epoch: None
        )
        self.notary.on_commit.append(
            lambda done: self.mempool.committed(done.header, tuple(r.id for r in done.result.receipts))
        )

    async def live(self) -> bool:
        """Go on until three blocks stand above the boundary; True when it crashed before."""
        self.start()
        raws = [transfer_tx(1), change_tx(set_of(0, [0]), NEXT, [0], 0), transfer_tx(2)]
        tip = self.notary.store.tip
        for raw in raws:
            try:
                context = Context(CHAIN_ID, tip.height + 1, tip.time_ms, tip.hash)
                self.mempool.add(self.mempool.check(raw, context, self.notary.store.state.get), 0)
            except Exception as error:  # noqa: BLE001 - final before the crash
                assert "tx.duplicate" in str(error)
        crashed = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._vote)
                await until(lambda: self._above_boundary() >= 3)
                nursery.cancel_scope.cancel()
        except* Crash:
            crashed = True
        return crashed

    async def _vote(self) -> None:
        while True:
            assert self.seat.engine is not None
            await self.seat.engine.run()
            assert self.seat.has_turned
            self.seat.turn()

    def _above_boundary(self) -> int:
        ended = self.notary.store.epochs.proof(0)
        if ended is None:
            return 0
        return self.notary.store.tip.height - decode(Header, ended.finality.header).height

    def received(self) -> int:
        account = read(self.notary.store.state, Account, key_account(POOR.public))
        return account.balance if account else 0

    def votes_kept(self) -> dict[bytes, Record]:
        return {name: decode(Record, data) for name, data in self.votes.scan(b"v/")}


@pytest.mark.parametrize("dies_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("disk", ["chain", "votes"])
async def test_a_crash_at_any_write_of_a_change_recovers(disk: str, dies_after: bool) -> None:
    """Before the change, at the boundary's commit, between it and the first vote of the next epoch, after."""
    epochs_at_crash = set()
    for dies_at in range(1, 14):
        alone = Alone()
        alone.start()
        kv: CrashingKv = getattr(alone, disk)
        kv.writes, kv.dies_at, kv.dies_after = 0, dies_at, dies_after
        if not await alone.live():
            break  # it wrote less often
        kv.dies_at = 0
        voted = alone.votes_kept()
        epochs_at_crash.add(alone.notary.validators.epoch)
        assert not await alone.live()
        again = alone.votes_kept()
        assert all(again[name] == record for name, record in voted.items() if name in again)
        assert alone.notary.validators == NEXT
        assert alone.received() == 2, "each transfer once, though handed in again"
        assert {r.epoch for r in again.values() if r.view > alone.notary.store.tip.view} <= {1}
    assert epochs_at_crash == {0, 1}


async def test_only_a_key_with_a_place_gets_an_engine() -> None:
    """And in the next epoch another one, of the next set."""
    alone = Alone()
    alone.start()
    stranger = Seat(
        alone.notary,
        alone.mempool,
        ScriptedNetwork(),
        key("validator5"),
        SafetyStore(MemoryKv()),
        lambda peer, epoch: None,
    )
    assert stranger.engine is None
    assert not await alone.live()
    assert alone.seat.engine is not None
    assert alone.seat.engine.core.config.validators == NEXT
    assert VoteKind.NOTAR in alone.seat.engine.safety.highest()


def test_what_makers_brought_follows_them_to_their_new_places() -> None:
    """Quotas are by place in the set; of a maker that left, all count as one's."""
    pool = Mempool(CHAIN_ID)
    sizes = {}
    for maker in range(3):
        batch = open_batch(batch_of(transfer_tx(maker)), CHAIN_ID, pool.known.verify)
        assert pool.hold(batch, maker, wanted=False)
        sizes[maker] = len(batch.data)
    total = pool.size_bytes
    pool.renumber({0: 2, 2: 0})
    assert pool.by_maker == {2: sizes[0], 0: sizes[2], -1: sizes[1]}
    assert pool.size_bytes == total
    handed = pool.hand_over()
    assert len(handed) == 3
    assert (pool.size_bytes, pool.by_maker, pool.tx_count, pool.batches) == (0, {}, 0, {})
    assert not pool.pending
