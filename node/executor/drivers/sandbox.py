"""The `sandbox` driver: bubblewrap around verified bytes. See `base` for the seam, `launcher` for the how."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import trio

from node.executor import integrity
from node.executor.drivers import bwrap, seccomp, trial
from node.executor.drivers.artifacts import SealedTask, seal_task
from node.executor.drivers.base import Isolation, Prepared, Resources, TaskSpec
from node.executor.drivers.launched import LaunchedDriver, own
from node.executor.drivers.running import Running
from node.executor.drivers.spec import check_spec
from node.executor.drivers.start import Asked, Keep, Way, rlimits


class SandboxDriver(LaunchedDriver):
    """Runs tasks in bubblewrap. `run_dir` holds its records; one node at a time may use it."""

    @property
    def name(self) -> str:
        """`sandbox`."""
        return "sandbox"

    @property
    def isolation(self) -> Isolation:
        """The sandbox level."""
        return Isolation.SANDBOX

    @property
    def way(self) -> Way:
        """See `LaunchedDriver.way`."""
        return _Bubblewrap()

    async def prepare(self, spec: TaskSpec) -> SealedTask:
        """See `Driver.prepare`."""
        check_spec(spec)
        return await trio.to_thread.run_sync(seal_task, spec)

    def _taken(self, prepared: Prepared) -> SealedTask:
        return own(prepared, SealedTask)

    def _made(self, spec: TaskSpec, kill_at_ms: int | None) -> Running:
        return Running(spec, kill_at_ms)

    def _examined(self) -> trial.Host:
        if self._host is None:
            self._host = trial.examine(self.name, self._scope)
        return self._host


class _Bubblewrap:
    """The `Way` of the sandbox."""

    launcher = "node.executor.drivers.launcher"

    def room(self, asked: Resources) -> Resources:
        """See `Way.room`."""
        return asked

    def ask(self, host: trial.Host, task: SealedTask, running: Running, keep: Keep) -> Asked:
        """See `Way.ask`."""
        spec = task.spec
        rules = bwrap.task_rules(spec) if host.landlock else None
        programs = [keep(program, "seccomp") for program in seccomp.filters()]
        options = [*bwrap.isolation_options(tuple(programs), spec.env), *bwrap.task_mounts(spec)]
        inside = [*programs, keep(bwrap.encode(options), "options")]
        points = sorted(bwrap.mounted(spec) - bwrap.MOUNTED)
        limits = rlimits(task, running)
        controllers: Mapping[str, Path] = running.group.paths if running.group else {}
        files = running.group.procs_files() if running.group else ()
        groups = [str(path) for path in files]
        # One more than the workload may have: process 1 is bubblewrap's own.
        nproc = None if "pids" in controllers else spec.resources.pids + 1
        running.confinement = {
            "uid": bwrap.INSIDE_UID,
            "gid": bwrap.INSIDE_UID,
            "groups": [],
            "folder": "/",
            "rules": rules,
            "rlimits": limits | ({} if nproc is None else {"RLIMIT_NPROC": nproc}),
        }
        words = {
            "bwrap_fds": inside,
            "argv": [bwrap.find(), "--args", str(inside[-1]), "--"],
            "rules": rules,
            "cgroup_procs": groups,
            "rlimits": limits,
            "nproc": nproc,
            "uid": trial.launcher_uid(),
        }
        artifacts = [sealed.fd for sealed in (*task.files, *task.trees)]
        return Asked(
            words,
            {"points": points} | task.words(),
            [*inside, *artifacts],
            sum(path.count("/") for path in points),
        )

    def record(self, init_pid: int, task: SealedTask, loop: str | None) -> integrity.Baseline:
        """See `Way.record`."""
        return integrity.take(init_pid, task.expected, bwrap.mounted(task.spec), loop)

    def executes(self, baseline: integrity.Baseline) -> bool:
        """See `Way.executes`."""
        return integrity.executes(baseline)

    def executing(self, running: Running) -> None:
        """See `Way.executing`: nothing more."""
