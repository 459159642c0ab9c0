"""An update of a deployment in plain words: what it changes, and how it stands. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from node.api.update_models import UpdateView
from node.client.amounts import term_text, time_text

_TOP: Final = {
    "version": "Version of the contract",
    "contract": "The contract itself, by its id",
    "summary": "What the contract says that it is",
    "title": "Title",
    "terms.budget": "The most that it may cost",
    "terms.fee": "What the author earns",
    "terms.duration_s": "How long it runs",
    "terms.extension_s": "How much longer it may be made to run",
    "terms.top_up": "How much money may be added later",
    "terms.grace_s": "How long it waits when the money is used up",
    "policies.deploy": "Who must approve that it runs",
    "policies.signoff": "Who must accept what was delivered",
    "policies.delete": "Who must agree to its end",
    "policies.update": "Who must approve updates",
    "policies.validity_s": "How long an approval counts",
    "policies.run_on_s": "How long it runs on without approval",
}
_WORKLOAD: Final = {
    "replicas": "How many copies run",
    "command": "What is started",
    "kind": "Whether it runs on, or ends by itself",
    "runtime": "How it is isolated",
    "resources.cpu_millis": "Processor of each copy",
    "resources.memory_bytes": "Memory of each copy",
    "resources.disk_bytes": "Disk of each copy",
    "placement.countries": "In which countries it may run",
    "placement.farms": "At which farms it may run",
    "placement.distinct": "How far apart copies are",
    "egress": "What it may connect to",
    "secrets": "Which secrets it is given",
    "time_limit_s": "How long it may take",
    "recheck_s": "How often its files are checked again",
    "available_s": "How long it runs on without the notary",
    "env": "Its settings",
}
_NOTHING: Final = "nothing"


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """A change for people; `field`: its exact name in the manifest."""

    what: str
    before: str
    after: str
    field: str


def change_rows(update: UpdateView) -> list[ChangeRow]:
    """All that an update changes, none left out: what has no words of its own is named as it is."""
    return [
        ChangeRow(_words(c.field), _value(c.field, c.before), _value(c.field, c.after), c.field)
        for c in update.changes
    ]


def update_sentence(update: UpdateView) -> str:
    """How it stands, in one or two sentences."""
    missing, reason = "; ".join(update.missing), update.reason.rstrip(".")
    return {
        "awaiting_approval": f"It waits for approval: {missing}. Nothing changes before that.",
        "rolling": "It is approved. What runs changes over step by step, and back if a step fails.",
        "held": f"It stands still half-way: {reason}. Who ordered it decides whether it goes on or back.",
        "done": f"It is done since {time_text(update.ended_ms)} UTC: this version runs.",
        "reverted": f"It was undone: {reason}. What ran before runs on.",
        "cancelled": f"It was stopped before anything changed: {reason}.",
        "expired": "Nobody approved it in time. Nothing changed.",
        "rejected": f"It was rejected: {reason}. Nothing changed.",
    }.get(update.status, update.status)


def _words(field: str) -> str:
    if field in _TOP:
        return _TOP[field]
    head, _, rest = field.partition(".")
    name, _, part = rest.partition(".")
    if head == "parameters":
        return f"Answer: {rest}"
    if head == "roles":
        return f"Who holds the role {name}"
    if head == "workloads" and not part:
        return f"Workload {name}"
    if head == "workloads" and part in _WORKLOAD:
        return f"{_WORKLOAD[part]} ({name})"
    if head == "workloads" and part.startswith("artifacts."):
        return _artifact_words(name, part.removeprefix("artifacts."))
    return field


def _artifact_words(workload: str, rest: str) -> str:
    """Paths have dots of their own; the last word is the field, where it is one."""
    for field, words in (
        (".sha256", "Contents of the file {0} ({1}), by their fingerprint"),
        (".size_bytes", "Size of the file {0} ({1})"),
        (".chunks", "Contents of the file {0} ({1}), by the fingerprint of its pieces"),
        (".executable", "Whether the file {0} ({1}) may be run"),
    ):
        if rest.endswith(field):
            return words.format(rest.removesuffix(field), workload)
    return f"File {rest} ({workload})"


def _value(field: str, text: str) -> str:
    return term_text(field, text) if text else _NOTHING
