"""The `oci` driver: container images, run by podman in a place where nothing but this container is. See
`drivers.base` for the seam, `oci.launcher` for the how.

The order of a start is that of every task (`drivers.start`): the container is set up and held back by its OCI
runtime until its files were hashed as it will see them. No registry is asked for anything, and podman
restarts nothing: a lease decides that.
"""

from __future__ import annotations

import threading
from pathlib import Path

import trio

from ledger.limits import CONTAINER_MEMORY_BYTES_MIN
from node.executor import integrity, limits
from node.executor.drivers import trial
from node.executor.drivers.artifacts import SealedTask
from node.executor.drivers.base import Isolation, Prepared, Resources, TaskSpec
from node.executor.drivers.launched import LaunchedDriver, own
from node.executor.drivers.mounts import SECRETS, VOLUME
from node.executor.drivers.running import Running
from node.executor.drivers.spec import check_spec
from node.executor.drivers.stage import ROOT, SCRATCH
from node.executor.drivers.start import Asked, Keep, Way, rlimits
from node.executor.errors import SpecRefused, StartFailed
from node.executor.host import cgroups, procs
from node.executor.oci import engine, profile
from node.executor.oci.running import RunningContainer
from node.executor.oci.sealing import SealedContainer, seal_container

_SHM_BYTES_MAX = 64 << 20
_PROCESSES_MAX = 65_536
_ALLOWED_MOUNTS = ("/proc", "/dev", "/sys", "/tmp", "/result", "/secrets", *engine.MADE)
_SCRATCH_MOUNTS = ("tmp", "result")


