"""Transactions whose signature was checked here, so that it is checked once. Bounded in number and bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ledger.errors import Refused
from ledger.transactions import CheckedTx, VerifiedTx, verified
from node.limits import VERIFIED_BYTES_MAX, VERIFIED_MAX
from node.seam import Overloaded


def verify_many(
    found: Sequence[CheckedTx | Refused | Overloaded], verify: Callable[[CheckedTx], VerifiedTx]
) -> list[VerifiedTx | Refused | Overloaded]:
    """Each with its signature checked, or why not; refusals stay as they are. May run in a thread."""
    judged: list[VerifiedTx | Refused | Overloaded] = []
    for one in found:
        try:
            judged.append(verify(one) if isinstance(one, CheckedTx) else one)
        except Refused as error:
            judged.append(error)
    return judged


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
