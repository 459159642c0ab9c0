"""The decisions of one act on one manifest, evaluated again as the state machine does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from ledger.audit.file import Case, Placed
from ledger.audit.organisations import Rolls
from ledger.manifests.expansion import most_spent
from ledger.manifests.types import Manifest
from ledger.policies.decision import About, Approval, Decision, approval_expiry, standing_since
from ledger.policies.people import Roll
from ledger.policies.records import capacities, judge_change, judge_in_force, same_signers
from ledger.policies.types import Act
from ledger.predicates import ApprovalPredicate

# Timed work is done by the first block that reaches it: what follows from it may be dated so much later.
LATE_MS: Final = 60_000


class Part(msgspec.Struct, frozen=True):
    """Whose policy, of which act, must be satisfied, and who holds the roles there."""

    manifest: Manifest
    act: Act
    rolls: Rolls


class Ballot:
    """The decisions of one act so far, evaluated as the state machine does ([A2] to [A5], [U3]).

    `met_ms`: when the policy was satisfied first, `exact` when a transaction did it and not time alone.
    `lost_ms`: since when it is not satisfied any more; 0: it is, or never was. `turned_ms`: when members of
    an organisation were others last. `is_change`: of an update, by each part. It begins at `height` and
    `time_ms`, with what was decided on the same manifest before (`former`); `met_ms`: it was satisfied then.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        about: About,
        height: int,
        time_ms: int,
        *,
        is_change: bool = False,
        former: Mapping[bytes, Approval] | None = None,
        met_ms: int = 0,
    ) -> None:
        self._parts, self._about, self._is_change = tuple(parts), about, is_change
        self._turns = [turn for turn in parts[0].rolls.turns if turn[0] >= height]
        self._turned_ms = 0
        self._rolls = [part.rolls.at(height) for part in parts]
        self.policies = parts[-1].manifest.policies
        self.rule = parts[0].manifest.policies.of(parts[0].act)
        self.approvals: dict[bytes, Approval] = dict(former or {})
        self.met_ms, self.lost_ms = met_ms, 0
        self.exact = False
        self._judge(time_ms, True)

    def cast(self, signer: bytes, predicate: ApprovalPredicate, time_ms: int, number: int) -> Approval:
        """Replace the signer's former decision; it is this one of the decisions on the deployment."""
        expires_ms = approval_expiry(self.policies, time_ms, predicate.expires_ms)
        roll = self._roll_of(signer, predicate.role)
        seat = roll.seat(predicate.role, signer)
        approval = Approval(
            signer, (predicate.role,), predicate.decision, expires_ms, time_ms, number=number, seat=seat
        )
        since_ms = standing_since(self._former(roll, signer), approval)
        self.approvals[signer] = approval = replace(approval, since_ms=since_ms)
        self._judge(time_ms, True)
        return approval

    def _roll_of(self, signer: bytes, role: str) -> Roll:
        """[A8] By which the signer holds the role: of what is in force, if so."""
        for part, roll in zip(self._parts, self._rolls, strict=True):
            if role in capacities(part.manifest, roll, part.act, signer):
                return roll
        return self._rolls[0]

    def _former(self, roll: Roll, signer: bytes) -> Approval | None:
        """[G10] The signer's decision before, by any of their keys, if it counts still."""
        known = [self.approvals[key] for key in roll.people.group(signer) if key in self.approvals]
        mine = [x for x in known if x.signer == signer or roll.belongs(x.roles[0], x.signer, x.seat)]
        last = max(mine, key=lambda approval: approval.number, default=None)
        return last if last is not None and roll.counts(last.roles[0], last.signer, last.seat) else None

    def at(self, time_ms: int) -> Decision:
        """The policy's decision at a time."""
        given = self.approvals.values()
        if self._is_change:
            sides = [
                (part.manifest, part.act, roll) for part, roll in zip(self._parts, self._rolls, strict=True)
            ]
            return judge_change(sides, self._about, given, time_ms)
        part = self._parts[0]
        return judge_in_force(part.manifest, part.act, self._rolls[0], given, time_ms, self._about)

    def follow(self, time_ms: int, height: int) -> None:
        """[N6] Let time pass up to a block: waits end, approvals expire, members come and go."""
        while self._turns and self._turns[0][0] < height and self._turns[0][1] <= time_ms:
            turn_height, turn_ms = self._turns.pop(0)
            self._pass(turn_ms)
            self._rolls = [part.rolls.at(turn_height + 1) for part in self._parts]
            self._turned_ms = turn_ms
            self._judge(turn_ms, False)
        self._pass(time_ms)

    def restart(self, time_ms: int) -> None:
        """[Y8] It was taken back, and is there again: judged anew, by those who decided before."""
        self.met_ms = self.lost_ms = 0
        self.exact = False
        self._judge(time_ms, False)

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

    def fits(self, recorded_ms: int, until_ms: int, *, stood_still: bool = False) -> bool:
        """True when the state machine, up to `until_ms`, would have recorded that as the first time.
        `stood_still`: the deployment may have been suspended when time alone satisfied the policy; then it is
        asked again later, and how much later the file does not show."""
        if self.exact or not self.met_ms:
            return recorded_ms == self.met_ms
        if stood_still:
            return not recorded_ms or self.met_ms <= recorded_ms <= until_ms
        if not recorded_ms:
            return self.met_ms > until_ms - LATE_MS
        return self.met_ms <= recorded_ms <= self.met_ms + LATE_MS

    def lets_work(self, tx: Placed) -> bool:
        """[D8] [N8] True when the act's approval stands, when what runs may go on without it, or when it was
        lost to a change of members just now, which the ledger follows up some deployments at a time."""
        if self.at(tx.time_ms).satisfied:
            return True
        if self.lost_ms and self.lost_ms == self._turned_ms and tx.time_ms <= self.lost_ms + LATE_MS:
            return True
        if self._is_change:
            return False
        held = tx.document is not None  # what is held may begin, and run on; nothing is claimed
        until_ms = self.lost_ms + self.policies.run_on_s * 1000 + LATE_MS
        return held and bool(self.policies.run_on_s and self.lost_ms) and tx.time_ms <= until_ms


