"""Copies a running task's volumes while all its processes stand still. Blocking.

What stands in the file behind a volume is older than what the workload has written: that is in memory first.
So the task is frozen, its file systems are written out to the last byte, journal and all, and only then is
copied what lies on disk, as it was at one moment in all volumes. It goes on when that is done. The copy is as
after a clean unmount; what a program had not yet written out of its own memory is not in it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from node.executor.drivers.base import VolumeSpec
from node.executor.errors import ExecutorError
from node.executor.host import kernel
from node.executor.host.cgroups import TaskGroup
from node.executor.limits import FREEZE_WITHIN_S, STILL_S_MAX

_POLL_S = 0.001
_PIECE_BYTES = 64 << 10
_ZEROS = bytes(_PIECE_BYTES)


def copy_still(
    group: TaskGroup | None, init_pid: int, volumes: tuple[VolumeSpec, ...], into: Mapping[str, Path]
) -> float:
    """Copy volumes by their paths inside; the files of `into` are made. Returns for how many seconds the task
    stood still. Raises ExecutorError, and the task goes on."""
    sources = {volume.path: volume.source for volume in volumes}
    try:
        with _frozen(group) as began_s:
            for path in into:
                sync_volume(init_pid, path)
            for path, target in into.items():
                copy_sparse(sources[path], target, began_s + STILL_S_MAX)
        return time.monotonic() - began_s
    except (OSError, KeyError) as error:
        raise ExecutorError(f"its volumes cannot be copied: {error}") from error


def sync_volume(init_pid: int, path: str) -> None:
    """Write the volume at `path` inside a sandbox out to its file. Raises OSError."""
    fd = os.open(f"/proc/{init_pid}/root{path}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        kernel.sync_filesystem(fd)
    finally:
        os.close(fd)


def copy_sparse(source: Path, target: Path, until_s: float) -> None:
    """Copy a file without what is empty of it. Raises OSError, also at `until_s`.

    Looks at the bytes, too: what was allocated and never written is data to SEEK_DATA once it was read.
    """
    with source.open("rb", buffering=0) as from_file, target.open("wb", buffering=0) as to_file:
        from_fd, to_fd = from_file.fileno(), to_file.fileno()
        size_bytes = os.fstat(from_fd).st_size
        os.truncate(to_fd, size_bytes)
        for start, end in data_extents(from_fd, size_bytes):
            for at in range(start, end, _PIECE_BYTES):
                if time.monotonic() > until_s:
                    raise OSError(f"not done within {STILL_S_MAX:g} s, for which a workload may stand still")
                due_bytes = min(_PIECE_BYTES, end - at)
                data = os.pread(from_fd, due_bytes, at)
                if len(data) != due_bytes:
                    raise OSError(f"{source} has become shorter")
                if data != _ZEROS[:due_bytes] and os.pwrite(to_fd, data, at) != due_bytes:
                    raise OSError(f"{target} took a part alone")


def data_extents(fd: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Start and end of each part of a file that may hold more than zeros."""
    at = 0
    while at < size_bytes:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing more
            return
        at = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, min(at, size_bytes)


@contextlib.contextmanager
def _frozen(group: TaskGroup | None) -> Iterator[float]:
    """Yields the time (monotonic, seconds) from which on it stands still."""
    if group is None:
        raise ExecutorError("no group of its own, so that it cannot be made to stand still")
    deadline_s = time.monotonic() + FREEZE_WITHIN_S
    try:
        group.freeze(True)
        while not group.is_frozen():
            if time.monotonic() > deadline_s:
                raise ExecutorError(f"it did not stand still within {FREEZE_WITHIN_S:g} s")
            time.sleep(_POLL_S)
        yield time.monotonic()
        if not group.is_frozen():  # stopped or killed meanwhile: what was copied may be of two moments
            raise ExecutorError("it did not stand still to the end")
    finally:
        group.freeze(False)
