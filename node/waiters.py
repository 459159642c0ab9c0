"""Who waits here for which transaction: each is told once, from the block itself, when it is committed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from node.limits import OVERLOAD_RETRY_S, WAITERS_MAX
from node.notary import Committed
from node.seam import Overloaded, TxOutcome

Told = Callable[[TxOutcome], None]


@dataclass(slots=True)
class Waiters:
    """See the module. Bounded in all; `told` is called while a block is committed, so it only notes."""

    count: int = 0
    _by_id: dict[bytes, list[Told]] = field(default_factory=dict)

    def room(self, wanted: int) -> bool:
        """May so many more wait?"""
        return self.count + wanted <= WAITERS_MAX

    def add(self, id_: bytes, told: Told) -> None:
        """Call `told` when the transaction is final. Raises Overloaded at the bound."""
        if not self.room(1):
            raise Overloaded(OVERLOAD_RETRY_S)
        self._by_id.setdefault(id_, []).append(told)
        self.count += 1

    def remove(self, id_: bytes, told: Told) -> None:
        """It does not wait any more. Nothing happens when it does not."""
        waiting = self._by_id.get(id_)
        if waiting is None or told not in waiting:
            return
        waiting.remove(told)
        self.count -= 1
        if not waiting:
            del self._by_id[id_]

    def committed(self, done: Committed) -> None:
        """Tell those who wait for a transaction of this block."""
        if not self._by_id:
            return
        header = done.header
        for receipt, entry in zip(done.result.receipts, done.entries, strict=True):
            waiting = self._by_id.pop(receipt.id, None)
            if waiting is None:
                continue
            self.count -= len(waiting)
            outcome = TxOutcome(header.height, entry.index, header.time_ms, receipt)
            for told in waiting:
                told(outcome)

    def ids(self) -> Iterable[bytes]:
        """Whose end is waited for."""
        return self._by_id.keys()