class OciDriver(LaunchedDriver):
    """Runs containers by podman. `run_dir` holds its records; one node at a time may use it."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir)
        self._tools = ("", "")
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """`oci`."""
        return "oci"

    @property
    def isolation(self) -> Isolation:
        """The container level."""
        return Isolation.CONTAINER

    @property
    def way(self) -> Way:
        """See `LaunchedDriver.way`."""
        return _Podman(*self._tools)

    async def prepare(self, spec: TaskSpec) -> SealedContainer:
        """See `Driver.prepare`."""
        check_spec(spec)
        if spec.resources.memory_bytes < CONTAINER_MEMORY_BYTES_MIN:
            rule = f"at least {CONTAINER_MEMORY_BYTES_MIN} for a container"
            raise SpecRefused("resources.memory_bytes", rule)
        for path in (volume.path for volume in spec.volumes):
            if "," in path or '"' in path:
                raise SpecRefused("volumes", f"{path}: no comma or quote in a container's path")
        for path in (*(file.path for file in spec.files), *(tree.path for tree in spec.trees)):
            if path in engine.MADE:
                raise SpecRefused("files", f"{path} is made by the container's engine")
        if any("\n" in value for value in spec.env.values()):
            raise SpecRefused("env", "no line's end in a container's environment")
        return await trio.to_thread.run_sync(seal_container, spec)

    def _examined(self) -> trial.Host:
        from node.executor.oci.trial import examine  # it makes a driver of this kind

        with self._lock:
            if self._host is None:
                self._host, self._tools = examine(self._scope)
        return self._host

    def trust(self, host: trial.Host, tools: tuple[str, str]) -> None:
        """Take this for what the host offers: for the trial, which finds it out by a start."""
        self._host, self._tools = host, tools

    def _made(self, spec: TaskSpec, kill_at_ms: int | None) -> Running:
        return RunningContainer(spec, kill_at_ms)

    def _taken(self, prepared: Prepared) -> SealedContainer:
        return own(prepared, SealedContainer)

    async def _take_down(self, running: Running) -> None:
        try:
            await super()._take_down(running)
        finally:
            groups = self._host.groups if self._host is not None else None
            if groups is not None and running.task_id not in self._running:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(groups.sweep, running.task_id)

    def _recover(self, groups: cgroups.Cgroups | None) -> list[str]:
        found = super()._recover(groups)
        if groups is not None:
            for task_id in found:
                groups.sweep(task_id)
        return found


class _Podman:
    """The `Way` of containers."""

    launcher = "node.executor.oci.launcher"

    def __init__(self, podman: str, runtime: str) -> None:
        self._podman = podman
        self._runtime = runtime

    def room(self, asked: Resources) -> Resources:
        """See `Way.room`: the runtime's own threads are counted, too."""
        pids = asked.pids + limits.ENGINE_PIDS
        return Resources(asked.cpu_millis, asked.memory_bytes, asked.disk_bytes, pids)

    def ask(self, host: trial.Host, task: SealedTask, running: Running, keep: Keep) -> Asked:
        """See `Way.ask`."""
        spec, group = task.spec, running.group
        assert isinstance(task, SealedContainer)
        assert host.groups is not None, "no driver without control groups"
        assert group is not None
        uid, gid = (int(part) for part in (spec.user or "0:0").split(":"))
        text = "".join(f"{name}={value}\n" for name, value in spec.env.items())
        given = {
            "profile_fd": keep(profile.profile(), "profile"),
            "environment_fd": keep(text.encode(errors="surrogateescape"), "environment"),
        }
        bounds = rlimits(task, running) | {"RLIMIT_NPROC": _PROCESSES_MAX}
        running.confinement = {
            "uid": uid,
            "gid": gid,
            "groups": [gid],  # as podman has it
            "folder": spec.working_dir,
            "rules": None,
            "rlimits": bounds,
        }
        words = given | {
            "task_id": spec.task_id,
            "podman": self._podman,
            "runtime": self._runtime,
            "rootfs": ROOT,
            "memory_group": str(group.paths["memory"]),
            "cgroup": f"/{host.groups.name(spec.task_id)}",
            "working_dir": spec.working_dir,
            "user": spec.user,
            "owner": engine.BASE_UID + uid,
            "group": engine.BASE_UID + gid,
            "memory_bytes": spec.resources.memory_bytes,
            "shm_bytes": min(_SHM_BYTES_MAX, spec.resources.memory_bytes // 2),
            "rlimits": bounds,
            "mounts": _mounts(spec),
        }
        return Asked(words, task.root, [*task.root["sources"], *given.values()])

    def record(self, init_pid: int, task: SealedTask, loop: str | None) -> integrity.Baseline:
        """See `Way.record`. The mounts are podman's, so they are looked at before."""
        own_mounts = {volume.path for volume in task.spec.volumes}
        points = {_point(line) for line in procs.mounts(init_pid) or ()} - {"/"}
        for point in sorted(points - own_mounts):
            if not any(point == a or point.startswith(a + "/") for a in _ALLOWED_MOUNTS):
                raise StartFailed(f"a mount that nobody asked for, at {point}")
        mounted = frozenset(points | {"/tmp", "/result", "/secrets"})
        files = {path: known for path, known in task.expected.items() if not _is_below(path, mounted)}
        return integrity.take(init_pid, files, mounted, loop)

    def executes(self, baseline: integrity.Baseline) -> bool:
        """See `Way.executes`. Process 1 is the task's own."""
        return integrity.first_executes(baseline)

    def executing(self, running: Running) -> None:
        """See `Way.executing`."""
        assert running.group is not None, "no driver without control groups"
        # Only now: until here the runtime's own threads were counted, too.
        running.group.limit_pids(running.spec.resources.pids)


def _mounts(spec: TaskSpec) -> list[tuple[str, str, str]]:
    found = [(f"{SCRATCH}/{name}", f"/{name}", "rw") for name in _SCRATCH_MOUNTS]
    found += [(SECRETS, "/secrets", "ro")] if spec.secrets else []
    return [*found, *((f"{VOLUME}{n}", volume.path, "rw") for n, volume in enumerate(spec.volumes))]


def _is_below(path: str, mounted: frozenset[str]) -> bool:
    parts = path.split("/")
    return any("/".join(parts[:depth]) in mounted for depth in range(2, len(parts) + 1))


def _point(line: str) -> str:
    """The mount point of a line of mountinfo, proc(5), its octal escapes undone."""
    return line.split(" ")[4].encode().decode("unicode_escape").encode("latin-1").decode(errors="replace")
