"""Decisions of stakeholders: approvals before a deployment runs, sign-offs of it, consent to its end.

[A1] A decision is a signed document about this chain, this deployment and the exact manifest; anybody may
     carry it in, once.
[A2] Its signer holds the role that it names, or names none and is named by key in the act's policy; and is
     not excluded by the policies (author, consumer). Who holds a role of an organisation, its members at the
     beginning of the block say (N6).
[A3] The last decision of a signer for an act counts, by whichever of a member's keys (G10): one that was made
     before it (made_ms) is refused, so that nobody can hold a grant back and carry it in after a rejection.
     Only a grant can be revoked.
[A4] A grant counts until it expires: its own time, or the policy's validity from its acceptance on.
[A5] After the order, each decision, each expiry and each wait that is over, the policy is evaluated:
     satisfied, the deployment is approved; put out of reach by a rejection, it is rejected; no longer
     satisfied, it is suspended, or runs on for as long as the contract says.
[A6] Sign-off is for a deployment that is active or completed; satisfied, it is settled.
[A7] A decision on the delete act is for a deployment that has not ended, and changes nothing by itself: the
     cancel asks for it.
[A8] A decision is about one manifest of the deployment: it names the number of the update that brings it, or
     brought it, so that a grant for one update never counts for a later one to the same manifest. One on an
     update is taken from whoever may decide by one of the policies that it must satisfy ([U3]).
[A9] A decision on the release names the digest of the results that it is about ([Y7]); no other names one. A
     grant is taken back as long as they are not released.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from ledger.codec import decode
from ledger.documents import Document, open_document
from ledger.errors import Refused
from ledger.limits import APPROVALS_PER_DEPLOYMENT_MAX, DETAIL_CHARS_MAX, SIGNOFF_AGAIN_MS
from ledger.manifests.types import Manifest
from ledger.organisations.records import key_organisation_use
from ledger.policies.decision import Decision, approval_expiry, excluded_signers, standing_since
from ledger.policies.people import Roll, organisations_of
from ledger.policies.records import (
    BY_KEY,
    Side,
    about_update,
    approval_of,
    capacities,
    change_sides,
    judge_change,
    judge_records,
    roll_of,
)
from ledger.policies.types import Act
from ledger.predicates import ApprovalPredicate
from ledger.records import ApprovalRecord, key_approval, key_document
from ledger.transactions import Decide
from ledger.transition.deal import RUNS, Deal
from ledger.transition.env import Env
from ledger.transition.lifecycle import (
    approve,
    end,
    keep_precedent,
    lose,
    regain,
    set_judge,
    sign_off,
)
from ledger.transition.results import release
from ledger.transition.rollout import advance, begin
from ledger.transition.switch import close_update, drop_approval_due, put_approval_due, under_way

_DECIDABLE = {
    "deploy": ("awaiting_approval", "paused", *RUNS),
    "signoff": ("active", "completed"),
    "delete": ("awaiting_approval", "paused", *RUNS),
    "update": RUNS,
    "release": ("active", "completed"),
}


def decide(env: Env, body: Decide) -> None:
    """[A1]–[A8] Raises Refused("document.…" | "approval.…")."""
    document = open_document(body.envelope, "approval")
    predicate = document.predicate
    if predicate.chain_id != env.chain_id:
        raise Refused("approval.foreign_chain", f"chain {predicate.chain_id!r} is not ours", "chain_id")
    deal = Deal.load(env, bytes.fromhex(predicate.deployment), "approval.unknown_deployment")
    wanted, generation = deal.record.manifest, deal.record.generation
    if predicate.act == "update":
        if not deal.record.updating:
            raise Refused("approval.closed", "no update is under way", "act")
        wanted, generation = deal.record.updating, deal.record.updates
    if document.subject != wanted:
        raise Refused("approval.manifest_mismatch", f"it is {wanted.hex()}", "subject")
    if predicate.update != generation:
        raise Refused("approval.other_update", f"the manifest is of update {generation}", "update")
    sides = _sides(deal, predicate.act)
    _check_signer(deal, sides, document.signer, predicate)
    _check_act(deal, sides, predicate)
    _check_results(deal, predicate)
    if env.state.get(key_document(deal.id, document.id)) is not None:
        raise Refused("approval.duplicate", "this document was accepted before")
    if deal.record.decisions >= APPROVALS_PER_DEPLOYMENT_MAX:
        raise Refused("approval.too_many", f"at most {APPROVALS_PER_DEPLOYMENT_MAX} decisions a deployment")
    _record(deal, sides, document, body.envelope)
    if predicate.act == "deploy":
        judge_deploy(deal, decided=True)
    elif predicate.act == "signoff":
        _judge_signoff(deal)
    elif predicate.act == "update":
        judge_update(deal, decided=True)
    elif predicate.act == "release":
        _judge_release(deal)


def _check_signer(deal: Deal, sides: Sequence[Side], signer: bytes, predicate: ApprovalPredicate) -> None:
    """[A2] [A8]"""
    role = predicate.role
    if role != BY_KEY and role not in {known.name for manifest, _, _ in sides for known in manifest.roles}:
        raise Refused("approval.unknown_role", f"the manifest has no role {role!r}", "role")
    held = [(side, name) for side in sides for name in capacities(side[0], side[2], side[1], signer)]
    if not held:
        raise Refused("approval.not_a_stakeholder", "the signer holds no role of this manifest", "role")
    if role not in {name for _, name in held}:
        names = ", ".join(name or "no role, but is named by key" for _, name in held)
        raise Refused("approval.wrong_role", f"the signer holds {names}, not {role or 'none'}", "role")
    if all(roll.people.one(signer) in roll.people.kept_out(_excluded(deal, m)) for (m, _, roll), _ in held):
        raise Refused("approval.excluded", "the contract counts no author or consumer here", "role")


def _check_act(deal: Deal, sides: Sequence[Side], predicate: ApprovalPredicate) -> None:
    if all(manifest.policies.of(act) is None for manifest, act, _ in sides):
        raise Refused("approval.not_asked", f"the contract asks for no {predicate.act} approval", "act")
    status = deal.record.status
    if status not in _DECIDABLE[predicate.act] or (predicate.act == "signoff" and deal.record.signed_off_ms):
        found = "signed off" if deal.record.signed_off_ms else status
        raise Refused("approval.closed", f"the deployment is {found}: no {predicate.act} now", "act")
    if predicate.expires_ms and predicate.expires_ms <= deal.env.time_ms:
        raise Refused("approval.expired", f"it expired at {predicate.expires_ms}", "expires_ms")


def _check_results(deal: Deal, predicate: ApprovalPredicate) -> None:
    """[A9]"""
    record = deal.record
    if predicate.act == "release" and (not record.results or record.released_ms):
        found = "released already" if record.released_ms else "not there yet, or never to be released"
        raise Refused("approval.closed", f"the results are {found}", "act")
    wanted = record.results.hex() if predicate.act == "release" else ""
    if predicate.released != wanted:
        raise Refused("approval.other_results", f"{wanted or 'none'} wanted", "results")


def _sides(deal: Deal, act: Act) -> tuple[Side, ...]:
    """Whose policies, of which act, a decision may count for."""

    def roll(manifest: Manifest) -> Roll:
        return roll_of(deal.env.state, manifest, deal.env.height)

    if act == "update":
        return change_sides(deal.manifest, deal.side(deal.record.updating)[0], roll)
    asked: Act = deal.record.ground if act == "deploy" else act
    return ((deal.manifest, asked, roll(deal.manifest)),)


def _record(
    deal: Deal, sides: Sequence[Side], document: Document[ApprovalPredicate], envelope: bytes
) -> None:
    """[A3] [A4] Replace the signer's former decision for this act."""
    env, predicate, generation = deal.env, document.predicate, document.predicate.update
    deploys = predicate.act in ("deploy", "update")
    place = "deploy" if deploys else predicate.act
    roll = _roll_of_signer(sides, document.signer, predicate.role)
    key = key_approval(deal.id, place, document.signer, generation)
    former = _former(deal, roll, place, document.signer, generation)
    stands = former is not None and former.results == bytes.fromhex(predicate.released)
    if predicate.decision == "revoked" and (former is None or not stands or former.decision != "granted"):
        way = "; an approval takes a rejection back" if former is not None and stands else ""
        raise Refused("approval.nothing_to_revoke", f"the signer has granted nothing{way}", "decision")
    if former is not None and predicate.made_ms < former.made_ms:
        raise Refused("approval.superseded", f"the signer decided later, at {former.made_ms}", "made_ms")
    record = ApprovalRecord(
        signer=document.signer,
        role=predicate.role,
        act=predicate.act,
        decision=predicate.decision,
        document=document.id,
        envelope=envelope,
        expires_ms=approval_expiry(
            deal.side(document.subject)[0].policies, env.time_ms, predicate.expires_ms
        ),
        height=env.height,
        time_ms=env.time_ms,
        made_ms=predicate.made_ms,
        number=deal.record.decisions,
        seat=roll.seat(predicate.role, document.signer),
        generation=generation,
        results=bytes.fromhex(predicate.released),
    )
    stands = former is not None and stands and roll.counts(former.role, former.signer, former.seat)
    before = approval_of(former) if former is not None and stands else None
    record = replace(record, since_ms=standing_since(before, approval_of(record)))
    if deploys:
        if former is not None and former.signer == record.signer:
            drop_approval_due(env, deal.id, former)
        if record.decision == "granted":
            put_approval_due(env, deal.id, record)
    env.write(key, record)
    env.state.put(key_document(deal.id, document.id), b"")
    roles = (role for manifest, _, _ in sides for role in manifest.roles if role.name == record.role)
    for organisation in organisations_of(roles):
        env.state.put(key_organisation_use(organisation, decided=True, deployment=deal.id), b"")
    deal.set(decisions=deal.record.decisions + 1)
    deal.emit(
        f"approval.{record.decision}",
        act=record.act,
        role=record.role,
        signer=record.signer.hex(),
        document=record.document.hex(),
        expires_ms=record.expires_ms,
    )


