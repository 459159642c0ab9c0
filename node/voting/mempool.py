"""Transactions and batches that wait to become final, bounded by bytes, count, time and who sent them.

A validator bundles what it accepts into batches; proposals name batches by digest. A signature is checked
once: ids of checked transactions are remembered for execution. What waits for a batch takes turns
(`node.voting.fair_queue`, rule Q1), and no more is accepted than is final soon (`node.voting.pace`, rules Q2
to Q4). Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ledger.blocks import Batch, Header, decode_batch
from ledger.codec import encode
from ledger.errors import Refused
from ledger.limits import BATCH_TXS_MAX
from ledger.machine import Context, check_window
from ledger.proofs.inclusion import txs_digest
from ledger.records import key_seen
from ledger.transactions import CheckedTx, VerifiedTx, decode_tx
from node.limits import (
    BATCH_SEAL_BYTES,
    BATCH_SEAL_MS,
    MEMPOOL_BYTES_MAX,
    MEMPOOL_MAKER_BYTES_MAX,
    MEMPOOL_SENDER_BYTES_MAX,
    MEMPOOL_SENDER_TXS_MAX,
    MEMPOOL_TXS_MAX,
    OVERLOAD_RETRY_S,
    QUEUE_FREE_ACCOUNT_BYTES,
    QUEUE_FREE_SOURCE_BYTES,
    QUEUE_MS_MAX,
)
from node.seam import Overloaded
from node.voting.fair_queue import FairQueue, cost_of
from node.voting.known import KnownTxs
from node.voting.pace import Pace, retry_ms

OURS: Final = ""  # who brought a transaction: this peer itself


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
    return open_txs(data, txs_digest(batch.txs), batch.txs, chain_id, verify)


def open_txs(
    data: bytes,
    digest: bytes,
    raws: Sequence[bytes],
    chain_id: str,
    verify: Callable[[CheckedTx], VerifiedTx],
) -> HeldBatch:
    """As `open_batch`, of a batch that was decoded and named before."""
    txs: list[VerifiedTx] = []
    for raw in raws:
        try:
            txs.append(verify(decode_tx(raw, chain_id)))
        except Refused:
            continue
    return HeldBatch(data, digest, tuple(txs), len(raws))


@dataclass(slots=True)
class Usage:
    """What one sender's transactions take."""

    txs: int = 0
    size_bytes: int = 0


