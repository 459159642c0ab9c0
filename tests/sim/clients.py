"""Clients of a simulated network: honest ones, who hand a signed transfer in again until it is final or
expired, and those who flood a mempool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import node.voting.mempool
from ledger import keys
from ledger.blocks import Batch
from ledger.codec import encode
from ledger.limits import EXPIRY_BLOCKS_DEFAULT
from ledger.transactions import Transfer, Tx, decode_tx, sign_tx
from tests.sim.node import SimNode
from tests.sim.scenario import Fault

if TYPE_CHECKING:
    from tests.sim.world import World

RESEND_MS: Final = 2_000  # as node.outbox
SHORT_LIVED: Final = 0.05  # transfers that expire within a few blocks
FLOOD_TXS: Final = 160
FLOOD_EVERY_MS: Final = 10
FLOOD_AT_ONCE: Final = 40

# The mempool's own limits are a thousand times larger: a flood to them would be all that a run does.
SMALL_POOL: Final = {
    "MEMPOOL_TXS_MAX": 120,
    "MEMPOOL_BYTES_MAX": 256 * 1024,
    "MEMPOOL_MAKER_BYTES_MAX": 128 * 1024,
    "MEMPOOL_SENDER_TXS_MAX": 40,
    "MEMPOOL_SENDER_BYTES_MAX": 96 * 1024,
    "BATCH_SEAL_BYTES": 8 * 1024,
}


@contextmanager
def small_pool() -> Iterator[None]:
    """Within the block, mempools have the bounds of SMALL_POOL."""
    real = {name: getattr(node.voting.mempool, name) for name in SMALL_POOL}
    for name, value in SMALL_POOL.items():
        setattr(node.voting.mempool, name, value)
    try:
        yield
    finally:
        for name, value in real.items():
            setattr(node.voting.mempool, name, value)


@dataclass(slots=True)
class Pending:
    """A transfer that its client knows nothing of yet."""

    raw: bytes
    expires: int
    since_us: int


class Clients:
    """`keys` are the accounts of the genesis file. `pending`: what honest clients wait for, by id."""

    def __init__(self, world: World, accounts: int) -> None:
        self.world = world
        self.keys = [keys.Key(bytes([2, i]) * 16) for i in range(accounts)]
        self.sent_txs: list[bytes] = []
        self.pending: dict[bytes, Pending] = {}
        self.served = self.expired = self.overloaded = 0
        self.mean_us = world.scenario.batch_every_ms * 1_000
        self.flooders: dict[int, int] = {}  # node id -> transactions of the flood that are still to come

    # ------------------------------------------------------------------ honest ones

    def hand_in(self) -> None:
        """A few transfers, each to somebody who is up."""
        if up := self._up():
            for _ in range(self.world.rng.randint(1, 3)):
                self._new(up)
        mean_us = self.mean_us
        self.world.at(
            self.world.now_us + self.world.rng.randint(mean_us // 4, mean_us * 2), None, self.hand_in
        )

    def _up(self) -> list[SimNode]:
        up = [n for n in self.world.nodes if n.up and not n.is_waiting]
        return [n for n in up if n.paused_until_us <= self.world.now_us]

    def _again(self, id_: bytes) -> None:
        """Hand in anew what is not final yet, to somebody else."""
        pending, up = self.pending.get(id_), self._up()
        if pending is not None:
            if up:
                self.give(self.world.rng.choice(up), id_, pending.raw)
            self.world.at(self.world.now_us + RESEND_MS * 1_000, None, self._again, id_)

    def _new(self, up: list[SimNode]) -> None:
        node = self.world.rng.choice(up)
        if self.sent_txs and self.world.rng.random() < 0.1:  # as a client that has lost its memory
            raw = self.world.rng.choice(self.sent_txs[-50:])
            self.give(node, decode_tx(raw, self.world.chain_id).id, raw)
            return
        raw = self._transfer(node)
        tx = decode_tx(raw, self.world.chain_id)
        self.pending[tx.id] = Pending(raw, tx.tx.expires, self.world.now_us)
        self.world.at(self.world.now_us + RESEND_MS * 1_000, None, self._again, tx.id)
        self.world.progress.owed(tx.id, tx.tx.expires)
        self.give(node, tx.id, raw)

    def give(self, node: SimNode, id_: bytes, raw: bytes) -> None:
        """To one node, which may be down by then."""
        self.world.at(self.world.now_us, node, self._given, node, id_, raw)

    def _given(self, node: SimNode, id_: bytes, raw: bytes) -> None:
        if node.is_waiting:
            return
        refusal = node.take(raw)
        if refusal == "overloaded":
            self.overloaded += 1
            self.world.bounded.turned_away(node, raw)

    def executed(self, ids: list[bytes], height: int) -> None:
        """An honest node showed receipts of these; nothing that expired by `height` can come any more."""
        for id_ in ids:
            self.served += self.pending.pop(id_, None) is not None
        gone = [id_ for id_, pending in self.pending.items() if pending.expires <= height]
        for id_ in gone:
            self.expired += 1
            del self.pending[id_]

    def _transfer(self, node: SimNode) -> bytes:
        """A signed transfer: sometimes of more than there is."""
        rng = self.world.rng
        sender, to = rng.sample(self.keys, 2)
        amount = rng.choice((1, 500, 70_000, 10**9))
        lasts = rng.randint(1, 6) if rng.random() < SHORT_LIVED else EXPIRY_BLOCKS_DEFAULT
        raw = self._signed(sender, to.public, node.height + lasts, amount)
        self.sent_txs.append(raw)
        return raw

    def _signed(self, sender: keys.Key, to: bytes, expires: int, amount: int) -> bytes:
        salt = (len(self.sent_txs) + (amount << 32)).to_bytes(12, "big")
        return sign_tx(sender, Tx(self.world.chain_id, sender.public, expires, salt, Transfer(to, amount)))

    # ------------------------------------------------------------------ floods

    def flood(self, node: SimNode, fault: Fault) -> None:
        """Far more than a mempool may hold: from one account, from many, or as batches of a Byzantine member
        (`point`: "one", "many", "batches")."""
        if fault.point == "batches" and self.world.scenario.twin is not None:
            node = self.world.nodes[self.world.scenario.twin]
        self.flooders[node.id] = FLOOD_TXS
        self._burst(node, fault.point, 0)

    def _burst(self, node: SimNode, kind: str, number: int) -> None:
        count = min(FLOOD_AT_ONCE, self.flooders[node.id])
        self.flooders[node.id] -= count
        if node.up and not node.is_waiting and count:
            raws = [self._junk(node, kind, number + n) for n in range(count)]
            if kind == "batches" and not node.is_honest:
                node.post(None, b"B" + encode(Batch(tuple(raws))))
            else:
                refusals = [node.take(raw, "flood") for raw in raws]
                self.world.result.faults["flood.turned_away"] += refusals.count("overloaded")
            self.world.memory.flooded(node)
        if self.flooders[node.id] > 0:
            at_us = self.world.now_us + FLOOD_EVERY_MS * 1_000
            self.world.at(at_us, None, self._burst, node, kind, number + count)

    def _junk(self, node: SimNode, kind: str, number: int) -> bytes:
        """A transfer that costs a place and brings nothing: there is no money in its account."""
        account = 0 if kind == "one" else number
        sender = keys.Key(b"\3" * 28 + account.to_bytes(4, "big"))
        salt = self.world.rng.randbytes(12)
        body = Transfer(self.keys[0].public, 10**9 + number)
        expires = node.height + EXPIRY_BLOCKS_DEFAULT
        return sign_tx(sender, Tx(self.world.chain_id, sender.public, expires, salt, body))
