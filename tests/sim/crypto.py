"""Signatures for simulated networks: real Ed25519, or a fast stand-in of the same shape.

The stand-in hashes (public key, message), so a signature fits exactly one key and one message; anybody
could make it, which no simulated validator does. It replaces two functions of `ledger.keys` for as long as
a world runs, so that all code above them is the production code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

from ledger import keys


def _sign(key: keys.Key, message: bytes) -> bytes:
    half = sha256(key.public + message).digest()
    return half + half


def _verify(public: bytes, message: bytes, signature: bytes) -> bool:
    half = sha256(public + message).digest()
    return signature == half + half


@contextmanager
def fast_signatures(enabled: bool = True) -> Iterator[None]:
    """Within the block, keys sign and verify by hashing (when `enabled`)."""
    real = keys.Key.sign_raw, keys.verify_raw
    if enabled:
        keys.Key.sign_raw = _sign  # type: ignore[assignment,method-assign]
        keys.verify_raw = _verify
    try:
        yield
    finally:
        keys.Key.sign_raw, keys.verify_raw = real  # type: ignore[method-assign]
