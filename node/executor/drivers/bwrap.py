"""How bubblewrap is called: its options, and the limits that go with them. See bwrap(1), version 0.8."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

from node.executor.drivers.base import Resources
from node.executor.drivers.launcher import ROOT, SCRATCH
from node.executor.errors import DriverUnavailable
from node.executor.limits import SCRATCH_INODES_PER_MIB

INSIDE_UID = 65_534
HOST_UID = 65_534
"""Whom a node that is root lets the sandbox belong to. Not root in a user namespace: the kernel still counts
that as the host's root in places, such as files of /proc/sys."""

MOUNTED = frozenset({"/proc", "/dev", "/tmp", "/result"})
_PAGE_BYTES = 4096
_OPEN_FILES_MAX = 1024


def find() -> str:
    """Return the path of bubblewrap. Raises DriverUnavailable when it is not installed."""
    path = shutil.which("bwrap", path=os.defpath + ":/usr/local/bin")
    if path is None:
        raise DriverUnavailable("bwrap is not installed (Debian package: bubblewrap)")
    return path


def isolation_options(seccomp_fds: tuple[int, ...], env: Mapping[str, str]) -> list[str]:
    """Return the options that isolate; the same for every task and for the fingerprint's trial."""
    options = ["--unshare-all", "--unshare-user", "--unshare-cgroup", "--disable-userns"]
    options += ["--uid", str(INSIDE_UID), "--gid", str(INSIDE_UID), "--hostname", "gridpact"]
    options += ["--cap-drop", "ALL", "--die-with-parent", "--new-session", "--clearenv"]
    for name, value in env.items():
        options += ["--setenv", name, value]
    for fd in seccomp_fds:
        options += ["--add-seccomp-fd", str(fd)]
    return options


def task_mounts() -> list[str]:
    """Return the options for a task's file system: sealed root, own /proc and /dev, scratch for the rest."""
    return [
        *("--ro-bind", ROOT, "/", "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"),
        *("--bind", f"{SCRATCH}/tmp", "/tmp", "--bind", f"{SCRATCH}/result", "/result", "--chdir", "/"),
    ]


def trial_mounts() -> list[str]:
    """Return the same for the trial, which runs the host's own shell from the host's root, read-only."""
    return [
        *("--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"),
        *("--bind", f"{SCRATCH}/tmp", "/tmp", "--chdir", "/"),
    ]


def encode(options: list[str]) -> bytes:
    """Return the options for `--args FD`: so the environment's values stay out of the host's process list."""
    return b"".join(option.encode(errors="surrogateescape") + b"\x00" for option in options)


def rlimits(resources: Resources, memory_by_cgroup: bool) -> dict[str, int]:
    """Return the resource limits to set before bubblewrap starts, by their name in `resource`."""
    found = {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": _OPEN_FILES_MAX, "RLIMIT_FSIZE": resources.disk_bytes}
    found |= {"RLIMIT_MEMLOCK": 1 << 20, "RLIMIT_MSGQUEUE": 0}
    if not memory_by_cgroup:
        found["RLIMIT_AS"] = resources.memory_bytes
    return found


def root_sizes(data_bytes: int, inodes: int, resources: Resources) -> dict[str, int]:
    """Return the sizes of the two tmpfs: the sealed root, exactly large enough, and the scratch."""
    mib = resources.disk_bytes >> 20
    return {
        "size_bytes": data_bytes + 16 * _PAGE_BYTES,
        "inodes": inodes + 16,
        "scratch_bytes": resources.disk_bytes // _PAGE_BYTES * _PAGE_BYTES,
        "scratch_inodes": 64 + mib * SCRATCH_INODES_PER_MIB,
    }


def pages(size_bytes: int) -> int:
    """Return the bytes that a file of that size takes in a tmpfs."""
    return -(-size_bytes // _PAGE_BYTES) * _PAGE_BYTES
