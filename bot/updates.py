"""Plans of updates: what would change, when, at what price, who must approve, and what is in its way. Pure:
the ledger's own rules are tried on a copy of the state, and dropped."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from bot.matcher import best_node, why_none
from bot.planner import approvers_of, typed_parameters
from bot.trial import Here, env_of, refusal
from bot.view import Own, Template, farms_of, market
from ledger.contracts.differences import manifest_changes
from ledger.contracts.types import Value
from ledger.fit import bound
from ledger.manifests.expansion import decode_manifest, expand, slot_rate
from ledger.manifests.types import Manifest, UpdateStrategy, manifest_digest
from ledger.policies.decision import describe
from ledger.policies.people import words_of
from ledger.policies.records import change_sides, roll_of
from ledger.records import Node
from ledger.transactions import UpdateDeployment
from ledger.transition.deal import Deal, funds_under
from ledger.transition.rollout import in_order
from ledger.transition.switch import keeps, needed
from ledger.transition.updates import update
from node.api.bot_seam import PlanRequest
from node.api.update_seam import Changed, SlotChange, UpdateApprover, UpdatePlan, UpdateRequest
from node.client.amounts import credits_text


class UpdateDraft(msgspec.Struct, frozen=True):
    """A plan, and what its wish would hold."""

    plan: UpdatePlan
    body: UpdateDeployment


def make_update_plan(here: Here, own: Own, template: Template, request: UpdateRequest) -> UpdateDraft:
    """The plan as things stand. What keeps the ledger from taking it is in `plan.missing`, by its rule; what
    is wrong about parameters or roles is Refused by the rule and field that the ledger would name."""
    contract, former, record = template.contract, own.manifest, own.record
    known = {parameter.name for parameter in contract.parameters}
    given: dict[str, Value] = {name: value for name, value in former.parameters.items() if name in known}
    wish = PlanRequest(contract=request.contract, parameters=request.parameters)
    given |= typed_parameters(contract, wish)
    bound = {role.name for role in contract.roles if role.bind == "order"}
    roles = {role.name: words_of(role) for role in former.roles if role.name in bound} | dict(request.roles)
    data = expand(contract, template.id, template.author, record.consumer, given, roles)
    manifest, digest = decode_manifest(data), manifest_digest(data)
    locked = max(0, funds_under(manifest.terms, record) - record.funded)
    body = UpdateDeployment(record.id, record.manifest, template.id, given, roles, digest, locked)
    missing = []
    if refused := refusal(here, update, body):
        missing.append(refused)
    if locked > here.balance:
        missing.append(f"funds: {credits_text(locked)} credits go into escrow")
    return UpdateDraft(_plan(here, own, manifest, body, data, missing), body)


def _plan(
    here: Here, own: Own, manifest: Manifest, body: UpdateDeployment, data: bytes, missing: list[str]
) -> UpdatePlan:
    record, former = own.record, own.manifest
    changes, unplaced = _slot_changes(here, own, manifest, body.manifest, data)
    fee = max(0, manifest.terms.fee - former.terms.fee) if record.fee_paid else 0
    sides = change_sides(former, manifest, lambda one: roll_of(here.state, one))
    return UpdatePlan(
        deployment=record.id.hex(),
        former=record.manifest.hex(),
        manifest=body.manifest.hex(),
        contract=body.contract.hex(),
        name=manifest.name,
        version_before=former.version,
        version=manifest.version,
        changes=[
            Changed(field=d.field, before=d.before_text, after=d.after_text)
            for d in manifest_changes(former, manifest)
        ],
        slots=changes,
        steps=[f"{w.name}: {_strategy(w.update)}" for w in in_order(manifest)],
        approvals=[
            f"{'before' if side is former else 'after'}: {describe(side.policies.of(act))}"
            for side, act, _ in sides
        ],
        approvers=[
            UpdateApprover(
                act=act, role=approver.role, keys=approver.keys, organisation=approver.organisation
            )
            for side, act, _ in sides
            for approver in approvers_of(side, (act,))
        ],
        fee=fee,
        locked=body.amount,
        returns=_returns(own, manifest, changes, here.time_ms, body.amount - fee),
        balance=here.balance,
        missing=[*missing, *unplaced],
    )


def _slot_changes(
    here: Here, own: Own, manifest: Manifest, digest: bytes, data: bytes
) -> tuple[list[SlotChange], list[str]]:
    """Kept or not by the ledger's own rule; a slot that changes is priced as if it moved now, each in the
    room that those before it leave. With it, what keeps nodes from slots that find none."""
    env = env_of(here)
    env.state.put(b"manifest/" + digest, data)
    deal = Deal(env, own.record)
    wanted = deal.side(digest)[1]
    nodes = {node.key: node for node in market(here.state)}
    farms = farms_of(here.state, nodes.values())
    held = {s.name: nodes[s.holder] for s in own.slots if s.holder in nodes}
    funded = deal.extended(digest)
    known = {slot.name: slot for slot in own.slots}
    changes: list[SlotChange] = []
    missing: list[str] = []
    for name in (*known, *(name for name in wanted if name not in known)):
        slot = known.get(name)
        rate = slot.rate_hour if slot is not None and slot.holder and slot.status != "released" else 0
        if name not in wanted:
            if slot is not None and slot.next:
                changes.append(SlotChange(slot=name, what="goes", rate_now=rate, rate_then=0))
            continue
        if slot is not None and keeps(deal, slot, digest):
            changes.append(SlotChange(slot=name, what="kept", rate_now=rate, rate_then=rate))
            continue
        workload = wanted[name]
        others = [(other, node) for other, node in held.items() if other != name]
        room = [_without(node, own, name) for node in nodes.values()]
        best = best_node(funded, workload, room, others, here.time_ms, farms)
        if best is None:
            why = "; ".join(why_none(funded, workload, room, others, here.time_ms, farms))
            missing.append(f"capacity: no node for {name} ({why})")
        else:
            nodes = {node.key: node for node in room} | {best.key: bound(best, workload.needs)}
            held[name] = best
        rate_then = -1 if best is None else slot_rate(workload, best.price)
        what: Any = "changes" if slot is not None and slot.next else "new"
        changes.append(SlotChange(slot=name, what=what, rate_now=rate, rate_then=rate_then))
    return changes, missing


def _without(node: Node, own: Own, name: str) -> Node:
    """The node when it has given back what this slot holds there."""
    slot = next((s for s in own.slots if s.name == name), None)
    if slot is None or slot.holder != node.key:
        return node
    need = {w.name: w.needs for w in own.manifest.workloads}.get(name.partition("/")[0])
    if need is None:
        return node
    return bound(node, need, -1)


def _returns(own: Own, manifest: Manifest, changes: list[SlotChange], now_ms: int, more: int) -> int:
    record = own.record
    terms = replace(
        manifest.terms,
        budget=funds_under(manifest.terms, record),
        duration_s=manifest.terms.duration_s + record.extended_s,
    )
    by_name = {w.name: w for w in manifest.workloads}
    rates = {c.slot: c.rate_then for c in changes if c.what != "goes"}
    work = [(by_name[name.partition("/")[0]], max(rate, 0)) for name, rate in rates.items()]
    left_ms = max(0, record.ends_ms - now_ms)
    wanted = needed(replace(manifest, terms=terms), record.fee_paid, work, left_ms)
    return max(0, record.escrow + more - wanted)


def _strategy(strategy: UpdateStrategy) -> str:
    canary = f"{strategy.canary} first as canary, then " if strategy.canary else ""
    return (
        f"{canary}at most {strategy.max_parallel} at a time, each healthy for {strategy.min_healthy_s} s; "
        f"a failure, or {strategy.deadline_s} s without a step, and it is "
        f"{'reverted' if strategy.on_failure == 'revert' else 'held'}"
    )
