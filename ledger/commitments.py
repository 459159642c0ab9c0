"""How a replica binds itself to its results before any other can see them (ledger.transition.agreement).

A commitment is a hash of the results, with a number that nobody else knows and with who made it: so it tells
nothing, and nobody can take it over as their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ledger.codec import encode
from ledger.keys import hash_tagged

NONCE_BYTES: Final = 32


def commitment_of(
    chain_id: str,
    deployment: bytes,
    slot: str,
    term: int,
    node: bytes,
    nonce: bytes,
    results: Mapping[str, str],
) -> bytes:
    """32 bytes. `results`: path to sha256 in hex, as the receipt will tell them."""
    said = (chain_id, deployment, slot, term, node, nonce, sorted(results.items()))
    return hash_tagged("commitment/1", encode(said))
