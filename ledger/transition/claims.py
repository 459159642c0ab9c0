"""Claims: who may have a slot, and who gets it (design section 8, rules 1 to 3).

[C1] A node claims an open slot for its next term. The first claim opens a window of CLAIM_WINDOW_MS, in
     which others may claim, too; when it closes, the state machine selects.
[C2] Who claims has a valid offer with the runtime, at a place that the workload allows.
[C3] It has the capacity free: cores, memory, SSD (the scratch, and volumes on it) and hard disk, each for
     itself.
[C4] Replicas of a workload never share a node, farm or country that must be distinct, nor more of them than
     its spread allows; slots of workloads that stay apart never share one; a claim that would leave too few
     replicas to reach min_farms is refused.
[C5] A slot's price for the whole term fits its share of budget - fee; shares are in proportion to what
     the slots need, weighed by REFERENCE_PRICE. So all slots together never cost more than the budget.
[C6] Selection: [C2]-[C5] again, then the node that has the slot's volumes, then fewest slots of this
     deployment on the farm, then on the node, then the lowest rate, then the least capacity left over, then a
     hash that nobody could choose.
[C7] Selected: term + 1, capacity bound, leased until the block's time + L + G.
[C8] A slot of a workload that depends on others is given out when all their services run and all their jobs
     have succeeded. What runs goes on when one of those stops later.
[C9] No price of the offer is above the cap that the terms name.
[C10] The offer says `enforced` of all that the workload asks for beside its runtime: isolation by name,
      secrets, egress and volumes.
[C11] A slot whose volumes are on a node goes to that node alone, unless of each of them a copy is recorded
      ([C13]), or it may begin empty elsewhere (`if_lost: empty`). They are there from its holder's `verified`
      on, and nothing of it starts before that is final.
"""

from __future__ import annotations

from ledger.errors import Refused
from ledger.fit import Held, misfits, neighbours, rank, waits_for
from ledger.keys import hash_tagged
from ledger.limits import (
    CANDIDATES_PER_SLOT_MAX,
    CLAIM_WINDOW_MS,
    LEASE_GUARD_MS,
    LEASE_MS,
)
from ledger.manifests.expansion import slot_rate
from ledger.records import (
    Candidate,
    Farm,
    Node,
    key_candidate,
    key_due,
    key_farm,
    key_held,
    key_node,
    key_open,
)
from ledger.transactions import Claim
from ledger.transition.copies import copied
from ledger.transition.deal import Deal
from ledger.transition.env import Env
from ledger.transition.slots import close_window, due_rest, use_capacity


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
    _check_order(deal, slot.name)
    _check_home(deal, slot.name, env.sender)
    concerned = neighbours(deal.side(slot.next)[0], deal.workload(slot.name))
    _check_fit(deal, slot.name, node, _held_by(deal, concerned))
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


def _check_order(deal: Deal, name: str) -> None:
    """[C8]"""
    workload = deal.workload(name)
    if not workload.depends_on:
        return
    slots = [s for s in deal.record.slots if s.partition("/")[0] in workload.depends_on]
    manifest = deal.side(deal.slot(name).next)[0]
    missing = waits_for(manifest, workload, {slot: deal.slot(slot).status for slot in slots})
    if missing:
        raise Refused("claim.depends_on", f"{workload.name} waits for {missing}", "slot")


def _check_home(deal: Deal, name: str, node: bytes) -> None:
    """[C11]"""
    home = deal.slot(name).home
    if not home or home == node:
        return
    waits = {volume.name for volume in deal.workload(name).volumes if volume.if_lost == "wait"}
    if not waits <= copied(deal, name):
        raise Refused("claim.volume", f"its volumes are on node {home.hex()[:10]}", "slot")


def _held_by(deal: Deal, workloads: frozenset[str] | None = None) -> list[tuple[str, Node]]:
    """Held slots of the deployment; of some workloads only, when these are all that matter to a claim."""
    out: list[tuple[str, Node]] = []
    for name in deal.record.slots:
        if workloads is not None and name.partition("/")[0] not in workloads:
            continue
        holder = deal.slot(name).holder
        if holder:
            out.append((name, deal.env.must(Node, key_node(holder))))
    return out


def _check_fit(deal: Deal, name: str, node: Node, held: Held) -> None:
    """[C2]–[C5] [C9] [C10] Raises Refused("claim.…")."""
    workload, env = deal.workload(name), deal.env
    manifest = deal.extended(deal.slot(name).next)
    farms = {}
    if workload.placement.farm_certified_by:
        farms[node.farm] = env.must(Farm, key_farm(node.farm)).certified
    for misfit in misfits(manifest, workload, node, held, env.time_ms, farms):
        raise misfit


def select(deal: Deal, name: str) -> None:
    """[C6] The timed work `window`: the best candidate gets the slot, or nobody."""
    env = deal.env
    held = _held_by(deal)
    best: tuple[tuple[int | bytes, ...], Node] | None = None
    prefix = key_candidate(deal.id, name, b"")
    for key, _ in list(env.state.scan(prefix)):
        node = env.must(Node, key_node(key[len(prefix) :]))
        try:
            _check_order(deal, name)
            _check_home(deal, name, node.key)
            _check_fit(deal, name, node, held)
        except Refused:
            continue  # it fitted when it claimed; another slot was faster
        tie = hash_tagged("select/1", env.seed + deal.id + name.encode() + node.key)
        away = int(deal.slot(name).home not in (b"", node.key))
        ranked = (away, *rank(deal.workload(name), node, held, tie)), node
        if best is None or ranked[0] < best[0]:
            best = ranked
    close_window(deal, name)
    if best is None:
        deal.emit("slot.unclaimed", slot=name, term=deal.slot(name).term)
    else:
        _lease(deal, name, best[1])


def _lease(deal: Deal, name: str, node: Node) -> None:
    """[C7]"""
    env, workload, now = deal.env, deal.workload(name), deal.env.time_ms
    lease_until_ms = now + LEASE_MS + LEASE_GUARD_MS
    use_capacity(env, node.key, workload.needs, 1)
    env.state.delete(key_open(deal.id, name))
    env.state.put(key_held(node.key, deal.id, name), b"")
    env.state.put(key_due(lease_until_ms, "lease", due_rest(deal.id, name)), b"")
    slot = deal.set_slot(
        name,
        status="claimed",
        manifest=deal.slot(name).next,
        running_ms=0,
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
        witness=b"",
        commitment=b"",
        missed_ms=env.missed_ms,
        missed_renewed_ms=env.missed_ms,
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
