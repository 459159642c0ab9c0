"""How bubblewrap is called: its options, and the limits that go with them. See bwrap(1), version 0.8."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

from node.executor.drivers.base import FileSpec, Resources, TaskSpec, TreeSpec
from node.executor.drivers.mounts import SECRETS, VOLUME
from node.executor.drivers.stage import ROOT, SCRATCH
from node.executor.errors import DriverUnavailable
from node.executor.host import landlock
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


def mounted(spec: TaskSpec) -> frozenset[str]:
    """Return the paths inside at which other mounts than the sealed root begin."""
    return MOUNTED | ({"/secrets"} if spec.secrets else set()) | {volume.path for volume in spec.volumes}


def task_mounts(spec: TaskSpec) -> list[str]:
    """Return the options for a task's file system: sealed root, own /proc and /dev, scratch for the rest."""
    return [
        *("--ro-bind", ROOT, "/", "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"),
        *("--bind", f"{SCRATCH}/tmp", "/tmp", "--bind", f"{SCRATCH}/result", "/result", "--chdir", "/"),
        *(("--ro-bind", SECRETS, "/secrets") if spec.secrets else ()),
        *(word for n, v in enumerate(spec.volumes) for word in ("--bind", f"{VOLUME}{n}", v.path)),
    ]


def task_rules(spec: TaskSpec) -> list[landlock.Rule]:
    """Return what Landlock lets a task do, and where."""
    artifacts: tuple[FileSpec | TreeSpec, ...] = (*spec.files, *spec.trees)
    rules = landlock.task_rules(artifact.path for artifact in artifacts)
    secrets = [("/secrets", "read")] if spec.secrets else []
    return [*rules, *secrets, *((volume.path, "write") for volume in spec.volumes)]


def trial_mounts(volume: bool) -> list[str]:
    """Return the same for the trial, which runs the host's own shell from the host's root, read-only."""
    return [
        *("--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"),
        *("--bind", f"{SCRATCH}/tmp", "/tmp", "--ro-bind", SECRETS, "/tmp/secrets", "--chdir", "/"),
        *("--dir", "/tmp/open", "--dir", "/tmp/shut"),
        *(("--bind", f"{VOLUME}0", "/tmp/volume") if volume else ()),
    ]


def encode(options: list[str]) -> bytes:
    """Return the options for `--args FD`: so the environment's values stay out of the host's process list."""
    return b"".join(option.encode(errors="surrogateescape") + b"\x00" for option in options)


def rlimits(resources: Resources, memory_by_cgroup: bool, volume_bytes: int = 0) -> dict[str, int]:
    """Return the resource limits to set before bubblewrap starts, by their name in `resource`.

    `volume_bytes`: of the largest volume, which a single file may fill.
    """
    largest = max(resources.disk_bytes, volume_bytes)
    found = {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": _OPEN_FILES_MAX, "RLIMIT_FSIZE": largest}
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
