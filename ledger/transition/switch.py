"""Which manifest a slot's next term is of, and how an update ends that does not succeed.

[U7] A slot that changes over is released (S2): its next term is of the other manifest, and comes when the
     holder has stopped. One whose workload is the same in both keeps its term.
[U8] An update that does not succeed (cancelled, rejected, expired, failed, its approval lost, or its
     deployment suspended, paused or ended) is undone: every slot goes back to the manifest in force, and who
     had locked money for it has it back, but for what the escrow needs for the rest of the term.
[Y10] Replicas that must agree change over all at once, and begin anew also when their number, or how many
     must agree, is another: what one manifest's gave is never compared with what another's give.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from ledger.codec import decode
from ledger.errors import LocalError
from ledger.fit import slot_share
from ledger.limits import DETAIL_CHARS_MAX
from ledger.manifests.expansion import cost
from ledger.manifests.types import Manifest, UpdateStrategy, Workload
from ledger.records import ApprovalRecord, Slot, key_approval, key_due
from ledger.statuses import UpdateStatus
from ledger.trade_records import UpdateRecord
from ledger.transition.deal import Deal
from ledger.transition.env import Env
from ledger.transition.money import credit
from ledger.transition.notices import approval_notice_key
from ledger.transition.results import note_results
from ledger.transition.slots import close_window, release_slot, reopen_slot
from ledger.transition.withheld import pay_out, set_agreement
from ledger.warnings import approval_notice_ms


def under_way(deal: Deal) -> UpdateRecord:
    """The update under way, where our own rules promise one."""
    update = deal.update
    if update is None:
        raise LocalError(f"no update of deployment {deal.id.hex()} is under way")
    return update


def same_work(one: Workload, other: Workload) -> bool:
    """[U7] [Y10] What a holder does is the same: only what it waits for, how it changes over and, unless they
    must agree, how many there are may differ."""
    blank: dict[str, Any] = {"depends_on": (), "update": UpdateStrategy()}
    if not one.agree and not other.agree:
        blank["replicas"] = 1
    return replace(one, **blank) == replace(other, **blank)


def keeps(deal: Deal, slot: Slot, digest: bytes) -> bool:
    """[U7] Whether what the slot does now is what this manifest wants of it."""
    if slot.holder and slot.status == "released":
        return False
    done = slot.status in ("succeeded", "committed")
    now = slot.manifest if slot.holder or done else slot.next
    wanted = deal.side(digest)[1].get(slot.name)
    return bool(now) and wanted is not None and same_work(deal.side(now)[1][slot.name], wanted)


def switch(deal: Deal, name: str, digest: bytes, number: int = 0) -> None:
    """[U7] The slot's next term is of another manifest; empty: of none."""
    slot = deal.set_slot(name, next=digest, attempts=0, switched=number)
    if slot.holder:
        release_slot(deal, name)
    elif slot.status == "open":
        if digest:
            close_window(deal, name)  # who claimed, claimed something else
        else:
            release_slot(deal, name)
    else:
        if slot.status in ("committed", "succeeded") and deal.term_workload(slot).agree:
            pay_out(deal, name)
            set_agreement(deal, slot.name.partition("/")[0], None)
        deal.set_slot(name, status="released")
        reopen_slot(deal, name)


def switch_all(deal: Deal, names: Mapping[str, bytes], number: int = 0) -> None:
    """[Y10] The next terms of these slots are of these manifests. While they are switched one by one, those
    that are not yet may agree still, so that others were not opened: they are now."""
    for name, digest in names.items():
        switch(deal, name, digest, number)
    for name in names:
        slot = deal.slot(name)
        if slot.status == "released" and not slot.holder:
            reopen_slot(deal, name)


def set_update_due(deal: Deal, time_ms: int) -> None:
    """Move the `update` timed work; 0 removes it."""
    update = under_way(deal)
    if update.due_ms != time_ms:
        deal.env.move_due("update", deal.id, update.due_ms, time_ms)
        deal.set_update(due_ms=time_ms)


def set_update_judge(deal: Deal, time_ms: int) -> None:
    """Move the `judge` timed work of an update; 0 removes it."""
    update = under_way(deal)
    if update.judge_ms != time_ms:
        deal.env.move_due("judge", deal.id + b"/update", update.judge_ms, time_ms)
        deal.set_update(judge_ms=time_ms)


