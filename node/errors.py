"""The node's own errors. Faults of foreign bytes are `ledger.errors.Refused` and `PeerFault`."""

from __future__ import annotations

from ledger.errors import LocalError


class ConfigError(LocalError):
    """A setting, key file or home that cannot be used. The text says where, which key, which rule."""
