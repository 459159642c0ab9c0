"""The few Linux calls that Python 3.11 has no name for. Standard library only: launcher and portal use it."""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import time
from collections.abc import Mapping

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_REC = 16384
MS_SLAVE = 1 << 19

_NS_GET_USERNS = 0xB701
_EXT4_IOC_CHECKPOINT = 0x4004662B  # since Linux 5.14
_TFD_ABSTIME = 1
_TFD_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Leave the named namespaces for new ones, unshare(2). Raises OSError."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, kind: int) -> None:
    """Join the namespace behind `fd`, setns(2). Raises OSError."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")


def owner_userns(fd: int) -> int:
    """Return a new descriptor of the user namespace that owns the namespace `fd`, ioctl_ns(2)."""
    found: int = _libc.ioctl(ctypes.c_int(fd), ctypes.c_ulong(_NS_GET_USERNS))
    _check(found, "ioctl NS_GET_USERNS")
    os.set_inheritable(found, False)
    return found


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Mount, or change a mount, mount(2). Raises OSError."""
    arguments = [ctypes.c_char_p(text.encode()) for text in (source, target, kind)]
    _check(_libc.mount(*arguments, ctypes.c_ulong(flags), ctypes.c_char_p(data.encode())), f"mount {target}")


def unmount(target: str) -> None:
    """Take the topmost mount off `target`, umount2(2). Raises OSError."""
    _check(_libc.umount2(ctypes.c_char_p(target.encode()), ctypes.c_int(0)), f"umount {target}")


def sync_filesystem(fd: int) -> None:
    """Write all of the ext4 in which `fd` lies to its device, and leave nothing in its journal, syncfs(2) and
    EXT4_IOC_CHECKPOINT. Raises OSError."""
    _check(_libc.syncfs(ctypes.c_int(fd)), "syncfs")
    flags = ctypes.c_uint32(0)
    found = _libc.ioctl(ctypes.c_int(fd), ctypes.c_ulong(_EXT4_IOC_CHECKPOINT), ctypes.byref(flags))
    _check(found, "ioctl EXT4_IOC_CHECKPOINT")
    _check(_libc.syncfs(ctypes.c_int(fd)), "syncfs")


def boot_timer() -> int:
    """Return a descriptor that becomes readable at a time of the boot clock, timerfd_create(2); unset yet."""
    fd: int = _libc.timerfd_create(ctypes.c_int(time.CLOCK_BOOTTIME), ctypes.c_int(_TFD_FLAGS))
    _check(fd, "timerfd_create")
    return fd


def set_boot_timer(fd: int, at_ms: int) -> None:
    """Set the timer to `at_ms` of the boot clock, in place of what it was set to; a past time is at once."""
    at_ms = max(1, at_ms)  # zero would unset it
    spec = struct.pack("=4q", 0, 0, at_ms // 1000, at_ms % 1000 * 1_000_000)
    _check(_libc.timerfd_settime(ctypes.c_int(fd), ctypes.c_int(_TFD_ABSTIME), spec, None), "timerfd_settime")


def no_new_privileges() -> None:
    """Give up gaining privileges by exec, for good, prctl(2)."""
    zero = ctypes.c_ulong(0)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero), "prctl NO_NEW_PRIVS")


def not_dumpable() -> None:
    """Let no process of the same user trace this one or read its memory, prctl(2)."""
    zero = ctypes.c_ulong(0)
    _check(_libc.prctl(_PR_SET_DUMPABLE, zero, zero, zero, zero), "prctl DUMPABLE")


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, prctl(2)."""
    zero = ctypes.c_ulong(0)
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), zero, zero, zero), "prctl SUBREAPER")


def die_with_parent() -> None:
    """Be killed when the thread that forked this process ends, prctl(2)."""
    zero, sigkill = ctypes.c_ulong(0), ctypes.c_ulong(9)
    _check(_libc.prctl(_PR_SET_PDEATHSIG, sigkill, zero, zero, zero), "prctl PDEATHSIG")


def become(uid: int) -> None:
    """Turn root into the user and group `uid`, with no other groups."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def bound(rlimits: Mapping[str, int]) -> None:
    """Take these limits on, by their names in `resource`, or the hard ones where these are lower."""
    for name, wanted in rlimits.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (value, value))


def _check(status: int, what: str) -> None:
    if status < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
