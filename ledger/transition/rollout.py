"""How an approved update changes slots over, step by step.

[U5] Approved, an update rolls: its workloads change over one after the other, what they depend on first, each
     by its own strategy: canaries first, and nothing else until these are healthy; then at most
     `max_parallel` that are not healthy yet. While the deployment runs on without approval, no slot changes
     over.
[U6] A slot that changed over and fails or is quarantined, or no step forward within the deadline (missed time
     is not counted), ends the update: it is reverted, or held for as long as an approval counts, for the
     consumer to cancel it or to go on; then it is reverted.
[U9] When every slot that changed over is healthy, the new manifest is in force: slots that it does not have
     are released, the author is paid what the new fee is more than the former, and what the escrow does not
     need for the rest of the term goes back to the consumer. Approvals of the update are those of the new
     manifest; a sign-off is asked for anew.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from ledger.manifests.types import Manifest, UpdateStrategy, Workload
from ledger.records import Slot, key_slot
from ledger.trade_records import UpdateRecord
from ledger.transition.deal import RUNS, Deal, funds_under, replicas
from ledger.transition.escrow import pay_more_fee
from ledger.transition.lifecycle import complete_jobs, drop_precedent, set_judge
from ledger.transition.results import forget_results, note_results
from ledger.transition.slots import NEW_SLOT, finished
from ledger.transition.switch import (
    close_update,
    drop_approval_dues,
    give_back,
    keeps,
    set_update_due,
    set_update_judge,
    spare,
    switch,
    switch_all,
    under_way,
)


def begin(deal: Deal) -> None:
    """[U5] The update is approved."""
    update = under_way(deal)
    known = set(deal.record.slots)
    added = tuple(name for name in deal.side(update.manifest)[1] if name not in known)
    for name in added:
        deal.env.write(
            key_slot(deal.id, name), replace(NEW_SLOT, deployment=deal.id, name=name, status="released")
        )
    deal.set(slots=(*deal.record.slots, *added))
    deal.set_update(status="rolling", approved_ms=deal.env.time_ms)
    forget_results(deal)
    deal.emit("update.approved", number=update.number, manifest=update.manifest.hex())
    _stepped(deal)
    advance(deal)


def advance(deal: Deal) -> None:
    """[U5] [U6] [U9] Go as far as it goes now. Nothing happens when no update rolls."""
    update = deal.update
    if update is None or update.status != "rolling" or deal.record.status not in RUNS:
        return
    now_ms = deal.env.time_ms
    for workload in in_order(deal.side(update.manifest)[0]):
        step = _Step(deal, update, workload)
        if step.over:
            continue
        if step.moved:
            _stepped(deal)
        deadline_ms = _deadline_ms(deal, workload.update.deadline_s)
        if now_ms >= deadline_ms:
            fail(deal, workload, f"{step.waits_for} is not healthy after {workload.update.deadline_s} s")
        else:
            set_update_due(deal, min(deadline_ms, step.look_ms or deadline_ms))
        return
    if not deal.record.lost_ms:
        _complete(deal)
    else:  # judged again then
        set_update_due(deal, now_ms + UpdateStrategy().deadline_s * 1000)


class _Step:
    """What is to be done for one workload now, and done. `over`: nothing, all of it is healthy."""

    def __init__(self, deal: Deal, update: UpdateRecord, workload: Workload) -> None:
        self.moved = False
        self.look_ms = 0
        strategy, changed, waiting, left = workload.update, 0, [], []
        for name in replicas(workload):
            slot = deal.slot(name)
            if slot.next != update.manifest:
                if keeps(deal, slot, update.manifest):
                    deal.set_slot(name, next=update.manifest)
                    self.moved = True
                else:
                    left.append(name)
            elif slot.switched == update.number:
                changed += 1
                if not self._is_healthy(deal, update, slot, strategy):
                    waiting.append(name)
        if workload.agree and not left and finished(deal, workload):
            waiting = []  # [R8] enough agree: the others are not waited for
        room = _room(deal, strategy, changed, len(waiting))
        next_: dict[str, bytes] = {}
        if left and _together(deal, workload):
            room, next_ = len(left), dict.fromkeys(_dropped(deal, workload), b"")
        next_ |= dict.fromkeys(left[:room], update.manifest)
        switch_all(deal, next_, update.number)
        for name in next_:
            deal.emit("slot.switched", slot=name, number=update.number, term=deal.slot(name).term)
        waiting += left[:room]
        self.moved |= bool(next_)
        self.over = not left and not waiting
        self.waits_for = (waiting or left or [""])[0]

    def _is_healthy(self, deal: Deal, update: UpdateRecord, slot: Slot, strategy: UpdateStrategy) -> bool:
        if slot.manifest != update.manifest:
            return False
        if slot.status == "succeeded":
            return True
        if slot.status != "running":
            return False
        healthy_ms = slot.running_ms + strategy.min_healthy_s * 1000
        if healthy_ms <= deal.env.time_ms:
            return True
        self.look_ms = min(self.look_ms or healthy_ms, healthy_ms)
        return False


def _former(deal: Deal, workload: Workload) -> Workload:
    """The workload of this name in the manifest in force; itself when there is none."""
    return next((one for one in deal.manifest.workloads if one.name == workload.name), workload)


def _together(deal: Deal, workload: Workload) -> bool:
    """[Y10] Whether all replicas of a workload change over at once, now."""
    return bool(workload.agree or _former(deal, workload).agree) and not deal.record.lost_ms


def _dropped(deal: Deal, workload: Workload) -> list[str]:
    """[Y10] Replicas that the other manifest does not have: they tell nobody's results any more."""
    return [name for name in replicas(_former(deal, workload)) if name not in replicas(workload)]


