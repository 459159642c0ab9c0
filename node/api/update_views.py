"""Updates of a deployment, and their approval as this peer evaluates it itself."""

from __future__ import annotations

from collections.abc import Iterable

from ledger import records as r
from ledger.contracts.differences import manifest_changes
from ledger.errors import LocalError
from ledger.manifests.expansion import decode_manifest
from ledger.policies.decision import describe
from ledger.policies.records import about_update, approval_of, change_sides, judge_change, roll_of
from ledger.state import read
from ledger.trade_records import UpdateRecord, key_update
from node.api.limits import UPDATES_DIFFED_MAX
from node.api.update_models import UpdateView
from node.api.update_seam import Changed
from node.seam import PeerSeam


def update_views(
    peer: PeerSeam, record: r.Deployment, approvals: Iterable[r.ApprovalRecord]
) -> list[UpdateView]:
    """All that were asked for, oldest first."""
    given = list(approvals)
    return [_view(peer, record, number, given) for number in range(1, record.updates + 1)]


def _view(peer: PeerSeam, record: r.Deployment, number: int, approvals: list[r.ApprovalRecord]) -> UpdateView:
    update = read(peer.state, UpdateRecord, key_update(record.id, number))
    if update is None:
        raise LocalError(f"the state holds no update {number} of {record.id.hex()}")
    data = peer.state.get(r.key_manifest(update.manifest))
    former = peer.state.get(r.key_manifest(update.former))
    if data is None or former is None:
        raise LocalError(f"the state holds update {number} of {record.id.hex()}, but not its manifests")
    manifest, before = decode_manifest(data), decode_manifest(former)
    sides = change_sides(before, manifest, lambda one: roll_of(peer.state, one))
    found = list(manifest_changes(before, manifest)) if number > record.updates - UPDATES_DIFFED_MAX else []
    satisfied, missing = bool(update.approved_ms), []
    if not update.ended_ms:
        mine = [approval_of(found) for found in approvals if found.generation == number]
        about = about_update(manifest, record, update)
        decision = judge_change(sides, about, mine, peer.time_ms)
        satisfied, missing = decision.satisfied, [] if decision.satisfied else list(decision.reasons)
    return UpdateView(
        number=number,
        status=update.status,
        former=update.former.hex(),
        manifest_digest=update.manifest.hex(),
        contract=update.contract.hex(),
        version=manifest.version,
        satisfied=satisfied,
        missing=missing,
        asked_for=[describe(side.policies.of(act)) for side, act, _ in sides],
        changes=[Changed(field=d.field, before=d.before_text, after=d.after_text) for d in found],
        locked=update.locked,
        refunded=update.refunded,
        requested_ms=update.requested_ms,
        approved_ms=update.approved_ms,
        ended_ms=update.ended_ms,
        due_ms=update.due_ms,
        reason=update.reason,
    )