@dataclass(slots=True)
class Mempool:
    """See the module. `places` counts where a transaction waits: pending, and in each batch that has it.
    Without a `pace` batches go out at once, and nothing is bounded by time."""

    chain_id: str
    pace: Pace | None = None
    known: KnownTxs = field(default_factory=KnownTxs)
    pending: FairQueue = field(default_factory=FairQueue)
    pending_since_ms: int = 0
    sealed_ms: int = -BATCH_SEAL_MS  # when the last batch was due
    refused: Counter[str] = field(default_factory=Counter)  # why nothing more was taken -> how often
    places: dict[bytes, int] = field(default_factory=dict)
    senders: dict[bytes, Usage] = field(default_factory=dict)
    batches: dict[bytes, HeldBatch] = field(default_factory=dict)
    makers: dict[bytes, int] = field(default_factory=dict)  # digest -> who brought it
    size_bytes: int = 0
    by_maker: dict[int, int] = field(default_factory=dict)

    def check(
        self,
        raw: bytes,
        context: Context,
        record: Callable[[bytes], bytes | None],
        source: str = OURS,
    ) -> VerifiedTx:
        """Form, window, replay, room, signature of a transaction, cheapest first. Raises Refused, Overloaded.

        `record` reads the state; it knows each executed transaction for as long as its window is open [T2].
        """
        return self.known.remember(self.known.verify(self.check_form(raw, context, record, source)))

    def check_form(
        self,
        raw: bytes,
        context: Context,
        record: Callable[[bytes], bytes | None],
        source: str = OURS,
    ) -> CheckedTx:
        """All of `check` but the signature. Raises Refused, Overloaded."""
        checked = decode_tx(raw, self.chain_id)
        check_window(checked.tx, context)
        if record(key_seen(checked.tx.expires, checked.id)) is not None:
            raise Refused("tx.duplicate", "final already")
        if checked.id not in self.places:
            self.admit(checked, source)  # a flood costs no signatures
        return checked

    def admit(self, tx: CheckedTx, source: str) -> None:
        """Raises Overloaded when there is no room for that transaction now; it says when to come again.

        Nothing is counted for a sender here: the signature may not have been checked yet.
        """
        size = len(tx.raw)
        if len(self.places) >= MEMPOOL_TXS_MAX or self.size_bytes + size > MEMPOOL_BYTES_MAX:
            raise self._overloaded("pool")
        used = self.senders.get(tx.tx.sender)
        if used is not None and (
            used.txs >= MEMPOOL_SENDER_TXS_MAX or used.size_bytes + size > MEMPOOL_SENDER_BYTES_MAX
        ):
            raise self._overloaded("account")
        txs, waiting_bytes = self.pending.usage(source)
        if txs >= self._free_txs() or waiting_bytes + size > self._free_bytes():
            raise self._overloaded("source")
        wait_ms = self.wait_ms(tx, source)
        if wait_ms > QUEUE_MS_MAX:
            if self.pending.waiting(source, tx.tx.sender) > QUEUE_FREE_ACCOUNT_BYTES:
                raise self._overloaded("account_wait", wait_ms - QUEUE_MS_MAX / 2)
            if self.pending.waiting(source) > QUEUE_FREE_SOURCE_BYTES:
                raise self._overloaded("source_wait", wait_ms - QUEUE_MS_MAX / 2)

    def _free_txs(self) -> int:
        """No bringer has more waiting than there is room left for others (dynamic thresholds: Choudhury and
        Hahne 1998): one takes half the pool, many an equal part each, and a newcomer finds room always."""
        return MEMPOOL_TXS_MAX - len(self.places)

    def _free_bytes(self) -> int:
        """As `_free_txs`."""
        return MEMPOOL_BYTES_MAX - self.size_bytes

    def wait_ms(self, tx: CheckedTx, source: str) -> float:
        """How long that transaction would wait for its batch, at the most, as far as is known."""
        if self.pace is None:
            return 0.0
        return self.pace.wait_ms(self.pending.ahead(source, tx.tx.sender, cost_of(tx)))

    def _overloaded(self, why: str, wait_ms: float = OVERLOAD_RETRY_S * 1000) -> Overloaded:
        self.refused[why] += 1
        return Overloaded(retry_ms(wait_ms) / 1000)

    def add(self, tx: VerifiedTx, now_ms: int, source: str = OURS) -> bool:
        """Queue a checked transaction for the next batch. False: held already. Raises Overloaded."""
        if tx.id in self.places:
            return False
        self.admit(tx, source)
        if not self.pending:
            self.pending_since_ms = now_ms
        self.pending.put(tx, source)
        self.size_bytes += len(tx.raw)
        self._enter(tx)
        return True

    def seal_due_ms(self) -> int | None:
        """When the pending transactions should go out as a batch: at once after a quiet spell, else some time
        after the last one, so that a burst is bundled. None: nothing pending, or those before must be final
        first."""
        if not self.pending:
            return None
        if self.pace is not None and not self.pace.room(self.pending.size_bytes):
            return self.pace.express_due_ms if self.pending.has_fresh() else None
        full = self.pending.size_bytes >= BATCH_SEAL_BYTES or len(self.pending) >= BATCH_TXS_MAX
        return self.pending_since_ms if full else max(self.pending_since_ms, self.sealed_ms + BATCH_SEAL_MS)

    def seal(self, maker: int) -> HeldBatch | None:
        """The next batch of pending transactions, held from now on. None: as `seal_due_ms`."""
        due = self.seal_due_ms()
        taken = self._take()
        if not taken:
            return None
        if due is not None:
            self.sealed_ms = max(self.sealed_ms, due)
        self.size_bytes -= _size(taken)
        raws = tuple(tx.raw for tx in taken)
        batch = HeldBatch(encode(Batch(raws)), txs_digest(raws), tuple(taken), len(taken))
        self._hold(batch, maker)
        if self.pace is not None:
            self.pace.sealed(batch.digest, len(batch.data), sum(cost_of(tx) for tx in taken))
        for tx in taken:
            self._leave(tx)
        return batch

    def _take(self) -> list[VerifiedTx]:
        if self.pace is None or not self.pending:
            return self.pending.take(BATCH_TXS_MAX, BATCH_SEAL_BYTES)
        room = self.pace.room(self.pending.size_bytes)
        if room:
            return self.pending.take(BATCH_TXS_MAX, min(room, BATCH_SEAL_BYTES))
        return self.pending.take_fresh(BATCH_TXS_MAX, self.pace.express())

    def hold(self, batch: HeldBatch, maker: int, *, wanted: bool) -> bool:
        """Keep another's opened batch. False when it is held already or its maker holds too much
        (unless consensus asked for it). Raises nothing: a full pool sheds batches."""
        size = len(batch.data)
        if batch.digest in self.batches:
            return False
        if not wanted:
            if self.size_bytes + size > MEMPOOL_BYTES_MAX:
                return False
            if self.by_maker.get(maker, 0) + size > min(MEMPOOL_MAKER_BYTES_MAX, self._free_bytes()):
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
        waiting = [tx for batch in self.batches.values() for tx in batch.txs] + list(self.pending)
        handed = list({tx.id: tx for tx in waiting}.values())
        for batch in self.batches.values():
            for tx in batch.txs:
                self._leave(tx)
        self.batches, self.makers, self.by_maker = {}, {}, {}
        self._unqueue({tx.id for tx in self.pending})
        self.size_bytes = 0
        if self.pace is not None:
            self.pace.clear()
        return handed

    def committed(self, header: Header, executed: tuple[bytes, ...]) -> None:
        """Forget the batches of a final block, and the transactions that it executed or skipped."""
        if self.pace is not None:
            self.pace.final(header.batches)
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
        if not self.pending:
            return
        for id_ in ids:
            tx = self.pending.remove(id_)
            if tx is not None:
                self.size_bytes -= len(tx.raw)
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
    def pending_bytes(self) -> int:
        """Bytes of the transactions that wait for a batch."""
        return self.pending.size_bytes

    @property
    def tx_count(self) -> int:
        """Transactions that wait."""
        return len(self.places)


def _size(txs: Iterable[CheckedTx]) -> int:
    return sum(len(tx.raw) for tx in txs)
