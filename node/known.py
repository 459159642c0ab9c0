"""Transactions whose signature was checked here, so that it is checked once. Bounded in number and bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ledger.errors import Refused
from ledger.transactions import CheckedTx, VerifiedTx, decode_tx, verified
from node.limits import VERIFIED_BYTES_MAX, VERIFIED_MAX


def verify_many(
    raws: Sequence[bytes], chain_id: str, verify: Callable[[CheckedTx], VerifiedTx]
) -> list[VerifiedTx]:
    """Those that are transactions of this chain, signed by their senders. May run in a thread."""
    found: list[VerifiedTx] = []
    for raw in raws:
        try:
            found.append(verify(decode_tx(raw, chain_id)))
        except Refused:
            continue
    return found


@dataclass(slots=True)
class KnownTxs:
    """The newest checked transactions by id. Another task may read `txs` from a thread, never write."""

    txs: OrderedDict[bytes, VerifiedTx] = field(default_factory=OrderedDict)
    size_bytes: int = 0

    def verify(self, checked: CheckedTx) -> VerifiedTx:
        """The transaction, its signature checked now or before. Raises Refused("tx.signature").

        An id does not cover the signature: only the same bytes are known, never a copy with another one.
        """
        before = self.txs.get(checked.id)
        return before if before is not None and before.raw == checked.raw else verified(checked)

    def remember(self, tx: VerifiedTx) -> VerifiedTx:
        """Keep a checked transaction; the oldest ones go at the bound."""
        self.forget(tx.id)
        self.txs[tx.id] = tx
        self.size_bytes += len(tx.raw)
        while len(self.txs) > VERIFIED_MAX or self.size_bytes > VERIFIED_BYTES_MAX:
            _, oldest = self.txs.popitem(last=False)
            self.size_bytes -= len(oldest.raw)
        return tx

    def forget(self, id_: bytes) -> None:
        """It is final, or not wanted any more."""
        before = self.txs.pop(id_, None)
        if before is not None:
            self.size_bytes -= len(before.raw)
