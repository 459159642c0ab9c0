"""What a node proves for itself before it hands out results that it holds back.

As for a claim (`node.executor.verify`): order, contract and manifest; then that the results on record are
those of the slots, and that the release policy was satisfied, by documents signed for exactly these, when the
ledger says it was. Nobody decides after that, so what expired since does not matter. Pure.
"""

from __future__ import annotations

from ledger.codec import decode
from ledger.documents import open_document
from ledger.errors import Refused
from ledger.manifests.types import Manifest
from ledger.policies.decision import Approval, approval_expiry, judge
from ledger.policies.records import about_of, capacities
from ledger.records import ApprovalRecord, Deployment, Slot, key_approval, key_slot
from ledger.results import results_digest
from ledger.state import read
from node.executor.verify import Case, Verdict, approval_problem, proved, roll_in


def verify_release(case: Case) -> Verdict:
    """The verdict. Never raises for what a state or document holds."""
    try:
        record, manifest, update = proved(case)
        return _check_release(case, record, manifest, 0 if update is None else update.number)
    except Refused as error:
        return Verdict(False, (f"{error.rule}: {error.detail}"[:300],))


def _check_release(case: Case, record: Deployment, manifest: Manifest, generation: int) -> Verdict:
    if manifest.policies.release is None:
        raise Refused("verify.release", "the contract in force releases nothing")
    slots = {name: read(case.state, Slot, key_slot(case.deployment, name)) for name in record.slots}
    known = {name: slot for name, slot in slots.items() if slot is not None}
    digest = results_digest(case.deployment, record.manifest, manifest, known)
    if not digest or digest != record.results:
        raise Refused("verify.release", "the results on record are not those of the slots")
    if not 0 < record.released_ms <= case.now_ms:
        raise Refused("verify.release", "they are not released")
    roll = roll_in(case, manifest)
    prefix = key_approval(case.deployment, "release", b"", generation)
    approvals: list[Approval] = []
    documents: dict[bytes, bytes] = {}
    for key, data in list(case.state.scan(prefix)):
        found, signer = decode(ApprovalRecord, data), key[len(prefix) :]
        document = open_document(found.envelope, "approval")
        predicate = document.predicate
        problem = approval_problem(case, manifest, found, document, signer, generation, ("release",))
        if not problem and found.results.hex() != predicate.released:
            problem = "the record names other results than the document"
        if problem:
            raise Refused("verify.approval", f"of {signer.hex()[:16]}: {problem}")
        held = roll.is_held(predicate.role) or predicate.role in capacities(manifest, roll, "release", signer)
        if not held or predicate.released != digest.hex():
            continue  # of results before an update
        approvals.append(
            Approval(
                signer,
                (predicate.role,),
                predicate.decision,
                approval_expiry(manifest.policies, found.time_ms, predicate.expires_ms),
                found.time_ms,
                found.since_ms,
                found.number,
                found.seat,
            )
        )
        documents[signer] = document.id
    about = about_of(manifest, record)
    decision = judge(manifest.policies, "release", roll, approvals, record.released_ms, about)
    used = sorted({documents[signer].hex() for _, signer in decision.used})
    return Verdict(decision.satisfied, decision.reasons, tuple(used), manifest)