def _roll_of_signer(sides: Sequence[Side], signer: bytes, role: str) -> Roll:
    """By which the signer holds the role: of what is in force, if so."""
    return next(roll for manifest, act, roll in sides if role in capacities(manifest, roll, act, signer))


def _former(deal: Deal, roll: Roll, act: str, signer: bytes, generation: int) -> ApprovalRecord | None:
    """[G10] The signer's last decision on an act, by this key or as the same member by one before it."""
    keys = (key_approval(deal.id, act, key, generation) for key in roll.people.group(signer))
    known = [record for record in (deal.env.read(ApprovalRecord, key) for key in keys) if record is not None]
    found = [x for x in known if x.signer == signer or roll.belongs(x.role, x.signer, x.seat)]
    return max(found, key=lambda record: record.number, default=None)


def expire_approval(deal: Deal, signer: bytes, generation: int) -> None:
    """[A4] [A5] The timed work `approval`: a grant for deploy, or for an update, has expired."""
    record = deal.env.must(ApprovalRecord, key_approval(deal.id, "deploy", signer, generation))
    deal.emit("approval.expired", act=record.act, role=record.role, signer=signer.hex())
    if generation == deal.record.generation:
        judge_deploy(deal)
    else:
        judge_update(deal)


def judge_again(deal: Deal, act: str) -> None:
    """[A5] The timed work `judge`: a wait or an expiry of the policy's own is over."""
    set_judge(deal, act, 0)
    if act == "deploy":
        judge_deploy(deal)
    elif act == "update":
        judge_update(deal)
    elif deal.record.status in _DECIDABLE[act]:
        (_judge_signoff if act == "signoff" else _judge_release)(deal)
    else:  # suspended just now: asked again when it may run
        set_judge(deal, act, deal.env.time_ms + SIGNOFF_AGAIN_MS)


