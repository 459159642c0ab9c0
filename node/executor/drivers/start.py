"""The order of a start, the same for every kind of task that a launcher runs.

So that no byte of the workload runs before all of it holds: groups with limits; launcher, sealed root,
namespaces, and process 1 held back in them; files are hashed as the workload will see them; the doors open;
the record for recovery is written; then the workload is let go, and it has started when it executes. What
differs from kind to kind is a `Way`.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import trio

from node.executor import integrity, limits
from node.executor.drivers import bwrap, records, trial
from node.executor.drivers.artifacts import SealedTask
from node.executor.drivers.base import Resources
from node.executor.drivers.doors import open_outlet, open_portal
from node.executor.drivers.process import Helper, python_argv, start_helper
from node.executor.drivers.running import Running
from node.executor.errors import StartFailed
from node.executor.host.seal import seal_bytes

_POLL_S = 0.002
_VOLUME_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC

Keep = Callable[[bytes, str], int]
"""Seals bytes under a name; returns a descriptor of them, which is closed when the launcher has its own."""


@dataclass(frozen=True)
class Asked:
    """What one kind of task asks of its launcher: `words` of the configuration, those of its `root`, the
    descriptors `fds` that they name, and how many `inodes` the root has beside those of the artifacts."""

    words: dict[str, Any]
    root: dict[str, Any]
    fds: list[int]
    inodes: int = field(default=0)


class Way(Protocol):
    """What differs between kinds of tasks on the way to their start."""

    @property
    def launcher(self) -> str:
        """The launcher's module."""
        ...

    def room(self, asked: Resources) -> Resources:
        """What the group of a task has until it executes."""
        ...

    def ask(self, host: trial.Host, task: SealedTask, running: Running, keep: Keep) -> Asked:
        """What the launcher is told beside what all are. Sets what checks take upon themselves, too."""
        ...

    def record(self, init_pid: int, task: SealedTask, loop: str | None) -> integrity.Baseline:
        """Record the held-back task. Raises StartFailed."""
        ...

    def executes(self, baseline: integrity.Baseline) -> bool:
        """Whether the task, let go, executes its own code, or has ended."""
        ...

    def executing(self, running: Running) -> None:
        """What is due once it executes. Raises OSError."""
        ...


async def start_task(way: Way, host: trial.Host, task: SealedTask, running: Running, run_dir: Path) -> None:
    """Start `task` as `running`. Raises StartFailed or OSError, and leaves taking down to the caller."""
    spec = task.spec
    if host.groups is not None:
        running.group = host.groups.create(spec.task_id, way.room(spec.resources))
    listeners = running.listen()
    try:
        running.launcher = await _launch(way, host, task, running)
        said = await running.said("ready")
        init_pid = int(said["init"])
        running.init_fd = os.pidfd_open(init_pid)
        running.baseline = await trio.to_thread.run_sync(way.record, init_pid, task, said["loop"])
        drifts = await trio.to_thread.run_sync(integrity.check_files, running.baseline)
        if drifts:
            raise StartFailed(f"{drifts[0].where}: {drifts[0].found}, not {drifts[0].expected}")
        pids = [running.launcher.pid, int(said["helper"]), init_pid]
        if listeners:
            running.portal = await open_portal(init_pid, trial.launcher_uid(), listeners)
            pids.append(running.portal.pid)
        if spec.egress:
            running.outlet = await open_outlet(init_pid, trial.launcher_uid(), spec.egress)
            pids.append(running.outlet.pid)
        records.write(run_dir, spec.task_id, pids)
        running.launcher.tell(b"G")
        await trio.to_thread.run_sync(_until_executing, way, running.baseline)
        way.executing(running)
    finally:
        for listener in listeners:
            listener.close()


async def _launch(way: Way, host: trial.Host, task: SealedTask, running: Running) -> Helper:
    spec = task.spec
    with contextlib.ExitStack() as stack:

        def keep(data: bytes, name: str) -> int:
            fd = seal_bytes(data, name)
            stack.callback(os.close, fd)
            return fd

        secrets = [(keep(value, "secret"), name) for name, value in spec.secrets.items()]
        volumes = [os.open(volume.source, _VOLUME_FLAGS) for volume in spec.volumes]
        for fd in volumes:
            stack.callback(os.close, fd)
        asked = way.ask(host, task, running, keep)
        sizes = bwrap.root_sizes(task.size_bytes, task.inodes + asked.inodes, spec.resources)
        fds = [*asked.fds, *(fd for fd, _ in secrets), *volumes, running.log_fd]
        config = asked.words | {
            "fds": fds,
            "command": list(spec.command),
            "kill_at_ms": running.kill_at_ms,
            "root": dict(sizes) | asked.root | {"mkfs": host.mkfs},
            "secrets": [{"fd": fd, "name": name} for fd, name in secrets],
            "volumes": volumes,
            "log_fd": running.log_fd,
            "log_bytes": spec.log_bytes_max,
            "log_rate_bytes_s": limits.LOG_RATE_BYTES_S,
            "start_timeout_s": limits.START_TIMEOUT_S,
        }
        config_fd = keep(json.dumps(config).encode(), "config")
        argv = python_argv(way.launcher, str(config_fd))
        return await start_helper(argv, [*fds, config_fd], running.errors_fd)


def rlimits(task: SealedTask, running: Running) -> dict[str, int]:
    """Return the resource limits of a task's processes, by their names in `resource`."""
    return bwrap.rlimits(
        task.spec.resources,
        memory_by_cgroup=running.group is not None and "memory" in running.group.paths,
        volume_bytes=max((volume.size_bytes for volume in task.spec.volumes), default=0),
    )


def _until_executing(way: Way, baseline: integrity.Baseline) -> None:
    deadline_s = time.monotonic() + limits.START_TIMEOUT_S
    while not way.executes(baseline):
        if time.monotonic() > deadline_s:
            raise StartFailed("the command was let go, but does not execute")
        time.sleep(_POLL_S)
