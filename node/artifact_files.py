"""Artifacts on their way into the store: uploads as one stream, and fetches chunk by chunk."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ledger.limits import CHUNK_BYTES
from node.chunks import chunks_root, read_chunks
from node.errors import ArtifactWrong

DIGEST_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class ArtifactInfo:
    """A verified artifact. `chunks`: sha256 of each chunk, in order."""

    sha256: str
    size_bytes: int
    chunks: tuple[bytes, ...]

    @property
    def root(self) -> str:
        """What a contract signs as `chunks`."""
        return chunks_root(self.chunks)


Adopt = Callable[[str, Path, int, Sequence[bytes]], Path]
"""Gives verified, synced bytes their name (sha256, file, size, chunk digests); returns the path."""


class Intake:
    """Bytes whose digest is known at the end only: uploads and results."""

    def __init__(self, folder: Path, make_room: Callable[[int], None], adopt: Adopt) -> None:
        self._make_room = make_room
        self._adopt = adopt
        self._path = folder / f"{secrets.token_hex(8)}.tmp"
        self._file = self._path.open("xb")
        self._whole = hashlib.sha256()
        self._chunk = hashlib.sha256()
        self._chunks: list[bytes] = []
        self.size_bytes = 0

    def write(self, data: bytes) -> None:
        """Take in more. Raises ArtifactFull, OSError."""
        self._make_room(self.size_bytes + len(data))
        self._file.write(data)
        self._whole.update(data)
        view = memoryview(data)
        while view:
            room = CHUNK_BYTES - self.size_bytes % CHUNK_BYTES
            self._chunk.update(view[:room])
            self.size_bytes += len(view[:room])
            if self.size_bytes % CHUNK_BYTES == 0:
                self._close_chunk()
            view = view[room:]

    def finish(self, expected: str | None = None) -> ArtifactInfo:
        """The artifact, kept. Raises ArtifactWrong when it is not `expected`; nothing is kept then."""
        if self.size_bytes % CHUNK_BYTES:
            self._close_chunk()
        name = self._whole.hexdigest()
        if expected is not None and name != expected:
            self.abort()
            raise ArtifactWrong(expected, f"the bytes are {name}")
        sync(self._file)
        self._file.close()
        self._adopt(name, self._path, self.size_bytes, self._chunks)
        return ArtifactInfo(name, self.size_bytes, tuple(self._chunks))

    def abort(self) -> None:
        """Keep nothing; after `finish` nothing happens."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _close_chunk(self) -> None:
        self._chunks.append(self._chunk.digest())
        self._chunk = hashlib.sha256()


class Partial:
    """An artifact on its way, chunk by chunk, in any order. Survives a crash."""

    def __init__(
        self,
        folder: Path,
        sha256: str,
        size_bytes: int,
        chunks: tuple[bytes, ...],
        adopt: Adopt,
        closed: Callable[[bool], None],
    ) -> None:
        self.sha256 = sha256
        self.size_bytes = size_bytes
        self.chunks = chunks
        self._adopt = adopt
        self._closed = closed  # told whether something is left behind
        self._path = folder / f"{sha256}.part"
        self._map_path = folder / f"{sha256}.map"
        self._file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
        os.truncate(self._path, size_bytes)
        self._map = bytearray(len(chunks))
        self._take_up()
        self._map_path.write_bytes(self._map)

    def missing(self) -> list[int]:
        """Indices of chunks not held yet."""
        return [index for index, held in enumerate(self._map) if not held]

    @property
    def done_bytes(self) -> int:
        """Bytes held and verified."""
        return sum(self._length(index) for index, held in enumerate(self._map) if held)

    def write(self, index: int, data: bytes) -> int:
        """Keep a chunk; returns its length. Raises ArtifactWrong for another digest, keeping nothing."""
        if hashlib.sha256(data).digest() != self.chunks[index]:
            raise ArtifactWrong(self.sha256, f"chunk {index} is another")
        os.pwrite(self._file.fileno(), data, index * CHUNK_BYTES)
        self._map[index] = 1
        with self._map_path.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"\x01", index)
        return len(data)

    def finish(self) -> Path:
        """Hash the whole and give it its name. Raises ArtifactWrong, and then everything is dropped."""
        whole = hashlib.sha256()
        self._file.seek(0)
        for chunk in read_chunks(self._file):
            whole.update(chunk)
        if self.missing() or whole.hexdigest() != self.sha256:
            self.discard()
            raise ArtifactWrong(self.sha256, "all chunks fit their list, but the whole has another digest")
        os.fsync(self._file.fileno())
        self._file.close()
        self._closed(False)
        path = self._adopt(self.sha256, self._path, self.size_bytes, self.chunks)
        self._map_path.unlink(missing_ok=True)
        return path

    def close(self) -> None:
        """Stop here; what is held stays for the next time."""
        if not self._file.closed:
            self._file.close()
            self._closed(True)

    def discard(self) -> None:
        """Drop all that is held."""
        self._file.close()
        self._path.unlink(missing_ok=True)
        self._map_path.unlink(missing_ok=True)
        self._closed(False)

    def _length(self, index: int) -> int:
        return min(CHUNK_BYTES, self.size_bytes - index * CHUNK_BYTES)

    def _take_up(self) -> None:
        """The map is a hint: what a crash tore, or another list names otherwise, does not count."""
        try:
            kept = self._map_path.read_bytes()
        except OSError:
            return
        for index in range(min(len(kept), len(self.chunks))):
            if kept[index]:
                data = os.pread(self._file.fileno(), self._length(index), index * CHUNK_BYTES)
                self._map[index] = hashlib.sha256(data).digest() == self.chunks[index]


def chunk_count(size_bytes: int) -> int:
    """Chunks of a file of this size."""
    return -(-size_bytes // CHUNK_BYTES)


def split_digests(data: bytes) -> tuple[bytes, ...]:
    """A concatenation of digests, taken apart."""
    return tuple(data[at : at + DIGEST_BYTES] for at in range(0, len(data), DIGEST_BYTES))


def sync(file: BinaryIO) -> None:
    """All written bytes on disk."""
    file.flush()
    os.fsync(file.fileno())
