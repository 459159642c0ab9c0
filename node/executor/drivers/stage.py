"""The private mounts of a task: its sealed root, and its scratch. In the launcher's own mount namespace only.
Standard library alone: the launchers use it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from node.executor.drivers import image
from node.executor.host import kernel

STAGE = "/mnt"
"""Where the private mounts go, in the launcher's own mount namespace only; FHS has it on every host."""

ROOT = f"{STAGE}/root"
SCRATCH = f"{STAGE}/scratch"
SEALED = kernel.MS_NOSUID | kernel.MS_NODEV
CLOSED = SEALED | kernel.MS_NOEXEC


def enter() -> None:
    """Leave the host's mount namespace for one of our own. Raises OSError."""
    kernel.unshare(kernel.CLONE_NEWNS)
    follow_host()


def follow_host() -> None:
    """What is mounted here stays here. Slave, not private: what the host unmounts later must not stay busy
    because of us. Raises OSError."""
    kernel.mount("none", "/", "none", kernel.MS_REC | kernel.MS_SLAVE)


def build(
    root: dict[str, Any], fill: Callable[[], None], owner: tuple[int, int] | None, owners: bool = False
) -> str | None:
    """Mount what `fill` writes read-only at ROOT, and a bounded scratch from which nothing can be executed,
    which belongs to `owner`: a user and a group. `owners`: files of the root keep theirs.

    Returns the loop device behind ROOT, or None when ROOT is a tmpfs. Raises OSError, and what `fill` does.
    """
    kernel.mount("tmpfs", STAGE, "tmpfs", SEALED, "size=64k,nr_inodes=32,mode=0755")
    os.umask(0)
    os.mkdir(ROOT, 0o755)
    os.mkdir(SCRATCH, 0o755)
    sizes = f"size={root['size_bytes']},nr_inodes={root['inodes']},mode=0755"
    kernel.mount("tmpfs", ROOT, "tmpfs", SEALED, sizes)
    fill()
    loop = _seal(root["mkfs"], owners)
    scratch = f"size={root['scratch_bytes']},nr_inodes={root['scratch_inodes']},mode=0755"
    kernel.mount("tmpfs", SCRATCH, "tmpfs", CLOSED, scratch)
    for name, mode in (("tmp", 0o1777), ("result", 0o755)):
        os.mkdir(f"{SCRATCH}/{name}", mode)
        if owner is not None:
            os.chown(f"{SCRATCH}/{name}", *owner)
    return loop


def _seal(mkfs: str | None, owners: bool) -> str | None:
    """Make what was written at ROOT unchangeable: a sealed image in its place, else read-only."""
    if mkfs is None:
        # The whole file system is made read-only, not one mount of it: no other mount of it can write either.
        kernel.mount("none", ROOT, "none", kernel.MS_REMOUNT | kernel.MS_RDONLY | SEALED)
        return None
    fd = image.make(mkfs, ROOT, owners)
    try:
        kernel.unmount(ROOT)
        return image.mount(fd, ROOT)
    finally:
        os.close(fd)
