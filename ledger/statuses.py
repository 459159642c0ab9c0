"""In which states a deployment and a slot may be; docs/spec.md, section 6, says by what they change."""

from __future__ import annotations

from typing import Literal

DeploymentStatus = Literal[
    "awaiting_approval",
    "approved",
    "active",
    "completed",
    "rejected",
    "expired",
    "cancelled",
    "paused",
    "failed",
]
UpdateStatus = Literal[
    "awaiting_approval",
    "rolling",
    "held",
    "done",
    "reverted",
    "cancelled",
    "expired",
    "rejected",
]
SlotStatus = Literal[
    "open",
    "claimed",
    "fetching",
    "verified",
    "running",
    "committed",
    "succeeded",
    "failed",
    "lost",
    "quarantined",
    "released",
]
