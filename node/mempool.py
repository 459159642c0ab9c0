"""Transactions and batches that wait to become final, bounded by bytes, count, sender and maker. Pure.

A validator bundles what it accepts into batches; proposals name batches by digest. A signature is
checked once: ids of checked transactions are remembered for execution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ledger.blocks import Batch, Header, decode_batch
from ledger.codec import encode
from ledger.errors import Refused
from ledger.inclusion import txs_digest
from ledger.limits import BATCH_TXS_MAX
from ledger.machine import Context, check_window
from ledger.records import key_seen
from ledger.transactions import CheckedTx, VerifiedTx, decode_tx
from node.known import KnownTxs
from node.limits import (
    BATCH_SEAL_BYTES,
    BATCH_SEAL_MS,
    MEMPOOL_BYTES_MAX,
    MEMPOOL_MAKER_BYTES_MAX,
    MEMPOOL_SENDER_BYTES_MAX,
    MEMPOOL_SENDER_TXS_MAX,
    MEMPOOL_TXS_MAX,
    OVERLOAD_RETRY_S,
)
from node.seam import Overloaded

_BATCH_OVERHEAD: Final = 16


@dataclass(frozen=True, slots=True)
class HeldBatch:
    """A batch and its signed transactions. `count` counts all entries, as blocks are bounded by it."""

    data: bytes
    digest: bytes
    txs: tuple[VerifiedTx, ...]
    count: int

    @property
    def is_spoiled(self) -> bool:
        """Has it entries that no honest validator bundles: of another chain, malformed, not signed?"""
        return len(self.txs) < self.count


def open_batch(data: bytes, chain_id: str, verify: Callable[[CheckedTx], VerifiedTx]) -> HeldBatch:
    """Decode a batch and check each signature. Raises Refused for a malformed batch.

    Entries that are no transactions of this chain are left out: execution skips them anyway (T1).
    May run in a thread.
    """
    batch = decode_batch(data)
    txs: list[VerifiedTx] = []
    for raw in batch.txs:
        try:
            txs.append(verify(decode_tx(raw, chain_id)))
        except Refused:
            continue
    return HeldBatch(data, txs_digest(batch.txs), tuple(txs), len(batch.txs))


@dataclass(slots=True)
class Usage:
    """What one sender's transactions take."""

    txs: int = 0
    size_bytes: int = 0


