"""Encrypted records, such as the 3bot's state.

[V1] A record belongs to the key that sends it; each version is the former + 1, so two writers never
     overwrite each other unseen. At most VAULT_NAMES_MAX records an owner.
"""

from __future__ import annotations

import re
from typing import Final

from ledger.errors import Refused
from ledger.limits import VAULT_NAMES_MAX, VAULT_RECORD_BYTES_MAX
from ledger.records import VaultRecord, key_vault
from ledger.transactions import PutVault
from ledger.transition.env import Env

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def put_vault(env: Env, body: PutVault) -> None:
    """[V1] Raises Refused("vault.…")."""
    if not _NAME.fullmatch(body.name):
        raise Refused("vault.name", "1 to 64 of a-z, 0-9, '.', '_' and '-'", "name")
    if len(body.ciphertext) > VAULT_RECORD_BYTES_MAX:
        raise Refused("vault.too_long", f"at most {VAULT_RECORD_BYTES_MAX} bytes", "ciphertext")
    key = key_vault(env.sender, body.name)
    former = env.read(VaultRecord, key)
    version = 0 if former is None else former.version
    if body.version != version + 1:
        raise Refused("vault.version", f"the next version is {version + 1}", "version")
    if former is None:
        count = sum(1 for _ in env.state.scan(key_vault(env.sender, ""), limit=VAULT_NAMES_MAX))
        if count >= VAULT_NAMES_MAX:
            raise Refused("vault.too_many", f"at most {VAULT_NAMES_MAX} records an owner", "name")
    env.write(key, VaultRecord(body.version, body.ciphertext))
    env.emit("vault.put", env.sender, name=body.name, version=body.version)
