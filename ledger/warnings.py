"""What somebody should know in time about a deployment, from its records alone. Pure.

The ledger tells each once, as an event (`ledger.transition.notices`); who asks later is told what holds now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from ledger.limits import NOTICE_MS_MAX, NOTICE_SHARE
from ledger.manifests.expansion import cost
from ledger.manifests.types import Manifest
from ledger.records import ApprovalRecord, Deployment, Slot
from ledger.transition.deal import ENDED


class Notice(Struct, frozen=True):
    """`kind`: the event that tells the same. `about`: a signer in hex, or "". `at_ms`: when it will happen;
    0: no time is known."""

    kind: str
    about: str
    at_ms: int


def lead_ms(total_ms: int) -> int:
    """How long before the end of such a stretch of time its end is told ([I1])."""
    return min(total_ms // NOTICE_SHARE, NOTICE_MS_MAX)


def approval_notice_ms(approval: ApprovalRecord) -> int:
    """[I2] When an approval's end is told; 0: it ends too soon after it was made for that."""
    lead = lead_ms(approval.expires_ms - approval.time_ms)
    return approval.expires_ms - lead if lead > 0 else 0


def shortfall(manifest: Manifest, record: Deployment, slots: Iterable[Slot], ends_ms: int) -> int:
    """[I3] Micro-credits that the escrow lacks for all held slots up to the end, the author's fee kept back;
    0 when it lasts. A rounding of each slot is left to it."""
    limits_ms = {workload.name: workload.time_limit_s * 1000 for workload in manifest.workloads}
    need = count = 0
    for slot in slots:
        count += 1
        if not slot.holder or slot.status == "released":
            continue
        limit_ms = limits_ms.get(slot.name.partition("/")[0], 0)
        until_ms = min(ends_ms, slot.claimed_ms + limit_ms) if limit_ms else ends_ms
        need += cost(slot.rate_hour, max(slot.billed_ms, slot.claimed_ms), until_ms)
    kept = 0 if record.fee_paid else manifest.terms.fee
    short = need - (record.escrow - kept)
    return short if short > count else 0


def standing_notices(
    manifest: Manifest,
    record: Deployment,
    slots: Iterable[Slot],
    approvals: Iterable[ApprovalRecord],
    ends_ms: int,
    now_ms: int,
) -> Iterator[Notice]:
    """What holds at `now_ms`. `ends_ms`: when it ends as things stand, missed time counted; 0: by itself
    never. `slots` and `approvals`: all that it has."""
    if record.status in ENDED:
        return
    if ends_ms and not record.notice_ms:  # told already
        yield Notice("deployment.ends_soon", "", ends_ms)
    for approval in approvals:
        of_it = approval.act in ("deploy", "update") and approval.generation == record.generation
        counts = of_it and approval.decision == "granted" and now_ms < approval.expires_ms
        if counts and 0 < approval_notice_ms(approval) <= now_ms:
            yield Notice("approval.expires_soon", approval.signer.hex(), approval.expires_ms)
    if shortfall(manifest, record, slots, ends_ms):
        yield Notice("deployment.escrow_low", "", 0)
