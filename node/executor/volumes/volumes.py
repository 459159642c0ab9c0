"""Volumes of workloads on this node: one file each, with a file system of exactly the size that was bought.

A volume belongs to a slot and stays on the node that made it, from one term to the next, until its deployment
has ended; or it comes from a copy, when another node has written to it since. Its bytes are set aside when it
is made, on the kind of disk that was bought, so that no other can take them, and only those that leave the
ledger its reserve of the file system, which two kinds may share. Only root can mount one; where we are not,
the node does not advertise them. Blocking; several threads may call.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from ledger.manifests.types import Disk, Volume
from node.executor.errors import VolumeRefused
from node.executor.host.filesystem import check_filesystem, find_mkfs, make_filesystem
from node.executor.limits import RESTING_S
from node.executor.volumes.rooms import Room, existing
from node.executor.volumes.volume_copy import restore_copy
from node.limits import ARTIFACT_DISK_RESERVE_BYTES

_SUFFIX: Final = ".ext4"
_POLL_S: Final = 0.02


class VolumeShelf:
    """See the module. `rooms`: where volumes are, for each kind of disk that there is."""

    def __init__(self, rooms: Mapping[Disk, Room]) -> None:
        self.rooms = rooms
        self._lock = threading.Lock()  # never held while the disk works: the event loop takes it, too
        self._making: dict[Path, Volume] = {}
        for room in rooms.values():
            for left in room.folder.glob(f".*{_SUFFIX}.*"):  # of a run that broke off
                left.unlink(missing_ok=True)

    def problem(
        self, deployment: bytes, slot: str, volumes: Iterable[Volume], *, were_here: bool = False
    ) -> str:
        """Why these volumes of a slot cannot be had here, or "". `were_here`: a term before had them here."""
        with self._lock:
            return self._problem(deployment, slot, volumes, were_here)

    def _problem(self, deployment: bytes, slot: str, volumes: Iterable[Volume], were_here: bool) -> str:
        missing: Counter[Disk] = Counter()
        for volume in volumes:
            if volume.storage not in self.rooms:
                return f"volume {volume.name}: no {volume.storage} is here"
            if self.rooms[volume.storage].is_gone():
                return f"volume {volume.name}: its disk is not mounted any more"
            for disk in self.rooms:
                if disk != volume.storage and self._file(deployment, slot, volume.name, disk).exists():
                    return f"volume {volume.name} is here on {disk}, not on {volume.storage}"
            held = _size(self._file(deployment, slot, volume.name, volume.storage))
            if held is None:
                if were_here and volume.if_lost == "wait":
                    return f"volume {volume.name} was here and is gone; the contract does not begin anew"
                missing[volume.storage] += volume.size_bytes
            elif held != volume.size_bytes:
                return f"volume {volume.name} is here with {held} bytes, not {volume.size_bytes}"
        return self._no_room(missing) if missing else ""

    def _no_room(self, missing: Counter[Disk]) -> str:
        """Why so many more bytes do not fit, or ""."""
        making: Counter[Disk] = Counter()
        for file, volume in self._making.items():
            if not file.exists():
                making[volume.storage] += volume.size_bytes
        for disk, size_bytes in missing.items():
            room = self.rooms[disk]
            if _used(room) + making[disk] + size_bytes > room.size_bytes_max:
                return f"{size_bytes} bytes of volumes do not fit beside those of others that are kept here"
            here = _device(room.folder)
            beside = [other for other, r in self.rooms.items() if _device(r.folder) == here]
            wanted = sum(making[other] + missing[other] for other in beside)
            if self._disk_free_bytes(room.folder) - wanted < ARTIFACT_DISK_RESERVE_BYTES:
                return f"{size_bytes} bytes of volumes do not fit: the disk is too full"
        return ""

    def ensure(self, deployment: bytes, slot: str, volume: Volume, *, were_here: bool = False) -> Path:
        """Its file: as the term before left it, or new and empty. Raises VolumeRefused."""
        return self._have(deployment, slot, volume, were_here, _format)

    def has(self, deployment: bytes, slot: str, volume: Volume) -> bool:
        """Whether it is here."""
        return self._file(deployment, slot, volume.name, volume.storage).exists()

    def discard(self, deployment: bytes, slot: str, volume: Volume) -> None:
        """Another node has written to it since: what is here is old."""
        self._file(deployment, slot, volume.name, volume.storage).unlink(missing_ok=True)

    def restore(self, deployment: bytes, slot: str, volume: Volume, copy: Path, key: bytes) -> Path:
        """Its file, made from a copy in place of any that is here. Raises VolumeRefused; then none is."""
        self.discard(deployment, slot, volume)

        def fill(fd: int, fresh: Path) -> None:
            with copy.open("rb") as file:
                restore_copy(file, key, fd, volume.size_bytes)
            check_filesystem(fd)

        return self._have(deployment, slot, volume, False, fill)

    @contextlib.contextmanager
    def spare(self, deployment: bytes, slot: str, volume: Volume) -> Iterator[Path]:
        """Where a copy of a volume that is in use is put; it is gone afterwards."""
        file = self._file(deployment, slot, volume.name, volume.storage)
        spare = file.with_name(f".{file.name}.copy")
        try:
            yield spare
        finally:
            spare.unlink(missing_ok=True)

    @contextlib.contextmanager
    def resting(self, deployment: bytes, slot: str, volume: Volume) -> Iterator[Path]:
        """Its file, which nobody mounts meanwhile. Raises VolumeRefused when somebody still has."""
        file = self._file(deployment, slot, volume.name, volume.storage)
        try:
            fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise VolumeRefused(f"volume {volume.name}", f"cannot be read: {error.strerror}") from None
        try:
            deadline_s = time.monotonic() + RESTING_S
            while not _lock(fd):
                if time.monotonic() > deadline_s:
                    raise VolumeRefused(f"volume {volume.name}", "is still mounted by a run that is over")
                time.sleep(_POLL_S)
            yield file
        finally:
            os.close(fd)

    def _have(
        self, deployment: bytes, slot: str, volume: Volume, were_here: bool, fill: Callable[[int, Path], None]
    ) -> Path:
        """Its file, made when it is not here."""
        file = self._file(deployment, slot, volume.name, volume.storage)
        with self._lock:
            problem = self._problem(deployment, slot, (volume,), were_here)
            if file in self._making:
                problem = "it is being made"
            if problem:
                raise VolumeRefused(f"volume {volume.name}", problem)
            if file.exists():
                return file
            self._making[file] = volume
        try:
            self._make(file, volume.size_bytes, fill)
        finally:
            with self._lock:
                del self._making[file]
        return file

    def _make(self, file: Path, size_bytes: int, fill: Callable[[int, Path], None]) -> None:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = file.with_name(f".{file.name}.new")  # a crash leaves no half-made volume under its name
        try:
            fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, size_bytes)
                fill(fd, fresh)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(fresh, file)
            _sync(file.parent)
        except OSError as error:
            raise VolumeRefused("volume", f"cannot be made: {error.strerror or error}") from None
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh)

    def _disk_free_bytes(self, folder: Path) -> int:
        found = os.statvfs(existing(folder))
        return found.f_bavail * found.f_frsize

    def used_bytes(self) -> int:
        """Set aside by all volumes here."""
        return sum(map(_used, self.rooms.values()))

    def deployments(self) -> set[bytes]:
        """Ids of those that have volumes here."""
        found = set()
        for file in self._files():
            with contextlib.suppress(ValueError):
                found.add(bytes.fromhex(file.name.partition(".")[0]))
        return found

    def drop(self, deployment: bytes) -> int:
        """Remove all volumes of a deployment; how many there were."""
        count = 0
        for file in self._files():
            if file.name.startswith(deployment.hex() + "."):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(file)
                    count += 1
        return count

    def _files(self) -> Iterator[Path]:
        for room in self.rooms.values():
            yield from _files(room)

    def _file(self, deployment: bytes, slot: str, name: str, disk: Disk) -> Path:
        room = self.rooms.get(disk)
        if room is None:
            raise VolumeRefused(f"volume {name}", f"no {disk} is here")
        # Names have no dot in them, so that no two volumes share a file.
        return room.folder / f"{deployment.hex()}.{slot.replace('/', '.')}.{name}{_SUFFIX}"


def _files(room: Room) -> list[Path]:
    return [file for file in room.folder.glob(f"*{_SUFFIX}") if not file.name.startswith(".")]


def _used(room: Room) -> int:
    return sum(_size(file) or 0 for file in _files(room))


def _device(folder: Path) -> int:
    return existing(folder).stat().st_dev


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return None


def _format(fd: int, fresh: Path) -> None:
    mkfs = find_mkfs()
    if mkfs is None:
        raise VolumeRefused("volume", "mkfs.ext4 is missing (Debian: e2fsprogs)")
    make_filesystem(mkfs, str(fresh))


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