def _room(deal: Deal, strategy: UpdateStrategy, changed: int, waiting: int) -> int:
    """How many more may change over."""
    if deal.record.lost_ms:
        return 0
    if changed < strategy.canary:
        return strategy.canary - changed
    if waiting and changed == strategy.canary:
        return 0
    return max(0, strategy.max_parallel - waiting)


def in_order(manifest: Manifest) -> Iterator[Workload]:
    """What others depend on first, else as the manifest has them."""
    left: list[Workload] = list(manifest.workloads)
    done: set[str] = set()
    while left:
        workload = next(w for w in left if done.issuperset(w.depends_on))
        left.remove(workload)
        done.add(workload.name)
        yield workload


def _stepped(deal: Deal) -> None:
    deal.set_update(step_ms=deal.env.time_ms, step_missed_ms=deal.env.missed_ms)


def _deadline_ms(deal: Deal, span_s: int) -> int:
    """So long after the last step, without missed time ([O1])."""
    update = under_way(deal)
    return update.step_ms + span_s * 1000 + deal.env.missed_ms - update.step_missed_ms


def fail(deal: Deal, workload: Workload, reason: str) -> None:
    """[U6]"""
    if workload.update.on_failure == "revert":
        close_update(deal, "reverted", reason)
        return
    update = under_way(deal)
    _stepped(deal)
    deal.set_update(status="held", reason=reason)
    set_update_due(deal, _deadline_ms(deal, deal.manifest.policies.validity_s))
    deal.emit("update.held", number=update.number, reason=reason, until_ms=under_way(deal).due_ms)


def slot_failed(deal: Deal, slot: Slot, reason: str) -> bool:
    """[U6] True when a slot that was given up is the update's failure, not one of the deployment."""
    update = deal.update
    if update is None or slot.manifest != update.manifest or slot.switched != update.number:
        return False
    if update.status == "rolling":
        fail(deal, deal.side(update.manifest)[1][slot.name], f"{slot.name} {slot.status}: {reason}"[:300])
    return True


def go_on(deal: Deal) -> None:
    """[U6] The consumer lets a held update go on."""
    update = deal.set_update(status="rolling", reason="")
    _stepped(deal)
    deal.emit("update.resumed", number=update.number)
    advance(deal)


def update_over(deal: Deal) -> None:
    """[U4] [U5] [U6] The timed work `update`: time to look again."""
    update = under_way(deal)
    set_update_due(deal, 0)
    if update.status == "rolling":
        advance(deal)
        return
    until_ms = _deadline_ms(deal, deal.manifest.policies.validity_s)
    if until_ms > deal.env.time_ms:  # there was an outage
        set_update_due(deal, until_ms)
    elif update.status == "held":
        close_update(deal, "reverted", f"held for too long: {update.reason}")
    else:
        close_update(deal, "expired", "not approved in time")


def await_approval(deal: Deal) -> None:
    """[U4] It waits for its approval as long as an approval counts."""
    set_update_due(deal, _deadline_ms(deal, deal.manifest.policies.validity_s))


def _complete(deal: Deal) -> None:
    """[U9]"""
    update = under_way(deal)
    wanted = deal.side(update.manifest)[1]
    for name in deal.record.slots:
        if name not in wanted and deal.slot(name).next:
            switch(deal, name, b"")
    set_update_due(deal, 0)
    set_update_judge(deal, 0)
    set_judge(deal, "signoff", 0)
    drop_approval_dues(deal, deal.record.generation)
    drop_precedent(deal)
    former_fee = deal.manifest.terms.fee
    deal.set(
        manifest=update.manifest,
        contract=update.contract,
        generation=update.number,
        ground=update.ground,
        updating=b"",
        asked_ms=update.requested_ms,
        precedent_ms=update.precedent_ms,
        signed_off_ms=0,
    )
    deal.set(funded=funds_under(deal.manifest.terms, deal.record))
    pay_more_fee(deal, former_fee)
    refunded = spare(deal)
    give_back(deal, deal.record.consumer, refunded)
    deal.set_update(status="done", ended_ms=deal.env.time_ms, refunded=refunded)
    manifest = deal.record.manifest.hex()
    deal.emit("update.done", number=update.number, manifest=manifest, refunded=refunded)
    note_results(deal)
    set_judge(deal, "deploy", deal.env.time_ms + 1)  # its approvals, by what is asked of them from now on
    complete_jobs(deal)
