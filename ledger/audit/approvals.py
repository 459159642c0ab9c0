"""Decisions and what they allowed: approvals before and during work, of updates, sign-off after it."""

from __future__ import annotations

from typing import Final

from ledger.audit.ballots import LATE_MS, Ballot, ballot_of, ballot_on
from ledger.audit.file import PLACES, Case, Placed
from ledger.audit.organisations import Rolls, note_member
from ledger.audit.release import check_released
from ledger.audit.report import Facts, VoteRow
from ledger.errors import Refused
from ledger.manifests.expansion import slots, workload_of
from ledger.policies.decision import Approval
from ledger.predicates import ApprovalPredicate
from ledger.transactions import CancelDeployment, Claim, Decide, Report, UpdateDeployment
from ledger.transition.switch import same_work

# Receipts that need a standing approval.
_WORK: Final = ("fetching", "verified", "running", "committed", "succeeded")


class _Course:
    """Ballots of all manifests while the chain is read once: of what is in force, and of updates.

    A block in which an update is done has transactions before and after that: until a later block, or a
    decision on the new manifest, both are in force.
    """

    def __init__(self, case: Case) -> None:
        self._case = case
        self.until_ms = min(case.records.deployment.ended_ms or case.anchor.time_ms, case.anchor.time_ms)
        self._done = [number for number, x in case.records.updates.items() if x.status == "done"]
        self.number = 0  # of the manifest in force
        self.updates: dict[int, Ballot] = {}
        self.delayed: set[int] = set()  # updates that waited while the deployment ran on without approval
        self.ballots: dict[tuple[str, int], Ballot] = {(act, 0): ballot_of(case, act, 0) for act in PLACES}
        self.first = self.ballots["deploy", 0]

    @property
    def deploy(self) -> Ballot:
        """Of what is in force."""
        return self.ballots["deploy", self.number]

    def go_to(self, time_ms: int, height: int) -> None:
        """Let time pass up to a block."""
        updates = self._case.records.updates
        while self._done and updates[self._done[0]].ended_ms < time_ms:
            self._pass(updates[self._done[0]].ended_ms, height)
            self.switch(self._done[0])
        self._pass(time_ms, height)

    def _pass(self, time_ms: int, height: int) -> None:
        time_ms = min(time_ms, self.until_ms)
        for act in PLACES:
            self.ballots[act, self.number].follow(time_ms, height)
        self._case.stood_still |= bool(self.deploy.lost_ms)
        for number, ballot in self.updates.items():
            update = self._case.records.updates[number]
            ballot.follow(min(time_ms, update.ended_ms or time_ms), height)
            if self.deploy.lost_ms and not 0 < update.approved_ms < time_ms:
                self.delayed.add(number)

    def switch(self, number: int) -> None:
        """[U9] From now on this update's manifest is in force."""
        if number not in self.updates:
            raise Refused("audit.order", f"update {number} was done before it was asked for", "updates")
        self._done.remove(number)
        self.number = number
        for act in PLACES:
            former = self.updates[number] if act == "deploy" else None
            self.ballots[act, number] = ballot_of(self._case, act, number, former=former)

    def of(self, act: str, number: int, time_ms: int) -> Ballot | None:
        """Where a decision on this manifest counts now; None: nowhere."""
        if act == "update":
            found = self._case.records.updates.get(number)
            is_open = found is not None and (not found.ended_ms or time_ms <= found.ended_ms)
            return self.updates.get(number) if is_open else None
        if number != self.number:
            self.go_on(number, time_ms)
        return self.ballots[act, number] if number == self.number else None

    def go_on(self, number: int, time_ms: int) -> None:
        """The update of this number may have been done earlier in this very block."""
        if self._done and self._done[0] == number and self._ended_ms(number) == time_ms:
            self.switch(number)

    @property
    def next(self) -> int:
        """The update that is in force next; 0: none."""
        return self._done[0] if self._done else 0

    def _ended_ms(self, number: int) -> int:
        return self._case.records.updates[number].ended_ms

    def allows(self, tx: Placed) -> list[int]:
        """Whose manifests may be worked by as the transaction says: of what is in force, and of an update
        that rolls ([U5])."""
        found = [self.number] if self.deploy.lets_work(tx) else []
        for number, ballot in self.updates.items():
            update = self._case.records.updates[number]
            is_open = not update.ended_ms or tx.time_ms <= update.ended_ms
            if update.approved_ms and update.approved_ms <= tx.time_ms and is_open and ballot.lets_work(tx):
                found.append(number)
        return found


