"""Grace: a deployment whose money or time is over is paused before it ends.

[D13] When the escrow cannot pay a stretch of held time, or the term is over of a deployment that ran and may
      be extended still, it is paused for terms.grace: its slots are released, its term stands still, nothing
      is paid. Money (a top-up), or time (an extension), lets it go on within that, if its deploy policy is
      satisfied then; else it ends when the grace is over, as it would have without one.
"""

from __future__ import annotations

from ledger.errors import LocalError
from ledger.limits import DETAIL_CHARS_MAX
from ledger.transition.deal import Deal
from ledger.transition.escrow import refund
from ledger.transition.lifecycle import delayed, end, forget_loss, set_end
from ledger.transition.slots import release_slot
from ledger.transition.switch import drop_update

NO_MONEY = "the escrow cannot pay any more"
NO_TIME = "its term is over"


def out_of_money(deal: Deal) -> None:
    """[D13] [L2] The escrow could not pay a stretch."""
    if deal.manifest.terms.grace_s:
        _pause(deal, NO_MONEY)
    else:
        end(deal, "failed", NO_MONEY)


def out_of_time(deal: Deal) -> bool:
    """[D13] The term is over: True when it is paused for that."""
    record, terms = deal.record, deal.manifest.terms
    if not terms.grace_s or not record.running_ms or record.extended_s >= terms.extension_s:
        return False
    if record.status == "paused":
        return False
    _pause(deal, NO_TIME)
    return True


def _pause(deal: Deal, reason: str) -> None:
    drop_update(deal, f"the deployment is paused: {reason}")
    now, grace_ms = deal.env.time_ms, deal.manifest.terms.grace_s * 1000
    deal.set(left_ms=max(0, deal.ends_ms - now))
    for name in deal.record.slots:
        release_slot(deal, name)
    forget_loss(deal)
    set_end(deal, now + grace_ms)
    deal.set(status="paused", reason=reason[:DETAIL_CHARS_MAX])
    deal.emit("deployment.paused", reason=reason, until_ms=now + grace_ms, left_ms=deal.record.left_ms)


def may_resume(deal: Deal) -> bool:
    """[D13] It has both time and money again."""
    record = deal.record
    kept = 0 if record.fee_paid else deal.manifest.terms.fee
    return record.status == "paused" and record.left_ms > 0 and record.escrow > kept


def resume(deal: Deal) -> None:
    """[D13] Its clock runs again; whether its slots open the deploy policy says."""
    set_end(deal, deal.env.time_ms + deal.record.left_ms)
    deal.set(status="awaiting_approval", left_ms=0, reason="")
    deal.emit("deployment.resumed", ends_ms=deal.record.ends_ms)


def grace_over(deal: Deal) -> None:
    """[D13] The timed work `duration` of a paused deployment."""
    if deal.record.reason == NO_TIME:
        end(deal, "completed", NO_TIME)
    else:
        end(deal, "failed", deal.record.reason)


def term_over(deal: Deal) -> None:
    """[D2] [D5] [D6] [D13] The timed work `duration`."""
    if not deal.record.ends_ms:
        raise LocalError(f"deployment {deal.id.hex()} has no end to come")
    if delayed(deal) and deal.record.ends_ms > deal.env.time_ms:
        return
    if deal.record.status == "completed":
        set_end(deal, 0)
        refund(deal)
    elif deal.record.status == "paused":
        grace_over(deal)
    elif out_of_time(deal):
        return
    elif deal.record.running_ms:
        end(deal, "completed", "its term is over")
    elif deal.record.approved_ms:
        end(deal, "expired", "nothing ran within its term")
    else:
        end(deal, "expired", "not approved in time")
