"""Decisions and what they allowed: approvals before and during work, sign-off after it."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from ledger.audit_file import Case, Placed
from ledger.audit_organisations import Rolls, note_member
from ledger.audit_report import Facts
from ledger.errors import Refused
from ledger.policy import Approval, Decision, approval_expiry, judge, standing_since
from ledger.policy_records import about_of
from ledger.policy_types import ACTS
from ledger.predicates import ApprovalPredicate
from ledger.transactions import CancelDeployment, Claim, Decide, Report

_WORK: Final = ("fetching", "verified", "running", "succeeded")  # receipts that need a standing approval
_BEGUN: Final = ("running", "succeeded")  # those that may come while a deployment runs on without it
# Timed work is done by the first block that reaches it: what follows from it may be dated so much later.
_LATE_MS: Final = 60_000


class Ballot:
    """The decisions of one act so far, evaluated as the state machine does ([A2] to [A5]).

    `met_ms`: when the policy was satisfied first, `exact` when a transaction did it and not time alone.
    `lost_ms`: since when it is not satisfied any more; 0: it is, or never was. `turned_ms`: when members of
    an organisation were others last.
    """

    def __init__(self, case: Case, act: str, rolls: Rolls) -> None:
        self.act = act
        self._rolls = rolls
        self._turns = [turn for turn in rolls.turns if turn[0] >= case.order.height]
        self._turned_ms = 0
        self.roll = rolls.at(case.order.height)
        self.policies = case.manifest.policies
        self.rule = self.policies.of(act)
        self.approvals: dict[bytes, Approval] = {}
        self.met_ms = self.lost_ms = 0
        self.exact = False
        self._about = about_of(case.manifest, case.records.deployment)
        self._judge(case.order.time_ms, True)

    def cast(self, signer: bytes, predicate: ApprovalPredicate, time_ms: int, number: int) -> Approval:
        """Replace the signer's former decision; it is this one of the decisions on the deployment."""
        expires_ms = approval_expiry(self.policies, time_ms, predicate.expires_ms)
        seat = self.roll.seat(predicate.role, signer)
        approval = Approval(
            signer, (predicate.role,), predicate.decision, expires_ms, time_ms, number=number, seat=seat
        )
        since_ms = standing_since(self._former(signer), approval)
        self.approvals[signer] = approval = replace(approval, since_ms=since_ms)
        self._judge(time_ms, True)
        return approval

    def _former(self, signer: bytes) -> Approval | None:
        """[G10] The signer's decision before, by any of their keys, if it counts still."""
        known = [self.approvals[key] for key in self.roll.people.group(signer) if key in self.approvals]
        roll = self.roll
        mine = [x for x in known if x.signer == signer or roll.belongs(x.roles[0], x.signer, x.seat)]
        last = max(mine, key=lambda approval: approval.number, default=None)
        return last if last is not None and roll.counts(last.roles[0], last.signer, last.seat) else None

    def at(self, time_ms: int) -> Decision:
        """The policy's decision at a time."""
        given = self.approvals.values()
        return judge(self.policies, self.act, self.roll, given, time_ms, self._about)

    def follow(self, time_ms: int, height: int) -> None:
        """[N6] Let time pass up to a block: waits end, approvals expire, members come and go."""
        while self._turns and self._turns[0][0] < height and self._turns[0][1] <= time_ms:
            turn_height, turn_ms = self._turns.pop(0)
            self._pass(turn_ms)
            self.roll = self._rolls.at(turn_height + 1)
            self._turned_ms = turn_ms
            self._judge(turn_ms, False)
        self._pass(time_ms)

    def _pass(self, time_ms: int) -> None:
        while True:
            times = [approval.expires_ms for approval in self.approvals.values()]
            times = [time for time in (*times, self._next_ms) if self._time_ms < time <= time_ms]
            if not times:
                return
            self._judge(min(times), False)

    def _judge(self, time_ms: int, exact: bool) -> None:
        decision = self.at(time_ms)
        self._time_ms, self._next_ms = time_ms, decision.next_ms
        if decision.satisfied:
            self.lost_ms = 0
            if not self.met_ms:
                self.met_ms, self.exact = time_ms, exact
        elif self.met_ms and not self.lost_ms:
            self.lost_ms = time_ms

    def fits(self, recorded_ms: int, until_ms: int) -> bool:
        """True when the state machine, up to `until_ms`, would have recorded that as the first time."""
        if self.exact or not self.met_ms:
            return recorded_ms == self.met_ms
        if not recorded_ms:
            return self.met_ms > until_ms - _LATE_MS
        return self.met_ms <= recorded_ms <= self.met_ms + _LATE_MS

    def lets_work(self, tx: Placed) -> bool:
        """[D8] [N8] True when the act's approval stands, when what runs may go on without it, or when it was
        lost to a change of members just now, which the ledger follows up some deployments at a time."""
        if self.at(tx.time_ms).satisfied:
            return True
        if self.lost_ms and self.lost_ms == self._turned_ms and tx.time_ms <= self.lost_ms + _LATE_MS:
            return True
        begun = tx.document is not None and tx.document.predicate.status in _BEGUN
        until_ms = self.lost_ms + self.policies.run_on_s * 1000 + _LATE_MS
        return begun and bool(self.policies.run_on_s and self.lost_ms) and tx.time_ms <= until_ms


