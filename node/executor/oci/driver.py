"""The `oci` driver: container images, run by podman in a place where nothing but this container is. See
`drivers.base` for the seam, `oci.launcher` for the how.

The order of a start is the sandbox's: limits, launcher, sealed root, container set up and held back by its
OCI runtime; files are hashed as the workload will see them; the doors open; the record for recovery is
written; then podman starts it. No registry is asked for anything, and podman restarts nothing: a lease
decides that.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import trio

from ledger.limits import CONTAINER_MEMORY_BYTES_MIN
from node.executor import cgroups, integrity, limits, procs
from node.executor.drivers import bwrap, records, trial
from node.executor.drivers.base import Handle, Isolation, Prepared, Resources, TaskSpec
from node.executor.drivers.doors import open_outlet, open_portal
from node.executor.drivers.launcher import ROOT, SCRATCH
from node.executor.drivers.mounts import SECRETS, VOLUME
from node.executor.drivers.process import Helper, python_argv, start_helper
from node.executor.drivers.running import Running
from node.executor.drivers.sandbox import SandboxDriver
from node.executor.drivers.spec import check_spec
from node.executor.errors import ExecutorError, SpecRefused, StartFailed
from node.executor.oci import engine, profile
from node.executor.oci.running import RunningContainer
from node.executor.oci.sealing import SealedContainer, seal_container
from node.executor.seal import seal_bytes

_VOLUME_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_SHM_BYTES_MAX = 64 << 20
_PROCESSES_MAX = 65_536
_POLL_S = 0.002
_ALLOWED_MOUNTS = ("/proc", "/dev", "/sys", "/tmp", "/result", "/secrets", *engine.MADE)
_SCRATCH_MOUNTS = ("tmp", "result")


class OciDriver(SandboxDriver):
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

    async def check(self, handle: Handle, command: tuple[str, ...], timeout_s: float) -> int | None:
        """See `Driver.check`. Raises ExecutorError: nothing is sent into a container."""
        raise ExecutorError("commands that check a workload's health are not run in containers")

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
        if not isinstance(prepared, SealedContainer):
            raise TypeError(f"made by another driver: {type(prepared).__name__}")
        return prepared

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

    async def _start(self, host: trial.Host, task: Any, running: Running) -> None:
        spec = task.spec
        assert host.groups is not None, "no driver without control groups"
        slack = Resources(
            spec.resources.cpu_millis,
            spec.resources.memory_bytes,
            spec.resources.disk_bytes,
            spec.resources.pids + limits.ENGINE_PIDS,
        )
        running.group = host.groups.create(spec.task_id, slack)
        listeners = running.listen()
        try:
            running.launcher = await self._launch(host, task, running)
            said = await running.said("ready")
            init_pid = int(said["init"])
            running.init_fd = os.pidfd_open(init_pid)
            running.baseline = await trio.to_thread.run_sync(_take, init_pid, task, said["loop"])
            drifts = await trio.to_thread.run_sync(integrity.check_files, running.baseline)
            if drifts:
                raise StartFailed(f"{drifts[0].where}: {drifts[0].found}, not {drifts[0].expected}")
            pids = [running.launcher.pid, int(said["keeper"]), init_pid]
            if listeners:
                running.portal = await open_portal(init_pid, trial.launcher_uid(), listeners)
                pids.append(running.portal.pid)
            if spec.egress:
                running.outlet = await open_outlet(init_pid, trial.launcher_uid(), spec.egress)
                pids.append(running.outlet.pid)
            records.write(self._run_dir, spec.task_id, pids)
            running.launcher.tell(b"G")
            await trio.to_thread.run_sync(_until_executing, running.baseline)
            # Only now: until here the runtime's own threads were counted, too.
            running.group.limit_pids(spec.resources.pids)
        finally:
            for listener in listeners:
                listener.close()

    async def _launch(self, host: trial.Host, task: Any, running: Running) -> Helper:
        spec: TaskSpec = task.spec
        uid, gid = (int(part) for part in (spec.user or "0:0").split(":"))
        with contextlib.ExitStack() as stack:

            def keep(data: bytes, name: str) -> int:
                fd = seal_bytes(data, name)
                stack.callback(os.close, fd)
                return fd

            secrets = [(keep(value, "secret"), name) for name, value in spec.secrets.items()]
            volumes = [os.open(volume.source, _VOLUME_FLAGS) for volume in spec.volumes]
            for fd in volumes:
                stack.callback(os.close, fd)
            words = "".join(f"{name}={value}\n" for name, value in spec.env.items())
            given = {
                "profile_fd": keep(profile.profile(), "profile"),
                "environment_fd": keep(words.encode(errors="surrogateescape"), "environment"),
            }
            fds = [
                *task.root["sources"],
                *(fd for fd, _ in secrets),
                *volumes,
                *given.values(),
                running.log_fd,
            ]
            rlimits = bwrap.rlimits(
                spec.resources,
                memory_by_cgroup=True,
                volume_bytes=max((volume.size_bytes for volume in spec.volumes), default=0),
            )
            config = {
                "fds": fds,
                **given,
                "task_id": spec.task_id,
                "podman": self._tools[0],
                "runtime": self._tools[1],
                "rootfs": ROOT,
                "memory_group": str(running.group.paths["memory"]) if running.group else "",
                "cgroup": f"/{host.groups.name(spec.task_id)}" if host.groups is not None else "",
                "command": list(spec.command),
                "working_dir": spec.working_dir,
                "user": spec.user,
                "owner": engine.BASE_UID + uid,
                "group": engine.BASE_UID + gid,
                "memory_bytes": spec.resources.memory_bytes,
                "shm_bytes": min(_SHM_BYTES_MAX, spec.resources.memory_bytes // 2),
                "rlimits": {name.removeprefix("RLIMIT_").lower(): value for name, value in rlimits.items()}
                | {"nproc": _PROCESSES_MAX},
                "kill_at_ms": running.kill_at_ms,
                "root": dict(bwrap.root_sizes(task.size_bytes, task.inodes, spec.resources))
                | task.root
                | {"mkfs": host.mkfs},
                "mounts": _mounts(spec),
                "secrets": [{"fd": fd, "name": name} for fd, name in secrets],
                "volumes": volumes,
                "log_fd": running.log_fd,
                "log_bytes": spec.log_bytes_max,
                "log_rate_bytes_s": limits.LOG_RATE_BYTES_S,
                "start_timeout_s": limits.START_TIMEOUT_S,
            }
            config_fd = keep(json.dumps(config).encode(), "config")
            argv = python_argv("node.executor.oci.launcher", str(config_fd))
            return await start_helper(argv, [*fds, config_fd], running.errors_fd)


def _mounts(spec: TaskSpec) -> list[tuple[str, str, str]]:
    found = [(f"{SCRATCH}/{name}", f"/{name}", "rw") for name in _SCRATCH_MOUNTS]
    found += [(SECRETS, "/secrets", "ro")] if spec.secrets else []
    return [*found, *((f"{VOLUME}{n}", volume.path, "rw") for n, volume in enumerate(spec.volumes))]


def _take(init_pid: int, task: SealedContainer, loop: str | None) -> integrity.Baseline:
    """Record the held-back container. Its mounts are podman's, so they are looked at before."""
    spec = task.spec
    own = {volume.path for volume in spec.volumes}
    points = {_point(line) for line in procs.mounts(init_pid) or ()} - {"/"}
    for point in sorted(points):
        if point not in own and not any(point == a or point.startswith(a + "/") for a in _ALLOWED_MOUNTS):
            raise StartFailed(f"a mount that nobody asked for, at {point}")
    mounted = frozenset(points | {"/tmp", "/result", "/secrets"})
    files = {path: known for path, known in task.expected.items() if not _is_below(path, mounted)}
    return integrity.take(init_pid, files, mounted, loop)


def _is_below(path: str, mounted: frozenset[str]) -> bool:
    parts = path.split("/")
    return any("/".join(parts[:depth]) in mounted for depth in range(2, len(parts) + 1))


def _point(line: str) -> str:
    """The mount point of a line of mountinfo, proc(5), its octal escapes undone."""
    return line.split(" ")[4].encode().decode("unicode_escape").encode("latin-1").decode(errors="replace")


def _until_executing(baseline: integrity.Baseline) -> None:
    """Wait until process 1 runs code of the sealed root, its filter on, or has ended."""
    deadline_s = time.monotonic() + limits.START_TIMEOUT_S
    while not integrity.first_executes(baseline):
        if time.monotonic() > deadline_s:
            raise StartFailed("the command was let go, but does not execute")
        time.sleep(_POLL_S)
