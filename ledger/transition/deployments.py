"""Orders and cancels.

[D1] An order names a published contract, its parameters and roles; the ledger expands it itself and
     refuses another manifest digest. Exactly the manifest's budget moves into escrow. Its sender is a key
     that what is for the consumer can be sealed to: else a node would do the work for nothing.
[D7] The consumer or its bot cancels what has not ended. What was approved once it cancels only when the
     delete policy, if there is one, is satisfied at that time.
"""

from __future__ import annotations

from msgspec.structs import replace

from ledger.errors import Refused
from ledger.keys import PUBLIC_KEY_BYTES, opens_boxes
from ledger.limits import DETAIL_CHARS_MAX
from ledger.manifests.expansion import decode_manifest, slots
from ledger.manifests.types import Manifest, manifest_digest
from ledger.policies.records import about_of
from ledger.records import (
    Deployment,
    Precedent,
    key_deployment,
    key_manifest,
    key_precedent,
    key_slot,
)
from ledger.transactions import CancelDeployment, OrderDeployment
from ledger.transition.approvals import evaluate_act, judge_deploy
from ledger.transition.contracts import expand_contract
from ledger.transition.deal import ENDED, Deal
from ledger.transition.env import Env
from ledger.transition.lifecycle import approve, end, set_end
from ledger.transition.money import debit
from ledger.transition.organisations import check_order, note_use
from ledger.transition.slots import NEW_SLOT


def order(env: Env, body: OrderDeployment) -> None:
    """[D1] [N7] Raises Refused("order.…"), those of `expand`, and money.insufficient."""
    if body.bot and len(body.bot) != PUBLIC_KEY_BYTES:
        raise Refused("order.bot", f"a public key of {PUBLIC_KEY_BYTES} bytes, or nothing", "bot")
    if not opens_boxes(env.sender):
        raise Refused("order.consumer", "nothing can be sealed to this key: no result, no log", "sender")
    data = expand_contract(env, body.contract, env.sender, body.parameters, body.roles)
    digest = manifest_digest(data)
    if digest != body.manifest:
        raise Refused("order.manifest_mismatch", f"the contract expands to {digest.hex()}", "manifest")
    manifest = decode_manifest(data)
    if body.escrow != manifest.terms.budget:
        raise Refused("order.escrow", f"the manifest's budget is {manifest.terms.budget}", "escrow")
    check_order(env, manifest, about_of(manifest, _new_deployment(env, body, digest, ())))
    debit(env, env.sender, body.escrow)
    env.state.put(key_manifest(digest), data)
    names = slots(manifest)
    for name in names:
        env.write(key_slot(env.tx_id, name), replace(NEW_SLOT, deployment=env.tx_id, name=name, next=digest))
    found = env.read(Precedent, key_precedent(digest))
    precedent_ms = 0 if found is None else found.approved_ms
    record = replace(_new_deployment(env, body, digest, names), precedent_ms=precedent_ms)
    env.write(key_deployment(env.tx_id), record)
    note_use(env, manifest, env.tx_id)
    _start(Deal(env, record), manifest)


def _new_deployment(env: Env, body: OrderDeployment, digest: bytes, names: tuple[str, ...]) -> Deployment:
    return Deployment(
        id=env.tx_id,
        contract=body.contract,
        manifest=digest,
        consumer=env.sender,
        bot=body.bot or env.sender,
        status="awaiting_approval",
        desired="run",
        escrow=body.escrow,
        funded=body.escrow,
        paid_in=body.escrow,
        spent=0,
        fee_paid=False,
        ordered_ms=env.time_ms,
        approved_ms=0,
        claimed_ms=0,
        running_ms=0,
        ended_ms=0,
        signed_off_ms=0,
        slots=names,
        reason="",
    )


def _start(deal: Deal, manifest: Manifest) -> None:
    deal.emit(
        "deployment.ordered",
        contract=deal.record.contract.hex(),
        manifest=deal.record.manifest.hex(),
        consumer=deal.record.consumer.hex(),
        name=manifest.name,
        version=manifest.version,
        escrow=deal.record.escrow,
    )
    if manifest.policies.deploy is None:
        approve(deal)
    else:
        set_end(deal, deal.env.time_ms + manifest.policies.validity_s * 1000)
        judge_deploy(deal)


def cancel(env: Env, body: CancelDeployment) -> None:
    """[D7] Raises Refused("cancel.…")."""
    if len(body.reason) > DETAIL_CHARS_MAX:
        raise Refused("cancel.reason", f"at most {DETAIL_CHARS_MAX} characters", "reason")
    deal = Deal.load(env, body.deployment, "cancel.unknown_deployment")
    if env.sender not in (deal.record.consumer, deal.record.bot):
        raise Refused("cancel.not_yours", "only its consumer or its bot may cancel a deployment")
    if deal.record.status in ENDED:
        raise Refused("cancel.ended", f"it is {deal.record.status}")
    decision = evaluate_act(deal, "delete")
    if deal.record.approved_ms and not decision.satisfied:
        raise Refused("cancel.not_approved", "; ".join(decision.reasons), "deployment")
    end(deal, "cancelled", body.reason)