def check_approvals(case: Case, facts: Facts) -> str:
    """Each decision is about this manifest, was accepted, none is missing; work only while approved."""
    rolls = Rolls(case)
    ballots = {act: Ballot(case, act, rolls) for act in ACTS}
    number = 0
    last: dict[tuple[str, bytes], tuple[Placed, Approval]] = {}
    deploy, record = ballots["deploy"], case.records.deployment
    until_ms = min(record.ended_ms or case.anchor.time_ms, case.anchor.time_ms)
    for tx in case.placed:
        for ballot in ballots.values():
            ballot.follow(min(tx.time_ms, until_ms), tx.height)
        if isinstance(tx.body, Decide):
            predicate = _decision(case, tx)
            assert tx.document is not None
            ballot = ballots[predicate.act]
            signer = tx.document.signer
            last[predicate.act, signer] = tx, ballot.cast(signer, predicate, tx.time_ms, number)
            if predicate.act == "release" and predicate.released != record.results.hex() and record.results:
                raise Refused("audit.foreign", "a release of other results", "approvals")
            note_member(rolls, facts, predicate.act, predicate.role, signer, tx.height)
            number += 1
            facts.decisions[predicate.act] = ballot.at(tx.time_ms)
        elif isinstance(tx.body, CancelDeployment):
            if record.approved_ms and not ballots["delete"].at(tx.time_ms).satisfied:
                raise Refused("audit.cancelled", f"cancelled at height {tx.height} without consent", "txs")
        elif _needs_approval(tx) and not deploy.lets_work(tx):
            raise Refused("audit.not_approved", f"work at height {tx.height} without approval", "txs")
    deploy.follow(until_ms, case.anchor.state_height)
    if not deploy.fits(record.approved_ms, until_ms):
        raise Refused(
            "audit.approved_time", f"the policy was satisfied first at {deploy.met_ms}", "approved_ms"
        )
    for key, found in case.records.approvals.items():
        _same_decision(found, last.pop(key, None))
    if last:
        raise Refused("audit.not_a_stakeholder", "a decision by a key that holds no role", "approvals")
    count = sum(isinstance(tx.body, Decide) for tx in case.placed)
    if count != record.decisions:
        wanted = record.decisions
        raise Refused("audit.incomplete", f"{count} decisions, the record counts {wanted}", "approvals")
    facts.approved_ms = approved_ms = record.approved_ms
    for act, ballot in ballots.items():
        facts.decisions.setdefault(act, ballot.at(case.anchor.time_ms))
    state = "approved" if approved_ms else "; ".join(facts.decisions["deploy"].reasons)
    keys = {signer for (_, signer), found in case.records.approvals.items() if found}
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


def _same_decision(record: object, found: tuple[Placed, Approval] | None) -> None:
    """The recorded decision of a key is the last that the file shows of it, or both are absent."""
    shown = None
    if found is not None and found[0].document is not None:
        tx, approval = found
        document = found[0].document
        predicate = document.predicate
        place = (tx.height, tx.time_ms, approval.expires_ms, approval.number, approval.seat)
        shown = (document.id, predicate.decision, predicate.role, *place)
    names = ("document", "decision", "role", "height", "time_ms", "expires_ms", "number", "seat")
    recorded = None if record is None else tuple(getattr(record, name) for name in names)
    if shown != recorded:
        raise Refused(
            "audit.approval_record", "a decision is missing or differs from its record", "approvals"
        )


def check_signoff(case: Case, facts: Facts) -> str:
    """[A6] Signed off exactly when the policy was satisfied first."""
    record, ballot = case.records.deployment, Ballot(case, "signoff", Rolls(case))
    number = 0
    for tx in case.placed:
        ballot.follow(tx.time_ms, tx.height)
        if isinstance(tx.body, Decide) and tx.document:
            if tx.document.predicate.act == "signoff":
                ballot.cast(tx.document.signer, tx.document.predicate, tx.time_ms, number)
            number += 1
    ballot.follow(case.anchor.time_ms, case.anchor.state_height)
    if ballot.rule is None:  # a finished job is signed off by itself
        fits = record.signed_off_ms in (0, record.ended_ms)
    else:
        fits = ballot.fits(record.signed_off_ms, case.anchor.time_ms)
    if not fits:
        raise Refused(
            "audit.signoff_time", f"the policy was satisfied first at {ballot.met_ms}", "signed_off_ms"
        )
    facts.signed_off_ms = record.signed_off_ms
    return "signed off" if record.signed_off_ms else "not signed off"
