"""Makes and checks the file systems of volumes: ext4, with e2fsprogs. Blocking."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from typing import Final

from node.executor.errors import VolumeRefused
from node.executor.limits import VOLUME_MKFS_S

_PATH: Final = f"{os.defpath}:/usr/sbin:/sbin"
_OWNER: Final = 65_534
"""Whom a sandbox belongs to on the host of a node that is root (drivers.bwrap.HOST_UID)."""


def find_mkfs() -> str | None:
    """The program that makes the file systems, or None where it is missing (Debian: e2fsprogs)."""
    return shutil.which("mkfs.ext4", path=_PATH)


def make_filesystem(mkfs: str, target: str, pass_fds: Iterable[int] = ()) -> None:
    """An empty ext4 that fills `target`, whose top folder belongs to a workload. Raises VolumeRefused."""
    # No blocks are kept for root; nothing is discarded, since the bytes are set aside. Nor is anything left
    # for the kernel to zero once it is mounted: of a file it would give those bytes back to the disk.
    extended = f"root_owner={_OWNER}:{_OWNER},nodiscard,lazy_itable_init=0"
    options = ["-q", "-F", "-m", "0", "-E", extended]
    _run([mkfs, *options, target], pass_fds)


def check_filesystem(fd: int) -> None:
    """An ext4 from elsewhere has not one fault that e2fsck knows, before the kernel sees it. The file
    behind `fd` is readable to all meanwhile. Raises VolumeRefused."""
    fsck = shutil.which("e2fsck", path=_PATH)
    if fsck is None:
        raise VolumeRefused("volume", "e2fsck is missing (Debian: e2fsprogs)")
    os.fchmod(fd, 0o644)
    try:
        # As nobody: these bytes may be made to break what reads them.
        _run([fsck, "-f", "-n", f"/proc/self/fd/{fd}"], (fd,), _OWNER if os.geteuid() == 0 else None)
    finally:
        os.fchmod(fd, 0o600)


def _run(command: list[str], pass_fds: Iterable[int], user: int | None = None) -> None:
    try:
        done = subprocess.run(
            command,
            pass_fds=tuple(pass_fds),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={},
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            timeout=VOLUME_MKFS_S,
            check=False,
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        raise VolumeRefused("volume", f"{command[0]}: {error}") from None
    if done.returncode:
        said = done.stdout.decode(errors="replace").strip()[-300:]
        raise VolumeRefused("volume", f"{command[0]}: {said or f'code {done.returncode}'}")
