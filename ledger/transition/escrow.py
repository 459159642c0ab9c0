"""A deployment's escrow: what leaves it, and to whom.

[E1] Held time is billed from the escrow to the account of the farm's owner, by block time, from the
     claim's selection to the stop, never past the deployment's end, missed time (O1) left out; rounding
     up happens once a term.
[E2] A lost lease is not paid past its last renewal: nobody knows that it ran.
[E3] The author's fee is paid once, when the deployment first runs; until then it is kept back.
[E4] What is left goes back to the consumer when the deployment ends (a job's rest: when it is signed
     off, or at the end of its term).
[E5] A broken lease costs the farmer what the slot costs for PENALTY_MS, as far as the account goes: it is
     paid to the consumer, and recorded with what was owed.
[E6] A term of a job is billed for at most the workload's time limit, missed time left out: its holder stops
     it then, and works for nothing if it does not.
[E7] A fee that an update raises is paid up to the new one when the update is done; one that it lowers was
     earned.
"""

from __future__ import annotations

from ledger.limits import PENALTY_MS
from ledger.manifests.expansion import cost
from ledger.records import Bill, Farm, Node, key_bill, key_farm, key_node
from ledger.trade_records import Penalty, key_penalty
from ledger.transition.deal import Deal
from ledger.transition.money import balance, credit, debit


def bill(deal: Deal, name: str, until_ms: int) -> bool:
    """[E1] [E6] Pay for a held slot up to `until_ms`. False when the escrow could not pay it all."""
    slot = deal.slot(name)
    env, limit_s = deal.env, deal.term_workload(slot).time_limit_s
    missed_ms = env.missed_ms - slot.missed_ms
    until_ms = min(until_ms, deal.ends_ms)
    if limit_s:
        until_ms = min(until_ms, slot.claimed_ms + limit_s * 1000 + missed_ms)
    if until_ms <= slot.billed_ms:
        return True
    key = key_bill(deal.id, name, slot.term, 0)
    former = env.read(Bill, key)
    paid = 0 if former is None else former.amount
    owed = cost(slot.rate_hour, slot.claimed_ms, until_ms - missed_ms) - paid
    kept = (0 if deal.record.fee_paid else deal.manifest.terms.fee) + _locked(deal)
    amount = min(owed, deal.record.escrow - kept)
    payee = env.must(Farm, key_farm(env.must(Node, key_node(slot.holder)).farm)).owner
    withheld = 0 if former is None else former.withheld
    if deal.term_workload(slot).agree:  # [Y4]
        withheld += amount
        record = deal.record
        deal.set(
            escrow=record.escrow - amount, spent=record.spent + amount, withheld=record.withheld + amount
        )
    else:
        _pay(deal, payee, amount)
    stretch = (slot.claimed_ms, until_ms, paid + amount, missed_ms, withheld)
    env.write(key, Bill(name, slot.term, payee, *stretch))
    deal.set_slot(name, billed_ms=until_ms)
    return amount == owed


def pay_fee(deal: Deal) -> None:
    """[E3] Nothing happens when it is paid already."""
    if deal.record.fee_paid:
        return
    env, fee = deal.env, deal.manifest.terms.fee
    author = bytes.fromhex(deal.manifest.author)
    _pay(deal, author, fee)
    deal.set(fee_paid=True)
    env.write(key_bill(deal.id, "", 0, 0), Bill("", 0, author, env.time_ms, env.time_ms, fee))
    deal.emit("deployment.fee_paid", payee=author.hex(), amount=fee)


def pay_more_fee(deal: Deal, former: int) -> None:
    """[E7] After an update: what its author's fee is more than the former one, as far as the escrow goes."""
    env, more = deal.env, deal.manifest.terms.fee - former
    if not deal.record.fee_paid or more <= 0:
        return
    author, amount = bytes.fromhex(deal.manifest.author), min(more, deal.record.escrow)
    _pay(deal, author, amount)
    number = deal.record.generation
    env.write(key_bill(deal.id, "", number, 0), Bill("", number, author, env.time_ms, env.time_ms, amount))
    deal.emit("deployment.fee_paid", payee=author.hex(), amount=amount)


def refund(deal: Deal) -> None:
    """[E4] The rest of the escrow back to the consumer."""
    rest = deal.record.escrow
    if rest:
        credit(deal.env, deal.record.consumer, rest)
        deal.set(escrow=0)
        deal.emit("deployment.refunded", payee=deal.record.consumer.hex(), amount=rest)


def penalize(deal: Deal, name: str, node: bytes) -> None:
    """[E5] This node, which had the slot's newest term, broke its lease, or bore false witness ([Y3])."""
    env, slot = deal.env, deal.slot(name)
    payer = env.must(Farm, key_farm(env.must(Node, key_node(node)).farm)).owner
    owed = cost(slot.rate_hour, 0, PENALTY_MS)
    amount = min(owed, balance(env, payer))
    debit(env, payer, amount)
    credit(env, deal.record.consumer, amount)
    penalty = Penalty(name, slot.term, node, payer, deal.record.consumer, owed, amount, env.time_ms)
    env.write(key_penalty(deal.id, name, slot.term), penalty)
    deal.emit("lease.penalty", slot=name, term=slot.term, payer=payer.hex(), owed=owed, amount=amount)


def _locked(deal: Deal) -> int:
    """[U2] What an update that is not approved yet has put into escrow is not spent."""
    update = deal.update
    return update.locked if update is not None and update.status == "awaiting_approval" else 0


def _pay(deal: Deal, payee: bytes, amount: int) -> None:
    credit(deal.env, payee, amount)
    deal.set(escrow=deal.record.escrow - amount, spent=deal.record.spent + amount)
