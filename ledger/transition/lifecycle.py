"""A deployment's way: approved, suspended, active, completed, ended. Called by transactions and timed work.

[D2] An order waits for its approval as long as the policy's validity, then it expires.
[D3] Its term runs from the first approval for terms.duration; a suspension does not stop that clock, an
     outage of the notary does (O1).
[D4] Suspended (a needed approval was withdrawn or has expired): slots released, back to awaiting approval;
     terms count on. Approved again: slots open again.
[D8] With `on_revoked: run_until`, a deployment that loses its approval runs on for that long first: holders
     keep and renew their slots, but no slot is open to claims. Approved again within it, slots open again;
     not, it is suspended. A rejection for good ends it at once all the same.
[D9] Approved by signatures, a deployment is the precedent of its manifest, until its approval is lost; where
     the deploy policy asks for one. An order keeps what it found.
[D5] Active with the first slot that runs. Completed when all jobs succeeded and there is no service, or when
     the term of a deployment that ran is over; expired when it never ran.
[D6] At its end all slots are released and billed, the rest is refunded. A completed job keeps its escrow
     until it is signed off, or its term is over.
"""

from __future__ import annotations

from ledger.errors import LocalError
from ledger.limits import DETAIL_CHARS_MAX
from ledger.policies.decision import rules_in
from ledger.records import DeploymentStatus, Precedent, key_due, key_precedent
from ledger.transition.copies import forget_copies
from ledger.transition.deal import Deal
from ledger.transition.escrow import bill, pay_fee, refund
from ledger.transition.results import await_release, forget_results, set_release_judge
from ledger.transition.slots import finished, open_free_slots, release_slot
from ledger.transition.switch import drop_approval_dues, drop_update, set_update_judge
from ledger.transition.withheld import drop_agreements
from ledger.warnings import lead_ms


def set_end(deal: Deal, time_ms: int) -> None:
    """Move the `duration` timed work, and its notice ([I1]); 0 removes both."""
    state, now_ms = deal.env.state, deal.env.time_ms
    if deal.record.ends_ms:
        state.delete(key_due(deal.record.ends_ms, "duration", deal.id))
    if deal.record.notice_ms:
        state.delete(key_due(deal.record.notice_ms, "notice", deal.id))
    lead = lead_ms(time_ms - now_ms)
    notice_ms = time_ms - lead if lead > 0 else 0
    if time_ms:
        state.put(key_due(time_ms, "duration", deal.id), b"")
    if notice_ms:
        state.put(key_due(notice_ms, "notice", deal.id), b"")
    deal.set(ends_ms=time_ms, missed_ms=deal.env.missed_ms, notice_ms=notice_ms)


def delayed(deal: Deal) -> bool:
    """[O1] Whether time was missed since its end was set: then that is later by as much from now on."""
    ends_ms, missed_ms = deal.ends_ms, deal.env.missed_ms - deal.record.missed_ms
    if missed_ms:
        set_end(deal, ends_ms)
        deal.emit("deployment.delayed", missed_ms=missed_ms, ends_ms=ends_ms)
    return bool(missed_ms)


def ends_soon(deal: Deal) -> None:
    """[I1] The timed work `notice`. After an outage its end is later, and so is this ([O1])."""
    # An end that has come all the same stays where the timed work of this block finds it.
    if deal.ends_ms > deal.env.time_ms and delayed(deal):
        return
    record = deal.record
    deal.env.state.delete(key_due(record.notice_ms, "notice", deal.id))
    deal.set(notice_ms=0)
    if record.status != "completed":
        deal.emit("deployment.ends_soon", status=record.status, ends_ms=deal.ends_ms)


def set_judge(deal: Deal, act: str, time_ms: int) -> None:
    """Move the `judge` timed work of an act; 0 removes it."""
    if act in ("update", "release"):
        (set_update_judge if act == "update" else set_release_judge)(deal, time_ms)
        return
    field = "judge_ms" if act == "deploy" else "signoff_judge_ms"
    before_ms = getattr(deal.record, field)
    if before_ms != time_ms:
        deal.env.move_due("judge", deal.id + b"/" + act.encode(), before_ms, time_ms)
        deal.set(**{field: time_ms})


def _run_on_key(deal: Deal) -> bytes:
    return key_due(deal.record.lost_ms + deal.manifest.policies.run_on_s * 1000, "run_on", deal.id)


def forget_loss(deal: Deal) -> None:
    """[D8] No loss of approval is waited for any more."""
    if deal.record.lost_ms:
        deal.env.state.delete(_run_on_key(deal))
        deal.set(lost_ms=0)


def asks_precedent(deal: Deal) -> bool:
    """True when the deploy policy looks at earlier approvals of the same manifest."""
    rules = rules_in(deal.manifest.policies.of(deal.record.ground))
    return any(rule.auto is not None and rule.auto.approved_within_s is not None for rule in rules)


def keep_precedent(deal: Deal) -> None:
    """[D9] Signatures approve this deployment now."""
    if asks_precedent(deal):
        deal.env.write(key_precedent(deal.record.manifest), Precedent(deal.id, deal.env.time_ms))


