"""The core's own errors. Foreign bytes raise ledger.errors.PeerFault in `verify`."""

from __future__ import annotations

from ledger.errors import LocalError


class SafetyError(LocalError):
    """What the core was restored from contradicts itself: never vote with such a store."""
