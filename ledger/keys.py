"""Ed25519 keys and signatures under a domain tag and the chain id (RFC 8032, via libsodium).

Key kinds (node, validator, account) share one form: a 32-byte seed, a 32-byte public key,
shown to people as 64 hex digits.
"""

from __future__ import annotations

from functools import cache
from hashlib import blake2b
from typing import Final

from nacl import bindings
from nacl.exceptions import BadSignatureError, CryptoError

from ledger.codec import sha256
from ledger.errors import Refused
from ledger.limits import DOMAIN_PREFIX

SEED_BYTES: Final = 32
PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64


class Key:
    """A private Ed25519 key. `public` is its 32-byte public key. Never printed."""

    __slots__ = ("_secret", "public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise Refused("key.seed_length", f"{len(seed)} bytes, must be {SEED_BYTES}")
        self.public, self._secret = bindings.crypto_sign_seed_keypair(seed)

    def sign_raw(self, message: bytes) -> bytes:
        """64-byte signature over exactly `message`."""
        return bindings.crypto_sign(message, self._secret)[:SIGNATURE_BYTES]

    def sign(self, domain: str, chain_id: str, message: bytes) -> bytes:
        """64-byte signature over `message` bound to a domain and a chain."""
        return self.sign_raw(tagged(domain, chain_id, message))

    def derive(self, domain: str) -> bytes:
        """32 secret bytes for one use, named by `domain`: keyed BLAKE2b (RFC 7693) of it under the seed."""
        seed = self._secret[:SEED_BYTES]
        return blake2b(DOMAIN_PREFIX + domain.encode(), digest_size=32, key=seed).digest()

    def exchange_secret(self) -> bytes:
        """The X25519 secret of the same key (RFC 7748, the map of libsodium's ed25519_sk_to_curve25519)."""
        return bindings.crypto_sign_ed25519_sk_to_curve25519(self._secret)

    def __repr__(self) -> str:
        return f"Key({self.public.hex()[:8]}…)"


def tagged(domain: str, chain_id: str, message: bytes) -> bytes:
    """What is signed: prefix, domain, NUL, chain id, NUL, message. No tag has a NUL: injective."""
    return DOMAIN_PREFIX + domain.encode() + b"\0" + chain_id.encode() + b"\0" + message


def verify_raw(public: bytes, message: bytes, signature: bytes) -> bool:
    """True when `signature` is `public`'s over exactly `message`. Never raises on foreign bytes."""
    if len(public) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        bindings.crypto_sign_open(signature + message, public)
    except BadSignatureError:
        return False
    return True


def verify(public: bytes, domain: str, chain_id: str, message: bytes, signature: bytes) -> bool:
    """True when `signature` is `public`'s over `message` for this domain and chain."""
    return verify_raw(public, tagged(domain, chain_id, message), signature)


def opens_boxes(public: bytes) -> bool:
    """True when bytes can be sealed to this key (node.sealed.sealing): it is a point of the curve's large
    subgroup, as every key is that was made as one. One that is not may verify signatures all the same."""
    try:
        bindings.crypto_sign_ed25519_pk_to_curve25519(public)
    except (CryptoError, ValueError):
        return False
    return True


def public_key_from_hex(text: str, field: str) -> bytes:
    """32 bytes of a 64-digit lower-case hex key. Raises Refused naming the field."""
    if len(text) != 2 * PUBLIC_KEY_BYTES or text != text.lower():
        raise Refused("key.malformed", "a public key is 64 lower-case hex digits", field)
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise Refused("key.malformed", "a public key is 64 lower-case hex digits", field) from None


def short(data: bytes) -> str:
    """First 10 hex digits, for people."""
    return data.hex()[:10]


def hash_tagged(domain: str, data: bytes) -> bytes:
    """sha256 under a domain tag, so that a hash of one kind is never one of another kind."""
    return sha256(_hash_prefix(domain) + data)


@cache
def _hash_prefix(domain: str) -> bytes:
    """Domains are a few words of this program."""
    return DOMAIN_PREFIX + domain.encode() + b"\0"