def judge_members(deal: Deal) -> None:
    """[A5] The members of an organisation that holds a role are others now."""
    if deal.record.status in _DECIDABLE["deploy"]:
        judge_deploy(deal)
    if deal.record.updating:
        judge_update(deal)
    asked = deal.manifest.policies.signoff is not None and not deal.record.signed_off_ms
    if asked and deal.record.status in _DECIDABLE["signoff"]:
        _judge_signoff(deal)
    held = deal.record.results and not deal.record.released_ms
    if held and deal.record.status in _DECIDABLE["release"]:
        _judge_release(deal)


def judge_deploy(deal: Deal, *, decided: bool = False) -> None:
    """[A5] `decided`: after a decision; nothing else ends a deployment for good."""
    decision = evaluate_act(deal, "deploy")
    set_judge(deal, "deploy", decision.next_ms)
    waiting = deal.record.status == "awaiting_approval"
    rejected = decision.rejected and decided
    if deal.record.status == "paused" and not rejected:
        return  # judged again when it resumes
    if decision.satisfied:
        if decision.used and (waiting or deal.record.lost_ms):
            keep_precedent(deal)
        if waiting:
            approve(deal)
        else:
            regain(deal)
            if deal.record.updating:
                judge_update(deal)
                advance(deal)
    elif rejected:
        end(deal, "rejected", "; ".join(decision.reasons))
    elif not waiting:
        lose(deal, "; ".join(decision.reasons))


