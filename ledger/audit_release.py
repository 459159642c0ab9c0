"""Results that are held back: those on record, released when who may had signed for exactly them."""

from __future__ import annotations

from ledger.audit_ballots import ballot_of
from ledger.audit_file import Case
from ledger.audit_report import Facts
from ledger.errors import Refused
from ledger.limits import RELEASE_MS_MAX, TIME_MS_MAX
from ledger.results import results_digest
from ledger.transactions import Decide


def check_release(case: Case, facts: Facts) -> str:
    """[Y5] [Y7] [Y9] The digest is that of the recorded results, and they were released exactly when the
    policy was satisfied first by who signed for it."""
    record, manifest = case.records.deployment, case.manifest
    if manifest.policies.release is None:
        if record.results or record.released_ms:
            raise Refused("audit.results", "results are held back, and no policy asks for it", "deployment")
        return "not asked"
    found = results_digest(case.deployment, record.manifest, manifest, case.records.slots)
    late = bool(record.ended_ms) and case.anchor.time_ms >= record.ended_ms + RELEASE_MS_MAX
    gone = not record.released_ms and (late or (record.ended_ms and record.status != "completed"))
    if record.results != found and not (gone and not record.results):
        raise Refused("audit.results", "their digest is not that of the recorded results", "deployment")
    ballot, number = ballot_of(case, "release", record.generation), 0
    begun_ms = case.records.updates[record.generation].ended_ms if record.generation else case.order.time_ms
    for tx in case.life:
        if tx.time_ms >= begun_ms:
            ballot.follow(tx.time_ms, tx.height)
        if isinstance(tx.body, Decide) and tx.document:
            predicate = tx.document.predicate
            if (predicate.act, predicate.update) == ("release", record.generation):
                ballot.cast(tx.document.signer, predicate, tx.time_ms, number)
            number += 1
    until_ms = min(case.anchor.time_ms, record.ended_ms + RELEASE_MS_MAX if record.ended_ms else TIME_MS_MAX)
    ballot.follow(until_ms, case.anchor.state_height)
    if not (gone and not ballot.met_ms) and not ballot.fits(record.released_ms, until_ms):
        raise Refused(
            "audit.release_time", f"the policy was satisfied first at {ballot.met_ms}", "released_ms"
        )
    facts.results, facts.released_ms = found.hex(), record.released_ms
    return "released" if record.released_ms else "withheld" if gone else "held back"
