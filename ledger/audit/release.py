"""Results that are held back: those on record, released when who may had signed for exactly them."""

from __future__ import annotations

from ledger.audit.ballots import Ballot, ballot_of
from ledger.audit.file import Case
from ledger.audit.report import Facts
from ledger.errors import Refused
from ledger.limits import RELEASE_MS_MAX, TIME_MS_MAX
from ledger.predicates import ApprovalPredicate
from ledger.results import results_digest
from ledger.transactions import Decide


def check_release(case: Case, facts: Facts) -> str:
    """[Y5] [Y7] [Y8] [Y9] The digest is that of the recorded results, and they were released exactly when the
    policy was satisfied first by who signed for it."""
    record, manifest = case.records.deployment, case.manifest
    if manifest.policies.release is None:
        if record.results or record.released_ms:
            raise Refused("audit.results", "results are held back, and no policy asks for it", "deployment")
        return "not asked"
    found = results_digest(case.deployment, record.manifest, manifest, case.records.slots)
    late = bool(record.ended_ms) and case.anchor.time_ms >= record.ended_ms + RELEASE_MS_MAX
    gone = not record.released_ms and (late or (record.ended_ms and record.status != "completed"))
    if record.results != found and not (not record.results and (gone or _not_yet(case))):
        raise Refused("audit.results", "their digest is not that of the recorded results", "deployment")
    until_ms = min(case.anchor.time_ms, record.ended_ms + RELEASE_MS_MAX if record.ended_ms else TIME_MS_MAX)
    ballot = _ballot(case, until_ms)
    fits = not record.released_ms
    if record.results:
        fits = ballot.fits(record.released_ms, until_ms, stood_still=case.stood_still)
    if not (gone and not ballot.met_ms) and not fits:
        raise Refused(
            "audit.release_time", f"the policy was satisfied first at {ballot.met_ms}", "released_ms"
        )
    facts.results, facts.released_ms = record.results.hex() or found.hex(), record.released_ms
    facts.decisions["release"] = ballot.at(until_ms)
    return "released" if record.released_ms else "withheld" if gone else "held back"


def _not_yet(case: Case) -> bool:
    """[Y6] [Y8] Whether an update rolls, or results are compared still: none are on record then."""
    rolls = any(update.approved_ms and not update.ended_ms for update in case.records.updates.values())
    slots = case.records.slots.values()
    return rolls or bool(case.records.deployment.withheld) or any(x.status == "committed" for x in slots)


def _ballot(case: Case, until_ms: int) -> Ballot:
    """[Y7] [Y8] Of the results on record: by decisions on exactly these, judged anew after the last update
    that had them taken back and came to nothing."""
    record, updates = case.records.deployment, case.records.updates
    begun_ms = updates[record.generation].ended_ms if record.generation else case.order.time_ms
    vain = [x.ended_ms for x in updates.values() if x.number > record.generation and x.approved_ms]
    back_ms = max(vain, default=0)
    ballot, number = ballot_of(case, "release", record.generation), 0
    for tx in case.life:
        if back_ms and tx.time_ms > back_ms:
            ballot.follow(back_ms, tx.height)
            ballot.restart(back_ms)
            back_ms = 0
        if tx.time_ms >= begun_ms:
            ballot.follow(tx.time_ms, tx.height)
        if isinstance(tx.body, Decide) and tx.document:
            predicate = tx.document.predicate
            mine = (predicate.act, predicate.update) == ("release", record.generation)
            if mine and predicate.released == record.results.hex():
                ballot.cast(tx.document.signer, predicate, tx.time_ms, number)
            number += 1
    if back_ms:
        ballot.follow(back_ms, case.anchor.state_height)
        ballot.restart(back_ms)
    ballot.follow(until_ms, case.anchor.state_height)
    return ballot


def check_released(case: Case, predicate: ApprovalPredicate, time_ms: int) -> None:
    """[A9] A decision on a release is about the results on record, unless an update took them back since."""
    results = case.records.deployment.results
    if predicate.act != "release" or not results or predicate.released == results.hex():
        return
    if not any(update.approved_ms >= time_ms for update in case.records.updates.values()):
        raise Refused("audit.foreign", "a release of other results", "approvals")
