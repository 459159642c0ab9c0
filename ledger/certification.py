"""A certifier's word about a node or a farm: somebody looked at it and stands for it with their key.

The ledger names no certifier. Anybody may sign, the farm's owner carries in what helps, and a contract names
the keys that it believes. A certifier takes its word back at any time.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ledger import keys
from ledger.codec import encode

CERTIFY_DOMAIN: Final = "certify/1"
CERTIFY_FARM_DOMAIN: Final = "certify_farm/1"


class Certification(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What a certifier signs under `certify/1`. `says`: what was looked at, for people. `made_ms`, the
    certifier's clock, orders its words about a node: one that is not newer than the last is refused."""

    node: bytes
    valid_until_ms: int
    made_ms: int
    says: str


class FarmCertification(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The same about a farm, signed under `certify_farm/1`: who runs it, and how; nothing of machines."""

    farm: str
    valid_until_ms: int
    made_ms: int
    says: str


def sign_certification(certifier: keys.Key, chain_id: str, certification: Certification) -> bytes:
    """The certifier's signature, 64 bytes, for `CertifyNode.signature`. Good for this chain alone."""
    return certifier.sign(CERTIFY_DOMAIN, chain_id, encode(certification))


def certifies(certifier: bytes, chain_id: str, certification: Certification, signature: bytes) -> bool:
    """True when this key signed exactly this for this chain."""
    return keys.verify(certifier, CERTIFY_DOMAIN, chain_id, encode(certification), signature)


def sign_farm_certification(certifier: keys.Key, chain_id: str, certification: FarmCertification) -> bytes:
    """The certifier's signature, 64 bytes, for `CertifyFarm.signature`. Good for this chain alone."""
    return certifier.sign(CERTIFY_FARM_DOMAIN, chain_id, encode(certification))


def certifies_farm(
    certifier: bytes, chain_id: str, certification: FarmCertification, signature: bytes
) -> bool:
    """True when this key signed exactly this for this chain."""
    return keys.verify(certifier, CERTIFY_FARM_DOMAIN, chain_id, encode(certification), signature)
