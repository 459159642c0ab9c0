"""Is what runs still what was verified? Takes a record of a sealed root at the start, and compares later.

Everything is read as the workload sees it, through /proc/PID/root, and compared with digests taken from the
sealed bytes, not from the root itself. Code that a process or a debugger wrote over mapped pages is seen too,
since such pages are no longer the file's. What this cannot see: what happened and was undone between two
checks, and an attacker who owns the kernel.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from node.executor.drivers import image
from node.executor.drivers.base import Attestation, Drift
from node.executor.errors import StartFailed
from node.executor.host import procs
from node.executor.limits import ATTEST_DRIFTS_MAX, ATTEST_PROCESSES_MAX

_CHUNK_BYTES = 1 << 20
_SECCOMP_FILTER = 2
_KERNEL_CODE = frozenset({"[vdso]", "[vsyscall]"})


@dataclass(frozen=True)
class Expected:
    """One file of the root by its verified bytes, or a symbolic link by its `target`."""

    digest: str
    size_bytes: int
    mode: int
    target: str = ""


@dataclass(frozen=True)
class Baseline:
    """What a task looked like before its first instruction."""

    init_pid: int
    init_start_ticks: int
    namespace: str
    files: Mapping[str, Expected]
    mounted: frozenset[str]
    device: tuple[int, int]
    inodes: Mapping[str, int]
    init_mappings: frozenset[procs.Mapping]
    mounts: tuple[str, ...]
    loop: str | None = None
    backing: tuple[int, int] | None = None


@dataclass
class _Check:
    drifts: list[Drift] = field(default_factory=list)
    files: int = 0
    size_bytes: int = 0
    processes: int = 0
    mappings: int = 0

    def drift(self, where: str, expected: str, found: str) -> None:
        if len(self.drifts) < ATTEST_DRIFTS_MAX:
            self.drifts.append(Drift(where, expected, found))


def take(
    init_pid: int, files: Mapping[str, Expected], mounted: frozenset[str], loop: str | None = None
) -> Baseline:
    """Record the held-back task whose process 1 is `init_pid`.

    `files` maps paths inside to verified bytes; `mounted` names the paths at which other mounts begin;
    `loop` is the device behind a sealed image.
    Raises ProcessLookupError when the task has ended already.
    """
    root = f"/proc/{init_pid}/root"
    start = procs.start_ticks(init_pid)
    namespace = procs.pid_namespace(init_pid)
    mappings = procs.executable_mappings(init_pid)
    mounts = procs.mounts(init_pid)
    if start is None or namespace is None or mappings is None or mounts is None:
        raise ProcessLookupError(f"process {init_pid} has ended, or cannot be inspected")
    inodes = {path: os.lstat(root + path).st_ino for path in files}
    device = os.stat(f"{root}/").st_dev
    if loop is not None and os.stat(loop).st_rdev != device:
        raise StartFailed(f"the root is not the image behind {loop}")
    return Baseline(
        init_pid=init_pid,
        init_start_ticks=start,
        namespace=namespace,
        files=files,
        mounted=mounted,
        device=(os.major(device), os.minor(device)),
        inodes=inodes,
        init_mappings=mappings,
        mounts=mounts,
        loop=loop,
        backing=image.backing(loop) if loop is not None else None,
    )


def check_files(baseline: Baseline) -> tuple[Drift, ...]:
    """Return how the files differ from the verified bytes; for use before the workload is let go."""
    done = _Check()
    _check_files(baseline, done, _root(baseline))
    return tuple(done.drifts)


def executes(baseline: Baseline) -> bool:
    """Return True when the held-back task has begun to execute its own code, or has ended.

    In between, its first process still is a copy of bubblewrap, or the entry program, which a check would
    have to call foreign; and process 1, which forked it, may not have put on its filter yet: the two race.
    """
    if _ended(baseline):
        return True
    init = procs.privileges(baseline.init_pid)
    if init is not None and init.seccomp != _SECCOMP_FILTER:
        return False
    pids = [pid for pid in procs.members(baseline.namespace) if pid != baseline.init_pid]
    mapped = [procs.executable_mappings(pid) for pid in pids]
    return any(one.device == baseline.device for mappings in mapped for one in mappings or ())


def first_executes(baseline: Baseline) -> bool:
    """Return True when process 1, which is the task's own, executes code of the sealed root, or has ended."""
    if _ended(baseline):
        return True
    mapped = procs.executable_mappings(baseline.init_pid)
    return any(one.device == baseline.device for one in mapped or ())


def check(
    baseline: Baseline, pids: Sequence[int], started_since: Callable[[], Sequence[int]] = tuple
) -> Attestation:
    """Return whether the task still is what `baseline` says. Its processes are `pids`, found before, and what
    `started_since` gives once its files are hashed, which blocks: who forks meanwhile is looked at, too."""
    started = time.perf_counter()
    done = _Check()
    if not _ended(baseline):
        _check_files(baseline, done, _root(baseline))
        _check_processes(baseline, [*pids, *started_since()], done)
    # A task that ends loses its mounts and mappings one by one, which must not be taken for drift.
    ended = _ended(baseline)
    took_ms = (time.perf_counter() - started) * 1000
    return Attestation(
        ok=not done.drifts and not ended,
        ended=ended,
        drifts=() if ended else tuple(done.drifts),
        files_checked=done.files,
        bytes_checked=done.size_bytes,
        processes_checked=done.processes,
        mappings_checked=done.mappings,
        duration_ms=took_ms,
    )