def approval_due_key(deployment: bytes, approval: ApprovalRecord) -> bytes:
    """Where the expiry of an approval for deploy, or for an update, waits."""
    rest = deployment + b"/" + approval.signer + b"%d" % approval.generation
    return key_due(approval.expires_ms, "approval", rest)


def put_approval_due(env: Env, deployment: bytes, approval: ApprovalRecord) -> None:
    """[A4] [I2] A grant for deploy, or for an update, will expire, and says so before."""
    env.state.put(approval_due_key(deployment, approval), b"")
    if approval_notice_ms(approval) > env.time_ms:
        env.state.put(approval_notice_key(deployment, approval), b"")


def drop_approval_due(env: Env, deployment: bytes, approval: ApprovalRecord) -> None:
    """Nothing happens when it has expired already, or was no grant."""
    if approval.decision == "granted":
        env.state.delete(approval_due_key(deployment, approval))
        env.state.delete(approval_notice_key(deployment, approval))


def drop_approval_dues(deal: Deal, generation: int) -> None:
    """The approvals of a manifest need not expire any more."""
    for _, data in list(deal.env.state.scan(key_approval(deal.id, "deploy", b"", generation))):
        drop_approval_due(deal.env, deal.id, decode(ApprovalRecord, data))


def needed(manifest: Manifest, fee_paid: bool, work: Iterable[tuple[Workload, int]], left_ms: int) -> int:
    """Micro-credits that the rest of a term may cost: each slot's share of it, or what its holder takes when
    that is more, and a fee that is not paid yet. `manifest`: with the funds and the term that the deployment
    has; `work`: of each slot its workload and its rate an hour, 0 when nobody holds it."""
    total = 0 if fee_paid else manifest.terms.fee
    for workload, rate_hour in work:
        share = slot_share(manifest, workload) * left_ms
        total += max(-(-share // (manifest.terms.duration_s * 1000)), cost(rate_hour, 0, left_ms))
    return total


def spare(deal: Deal) -> int:
    """Micro-credits in the escrow beyond what the manifest in force may cost in the rest of the term."""
    record = deal.record
    slots = [slot for slot in map(deal.slot, record.slots) if slot.next]
    work = [
        (
            deal.side(slot.next)[1][slot.name],
            slot.rate_hour if slot.holder and slot.status != "released" else 0,
        )
        for slot in slots
    ]
    left_ms = max(0, deal.ends_ms - deal.env.time_ms)
    return max(0, record.escrow - needed(deal.extended(record.manifest), record.fee_paid, work, left_ms))


def give_back(deal: Deal, payee: bytes, amount: int) -> None:
    """Out of the escrow, before the deployment's end."""
    credit(deal.env, payee, amount)
    deal.set(escrow=deal.record.escrow - amount, returned=deal.record.returned + amount)


def close_update(deal: Deal, status: UpdateStatus, reason: str) -> None:
    """[U8] Undo the update under way. One that changed slots already is `reverted`, whatever was asked
    for."""
    update = under_way(deal)
    rolled = update.status != "awaiting_approval"
    set_update_due(deal, 0)
    set_update_judge(deal, 0)
    drop_approval_dues(deal, update.number)
    if rolled:
        status = "reverted"
        _put_back(deal, update)
    refunded = min(update.locked, spare(deal)) if rolled else update.locked
    give_back(deal, update.sender, refunded)
    reason = reason[:DETAIL_CHARS_MAX]
    now_ms = deal.env.time_ms
    deal.set_update(status=status, ended_ms=now_ms, refunded=refunded, reason=reason)
    deal.set(updating=b"")
    deal.emit(f"update.{status}", number=update.number, reason=reason, refunded=refunded)
    note_results(deal)


def _put_back(deal: Deal, update: UpdateRecord) -> None:
    in_force = deal.side(deal.record.manifest)[1]
    changed: dict[str, bytes] = {}
    for name in deal.record.slots:
        slot = deal.slot(name)
        dropped = not slot.next and slot.switched == update.number and name in in_force
        if slot.next != update.manifest and not dropped:
            continue
        if keeps(deal, slot, deal.record.manifest):
            deal.set_slot(name, next=deal.record.manifest)
        else:
            changed[name] = deal.record.manifest if name in in_force else b""
    switch_all(deal, changed)


def drop_update(deal: Deal, reason: str) -> None:
    """[U8] The deployment stops: an update of it can't go on. Nothing happens when there is none."""
    if deal.record.updating:
        close_update(deal, "cancelled", reason)