@dataclass(slots=True)
class Mempool:
    """See the module. `places` counts where a transaction waits: pending, and in each batch that has it."""

    chain_id: str
    known: KnownTxs = field(default_factory=KnownTxs)
    pending: list[VerifiedTx] = field(default_factory=list)
    pending_bytes: int = 0
    pending_since_ms: int = 0
    places: dict[bytes, int] = field(default_factory=dict)
    senders: dict[bytes, Usage] = field(default_factory=dict)
    batches: dict[bytes, HeldBatch] = field(default_factory=dict)
    makers: dict[bytes, int] = field(default_factory=dict)  # digest -> who brought it
    size_bytes: int = 0
    by_maker: dict[int, int] = field(default_factory=dict)

    def check(self, raw: bytes, context: Context, record: Callable[[bytes], bytes | None]) -> VerifiedTx:
        """Form, window, replay and signature of a transaction, cheapest first. Raises Refused.

        `record` reads the state; it knows each executed transaction for as long as its window is open [T2].
        """
        checked = decode_tx(raw, self.chain_id)
        check_window(checked.tx, context)
        if record(key_seen(checked.tx.expires, checked.id)) is not None:
            raise Refused("tx.duplicate", "final already")
        return self.known.remember(self.known.verify(checked))

    def add(self, tx: VerifiedTx, now_ms: int) -> bool:
        """Queue a checked transaction for the next batch. False: held already. Raises Overloaded."""
        if tx.id in self.places:
            return False
        size = len(tx.raw)
        if len(self.places) >= MEMPOOL_TXS_MAX or self.size_bytes + size > MEMPOOL_BYTES_MAX:
            raise Overloaded(OVERLOAD_RETRY_S)
        used = self.senders.get(tx.tx.sender)
        if used is not None and (
            used.txs >= MEMPOOL_SENDER_TXS_MAX or used.size_bytes + size > MEMPOOL_SENDER_BYTES_MAX
        ):
            raise Overloaded(OVERLOAD_RETRY_S)
        if not self.pending:
            self.pending_since_ms = now_ms
        self.pending.append(tx)
        self.pending_bytes += size
        self.size_bytes += size
        self._enter(tx)
        return True

    def seal_due_ms(self) -> int | None:
        """When the pending transactions should go out as a batch; None: nothing pending."""
        if not self.pending:
            return None
        full = self.pending_bytes >= BATCH_SEAL_BYTES or len(self.pending) >= BATCH_TXS_MAX
        return self.pending_since_ms + (0 if full else BATCH_SEAL_MS)

    def seal(self, maker: int) -> HeldBatch | None:
        """The next batch of pending transactions, held from now on."""
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
        self.pending_bytes -= _size(taken)
        self.size_bytes -= _size(taken)
        raws = tuple(tx.raw for tx in taken)
        batch = HeldBatch(encode(Batch(raws)), txs_digest(raws), tuple(taken), len(taken))
        self._hold(batch, maker)
        for tx in taken:
            self._leave(tx)
        return batch

    def hold(self, batch: HeldBatch, maker: int, *, wanted: bool) -> bool:
        """Keep another's opened batch. False when it is held already or its maker holds too much
        (unless consensus asked for it). Raises nothing: a full pool sheds batches."""
        size = len(batch.data)
        if batch.digest in self.batches:
            return False
        if not wanted:
            if self.size_bytes + size > MEMPOOL_BYTES_MAX:
                return False
            if self.by_maker.get(maker, 0) + size > MEMPOOL_MAKER_BYTES_MAX:
                return False
        for tx in batch.txs:
            self.known.remember(tx)
        self._hold(batch, maker)
        self._unqueue({tx.id for tx in batch.txs})  # they wait in this batch from now on
        return True

    def _hold(self, batch: HeldBatch, maker: int) -> None:
        self.batches[batch.digest] = batch
        self.makers[batch.digest] = maker
        self.size_bytes += len(batch.data)
        self.by_maker[maker] = self.by_maker.get(maker, 0) + len(batch.data)
        for tx in batch.txs:
            self._enter(tx)

    def renumber(self, places: Mapping[int, int]) -> None:
        """The next epoch's members have other places: `places` by their former ones. What a maker brought
        that is no member any more counts as brought by member -1."""
        self.makers = {digest: places.get(maker, -1) for digest, maker in self.makers.items()}
        self.by_maker = {}
        for digest, maker in self.makers.items():
            size = len(self.batches[digest].data)
            self.by_maker[maker] = self.by_maker.get(maker, 0) + size

    def hand_over(self) -> list[VerifiedTx]:
        """All transactions that wait, each once, in order; none does from now on."""
        waiting = [tx for batch in self.batches.values() for tx in batch.txs] + self.pending
        handed = list({tx.id: tx for tx in waiting}.values())
        for batch in self.batches.values():
            for tx in batch.txs:
                self._leave(tx)
        self.batches, self.makers, self.by_maker = {}, {}, {}
        self._unqueue({tx.id for tx in self.pending})
        self.size_bytes = 0
        return handed

    def committed(self, header: Header, executed: tuple[bytes, ...]) -> None:
        """Forget the batches of a final block, and the transactions that it executed or skipped."""
        done = set(executed)
        for digest in header.batches:
            batch = self.batches.pop(digest, None)
            if batch is None:
                continue
            maker, size = self.makers.pop(digest), len(batch.data)
            self.size_bytes -= size
            self.by_maker[maker] -= size
            if not self.by_maker[maker]:
                del self.by_maker[maker]
            for tx in batch.txs:
                self._leave(tx)
            done.update(tx.id for tx in batch.txs)
        for id_ in done:
            self.known.forget(id_)
        self._unqueue(done)

    def _unqueue(self, ids: set[bytes]) -> None:
        """Take these out of what is pending."""
        if not self.pending or ids.isdisjoint(tx.id for tx in self.pending):
            return
        gone = [tx for tx in self.pending if tx.id in ids]
        self.pending = [tx for tx in self.pending if tx.id not in ids]
        size = _size(gone)
        self.pending_bytes -= size
        self.size_bytes -= size
        for tx in gone:
            self._leave(tx)

    def _enter(self, tx: VerifiedTx) -> None:
        places = self.places.get(tx.id, 0)
        self.places[tx.id] = places + 1
        if not places:
            used = self.senders.setdefault(tx.tx.sender, Usage())
            used.txs += 1
            used.size_bytes += len(tx.raw)

    def _leave(self, tx: VerifiedTx) -> None:
        self.places[tx.id] -= 1
        if self.places[tx.id]:
            return
        del self.places[tx.id]
        used = self.senders[tx.tx.sender]
        used.txs -= 1
        used.size_bytes -= len(tx.raw)
        if not used.txs:
            del self.senders[tx.tx.sender]

    @property
    def tx_count(self) -> int:
        """Transactions that wait."""
        return len(self.places)


def _size(txs: Iterable[CheckedTx]) -> int:
    return sum(len(tx.raw) for tx in txs)
