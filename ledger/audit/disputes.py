"""Disputes of a deployment: each as its opener signed it, none left out."""

from __future__ import annotations

from msgspec.structs import replace

from ledger.audit.file import Case
from ledger.audit.report import DisputeRow, Facts
from ledger.errors import Refused
from ledger.trade_records import Dispute
from ledger.transactions import CloseDispute, OpenDispute


def check_disputes(case: Case, facts: Facts) -> str:
    """[D12] What the records say follows from the transactions, in their order."""
    found: list[Dispute] = []
    for tx in case.placed:
        body = tx.body
        if not isinstance(body, OpenDispute | CloseDispute):
            continue
        if body.deployment != case.deployment:
            raise Refused("audit.foreign", "a dispute about another deployment", "txs")
        if isinstance(body, OpenDispute):
            at_ms = tx.time_ms
            found.append(Dispute(len(found), tx.sender, body.slot, body.term, body.says, at_ms, 0, ""))
            continue
        if not 0 <= body.number < len(found) or found[body.number].opener != tx.sender:
            raise Refused("audit.disputes", "closed by another than its opener", "disputes")
        found[body.number] = replace(found[body.number], closed_ms=tx.time_ms, closing=body.says)
    if found != case.records.disputes:
        raise Refused("audit.disputes", "the records differ from what was signed", "disputes")
    for dispute in found:
        about = f"{dispute.slot} term {dispute.term}" if dispute.slot else "the deployment"
        opener, times = dispute.opener.hex(), (dispute.opened_ms, dispute.closed_ms)
        facts.disputes.append(DisputeRow(opener, about, dispute.says, *times, dispute.closing))
    still = sum(not dispute.closed_ms for dispute in found)
    return f"{len(found)} disputes, {still} open"
