"""What a node proves for itself before it claims a slot, and again before it starts a byte of it.

From its own committed state and the signed documents in it: the consumer's order, the author's
contract, that the contract and the order's parameters expand to exactly this manifest, each
stakeholder's approval, of each organisation that holds a role the deeds that led to its members, and that the
policy is satisfied now. The deployment's `status`, which says
that somebody concluded all this, is not asked. Pure: the state and the time are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ledger.codec import decode, sha256
from ledger.documents import Document, open_document
from ledger.errors import Refused
from ledger.manifests.expansion import decode_manifest, expand
from ledger.manifests.types import Manifest, manifest_digest
from ledger.organisations.history import proved_organisation
from ledger.policies.decision import Approval, Decision, approval_expiry
from ledger.policies.people import Roll
from ledger.policies.records import (
    Side,
    about_of,
    about_update,
    capacities,
    change_sides,
    judge_change,
    judge_in_force,
    same_signers,
)
from ledger.policies.types import Act
from ledger.predicates import ApprovalPredicate, ContractPredicate
from ledger.records import (
    ApprovalRecord,
    ContractRecord,
    Deployment,
    key_approval,
    key_contract,
    key_deployment,
    key_manifest,
)
from ledger.state import Reader, read
from ledger.trade_records import UpdateRecord, key_update
from ledger.transactions import OrderDeployment, UpdateDeployment, decode_tx, verify_tx


@dataclass(frozen=True, slots=True)
class Verdict:
    """`ok`: everything was proved. `reasons` name what was not, or what the policy misses.

    `approvals`: ids (hex) of the documents that satisfied the policy.
    """

    ok: bool
    reasons: tuple[str, ...]
    approvals: tuple[str, ...] = ()
    manifest: Manifest | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """What is to be proved: a deployment in a state, for a chain, at a block's time. `order`: the bytes of
    the order's transaction as this peer's chain holds them. `manifest`: what is to run, the one in force
    (also where it is empty) or that of the update under way; `update`: the bytes of the transaction that
    asked for it, when it came by one. `runs`: the work was started with approval, and may go on without it
    for as long as the contract says."""

    state: Reader
    chain_id: str
    deployment: bytes
    order: bytes | None
    now_ms: int
    runs: bool = False
    manifest: bytes = b""
    update: bytes | None = None


def verify(case: Case) -> Verdict:
    """The verdict. Never raises for what a state or document holds."""
    try:
        return _verify(case)
    except Refused as error:
        return Verdict(False, (f"{error.rule}: {error.detail}"[:300],))


def update_of(state: Reader, deployment: bytes, manifest: bytes) -> UpdateRecord | None:
    """The update that brings, or brought, a manifest of a deployment; None: its order did, or nothing
    does."""
    record = read(state, Deployment, key_deployment(deployment))
    if record is None:
        return None
    number = record.updates if record.updating and manifest == record.updating else record.generation
    return read(state, UpdateRecord, key_update(deployment, number)) if number else None


def _verify(case: Case) -> Verdict:
    record, manifest, update = proved(case)
    return _check_approvals(case, record, manifest, update)


def proved(case: Case) -> tuple[Deployment, Manifest, UpdateRecord | None]:
    """The deployment, its manifest and the update that brings it: from the signed order, contract and update.
    Raises Refused naming what was not proved."""
    record = read(case.state, Deployment, key_deployment(case.deployment))
    if record is None:
        raise Refused("verify.deployment", "no such deployment")
    digest = case.manifest or record.manifest
    if digest not in (record.manifest, record.updating):
        raise Refused("verify.manifest", "neither in force nor of the update under way")
    data, manifest = _manifest(case, digest)
    order = _check_order(case, record)
    update = update_of(case.state, case.deployment, digest)
    wish = order if update is None else _check_update(case, update, {record.consumer, record.bot}, digest)
    known = (
        record.contract if digest == record.manifest else wish.contract if update is None else update.contract
    )
    if (wish.manifest, wish.contract) != (digest, known):
        raise Refused("verify.order", "another contract or manifest was asked for")
    contract = _check_contract(case, wish.contract)
    expanded = expand(
        contract.predicate.contract,
        contract.id,
        contract.signer,
        record.consumer,
        wish.parameters,
        wish.roles,
    )
    if expanded != data:
        raise Refused("verify.expansion", "contract and order do not expand to this manifest")
    return record, manifest, update


def _manifest(case: Case, digest: bytes) -> tuple[bytes, Manifest]:
    data = case.state.get(key_manifest(digest))
    if data is None or sha256(data) != digest:
        raise Refused("verify.manifest", "its bytes are missing or are not its digest's")
    return data, decode_manifest(data)


def _check_order(case: Case, record: Deployment) -> OrderDeployment:
    """The consumer's signed order of exactly this; a deployment's id is its order's."""
    if case.order is None:
        raise Refused("verify.order", "the order's transaction is not here (yet)")
    tx = decode_tx(case.order, case.chain_id)
    body = tx.tx.body
    if tx.id != case.deployment or record.id != case.deployment or not isinstance(body, OrderDeployment):
        raise Refused("verify.order", "the transaction is not this deployment's order")
    if not verify_tx(tx):
        raise Refused("verify.order", "not signed by its sender")
    if (tx.tx.sender, body.bot or tx.tx.sender) != (record.consumer, record.bot):
        raise Refused("verify.order", "consumer or bot are not those of the order")
    return body


