"""The 3bot's own errors. What a consumer asks for in vain is a `ledger.errors.Refused` with a bot.* rule."""

from __future__ import annotations

from ledger.errors import LocalError


class VaultError(LocalError):
    """The bot's state on the notary is there, but this key does not open it, or it is not what we wrote."""
