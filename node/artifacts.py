"""The artifact store: files named by their sha256, each beside the list of its chunk digests.

    SHA256         the bytes, verified before they got this name
    SHA256.chunks  32 bytes for each chunk of CHUNK_BYTES
    SHA256.cached  fetched from other peers: may be dropped to make room
    SHA256.part, SHA256.map   bytes on their way, and one byte for each chunk that was verified

Nothing is served that was not verified: the name is given after the whole file was hashed, and each
chunk is hashed again when it is read. Calls block for as long as the disk does.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import secrets
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from ledger.limits import CHUNK_BYTES
from node.artifact_files import DIGEST_BYTES, ArtifactInfo, Intake, Partial, chunk_count, split_digests, sync
from node.chunks import read_chunks
from node.errors import ArtifactFull, ArtifactMissing, ArtifactWrong
from node.limits import ARTIFACT_STORE_BYTES_MAX

_NAME: Final = re.compile(r"[0-9a-f]{64}")


class ArtifactStore:
    """The artifacts of one peer in `folder`, at most `size_bytes_max` in all."""

    def __init__(self, folder: Path, size_bytes_max: int = ARTIFACT_STORE_BYTES_MAX) -> None:
        self.folder = folder
        self.size_bytes_max = size_bytes_max
        self._lock = threading.RLock()  # callers hash and sync in threads
        self._pins: Counter[str] = Counter()
        self._open_parts: set[str] = set()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in folder.glob("*.tmp"):
            left.unlink(missing_ok=True)
        self._sizes: dict[str, int] = {}
        for path in sorted(folder.iterdir()):
            if _NAME.fullmatch(path.name) and self._chunks_file(path.name).is_file():
                self._sizes[path.name] = path.stat().st_size
        self._parts: dict[str, int] = {
            path.stem: path.stat().st_size for path in folder.glob("*.part") if _NAME.fullmatch(path.stem)
        }

    # ------------------------------------------------------------------ what is there

    @property
    def used_bytes(self) -> int:
        """Bytes of artifacts and of those on their way."""
        with self._lock:
            return sum(self._sizes.values()) + sum(self._parts.values())

    def names(self) -> tuple[str, ...]:
        """sha256 of each artifact held."""
        with self._lock:
            return tuple(self._sizes)

    def has(self, sha256: str) -> bool:
        """Whether it is here, verified."""
        return sha256 in self._sizes

    def size_bytes(self, sha256: str) -> int | None:
        """Its size, or None when it is not here."""
        return self._sizes.get(sha256)

    def path(self, sha256: str) -> Path:
        """Where its bytes are. Raises ArtifactMissing."""
        if sha256 not in self._sizes:
            raise ArtifactMissing(sha256)
        path = self.folder / sha256
        with contextlib.suppress(OSError):
            os.utime(path)  # what was used last is dropped last
        return path

    def info(self, sha256: str) -> ArtifactInfo | None:
        """Size and chunk digests, or None when it is not here."""
        size_bytes = self._sizes.get(sha256)
        if size_bytes is None:
            return None
        data = self._chunks_file(sha256).read_bytes()
        return ArtifactInfo(sha256, size_bytes, split_digests(data))

    def read_chunk(self, sha256: str, index: int) -> bytes:
        """One chunk, hashed again. Raises ArtifactMissing; ArtifactWrong when the disk changed it: then the
        artifact is dropped."""
        size_bytes = self._sizes.get(sha256)
        if size_bytes is None or not 0 <= index < chunk_count(size_bytes):
            raise ArtifactMissing(f"{sha256} chunk {index}")
        try:
            with (self.folder / sha256).open("rb") as file:
                file.seek(index * CHUNK_BYTES)
                data = file.read(CHUNK_BYTES)
            with self._chunks_file(sha256).open("rb") as file:
                file.seek(index * DIGEST_BYTES)
                wanted = file.read(DIGEST_BYTES)
        except OSError as error:
            raise ArtifactMissing(f"{sha256}: {error.strerror}") from error
        if hashlib.sha256(data).digest() != wanted:
            self.drop(sha256)
            raise ArtifactWrong(sha256, f"chunk {index} changed on disk")
        return data

    # ------------------------------------------------------------------ taking in

    def add_bytes(self, data: bytes) -> ArtifactInfo:
        """Keep these bytes. Raises ArtifactFull."""
        return self.add_stream(iter((data,)))

    def add_file(self, source: Path) -> ArtifactInfo:
        """Keep a copy of a file. Raises ArtifactFull, OSError."""
        with source.open("rb") as file:
            return self.add_stream(read_chunks(file))

    def add_stream(self, data: Iterable[bytes], expected: str | None = None) -> ArtifactInfo:
        """Keep these bytes, none that are not `expected`. Raises ArtifactWrong, ArtifactFull."""
        intake = self.intake()
        try:
            for piece in data:
                intake.write(piece)
            return intake.finish(expected)
        except BaseException:
            intake.abort()
            raise

    def intake(self) -> Intake:
        """For bytes that come piece by piece: `write`, then `finish` or `abort`."""
        return Intake(self.folder, self.make_room, functools.partial(self._adopt, cached=False))

    def partial(self, sha256: str, size_bytes: int, chunks: tuple[bytes, ...]) -> Partial:
        """Go on with an artifact on its way, or begin. Chunks kept from before are hashed again.

        Raises ArtifactFull, OSError.
        """
        if len(chunks) != chunk_count(size_bytes):
            raise ArtifactWrong(sha256, f"{len(chunks)} chunk digests for {size_bytes} bytes")
        with self._lock:
            if sha256 in self._open_parts:
                raise ArtifactWrong(sha256, "it is being fetched already")
            self._open_parts.add(sha256)

        def closed(left: bool) -> None:
            with self._lock:
                self._open_parts.discard(sha256)
                if not left:
                    self._parts.pop(sha256, None)

        try:
            with self._lock:
                self.make_room(size_bytes - self._parts.get(sha256, 0))
                self._parts[sha256] = size_bytes
            adopt = functools.partial(self._adopt, cached=True)
            return Partial(self.folder, sha256, size_bytes, chunks, adopt, closed)
        except BaseException:
            closed(True)
            raise

    # ------------------------------------------------------------------ keeping within the budget

    @contextlib.contextmanager
    def pinned(self, names: Iterable[str]) -> Iterator[None]:
        """These are not dropped to make room meanwhile."""
        held = tuple(names)
        with self._lock:
            self._pins.update(held)
        try:
            yield
        finally:
            with self._lock:
                self._pins.subtract(held)
                self._pins += Counter()  # forget those at zero

    def make_room(self, size_bytes: int) -> None:
        """Drop what was fetched and used longest ago until so much fits. Raises ArtifactFull."""
        with self._lock:
            if size_bytes <= 0 or self._room() >= size_bytes:
                return
            for name in [name for name in self._parts if name not in self._open_parts]:
                self._drop_part(name)
            for name in sorted(self._cached(), key=self._used_at):
                if self._room() >= size_bytes:
                    return
                self.drop(name)
            if self._room() < size_bytes:
                used = self.used_bytes
                raise ArtifactFull(f"{size_bytes} bytes do not fit: {used} of {self.size_bytes_max} are used")

    def _room(self) -> int:
        return self.size_bytes_max - self.used_bytes

    def fits(self, size_bytes: int) -> bool:
        """Whether so much would fit, after dropping what may be dropped."""
        with self._lock:
            spare = sum(self._sizes[name] for name in self._cached())
            spare += sum(size for name, size in self._parts.items() if name not in self._open_parts)
            return self._room() + spare >= size_bytes

    def drop(self, sha256: str) -> None:
        """Forget an artifact; one that is not here is fine."""
        with self._lock:
            self._sizes.pop(sha256, None)
            for path in (self.folder / sha256, self._chunks_file(sha256), self._cached_file(sha256)):
                path.unlink(missing_ok=True)

    def _cached(self) -> list[str]:
        return [n for n in self._sizes if self._pins[n] <= 0 and self._cached_file(n).exists()]

    def _used_at(self, name: str) -> float:
        try:
            return (self.folder / name).stat().st_mtime
        except OSError:
            return 0.0

    def _chunks_file(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.chunks"

    def _cached_file(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.cached"

    def _adopt(
        self, sha256: str, bytes_file: Path, size_bytes: int, chunks: Sequence[bytes], *, cached: bool
    ) -> Path:
        """Give verified, synced bytes their name: list first, name last, then the folder is synced."""
        with self._lock:
            if sha256 in self._sizes:
                bytes_file.unlink(missing_ok=True)
                if not cached:
                    self._cached_file(sha256).unlink(missing_ok=True)
                return self.folder / sha256
            list_tmp = self.folder / f"{secrets.token_hex(8)}.tmp"
            with list_tmp.open("xb") as file:
                file.write(b"".join(chunks))
                sync(file)
            os.replace(list_tmp, self._chunks_file(sha256))
            if cached:
                self._cached_file(sha256).touch()
            os.replace(bytes_file, self.folder / sha256)
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            self._sizes[sha256] = size_bytes
            return self.folder / sha256

    def _drop_part(self, sha256: str) -> None:
        self._parts.pop(sha256, None)
        for ending in ("part", "map"):
            (self.folder / f"{sha256}.{ending}").unlink(missing_ok=True)
