"""Block time that nobody had: gaps between blocks.

[O1] When a block comes more than OUTAGE_MS after its parent, what goes beyond BLOCK_IDLE_MS is missed
     time. Held slots are not billed for it, a deployment's end, its wait for approval and the time that
     replicas have to tell their results move by as much, and a lease that ended because of it is not
     counted as broken. So no outage of the notary ends a deployment, or costs anybody money. (Leases end
     all the same: their holders could not renew them, and have stopped, but for what is `available` (L4).
     Approvals expire by the clock: that is what their signers set.)
"""

from __future__ import annotations

from ledger.limits import BLOCK_IDLE_MS, OUTAGE_MS
from ledger.outcome import Event
from ledger.state import Overlay, Reader, read, write
from ledger.trade_records import KEY_MISSED, Missed


def missed_ms(state: Reader) -> int:
    """All missed time so far, in ms. It only grows."""
    found = read(state, Missed, KEY_MISSED)
    return 0 if found is None else found.total_ms


def note_gap(state: Overlay, time_ms: int, parent_ms: int) -> list[Event]:
    """[O1] Before anything else of a block runs: add what was missed since its parent; an event if so."""
    gap_ms = time_ms - parent_ms
    if gap_ms <= OUTAGE_MS:
        return []
    missed = gap_ms - BLOCK_IDLE_MS
    write(state, KEY_MISSED, Missed(missed_ms(state) + missed))
    return [Event("notary.outage", "", {"missed_ms": missed, "since_ms": parent_ms})]
