"""A deployment with everything about it, and the policy as this peer evaluates it itself."""

from __future__ import annotations

from collections.abc import Sequence

from ledger import records as r
from ledger.codec import decode
from ledger.documents import open_document
from ledger.errors import LocalError
from ledger.manifests.expansion import decode_manifest
from ledger.manifests.types import Manifest
from ledger.policies.records import judge_records, roll_of
from ledger.predicates import Act
from ledger.state import read
from ledger.trade_records import Dispute
from ledger.transition.outage import missed_ms
from ledger.warnings import Notice, standing_notices
from node.api import models as m
from node.api.limits import BILLS_SHOWN_MAX, HISTORY_SHOWN_MAX, RECEIPTS_SHOWN_MAX
from node.api.problems import not_found
from node.api.update_views import update_views
from node.api.views import full_id
from node.client.amounts import span_text
from node.seam import PeerSeam

_PREFIX = b"deployment/"


def manifest_bytes(peer: PeerSeam, digest: bytes) -> bytes:
    """The exact bytes of a manifest. Raises ApiProblem 404."""
    data = peer.state.get(r.key_manifest(digest))
    if data is None:
        raise not_found("no manifest with this digest", "manifest.unknown")
    return data


def find_deployment(peer: PeerSeam, ref: str) -> r.Deployment:
    """A deployment by its id, or the first digits of it. Raises ApiProblem 400, 404."""
    id_ = full_id(peer, _PREFIX, ref, "deployment")
    record = read(peer.state, r.Deployment, r.key_deployment(id_))
    if record is None:
        raise not_found(f"no deployment {ref}", "deployment.unknown")
    return record


def deployment_summary(peer: PeerSeam, record: r.Deployment) -> m.DeploymentSummary:
    """A line of the list."""
    contract = read(peer.state, r.ContractRecord, r.key_contract(record.contract))
    slots = [read(peer.state, r.Slot, r.key_slot(record.id, name)) for name in record.slots]
    return m.DeploymentSummary(
        id=record.id.hex(),
        contract=record.contract.hex(),
        name="" if contract is None else contract.name,
        version="" if contract is None else contract.version,
        consumer=record.consumer.hex(),
        status=record.status,
        desired=record.desired,
        ordered_ms=record.ordered_ms,
        escrow=record.escrow,
        spent=record.spent,
        slots=len(record.slots),
        slots_running=sum(1 for s in slots if s is not None and s.status in ("running", "succeeded")),
        reason=record.reason,
    )


def deployment_detail(peer: PeerSeam, ref: str) -> m.DeploymentDetail:
    """All about one deployment. Raises ApiProblem 400, 404."""
    record = find_deployment(peer, ref)
    manifest = decode_manifest(manifest_bytes(peer, record.manifest))
    approvals = [
        decode(r.ApprovalRecord, data) for _, data in peer.state.scan(b"approval/" + record.id + b"/")
    ]
    slots = [_slot_record(peer, record.id, name) for name in record.slots]
    ends_ms = record.ends_ms and record.ends_ms + missed_ms(peer.state) - record.missed_ms
    return m.DeploymentDetail(
        id=record.id.hex(),
        contract=record.contract.hex(),
        manifest_digest=record.manifest.hex(),
        consumer=record.consumer.hex(),
        bot=record.bot.hex(),
        status=record.status,
        desired=record.desired,
        escrow=record.escrow,
        funded=record.funded,
        topped_up=record.topped_up,
        extended_s=record.extended_s,
        ends_ms=ends_ms,
        spent=record.spent,
        fee_paid=record.fee_paid,
        reason=record.reason,
        warnings=_warnings(record, manifest, slots, approvals, ends_ms, peer.time_ms),
        manifest=manifest,
        policies=m.Policies(
            deploy=_policy(peer, record, manifest, approvals, "deploy"),
            signoff=_policy(peer, record, manifest, approvals, "signoff"),
            delete=_policy(peer, record, manifest, approvals, "delete"),
            release=_policy(peer, record, manifest, approvals, "release"),
        ),
        approvals=[_approval(item) for item in sorted(approvals, key=lambda a: (a.time_ms, a.signer))],
        slots=[_slot(peer, slot) for slot in slots],
        receipts=_receipts(peer, record.id),
        bills=_bills(peer, record.id),
        disputes=_disputes(peer, record.id),
        timings=m.Timings(
            ordered_ms=record.ordered_ms,
            approved_ms=record.approved_ms,
            claimed_ms=record.claimed_ms,
            running_ms=record.running_ms,
            ended_ms=record.ended_ms,
            signed_off_ms=record.signed_off_ms,
            released_ms=record.released_ms,
        ),
        txs=[id_.hex() for id_ in peer.store.history(record.id, HISTORY_SHOWN_MAX)],
        generation=record.generation,
        ground=record.ground,
        updates=update_views(peer, record, approvals),
        results=record.results.hex(),
        withheld=record.withheld,
        release_until_ms=record.release_until_ms,
    )


