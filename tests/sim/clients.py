"""Clients of a simulated network: signed transfers, in batches, to whoever is up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger import keys
from ledger.blocks import Batch
from ledger.codec import encode
from ledger.limits import EXPIRY_BLOCKS_DEFAULT
from ledger.transactions import Transfer, Tx, sign_tx
from tests.sim.node import SimNode

if TYPE_CHECKING:
    from tests.sim.world import World


class Clients:
    """`keys` are the accounts of the genesis file."""

    def __init__(self, world: World, accounts: int) -> None:
        self.world = world
        self.keys = [keys.Key(bytes([2, i]) * 16) for i in range(accounts)]
        self.sent_txs: list[bytes] = []

    def hand_in(self) -> None:
        """Hand a batch to somebody who is up; it streams it to all."""
        up = [node for node in self.world.nodes if node.up and node.paused_until_us <= self.world.now_us]
        if up and (not self.world.calm or len(self.world.progress.submitted) < 5):
            node = self.world.rng.choice(up)
            data = encode(Batch(tuple(self._transfer(node) for _ in range(self.world.rng.randint(1, 3)))))
            self.world.at(self.world.now_us, node, self._submit, node, data)
        mean_us = self.world.scenario.batch_every_ms * 1_000
        self.world.at(
            self.world.now_us + self.world.rng.randint(mean_us // 4, mean_us * 2), None, self.hand_in
        )

    def _submit(self, node: SimNode, data: bytes) -> None:
        node.hold_batch(data)
        if self.world.calm and self.world.is_honest(node.member):
            self.world.progress.submitted.update(d for d, b in node.pool.items() if b == data)
        node.post(None, b"B" + data)

    def _transfer(self, node: SimNode) -> bytes:
        """A signed transfer: sometimes one sent before, sometimes of more than there is."""
        if self.sent_txs and self.world.rng.random() < 0.1:
            return self.world.rng.choice(self.sent_txs[-50:])
        sender, to = self.world.rng.sample(self.keys, 2)
        amount = self.world.rng.choice((1, 500, 70_000, 10**9))
        expires = node.store.height + EXPIRY_BLOCKS_DEFAULT
        salt = len(self.sent_txs).to_bytes(8, "big")
        raw = sign_tx(
            sender, Tx(self.world.chain_id, sender.public, expires, salt, Transfer(to.public, amount))
        )
        self.sent_txs.append(raw)
        return raw
