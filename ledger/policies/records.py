"""A deployment's policies on what the ledger holds of it: from records to the decision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from ledger.manifests.expansion import most_spent
from ledger.manifests.types import Manifest
from ledger.organisations.records import organisation_at
from ledger.policies.decision import About, Approval, Decision, judge, named_keys
from ledger.policies.people import Roll
from ledger.policies.types import ACTS, Act
from ledger.records import ApprovalRecord, Deployment
from ledger.state import Reader
from ledger.trade_records import UpdateRecord

Side = tuple[Manifest, Act, Roll]
"""Whose policies, of which act, a decision may count for, and who holds the roles there."""

BY_KEY = ""  # the role of a decision by somebody whom a policy names by key


def approval_of(record: ApprovalRecord) -> Approval:
    """A recorded decision as the policy reads it."""
    return Approval(
        record.signer,
        (record.role,),
        record.decision,
        record.expires_ms,
        record.time_ms,
        record.since_ms,
        record.number,
        record.seat,
    )


def roll_of(state: Reader, manifest: Manifest, height: int | None = None) -> Roll:
    """Who holds the manifest's roles as the block of `height` counts it; None: the one after the state's."""
    return Roll(manifest.roles, lambda organisation: organisation_at(state, organisation, height))


def about_of(manifest: Manifest, record: Deployment) -> About:
    """What a policy may ask of this deployment."""
    return About(
        author=bytes.fromhex(manifest.author),
        consumer=record.consumer,
        budget=most_spent(manifest.terms),
        ordered_ms=record.asked_ms or record.ordered_ms,
        precedent_ms=record.precedent_ms,
    )


def judge_records(
    manifest: Manifest,
    record: Deployment,
    act: Act,
    approvals: Iterable[ApprovalRecord],
    now_ms: int,
    roll: Roll,
) -> Decision:
    """The decision of an act's policy at `now_ms`; records of other acts, other manifests and, of a
    release, other results are passed over.
    An approval of the update that brought the manifest is one of its deployment."""
    acts = ("deploy", "update") if act == "deploy" else (act,)
    mine = [x for x in approvals if x.act in acts and x.generation == record.generation]
    if act == "release":
        mine = [x for x in mine if x.results == record.results]
    given = [approval_of(found) for found in mine]
    asked: Act = record.ground if act == "deploy" else act
    return judge_in_force(manifest, asked, roll, given, now_ms, about_of(manifest, record))


def judge_in_force(
    manifest: Manifest, act: Act, roll: Roll, given: Iterable[Approval], now_ms: int, about: About
) -> Decision:
    """The decision of an act's policy of the manifest in force. What was signed for the update that brought
    it counts as it did for that: see `judge_change`."""
    return _judge_side((manifest, act, roll), given, about, now_ms)


def same_signers(one: Manifest, other: Manifest) -> bool:
    """Whether the same people decide by the same policies in both."""
    return (one.roles, one.policies) == (other.roles, other.policies)


def about_update(manifest: Manifest, record: Deployment, update: UpdateRecord) -> About:
    """What a policy may ask of an update to this manifest."""
    return About(
        author=bytes.fromhex(manifest.author),
        consumer=record.consumer,
        budget=most_spent(manifest.terms),
        ordered_ms=update.requested_ms,
        precedent_ms=update.precedent_ms,
    )


def change_sides(old: Manifest, new: Manifest, roll: Callable[[Manifest], Roll]) -> tuple[Side, ...]:
    """[U3] Whose policies, of which act, an update from one manifest to the other must satisfy. `roll`: who
    holds a manifest's roles."""
    first: Side = (old, "update", roll(old))
    return (first,) if same_signers(old, new) else (first, (new, "deploy", roll(new)))


def judge_change(sides: Sequence[Side], about: About, approvals: Iterable[Approval], now_ms: int) -> Decision:
    """[U3] The decision on an update. Where the signers change, an approval counts on either side: in the
    role that it was signed in, or, where its signer does not hold it, in any that it holds there and that
    names its keys itself."""
    given = list(approvals)
    found = [_judge_side(side, given, about, now_ms) for side in sides]
    if len(found) == 1:
        return found[0]
    words = (
        f"{when}: {x}" for when, one in zip(("before", "after"), found, strict=True) for x in one.reasons
    )
    return Decision(
        all(one.satisfied for one in found),
        any(one.rejected for one in found),
        tuple(words),
        tuple(place for one in found for place in one.used),
        min((one.next_ms for one in found if one.next_ms), default=0),
    )


def _judge_side(side: Side, given: Iterable[Approval], about: About, now_ms: int) -> Decision:
    manifest, act, roll = side
    return judge(manifest.policies, act, roll, [_as_held(side, x) for x in given], now_ms, about)


def _as_held(side: Side, approval: Approval) -> Approval:
    manifest, act, roll = side
    held = capacities(manifest, roll, act, approval.signer)
    if all(roll.is_held(role) or role in held for role in approval.roles):
        return approval
    plain = tuple(role for role in held if not roll.is_held(role))
    return replace(approval, roles=plain) if plain else approval


def capacities(manifest: Manifest, roll: Roll, act: str, signer: bytes) -> tuple[str, ...]:
    """In what a key may decide on an act now: its roles, and BY_KEY when the act's policy names it itself."""
    by_key = (BY_KEY,) if signer in named_keys(manifest.policies.of(act)) else ()
    roles = tuple(role.name for role in manifest.roles if signer in roll.current[role.name])
    return (*roles, *by_key)


def stakeholders(manifest: Manifest, members: Iterable[bytes] = ()) -> list[bytes]:
    """Every key that may decide on an act, ascending; `members`: of the organisations that hold roles."""
    found = {bytes.fromhex(key) for role in manifest.roles for key in role.keys}.union(members)
    return sorted(found.union(*(named_keys(manifest.policies.of(act)) for act in ACTS)))