def check_ended(baseline: Baseline, root: str) -> Attestation:
    """Return whether the files of an ended task still are the verified ones, read below `root`: another
    mount of the same sealed file system. Blocks while hashing."""
    started = time.perf_counter()
    done = _Check()
    _check_files(baseline, done, root)
    took_ms = (time.perf_counter() - started) * 1000
    return Attestation(not done.drifts, True, tuple(done.drifts), done.files, done.size_bytes, 0, 0, took_ms)


def _ended(baseline: Baseline) -> bool:
    pid = baseline.init_pid
    return procs.start_ticks(pid) != baseline.init_start_ticks or procs.is_ending(pid)


def _root(baseline: Baseline) -> str:
    return f"/proc/{baseline.init_pid}/root"


def _check_files(baseline: Baseline, done: _Check, root: str) -> None:
    _check_image(baseline, done)
    for path, expected in baseline.files.items():
        done.files += 1
        _check_file(root, path, expected, baseline, done)
    for path in _walk(root, baseline.mounted):
        if path not in baseline.files:
            done.drift(path, "not there", "a file that no artifact has")


def _check_image(baseline: Baseline, done: _Check) -> None:
    """A device may get another file behind it; what is in memory of the old one still reads as before."""
    if baseline.loop is None:
        return
    try:
        same = image.backing(baseline.loop) == baseline.backing
    except OSError as error:
        done.drift(baseline.loop, "the sealed image", error.strerror or "cannot be opened")
        return
    if not same:
        done.drift(baseline.loop, "the sealed image", "another file behind the device")


def _check_link(root: str, path: str, expected: Expected, baseline: Baseline, done: _Check) -> None:
    try:
        status, target = os.lstat(root + path), os.readlink(root + path)
    except OSError as error:
        done.drift(path, f"a link to {expected.target}", error.strerror or "cannot be read")
        return
    device = (os.major(status.st_dev), os.minor(status.st_dev))
    if device != baseline.device or status.st_ino != baseline.inodes[path] or target != expected.target:
        done.drift(path, f"a link to {expected.target}", f"another one, to {target}")


def _check_file(root: str, path: str, expected: Expected, baseline: Baseline, done: _Check) -> None:
    if expected.target:
        _check_link(root, path, expected, baseline, done)
        return
    try:
        fd = os.open(root + path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        done.drift(path, expected.digest, error.strerror or "cannot be opened")
        return
    try:
        status = os.fstat(fd)
        device = (os.major(status.st_dev), os.minor(status.st_dev))
        if device != baseline.device or status.st_ino != baseline.inodes[path]:
            done.drift(path, f"inode {baseline.inodes[path]} of the sealed root", "another file in its place")
        if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) != expected.mode:
            done.drift(path, f"mode {expected.mode:o}", f"mode {status.st_mode:o}")
            return
        if status.st_size != expected.size_bytes:
            done.drift(path, f"{expected.size_bytes} B", f"{status.st_size} B")
            return
        sha = hashlib.sha256()
        while chunk := os.read(fd, _CHUNK_BYTES):
            sha.update(chunk)
            done.size_bytes += len(chunk)
        if sha.hexdigest() != expected.digest:
            done.drift(path, expected.digest, sha.hexdigest())
    finally:
        os.close(fd)


def _walk(root: str, mounted: frozenset[str]) -> list[str]:
    """Return all that is not a directory in the sealed root, other mounts left out."""
    found: list[str] = []
    for above, folders, names in os.walk(root + "/"):
        inside = above.removeprefix(root).rstrip("/")
        folders[:] = [name for name in folders if f"{inside}/{name}" not in mounted]
        links = [name for name in folders if os.path.islink(os.path.join(above, name))]
        found += [f"{inside}/{name}" for name in (*names, *links)]
    return [path for path in found if path not in mounted]


def _check_processes(baseline: Baseline, pids: Sequence[int], done: _Check) -> None:
    sealed = frozenset(baseline.inodes.values())
    if procs.mounts(baseline.init_pid) != baseline.mounts:
        done.drift("mounts", "those at the start", "changed")
    pids = procs.living(sorted(set(pids)))
    if len(pids) > ATTEST_PROCESSES_MAX:
        done.drift("processes", f"at most {ATTEST_PROCESSES_MAX}", str(len(pids)))
    for pid in pids[:ATTEST_PROCESSES_MAX]:
        privileges = procs.privileges(pid)
        mappings = procs.executable_mappings(pid)
        if privileges is None or mappings is None or procs.pid_namespace(pid) != baseline.namespace:
            continue  # it ended meanwhile; its number may be another's by now
        done.processes += 1
        if privileges.capabilities:
            done.drift(f"process {pid}", "no capabilities", f"{privileges.capabilities:x}")
        if privileges.seccomp != _SECCOMP_FILTER or not privileges.no_new_privileges:
            done.drift(f"process {pid}", "seccomp filter and no new privileges", "not so")
        for mapping in mappings:
            done.mappings += 1
            if mapping.name in _KERNEL_CODE and mapping.inode == 0:
                continue
            if pid == baseline.init_pid and mapping in baseline.init_mappings:
                continue  # bubblewrap itself, from the host
            if mapping.device != baseline.device or mapping.inode not in sealed:
                what = mapping.name or "anonymous memory"
                done.drift(f"process {pid}", "code of the sealed root only", f"executes {what}")
            elif mapping.changed:
                done.drift(f"process {pid}", f"the code of {mapping.name}", "changed in memory")
