"""Disputes: what one party of a deployment says against another, on record for good.

[D12] A party opens a dispute about a deployment, or about one term of a slot, until DISPUTE_MS_MAX after the
      end: the consumer, its bot, the author, whoever holds a role then; about a term also the node that held
      it and the owner of its farm. It moves no money and stops nothing: people and courts decide, the audit
      shows it to them. Only who opened it closes it, and both stay on record.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from ledger.errors import Refused
from ledger.limits import DISPUTE_MS_MAX, DISPUTES_MAX, DISPUTES_PER_PARTY_MAX, TEXT_CHARS_MAX
from ledger.policies.records import roll_of
from ledger.records import Farm, Node, ReceiptRecord, key_farm, key_node, key_receipt
from ledger.trade_records import Dispute, key_dispute
from ledger.transactions import CloseDispute, OpenDispute
from ledger.transition.deal import Deal
from ledger.transition.env import Env


def open_dispute(env: Env, body: OpenDispute) -> None:
    """[D12] Raises Refused("dispute.…")."""
    _check_text(body.says)
    deal = Deal.load(env, body.deployment, "dispute.unknown_deployment")
    record = deal.record
    if body.slot and (body.slot not in record.slots or not 1 <= body.term <= deal.slot(body.slot).term):
        raise Refused("dispute.unknown_term", "the deployment has no such slot, or not yet this term", "slot")
    if not body.slot and body.term:
        raise Refused("dispute.unknown_term", "a term is one of a slot", "term")
    if env.sender not in set(_parties(deal, body.slot, body.term)):
        raise Refused("dispute.not_a_party", "the sender has no part in this deployment or term")
    if record.ended_ms and env.time_ms > record.ended_ms + DISPUTE_MS_MAX:
        raise Refused("dispute.too_late", f"it ended at {record.ended_ms}")
    former = [env.must(Dispute, key_dispute(deal.id, n)) for n in range(record.disputes)]
    mine = sum(dispute.opener == env.sender for dispute in former)
    if len(former) >= DISPUTES_MAX or mine >= DISPUTES_PER_PARTY_MAX:
        text = f"at most {DISPUTES_MAX}, and {DISPUTES_PER_PARTY_MAX} of one party"
        raise Refused("dispute.too_many", text)
    number = record.disputes
    dispute = Dispute(number, env.sender, body.slot, body.term, body.says, env.time_ms, 0, "")
    env.write(key_dispute(deal.id, number), dispute)
    deal.set(disputes=number + 1)
    opener = env.sender.hex()
    deal.emit("dispute.opened", number=number, opener=opener, slot=body.slot, term=body.term)


def close_dispute(env: Env, body: CloseDispute) -> None:
    """[D12] Raises Refused("dispute.…")."""
    _check_text(body.says)
    deal = Deal.load(env, body.deployment, "dispute.unknown_deployment")
    if not 0 <= body.number < deal.record.disputes:
        raise Refused("dispute.unknown", f"there are {deal.record.disputes}", "number")
    dispute = env.must(Dispute, key_dispute(deal.id, body.number))
    if dispute.opener != env.sender:
        raise Refused("dispute.not_yours", "only who opened a dispute closes it")
    if dispute.closed_ms:
        raise Refused("dispute.closed", f"it was closed at {dispute.closed_ms}")
    closed = replace(dispute, closed_ms=env.time_ms, closing=body.says)
    env.write(key_dispute(deal.id, body.number), closed)
    deal.emit("dispute.closed", number=body.number, opener=env.sender.hex())


def _check_text(says: str) -> None:
    if len(says) > TEXT_CHARS_MAX:
        raise Refused("dispute.says", f"at most {TEXT_CHARS_MAX} characters", "says")


def _parties(deal: Deal, name: str, term: int) -> Iterator[bytes]:
    record, manifest = deal.record, deal.manifest
    yield from (record.consumer, record.bot, bytes.fromhex(manifest.author))
    for keys in roll_of(deal.env.state, manifest, deal.env.height).current.values():
        yield from keys
    if not name:
        return
    env, slot = deal.env, deal.slot(name)
    receipt = env.read(ReceiptRecord, key_receipt(deal.id, name, term, 0))
    holder = slot.holder if slot.term == term and slot.holder else receipt.node if receipt else b""
    if holder:
        yield holder
        yield env.must(Farm, key_farm(env.must(Node, key_node(holder)).farm)).owner