def judge_update(deal: Deal, *, decided: bool = False) -> None:
    """[U3] The policies of the update under way. `decided`: after a decision; nothing else rejects it."""
    update = under_way(deal)
    prefix = key_approval(deal.id, "deploy", b"", update.number)
    given = [approval_of(decode(ApprovalRecord, data)) for _, data in deal.env.state.scan(prefix)]
    about = about_update(deal.side(update.manifest)[0], deal.record, update)
    decision = judge_change(_sides(deal, "update"), about, given, deal.env.time_ms)
    set_judge(deal, "update", decision.next_ms)
    waiting = update.status == "awaiting_approval"
    reason = "; ".join(decision.reasons)
    if decision.satisfied:
        if waiting and deal.record.status in RUNS and not deal.record.lost_ms:
            begin(deal)
    elif decision.rejected and decided:
        close_update(deal, "rejected", reason)
    elif not waiting:
        close_update(deal, "reverted", f"its approval was lost: {reason}")


def _judge_signoff(deal: Deal) -> None:
    """[A6]"""
    decision = evaluate_act(deal, "signoff")
    set_judge(deal, "signoff", decision.next_ms)
    if decision.satisfied:
        sign_off(deal)
    elif decision.rejected:
        reason = "; ".join(decision.reasons)[:DETAIL_CHARS_MAX]
        deal.emit("deployment.signoff_rejected", reason=reason)


def _judge_release(deal: Deal) -> None:
    """[Y7]"""
    decision = evaluate_act(deal, "release")
    set_judge(deal, "release", decision.next_ms)
    if decision.satisfied:
        release(deal)
    elif decision.rejected:
        reason = "; ".join(decision.reasons)[:DETAIL_CHARS_MAX]
        deal.emit("results.release_rejected", reason=reason)


def evaluate_act(deal: Deal, act: Act) -> Decision:
    """The policy's decision at the block's time, from the recorded approvals."""
    found = deal.env.state.scan(key_approval(deal.id, act, b"", deal.record.generation))
    records = [decode(ApprovalRecord, data) for _, data in found]
    roll = roll_of(deal.env.state, deal.manifest, deal.env.height)
    return judge_records(deal.manifest, deal.record, act, records, deal.env.time_ms, roll)


def _excluded(deal: Deal, manifest: Manifest) -> frozenset[bytes]:
    return excluded_signers(manifest.policies, bytes.fromhex(manifest.author), deal.record.consumer)
