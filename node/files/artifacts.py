"""The artifact store: files named by their sha256, each beside the list of its chunk digests.

    SHA256         the bytes, verified before they got this name
    SHA256.chunks  32 bytes for each chunk of CHUNK_BYTES
    SHA256.cached  may be dropped to make room: fetched from other peers, or made anew when it is wanted
    SHA256.result  what a workload wrote, and when it came: kept for some time, then as if it were fetched
    SHA256.part, SHA256.map   bytes on their way, and one byte for each chunk that was verified

Nothing is served that was not verified: the name is given after the whole file was hashed, and each chunk is
hashed again when it is first read, and once more when its file changed. What may go to make room is
`node/files/cache.py`'s to say. Calls block for as long as the disk does, and may come from several threads.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from node.clock import wall_ms
from node.errors import ArtifactBusy, ArtifactFull, ArtifactMissing, ArtifactWrong
from node.files.artifact_files import (
    ArtifactInfo,
    Holding,
    Intake,
    Partial,
    Reader,
    chunk_count,
    split_digests,
    write_list,
)
from node.files.cache import Cache, Entry, Held, Hold
from node.files.chunks import read_chunks
from node.home import sync_folder
from node.limits import ARTIFACT_READERS_MAX, ARTIFACT_STORE_BYTES_MAX

_NAME: Final = re.compile(r"[0-9a-f]{64}")


class ArtifactStore:
    """The artifacts of one peer in `folder`, at most `size_bytes_max` in all."""

    def __init__(self, folder: Path, size_bytes_max: int = ARTIFACT_STORE_BYTES_MAX) -> None:
        self.folder = folder
        self._lock = threading.RLock()  # callers hash and sync in threads
        self._cache = Cache(size_bytes_max)
        self._open_parts: dict[str, Partial] = {}
        self._readers: OrderedDict[str, Reader] = OrderedDict()
        self.dropped = 0  # to make room
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in (*folder.glob("*.tmp"), *folder.glob("*-*.part"), *folder.glob("*-*.map")):
            left.unlink(missing_ok=True)
        for path in sorted(folder.iterdir()):
            if _NAME.fullmatch(path.name) and self._chunks_file(path.name).is_file():
                found = path.stat()
                kept = not self._mark(path.name, "cached").exists()
                came = self._came_s(path.name) if kept else None
                self._cache.held[path.name] = Held(found.st_size, kept, found.st_mtime, came)
        for path in list(folder.glob("*.*")):  # of what was dropped, or not named yet, when we ended
            if path.suffix in (".chunks", ".cached", ".result") and path.stem not in self._cache.held:
                path.unlink(missing_ok=True)
        parts = [path for path in folder.glob("*.part") if _NAME.fullmatch(path.stem)]
        for path in sorted(parts, key=lambda path: path.stat().st_mtime):
            self._cache.parts[path.stem] = path.stat().st_size
        with contextlib.suppress(ArtifactFull):  # the budget may be smaller now; what is kept stays
            self.make_room(0)

    @property
    def size_bytes_max(self) -> int:
        """The budget."""
        return self._cache.size_bytes_max

    @size_bytes_max.setter
    def size_bytes_max(self, size_bytes: int) -> None:
        self._cache.size_bytes_max = size_bytes

    # ------------------------------------------------------------------ what is there

    @property
    def used_bytes(self) -> int:
        """Bytes of artifacts and of those on their way."""
        with self._lock:
            return self._cache.used_bytes

    def names(self) -> tuple[str, ...]:
        """sha256 of each artifact held."""
        with self._lock:
            return tuple(self._cache.held)

    def entries(self) -> list[Entry]:
        """All artifacts, and what there is of others, by digest."""
        with self._lock:
            self._let_go()
            cache = self._cache
            found = [Entry(n, h.size_bytes, h.kept, cache.in_use(n), True) for n, h in cache.held.items()]
            found += [
                Entry(name, size, False, cache.in_use(name), False)
                for name, size in cache.parts.items()
                if _NAME.fullmatch(name)
            ]
        return sorted(found, key=lambda entry: entry.sha256)

    def has(self, sha256: str) -> bool:
        """Whether it is here, verified."""
        return sha256 in self._cache.held

    def size_bytes(self, sha256: str) -> int | None:
        """Its size, or None when it is not here."""
        held = self._cache.held.get(sha256)
        return None if held is None else held.size_bytes

    def path(self, sha256: str) -> Path:
        """Where its bytes are. Raises ArtifactMissing."""
        held = self._cache.held.get(sha256)
        if held is None:
            raise ArtifactMissing(sha256)
        path = self.folder / sha256
        with contextlib.suppress(OSError):
            os.utime(path)  # what was used last is dropped last
            held.used_at = path.stat().st_mtime
        return path

    def info(self, sha256: str) -> ArtifactInfo | None:
        """Size and chunk digests, or None when it is not here."""
        size_bytes = self.size_bytes(sha256)
        if size_bytes is None:
            return None
        data = self._chunks_file(sha256).read_bytes()
        return ArtifactInfo(sha256, size_bytes, split_digests(data))

    # ------------------------------------------------------------------ for others

    def holding(self, sha256: str) -> Holding:
        """What others may ask for of it. Raises ArtifactMissing when that is nothing at all."""
        part = self._shared_part(sha256)
        if part is not None:
            return part.holding()
        reader = self._reader(sha256)
        return Holding(reader.size_bytes, reader.root, None)

    def digests(self, sha256: str, first: int, most: int) -> tuple[int, bytes]:
        """Its size, and at most so many chunk digests from `first` on. Raises ArtifactMissing, also for a
        `first` beyond the end."""
        part = self._shared_part(sha256)
        if part is None:
            reader = self._reader(sha256)
            return reader.size_bytes, reader.digests(first, most)
        if not 0 <= first <= len(part.chunks):
            raise ArtifactMissing(f"{sha256} chunk {first}")
        return part.size_bytes, b"".join(part.chunks[first : first + most])

    def gives(self, sha256: str, first: int, count: int) -> bool:
        """Whether others may have these chunks, as far as is known without a look at the disk."""
        part = self._shared_part(sha256)
        if part is not None:
            return part.has(first, count)
        size_bytes = self.size_bytes(sha256)
        return size_bytes is not None and 0 <= first < first + count <= chunk_count(size_bytes)

    def read_chunks(self, sha256: str, first: int, count: int = 1) -> bytes:
        """Chunks in a row, hashed again. Raises ArtifactMissing; ArtifactWrong when the disk changed them:
        then the artifact is dropped."""
        part = self._shared_part(sha256)
        if part is not None:
            return b"".join(part.read(index) for index in range(first, first + count))
        try:
            return self._reader(sha256).read(first, count)
        except ArtifactWrong:
            self.drop(sha256)
            raise

    def _shared_part(self, sha256: str) -> Partial | None:
        """What is on its way, when somebody signed its list: an unsigned one may be anybody's invention."""
        part = self._open_parts.get(sha256)
        return part if part is not None and part.is_signed else None

    def _reader(self, sha256: str) -> Reader:
        with self._lock:
            held = self._cache.held.get(sha256)
            if held is None:
                raise ArtifactMissing(sha256)
            reader = self._readers.pop(sha256, None)
            if reader is None:
                try:
                    paths = self.folder / sha256, self._chunks_file(sha256)
                    reader = Reader(sha256, held.size_bytes, *paths)
                except OSError as error:
                    raise ArtifactMissing(f"{sha256}: {error.strerror}") from error
            self._readers[sha256] = reader  # the last one used stands last
            while len(self._readers) > ARTIFACT_READERS_MAX:
                self._readers.popitem(last=False)
            return reader

    # ------------------------------------------------------------------ taking in

    def add_bytes(self, data: bytes, hold: Hold = "kept") -> ArtifactInfo:
        """Take these bytes in. Raises ArtifactFull."""
        return self.add_stream(iter((data,)), hold=hold)

    def add_file(self, source: Path) -> ArtifactInfo:
        """Keep a copy of a file. Raises ArtifactFull, OSError."""
        with source.open("rb") as file:
            return self.add_stream(read_chunks(file))

    def add_stream(
        self, data: Iterable[bytes], expected: str | None = None, hold: Hold = "kept"
    ) -> ArtifactInfo:
        """Take these bytes in, none that are not `expected`. Raises ArtifactWrong, ArtifactFull."""
        intake = self.intake(hold)
        try:
            for piece in data:
                intake.write(piece)
            return intake.finish(expected)
        except BaseException:
            intake.abort()
            raise

    def intake(self, hold: Hold = "kept") -> Intake:
        """For bytes that come piece by piece: `write`, then `finish` or `abort`."""
        return Intake(self.folder, self._grow, self._forget_part, functools.partial(self._adopt, hold=hold))

    def _grow(self, name: str, size_bytes: int) -> None:
        """An intake has come to that size."""
        with self._lock:
            self._cache.under_way.add(name)
            self.make_room(size_bytes - self._cache.parts.get(name, 0))
            self._cache.parts[name] = size_bytes

    def partial(
        self, sha256: str, size_bytes: int, chunks: tuple[bytes, ...], *, is_signed: bool = False
    ) -> Partial:
        """Go on with an artifact on its way, or begin; beside one that is under way, whose list may be a lie.
        Chunks kept from before are hashed again. When `is_signed`, what of the first one was verified is for
        others to read at once.

        Raises ArtifactFull, OSError.
        """
        if len(chunks) != chunk_count(size_bytes):
            raise ArtifactWrong(sha256, f"{len(chunks)} chunk digests for {size_bytes} bytes")
        info = ArtifactInfo(sha256, size_bytes, chunks)
        with self._lock:
            is_rival = sha256 in self._cache.under_way
            name = f"{sha256}-{secrets.token_hex(8)}" if is_rival else sha256
            self._cache.under_way.add(name)

        def closed(left: bool) -> None:
            with self._lock:
                self._cache.under_way.discard(name)
                if made is not None and self._open_parts.get(sha256) is made:
                    del self._open_parts[sha256]
                if not left or not (self.folder / f"{name}.part").exists():
                    self._cache.parts.pop(name, None)

        made: Partial | None = None
        try:
            with self._lock:
                self.make_room(size_bytes - self._cache.parts.get(name, 0))
                self._cache.parts.pop(name, None)  # the newest stand last
                self._cache.parts[name] = size_bytes
            adopt = functools.partial(self._adopt, hold="cached")
            made = Partial(self.folder, info, is_signed, adopt, closed, name if is_rival else "")
        except BaseException:
            closed(True)
            raise
        if not is_rival:
            self._open_parts[sha256] = made
        return made

    # ------------------------------------------------------------------ keeping within the budget

    @contextlib.contextmanager
    def pinned(self, names: Iterable[str]) -> Iterator[None]:
        """These are not dropped to make room meanwhile."""
        held = tuple(names)
        with self._lock:
            self._cache.pin(held)
        try:
            yield
        finally:
            with self._lock:
                self._cache.unpin(held)

    def make_room(self, size_bytes: int) -> None:
        """Drop what was fetched and used longest ago until so much fits. Raises ArtifactFull, and then
        nothing was dropped."""
        with self._lock:
            self._let_go()
            for name in self._cache.victims(size_bytes, self._disk_free_bytes()):
                self.dropped += 1
                self._remove(name)

    def fits(self, size_bytes: int) -> bool:
        """Whether so much would fit, after dropping what may be dropped."""
        with self._lock:
            self._let_go()
            return self._cache.fits(size_bytes, self._disk_free_bytes())

    def free(self, sha256: str) -> int:
        """Drop an artifact, kept or not, or what a fetch left of it. Returns its bytes. Raises
        ArtifactMissing, and ArtifactBusy while it is in use."""
        with self._lock:
            held = self._cache.held.get(sha256)
            size_bytes = held.size_bytes if held is not None else self._cache.parts.get(sha256)
            if size_bytes is None:
                raise ArtifactMissing(sha256)
            if self._cache.in_use(sha256):
                raise ArtifactBusy(f"artifact {sha256}: it is in use")
            self._remove(sha256)
            return size_bytes

    def drop(self, sha256: str) -> None:
        """Forget an artifact, whoever uses it; one that is not here is fine."""
        with self._lock:
            self._cache.held.pop(sha256, None)
            self._readers.pop(sha256, None)
            for ending in ("", ".chunks", ".cached", ".result"):
                (self.folder / (sha256 + ending)).unlink(missing_ok=True)

    def _disk_free_bytes(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def _let_go(self) -> None:
        """Results that are kept no more are as what was fetched. Called with the lock."""
        for name in self._cache.lapsed(wall_ms() / 1000):
            held = self._cache.held[name]
            self._mark(name, "cached").touch()
            self._mark(name, "result").unlink(missing_ok=True)
            held.kept, held.result_at = False, None

    def _chunks_file(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.chunks"

    def _mark(self, sha256: str, hold: Hold) -> Path:
        return self.folder / f"{sha256}.{hold}"

    def _came_s(self, sha256: str) -> float | None:
        """When a result came, Unix seconds; None for what is none."""
        try:
            return self._mark(sha256, "result").stat().st_mtime
        except FileNotFoundError:
            return None

    def _adopt(
        self, sha256: str, bytes_file: Path, size_bytes: int, chunks: Sequence[bytes], *, hold: Hold
    ) -> Path:
        """Give verified, synced bytes their name: list first, name last, then the folder is synced. The lock
        is not held while the disk works."""
        with self._lock:
            if self._is_here(sha256, hold):
                bytes_file.unlink(missing_ok=True)
                return self.folder / sha256
        write_list(self._chunks_file(sha256), chunks)
        if hold != "kept":
            self._mark(sha256, hold).touch()
        os.replace(bytes_file, self.folder / sha256)
        sync_folder(self.folder)
        with self._lock:
            used_at = (self.folder / sha256).stat().st_mtime
            self._cache.held.setdefault(sha256, Held(size_bytes, False, used_at))
            self._is_here(sha256, hold)
        return self.folder / sha256

    def _is_here(self, sha256: str, hold: Hold) -> bool:
        """Whether it is held; who wants it kept counts from now on, and what was given stays so. The marks
        say the same afterwards, whoever else took it in meanwhile."""
        held = self._cache.held.get(sha256)
        if held is None:
            return False
        if hold == "kept":
            held.kept, held.result_at = True, None
        elif hold == "result" and (not held.kept or held.result_at is not None):
            self._mark(sha256, "result").touch()
            held.kept, held.result_at = True, self._came_s(sha256)
        if held.kept:
            self._mark(sha256, "cached").unlink(missing_ok=True)
        if held.result_at is None:
            self._mark(sha256, "result").unlink(missing_ok=True)
        return True

    def _remove(self, name: str) -> None:
        """An artifact, and what a fetch left of it."""
        self.drop(name)
        self._forget_part(name)
        for ending in ("part", "map"):
            (self.folder / f"{name}.{ending}").unlink(missing_ok=True)

    def _forget_part(self, name: str) -> None:
        with self._lock:
            self._cache.under_way.discard(name)
            self._cache.parts.pop(name, None)
