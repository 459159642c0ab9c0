"""What a node proves for itself before it claims a slot, and again before it starts a byte of it.

From its own committed state and the signed documents in it: the consumer's order, the author's
contract, that the contract and the order's parameters expand to exactly this manifest, each
stakeholder's approval, of each organisation that holds a role the deeds that led to its members, and that the
policy is satisfied now. The deployment's `status`, which says
that somebody concluded all this, is not asked. Pure: the state and the time are given.
"""

from __future__ import annotations

from dataclasses import dataclass

from ledger.codec import decode, sha256
from ledger.documents import Document, open_document
from ledger.errors import Refused
from ledger.manifest import decode_manifest, expand
from ledger.manifest_types import Manifest
from ledger.organisation_history import proved_organisation
from ledger.people import Roll
from ledger.policy import Approval, approval_expiry, judge
from ledger.policy_records import about_of, capacities
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
from ledger.transactions import OrderDeployment, decode_tx, verify_tx


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
    the order's transaction as this peer's chain holds them. `runs`: the work was started with approval, and
    may go on without it for as long as the contract says."""

    state: Reader
    chain_id: str
    deployment: bytes
    order: bytes | None
    now_ms: int
    runs: bool = False


def verify(case: Case) -> Verdict:
    """The verdict. Never raises for what a state or document holds."""
    try:
        return _verify(case)
    except Refused as error:
        return Verdict(False, (f"{error.rule}: {error.detail}"[:300],))


def _verify(case: Case) -> Verdict:
    record = read(case.state, Deployment, key_deployment(case.deployment))
    if record is None:
        raise Refused("verify.deployment", "no such deployment")
    data = case.state.get(key_manifest(record.manifest))
    if data is None or sha256(data) != record.manifest:
        raise Refused("verify.manifest", "its bytes are missing or are not its digest's")
    manifest = decode_manifest(data)
    order = _check_order(case, record)
    contract = _check_contract(case, record)
    expanded = expand(
        contract.predicate.contract,
        contract.id,
        contract.signer,
        record.consumer,
        order.parameters,
        order.roles,
    )
    if expanded != data:
        raise Refused("verify.expansion", "contract and order do not expand to this manifest")
    return _check_approvals(case, record, manifest)


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
    if (tx.tx.sender, body.contract, body.manifest) != (record.consumer, record.contract, record.manifest):
        raise Refused("verify.order", "consumer, contract or manifest are not those of the order")
    return body


def _check_contract(case: Case, record: Deployment) -> Document[ContractPredicate]:
    """The author's signed contract, by its id."""
    found = read(case.state, ContractRecord, key_contract(record.contract))
    if found is None:
        raise Refused("verify.contract", "the contract is not there")
    document = open_document(found.envelope, "contract")
    if document.id != record.contract:
        raise Refused("verify.contract", f"the document's id is {document.id.hex()}")
    if document.signer != found.author:
        raise Refused("verify.contract", "the signer is not the author on record")
    return document


def _check_approvals(case: Case, record: Deployment, manifest: Manifest) -> Verdict:
    """Each approval document by itself, then the policy over all of them at the block's time.

    One that does not prove what its record says refuses the whole: it may hide a revocation.
    """
    prefix = key_approval(case.deployment, "deploy", b"")
    roll = _roll(case, manifest)
    approvals: list[Approval] = []
    documents: dict[bytes, bytes] = {}
    for key, data in list(case.state.scan(prefix)):
        held = decode(ApprovalRecord, data)
        document = open_document(held.envelope, "approval")
        signer = key[len(prefix) :].hex()[:16]
        problem = _approval_problem(case, record, manifest, held, document, key[len(prefix) :])
        role = document.predicate.role
        held_by_keys = not roll.is_held(role)  # of a role that is, members of now count alone [G9]
        if not problem and held_by_keys and role not in capacities(manifest, roll, "deploy", document.signer):
            problem = f"the signer does not hold the role {role}"
        if problem:
            raise Refused("verify.approval", f"of {signer}: {problem}")
        predicate = document.predicate
        expires_ms = approval_expiry(manifest.policies, held.time_ms, predicate.expires_ms)
        approvals.append(
            Approval(
                document.signer,
                (predicate.role,),
                predicate.decision,
                expires_ms,
                held.time_ms,
                held.since_ms,
                held.number,
                held.seat,
            )
        )
        documents[document.signer] = document.id
    about = about_of(manifest, record)
    decision = judge(manifest.policies, "deploy", roll, approvals, case.now_ms, about)
    if not decision.satisfied and not (case.runs and _runs_on(case, record, manifest)):
        return Verdict(False, decision.reasons, (), manifest)
    used = sorted({documents[signer].hex() for _, signer in decision.used})
    return Verdict(True, decision.reasons, tuple(used), manifest)


def _roll(case: Case, manifest: Manifest) -> Roll:
    """Who holds the roles, in organisations those to whom the signed deeds lead."""
    return Roll(manifest.roles, lambda id_: proved_organisation(case.state, case.chain_id, id_))


def _runs_on(case: Case, record: Deployment, manifest: Manifest) -> bool:
    """[D8] The approval was lost less than `run_until` ago."""
    return bool(record.lost_ms) and case.now_ms < record.lost_ms + manifest.policies.run_on_s * 1000


def _approval_problem(
    case: Case,
    record: Deployment,
    manifest: Manifest,
    held: ApprovalRecord,
    document: Document[ApprovalPredicate],
    signer: bytes,
) -> str:
    predicate = document.predicate
    if document.signer != signer or held.signer != signer:
        return "signed by another key"
    if predicate.chain_id != case.chain_id or predicate.deployment != case.deployment.hex():
        return "for another chain or deployment"
    if document.subject != record.manifest:
        return "about another manifest"
    if predicate.act != "deploy" or predicate.decision != held.decision or predicate.role != held.role:
        return "the record says something else than the document"
    if held.time_ms > case.now_ms or held.since_ms > held.time_ms:
        return "accepted in the future"
    return ""