def _policy(
    peer: PeerSeam, record: r.Deployment, manifest: Manifest, approvals: Sequence[r.ApprovalRecord], act: Act
) -> m.PolicyView:
    found = judge_records(manifest, record, act, approvals, peer.time_ms, roll_of(peer.state, manifest))
    return m.PolicyView(
        asked=manifest.policies.of(act) is not None,
        satisfied=found.satisfied,
        rejected=found.rejected,
        reasons=list(found.reasons),
        used=[m.Place(place=place, signer=signer.hex()) for place, signer in found.used],
    )


def _approval(record: r.ApprovalRecord) -> m.ApprovalView:
    predicate = open_document(record.envelope, "approval").predicate
    return m.ApprovalView(
        signer=record.signer.hex(),
        role=record.role,
        act=record.act,
        decision=record.decision,
        document=record.document.hex(),
        comment=predicate.comment,
        expires_ms=predicate.expires_ms,
        counts_until_ms=record.expires_ms,
        update=record.generation,
        results=record.results.hex(),
        height=record.height,
        time_ms=record.time_ms,
    )


def _warnings(
    record: r.Deployment,
    manifest: Manifest,
    slots: Sequence[r.Slot],
    approvals: Sequence[r.ApprovalRecord],
    ends_ms: int,
    now_ms: int,
) -> list[m.WarningView]:
    found = standing_notices(manifest, record, slots, approvals, ends_ms, now_ms)
    return [
        m.WarningView(kind=item.kind, about=item.about, at_ms=item.at_ms, text=_words(item, record, now_ms))
        for item in found
    ]


def _words(item: Notice, record: r.Deployment, now_ms: int) -> str:
    left = span_text(max(item.at_ms - now_ms, 0))
    if item.kind == "deployment.ends_soon":
        waits = "its grace" if record.status == "paused" else "its term" if record.approved_ms else "its wait"
        return f"{waits} is over in {left}"
    if item.kind == "approval.expires_soon":
        return f"the approval of {item.about[:10]} expires in {left}"
    return "the escrow does not last to the end of the term"


def _slot_record(peer: PeerSeam, deployment: bytes, name: str) -> r.Slot:
    slot = read(peer.state, r.Slot, r.key_slot(deployment, name))
    if slot is None:
        raise LocalError(f"the state holds no slot {name} of {deployment.hex()}")
    return slot


def _slot(peer: PeerSeam, slot: r.Slot) -> m.SlotView:
    node = read(peer.state, r.Node, r.key_node(slot.holder)) if slot.holder else None
    return m.SlotView(
        name=slot.name,
        status=slot.status,
        term=slot.term,
        holder=slot.holder.hex(),
        farm="" if node is None else node.farm,
        country="" if node is None else node.country,
        lease_until_ms=slot.lease_until_ms,
        renewed_ms=slot.renewed_ms,
        claimed_ms=slot.claimed_ms,
        rate_hour=slot.rate_hour,
        attempts=slot.attempts,
        endpoints=slot.endpoints,
        results=slot.results,
        detail=slot.detail,
    )


def _receipts(peer: PeerSeam, deployment: bytes) -> list[m.ReceiptView]:
    """In the order of time; of many, the newest."""
    found = [decode(r.ReceiptRecord, data) for _, data in peer.state.scan(b"receipt/" + deployment + b"/")]
    found.sort(key=lambda record: (record.time_ms, record.height))
    views = []
    for record in found[-RECEIPTS_SHOWN_MAX:]:
        document = open_document(record.envelope, "receipt")
        views.append(
            m.ReceiptView(
                slot=record.slot,
                term=record.term,
                node=record.node.hex(),
                status=record.status,
                height=record.height,
                time_ms=record.time_ms,
                document=document.id.hex(),
                receipt=document.predicate,
            )
        )
    return views


def _bills(peer: PeerSeam, deployment: bytes) -> list[m.BillView]:
    found = [decode(r.Bill, data) for _, data in peer.state.scan(b"bill/" + deployment + b"/")]
    found.sort(key=lambda bill: (bill.from_ms, bill.slot, bill.term))
    return [
        m.BillView(
            slot=bill.slot,
            term=bill.term,
            payee=bill.payee.hex(),
            from_ms=bill.from_ms,
            to_ms=bill.to_ms,
            amount=bill.amount,
        )
        for bill in found[-BILLS_SHOWN_MAX:]
    ]


def _disputes(peer: PeerSeam, deployment: bytes) -> list[m.DisputeView]:
    found = [decode(Dispute, data) for _, data in peer.state.scan(b"dispute/" + deployment + b"/")]
    return [
        m.DisputeView(
            number=dispute.number,
            opener=dispute.opener.hex(),
            slot=dispute.slot,
            term=dispute.term,
            says=dispute.says,
            opened_ms=dispute.opened_ms,
            closed_ms=dispute.closed_ms,
            closing=dispute.closing,
        )
        for dispute in sorted(found, key=lambda dispute: dispute.number)
    ]
