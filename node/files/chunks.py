"""Files as chunks: digests that artifact exchange checks one by one, and the root that a contract signs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from ledger.limits import CHUNK_BYTES


def read_chunks(file: BinaryIO) -> Iterator[bytes]:
    """Chunks of CHUNK_BYTES from where the file stands; only the last may be shorter."""
    pending = b""
    while data := file.read(CHUNK_BYTES - len(pending)):
        pending += data
        if len(pending) == CHUNK_BYTES:
            yield pending
            pending = b""
    if pending:
        yield pending


def chunk_digests(path: Path) -> tuple[bytes, ...]:
    """sha256 of each chunk, in order. Raises OSError. Memory: one chunk, and 32 bytes for each."""
    with path.open("rb") as file:
        return tuple(hashlib.sha256(chunk).digest() for chunk in read_chunks(file))


def chunk_digests_of(data: bytes) -> Iterator[bytes]:
    """sha256 of each chunk of these bytes, in order."""
    view = memoryview(data)
    for at in range(0, len(view), CHUNK_BYTES):
        yield hashlib.sha256(view[at : at + CHUNK_BYTES]).digest()


def chunks_root(digests: Iterable[bytes]) -> str:
    """Hex sha256 over the digests, one after the other: `Artifact.chunks`."""
    root = hashlib.sha256()
    for digest in digests:
        root.update(digest)
    return root.hexdigest()
