"""Claims under way: when each was sent, and what became of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ledger.outcome import Receipt
from ledger.records import Slot
from node.executor.decide import SlotId
from node.executor.lease import LeaseClock, LedgerTime
from node.executor.sender import Signed

Result = Literal["pending", "won", "lost", "refused", "expired"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One claim. `sent_ms`: boot clock before it was sent, from which its lease counts; `ledger_ms`: what
    ledger time was then, as far as this node could tell."""

    term: int
    tx: bytes
    expires: int
    sent_ms: int
    ledger_ms: int = 0

    def lease(self, claimed_ms: int) -> LeaseClock:
        """The lease that it won; `claimed_ms`: the time of the block that gave it."""
        return LeaseClock.claimed(self.sent_ms, LedgerTime.behind_ms(self.ledger_ms, claimed_ms))

    def outcome(self, slot: Slot | None, me: bytes, receipt: Receipt | None, height: int) -> Result:
        """What the state at `height` says. `receipt`: of the claim's transaction when it is final."""
        if slot is None:
            return "lost"
        if slot.term == self.term and slot.holder == me:
            return "won"
        if slot.term >= self.term:
            return "lost"
        if receipt is not None and not receipt.ok:
            return "refused"
        if receipt is not None and not slot.window_closes_ms:
            return "lost"  # the window closed without a winner
        if receipt is None and height > self.expires:
            return "expired"
        return "pending"


@dataclass(slots=True)
class Attempts:
    """At most one claim for each slot."""

    _by_slot: dict[SlotId, Attempt] = field(default_factory=dict)

    def __contains__(self, slot_id: SlotId) -> bool:
        return slot_id in self._by_slot

    def __len__(self) -> int:
        return len(self._by_slot)

    def items(self) -> list[tuple[SlotId, Attempt]]:
        """A snapshot."""
        return list(self._by_slot.items())

    def note(self, slot_id: SlotId, term: int, signed: Signed, sent_ms: int, ledger_ms: int = 0) -> None:
        """A claim is about to be sent."""
        self._by_slot[slot_id] = Attempt(term, signed.id, signed.expires, sent_ms, ledger_ms)

    def forget(self, slot_id: SlotId) -> None:
        """It was decided, or never sent."""
        self._by_slot.pop(slot_id, None)
