"""More money and more time for a deployment, within what its manifest lets it have.

[D10] Anybody tops up the escrow of a deployment that has not ended, all top-ups together by at most
      terms.top_up. Then slots may cost more ([C5]).
[D11] The consumer or its bot extends the term of an approved deployment, in all by at most terms.extension,
      and pays for it what the term so far may cost, in proportion. Approvals stand and run out as ever.
"""

from __future__ import annotations

from ledger.errors import Refused
from ledger.manifests.expansion import extension_cost
from ledger.text.quantities import credits_text
from ledger.transactions import ExtendDeployment, TopUp
from ledger.transition.approvals import judge_deploy
from ledger.transition.deal import ENDED, Deal
from ledger.transition.env import Env
from ledger.transition.grace import may_resume, resume
from ledger.transition.lifecycle import set_end
from ledger.transition.money import debit


def top_up(env: Env, body: TopUp) -> None:
    """[D10] Raises Refused("top_up.…" | "money.insufficient")."""
    deal = Deal.load(env, body.deployment, "top_up.unknown_deployment")
    if deal.record.status in ENDED:
        raise Refused("top_up.ended", f"it is {deal.record.status}")
    top_ups = [deal.manifest.terms.top_up]
    if deal.record.updating:
        top_ups.append(deal.side(deal.record.updating)[0].terms.top_up)
    left = min(top_ups) - deal.record.topped_up
    if not 0 < body.amount <= left:
        raise Refused("top_up.amount", f"more than 0, at most {credits_text(left)} by its terms", "amount")
    debit(env, env.sender, body.amount)
    _fund(deal, body.amount)
    deal.set(topped_up=deal.record.topped_up + body.amount)
    deal.emit("deployment.topped_up", payer=env.sender.hex(), amount=body.amount, escrow=deal.record.escrow)
    _go_on(deal)


def extend(env: Env, body: ExtendDeployment) -> None:
    """[D11] Raises Refused("extend.…" | "money.insufficient")."""
    deal = Deal.load(env, body.deployment, "extend.unknown_deployment")
    record, terms = deal.record, deal.manifest.terms
    if env.sender not in (record.consumer, record.bot):
        raise Refused("extend.not_yours", "only its consumer or its bot may extend a deployment")
    if record.status in ENDED or not record.approved_ms:
        raise Refused("extend.no_term", f"it is {record.status}")
    if record.updating:
        raise Refused("extend.update", "an update of it is under way")
    if body.extended_s != record.extended_s:
        raise Refused("extend.stale", f"it is extended by {record.extended_s} s already", "extended_s")
    left_s = terms.extension_s - record.extended_s
    if not 0 < body.duration_s <= left_s:
        raise Refused("extend.duration", f"1 s to {left_s} s more by its terms", "duration_s")
    wanted = extension_cost(deal.extended(record.manifest).terms, body.duration_s)
    if body.amount != wanted:
        raise Refused("extend.amount", f"it costs {wanted}", "amount")
    debit(env, env.sender, wanted)
    _fund(deal, wanted)
    deal.set(extended_s=record.extended_s + body.duration_s)
    if record.status == "paused":
        deal.set(left_ms=deal.record.left_ms + body.duration_s * 1000)
    else:
        set_end(deal, deal.ends_ms + body.duration_s * 1000)
    deal.emit("deployment.extended", payer=env.sender.hex(), amount=wanted, by_s=body.duration_s)
    _go_on(deal)


def _go_on(deal: Deal) -> None:
    """[D13]"""
    if may_resume(deal):
        resume(deal)
        judge_deploy(deal)


def _fund(deal: Deal, amount: int) -> None:
    """[I3] New money is looked at with the next renewal."""
    record = deal.record
    funded, paid_in = record.funded + amount, record.paid_in + amount
    deal.set(escrow=record.escrow + amount, funded=funded, paid_in=paid_in, look_ms=0)
