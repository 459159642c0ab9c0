"""A slot's life between its holders: opened, released by the ledger, freed, opened again.

[S1] `open/` lists exactly the slots that may be claimed now: no holder, and a deployment approved.
[S2] When the ledger stops a slot (withdrawn approval, cancel, end), it is released: billed to now, no
     renewal any more; holder and capacity stay bound until the holder reports the stop or its lease
     ends. So no second holder can start while the first may still run.
[S3] Freeing gives the holder's capacity back, once.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from ledger.fit import bound
from ledger.manifests.types import Needs, Workload
from ledger.records import Node, Slot, key_candidate, key_due, key_held, key_node, key_open
from ledger.results import agreeing
from ledger.transition.deal import RUNS, Deal, replicas
from ledger.transition.env import Env
from ledger.transition.escrow import bill
from ledger.transition.withheld import agreement_of, pay_out, take_back

NEW_SLOT: Final = Slot(b"", "", "open", 0, b"", 0, 0, 0, 0, 0, 0, 0, {}, {}, "")


def due_rest(deployment: bytes, name: str) -> bytes:
    """The part of a due key that names a slot."""
    return deployment + b"/" + name.encode()


def open_slot(deal: Deal, name: str) -> None:
    """[S1] Let nodes claim a slot that nobody holds. Nothing happens when its job needs no more replicas, or
    no manifest has it any more."""
    workload = deal.workload(name) if deal.slot(name).next else None
    if workload is None or agreed(deal, workload) or _reveals(deal, workload):
        return
    deal.set_slot(name, status="open")
    deal.env.state.put(key_open(deal.id, name), b"")
    deal.emit("slot.open", slot=name, term=deal.slot(name).term)


def open_free_slots(deal: Deal) -> None:
    """[S1] Open all that nobody holds and that still have something to do."""
    for name in deal.record.slots:
        slot = deal.slot(name)
        if not slot.holder and slot.status not in ("succeeded", "committed"):
            open_slot(deal, name)


def close_window(deal: Deal, name: str) -> None:
    """Drop the slot's claim window, its candidates and its timed work."""
    env, slot = deal.env, deal.slot(name)
    if not slot.window_closes_ms:
        return
    for key, _ in list(env.state.scan(key_candidate(deal.id, name, b""))):
        env.state.delete(key)
    env.state.delete(key_due(slot.window_closes_ms, "window", due_rest(deal.id, name)))
    deal.set_slot(name, window_closes_ms=0)


def release_slot(deal: Deal, name: str, *, paid: bool = True) -> None:
    """[S2] Stop a slot; one that nobody holds is only taken off the open list. `paid`: what was withheld of
    it ([Y4])."""
    slot = deal.slot(name)
    if slot.status == "open":
        close_window(deal, name)
        deal.env.state.delete(key_open(deal.id, name))
        deal.set_slot(name, status="released")
    elif slot.holder and slot.status != "released":
        bill(deal, name, deal.env.time_ms)
        (pay_out if paid else take_back)(deal, name)
        deal.set_slot(name, status="released", endpoints={})
        deal.emit("slot.released", slot=name, term=slot.term, node=slot.holder.hex())


def free_slot(deal: Deal, name: str) -> Slot:
    """[S3] Take the slot from its holder; returns the new record. The caller sets the status first."""
    env, slot = deal.env, deal.slot(name)
    env.state.delete(key_due(slot.lease_until_ms, "lease", due_rest(deal.id, name)))
    env.state.delete(key_held(slot.holder, deal.id, name))
    use_capacity(env, slot.holder, deal.term_workload(slot).needs, -1)
    deal.emit("slot.freed", slot=name, term=slot.term, node=slot.holder.hex())
    return deal.set_slot(name, holder=b"", lease_until_ms=0, endpoints={})


def reopen_slot(deal: Deal, name: str) -> None:
    """[S1] Open a freed slot again when its deployment runs with approval, unless it is open already."""
    if deal.record.status in RUNS and not deal.record.lost_ms and deal.slot(name).status != "open":
        open_slot(deal, name)


def use_capacity(env: Env, node_key: bytes, needs: Needs, sign: int) -> None:
    """Bind (+1) or give back (-1) what one slot needs on a node."""
    key = key_node(node_key)
    node = env.must(Node, key)
    env.write(key, replace(bound(node, needs, sign), slots_held=node.slots_held + sign))


def count_term(deal: Deal, node_key: bytes, field: str) -> None:
    """[R7] A term of this node has ended."""
    node = deal.env.must(Node, key_node(node_key))
    deal.env.write(key_node(node_key), replace(node, **{field: getattr(node, field) + 1}))


def _reveals(deal: Deal, workload: Workload) -> bool:
    """Whether its replicas tell their results now ([Y2])."""
    found = agreement_of(deal, workload.name) if workload.agree else None
    return found is not None and found.reveals


def finished(deal: Deal, workload: Workload) -> bool:
    """Whether all replicas of a job succeeded, or, when they must agree, so many did that the rest was
    released."""
    if workload.agree:
        return agreed(deal, workload) and not _reveals(deal, workload)
    return all(deal.slot(name).status == "succeeded" for name in replicas(workload))


def agreed(deal: Deal, workload: Workload) -> bool:
    """Whether so many replicas of a job as must agree do so ([R8]): it needs no other slot any more."""
    if not workload.agree:
        return False
    return bool(agreeing(workload, {name: deal.slot(name) for name in replicas(workload)}))
