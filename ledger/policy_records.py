"""A deployment's policies on what the ledger holds of it: from records to the decision."""

from __future__ import annotations

from collections.abc import Iterable

from ledger.manifest import most_spent
from ledger.manifest_types import Manifest
from ledger.organisation_records import organisation_at
from ledger.people import Roll
from ledger.policy import About, Approval, Decision, judge, named_keys
from ledger.policy_types import ACTS
from ledger.records import ApprovalRecord, Deployment
from ledger.state import Reader

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
        ordered_ms=record.ordered_ms,
        precedent_ms=record.precedent_ms,
    )


def judge_records(
    manifest: Manifest,
    record: Deployment,
    act: str,
    approvals: Iterable[ApprovalRecord],
    now_ms: int,
    roll: Roll,
) -> Decision:
    """The decision of an act's policy at `now_ms`; records of other acts are passed over."""
    given = [approval_of(found) for found in approvals if found.act == act]
    return judge(manifest.policies, act, roll, given, now_ms, about_of(manifest, record))


def capacities(manifest: Manifest, roll: Roll, act: str, signer: bytes) -> tuple[str, ...]:
    """In what a key may decide on an act now: its roles, and BY_KEY when the act's policy names it itself."""
    by_key = (BY_KEY,) if signer in named_keys(manifest.policies.of(act)) else ()
    roles = tuple(role.name for role in manifest.roles if signer in roll.current[role.name])
    return (*roles, *by_key)


def stakeholders(manifest: Manifest, members: Iterable[bytes] = ()) -> list[bytes]:
    """Every key that may decide on an act, ascending; `members`: of the organisations that hold roles."""
    found = {bytes.fromhex(key) for role in manifest.roles for key in role.keys}.union(members)
    return sorted(found.union(*(named_keys(manifest.policies.of(act)) for act in ACTS)))