def _check_update(case: Case, update: UpdateRecord, askers: set[bytes], digest: bytes) -> UpdateDeployment:
    """The consumer's or their bot's signed wish for exactly this."""
    if case.update is None:
        raise Refused("verify.update", "the update's transaction is not here (yet)")
    tx = decode_tx(case.update, case.chain_id)
    body = tx.tx.body
    if tx.id != update.tx or not isinstance(body, UpdateDeployment) or body.deployment != case.deployment:
        raise Refused("verify.update", "the transaction is not this update's")
    if not verify_tx(tx) or tx.tx.sender not in askers:
        raise Refused("verify.update", "not signed by the consumer or their bot")
    if (body.former, body.manifest) != (update.former, digest):
        raise Refused("verify.update", "it leads from or to another manifest")
    return body


def _check_contract(case: Case, contract: bytes) -> Document[ContractPredicate]:
    """The author's signed contract, by its id."""
    found = read(case.state, ContractRecord, key_contract(contract))
    if found is None:
        raise Refused("verify.contract", "the contract is not there")
    document = open_document(found.envelope, "contract")
    if document.id != contract:
        raise Refused("verify.contract", f"the document's id is {document.id.hex()}")
    if document.signer != found.author:
        raise Refused("verify.contract", "the signer is not the author on record")
    return document


def _check_approvals(
    case: Case, record: Deployment, manifest: Manifest, update: UpdateRecord | None
) -> Verdict:
    """Each approval document by itself, then the policy over all of them at the block's time.

    One that does not prove what its record says refuses the whole: it may hide a revocation.
    """
    generation = 0 if update is None else update.number
    sides = _sides(case, record, manifest, update)
    prefix = key_approval(case.deployment, "deploy", b"", generation)
    approvals: list[Approval] = []
    documents: dict[bytes, bytes] = {}
    for key, data in list(case.state.scan(prefix)):
        found = decode(ApprovalRecord, data)
        document = open_document(found.envelope, "approval")
        signer, role = key[len(prefix) :], document.predicate.role
        acts = ("deploy", "update") if generation else ("deploy",)
        problem = approval_problem(case, manifest, found, document, signer, generation, acts)
        # Of a role that an organisation holds, members of now count alone [G9].
        if not problem and not any(
            roll.is_held(role) or role in capacities(side, roll, act, signer) for side, act, roll in sides
        ):
            problem = f"the signer does not hold the role {role}"
        if problem:
            raise Refused("verify.approval", f"of {signer.hex()[:16]}: {problem}")
        predicate = document.predicate
        expires_ms = approval_expiry(manifest.policies, found.time_ms, predicate.expires_ms)
        approvals.append(
            Approval(
                document.signer,
                (predicate.role,),
                predicate.decision,
                expires_ms,
                found.time_ms,
                found.since_ms,
                found.number,
                found.seat,
            )
        )
        documents[document.signer] = document.id
    decision = _decision(case, record, manifest, update, sides, approvals)
    if not decision.satisfied and not (case.runs and _runs_on(case, record, manifest)):
        return Verdict(False, decision.reasons, (), manifest)
    used = sorted({documents[signer].hex() for _, signer in decision.used})
    return Verdict(True, decision.reasons, tuple(used), manifest)


def roll_in(case: Case, manifest: Manifest) -> Roll:
    """Who holds the roles, in organisations those to whom the signed deeds lead."""
    return Roll(manifest.roles, lambda id_: proved_organisation(case.state, case.chain_id, id_))


def _sides(
    case: Case, record: Deployment, manifest: Manifest, update: UpdateRecord | None
) -> tuple[Side, ...]:
    """Whose policies a decision may count for: those of the update that brings the manifest, or brought it,
    and what is asked for of the manifest itself, which comes last."""

    def roll(one: Manifest) -> Roll:
        return roll_in(case, one)

    own: Act = "deploy"
    if update is None:
        return ((manifest, own, roll(manifest)),)
    former = _manifest(case, update.former)[1]
    if same_signers(former, manifest):
        own = "update"
    return (*change_sides(former, manifest, roll), (manifest, own, roll(manifest)))


def _decision(
    case: Case,
    record: Deployment,
    manifest: Manifest,
    update: UpdateRecord | None,
    sides: Sequence[Side],
    approvals: Sequence[Approval],
) -> Decision:
    """[U3] [U9] By the policies of the update while it is under way; then by those of its manifest."""
    if update is not None and update.manifest == record.updating and update.number == record.updates:
        about = about_update(manifest, record, update)
        return judge_change(sides[:-1], about, approvals, case.now_ms)
    _, act, roll = sides[-1]
    return judge_in_force(manifest, act, roll, approvals, case.now_ms, about_of(manifest, record))


def _runs_on(case: Case, record: Deployment, manifest: Manifest) -> bool:
    """[D8] The approval was lost less than `run_until` ago."""
    return bool(record.lost_ms) and case.now_ms < record.lost_ms + manifest.policies.run_on_s * 1000


def approval_problem(
    case: Case,
    manifest: Manifest,
    held: ApprovalRecord,
    document: Document[ApprovalPredicate],
    signer: bytes,
    generation: int,
    acts: Sequence[str],
) -> str:
    """Why a document does not prove its record, or "". `acts`: what it may be a decision on."""
    predicate = document.predicate
    if document.signer != signer or held.signer != signer:
        return "signed by another key"
    if predicate.chain_id != case.chain_id or predicate.deployment != case.deployment.hex():
        return "for another chain or deployment"
    if document.subject != manifest_digest(manifest.encode()):
        return "about another manifest"
    if predicate.update != generation:
        return "about another update"
    if (predicate.act, predicate.decision, predicate.role) != (held.act, held.decision, held.role):
        return "the record says something else than the document"
    if predicate.act not in acts:
        return f"a decision on {predicate.act}"
    if held.time_ms > case.now_ms or held.since_ms > held.time_ms:
        return "accepted in the future"
    return ""
