"""Receipts: a holder's signed statements about its slot.

[R1] A receipt is signed by the holder's node key, which also sends it, and names this chain, deployment,
     manifest, contract, slot and term.
[R2] Statuses go fetching, verified, running, then succeeded (jobs only; where replicas must agree, committed
     comes before it, Y1); failed, quarantined and released may follow any of them but those. `running` may be
     repeated: it tells of re-checks.
[R3] `running` names an endpoint for each port, `succeeded` all results that the workload declares.
[R4] After failed, quarantined, released and succeeded nothing of the slot runs: billed and freed at once.
[R5] A failed or quarantined slot opens again until its attempts exceed what the workload allows; then the
     deployment has failed.
[R6] Of a slot that the ledger released, only the stop may be reported.
[R7] How each term ended is counted for its node: kept (succeeded, or stopped when the ledger asked),
     failed, quarantined, given up (released unasked). ledger.reputation makes a number of it.
"""

from __future__ import annotations

from typing import Final

from ledger.commitments import commitment_of
from ledger.documents import Document, open_document
from ledger.errors import Refused
from ledger.limits import ADDRESS_CHARS_MAX, DETAIL_CHARS_MAX, RECEIPTS_PER_TERM_MAX
from ledger.manifests.types import Workload
from ledger.predicates import ReceiptPredicate
from ledger.receipts import unstated
from ledger.records import ReceiptRecord, Slot, key_receipt
from ledger.transactions import Report
from ledger.transition.agreement import committed, revealed
from ledger.transition.deal import ENDED, RUNS, Deal
from ledger.transition.env import Env
from ledger.transition.escrow import bill
from ledger.transition.lifecycle import complete_jobs, end, first_run
from ledger.transition.results import note_results
from ledger.transition.rollout import advance, slot_failed
from ledger.transition.slots import count_term, free_slot, reopen_slot
from ledger.transition.withheld import agreement_of, take_back

_STOPS: Final = ("failed", "quarantined", "released")
_NEXT: Final = {
    "claimed": ("fetching", *_STOPS),
    "fetching": ("verified", *_STOPS),
    "verified": ("running", *_STOPS),
    "running": ("running", "committed", "succeeded", *_STOPS),
    "committed": ("succeeded",),
    "released": _STOPS,
}
_COUNTED: Final = {
    "failed": "terms_failed",
    "quarantined": "terms_quarantined",
    "released": "terms_given_up",
}


def report(env: Env, body: Report) -> None:
    """[R1]–[R6] Raises Refused("document.…" | "report.…")."""
    document = open_document(body.envelope, "receipt")
    predicate = document.predicate
    deal, slot = _check_names(env, document)
    workload = deal.term_workload(slot)
    status = predicate.status
    ends = status in ("committed", "succeeded")
    if status not in _NEXT.get(slot.status, ()) or (ends and workload.kind != "job"):
        detail = f"the slot of a {workload.kind} does not go from {slot.status} to {status}"
        raise Refused("report.transition", detail, "status")
    if slot.receipts >= RECEIPTS_PER_TERM_MAX and status not in (*_STOPS, "committed", "succeeded"):
        raise Refused("report.too_many", f"at most {RECEIPTS_PER_TERM_MAX} in one term")
    _check_contents(workload, predicate, _told(deal, slot))
    _check_commitment(deal, slot, workload, predicate)
    record = ReceiptRecord(
        deal.id, slot.name, slot.term, env.sender, status, body.envelope, env.height, env.time_ms
    )
    env.write(key_receipt(deal.id, slot.name, slot.term, slot.receipts), record)
    deal.set_slot(slot.name, receipts=slot.receipts + 1, detail=predicate.detail[:DETAIL_CHARS_MAX])
    node, checks = env.sender.hex(), predicate.checks
    deal.emit(f"slot.{status}", slot=slot.name, term=slot.term, node=node, checks=checks)
    if slot.status == "released":
        _stopped(deal, slot.name)
    elif status == "committed":
        _committed(deal, slot.name, workload, predicate)
    elif status == "succeeded":
        _succeeded(deal, slot.name, workload, predicate)
    elif status in _STOPS:
        _gave_up(deal, slot.name, workload, predicate)
    elif status == "running":
        since_ms = slot.running_ms or env.time_ms
        deal.set_slot(slot.name, status="running", endpoints=predicate.endpoints, running_ms=since_ms)
        first_run(deal)
        advance(deal)
    else:
        # [C11] From now on it may write to its volumes.
        home = env.sender if status == "verified" and workload.volumes else slot.home
        deal.set_slot(slot.name, status=status, home=home)


