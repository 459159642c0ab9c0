"""The 3bot's memory on the notary, encrypted to its owner.

XSalsa20-Poly1305 (NaCl secretbox) under a key derived from the account key, with a random nonce.
Chain, owner, name and version stand inside, so that no record passes for another one.
"""

from __future__ import annotations

from typing import Final

import msgspec
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from nacl.utils import random

from bot.errors import VaultError
from bot.memory import Memory
from ledger.codec import decode, encode
from ledger.errors import Refused
from ledger.keys import Key
from ledger.limits import VAULT_RECORD_BYTES_MAX
from ledger.records import VaultRecord, key_vault
from ledger.state import Reader, read

NAME: Final = "bot.state"
DOMAIN: Final = "bot-vault/1"
FORMAT: Final = 1
_OVERHEAD_BYTES: Final = 512  # nonce, tag and what stands around the memory


class _Inside(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What is encrypted."""

    format: int
    chain_id: str
    owner: bytes
    name: str
    version: int
    memory: bytes


class Vault:
    """Seals and opens the memory of one account on one chain."""

    def __init__(self, key: Key, chain_id: str) -> None:
        self._box = SecretBox(key.derive(DOMAIN))
        self._owner = key.public
        self._chain_id = chain_id

    def seal(self, memory: Memory, version: int) -> bytes:
        """The ciphertext for a PutVault with this version. Raises Refused("bot.memory_full")."""
        inside = _Inside(FORMAT, self._chain_id, self._owner, NAME, version, encode(memory))
        plain = encode(inside)
        if len(plain) > VAULT_RECORD_BYTES_MAX - _OVERHEAD_BYTES:
            raise Refused("bot.memory_full", "what the bot looks after no longer fits its record")
        return bytes(self._box.encrypt(plain, random(SecretBox.NONCE_SIZE)))

    def open(self, record: VaultRecord) -> Memory:
        """The memory of a record. Raises VaultError when it is not what this owner wrote as this version."""
        try:
            inside = decode(_Inside, self._box.decrypt(record.ciphertext))
        except (CryptoError, ValueError, TypeError):
            raise VaultError(
                f"the bot's record {NAME!r} does not open: it was changed, or sealed by another key"
            ) from None
        except msgspec.MsgspecError as error:
            raise VaultError(f"the bot's record {NAME!r} is of another program version: {error}") from None
        if inside.format != FORMAT:
            raise VaultError(f"the bot's record has format {inside.format}, this program knows {FORMAT}")
        wanted = (self._chain_id, self._owner, NAME, record.version)
        if (inside.chain_id, inside.owner, inside.name, inside.version) != wanted:
            raise VaultError(
                f"the bot's record is of chain {inside.chain_id!r}, name {inside.name!r}, version "
                f"{inside.version}; wanted {self._chain_id!r}, {NAME!r}, {record.version}"
            )
        try:
            return decode(Memory, inside.memory)
        except msgspec.MsgspecError as error:
            raise VaultError(f"the bot's memory is of another program version: {error}") from None

    def version(self, state: Reader) -> int:
        """Of the record on the notary; 0 when there is none."""
        record = read(state, VaultRecord, key_vault(self._owner, NAME))
        return 0 if record is None else record.version

    def load(self, state: Reader) -> tuple[int, Memory]:
        """Version and memory as the notary has them; (0, empty) when there is none. Raises VaultError."""
        record = read(state, VaultRecord, key_vault(self._owner, NAME))
        return (0, Memory()) if record is None else (record.version, self.open(record))