def ballot_of(case: Case, act: Act, number: int, *, former: Ballot | None = None) -> Ballot:
    """Of a manifest that is or was in force, from then on. `former`: of the update that brought it."""
    generation, record = case.generations[number], case.records.deployment
    rolls = Rolls(case, generation.manifest.roles)
    asked = generation.asked
    if not number:
        done = [update for update in case.records.updates.values() if update.status == "done"]
        precedent_ms = done[0].former_precedent_ms if done else record.precedent_ms
        about = _about(case, number, precedent_ms)
        return Ballot((Part(generation.manifest, act, rolls),), about, asked.height, asked.time_ms)
    update = case.records.updates[number]
    ground = update.ground if act == "deploy" else act
    begun_ms = update.ended_ms
    return Ballot(
        (Part(generation.manifest, ground, rolls),),
        _about(case, number, update.precedent_ms),
        rolls.height_at(begun_ms),
        begun_ms,
        former=former.approvals if former is not None else None,
        met_ms=begun_ms if former is not None else 0,
    )


def ballot_on(case: Case, number: int) -> Ballot:
    """[U3] Of an update, from when it was asked for."""
    generation, update = case.generations[number], case.records.updates[number]
    former = next(one for one in case.generations if one.digest == update.former)
    parts = [Part(former.manifest, "update", Rolls(case, former.manifest.roles))]
    if not same_signers(former.manifest, generation.manifest):
        parts.append(Part(generation.manifest, "deploy", Rolls(case, generation.manifest.roles)))
    asked, about = generation.asked, _about(case, number, update.precedent_ms)
    return Ballot(parts, about, asked.height, asked.time_ms, is_change=True)


def _about(case: Case, number: int, precedent_ms: int) -> About:
    generation = case.generations[number]
    return About(
        author=bytes.fromhex(generation.manifest.author),
        consumer=case.records.deployment.consumer,
        budget=most_spent(generation.manifest.terms),
        ordered_ms=generation.asked.time_ms,
        precedent_ms=precedent_ms,
    )
