"""Decisions and what they allowed: approvals before and during work, sign-off after it."""

from __future__ import annotations

from typing import Final

from ledger.audit_file import Case, Placed
from ledger.audit_report import Facts
from ledger.errors import Refused
from ledger.policy import Approval, Decision, approval_expiry, evaluate, excluded_signers
from ledger.predicates import ApprovalPredicate
from ledger.transactions import Claim, Decide, Report

_ACTS: Final = ("deploy", "signoff")
_WORK: Final = ("fetching", "verified", "running", "succeeded")  # receipts that need a standing approval


class _Ballot:
    """The decisions of one act so far, evaluated as the state machine does ([A2] to [A5])."""

    def __init__(self, case: Case, act: str) -> None:
        manifest = case.manifest
        self.manifest = manifest
        self.rule = manifest.policies.deploy if act == "deploy" else manifest.policies.signoff
        consumer = bytes.fromhex(manifest.consumer)
        self.excluded = excluded_signers(manifest.policies, bytes.fromhex(manifest.author), consumer)
        self.approvals: dict[bytes, Approval] = {}

    def cast(self, signer: bytes, predicate: ApprovalPredicate, time_ms: int) -> Approval:
        """Replace the signer's former decision."""
        expires_ms = approval_expiry(self.manifest.policies, time_ms, predicate.expires_ms)
        approval = Approval(signer, (predicate.role,), predicate.decision, expires_ms, time_ms)
        self.approvals[signer] = approval
        return approval

    def at(self, time_ms: int) -> Decision:
        """The policy's decision at a time."""
        return evaluate(self.rule, self.manifest.roles, self.approvals.values(), time_ms, self.excluded)


def check_approvals(case: Case, facts: Facts) -> str:
    """Each decision is about this manifest, was accepted, none is missing; work only while approved."""
    ballots = {act: _Ballot(case, act) for act in _ACTS}
    last: dict[tuple[str, bytes], tuple[Placed, int]] = {}
    approved_ms = case.order.time_ms if ballots["deploy"].rule is None else 0
    for tx in case.placed:
        if isinstance(tx.body, Decide):
            predicate = _decision(case, tx)
            assert tx.document is not None
            ballot = ballots[predicate.act]
            approval = ballot.cast(tx.document.signer, predicate, tx.time_ms)
            last[predicate.act, tx.document.signer] = tx, approval.expires_ms
            facts.decisions[predicate.act] = ballot.at(tx.time_ms)
            if predicate.act == "deploy" and not approved_ms and ballot.at(tx.time_ms).satisfied:
                approved_ms = tx.time_ms
        elif _needs_approval(tx) and not ballots["deploy"].at(tx.time_ms).satisfied:
            raise Refused("audit.not_approved", f"work at height {tx.height} without approval", "txs")
    if approved_ms != case.records.deployment.approved_ms:
        raise Refused(
            "audit.approved_time", f"the policy was satisfied first at {approved_ms}", "approved_ms"
        )
    for key, record in case.records.approvals.items():
        _same_decision(record, last.pop(key, None))
    if last:
        raise Refused("audit.not_a_stakeholder", "a decision by a key that holds no role", "approvals")
    count = sum(isinstance(tx.body, Decide) for tx in case.placed)
    if count != case.records.deployment.decisions:
        wanted = case.records.deployment.decisions
        raise Refused("audit.incomplete", f"{count} decisions, the record counts {wanted}", "approvals")
    facts.approved_ms = approved_ms
    for act, ballot in ballots.items():
        facts.decisions.setdefault(act, ballot.at(case.anchor.time_ms))
    state = "approved" if approved_ms else "; ".join(facts.decisions["deploy"].reasons)
    keys = {signer for (_, signer), record in case.records.approvals.items() if record}
    return f"{count} decisions by {len(keys)} keys: {state}"


def _needs_approval(tx: Placed) -> bool:
    if isinstance(tx.body, Claim):
        return True
    return isinstance(tx.body, Report) and tx.document is not None and tx.document.predicate.status in _WORK


def _decision(case: Case, tx: Placed) -> ApprovalPredicate:
    document = tx.document
    assert document is not None
    predicate = document.predicate
    assert isinstance(predicate, ApprovalPredicate)
    if (predicate.chain_id, predicate.deployment) != (case.chain_id, case.deployment.hex()):
        raise Refused("audit.foreign", "an approval of another deployment", "approvals")
    if document.subject != case.records.deployment.manifest:
        raise Refused("audit.foreign", "an approval of another manifest", "approvals")
    if not case.records.documents[document.id]:
        raise Refused(
            "audit.not_accepted", f"approval {document.id.hex()[:10]} was never accepted", "approvals"
        )
    return predicate


def _same_decision(record: object, found: tuple[Placed, int] | None) -> None:
    """The recorded decision of a key is the last that the file shows of it, or both are absent."""
    shown = None
    if found is not None and found[0].document is not None:
        tx, expires_ms = found
        document = found[0].document
        predicate = document.predicate
        shown = (document.id, predicate.decision, predicate.role, tx.height, tx.time_ms, expires_ms)
    names = ("document", "decision", "role", "height", "time_ms", "expires_ms")
    recorded = None if record is None else tuple(getattr(record, name) for name in names)
    if shown != recorded:
        raise Refused(
            "audit.approval_record", "a decision is missing or differs from its record", "approvals"
        )


def check_signoff(case: Case, facts: Facts) -> str:
    """[A6] Signed off exactly when the policy was satisfied first."""
    record, ballot = case.records.deployment, _Ballot(case, "signoff")
    satisfied_ms = 0
    for tx in case.placed:
        if isinstance(tx.body, Decide) and tx.document and tx.document.predicate.act == "signoff":
            ballot.cast(tx.document.signer, tx.document.predicate, tx.time_ms)
            if not satisfied_ms and ballot.at(tx.time_ms).satisfied:
                satisfied_ms = tx.time_ms
    if ballot.rule is None:  # a finished job is signed off by itself
        satisfied_ms = record.signed_off_ms if record.signed_off_ms == record.ended_ms else 0
    if satisfied_ms != record.signed_off_ms:
        raise Refused(
            "audit.signoff_time", f"the policy was satisfied first at {satisfied_ms}", "signed_off_ms"
        )
    facts.signed_off_ms = satisfied_ms
    return "signed off" if satisfied_ms else "not signed off"
