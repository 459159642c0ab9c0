"""Keeps the bot's memory equal to its encrypted record on the notary, in both directions."""

from __future__ import annotations

import structlog

from bot.limits import SAVE_EXPIRY_BLOCKS, SAVE_TRIES_MAX
from bot.memory import Memory, at_rest, merged
from bot.vault import NAME, Vault
from bot.wallet import Wallet
from ledger.errors import Refused
from ledger.transactions import PutVault
from node.seam import NotFinal, Overloaded, PeerSeam

log = structlog.get_logger("bot")


class Keeper:
    """`memory` is the truth of this process; `version` is of the record that it includes."""

    def __init__(self, peer: PeerSeam, wallet: Wallet, vault: Vault) -> None:
        self._peer = peer
        self._wallet = wallet
        self.vault = vault
        self.memory = Memory()
        self.version = 0
        self._saved = Memory()  # what that record holds, at rest

    def recall(self) -> None:
        """Take in what the notary holds, if it is newer: ours of a former life, or of another bot of the
        owner. Raises VaultError."""
        if self.vault.version(self._peer.state) > self.version:
            self.version, self._saved = self.vault.load(self._peer.state)
            self.memory = merged(self.memory, self._saved)

    def check_fits(self, memory: Memory) -> None:
        """Raises Refused("bot.memory_full") when a memory could not be saved."""
        self.vault.seal(at_rest(memory), self.version + 1)

    async def save(self) -> None:
        """Put the memory on the notary unless it is there. What fails now is left for the next call."""
        for _ in range(SAVE_TRIES_MAX):
            self.recall()
            wanted = at_rest(self.memory)
            if wanted == self._saved:
                return
            version = self.version + 1
            try:
                body = PutVault(NAME, version, self.vault.seal(wanted, version))
                outcome = await self._wallet.send(self._wallet.make(body, SAVE_EXPIRY_BLOCKS))
            except (Refused, Overloaded, NotFinal) as error:
                log.warning("vault_not_saved", version=version, error=str(error))
                return
            if outcome.receipt.ok:
                self.version, self._saved = version, wanted
            else:  # somebody else wrote this version: merge, and try the next
                log.info("vault_conflict", version=version, rule=outcome.receipt.rule)
