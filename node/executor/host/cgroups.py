"""Control groups for tasks, version 2 or 1, whichever this host has and lets us write.

Groups stand at `gridpact/<scope>/<task>` from the top of each hierarchy, as container engines do it, and not
below the node's own group: a restarted node may live in another group, and must find what it left over.
`scope` tells the nodes of one host apart. Kernel documents: cgroup-v1/*.rst, cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from node.executor.drivers.base import Resources

PARENT = "gridpact"
LIMITS = ("memory", "pids", "cpu")
_V1_ONLY = ("freezer", "cpuacct")
"""Controllers that version 2 has no more: it freezes and counts CPU time in every group."""
_PERIOD_US = 100_000
_POLL_S = 0.005
_OWN_PIDS = 2
"""Bubblewrap's monitor and its process 1 are in the group too, and are not the workload's."""


@dataclass(frozen=True)
class TaskGroup:
    """The group of one task: a directory per controller (version 2: one directory under several names)."""

    version: int
    paths: Mapping[str, Path]

    def procs_files(self) -> tuple[Path, ...]:
        """Return the files into which a process writes 0 to join."""
        return tuple(sorted({path / "cgroup.procs" for path in self.paths.values()}))

    def pids(self) -> tuple[int, ...]:
        """Return the processes in the group now, and in groups that a container engine made below."""
        found: set[int] = set()
        for folder in self._folders():
            with contextlib.suppress(OSError):
                found |= {int(line) for line in (folder / "cgroup.procs").read_text().split()}
        return tuple(sorted(found))

    def freeze(self, frozen: bool) -> None:
        """Stop or resume every process at once, where a freezer is there. Does not wait."""
        with contextlib.suppress(OSError):
            if self.version == 2:
                _write(next(iter(self.paths.values())) / "cgroup.freeze", "1" if frozen else "0")
            elif "freezer" in self.paths:
                _write(self.paths["freezer"] / "freezer.state", "FROZEN" if frozen else "THAWED")

    def is_frozen(self) -> bool:
        """Return True when every process stands still; False also where there is no freezer."""
        if self.version == 2:
            return _number(next(iter(self.paths.values())) / "cgroup.events", "frozen") == 1
        with contextlib.suppress(OSError, KeyError):
            return (self.paths["freezer"] / "freezer.state").read_text().strip() == "FROZEN"
        return False

    def kill(self) -> None:
        """SIGKILL every process. Frozen first, so that none forks away; version 1 dies only when thawed."""
        self.freeze(True)
        if self.version == 2:
            with contextlib.suppress(OSError):
                _write(next(iter(self.paths.values())) / "cgroup.kill", "1")
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.freeze(False)

    def oom_kills(self) -> int:
        """Return how many processes the memory limit has killed."""
        if "memory" not in self.paths:
            return 0
        if self.version == 2:
            return _number(self.paths["memory"] / "memory.events", "oom_kill") or 0
        # Version 1 counts in the group of the process that was killed, and only there.
        folders = [path for path in self._folders() if path.is_relative_to(self.paths["memory"])]
        return sum(_number(folder / "memory.oom_control", "oom_kill") or 0 for folder in folders)

    def limit_pids(self, most: int) -> None:
        """Set another limit of processes, where there is one. Raises OSError."""
        if "pids" in self.paths:
            _write(self.paths["pids"] / "pids.max", str(most))

    def usage(self) -> tuple[int | None, int | None]:
        """Return CPU time in ms and the highest memory in bytes, None for what the kernel does not count.

        Memory is all that is charged to the group: also what stands in its scratch.
        """
        any_path = next(iter(self.paths.values()))
        if self.version == 2:
            cpu_us = _number(any_path / "cpu.stat", "usage_usec")
            return (None if cpu_us is None else cpu_us // 1000), _number(any_path / "memory.peak")
        cpu_ns = memory = None
        if "cpuacct" in self.paths:
            cpu_ns = _number(self.paths["cpuacct"] / "cpuacct.usage")
        if "memory" in self.paths:
            memory = _number(self.paths["memory"] / "memory.max_usage_in_bytes")
        return (None if cpu_ns is None else cpu_ns // 1_000_000), memory

    def remove(self) -> bool:
        """Remove the group; False while a process is still in it."""
        gone = True
        for path in reversed(self._folders()):
            try:
                path.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                gone = False
        return gone

    def _folders(self) -> list[Path]:
        """Return the group's directories and all below, each after the one that it is in."""
        found: list[Path] = []
        for path in sorted(set(self.paths.values())):
            found += [Path(folder) for folder, _, _ in os.walk(path)] or [path]
        return found


