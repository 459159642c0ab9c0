"""What peers say to each other about states in chunks: the methods "state/offers", "state/epochs",
"state/chunk". Each message is the canonical msgpack of one struct; docs/spec.md lists them.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ledger.codec import decode, decode_exact
from ledger.errors import Refused
from ledger.proofs.light import EpochProof, FinalityProof
from node.limits import SNAPSHOT_OFFERS_MAX

OFFERS: Final = "state/offers"
EPOCHS: Final = "state/epochs"
CHUNK: Final = "state/chunk"
PREPARING: Final = "snapshot.preparing"  # the refusal that means: ask again soon


class Offer(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A state that can be fetched. `anchor`: a final header whose `state_height` and `state_root` it is."""

    anchor: FinalityProof


class EpochsRequest(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """How epochs ended, from `first` on. Answer: an array of EpochProof, as many as fit; empty: none here."""

    first: int


class ChunkRequest(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Part of the state after `height`: below `place` (its path in the state tree). Answer: a StateChunk."""

    height: int
    place: bytes
    size_bytes_max: int


def decode_offers(data: bytes) -> tuple[Offer, ...]:
    """A foreign answer to "state/offers". Raises Refused("offers.malformed"). Nothing in it is proved yet."""
    try:
        found = decode(tuple[Offer, ...], data)
    except ValueError as error:
        raise Refused("offers.malformed", str(error)) from None
    if len(found) > SNAPSHOT_OFFERS_MAX:
        raise Refused("offers.malformed", f"{len(found)} offers, at most {SNAPSHOT_OFFERS_MAX}")
    return found


def decode_epochs(data: bytes) -> tuple[EpochProof, ...]:
    """A foreign answer to "state/epochs". Raises Refused("epochs.malformed"). Nothing in it is proved yet."""
    try:
        return decode(tuple[EpochProof, ...], data)
    except ValueError as error:
        raise Refused("epochs.malformed", str(error)) from None


def decode_epochs_request(data: bytes) -> EpochsRequest:
    """A foreign request. Raises Refused("epochs_request.…")."""
    return decode_exact(EpochsRequest, data, "epochs_request", 32)


def decode_chunk_request(data: bytes) -> ChunkRequest:
    """A foreign request. Raises Refused("chunk_request.…")."""
    return decode_exact(ChunkRequest, data, "chunk_request", 128)
