"""Jobs whose replicas must agree (terms of a workload: `agree`): a quorum of results.

[R8] A job with `agree: k` is done when k of its replicas have found the same: then these are paid, and
     nobody else is. When no k of them agree, the deployment has failed, and the escrow pays none of them.
[Y1] A replica that is done commits to its results, which ends its term; it tells them when no other can
     commit any more, and exactly what it had committed to. So none can take over what another has found.
[Y2] Results are told when all replicas have committed; or when k have, and the others have not for as long
     again as the slowest of these took, and for at least STRAGGLER_MS_MIN: those are released, and not paid.
     Each has REVEAL_MS to tell. Missed time ([O1]) counts for neither.
[Y3] Who finds other results than those that won, or does not tell them, pays as for a broken lease (E5), and
     the term counts as failed for its node. When nothing has won, who did not tell pays all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ledger.errors import LocalError
from ledger.limits import REVEAL_MS, SIGNOFF_AGAIN_MS, STRAGGLER_MS_MIN
from ledger.manifests.types import Workload
from ledger.records import Slot
from ledger.results import agreeing
from ledger.trade_records import Agreement
from ledger.transition.deal import RUNS, Deal, replicas
from ledger.transition.escrow import penalize
from ledger.transition.lifecycle import complete_jobs, end
from ledger.transition.results import note_results
from ledger.transition.rollout import advance
from ledger.transition.slots import count_term, release_slot
from ledger.transition.withheld import agreement_of, pay_out, set_agreement, take_back

_BOUND: Final = ("committed", "succeeded")


def committed(deal: Deal, workload: Workload) -> None:
    """[Y2] After a replica has committed."""
    slots, now_ms = _slots(deal, workload), deal.env.time_ms
    bound = [slot for slot in slots if slot.status in _BOUND]
    if len(bound) == len(slots):
        _open_reveals(deal, workload)
    elif len(bound) >= workload.agree and agreement_of(deal, workload.name) is None:
        slowest_ms = max(slot.billed_ms - slot.claimed_ms for slot in bound)
        due_ms = now_ms + max(STRAGGLER_MS_MIN, slowest_ms)
        set_agreement(deal, workload.name, Agreement(False, due_ms, deal.env.missed_ms))
        deal.emit("job.enough_committed", workload=workload.name, until_ms=due_ms)


def revealed(deal: Deal, workload: Workload) -> None:
    """[Y3] After a replica has told its results."""
    if all(slot.status != "committed" for slot in _slots(deal, workload)):
        _settle(deal, workload)


def agreement_due(deal: Deal, name: str) -> None:
    """[Y2] [Y3] The timed work `agreement` of a workload."""
    found = agreement_of(deal, name)
    if found is None:
        raise LocalError(f"nothing is compared of {name} of {deal.id.hex()}")
    if deal.record.status not in RUNS:  # suspended just now: looked at again when it may run
        again_ms = deal.env.time_ms + SIGNOFF_AGAIN_MS
        set_agreement(deal, name, Agreement(found.reveals, again_ms, deal.env.missed_ms))
        return
    missed_ms = deal.env.missed_ms - found.missed_ms
    if (due_ms := found.due_ms + missed_ms) > deal.env.time_ms:
        set_agreement(deal, name, Agreement(found.reveals, due_ms, deal.env.missed_ms))
        deal.emit("job.delayed", workload=name, missed_ms=missed_ms, until_ms=due_ms)
        return
    workload = deal.workload(f"{name}/0")
    if found.reveals:
        _settle(deal, workload)
    else:
        _open_reveals(deal, workload)


def _open_reveals(deal: Deal, workload: Workload) -> None:
    """[Y2]"""
    due_ms = deal.env.time_ms + REVEAL_MS
    set_agreement(deal, workload.name, Agreement(True, due_ms, deal.env.missed_ms))
    for slot in _slots(deal, workload):
        if slot.status not in _BOUND:
            release_slot(deal, slot.name, paid=False)
    deal.emit("job.reveals", workload=workload.name, until_ms=due_ms)


def _settle(deal: Deal, workload: Workload) -> None:
    """[R8] [Y3]"""
    if deal.record.status not in RUNS:
        return  # the timed work does it
    set_agreement(deal, workload.name, None)
    slots = _slots(deal, workload)
    winners = agreeing(workload, {slot.name: slot for slot in slots})
    names = {slot.name for slot in winners}
    for slot in slots:
        if slot.status == "committed":
            take_back(deal, slot.name)
            _blame(deal, slot, "slot.silent")
            deal.set_slot(slot.name, status="failed")
        elif slot.name in names:
            pay_out(deal, slot.name)
            count_term(deal, slot.witness, "terms_kept")
        elif slot.status == "succeeded":
            take_back(deal, slot.name)
            if winners:
                _blame(deal, slot, "slot.disagrees")
    if not winners:
        told = [slot for slot in slots if slot.status == "succeeded"]
        end(deal, "failed", f"{workload.name}: at most {_most(told)} agree, {workload.agree} wanted")
        return
    deal.emit("job.agreed", workload=workload.name, agree=len(winners), replicas=len(slots))
    note_results(deal)
    advance(deal)
    complete_jobs(deal)


def _blame(deal: Deal, slot: Slot, kind: str) -> None:
    """[Y3]"""
    penalize(deal, slot.name, slot.witness)
    count_term(deal, slot.witness, "terms_failed")
    deal.emit(kind, slot=slot.name, term=slot.term, node=slot.witness.hex())


def _most(slots: Sequence[Slot]) -> int:
    found = [tuple(sorted(slot.results.items())) for slot in slots]
    return max((found.count(one) for one in found), default=0)


def _slots(deal: Deal, workload: Workload) -> list[Slot]:
    return [deal.slot(name) for name in replicas(workload)]
