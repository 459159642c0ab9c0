"""Replicas that must agree: what they committed to, what they told, and who was paid for it."""

from __future__ import annotations

from ledger.audit_file import Case
from ledger.commitments import commitment_of
from ledger.errors import Refused
from ledger.predicates import ReceiptPredicate
from ledger.results import agreeing
from ledger.transactions import Report


def check_agreement(case: Case) -> str:
    """[R8] [Y1] [Y3] [Y4] Replicas committed before any of them told, and told that; only those that agree
    are paid."""
    withheld = sum(bill.withheld for bill in case.records.bills.values())
    record, compared = case.records.deployment, 0
    if withheld != record.withheld or (record.ended_ms and withheld):
        raise Refused("audit.withheld", f"{record.withheld}, the bills say {withheld}", "deployment")
    for workload in case.manifest.workloads:
        if not workload.agree:
            continue
        _commitments(case, workload.name)
        slots = {
            name: slot for name, slot in case.records.slots.items() if name.startswith(f"{workload.name}/")
        }
        winners = {slot.name for slot in agreeing(workload, slots)}
        told = [slot for slot in slots.values() if slot.status == "succeeded"]
        if record.status == "completed" and not record.reason and not winners:
            raise Refused(
                "audit.agreement", f"{workload.name}: completed, and no {workload.agree} agree", "slots"
            )
        for slot in told if winners and all(slot.status != "committed" for slot in slots.values()) else ():
            bill = case.records.bills.get((slot.name, slot.term))
            if slot.name not in winners and bill is not None and bill.amount:
                raise Refused("audit.agreement", f"{slot.name} disagrees, and was paid", "bills")
        compared += bool(winners)
    return f"{compared} jobs whose replicas agree"


def _commitments(case: Case, name: str) -> None:
    """[Y1] [Y2]"""
    bound: dict[tuple[str, int], bytes] = {}
    told = False
    for tx in case.life:
        if not isinstance(tx.body, Report) or tx.document is None:
            continue
        said = tx.document.predicate
        assert isinstance(said, ReceiptPredicate)
        if said.slot.partition("/")[0] != name:
            continue
        if said.status == "committed":
            if told:
                raise Refused("audit.agreement", f"{said.slot} committed after others had told", "receipts")
            bound[said.slot, said.term] = bytes.fromhex(said.commitment)
        elif said.status == "succeeded":
            told = True
            results = {path: found.sha256 for path, found in said.results.items()}
            nonce, place = bytes.fromhex(said.nonce), (said.slot, said.term)
            opened = commitment_of(case.chain_id, case.deployment, *place, tx.sender, nonce, results)
            if bound.get(place) != opened:
                raise Refused("audit.agreement", f"{said.slot} told what it had not committed to", "receipts")
