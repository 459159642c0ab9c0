"""Records of copies of volumes: what a holder said of the newest ones, and which nodes keep them.

As `ledger.records`, which has the others.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ledger.limits import CHUNK_BYTES

COPY_BLOCK_BYTES: Final = CHUNK_BYTES  # of a volume, encrypted at a time: a changed one is a changed chunk
COPY_FRAME_BYTES: Final = (
    64  # for each block, and twice at the end: numbers and what proves a block unchanged
)


class VolumeCopy(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A volume's bytes at one time, encrypted, as an artifact that `keepers` have. `box`: its key, sealed to
    the deployment's bot or consumer, who gives it to the slot's next holder."""

    volume: str
    sha256: bytes
    size_bytes: int
    chunks: bytes  # root of its chunk list
    box: bytes
    keepers: tuple[bytes, ...]


class Copies(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The newest copies of a slot's volumes, all of one time, by the holder of that term."""

    deployment: bytes
    slot: str
    term: int
    node: bytes
    copies: tuple[VolumeCopy, ...]
    height: int
    time_ms: int


def key_copies(deployment: bytes, slot: str) -> bytes:
    return b"copies/" + deployment + b"/" + slot.encode()


def key_keeper(node: bytes, deployment: bytes = b"", slot: str = "") -> bytes:
    """Index of slots of which a node keeps copies; the value is empty. Without deployment and slot: what all
    of it begins with."""
    return b"keeper/" + node + b"/" + (deployment + b"/" + slot.encode() if deployment else b"")


def keeper_parts(key: bytes) -> tuple[bytes, str]:
    """Deployment and slot of a `key_keeper`."""
    return key[40:72], key[73:].decode()


def copy_bytes_max(volume_bytes: int) -> int:
    """The most bytes that a copy of a volume of this size has."""
    blocks = -(-volume_bytes // COPY_BLOCK_BYTES)
    return volume_bytes + (blocks + 2) * COPY_FRAME_BYTES
