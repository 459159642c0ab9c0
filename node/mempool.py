"""Transactions and batches that wait to become final, bounded by bytes, count and maker. Pure.

A validator bundles what it accepts into batches; proposals name batches by digest. A signature is
checked once: ids of checked transactions are remembered for execution.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from ledger.blocks import Batch, Header, batch_digest, decode_batch
from ledger.codec import encode
from ledger.errors import Refused
from ledger.limits import BATCH_TXS_MAX
from ledger.machine import Context, check_window
from ledger.transactions import CheckedTx, VerifiedTx, decode_tx, verified
from node.limits import (
    BATCH_SEAL_BYTES,
    BATCH_SEAL_MS,
    MEMPOOL_BYTES_MAX,
    MEMPOOL_MAKER_BYTES_MAX,
    MEMPOOL_TXS_MAX,
    OVERLOAD_RETRY_S,
    VERIFIED_MAX,
)
from node.seam import Overloaded

_BATCH_OVERHEAD: Final = 16


@dataclass(frozen=True, slots=True)
class HeldBatch:
    """A batch with its decodable transactions. `count` counts all entries, as blocks are bounded by it."""

    data: bytes
    txs: tuple[CheckedTx, ...]
    count: int
    maker: int


def open_batch(
    data: bytes, chain_id: str, known: dict[bytes, VerifiedTx] | OrderedDict[bytes, VerifiedTx]
) -> HeldBatch:
    """Decode a batch and check each signature that is not known yet. Raises Refused for a malformed batch.

    Entries that are no transactions of this chain are left out: execution skips them anyway (T1).
    May run in a thread.
    """
    batch = decode_batch(data)
    txs: list[CheckedTx] = []
    for raw in batch.txs:
        try:
            checked = decode_tx(raw, chain_id)
            txs.append(known.get(checked.id) or verified(checked))
        except Refused:
            continue
    return HeldBatch(data, tuple(txs), len(batch.txs), -1)


@dataclass(slots=True)
class Mempool:
    """See the module."""

    chain_id: str
    verified: OrderedDict[bytes, VerifiedTx] = field(default_factory=OrderedDict)
    pending: list[VerifiedTx] = field(default_factory=list)
    pending_bytes: int = 0
    pending_since_ms: int = 0
    ids: set[bytes] = field(default_factory=set)  # pending or in a held batch
    batches: dict[bytes, HeldBatch] = field(default_factory=dict)
    size_bytes: int = 0
    by_maker: dict[int, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)  # by rule, for metrics

    def check(self, raw: bytes, context: Context) -> VerifiedTx:
        """Form, window and signature of a transaction. Raises Refused."""
        checked = decode_tx(raw, self.chain_id)
        check_window(checked.tx, context)
        return self.verified.get(checked.id) or self.remember(verified(checked))

    def add(self, tx: VerifiedTx, now_ms: int) -> bool:
        """Queue a checked transaction for the next batch. False: held already. Raises Overloaded."""
        if tx.id in self.ids:
            return False
        if len(self.ids) >= MEMPOOL_TXS_MAX or self.size_bytes + len(tx.raw) > MEMPOOL_BYTES_MAX:
            raise Overloaded(OVERLOAD_RETRY_S)
        if not self.pending:
            self.pending_since_ms = now_ms
        self.ids.add(tx.id)
        self.pending.append(tx)
        self.pending_bytes += len(tx.raw)
        self.size_bytes += len(tx.raw)
        return True

    def remember(self, tx: VerifiedTx) -> VerifiedTx:
        """Keep a checked transaction, so that its signature is not checked again."""
        self.verified[tx.id] = tx
        while len(self.verified) > VERIFIED_MAX:
            self.verified.popitem(last=False)
        return tx

    def seal_due_ms(self) -> int | None:
        """When the pending transactions should go out as a batch; None: nothing pending."""
        if not self.pending:
            return None
        full = self.pending_bytes >= BATCH_SEAL_BYTES or len(self.pending) >= BATCH_TXS_MAX
        return self.pending_since_ms + (0 if full else BATCH_SEAL_MS)

    def seal(self, maker: int) -> tuple[bytes, HeldBatch] | None:
        """The next batch of pending transactions, held from now on: its digest and itself."""
        if not self.pending:
            return None
        taken: list[VerifiedTx] = []
        size = 0
        for tx in self.pending[:BATCH_TXS_MAX]:
            if taken and size + len(tx.raw) + _BATCH_OVERHEAD > BATCH_SEAL_BYTES:
                break
            taken.append(tx)
            size += len(tx.raw) + _BATCH_OVERHEAD
        del self.pending[: len(taken)]
        raw_bytes = sum(len(tx.raw) for tx in taken)
        self.pending_bytes -= raw_bytes
        self.size_bytes -= raw_bytes
        data = encode(Batch(tuple(tx.raw for tx in taken)))
        batch = HeldBatch(data, tuple(taken), len(taken), maker)
        digest = batch_digest(data)
        self._hold(digest, batch)
        return digest, batch

    def hold(self, batch: HeldBatch, maker: int, wanted: bool) -> bytes | None:
        """Keep another's opened batch. Returns its digest; None when it is held already or its maker
        holds too much (unless consensus asked for it). Raises nothing: a full pool sheds batches."""
        digest = batch_digest(batch.data)
        size = len(batch.data)
        if digest in self.batches:
            return None
        if not wanted:
            if self.size_bytes + size > MEMPOOL_BYTES_MAX:
                return None
            if self.by_maker.get(maker, 0) + size > MEMPOOL_MAKER_BYTES_MAX:
                return None
        self._hold(digest, HeldBatch(batch.data, batch.txs, batch.count, maker))
        for tx in batch.txs:
            if isinstance(tx, VerifiedTx):
                self.remember(tx)
        return digest

    def _hold(self, digest: bytes, batch: HeldBatch) -> None:
        self.batches[digest] = batch
        self.size_bytes += len(batch.data)
        self.by_maker[batch.maker] = self.by_maker.get(batch.maker, 0) + len(batch.data)
        self.ids.update(tx.id for tx in batch.txs)

    def committed(self, header: Header, executed: tuple[bytes, ...]) -> None:
        """Forget the batches of a final block, and the transactions that it executed."""
        done = set(executed)
        for digest in header.batches:
            batch = self.batches.pop(digest, None)
            if batch is not None:
                self.size_bytes -= len(batch.data)
                self.by_maker[batch.maker] -= len(batch.data)
                done.update(tx.id for tx in batch.txs)
        self.ids -= done
        for id_ in done:
            self.verified.pop(id_, None)
        if self.pending and not done.isdisjoint(tx.id for tx in self.pending):
            kept = [tx for tx in self.pending if tx.id not in done]
            dropped = sum(len(tx.raw) for tx in self.pending) - sum(len(tx.raw) for tx in kept)
            self.pending, self.pending_bytes = kept, self.pending_bytes - dropped
            self.size_bytes -= dropped

    @property
    def tx_count(self) -> int:
        """Transactions that wait."""
        return len(self.ids)
