"""What peers say to each other about artifacts: the methods "artifact/held", "artifact/info" and
"artifact/chunk". Each message is the canonical msgpack of one struct; docs/spec.md lists them."""

from __future__ import annotations

from typing import Final

import msgspec

from ledger.codec import decode_exact
from ledger.errors import Refused
from ledger.limits import ARTIFACT_BYTES_MAX
from node.files.artifact_files import DIGEST_BYTES, Holding, chunk_count
from node.limits import ARTIFACT_DIGESTS_MAX

HELD: Final = "artifact/held"
INFO: Final = "artifact/info"
CHUNK: Final = "artifact/chunk"
REQUEST_BYTES_MAX: Final = 64
_HELD_BYTES_MAX: Final = chunk_count(ARTIFACT_BYTES_MAX) // 8 + 128
_INFO_BYTES_MAX: Final = ARTIFACT_DIGESTS_MAX * DIGEST_BYTES + 64


class HeldRequest(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The method "artifact/held": what the peer has of an artifact."""

    sha256: bytes


class HeldAnswer(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Size and root of its chunk list. `held`: a bit for each chunk that it can give, the first chunk is the
    lowest bit of the first byte; empty when it can give all. `takers`: other peers that asked for it lately:
    who knows that others fetch it, too, begins elsewhere than they do."""

    size_bytes: int
    root: bytes
    held: bytes
    takers: int


class InfoRequest(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The method "artifact/info": size, and chunk digests from `first` on."""

    sha256: bytes
    first: int


class InfoAnswer(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """ARTIFACT_DIGESTS_MAX digests, one after the other; fewer only at the end of the list."""

    size_bytes: int
    digests: bytes


class ChunkRequest(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The method "artifact/chunk": the answer is the bytes of `count` chunks from `first` on, at most
    ARTIFACT_RUN_MAX; of fewer nothing."""

    sha256: bytes
    first: int
    count: int


def held_answer(holding: Holding, takers: int) -> HeldAnswer:
    """What there is of an artifact, as it is said."""
    count = chunk_count(holding.size_bytes)
    held = b"" if holding.held is None else holding.held.to_bytes(-(-count // 8), "little")
    return HeldAnswer(holding.size_bytes, bytes.fromhex(holding.root), held, takers)


def read_held(data: bytes) -> Holding:
    """What a peer says that it has. Raises Refused: "artifact.malformed", "artifact.held"."""
    answer = decode_exact(HeldAnswer, data, "artifact", _HELD_BYTES_MAX)
    is_size = 0 <= answer.size_bytes <= ARTIFACT_BYTES_MAX
    if not is_size or len(answer.root) != DIGEST_BYTES or answer.takers < 0:
        raise Refused("artifact.held", "no such size, root or count")
    count, held = chunk_count(answer.size_bytes), int.from_bytes(answer.held, "little")
    if answer.held and (len(answer.held) != -(-count // 8) or held >> count):
        raise Refused("artifact.held", f"not a bit for each of {count} chunks", "held")
    return Holding(answer.size_bytes, answer.root.hex(), held if answer.held else None, answer.takers)


def read_digests(data: bytes, size_bytes: int, first: int) -> bytes:
    """A part of a list from `first` on. Raises Refused: "artifact.malformed", and "artifact.list" when it is
    of another size, or neither full nor the end."""
    answer = decode_exact(InfoAnswer, data, "artifact", _INFO_BYTES_MAX)
    due = min(ARTIFACT_DIGESTS_MAX, chunk_count(size_bytes) - first) * DIGEST_BYTES
    if answer.size_bytes != size_bytes or len(answer.digests) != due:
        raise Refused("artifact.list", f"{due} bytes of digests are due, {len(answer.digests)} came")
    return answer.digests