def _check_names(env: Env, document: Document[ReceiptPredicate]) -> tuple[Deal, Slot]:
    """[R1]"""
    predicate = document.predicate
    if predicate.chain_id != env.chain_id:
        raise Refused("report.foreign_chain", f"chain {predicate.chain_id!r} is not ours", "chain_id")
    if document.signer != env.sender or predicate.node != env.sender.hex():
        raise Refused("report.signer", "signer, node and sender must be the same key", "node")
    deal = Deal.load(env, bytes.fromhex(predicate.deployment), "report.unknown_deployment")
    if predicate.slot not in deal.record.slots:
        raise Refused("report.unknown_slot", "the deployment has no such slot", "slot")
    slot = deal.slot(predicate.slot)
    if predicate.term != slot.term:
        raise Refused("report.stale_term", f"the slot is at term {slot.term}", "term")
    if env.sender != (slot.witness if slot.status == "committed" else slot.holder):
        raise Refused("report.not_holder", "the sender does not hold the slot", "slot")
    if document.subject != slot.manifest:
        raise Refused("report.manifest_mismatch", f"the term is of {slot.manifest.hex()}", "subject")
    contract = deal.side(slot.manifest)[0].contract
    if predicate.contract != contract:
        raise Refused("report.contract_mismatch", f"the contract is {contract}", "contract")
    return deal, slot


def _told(deal: Deal, slot: Slot) -> str:
    """The status that this term's holder told last, also where the ledger has released the slot since."""
    if slot.status != "released" or not slot.receipts:
        return slot.status
    key = key_receipt(deal.id, slot.name, slot.term, slot.receipts - 1)
    record = deal.env.read(ReceiptRecord, key)
    return slot.status if record is None else record.status


def _check_contents(workload: Workload, predicate: ReceiptPredicate, before: str) -> None:
    """[R3] [R9]"""
    lack = unstated(workload, predicate, before)
    if lack:
        raise Refused("report.incomplete", lack)
    if predicate.status == "running":
        wanted = {port.name for port in workload.ports}
        found = predicate.endpoints
        if set(found) != wanted or any(not 0 < len(at) <= ADDRESS_CHARS_MAX for at in found.values()):
            names = ", ".join(sorted(wanted)) or "none"
            raise Refused("report.endpoints", f"an address for exactly these ports: {names}", "endpoints")
    if predicate.status == "succeeded" and set(predicate.results) != set(workload.results):
        names = ", ".join(workload.results) or "none"
        raise Refused("report.results", f"exactly these results wanted: {names}", "results")


def _check_commitment(deal: Deal, slot: Slot, workload: Workload, predicate: ReceiptPredicate) -> None:
    """[Y1] [Y2]"""
    status, wanted = predicate.status, bool(workload.agree)
    if bool(predicate.commitment) != (status == "committed") or (status == "committed" and not wanted):
        raise Refused("report.commitment", "where replicas must agree, and there only, they commit", "status")
    if bool(predicate.nonce) != (status == "succeeded" and wanted):
        raise Refused("report.commitment", "what opens a commitment comes with the results", "nonce")
    if status == "committed" and predicate.results:
        raise Refused("report.commitment", "no results before all have committed", "results")
    if status != "succeeded" or not wanted:
        return
    found = agreement_of(deal, workload.name)
    if slot.status != "committed" or found is None or not found.reveals or deal.record.status in ENDED:
        raise Refused("report.commitment", "it is not the time to tell results", "status")
    results = {path: file.sha256 for path, file in predicate.results.items()}
    node, nonce = deal.env.sender, bytes.fromhex(predicate.nonce)
    told = commitment_of(deal.env.chain_id, deal.id, slot.name, slot.term, node, nonce, results)
    if told != slot.commitment:
        raise Refused("report.commitment", "these are not the results that were committed to", "results")


def _stopped(deal: Deal, name: str) -> None:
    """[R6] The ledger stopped it, the holder confirms; billed already."""
    count_term(deal, deal.env.sender, "terms_kept")
    free_slot(deal, name)
    reopen_slot(deal, name)


def _committed(deal: Deal, name: str, workload: Workload, predicate: ReceiptPredicate) -> None:
    """[Y1] Its term ends like any other; what it cost is withheld."""
    bill(deal, name, deal.env.time_ms)
    commitment, witness = bytes.fromhex(predicate.commitment), deal.env.sender
    deal.set_slot(name, status="committed", commitment=commitment, witness=witness)
    free_slot(deal, name)
    committed(deal, workload)


def _succeeded(deal: Deal, name: str, workload: Workload, predicate: ReceiptPredicate) -> None:
    results = {path: found.sha256 for path, found in sorted(predicate.results.items())}
    if workload.agree:
        deal.set_slot(name, status="succeeded", results=results)
        revealed(deal, workload)
        return
    bill(deal, name, deal.env.time_ms)
    deal.set_slot(name, status="succeeded", results=results)
    count_term(deal, deal.env.sender, "terms_kept")
    free_slot(deal, name)
    note_results(deal)
    advance(deal)
    if deal.record.status in RUNS:
        complete_jobs(deal)


def _gave_up(deal: Deal, name: str, workload: Workload, predicate: ReceiptPredicate) -> None:
    """[R4] [R5]"""
    bill(deal, name, deal.env.time_ms)
    take_back(deal, name)
    slot = deal.set_slot(name, status=predicate.status)
    count_term(deal, deal.env.sender, _COUNTED[predicate.status])
    free_slot(deal, name)
    if predicate.status != "released" and not slot_failed(deal, slot, predicate.detail):
        slot = deal.set_slot(name, attempts=slot.attempts + 1)
        if slot.attempts > workload.restart.attempts:
            end(deal, "failed", f"{name} {predicate.status} {slot.attempts} times")
            return
    reopen_slot(deal, name)
