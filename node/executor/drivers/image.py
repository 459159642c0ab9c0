"""The sealed image: a task's whole root as one erofs file system in a sealed memfd, behind a read-only loop.

The host's root may remount a tmpfs and write to it. Of this image nobody can change a byte: the memfd is
sealed (memfd_create(2)), the loop device is read-only, and erofs has no writing. What root can still do, put
another file behind the device (loop(4), LOOP_CHANGE_FD) or another mount over it, the re-checks see.

Needs root, /dev/loop-control, a kernel with erofs, and mkfs.erofs (Debian: erofs-utils). Blocking. With the
standard library only: the launcher uses it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess

from node.executor.host import kernel
from node.executor.limits import IMAGE_TIMEOUT_S, LOOP_ATTEMPTS_MAX

_GET_FREE, _CONFIGURE, _GET_STATUS64 = 0x4C82, 0x4C0A, 0x4C05
_READ_ONLY, _AUTOCLEAR = 1, 4
_IS_READ_ONLY = 0x125E  # BLKROGET
_STATUS_BYTES = 232
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_NO_UUID = "00000000-0000-0000-0000-000000000000"


def make(mkfs: str, tree: str, owners: bool = False) -> int:
    """Return a sealed memfd with an erofs image of the folder `tree`; equal trees give equal bytes. All of it
    belongs to root, or, with `owners`, to whom it belongs in the tree.

    Raises OSError when it cannot be made.
    """
    fd = os.memfd_create("image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        # One time, one UUID, one owner, no attributes: nothing of this host or this moment.
        options = ["-T0", "-U", _NO_UUID, "-x-1", *(() if owners else ("--all-root",))]
        try:
            done = subprocess.run(
                [mkfs, *options, f"/proc/self/fd/{fd}", tree],
                pass_fds=(fd,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={},
                timeout=IMAGE_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise OSError(errno.ETIMEDOUT, f"{mkfs}: not done within {IMAGE_TIMEOUT_S:g} s") from error
        if done.returncode:
            said = done.stdout.decode(errors="replace").strip()[-300:]
            raise OSError(errno.EIO, f"{mkfs}: {said or f'code {done.returncode}'}")
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def mount(fd: int, target: str) -> str:
    """Mount the sealed image at `target`; return the path of its loop device, which ends with the mount.

    Raises OSError when it cannot be mounted, or when what should be unchangeable is not.
    """
    if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
        raise OSError(errno.EPERM, "the image is not sealed")
    loop_fd, path = attach(fd)
    try:
        kernel.mount(path, target, "erofs", kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV)
    finally:
        os.close(loop_fd)
    if not os.statvfs(target).f_flag & os.ST_RDONLY or _writable(path):
        raise OSError(errno.EPERM, f"{path} is not read-only")
    return path


def backing(path: str) -> tuple[int, int]:
    """Return device and inode of the file behind the loop device `path`. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = fcntl.ioctl(fd, _GET_STATUS64, bytes(_STATUS_BYTES))
    finally:
        os.close(fd)
    device, inode = struct.unpack_from("=QQ", status)
    return device, inode


def attach(fd: int, writable: bool = False) -> tuple[int, str]:
    """Return an open loop device with the file behind it; it is freed when nobody has it open or mounted."""
    flags = _AUTOCLEAR if writable else _READ_ONLY | _AUTOCLEAR
    configuration = struct.pack("=II5Q4I", fd, 0, 0, 0, 0, 0, 0, 0, 0, 0, flags)
    configuration += bytes(8 + _STATUS_BYTES + 64 - len(configuration))
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(LOOP_ATTEMPTS_MAX):
            path = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
            loop_fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
            try:
                fcntl.ioctl(loop_fd, _CONFIGURE, configuration)
            except OSError as error:
                os.close(loop_fd)
                if error.errno != errno.EBUSY:  # somebody else took it first
                    raise
            else:
                return loop_fd, path
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no free loop device")


def _writable(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return not any(fcntl.ioctl(fd, _IS_READ_ONLY, bytes(4)))
    finally:
        os.close(fd)
