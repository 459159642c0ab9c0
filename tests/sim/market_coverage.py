"""How often each rule of trade fired in a run of the market, by the ledger's events and refusals. As
`tests.sim.coverage` for consensus: a rule that never fires in the simulator is one that it does not test."""

from __future__ import annotations

from collections import Counter
from typing import Final

from tests.sim.market_chain import Final as FinalBlock

# What each numbered rule of docs/spec.md looks like from outside: the event that tells of it.
EVENTS: Final = {
    "A5 approved": "deployment.approved",
    "A5 suspended": "deployment.suspended",
    "A6 signed off": "deployment.signed_off",
    "C7 selected": "slot.claimed",
    "C13 copies recorded": "slot.copied",
    "D7 cancelled": "deployment.cancelled",
    "D10 extended": "deployment.extended",
    "D11 topped up": "deployment.topped_up",
    "E3 fee": "deployment.fee_paid",
    "E5 penalty": "lease.penalty",
    "F6 left": "node.left",
    "L1 renewed": "lease.renewed",
    "L3 lost": "slot.lost",
    "N1 founded": "organisation.founded",
    "N2 changed": "organisation.changed",
    "N3 rotated": "organisation.rotated",
    "R5 failed": "deployment.failed",
    "R8 agreed": "job.agreed",
    "S2 released": "slot.released",
    "U1 asked": "update.asked",
    "U3 approved": "update.approved",
    "U3 rejected": "update.rejected",
    "U4 cancelled": "update.cancelled",
    "U5 changed over": "slot.switched",
    "U6 held": "update.held",
    "U6 resumed": "update.resumed",
    "U8 reverted": "update.reverted",
    "U9 done": "update.done",
    "Y1 committed": "slot.committed",
    "Y2 enough committed": "job.enough_committed",
    "Y2 time to tell": "job.reveals",
    "Y3 odd one out": "slot.disagrees",
    "Y3 silent": "slot.silent",
    "Y6 held back": "results.held",
    "Y7 released": "results.released",
}
# What refuses those who try it all the same.
REFUSALS: Final = (
    "approval.closed",
    "approval.duplicate",
    "approval.manifest_mismatch",
    "approval.not_a_stakeholder",
    "approval.other_results",
    "approval.other_update",
    "approval.wrong_role",
    "cancel.not_approved",
    "copies.not_holder",
    "organisation.no_quorum",
    "report.commitment",
    "update.amount",
    "update.not_yours",
    "update.pending",
    "update.stale",
)
# What checkers and nodes count themselves.
COUNTED: Final = (
    "C11 goes on elsewhere",
    "C11 waits to be home",
    "C15 copied in time",
    "C15 late, and said so",
    "C16 last copy",
    "C16 moved with all of it",
    "C18 copy restored",
    "R8 none agree",
    "U7 kept its term",
    "Y7 handed out",
    "Y8 taken back",
)
RULES: Final = (*EVENTS, *COUNTED, *(f"refusal {name}" for name in REFUSALS))
_KINDS: Final = {kind: rule for rule, kind in EVENTS.items()}


def fired(counts: Counter[str], block: FinalBlock) -> None:
    """Add a block to the counts."""
    for event in block.result.events:
        if event.kind in _KINDS:
            counts[_KINDS[event.kind]] += 1
    for receipt in block.result.receipts:
        if not receipt.ok:
            counts[f"refusal {receipt.rule}"] += 1
