"""Batches that come from validators and go to them: opened off the loop, bounded for each validator.

What comes is judged in two steps: is it new (its digest), then are its transactions signed. Both run
in a thread when they are long. A validator that pushes a batch with entries that nobody signed breaks
a rule, unless we asked for that batch: a block may name a bad batch, and then all must hold it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import trio

from ledger.blocks import Header, decode_batch
from ledger.errors import LocalError, Refused
from ledger.proofs.inclusion import txs_digest
from ledger.storage.store import Store
from ledger.transactions import VerifiedTx
from node.limits import (
    BATCHES_OPENING_MAX,
    FETCH_ANSWERS_MAX,
    FETCH_ANSWERS_MS,
    VERIFY_THREAD_BYTES,
)
from node.voting.mempool import HeldBatch, Mempool, open_txs

_ASKED_MAX = 256  # four times what a core wants at once


@dataclass(slots=True)
class BatchDesk:
    """See the module. `on_fault(member, error)` hears of broken rules, `ring` that something is ready."""

    mempool: Mempool
    store: Store
    on_fault: Callable[[int, Refused], None]
    ring: Callable[[], None]
    ready: deque[tuple[int, HeldBatch]] = field(default_factory=deque)
    _busy: dict[int, int] = field(default_factory=dict)  # member -> batches being opened or ready
    _asked: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    _answers: dict[int, tuple[int, int]] = field(default_factory=dict)  # member -> (since ms, how many)

    def asked(self, digest: bytes) -> None:
        """We ask validators for this batch: whatever is in it, its bringer is not to blame."""
        self._asked[digest] = None
        self._asked.move_to_end(digest)
        while len(self._asked) > _ASKED_MAX:
            self._asked.popitem(last=False)

    def push(self, nursery: trio.Nursery, member: int, data: bytes) -> bool:
        """Begin to open a batch. False: dropped, its sender has too many under way; Fetch repairs."""
        if self._busy.get(member, 0) >= BATCHES_OPENING_MAX:
            return False
        self._busy[member] = self._busy.get(member, 0) + 1
        nursery.start_soon(self._open, member, data)
        return True

    async def _open(self, member: int, data: bytes) -> None:
        batch: HeldBatch | None = None
        try:
            batch = await self._judge(data)
        except Refused as error:
            self.on_fault(member, error)
        finally:
            if batch is None:
                self._busy[member] -= 1
        if batch is not None:
            self.ready.append((member, batch))
            self.ring()

    async def _judge(self, data: bytes) -> HeldBatch | None:
        """The opened batch; None when it is held or final already. Raises Refused."""
        is_long = len(data) > VERIFY_THREAD_BYTES
        naming = partial(_named, data)
        digest, raws = await trio.to_thread.run_sync(naming) if is_long else naming()
        was_asked = digest in self._asked
        if digest in self.mempool.batches or (not was_asked and self.store.batch(digest) is not None):
            return None
        # The thread only reads the known transactions, one by one.
        opening = partial(open_txs, data, digest, raws, self.mempool.chain_id, self.mempool.known.verify)
        batch = await trio.to_thread.run_sync(opening) if is_long else opening()
        if batch.is_spoiled and digest not in self._asked:
            raise Refused("batch.entries", f"{batch.count - len(batch.txs)} are no signed transactions")
        return batch

    def take(self) -> tuple[int, HeldBatch] | None:
        """The next opened batch with who brought it."""
        if not self.ready:
            return None
        member, batch = self.ready.popleft()
        self._busy[member] -= 1
        self._asked.pop(batch.digest, None)
        return member, batch

    def answer(self, member: int, digest: bytes, now_ms: int) -> bytes | None:
        """The batch that a validator asks for; None when it is not here or it asked too often."""
        since_ms, count = self._answers.get(member, (now_ms, 0))
        if now_ms - since_ms >= FETCH_ANSWERS_MS:
            since_ms, count = now_ms, 0
        if count >= FETCH_ANSWERS_MAX:
            return None
        data = self.bytes_of(digest)
        if data is not None:
            self._answers[member] = (since_ms, count + 1)
        return data

    def block(self, header: Header) -> tuple[list[bytes], list[VerifiedTx] | None]:
        """The batches of a block, and, when all are in the mempool, their signed transactions in order, which
        need not be decoded again. Raises LocalError when one is not here."""
        batches = [self.bytes_of(digest) for digest in header.batches]
        present = [data for data in batches if data is not None]
        if len(present) != len(batches):
            raise LocalError(f"block {header.height} is to be committed, but a batch of it is not held")
        held = [self.mempool.batches.get(digest) for digest in header.batches]
        opened = [batch for batch in held if batch is not None]
        if len(opened) != len(held):
            return present, None
        return present, [tx for batch in opened for tx in batch.txs]

    def bytes_of(self, digest: bytes) -> bytes | None:
        """A batch that is held or final."""
        held = self.mempool.batches.get(digest)
        return held.data if held else self.store.batch(digest)


def _named(data: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    """A batch's digest and entries. Raises Refused for bytes that are no batch."""
    raws = decode_batch(data).txs
    return txs_digest(raws), raws
