"""A deployment's policies on what the ledger holds of it: from records to the decision."""

from __future__ import annotations

from collections.abc import Iterable

from ledger.manifest import most_spent
from ledger.manifest_types import Manifest
from ledger.policy import About, Approval, Decision, judge, named_keys, roles_of
from ledger.policy_types import ACTS
from ledger.records import ApprovalRecord, Deployment

BY_KEY = ""  # the role of a decision by somebody whom a policy names by key


def approval_of(record: ApprovalRecord) -> Approval:
    """A recorded decision as the policy reads it."""
    return Approval(
        record.signer, (record.role,), record.decision, record.expires_ms, record.time_ms, record.since_ms
    )


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
    manifest: Manifest, record: Deployment, act: str, approvals: Iterable[ApprovalRecord], now_ms: int
) -> Decision:
    """The decision of an act's policy at `now_ms`; records of other acts are passed over."""
    given = [approval_of(found) for found in approvals if found.act == act]
    return judge(manifest.policies, act, manifest.roles, given, now_ms, about_of(manifest, record))


def capacities(manifest: Manifest, act: str, signer: bytes) -> tuple[str, ...]:
    """In what a key may decide on an act: its roles, and BY_KEY when the act's policy names it itself."""
    by_key = (BY_KEY,) if signer in named_keys(manifest.policies.of(act)) else ()
    return (*roles_of(manifest.roles, signer), *by_key)


def stakeholders(manifest: Manifest) -> list[bytes]:
    """Every key that may decide on an act, ascending."""
    found = {bytes.fromhex(key) for role in manifest.roles for key in role.keys}
    return sorted(found.union(*(named_keys(manifest.policies.of(act)) for act in ACTS)))
