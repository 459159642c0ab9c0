"""What nodes say to each other about copies of volumes, and the box in which a copy's key travels.

`keep` (holder of a slot to another node, the method "copies/keep"): fetch this copy and keep it. It is asked
again until the answer says that all of it is there. Who asks is said by the connection.
The box is opened by the deployment's bot or consumer alone. It says what it is for, so that its owner gives
the key to nobody but the holder of that slot.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ledger.codec import decode, encode
from ledger.copy_records import VolumeCopy
from ledger.errors import Refused
from ledger.keys import Key
from node.sealed.sealing import seal, unseal

KEEP: Final = "copies/keep"
KEEP_BYTES_MAX: Final = 512  # ids, names, digests
KEY_NAME: Final = "volume:"  # before a volume's name: no secret has such a name
KEY_BYTES: Final = 32


class _Wire(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Base of what is sent."""


class Keep(_Wire, frozen=True):
    deployment: bytes
    slot: str
    term: int
    volume: str
    sha256: bytes
    size_bytes: int
    chunks: bytes


class Kept(_Wire, frozen=True):
    whole: bool


class _Box(_Wire, frozen=True):
    chain_id: str
    deployment: bytes
    slot: str
    volume: str
    sha256: bytes
    key: bytes


def seal_key(reader: bytes, chain_id: str, keep: Keep, key: bytes) -> bytes:
    """The box of a copy's key. Raises Refused("seal.key")."""
    box = _Box(chain_id, keep.deployment, keep.slot, keep.volume, keep.sha256, key)
    return seal(reader, encode(box))


def open_key(reader: Key, chain_id: str, deployment: bytes, slot: str, copy: VolumeCopy) -> bytes:
    """The key of a copy that the ledger records of this slot. Raises Refused: seal.not_ours, copies.key (no
    key, or that of another copy)."""
    try:
        box = decode(_Box, unseal(reader, copy.box))
    except (msgspec.MsgspecError, ValueError):
        raise Refused("copies.key", "what was sealed is no key") from None
    wanted = (chain_id, deployment, slot, copy.volume, copy.sha256)
    if (box.chain_id, box.deployment, box.slot, box.volume, box.sha256) != wanted:
        raise Refused("copies.key", "the key of another copy")
    if len(box.key) != KEY_BYTES:
        raise Refused("copies.key", f"a key of {KEY_BYTES} bytes wanted")
    return box.key