@dataclass(frozen=True)
class Cgroups:
    """The hierarchies in which this node may make groups. `mounts` maps controllers to mount points."""

    version: int
    mounts: Mapping[str, Path]
    scope: str

    def name(self, task_id: str) -> str:
        """Return the path of the task's group from the top of each hierarchy, without a slash before it."""
        return f"{PARENT}/{self.scope}/{task_id}"

    def create(self, task_id: str, resources: Resources) -> TaskGroup:
        """Make the task's group and set its limits. Raises OSError, with nothing left over.

        A group of that name that is there already is left as it is: FileExistsError.
        """
        group = self._group(task_id)
        made: list[Path] = []
        try:
            if self.version == 2:
                self._enable()
            for path in sorted(set(group.paths.values())):
                path.mkdir(parents=True)
                made.append(path)
            self._limit(group, resources)
        except OSError:
            for path in made:
                with contextlib.suppress(OSError):
                    path.rmdir()
            raise
        return group

    def leftovers(self) -> dict[str, TaskGroup]:
        """Return the groups in this scope, by task id."""
        names: set[str] = set()
        for mount in set(self.mounts.values()):
            with contextlib.suppress(OSError):
                names |= {entry.name for entry in (mount / PARENT / self.scope).iterdir() if entry.is_dir()}
        return {name: self._group(name) for name in sorted(names)}

    def remove_scope(self) -> None:
        """Remove the scope's directories where nothing is in them.

        The shared one above stays: another node may be about to make its own in it.
        """
        for mount in set(self.mounts.values()):
            with contextlib.suppress(OSError):
                (mount / PARENT / self.scope).rmdir()

    def sweep(self, task_id: str) -> None:
        """Remove what a container engine left of a task that is over in hierarchies that are not ours: it
        makes its groups in all of them, and takes away only the lowest. What is in use stays."""
        for mount in _all_mounts():
            top = mount / PARENT / self.scope
            for folder, _, _ in os.walk(top / task_id, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
            with contextlib.suppress(OSError):
                top.rmdir()

    def _group(self, task_id: str) -> TaskGroup:
        paths = {name: mount / PARENT / self.scope / task_id for name, mount in self.mounts.items()}
        return TaskGroup(self.version, paths)

    def _enable(self) -> None:
        mount = next(iter(self.mounts.values()))
        for above in (mount, mount / PARENT, mount / PARENT / self.scope):
            above.mkdir(exist_ok=True)
            wanted = " ".join(f"+{name}" for name in LIMITS if name in self.mounts)
            _write(above / "cgroup.subtree_control", wanted)

    def _limit(self, group: TaskGroup, resources: Resources) -> None:
        quota_us = resources.cpu_millis * _PERIOD_US // 1000
        pids = str(resources.pids + _OWN_PIDS)
        memory = str(resources.memory_bytes)
        if self.version == 2:
            names = {"memory": {"memory.max": memory}, "pids": {"pids.max": pids}}
            names["cpu"] = {"cpu.max": f"{quota_us} {_PERIOD_US}"}
            swap = {"memory": {"memory.swap.max": "0"}}
        else:
            names = {"memory": {"memory.limit_in_bytes": memory}, "pids": {"pids.max": pids}}
            names["cpu"] = {"cpu.cfs_period_us": str(_PERIOD_US), "cpu.cfs_quota_us": str(quota_us)}
            swap = {"memory": {"memory.memsw.limit_in_bytes": memory}}
        for controller, values in names.items():
            for name, value in values.items() if controller in group.paths else ():
                _write(group.paths[controller] / name, value)
        for name, value in swap["memory"].items() if "memory" in group.paths else ():
            # A kernel without swap accounting has no such file, and then needs no such limit of us.
            with contextlib.suppress(FileNotFoundError):
                _write(group.paths["memory"] / name, value)


def detect(scope: str, mounts_text: str | None = None) -> tuple[Cgroups | None, dict[str, str]]:
    """Find the hierarchies and try each by making and removing a group in it.

    Returns the groups to use (None when no limit can be set), and for each of memory, pids, cpu and freezer
    (in version 1 also cpuacct, which only counts) how it is done or, after "no: ", why not.
    `mounts_text` stands for /proc/self/mounts in tests.
    """
    text = Path("/proc/self/mounts").read_text() if mounts_text is None else mounts_text
    unified, legacy = _mounts(text)
    found: dict[str, str] = {}
    usable: dict[str, Path] = {}
    version = 2 if unified is not None and _v2_controllers(unified) else 1
    candidates = legacy
    if version == 2 and unified is not None:
        candidates = dict.fromkeys(_v2_controllers(unified), unified)
    for name in LIMITS if version == 2 else (*LIMITS, *_V1_ONLY):
        if name not in candidates:
            found[name] = "no: this host has no such controller"
            continue
        reason = _try(Cgroups(version, {name: candidates[name]}, scope))
        if reason is None:
            usable[name] = candidates[name]
        found[name] = f"cgroup v{version}" if reason is None else f"no: {reason}"
    if version == 2:
        found["freezer"] = "cgroup v2" if usable else "no: no group can be made"
    return (Cgroups(version, usable, scope) if usable else None), found


def remove_within(group: TaskGroup, within_s: float) -> bool:
    """Kill and remove the group; return True when it is gone within the time. Blocks."""
    deadline = time.monotonic() + within_s
    while not group.remove():
        if time.monotonic() > deadline:
            return False
        group.kill()
        time.sleep(_POLL_S)
    return True


def procs_files_of(pid: int) -> tuple[Path, ...]:
    """Return the files into which a process writes 0 to join the groups in which `pid` is, of all hierarchies
    that are mounted here. Raises OSError: it has ended."""
    return _files_of(Path("/proc/self/mounts").read_text(), Path(f"/proc/{pid}/cgroup").read_text())


def _files_of(mounts: str, groups: str) -> tuple[Path, ...]:
    tops: dict[str, Path] = {}
    for line in mounts.splitlines():
        _, target, kind, options, *_ = line.split(" ")
        if kind in ("cgroup", "cgroup2"):
            names = options.split(",") if kind == "cgroup" else [""]
            tops |= {name: Path(target) for name in names if name not in tops}
    # cgroups(7): "5:cpuacct,cpu:/group", and of version 2 "0::/group"
    mine = (line.split(":", 2) for line in groups.splitlines())
    found = ((tops.get(names.split(",")[0]), group) for _, names, group in mine)
    return tuple(top / group.lstrip("/") / "cgroup.procs" for top, group in found if top is not None)


def _all_mounts() -> list[Path]:
    lines = (line.split(" ") for line in Path("/proc/self/mounts").read_text().splitlines())
    return [Path(target) for _, target, kind, *_ in lines if kind in ("cgroup", "cgroup2")]


def _mounts(text: str) -> tuple[Path | None, dict[str, Path]]:
    unified: Path | None = None
    legacy: dict[str, Path] = {}
    for line in text.splitlines():
        _, target, kind, options, *_ = line.split(" ")
        if kind == "cgroup2":
            unified = unified or Path(target)
        elif kind == "cgroup":
            for name in {*LIMITS, *_V1_ONLY} & set(options.split(",")):
                legacy.setdefault(name, Path(target))
    return unified, legacy


def _v2_controllers(mount: Path) -> tuple[str, ...]:
    with contextlib.suppress(OSError):
        have = (mount / "cgroup.controllers").read_text().split()
        return tuple(name for name in LIMITS if name in have)
    return ()


def _try(cgroups: Cgroups) -> str | None:
    """Return None when a limited group can be made here, or the reason why not."""
    trial = Resources(cpu_millis=100, memory_bytes=64 << 20, disk_bytes=1 << 20, pids=16)
    # Named by pid: two nodes of one host may try at the same time.
    name = f"trial-{os.getpid()}-{time.monotonic_ns()}"
    try:
        group = cgroups.create(name, trial)
    except OSError as error:
        return f"{error.strerror} ({error.filename})"
    group.remove()
    return None


def _number(path: Path, name: str = "") -> int | None:
    """Return the number in a file, or that after `name` in one of its lines; None when it is not there."""
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            key, _, value = line.rpartition(" ")
            if key == name:
                return int(value)
    return None


def _write(path: Path, text: str) -> None:
    # Not Path.write_text: it would create a plain file where the kernel has none.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
