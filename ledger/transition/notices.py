"""What the ledger says in time, by block time, so that nobody is surprised: events, each told once.

[I1] A deployment that will end by itself (its wait for approval, its term, its grace) says so ahead: when a
     tenth of that stretch of time is left, at most NOTICE_MS_MAX. When its end moves, it says so anew.
[I2] A grant for deploy that will expire says so likewise.
[I3] While slots are held, the ledger looks every ESCROW_LOOK_MS, at a renewal, whether the escrow pays for
     all of them up to the end. When it does not, it says so; and again only after money or time was added.
[I4] An offer whose time is over says so.
"""

from __future__ import annotations

from ledger.limits import ESCROW_LOOK_MS, TIME_MS_MAX
from ledger.records import ApprovalRecord, Node, key_approval, key_due, key_node
from ledger.transition.deal import Deal
from ledger.transition.env import Env
from ledger.warnings import approval_notice_ms, shortfall


def approval_notice_key(deployment: bytes, approval: ApprovalRecord) -> bytes:
    """[I2] Where the notice of a deploy approval waits."""
    rest = deployment + b"/" + approval.signer + b"%d" % approval.generation
    return key_due(approval_notice_ms(approval), "approval_notice", rest)


def approval_ends_soon(deal: Deal, signer: bytes, generation: int) -> None:
    """[I2] The timed work `approval_notice`."""
    record = deal.env.must(ApprovalRecord, key_approval(deal.id, "deploy", signer, generation))
    deal.emit(
        "approval.expires_soon",
        act=record.act,
        role=record.role,
        signer=signer.hex(),
        expires_ms=record.expires_ms,
    )


def look_at_escrow(deal: Deal) -> None:
    """[I3] At each renewal; nothing happens when it was looked at a moment ago."""
    now_ms = deal.env.time_ms
    if now_ms < deal.record.look_ms:
        return
    slots = [deal.slot(name) for name in deal.record.slots]
    short = shortfall(deal.manifest, deal.record, slots, deal.ends_ms)
    if short:
        deal.emit("deployment.escrow_low", short=short, escrow=deal.record.escrow, ends_ms=deal.ends_ms)
    deal.set(look_ms=TIME_MS_MAX if short else now_ms + ESCROW_LOOK_MS)


def offer_key(node: Node) -> bytes:
    """[I4] Where the end of an offer waits."""
    return key_due(node.valid_until_ms, "offer", node.key)


def end_offer(env: Env, node: Node) -> None:
    """[I4] Its offer ends otherwise, or has ended: nothing is said."""
    if node.valid_until_ms:
        env.state.delete(offer_key(node))


def offer_over(env: Env, node_key: bytes) -> None:
    """[I4] The timed work `offer`."""
    node = env.must(Node, key_node(node_key))
    env.emit("offer.expired", node_key, farm=node.farm, valid_until_ms=node.valid_until_ms)
