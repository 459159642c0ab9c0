"""Claims and leases (design section 8).

[C1] A node claims an open slot for its next term. The first claim opens a window of CLAIM_WINDOW_MS, in
     which others may claim, too; when it closes, the state machine selects.
[C2] Who claims has a valid offer with the runtime, at a place that the workload allows.
[C3] It has the capacity free.
[C4] Replicas of a workload never share a node or farm that must be distinct.
[C5] A slot's price for the whole term fits its share of budget - fee; shares are in proportion to what
     the slots need, weighed by REFERENCE_PRICE. So all slots together never cost more than the budget.
[C6] Selection: [C2]-[C5] again, then fewest slots of this deployment on the farm, then on the node, then
     the lowest rate, then the least capacity left over, then a hash that nobody could choose.
[C7] Selected: term + 1, capacity bound, leased until the block's time + L + G.
[C8] The holder renews with its term before the lease is freed: leased anew from the block's time, billed.
[C9] At a lease's end the slot is lost and opens again; the node's broken leases count.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from ledger.errors import LocalError, Refused
from ledger.keys import hash_tagged
from ledger.limits import (
    CANDIDATES_PER_SLOT_MAX,
    CLAIM_WINDOW_MS,
    LEASE_GUARD_MS,
    LEASE_MS,
    RENEW_SLOTS_MAX,
)
from ledger.manifest import cost, slot_rate
from ledger.manifest_types import Manifest, Workload
from ledger.records import Candidate, Node, Slot, key_candidate, key_due, key_node, key_open
from ledger.transactions import Claim, Price, Renew, RenewItem
from ledger.transition.deal import Deal
from ledger.transition.env import Env
from ledger.transition.escrow import bill
from ledger.transition.lifecycle import end
from ledger.transition.slots import close_window, due_rest, free_slot, reopen_slot, use_capacity

# Weighs needs against each other, about as the market prices them: a core, a GiB of memory, a GiB of disk.
REFERENCE_PRICE: Final = Price(40_000, 10_000, 1_000)


def claim(env: Env, body: Claim) -> None:
    """[C1] Raises Refused("claim.…")."""
    deal = Deal.load(env, body.deployment, "claim.unknown_deployment")
    if body.slot not in deal.record.slots:
        raise Refused("claim.unknown_slot", "the deployment has no such slot", "slot")
    slot = deal.slot(body.slot)
    if body.term != slot.term + 1:
        raise Refused("claim.stale_term", f"the next term is {slot.term + 1}", "term")
    if env.state.get(key_open(deal.id, body.slot)) is None:
        raise Refused("claim.not_open", f"deployment {deal.record.status}, slot {slot.status}", "slot")
    node = env.need(Node, key_node(env.sender), "claim.unknown_node", "the sender is no registered node")
    _check_fit(deal, slot.name, node, _held_by(deal))
    key = key_candidate(deal.id, slot.name, env.sender)
    if env.state.get(key) is not None:
        raise Refused("claim.duplicate", "the node is a candidate already")
    others = env.state.scan(key_candidate(deal.id, slot.name, b""), limit=CANDIDATES_PER_SLOT_MAX)
    if sum(1 for _ in others) >= CANDIDATES_PER_SLOT_MAX:
        raise Refused("claim.too_many_candidates", f"at most {CANDIDATES_PER_SLOT_MAX} in one window")
    env.write(key, Candidate(env.sender, env.height))
    if not slot.window_closes_ms:
        closes_ms = env.time_ms + CLAIM_WINDOW_MS
        env.state.put(key_due(closes_ms, "window", due_rest(deal.id, slot.name)), b"")
        deal.set_slot(slot.name, window_closes_ms=closes_ms)
    deal.emit("slot.candidate", slot=slot.name, term=body.term, node=env.sender.hex())


Held = list[tuple[str, Node]]  # slot name and holder, for each held slot of a deployment


def _held_by(deal: Deal) -> Held:
    out: Held = []
    for name in deal.record.slots:
        holder = deal.slot(name).holder
        if holder:
            out.append((name, deal.env.must(Node, key_node(holder))))
    return out


def _check_fit(deal: Deal, name: str, node: Node, held: Held) -> None:
    """[C2]–[C5] Raises Refused("claim.…")."""
    workload = deal.workload(name)
    _check_offer(workload, node, deal.env.time_ms)
    needs = workload.resources
    if (
        needs.cpu_millis > node.cpu_millis - node.used_cpu_millis
        or needs.memory_bytes > node.memory_bytes - node.used_memory_bytes
        or needs.disk_bytes > node.disk_bytes - node.used_disk_bytes
    ):
        raise Refused("claim.capacity", "the node has not enough free for this slot")
    distinct = workload.placement.distinct
    if distinct != "none":
        for other, holder in held:
            if deal.workload(other).name == workload.name and (
                holder.key == node.key or (distinct == "farm" and holder.farm == node.farm)
            ):
                raise Refused("claim.distinct", f"its {distinct} holds {other} already")
    duration_ms = deal.manifest.terms.duration_s * 1000
    share = slot_share(deal.manifest, workload)
    wanted = cost(slot_rate(workload, node.price), 0, duration_ms)
    if wanted > share:
        raise Refused("claim.price", f"{wanted} for the whole term, the slot's share is {share}")


def _check_offer(workload: Workload, node: Node, now_ms: int) -> None:
    """[C2]"""
    if node.valid_until_ms <= now_ms:
        raise Refused("claim.offer", "the node has no valid offer")
    if workload.runtime not in node.runtimes:
        raise Refused("claim.runtime", f"the node does not offer {workload.runtime}")
    placement = workload.placement
    if placement.countries and node.country not in placement.countries:
        raise Refused("claim.country", f"{node.country}, wanted {', '.join(placement.countries)}")
    if placement.farms and node.farm not in placement.farms:
        raise Refused("claim.farm", f"{node.farm}, wanted {', '.join(placement.farms)}")


def slot_share(manifest: Manifest, workload: Workload) -> int:
    """[C5] Micro-credits that one slot of this workload may cost over the whole term."""
    weights = {w.name: slot_rate(w, REFERENCE_PRICE) for w in manifest.workloads}
    total = sum(weights[w.name] * w.replicas for w in manifest.workloads)
    if total == 0:
        return 0
    return (manifest.terms.budget - manifest.terms.fee) * weights[workload.name] // total


def select(deal: Deal, name: str) -> None:
    """[C6] The timed work `window`: the best candidate gets the slot, or nobody."""
    env = deal.env
    held = _held_by(deal)
    best: tuple[tuple[int | bytes, ...], Node] | None = None
    prefix = key_candidate(deal.id, name, b"")
    for key, _ in list(env.state.scan(prefix)):
        node = env.must(Node, key_node(key[len(prefix) :]))
        try:
            _check_fit(deal, name, node, held)
        except Refused:
            continue  # it fitted when it claimed; another slot was faster
        ranked = _rank(deal, name, node, held), node
        if best is None or ranked[0] < best[0]:
            best = ranked
    close_window(deal, name)
    if best is None:
        deal.emit("slot.unclaimed", slot=name, term=deal.slot(name).term)
    else:
        _lease(deal, name, best[1])


def _rank(deal: Deal, name: str, node: Node, held: Held) -> tuple[int | bytes, ...]:
    """[C6] Smallest first. The hash makes it a total order: no two nodes share one."""
    workload = deal.workload(name)
    needs = workload.resources
    return (
        sum(1 for _, holder in held if holder.farm == node.farm),
        sum(1 for _, holder in held if holder.key == node.key),
        slot_rate(workload, node.price),
        node.cpu_millis - node.used_cpu_millis - needs.cpu_millis,
        node.memory_bytes - node.used_memory_bytes - needs.memory_bytes,
        node.disk_bytes - node.used_disk_bytes - needs.disk_bytes,
        hash_tagged("select/1", deal.env.seed + deal.id + name.encode() + node.key),
    )


def _lease(deal: Deal, name: str, node: Node) -> None:
    """[C7]"""
    env, workload, now = deal.env, deal.workload(name), deal.env.time_ms
    lease_until_ms = now + LEASE_MS + LEASE_GUARD_MS
    use_capacity(env, node.key, workload.resources, 1)
    env.state.delete(key_open(deal.id, name))
    env.state.put(key_due(lease_until_ms, "lease", due_rest(deal.id, name)), b"")
    slot = deal.set_slot(
        name,
        status="claimed",
        term=deal.slot(name).term + 1,
        holder=node.key,
        lease_until_ms=lease_until_ms,
        renewed_ms=now,
        claimed_ms=now,
        billed_ms=now,
        rate_hour=slot_rate(workload, node.price),
        endpoints={},
        results={},
        detail="",
        receipts=0,
    )
    if not deal.record.claimed_ms:
        deal.set(claimed_ms=now)
    deal.emit(
        "slot.claimed",
        slot=name,
        term=slot.term,
        node=node.key.hex(),
        farm=node.farm,
        rate_hour=slot.rate_hour,
        lease_until_ms=lease_until_ms,
    )


def renew(env: Env, body: Renew) -> None:
    """[C8] Each item by itself; raises Refused("renew.…") when none of them could be renewed."""
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
            env.emit("lease.refused", item.deployment, slot=item.slot, term=item.term, rule=error.rule)
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
    env, rest = deal.env, due_rest(deal.id, slot.name)
    if not bill(deal, slot.name, env.time_ms):
        end(deal, "paused", "the escrow cannot pay any more")
        return
    lease_until_ms = env.time_ms + LEASE_MS + LEASE_GUARD_MS
    env.state.delete(key_due(slot.lease_until_ms, "lease", rest))
    env.state.put(key_due(lease_until_ms, "lease", rest), b"")
    deal.set_slot(slot.name, lease_until_ms=lease_until_ms, renewed_ms=env.time_ms)


def lease_over(deal: Deal, name: str) -> None:
    """[C9] The timed work `lease`; a released slot is only freed now."""
    env, slot = deal.env, deal.slot(name)
    if not slot.holder:
        raise LocalError(f"slot {name} of {deal.id.hex()} has no holder whose lease could end")
    if slot.status != "released":
        deal.set_slot(name, status="lost")
        node = env.must(Node, key_node(slot.holder))
        env.write(key_node(slot.holder), replace(node, broken_leases=node.broken_leases + 1))
        deal.emit("slot.lost", slot=name, term=slot.term, node=slot.holder.hex())
    free_slot(deal, name)
    reopen_slot(deal, name)
