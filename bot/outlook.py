"""How a deployment stands: what it does, in words, and what its consumer should be warned of. Pure, total."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from bot.limits import WARN_MS_MAX, WARN_PART
from bot.matcher import best_node, why_none
from bot.view import Own, View, awaits_signoff
from ledger.records import Slot
from ledger.transition.deal import RUNS, extended, funds_under
from ledger.warnings import shortfall
from node.client.amounts import credits_text

_NAMES_SHOWN: Final = 3
_STAGES: Final = (
    "running",
    "succeeded",
    "waiting to be compared",
    "starting",
    "placed again",
    "waiting for a node",
    "stopping",
)
_BAD_ENDS: Final = ("failed", "expired", "rejected")


def doing(view: View, own: Own) -> str:
    """One line for people. It changes only when something happened."""
    record = own.record
    if record.status == "awaiting_approval":
        needs = "; ".join(own.judge("deploy", view.time_ms).reasons)
        what = "stopped, an approval was withdrawn or ran out" if record.approved_ms else "waits for approval"
        return f"{what}: {needs}"
    if record.status in RUNS:
        return _slots_text(own) + _update_text(view, own)
    if awaits_signoff(record):
        return f"done, waits for sign-off: {'; '.join(own.judge('signoff', view.time_ms).reasons)}"
    if record.results and not record.released_ms:
        return f"done, results are held back: {'; '.join(own.judge('release', view.time_ms).reasons)}"
    return f"{record.status}: {record.reason}" if record.reason else record.status


def _slots_text(own: Own) -> str:
    groups: dict[str, list[Slot]] = {}
    for slot in own.slots:
        groups.setdefault(_stage(slot), []).append(slot)
    parts = []
    for stage in _STAGES:
        slots = groups.get(stage)
        if slots:
            parts.append(f"{len(slots)} of {len(own.slots)} {stage}{_names(stage, slots)}")
    return "; ".join(parts)


def _update_text(view: View, own: Own) -> str:
    """[B6] How an update goes on."""
    update = own.update
    if update is None or update.ended_ms or own.next is None:
        return ""
    name = f"; update {update.number} to {own.next.version}"
    if update.status == "awaiting_approval":
        return f"{name} waits for approval: {'; '.join(own.judge('update', view.time_ms).reasons)}"
    over = sum(1 for slot in own.slots if slot.next == update.manifest)
    return f"{name} {'is held' if update.status == 'held' else 'rolls'}, {over} slots changed over"


def _update_warnings(own: Own) -> dict[str, str]:
    """[B6]"""
    update = own.update
    if update is None or update.status in ("done", "cancelled", "awaiting_approval", "rolling"):
        return {}
    text = f"update {update.number} is {update.status}: {update.reason}"
    if update.status == "held":
        return {"update_held": f"{text}; cancel it, or let it go on"}
    return {"update_ended": text}


def _stage(slot: Slot) -> str:
    if slot.status in ("running", "succeeded"):
        return slot.status
    if slot.status == "committed":
        return "waiting to be compared"
    if slot.status == "open":
        return "placed again" if slot.term else "waiting for a node"
    return "starting" if slot.status in ("claimed", "fetching", "verified") else "stopping"


def _names(stage: str, slots: list[Slot]) -> str:
    """Which ones, for those that somebody may want to look after."""
    if stage != "placed again":
        return ""
    shown = [f"{slot.name} as term {slot.term + 1}" for slot in slots[:_NAMES_SHOWN]]
    more = f" and {len(slots) - _NAMES_SHOWN} more" if len(slots) > _NAMES_SHOWN else ""
    return f" ({', '.join(shown)}{more})"


def warnings(view: View, own: Own) -> dict[str, str]:
    """What holds now and should not: reason by kind."""
    record, now = own.record, view.time_ms
    found: dict[str, str] = {}
    if record.status in _BAD_ENDS:
        found["ended"] = f"{record.status}: {record.reason}"
    elif record.status == "paused":
        found["paused"] = f"paused: {record.reason}; top it up or extend it, or it ends"
    elif record.status == "awaiting_approval" and not record.approved_ms:
        validity_ms = own.manifest.policies.validity_s * 1000
        if record.ends_ms - now <= _lead_ms(validity_ms):
            found["approval_wait"] = "the wait for approval is nearly over; then the order expires"
    elif record.status in RUNS:
        found |= _capacity(view, own)
        found |= _money(own, now)
        found |= _update_warnings(own)
        if record.ends_ms - now <= _lead_ms(own.manifest.terms.duration_s * 1000):
            found["term_ends"] = "its term is nearly over"
        lead_ms = _lead_ms(own.manifest.policies.validity_s * 1000)
        ahead = own.judge("deploy", min(now + lead_ms, max(record.ends_ms - 1, now)))
        if not ahead.satisfied:
            found["approval_ends"] = f"an approval runs out soon; then it {'; '.join(ahead.reasons)}"
    return found


def _lead_ms(total_ms: int) -> int:
    return min(total_ms // WARN_PART, WARN_MS_MAX)


def _capacity(view: View, own: Own) -> dict[str, str]:
    """[B5] One open slot stands for all of its workload."""
    found: dict[str, str] = {}
    nodes = {node.key: node for node in view.nodes}
    held = [(slot.name, nodes[slot.holder]) for slot in own.slots if slot.holder in nodes]
    manifests = {own.record.manifest: extended(own.manifest, own.record)}
    if own.next is not None:
        funded = replace(own.record, funded=funds_under(own.next.terms, own.record))
        manifests[own.record.updating] = extended(own.next, funded)
    looked_at: set[str] = set()
    for slot in own.slots:
        name = slot.name.partition("/")[0]
        manifest = manifests.get(slot.next)
        workloads = () if manifest is None else manifest.workloads
        workload = next((workload for workload in workloads if workload.name == name), None)
        if (
            slot.status != "open"
            or slot.window_closes_ms
            or name in looked_at
            or workload is None
            or manifest is None
        ):
            continue
        looked_at.add(name)
        if best_node(manifest, workload, view.nodes, held, view.time_ms, view.farms) is None:
            why = "; ".join(why_none(manifest, workload, view.nodes, held, view.time_ms, view.farms))
            found[f"no_capacity.{name}"] = f"no node fits {slot.name}: {why}"
    return found


def _money(own: Own, now_ms: int) -> dict[str, str]:
    """Slots that are held must be paid up to the end from what is left; the fee is kept back until paid."""
    short = shortfall(own.manifest, own.record, own.slots, own.record.ends_ms)
    if not short:
        return {}
    lacks = f"{credits_text(short)} credits short"
    return {"budget_low": f"the escrow will not last to the end of the term: {lacks}"}
