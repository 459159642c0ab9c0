"""What this node runs no more: manifests whose bytes drifted here, until a person has looked.

Drift means that somebody or something on this host changed verified bytes or code at run time. The slot goes
to others; this node claims nothing of that manifest again, also after a restart. `gridpact node quarantine`
lists them, `gridpact node release` lets one go. The list is one small file, replaced as a whole, so that the
command works beside a running node.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from node.executor.errors import ExecutorError
from node.executor.limits import QUARANTINE_BYTES_MAX, QUARANTINE_DETAIL_CHARS_MAX, QUARANTINE_MAX


class Held(msgspec.Struct, frozen=True):
    """One manifest (hex digest): the slot in which it drifted last, when (Unix ms), and what differed."""

    manifest: str
    slot: str
    time_ms: int
    detail: str


class Quarantine:
    """The list in the file `path`; with None, one that lasts as long as this object."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._held: dict[str, Held] = {}
        self._seen: tuple[int, int] | None = None

    def all(self) -> tuple[Held, ...]:
        """Return what is held, the oldest first. Raises ExecutorError when the file cannot be read."""
        self._load()
        return tuple(self._held.values())

    def reason(self, manifest: bytes) -> str:
        """Return why this node does not run the manifest of that digest, or ""."""
        try:
            self._load()
        except ExecutorError as error:
            return str(error)  # what it held is not known, so nothing is claimed
        held = self._held.get(manifest.hex())
        return f"in quarantine: {held.detail}" if held is not None else ""

    def add(self, manifest: bytes, slot: str, time_ms: int, detail: str) -> None:
        """Hold the manifest; the oldest goes when the list is full. Raises OSError, ExecutorError."""
        digest = manifest.hex()
        detail = detail.encode(errors="replace").decode()  # names of files may be no text
        with self._change():
            self._held.pop(digest, None)
            self._held[digest] = Held(digest, slot, time_ms, detail[:QUARANTINE_DETAIL_CHARS_MAX])
            while len(self._held) > QUARANTINE_MAX:
                del self._held[next(iter(self._held))]

    def release(self, manifest: str) -> bool:
        """Let the manifest of that hex digest go; False: it is not held. Raises OSError, ExecutorError."""
        with self._change():
            return self._held.pop(manifest, None) is not None

    @contextmanager
    def _change(self) -> Iterator[None]:
        if self._path is None:
            yield
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._load()
            yield
            part = self._path.with_suffix(".part")
            with part.open("wb") as file:
                file.write(msgspec.json.encode(list(self._held.values())))
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self._path)
        finally:
            os.close(lock)

    def _load(self) -> None:
        """Read the file again when it is another than the last time."""
        if self._path is None:
            return
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                seen = (status.st_ino, status.st_mtime_ns)
                if seen == self._seen:
                    return
                found = msgspec.json.decode(file.read(QUARANTINE_BYTES_MAX), type=list[Held])
        except FileNotFoundError:
            self._held, self._seen = {}, None
            return
        except (OSError, msgspec.MsgspecError) as error:
            text = f"the list of what is quarantined cannot be read ({error}); look at {self._path.name}"
            raise ExecutorError(text) from error
        self._held, self._seen = {held.manifest: held for held in found}, seen
