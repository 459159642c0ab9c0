"""Bytes for one reader: sealed to an Ed25519 key, as only its owner opens them.

libsodium's sealed box (X25519, XSalsa20-Poly1305) with a sender's key that is made for each message and
forgotten, to the X25519 form of the reader's key. A box says nothing of who made it: what matters is signed
beside it, and what it is for stands inside it.
"""

from __future__ import annotations

from nacl import bindings
from nacl.exceptions import CryptoError

from ledger.errors import Refused
from ledger.keys import Key


def seal(public: bytes, data: bytes) -> bytes:
    """`data` for the owner of this public key. Raises Refused("seal.key") for one of another length, or
    that is no point of the curve's large subgroup."""
    try:
        reader = bindings.crypto_sign_ed25519_pk_to_curve25519(public)
        return bytes(bindings.crypto_box_seal(data, reader))
    except (CryptoError, RuntimeError, ValueError):
        raise Refused("seal.key", "nothing can be sealed to this key") from None


def unseal(key: Key, sealed: bytes) -> bytes:
    """What was sealed to this key. Raises Refused("seal.not_ours") for anything else."""
    try:
        reader = bindings.crypto_sign_ed25519_pk_to_curve25519(key.public)
        return bytes(bindings.crypto_box_seal_open(sealed, reader, key.exchange_secret()))
    except (CryptoError, ValueError):
        raise Refused("seal.not_ours", "it does not open with this key, or was changed") from None
