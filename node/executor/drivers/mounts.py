"""What a task has mounted beside its root: secrets in memory, volumes on disk. In the launcher's own mount
namespace only. Standard library alone: the launcher uses it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from typing import Any

from node.executor.drivers import image
from node.executor.drivers.stage import CLOSED, STAGE
from node.executor.host import kernel

SECRETS = f"{STAGE}/secrets"
VOLUME = f"{STAGE}/volume"
_LOCK_POLL_S = 0.01


def mount_beside(config: dict[str, Any], uid: int | None, owner: tuple[int, int] | None = None) -> None:
    """Mount the secrets and volumes of a launcher's configuration: secrets for the user `uid`, volumes for
    `owner`, a user and a group, or, without one, for whom they belong to. Raises OSError."""
    if config["secrets"]:
        mount_secrets(config["secrets"], uid)
    mount_volumes(config["volumes"], time.monotonic() + config["start_timeout_s"])
    if owner is not None:
        for number in range(len(config["volumes"])):
            os.chown(f"{VOLUME}{number}", *owner)


def mount_secrets(secrets: list[dict[str, Any]], uid: int | None) -> None:
    """Put each secret into a read-only file of the workload's user, in memory that is never swapped."""
    os.mkdir(SECRETS, 0o755)
    kernel.mount("ramfs", SECRETS, "ramfs", CLOSED, "mode=0755")
    for secret in secrets:
        path = f"{SECRETS}/{secret['name']}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(secret["fd"], "rb") as source, os.fdopen(os.open(path, flags, 0o400), "wb") as target:
            target.write(source.read())
        if uid is not None:
            os.chown(path, uid, uid)
    kernel.mount("none", SECRETS, "none", kernel.MS_REMOUNT | kernel.MS_RDONLY | CLOSED)


def mount_volumes(volumes: list[int], deadline_s: float) -> None:
    """Mount the file system in each of these files, by one holder at a time.

    The lock is of the open file, which the loop device keeps until it is freed: as long as any process of an
    earlier run has the volume mounted, nobody else mounts it. Raises OSError.
    """
    for number, fd in enumerate(volumes):
        _lock(fd, deadline_s)
        target = f"{VOLUME}{number}"
        os.mkdir(target, 0o755)
        loop_fd, path = image.attach(fd, writable=True)
        try:
            kernel.mount(path, target, "ext4", CLOSED, "errors=remount-ro")
        finally:
            os.close(loop_fd)
            os.close(fd)
        with contextlib.suppress(OSError):
            os.rmdir(f"{target}/lost+found")


def _lock(fd: int, deadline_s: float) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                raise OSError(errno.EBUSY, "a volume is still mounted by an earlier run") from None
            time.sleep(_LOCK_POLL_S)
        else:
            return