def check_approvals(case: Case, facts: Facts) -> str:
    """Each decision is about its manifest, was accepted, none is missing; work only while approved."""
    rolls = [Rolls(case, one.manifest.roles) for one in case.generations]
    course, record, number = _Course(case), case.records.deployment, 0
    case.stood_still = any(one.manifest.terms.grace_s for one in case.generations)
    last: dict[tuple[str, int, bytes], tuple[Placed, Approval]] = {}
    about: dict[str, int] = {}  # act: number of the manifest of the last decision on it
    for tx in case.life:
        course.go_to(tx.time_ms, tx.height)
        if isinstance(tx.body, UpdateDeployment):
            asked = next(one.number for one in case.generations if one.asked is tx)
            course.updates[asked] = ballot_on(case, asked)
        elif isinstance(tx.body, Decide):
            predicate = _decision(case, tx)
            assert tx.document is not None
            act, signer = predicate.act, tx.document.signer
            ballot = course.of(act, predicate.update, tx.time_ms)
            if ballot is None:
                raise Refused("audit.foreign", "an approval of what was not to be decided on", "approvals")
            cast = ballot.cast(signer, predicate, tx.time_ms, number)
            last["deploy" if act == "update" else act, predicate.update, signer] = tx, cast
            check_released(case, predicate, tx.time_ms)
            facts.votes.append(_vote(tx, predicate, cast))
            note_member(rolls[predicate.update], facts, act, predicate.role, signer, tx.height)
            number += 1
            facts.decisions[act] = ballot.at(tx.time_ms)
            about[act] = predicate.update
        elif isinstance(tx.body, CancelDeployment):
            _cancelled(case, course, tx)
        elif _tells(tx):
            if not course.deploy.at(tx.time_ms).satisfied:
                case.suspended.add(tx.id)
        elif _needs_approval(tx):
            _worked(case, course, tx)
    course.go_to(case.anchor.time_ms, case.anchor.state_height)
    course.go_on(course.next, case.anchor.time_ms)
    if not course.first.fits(record.approved_ms, course.until_ms):
        raise Refused(
            "audit.approved_time", f"the policy was satisfied first at {course.first.met_ms}", "approved_ms"
        )
    _updates(case, course, facts)
    for key, found in case.records.approvals.items():
        _same_decision(found, last.pop(key, None))
    if last:
        raise Refused("audit.not_a_stakeholder", "a decision by a key that holds no role", "approvals")
    if number != record.decisions:
        wanted = record.decisions
        raise Refused("audit.incomplete", f"{number} decisions, the record counts {wanted}", "approvals")
    facts.approved_ms = approved_ms = record.approved_ms
    for place in PLACES:
        if about.get(place) != course.number:
            facts.decisions[place] = course.ballots[place, course.number].at(case.anchor.time_ms)
    state = "approved" if approved_ms else "; ".join(facts.decisions["deploy"].reasons)
    keys = {signer for (_, _, signer), found in case.records.approvals.items() if found}
    return f"{number} decisions by {len(keys)} keys: {state}"


def _vote(tx: Placed, said: ApprovalPredicate, cast: Approval) -> VoteRow:
    about = (said.act, said.update, said.role, said.decision, cast.signer.hex(), said.comment)
    return VoteRow(tx.height, tx.time_ms, *about, cast.expires_ms if said.decision == "granted" else 0)


def _cancelled(case: Case, course: _Course, tx: Placed) -> None:
    """[A7]"""
    found = [course.ballots["delete", course.number].at(tx.time_ms).satisfied]
    course.go_on(course.next, tx.time_ms)
    found.append(course.ballots["delete", course.number].at(tx.time_ms).satisfied)
    if case.records.deployment.approved_ms and not any(found):
        raise Refused("audit.cancelled", f"cancelled at height {tx.height} without consent", "txs")


