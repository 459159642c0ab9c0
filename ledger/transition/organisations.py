"""Organisations on the ledger: deeds that are carried in, and what they change for deployments.

[N6] A deed is accepted when its time, version and signatures hold (N1 to N5); anybody may carry it in. It
     holds from the block after its own: in one block everybody counts by the same members. One deed of an
     organisation is accepted in a block.
[N7] An order names only organisations that are there, whose roles somebody holds, and by whose members its
     policies can be satisfied.
[N8] After a deed, deployments on which its members have decided are judged again, some at a time, from the
     next block on; then those whose policies exclude a role that it holds. What a lost approval means is as
     for one that was withdrawn (D4, D8). A deed within that time lets it begin anew once it is through, so
     there is one turn of an organisation at a time, and each deployment has its own in it. What has ended is
     dropped.
"""

from __future__ import annotations

from typing import Final

from ledger.errors import Refused
from ledger.limits import ORGANISATION_DEAL_SLOTS, ORGANISATION_DEALS_PER_STEP_MAX
from ledger.manifests.types import Manifest
from ledger.organisations.organisation import (
    applied,
    check_deed,
    check_deed_time,
    decode_deed,
    organisation_id,
)
from ledger.organisations.records import (
    DeedRecord,
    Organisation,
    key_deed,
    key_organisation,
    key_organisation_former,
    key_organisation_turn,
    key_organisation_use,
    organisation_at,
    organisation_uses,
)
from ledger.policies.decision import About, check_reachable, excluded_signers, rules_in
from ledger.policies.people import organisations_of
from ledger.policies.records import roll_of
from ledger.policies.types import ACTS
from ledger.records import key_due
from ledger.transactions import ActOrganisation
from ledger.transition.approvals import judge_members
from ledger.transition.deal import ENDED, Deal
from ledger.transition.env import Env

_ID_BYTES: Final = 32
_EVENTS: Final = {"found": "founded", "change": "changed", "rotate": "rotated", "dissolve": "dissolved"}


def act(env: Env, body: ActOrganisation) -> None:
    """[N6] Raises Refused("organisation.…", "key.malformed")."""
    deed = decode_deed(body.payload)
    founding = deed.act == "found"
    id_ = organisation_id(body.payload) if founding else bytes.fromhex(deed.organisation)
    now = env.read(Organisation, key_organisation(id_))
    if founding and now is not None:
        raise Refused("organisation.exists", "this organisation is founded already")
    if now is not None and now.height >= env.height:
        raise Refused("organisation.busy", "a deed of it was accepted in this block already", "organisation")
    check_deed_time(deed, env.time_ms)
    check_deed(env.chain_id, now, deed, body.payload, body.signatures)
    after = applied(now, deed, body.payload, env.height, env.time_ms)
    if now is not None:
        env.write(key_organisation_former(id_), now)
    env.write(key_organisation(id_), after)
    env.write(
        key_deed(id_, after.version), DeedRecord(body.payload, body.signatures, env.height, env.time_ms)
    )
    counts = {"version": after.version, "members": len(after.seats), "signers": len(body.signatures)}
    env.emit(f"organisation.{_EVENTS[deed.act]}", id_, name=after.name, **counts)
    if env.state.get(key_organisation_turn(id_)) is not None:
        env.state.put(key_organisation_turn(id_), b"again")
    elif next(env.state.scan(organisation_uses(id_), limit=1), None) is not None:
        env.state.put(key_organisation_turn(id_), b"")
        env.state.put(_due(env.time_ms + 1, id_, b""), b"")


def _due(time_ms: int, organisation: bytes, after: bytes) -> bytes:
    return key_due(time_ms, "members", organisation + b"/" + after)


def check_order(env: Env, manifest: Manifest, about: About) -> None:
    """[N7] Raises Refused("order.organisation" | "manifest.policy_unreachable")."""
    held = [role for role in manifest.roles if role.organisation]
    if not held:
        return
    roll = roll_of(env.state, manifest, env.height)
    for role in held:
        found = organisation_at(env.state, bytes.fromhex(role.organisation), env.height)
        if found is None or not roll.current[role.name]:
            why = "is not there" if found is None else "has nobody for it"
            detail = f"organisation {role.organisation} {why}"
            raise Refused("order.organisation", detail, f"roles.{role.name}")
    excluded = excluded_signers(manifest.policies, about.author, about.consumer)
    for name in ACTS:
        rule = manifest.policies.of(name)
        if rule is not None:
            check_reachable(rule, roll.now(), excluded, f"approval.{name}", about, roll.people)


def note_use(env: Env, manifest: Manifest, deployment: bytes) -> None:
    """[N8] Enter an order in the index of each organisation whose members a rule of it excludes."""
    rules = (rule for name in ACTS for rule in rules_in(manifest.policies.of(name)))
    excluded = {word for rule in rules for word in rule.exclude}
    held = (role for role in manifest.roles if f"role:{role.name}" in excluded)
    for organisation in organisations_of(held):
        env.state.put(key_organisation_use(organisation, decided=False, deployment=deployment), b"")


def judge_uses(env: Env, rest: bytes) -> int:
    """[N8] The timed work `members`: judge some deployments again; returns what that counts as, in slots."""
    organisation, after = rest[:_ID_BYTES], rest[_ID_BYTES + 1 :]
    prefix = organisation_uses(organisation)
    start = prefix + after + b"\0" if after else prefix
    found = [key for key, _ in env.state.scan(prefix, start, ORGANISATION_DEALS_PER_STEP_MAX)]
    slots = 0
    for key in found:
        deal = Deal.of(env, key[-_ID_BYTES:])
        if deal.record.status in ENDED and not deal.record.ends_ms and not deal.record.release_until_ms:
            env.state.delete(key)
            continue
        judge_members(deal)
        slots += max(len(deal.record.slots), ORGANISATION_DEAL_SLOTS)
    turn = key_organisation_turn(organisation)
    if len(found) == ORGANISATION_DEALS_PER_STEP_MAX:
        env.state.put(_due(env.time_ms + 1, organisation, found[-1][len(prefix) :]), b"")
    elif env.state.get(turn):
        env.state.put(turn, b"")
        env.state.put(_due(env.time_ms + 1, organisation, b""), b"")
    else:
        env.state.delete(turn)
    return slots
