"""Leases: how long a holder keeps its slot (design section 8, rules 3 to 5).

[L1] The holder renews with its term before the lease is freed: leased anew from the block's time, billed.
     Each item of a renewal stands alone.
[L2] When the escrow cannot pay the stretch, the deployment is paused for its grace (D13), or has failed:
     released, settled, refunded.
[L3] At a lease's end the slot is lost and opens again. When no time was missed since its last renewal (O1)
     the lease is broken: the node's broken leases count, and the farmer pays (E5).
[L4] Where it ends because of missed time, and the slot's workload may run past its lease (`available`), its
     holder has the time of another lease to renew instead: what went on through an outage is not moved.
"""

from __future__ import annotations

from msgspec.structs import replace

from ledger.errors import LocalError, Refused
from ledger.limits import LEASE_GUARD_MS, LEASE_MS, NAME_CHARS_MAX, RENEW_SLOTS_MAX
from ledger.records import Node, Slot, key_due, key_node
from ledger.transactions import Renew, RenewItem
from ledger.transition.deal import Deal
from ledger.transition.env import Env
from ledger.transition.escrow import bill, penalize
from ledger.transition.grace import out_of_money
from ledger.transition.notices import look_at_escrow
from ledger.transition.slots import due_rest, free_slot, reopen_slot
from ledger.transition.withheld import take_back


def renew(env: Env, body: Renew) -> None:
    """[L1] Raises Refused("renew.…") when none of them could be renewed."""
    if not 1 <= len(body.items) <= RENEW_SLOTS_MAX:
        raise Refused("renew.items", f"1 to {RENEW_SLOTS_MAX}", "items")
    if len({(item.deployment, item.slot) for item in body.items}) != len(body.items):
        raise Refused("renew.items", "a slot is named twice", "items")
    refused: list[Refused] = []
    for item in body.items:
        try:
            deal, slot = _renewable(env, item)
        except Refused as error:
            refused.append(error)
            subject, name = item.deployment.hex()[:64], item.slot[:NAME_CHARS_MAX]  # foreign, so bounded
            env.emit("lease.refused", subject, slot=name, term=item.term, rule=error.rule)
            continue
        _extend(deal, slot)
    if len(refused) == len(body.items):
        raise refused[0]
    env.emit("lease.renewed", env.sender, slots=len(body.items) - len(refused))


def _renewable(env: Env, item: RenewItem) -> tuple[Deal, Slot]:
    deal = Deal.load(env, item.deployment, "renew.unknown_deployment")
    if item.slot not in deal.record.slots:
        raise Refused("renew.unknown_slot", "the deployment has no such slot", "slot")
    slot = deal.slot(item.slot)
    if item.term != slot.term:
        raise Refused("renew.stale_term", f"the slot is at term {slot.term}", "term")
    if slot.holder != env.sender:
        raise Refused("renew.not_holder", "the sender does not hold the slot", "slot")
    if slot.status == "released":
        raise Refused("renew.released", f"the slot was released: deployment {deal.record.status}", "slot")
    if slot.lease_until_ms <= env.time_ms:
        raise Refused("renew.lapsed", f"the lease ended at {slot.lease_until_ms}", "slot")
    return deal, slot


def _extend(deal: Deal, slot: Slot) -> None:
    """[L1] [L2] [I3]"""
    env = deal.env
    if not bill(deal, slot.name, env.time_ms):
        out_of_money(deal)
        return
    _lease_anew(deal, slot)
    deal.set_slot(slot.name, renewed_ms=env.time_ms)
    look_at_escrow(deal)


def _lease_anew(deal: Deal, slot: Slot) -> None:
    """From now on."""
    env, rest = deal.env, due_rest(deal.id, slot.name)
    lease_until_ms = env.time_ms + LEASE_MS + LEASE_GUARD_MS
    env.state.delete(key_due(slot.lease_until_ms, "lease", rest))
    env.state.put(key_due(lease_until_ms, "lease", rest), b"")
    deal.set_slot(slot.name, lease_until_ms=lease_until_ms, missed_renewed_ms=env.missed_ms)


def _runs_on(deal: Deal, slot: Slot) -> bool:
    """[L4] By its own clock, its holder has not stopped yet."""
    workload = deal.term_workload(slot)
    until_ms = slot.renewed_ms + LEASE_MS + workload.available_s * 1000
    return workload.available_s > 0 and slot.status == "running" and deal.env.time_ms <= until_ms


def lease_over(deal: Deal, name: str) -> None:
    """[L3] The timed work `lease`; a released slot is only freed now."""
    env, slot = deal.env, deal.slot(name)
    if not slot.holder:
        raise LocalError(f"slot {name} of {deal.id.hex()} has no holder whose lease could end")
    if slot.status != "released":
        missed_ms = env.missed_ms - slot.missed_renewed_ms
        if missed_ms and _runs_on(deal, slot):
            _lease_anew(deal, slot)
            return
        take_back(deal, name)
        deal.set_slot(name, status="lost")
        if not missed_ms:
            node = env.must(Node, key_node(slot.holder))
            env.write(key_node(slot.holder), replace(node, broken_leases=node.broken_leases + 1))
            penalize(deal, name, slot.holder)
        deal.emit("slot.lost", slot=name, term=slot.term, node=slot.holder.hex(), missed_ms=missed_ms)
    free_slot(deal, name)
    reopen_slot(deal, name)