def _worked(case: Case, course: _Course, tx: Placed) -> None:
    """[U5] [U7] Work is of a manifest that is approved then, or the same work by one before it."""
    name = tx.body.slot if isinstance(tx.body, Claim) else tx.document.predicate.slot if tx.document else ""
    allowed = [case.generations[number].manifest for number in course.allows(tx)]
    wanted = [manifest for manifest in allowed if name in slots(manifest)]
    if not wanted:
        raise Refused("audit.not_approved", f"work at height {tx.height} without approval", "txs")
    if isinstance(tx.body, Claim):
        return
    assert tx.document is not None
    digest = tx.document.subject
    known = next((one.manifest for one in case.generations if one.digest == digest), None)
    if known is None or name not in slots(known):
        raise Refused("audit.foreign", "a receipt of another deployment", "receipts")
    work = workload_of(known, name)
    if not any(same_work(work, workload_of(manifest, name)) for manifest in wanted):
        raise Refused("audit.not_approved", f"work at height {tx.height} by another manifest", "txs")


def _updates(case: Case, course: _Course, facts: Facts) -> None:
    """[U3] [U4] Each update was approved when its policies were satisfied first, or ended without."""
    for number, update in case.records.updates.items():
        ballot, until_ms = course.updates[number], update.ended_ms or course.until_ms
        delayed = (
            number in course.delayed
            and ballot.met_ms
            and (not update.approved_ms or update.approved_ms >= ballot.met_ms)
        )
        if not delayed and not ballot.fits(update.approved_ms, until_ms):
            detail = f"update {number}: its policies were satisfied first at {ballot.met_ms}"
            raise Refused("audit.update_approval", detail, "updates")
        if update.approved_ms and ballot.lost_ms and until_ms > ballot.lost_ms + LATE_MS:
            detail = f"update {number}: not approved any more since {ballot.lost_ms}"
            raise Refused("audit.update_approval", detail, "updates")
        decision = ballot.at(until_ms)
        if update.status == "rejected" and not decision.rejected:
            raise Refused("audit.update_approval", f"update {number} was not rejected", "updates")
        facts.generations[number].decision = decision
    done = [update.ended_ms for update in case.records.updates.values() if update.status == "done"]
    facts.generations[0].decision = course.first.at(done[0] if done else course.until_ms)


def _tells(tx: Placed) -> bool:
    """[Y1] A replica tells what it was bound to: no work, so it may also while the approval is withdrawn."""
    return isinstance(tx.body, Report) and tx.document is not None and bool(tx.document.predicate.nonce)


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
    number = predicate.update
    if not 0 <= number < len(case.generations) or document.subject != case.generations[number].digest:
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
    """[A6] [U9] Signed off exactly when the policy in force was satisfied first."""
    record = case.records.deployment
    ballot = ballot_of(case, "signoff", record.generation)
    begun_ms = case.records.updates[record.generation].ended_ms if record.generation else case.order.time_ms
    number = 0
    for tx in case.life:
        if tx.time_ms >= begun_ms:
            ballot.follow(tx.time_ms, tx.height)
        if isinstance(tx.body, Decide) and tx.document:
            predicate = tx.document.predicate
            if (predicate.act, predicate.update) == ("signoff", record.generation):
                ballot.cast(tx.document.signer, predicate, tx.time_ms, number)
            number += 1
    ballot.follow(case.anchor.time_ms, case.anchor.state_height)
    if ballot.rule is None:  # a finished job is signed off by itself
        fits = record.signed_off_ms in (0, record.ended_ms)
    else:
        fits = ballot.fits(record.signed_off_ms, case.anchor.time_ms, stood_still=case.stood_still)
    if not fits:
        raise Refused(
            "audit.signoff_time", f"the policy was satisfied first at {ballot.met_ms}", "signed_off_ms"
        )
    facts.signed_off_ms = record.signed_off_ms
    return "signed off" if record.signed_off_ms else "not signed off"
