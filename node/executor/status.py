"""What an executor shows of itself: for the API, the metrics and people."""

from __future__ import annotations

from typing import Literal

import msgspec

Phase = Literal[
    "claimed", "fetching", "verified", "waiting", "starting", "running", "restarting", "stopping", "ended"
]


class FetchStatus(msgspec.Struct, kw_only=True):
    """One artifact on its way. `sources`: peers that are giving now; `dropped`: not asked again, and why."""

    path: str
    sha256: str
    cid: str
    bytes_total: int
    bytes_done: int
    bytes_s: int
    sources: list[str]
    dropped: dict[str, str]


class TenureStatus(msgspec.Struct, kw_only=True):
    """One term of one slot on this node. `lease_left_ms` counts to the lease's end by the node's own clock,
    not to the ledger's; below 0 what is `available` goes on, all else is being stopped."""

    deployment: str
    slot: str
    term: int
    kind: str
    phase: Phase
    lease_left_ms: int
    checks: int
    restarts: int
    cpu_ms: int  # usage, as of the last re-check
    memory_bytes_max: int
    endpoints: dict[str, str]
    fetch: list[FetchStatus]
    detail: str
    copies: str = ""  # of its volumes: how old the newest are, and what is wrong with that


class ExecutorStatus(msgspec.Struct, kw_only=True):
    """`refused`: open slots that this node does not claim, "deployment/slot" to the reason."""

    driver: str
    usable: bool
    reason: str  # why it is not usable
    features: dict[str, str]
    offering: bool
    slots: list[TenureStatus]
    ended: list[TenureStatus]
    refused: dict[str, str]
    artifacts_bytes: int
