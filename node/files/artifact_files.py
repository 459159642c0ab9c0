"""Artifacts as open files: uploads as one stream, fetches chunk by chunk, and reading for others."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ledger.limits import CHUNK_BYTES
from node.errors import ArtifactMissing, ArtifactWrong
from node.files.chunks import chunk_digests_of, chunks_root
from node.limits import ARTIFACT_SYNC_BYTES

DIGEST_BYTES: Final = 32
_CATCH_UP: Final = 64  # chunks of the prefix hashed in one go: 16 MiB, some 10 ms
_AS_DIGITS: Final = bytes((0x30, 0x31)) + bytes(254)  # of a map: 0 and 1 as text


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


@dataclass(frozen=True, slots=True)
class Holding:
    """What there is of an artifact. `held`: a bit for each chunk, the first one lowest; None: all of them.
    `takers`: others that are taking it from there, as far as is known."""

    size_bytes: int
    root: str
    held: int | None
    takers: int = 0


Adopt = Callable[[str, Path, int, Sequence[bytes]], Path]
"""Gives verified, synced bytes their name (sha256, file, size, chunk digests); returns the path."""


class Intake:
    """Bytes whose digest is known at the end only: uploads and results."""

    def __init__(
        self, folder: Path, grow: Callable[[str, int], None], drop: Callable[[str], None], adopt: Adopt
    ) -> None:
        self._name = f"{secrets.token_hex(8)}.tmp"
        self._path = folder / self._name
        self._grow, self._drop, self._adopt = grow, drop, adopt
        self._file = self._path.open("xb")
        self._whole = hashlib.sha256()
        self._chunk = hashlib.sha256()
        self._chunks: list[bytes] = []
        self.size_bytes = 0

    def write(self, data: bytes) -> None:
        """Take in more. Raises ArtifactFull, OSError."""
        self._grow(self._name, self.size_bytes + len(data))
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
        self._drop(self._name)
        self._adopt(name, self._path, self.size_bytes, self._chunks)
        return ArtifactInfo(name, self.size_bytes, tuple(self._chunks))

    def abort(self) -> None:
        """Keep nothing; after `finish` nothing happens."""
        with contextlib.suppress(OSError):  # what a full disk did not take is of no use now
            self._file.close()
        self._path.unlink(missing_ok=True)
        self._drop(self._name)

    def _close_chunk(self) -> None:
        self._chunks.append(self._chunk.digest())
        self._chunk = hashlib.sha256()


class Partial:
    """An artifact on its way, chunk by chunk, in any order, from several threads. Survives a crash.

    Chunks that stand next to each other from the first one on are hashed into the whole's digest as they
    come, so that little is left to do at the end. `is_signed`: the list of chunks has a root that somebody
    signed; then what is held may be given to others already. `rival`: a name for its files, beside a fetch of
    the same bytes by another list; of such a one nothing is left for the next time.
    """

    def __init__(
        self,
        folder: Path,
        info: ArtifactInfo,
        is_signed: bool,
        adopt: Adopt,
        closed: Callable[[bool], None],
        rival: str = "",
    ) -> None:
        self.sha256, self.size_bytes, self.chunks = info.sha256, info.size_bytes, info.chunks
        self.is_signed = is_signed
        self.root = info.root
        self._adopt = adopt
        self._closed = closed  # told whether something is left behind
        self._is_rival = bool(rival)
        self._path = folder / f"{rival or self.sha256}.part"
        self._map_path = folder / f"{rival or self.sha256}.map"
        self._map = bytearray(len(self.chunks))
        self._done_bytes = 0
        self._lock = threading.Lock()
        self._whole, self._hashed, self._hashing = hashlib.sha256(), 0, threading.Lock()
        self._unsynced_bytes, self._syncing = 0, threading.Lock()
        self._file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
        try:
            os.truncate(self._path, self.size_bytes)
            if self.size_bytes:  # a full disk is found out here, not when half of it was fetched
                os.posix_fallocate(self._file.fileno(), 0, self.size_bytes)
            self._take_up()
            self._map_path.write_bytes(self._map)
            self._map_file = self._map_path.open("r+b", buffering=0)
        except OSError:
            self._file.close()
            self._path.unlink(missing_ok=True)
            self._map_path.unlink(missing_ok=True)
            raise

    def missing(self) -> list[int]:
        """Indices of chunks not held yet."""
        return [index for index, held in enumerate(self._map) if not held]

    @property
    def done_bytes(self) -> int:
        """Bytes held and verified."""
        return self._done_bytes

    def has(self, first: int, count: int) -> bool:
        """Whether these chunks are held, in a row; False for none."""
        stop = first + count
        return 0 <= first < stop <= len(self._map) and all(self._map[first:stop])

    def holding(self) -> Holding:
        """What of it may be given to others."""
        bits = bytes(self._map)[::-1].translate(_AS_DIGITS)
        return Holding(self.size_bytes, self.root, int(bits or b"0", 2))

    def write(self, first: int, data: bytes) -> int:
        """Keep a chunk, or several in a row; returns how many bytes were not held before. Raises
        ArtifactWrong for other digests or another length, keeping nothing, and OSError."""
        stop = first + chunk_count(len(data))
        if len(data) != sum(self.length(index) for index in range(first, min(stop, len(self.chunks)))):
            raise ArtifactWrong(self.sha256, f"chunk {first} is followed by others, or longer")
        if not all(digest == self.chunks[first + at] for at, digest in enumerate(chunk_digests_of(data))):
            raise ArtifactWrong(self.sha256, f"chunk {first} or one after it is another")
        if all(self._map[first:stop]):
            return 0
        if os.pwrite(self._file.fileno(), data, first * CHUNK_BYTES) != len(data):
            raise OSError(errno.ENOSPC, "the disk took only a part of a chunk")
        with self._lock:
            fresh = [index for index in range(first, stop) if not self._map[index]]
            fresh_bytes = sum(self.length(index) for index in fresh)
            self._map[first:stop] = b"\x01" * (stop - first)
            self._done_bytes += fresh_bytes
            os.pwrite(self._map_file.fileno(), self._map[first:stop], first)
            self._unsynced_bytes += fresh_bytes
        self._hash_on(first, data, _CATCH_UP)
        self._sync_behind()
        return fresh_bytes

    def write_all(self, chunks: Sequence[tuple[int, bytes]]) -> list[int | Exception]:
        """`write` for each; in the place of its length what it raised."""
        found: list[int | Exception] = []
        for first, data in chunks:
            try:
                found.append(self.write(first, data))
            except (ArtifactWrong, OSError) as error:
                found.append(error)
        return found

    def read(self, index: int) -> bytes:
        """One chunk that is held, hashed again. Raises ArtifactMissing, also when the disk changed it or
        cannot read it."""
        with self._lock:
            if self._file.closed or not self.has(index, 1):
                raise ArtifactMissing(f"{self.sha256} chunk {index}")
            data = _read_at(self._file.fileno(), self.length(index), index * CHUNK_BYTES, self.sha256)
        found = hashlib.sha256(data).digest()
        if found != self.chunks[index]:
            raise ArtifactMissing(f"{self.sha256} chunk {index}: changed on disk")
        return data

    def finish(self) -> Path:
        """Hash what is left of the whole and give it its name. Raises ArtifactWrong, and then everything is
        dropped."""
        if not self.missing():
            self._hash_on(-1, b"", len(self.chunks))
        if self.missing() or self._whole.hexdigest() != self.sha256:
            self.discard()
            raise ArtifactWrong(self.sha256, "all chunks fit their list, but the whole has another digest")
        os.fsync(self._file.fileno())
        self._close_files()
        try:
            path = self._adopt(self.sha256, self._path, self.size_bytes, self.chunks)
        except BaseException:
            self._closed(True)
            raise
        self._closed(False)
        self._map_path.unlink(missing_ok=True)
        return path

    def close(self) -> None:
        """Stop here; what is held stays for the next time."""
        if self._is_rival:
            self.discard()
        elif not self._file.closed:
            self._close_files()
            self._closed(True)

    def discard(self) -> None:
        """Drop all that is held."""
        self._close_files()
        self._path.unlink(missing_ok=True)
        self._map_path.unlink(missing_ok=True)
        self._closed(False)

    def _close_files(self) -> None:
        with self._lock:  # nobody reads for others meanwhile
            self._file.close()
            self._map_file.close()

    def length(self, index: int) -> int:
        """Bytes of a chunk: only the last may be shorter."""
        return min(CHUNK_BYTES, self.size_bytes - index * CHUNK_BYTES)

    def _hash_on(self, first: int, data: bytes, most: int) -> None:
        """Take chunks into the whole's digest, as far as they stand in a row; `data` is that of `first` and
        those after it."""
        if not self._hashing.acquire(blocking=False):
            return  # somebody else is at it
        try:
            while most and self._hashed < len(self.chunks) and self._map[self._hashed]:
                at, next_data = self._hashed, data
                if at != first:
                    next_data = os.pread(self._file.fileno(), self.length(at), at * CHUNK_BYTES)
                self._whole.update(next_data)
                self._hashed, most = at + chunk_count(len(next_data)), most - 1
        finally:
            self._hashing.release()

    def _sync_behind(self) -> None:
        if self._unsynced_bytes < ARTIFACT_SYNC_BYTES or not self._syncing.acquire(blocking=False):
            return
        try:
            self._unsynced_bytes = 0
            os.fdatasync(self._file.fileno())
        finally:
            self._syncing.release()

    def _take_up(self) -> None:
        """The map is a hint: what a crash tore, or another list names otherwise, does not count."""
        try:
            kept = self._map_path.read_bytes()
        except OSError:
            return
        for index in range(min(len(kept), len(self.chunks))):
            if not kept[index]:
                continue
            data = os.pread(self._file.fileno(), self.length(index), index * CHUNK_BYTES)
            self._map[index] = hashlib.sha256(data).digest() == self.chunks[index]
            if self._map[index]:
                self._done_bytes += len(data)
                self._hash_on(index, data, 1)


class Reader:
    """A verified artifact, open for reading by others. Its files close with the last who holds it."""

    __slots__ = ("_bytes_fd", "_changed_ns", "_list_fd", "_sound", "root", "sha256", "size_bytes")

    def __init__(self, sha256: str, size_bytes: int, bytes_file: Path, list_file: Path) -> None:
        self._bytes_fd = self._list_fd = -1
        self.sha256, self.size_bytes = sha256, size_bytes
        self._bytes_fd = os.open(bytes_file, os.O_RDONLY | os.O_CLOEXEC)
        self._list_fd = os.open(list_file, os.O_RDONLY | os.O_CLOEXEC)
        self.root = chunks_root((self.digests(0, chunk_count(size_bytes)),))
        self._changed_ns, self._sound = 0, bytearray()  # chunks that were hashed since the file changed

    def digests(self, first: int, most: int) -> bytes:
        """Digests of at most so many chunks from `first` on, one after the other. Raises ArtifactMissing,
        also for a `first` beyond the end."""
        if not 0 <= first <= chunk_count(self.size_bytes):
            raise ArtifactMissing(f"{self.sha256} chunk {first}")
        return _read_at(self._list_fd, most * DIGEST_BYTES, first * DIGEST_BYTES, self.sha256)

    def read(self, first: int, count: int) -> bytes:
        """So many chunks, hashed again the first time, and when the file was changed since. Raises
        ArtifactMissing, also when the disk cannot read them; ArtifactWrong: the disk changed them."""
        every, stop = chunk_count(self.size_bytes), first + count
        if not 0 <= first < stop <= every:
            raise ArtifactMissing(f"{self.sha256} chunk {first}")
        changed_ns = os.fstat(self._bytes_fd).st_ctime_ns
        if changed_ns != self._changed_ns:
            self._changed_ns, self._sound = changed_ns, bytearray(every)
        sound = self._sound
        data = _read_at(self._bytes_fd, count * CHUNK_BYTES, first * CHUNK_BYTES, self.sha256)
        if not all(sound[first:stop]):
            if b"".join(chunk_digests_of(data)) != self.digests(first, count):
                raise ArtifactWrong(self.sha256, f"chunk {first} or one after it changed on disk")
            sound[first:stop] = b"\x01" * count
        return data

    def __del__(self) -> None:
        for fd in (self._bytes_fd, self._list_fd):
            if fd >= 0:
                os.close(fd)


def _read_at(fd: int, size_bytes: int, at: int, sha256: str) -> bytes:
    try:
        return os.pread(fd, size_bytes, at)
    except OSError as error:
        raise ArtifactMissing(f"{sha256}: {error.strerror}") from error


def write_list(file: Path, chunks: Sequence[bytes]) -> None:
    """Chunk digests in a file, synced: whole, or not at all. Raises OSError."""
    fresh = file.with_name(f"{secrets.token_hex(8)}.tmp")
    try:
        with fresh.open("xb") as stream:
            stream.write(b"".join(chunks))
            sync(stream)
        os.replace(fresh, file)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


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
