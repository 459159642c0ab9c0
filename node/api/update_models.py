"""An update of a deployment as the API shows it."""

from __future__ import annotations

import msgspec

from node.api.update_seam import Changed


class UpdateView(msgspec.Struct, kw_only=True):
    """`satisfied` and `missing`: its approval as this peer evaluates it, while it is under way. `asked_for`:
    whose policies it must satisfy, in words: those in force and, where the signers change, those after it.
    `changes`: of the newest UPDATES_DIFFED_MAX. Money in micro-credits, block times in ms; `due_ms`: when it
    is looked at again by itself, 0: not."""

    number: int
    status: str
    former: str  # digests in hex
    manifest_digest: str
    contract: str
    version: str
    satisfied: bool
    missing: list[str]
    asked_for: list[str]
    changes: list[Changed]
    locked: int
    refunded: int
    requested_ms: int
    approved_ms: int
    ended_ms: int
    due_ms: int
    reason: str
