"""Collects result files from a task's scratch, trusting nothing that the workload left there. Blocking."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat

from node.executor.drivers.base import ResultFile
from node.executor.drivers.stage import SCRATCH
from node.executor.errors import ResultRefused
from node.executor.limits import RESULT_BYTES_MAX

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CHUNK_BYTES = 1 << 20


def collect_results(launcher_pid: int, paths: tuple[str, ...]) -> tuple[ResultFile, ...]:
    """Return the files at `paths`, read through the mounts of the launcher, which outlives the workload.

    Raises ResultRefused when one is missing, not a plain file, behind a link, or all are too large.
    """
    left = RESULT_BYTES_MAX
    found: list[ResultFile] = []
    for path in paths:
        data = _read(f"/proc/{launcher_pid}/root{SCRATCH}", path, left)
        left -= len(data)
        found.append(ResultFile(path, data, len(data), hashlib.sha256(data).hexdigest()))
    return tuple(found)


def _read(top: str, path: str, left: int) -> bytes:
    *folders, name = path.strip("/").split("/")
    with contextlib.ExitStack() as stack:
        try:
            # The first step is ours and follows /proc's own link; all others refuse links.
            at = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, at)
            for folder in folders:
                at = os.open(folder, _FOLDER, dir_fd=at)
                stack.callback(os.close, at)
            fd = os.open(name, _FILE, dir_fd=at)
            stack.callback(os.close, fd)
        except OSError as error:
            raise ResultRefused(path, f"must be a plain file, behind no link ({error.strerror})") from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ResultRefused(path, "must be a plain file")
        data = bytearray()
        while chunk := os.read(fd, min(_CHUNK_BYTES, left + 1 - len(data))):
            data += chunk
            if len(data) > left:
                raise ResultRefused(path, f"all results together have at most {RESULT_BYTES_MAX} B")
        return bytes(data)
