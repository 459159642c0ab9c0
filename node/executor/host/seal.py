"""Bytes that cannot change after they were verified: sealed memfds.

A file is copied into anonymous memory, sealed against every change (memfd_create(2), F_ADD_SEALS in
fcntl(2)), and only then hashed, so that what was hashed is what is used, whatever happens to the source.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from node.executor.errors import VerificationFailed

_CHUNK_BYTES = 1 << 20
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


@dataclass
class Sealed:
    """An open, sealed memfd with its verified size and sha256 hex digest. Closing it frees the memory."""

    fd: int
    digest: str
    size_bytes: int

    def close(self) -> None:
        """Close the descriptor; again is harmless."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def seal_file(source: Path, digest: str, size_bytes: int, field: str) -> Sealed:
    """Copy `source` into a sealed memfd and verify it there.

    Returns the sealed copy. Raises VerificationFailed(`field`) when the source cannot be read, is not a plain
    file, or has another size or digest.
    """
    fd = os.memfd_create("artifact", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        _copy(source, fd, size_bytes, field)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        found = hash_fd(fd)
        if found != digest:
            raise VerificationFailed(f"{field}.digest", f"is {digest}, the bytes have {found}")
    except BaseException:
        os.close(fd)
        raise
    return Sealed(fd, digest, size_bytes)


def seal_bytes(data: bytes, name: str) -> int:
    """Return a sealed memfd that holds `data`, read from its start; the caller closes it."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def hash_fd(fd: int) -> str:
    """Return the sha256 hex digest of the whole file, without moving its offset."""
    sha = hashlib.sha256()
    offset = 0
    while chunk := os.pread(fd, _CHUNK_BYTES, offset):
        sha.update(chunk)
        offset += len(chunk)
    return sha.hexdigest()


def _copy(source: Path, fd: int, size_bytes: int, field: str) -> None:
    try:
        # Not blocking: opening a fifo or device that took the file's place must not hang the node.
        origin = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        raise VerificationFailed(f"{field}.source", f"cannot be read ({error.strerror})") from error
    try:
        if not stat.S_ISREG(os.fstat(origin).st_mode):
            raise VerificationFailed(f"{field}.source", "must be a plain file")
        copied = 0
        # One byte more than named, so that a longer file is seen without copying all of it.
        while chunk := os.read(origin, min(_CHUNK_BYTES, size_bytes + 1 - copied)):
            copied += len(chunk)
            if copied > size_bytes:
                break
            view = memoryview(chunk)
            while view:
                view = view[os.write(fd, view) :]
        if copied != size_bytes:
            found = "more" if copied > size_bytes else str(copied)
            raise VerificationFailed(f"{field}.size_bytes", f"is {size_bytes}, the file has {found}")
    finally:
        os.close(origin)
