"""A node key's word that it joins a farm. Without it a farmer could name somebody else's node as their own,
and lock its owner out: a node key belongs to one farm for good.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ledger import keys
from ledger.codec import encode

CONSENT_DOMAIN: Final = "node/1"


class NodeConsent(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What the node key signs under `node/1`: the farm, its owner's account key, where the node stands."""

    farm: str
    owner: bytes
    country: str


def sign_consent(node: keys.Key, chain_id: str, farm: str, owner: bytes, country: str) -> bytes:
    """The node key's signature, 64 bytes, for `RegisterNode.consent`. It is good for
    this chain, farm, owner and country only, and once: a node is registered for good."""
    return node.sign(CONSENT_DOMAIN, chain_id, encode(NodeConsent(farm, owner, country)))


def consents(node: bytes, chain_id: str, consent: NodeConsent, signature: bytes) -> bool:
    """True when the node key signed exactly this for this chain."""
    return keys.verify(node, CONSENT_DOMAIN, chain_id, encode(consent), signature)