def drop_precedent(deal: Deal) -> None:
    """[D9] Its approval was lost; the precedent of another deployment stays."""
    key = key_precedent(deal.record.manifest)
    found = deal.env.read(Precedent, key)
    if found is not None and found.deployment == deal.id:
        deal.env.state.delete(key)


def lose(deal: Deal, reason: str) -> None:
    """[D4] [D8] The deploy policy is not satisfied any more while the deployment runs."""
    drop_precedent(deal)
    run_on_ms = deal.manifest.policies.run_on_s * 1000
    if not run_on_ms:
        suspend(deal, reason)
        return
    if deal.record.lost_ms:
        return
    reason = reason[:DETAIL_CHARS_MAX]
    deal.set(lost_ms=deal.env.time_ms, reason=reason)
    deal.env.state.put(_run_on_key(deal), b"")
    deal.emit("deployment.approval_lost", reason=reason, until_ms=deal.env.time_ms + run_on_ms)
    for name in deal.record.slots:
        if deal.slot(name).status == "open":
            release_slot(deal, name)


def regain(deal: Deal) -> None:
    """[D8] Satisfied again in time; nothing to do when nothing was lost."""
    if deal.record.lost_ms:
        forget_loss(deal)
        deal.set(reason="")
        deal.emit("deployment.approval_regained")
        open_free_slots(deal)


def run_on_over(deal: Deal) -> None:
    """[D8] The timed work `run_on`."""
    if not deal.record.lost_ms:
        raise LocalError(f"deployment {deal.id.hex()} has lost no approval")
    suspend(deal, deal.record.reason)


def approve(deal: Deal) -> None:
    """[D3] [D4] The deploy policy is satisfied: slots may be claimed."""
    now = deal.env.time_ms
    if not deal.record.approved_ms:
        deal.set(approved_ms=now)
        set_end(deal, now + deal.manifest.terms.duration_s * 1000)
    deal.set(status="approved", reason="")
    deal.emit("deployment.approved", manifest=deal.record.manifest.hex())
    open_free_slots(deal)


def suspend(deal: Deal, reason: str) -> None:
    """[D4] The deploy policy is not satisfied any more."""
    reason = reason[:DETAIL_CHARS_MAX]
    drop_update(deal, "the deployment lost its approval")
    forget_loss(deal)
    deal.set(status="awaiting_approval", reason=reason)
    deal.emit("deployment.suspended", reason=reason)
    for name in deal.record.slots:
        release_slot(deal, name)


def first_run(deal: Deal) -> None:
    """[D5] A slot runs: the deployment is active, and the author has earned the fee."""
    pay_fee(deal)
    if deal.record.status == "approved":
        started = deal.record.running_ms or deal.env.time_ms
        deal.set(status="active", running_ms=started)
        deal.emit("deployment.active")


def complete_jobs(deal: Deal) -> None:
    """[D5] Nothing happens while a service or an unfinished job is left, or slots change over."""
    update = deal.update
    if update is not None and update.status != "awaiting_approval":
        return
    if any(workload.kind == "service" for workload in deal.manifest.workloads):
        return
    if not all(finished(deal, workload) for workload in deal.manifest.workloads):
        return
    drop_update(deal, "all jobs are done")
    forget_copies(deal)
    clear_approval_dues(deal)
    deal.set(status="completed", desired="stop", ended_ms=deal.env.time_ms)
    await_release(deal)
    deal.emit("deployment.completed", spent=deal.record.spent)
    if deal.manifest.policies.signoff is None:
        sign_off(deal)


def sign_off(deal: Deal) -> None:
    """[D6] Accepted: pay what is owed; give back the rest when nothing runs any more."""
    set_judge(deal, "signoff", 0)
    deal.set(signed_off_ms=deal.env.time_ms)
    deal.emit("deployment.signed_off", spent=deal.record.spent)
    if deal.record.status == "completed":
        set_end(deal, 0)
        refund(deal)
        return
    for name in deal.record.slots:
        slot = deal.slot(name)
        if slot.holder and slot.status != "released":
            bill(deal, name, deal.env.time_ms)


def end(deal: Deal, status: DeploymentStatus, reason: str) -> None:
    """[D6] The last step of a deployment that did not complete by itself."""
    reason = reason[:DETAIL_CHARS_MAX]
    drop_update(deal, f"the deployment is {status}")
    drop_agreements(deal)
    for name in deal.record.slots:
        release_slot(deal, name)
    forget_copies(deal)
    clear_approval_dues(deal)
    if status == "completed":
        await_release(deal)
    else:
        set_judge(deal, "signoff", 0)
        forget_results(deal)
    if status == "rejected":
        drop_precedent(deal)
    set_end(deal, 0)
    deal.set(status=status, desired="stop", ended_ms=deal.env.time_ms, reason=reason)
    deal.emit(f"deployment.{status}", reason=reason, spent=deal.record.spent)
    refund(deal)


def clear_approval_dues(deal: Deal) -> None:
    """Approvals of an ended deployment need not expire, nor is its deploy policy judged again."""
    drop_approval_dues(deal, deal.record.generation)
    set_judge(deal, "deploy", 0)
    forget_loss(deal)
