"""Updates: a deployment that runs moves to another manifest.

[U1] The consumer or its bot asks, while the deployment runs with approval, for another manifest: of any
     version of its contract, with any parameters. The ledger expands it itself and refuses another digest.
     One update at a time; the term stays as long as it is, volumes of a workload stay as they are, and what
     was topped up and extended must fit the new terms.
[U2] Exactly what the new terms cost more for the whole term goes into escrow with it. Each term of a slot is
     billed at its own rate, whichever manifest it is of, so nothing is paid twice.
[U3] It needs approvals of its own, bound to its manifest and its number: the update policy of the manifest in
     force must be satisfied (the deploy policy, where none is written). When roles or policies change, the
     deploy policy of the new manifest must be, too. Not satisfied any more while it rolls, it is reverted.
[U4] It waits for that as long as an approval counts, then it expires. It may be cancelled at any time.
"""

from __future__ import annotations

from ledger.errors import Refused
from ledger.limits import SLOTS_MAX, UPDATES_MAX
from ledger.manifests.expansion import decode_manifest, slots
from ledger.manifests.types import Manifest, manifest_digest
from ledger.policies.records import about_of, same_signers
from ledger.records import ContractRecord, Precedent, key_contract, key_manifest, key_precedent
from ledger.trade_records import CANCELLED, UpdateRecord, key_update
from ledger.transactions import SteerUpdate, UpdateDeployment
from ledger.transition.approvals import judge_update
from ledger.transition.contracts import expand_contract
from ledger.transition.deal import RUNS, Deal, funds_under
from ledger.transition.env import Env
from ledger.transition.money import debit
from ledger.transition.organisations import check_order, note_use
from ledger.transition.rollout import await_approval, go_on
from ledger.transition.switch import close_update

ACTIONS = ("cancel", "go_on")


def update(env: Env, body: UpdateDeployment) -> None:
    """[U1] [U2] Raises Refused("update.…" | "money.insufficient"), and those of an order."""
    deal = Deal.load(env, body.deployment, "update.unknown_deployment")
    record = deal.record
    _check_sender(deal)
    if record.status not in RUNS or record.lost_ms:
        raise Refused("update.not_running", f"it is {record.status}, {record.reason or 'without approval'}")
    if record.updating:
        raise Refused("update.pending", f"update {record.updates} to {record.updating.hex()} is under way")
    if record.updates >= UPDATES_MAX:
        raise Refused("update.too_many", f"at most {UPDATES_MAX} of one deployment")
    if body.former != record.manifest:
        raise Refused("update.stale", f"the manifest in force is {record.manifest.hex()}", "former")
    data = expand_contract(env, body.contract, record.consumer, body.parameters, body.roles)
    digest = manifest_digest(data)
    if digest != body.manifest:
        raise Refused("update.manifest_mismatch", f"the contract expands to {digest.hex()}", "manifest")
    if digest == record.manifest:
        raise Refused("update.same", "it is in force already", "manifest")
    manifest = decode_manifest(data)
    _check_contract(deal, body.contract)
    _check_terms(deal, manifest)
    check_order(env, manifest, about_of(manifest, record))
    locked = max(0, funds_under(manifest.terms, record) - record.funded)
    if body.amount != locked:
        raise Refused("update.amount", f"the new terms cost {locked} more", "amount")
    debit(env, env.sender, locked)
    env.state.put(key_manifest(digest), data)
    number = record.updates + 1
    found = env.read(Precedent, key_precedent(digest))
    made = UpdateRecord(
        number=number,
        tx=env.tx_id,
        sender=env.sender,
        former=record.manifest,
        manifest=digest,
        contract=body.contract,
        status="awaiting_approval",
        locked=locked,
        ground="update" if same_signers(deal.manifest, manifest) else "deploy",
        requested_ms=env.time_ms,
        precedent_ms=0 if found is None else found.approved_ms,
        former_precedent_ms=record.precedent_ms,
        step_ms=env.time_ms,
        step_missed_ms=env.missed_ms,
    )
    env.write(key_update(deal.id, number), made)
    note_use(env, manifest, deal.id)
    deal.set(
        updates=number,
        updating=digest,
        escrow=record.escrow + locked,
        paid_in=record.paid_in + locked,
    )
    deal.emit("update.asked", number=number, manifest=digest.hex(), former=body.former.hex(), locked=locked)
    await_approval(deal)
    judge_update(deal)


def steer(env: Env, body: SteerUpdate) -> None:
    """[U4] [U6] Raises Refused("update.…")."""
    deal = Deal.load(env, body.deployment, "update.unknown_deployment")
    _check_sender(deal)
    found = deal.update
    if found is None or found.number != body.number:
        raise Refused("update.none", "no update of this number is under way", "number")
    if body.action not in ACTIONS:
        raise Refused("update.action", f"one of {', '.join(ACTIONS)} wanted", "action")
    if body.action == "cancel":
        close_update(deal, "cancelled", CANCELLED)
        return
    if found.status != "held":
        raise Refused("update.not_held", f"it is {found.status}", "action")
    go_on(deal)


def _check_sender(deal: Deal) -> None:
    if deal.env.sender not in (deal.record.consumer, deal.record.bot):
        raise Refused("update.not_yours", "only its consumer or its bot may update a deployment")


def _check_contract(deal: Deal, contract: bytes) -> None:
    """[U1] A name has one author for good ([K2])."""
    name = deal.env.must(ContractRecord, key_contract(contract)).name
    if name != deal.manifest.name:
        raise Refused("update.contract", f"it is of {deal.manifest.name}, not of {name}", "contract")


def _check_terms(deal: Deal, manifest: Manifest) -> None:
    record, terms = deal.record, manifest.terms
    if terms.duration_s != deal.manifest.terms.duration_s:
        raise Refused("update.terms", f"its term stays {deal.manifest.terms.duration_s} s", "terms.duration")
    if record.extended_s > terms.extension_s:
        raise Refused("update.terms", f"it is extended by {record.extended_s} s", "terms.extension")
    if record.topped_up > terms.top_up:
        raise Refused("update.terms", f"it is topped up by {record.topped_up}", "terms.top_up")
    volumes = {workload.name: workload.volumes for workload in manifest.workloads}
    for workload in deal.manifest.workloads:
        if workload.volumes and volumes.get(workload.name, workload.volumes) != workload.volumes:
            raise Refused(
                "update.volumes", "its volumes stay as they are", f"workloads.{workload.name}.volumes"
            )
    if len({*record.slots, *slots(manifest)}) > SLOTS_MAX:
        raise Refused("update.slots", f"more than {SLOTS_MAX} slots in all its manifests", "workloads")
