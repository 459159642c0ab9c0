"""States in plain words, for people who never saw a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from node.api.models import DeploymentDetail
from node.client.amounts import span_text, time_text

STATUS_WORDS: Final = {
    "awaiting_approval": "waiting for approval",
    "approved": "approved",
    "active": "running",
    "completed": "completed",
    "rejected": "rejected",
    "expired": "expired",
    "cancelled": "cancelled",
    "paused": "paused",
    "failed": "failed",
}

Tone = Literal["good", "busy", "bad", "calm"]
_GOOD: Final = frozenset(("active", "completed", "running", "succeeded", "granted", "done"))
_BUSY: Final = frozenset(
    [
        "awaiting_approval",
        "approved",
        "claimed",
        "fetching",
        "verified",
        "committed",
        "paused",
        "open",
        "rolling",
        "held",
    ]
)
_BAD: Final = frozenset(("rejected", "failed", "lost", "quarantined", "revoked", "reverted"))


def tone(status: str) -> Tone:
    """How a state feels: its colour. The word itself always stands beside it."""
    if status in _GOOD:
        return "good"
    if status in _BUSY:
        return "busy"
    return "bad" if status in _BAD else "calm"


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a deployment's life. `after`: since the step before; "" while it is open."""

    name: str
    text: str
    at_ms: int
    after: str
    state: Literal["done", "now", "open", "bad"]


def steps(found: DeploymentDetail) -> list[Step]:
    """The timeline: ordered, approved, claimed, running, ended or signed off."""
    times = found.timings
    is_job = all(workload.kind == "job" for workload in found.manifest.workloads)
    rows = [
        ("Ordered", "paid into escrow", times.ordered_ms),
        ("Approved", "the stakeholders signed", times.approved_ms),
        ("Claimed", "nodes took the work", times.claimed_ms),
        ("Ran" if is_job else "Running", "verified, isolated, reported", times.running_ms),
        ("Signed off", "accepted as delivered", times.signed_off_ms),
        *([("Released", "the results may be fetched", times.released_ms)] if found.results else []),
    ]
    ended_badly = found.status in ("rejected", "failed", "cancelled", "expired")
    if times.ended_ms:
        rows.append((found.status.capitalize(), found.reason or "settled and refunded", times.ended_ms))
    rows = [row for row in rows if row[2] or not times.ended_ms]
    done = sorted((row for row in rows if row[2]), key=lambda row: row[2])
    shown = []
    before_ms = 0
    for index, (name, text, at_ms) in enumerate(done):
        after = f"after {span_text(at_ms - before_ms)}" if index else ""
        is_end = bool(times.ended_ms) and index == len(done) - 1 and name == found.status.capitalize()
        shown.append(Step(name, text, at_ms, after, "bad" if is_end and ended_badly else "done"))
        before_ms = at_ms
    waiting = [row for row in rows if not row[2]]
    shown += [
        Step(name, text, 0, "", "now" if i == 0 else "open") for i, (name, text, _) in enumerate(waiting)
    ]
    return shown


def sentence(found: DeploymentDetail) -> str:
    """What is going on, in one sentence."""
    policy, times = found.policies.deploy, found.timings
    running = sum(1 for slot in found.slots if slot.status == "running")
    count = len(found.slots)
    if found.status == "awaiting_approval":
        return f"Nothing runs before the approvals are there: {'; '.join(policy.reasons)}."
    if found.status == "approved":
        return "Approved. Nodes check everything themselves, claim the work and start."
    if found.status == "active":
        ended = sum(1 for slot in found.slots if slot.status in ("succeeded", "committed"))
        open_count = count - running - ended
        tail = f"; {open_count} on the way" if open_count else ""
        return f"{running} of {count} are running{tail}."
    if found.status == "completed":
        if found.results and not times.released_ms:
            why = "; ".join(found.policies.release.reasons)
            return f"All work is done; the results are held back: {why}."
        return "All work is done."
    reason = f": {found.reason}" if found.reason else ""
    until = f", until {time_text(found.ends_ms)} UTC at the latest" if found.status == "paused" else ""
    return f"{STATUS_WORDS.get(found.status, found.status).capitalize()}{until}{reason}."
