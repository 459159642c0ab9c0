"""What each system is asked to write: 250 bytes a transaction, every one to a new key.

Ours: the whole signed transaction is that long (a `vault.put`; its ciphertext fills it up). etcd: key and
value together. CometBFT: the kvstore's `key=value`.
"""

from __future__ import annotations

import base64
import secrets
from typing import Final

from bench.load.grpc_channel import put_request
from ledger.keys import Key
from ledger.transactions import PutVault, Tx, sign_tx

PAYLOAD_BYTES: Final = 250
RECORDS_PER_OWNER: Final = 8  # then the next owner: many small users, not one big
_KEY_CHARS: Final = 24


def gridpact(count: int, chain_id: str, expires: int) -> list[bytes]:
    """Signed transactions by fresh owners, each valid to the height `expires`."""
    made: list[bytes] = []
    fill = PAYLOAD_BYTES // 2
    for number in range(count):
        if number % RECORDS_PER_OWNER == 0:
            key = Key(secrets.token_bytes(32))
        name = f"r{number % RECORDS_PER_OWNER}"
        while True:
            body = PutVault(name, 1, secrets.token_bytes(fill))
            raw = sign_tx(key, Tx(chain_id, key.public, expires, secrets.token_bytes(8), body))
            if len(raw) == PAYLOAD_BYTES:
                break
            fill += PAYLOAD_BYTES - len(raw)  # the first time: only now is it known what all else takes
        made.append(raw)
    return made


def _pair() -> tuple[bytes, bytes]:
    key = secrets.token_hex(_KEY_CHARS // 2).encode()
    return key, secrets.token_hex(PAYLOAD_BYTES // 2).encode()


def etcd(count: int) -> list[bytes]:
    """Encoded PutRequests."""
    pairs = (_pair() for _ in range(count))
    return [put_request(key, value[: PAYLOAD_BYTES - len(key)]) for key, value in pairs]


def cometbft(count: int) -> list[bytes]:
    """Transactions in base64, as JSON-RPC carries them."""
    pairs = (_pair() for _ in range(count))
    return [base64.b64encode(b"%b=%b" % (key, value[: PAYLOAD_BYTES - len(key) - 1])) for key, value in pairs]
