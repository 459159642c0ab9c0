"""The `sandbox` driver: bubblewrap around verified bytes. See `base` for the seam and `launcher` for the how.

Order of a start, so that no byte of the workload runs before all of it holds: groups with limits, launcher,
sealed root, namespaces; process 1 is held back; files are hashed as the workload will see them; the portal
joins; the record for recovery is written; then the workload is let go.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import trio

from node.executor import cgroups, integrity, limits, procs
from node.executor.drivers import bwrap, launcher, records, seccomp, trial
from node.executor.drivers.artifacts import SealedTask, seal_task
from node.executor.drivers.base import (
    Attestation,
    Exit,
    Fingerprint,
    Handle,
    Isolation,
    Liveness,
    Prepared,
    ResultFile,
    TaskSpec,
    Usage,
)
from node.executor.drivers.checks import run_check
from node.executor.drivers.doors import open_outlet, open_portal
from node.executor.drivers.process import Helper, python_argv, start_helper
from node.executor.drivers.results import collect_results
from node.executor.drivers.running import Running
from node.executor.drivers.spec import check_spec
from node.executor.drivers.still import copy_still
from node.executor.errors import DriverUnavailable, ExecutorError, StartFailed
from node.executor.seal import seal_bytes

_POLL_S = 0.002
_VOLUME_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class SandboxDriver:
    """Runs tasks in bubblewrap. `run_dir` holds its records; one node at a time may use it."""

    def __init__(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._run_dir = run_dir.resolve()
        self._scope = hashlib.sha256(str(self._run_dir).encode()).hexdigest()[:16]
        self._host: trial.Host | None = None
        self._running: dict[str, Running] = {}

    @property
    def name(self) -> str:
        """`sandbox`."""
        return "sandbox"

    @property
    def isolation(self) -> Isolation:
        """The sandbox level."""
        return Isolation.SANDBOX

    def fingerprint(self) -> Fingerprint:
        """See `Driver.fingerprint`."""
        return self._examined().fingerprint

    async def prepare(self, spec: TaskSpec) -> SealedTask:
        """See `Driver.prepare`."""
        check_spec(spec)
        return await trio.to_thread.run_sync(seal_task, spec)

    async def start(self, prepared: Prepared, kill_at_ms: int | None = None) -> Running:
        """See `Driver.start`. Takes over `prepared`: its sealed bytes are given up in any case."""
        task = self._taken(prepared)
        host = await self.examined()
        spec = task.spec
        try:
            if not host.fingerprint.usable:
                raise DriverUnavailable(host.fingerprint.reason)
            if task.started:
                raise StartFailed("these prepared bytes were started before")
            if spec.task_id in self._running or records.exists(self._run_dir, spec.task_id):
                raise StartFailed(f"task {spec.task_id} is there already; a leftover needs recover first")
            task.started = True
            running = self._made(spec, kill_at_ms)
            self._running[spec.task_id] = running
            try:
                with trio.fail_after(limits.START_TIMEOUT_S):
                    await self._start(host, task, running)
            except BaseException as error:
                await self._take_down(running)
                if isinstance(error, (OSError, trio.TooSlowError)):
                    text = str(error) or f"not started within {limits.START_TIMEOUT_S:g} s"
                    raise StartFailed(f"task {spec.task_id}: {text}") from error
                raise
        finally:
            task.close()
        return running

    def keep(self, handle: Handle, kill_at_ms: int) -> None:
        """See `Driver.keep`."""
        running = _own(handle, Running)
        if running.launcher is not None and running.stopped is None:
            with contextlib.suppress(OSError):  # it has ended, or hangs, and then kills at the old time
                running.launcher.tell(b"D" + kill_at_ms.to_bytes(8, "little"))

    async def wait(self, handle: Handle) -> Exit:
        """See `Driver.wait`."""
        return await _own(handle, Running).wait()

    async def probe(self, handle: Handle) -> Liveness:
        """See `Driver.probe`."""
        running = _own(handle, Running)
        return await trio.to_thread.run_sync(running.look)

    def logs(self, handle: Handle, last_bytes: int) -> bytes:
        """See `Driver.logs`."""
        return _own(handle, Running).logs(last_bytes)

    async def usage(self, handle: Handle) -> Usage:
        """See `Driver.usage`."""
        running = _own(handle, Running)
        if running.stopped is None:
            await trio.to_thread.run_sync(running.measure)
        return running.used

    async def collect(self, handle: Handle) -> tuple[ResultFile, ...]:
        """See `Driver.collect`."""
        running = _own(handle, Running)
        if running.stopped is not None or running.launcher is None:
            raise ExecutorError(f"task {running.task_id} was stopped; its results are gone")
        return await trio.to_thread.run_sync(collect_results, running.launcher.pid, running.spec.results)

    async def copy_volumes(self, handle: Handle, into: Mapping[str, Path]) -> float:
        """See `Driver.copy_volumes`."""
        running = _own(handle, Running)
        baseline = running.baseline
        if baseline is None or running.exit is not None:
            raise ExecutorError(f"task {running.task_id} is not running")
        volumes = running.spec.volumes
        return await trio.to_thread.run_sync(copy_still, running.group, baseline.init_pid, volumes, into)

    async def stop(self, handle: Handle, grace_s: float) -> Exit:
        """See `Driver.stop`."""
        running = _own(handle, Running)
        async with running.stopping:
            if running.stopped is None:
                try:
                    if running.exit is None:
                        running.signal_all()
                        with trio.move_on_after(grace_s):
                            await running.wait()
                finally:
                    # A cancelled stop gives up its grace, not the stop.
                    await self._take_down(running)
        assert running.stopped is not None
        return running.stopped

    async def recover(self) -> list[str]:
        """See `Driver.recover`."""
        host = await self.examined()
        return await trio.to_thread.run_sync(self._recover, host.groups)

    async def attest(self, handle: Handle) -> Attestation:
        """See `Driver.attest`."""
        running = _own(handle, Running)
        if running.baseline is None:
            raise ExecutorError(f"task {running.task_id} is not running")
        async with running.entering:
            return await trio.to_thread.run_sync(integrity.check, running.baseline)

    async def check(self, handle: Handle, command: tuple[str, ...], timeout_s: float) -> int | None:
        """See `Driver.check`."""
        return await run_check(_own(handle, Running), command, timeout_s)

    async def attest_ended(self, handle: Handle) -> Attestation:
        """See `Driver.attest_ended`. Reads through the launcher, which outlives the workload."""
        running = _own(handle, Running)
        if running.baseline is None or running.launcher is None or running.exit is None:
            raise ExecutorError(f"task {running.task_id} has not ended by itself")
        root = f"/proc/{running.launcher.pid}/root{launcher.ROOT}"
        found = await trio.to_thread.run_sync(integrity.check_ended, running.baseline, root)
        if not found.ok and procs.is_ending(running.launcher.pid):
            # The mounts went with it: that is no drift.
            raise ExecutorError(f"task {running.task_id}: its launcher has ended, and the bytes with it")
        return found

    async def examined(self) -> trial.Host:
        """Return what this host offers; tries it the first time."""
        return await trio.to_thread.run_sync(self._examined)

    def _taken(self, prepared: Prepared) -> SealedTask:
        return _own(prepared, SealedTask)

    def _made(self, spec: TaskSpec, kill_at_ms: int | None) -> Running:
        return Running(spec, kill_at_ms)

    def _examined(self) -> trial.Host:
        if self._host is None:
            self._host = trial.examine(self.name, self._scope)
        return self._host

    async def _start(self, host: trial.Host, task: SealedTask, running: Running) -> None:
        spec = task.spec
        if host.groups is not None:
            running.group = host.groups.create(spec.task_id, spec.resources)
        listeners = running.listen()
        try:
            running.launcher = await self._launch(host, task, running)
            said = await running.said("ready")
            init_pid = int(said["init"])
            running.init_fd = os.pidfd_open(init_pid)
            running.baseline = await trio.to_thread.run_sync(
                integrity.take, init_pid, task.expected, bwrap.mounted(spec), said["loop"]
            )
            drifts = await trio.to_thread.run_sync(integrity.check_files, running.baseline)
            if drifts:
                raise StartFailed(f"{drifts[0].where}: {drifts[0].found}, not {drifts[0].expected}")
            pids = [running.launcher.pid, int(said["bwrap"]), init_pid]
            if listeners:
                running.portal = await open_portal(init_pid, trial.launcher_uid(), listeners)
                pids.append(running.portal.pid)
            if spec.egress:
                running.outlet = await open_outlet(init_pid, trial.launcher_uid(), spec.egress)
                pids.append(running.outlet.pid)
            records.write(self._run_dir, spec.task_id, pids)
            running.launcher.tell(b"G")
            await trio.to_thread.run_sync(_until_executing, running.baseline)
        finally:
            for listener in listeners:
                listener.close()

    async def _launch(self, host: trial.Host, task: SealedTask, running: Running) -> Helper:
        spec = task.spec
        rules = bwrap.task_rules(spec) if host.landlock else None
        with contextlib.ExitStack() as stack:

            def keep(data: bytes, name: str) -> int:
                fd = seal_bytes(data, name)
                stack.callback(os.close, fd)
                return fd

            programs = [keep(program, "seccomp") for program in seccomp.filters()]
            options = [*bwrap.isolation_options(tuple(programs), spec.env), *bwrap.task_mounts(spec)]
            inside = [*programs, keep(bwrap.encode(options), "options")]
            points = sorted(bwrap.mounted(spec) - bwrap.MOUNTED)
            inodes = task.inodes + sum(path.count("/") for path in points)
            root: dict[str, Any] = dict(bwrap.root_sizes(task.size_bytes, inodes, spec.resources))
            root["points"] = points
            root["mkfs"] = host.mkfs
            root["files"] = [
                {"fd": sealed.fd, "path": file.path, "mode": file.mode}
                for sealed, file in zip(task.files, spec.files, strict=True)
            ]
            root["trees"] = [
                {"fd": sealed.fd, "path": tree.path}
                for sealed, tree in zip(task.trees, spec.trees, strict=True)
            ]
            secrets = [(keep(value, "secret"), name) for name, value in spec.secrets.items()]
            artifacts = [sealed.fd for sealed in (*task.files, *task.trees)]
            volumes = [os.open(volume.source, _VOLUME_FLAGS) for volume in spec.volumes]
            for fd in volumes:
                stack.callback(os.close, fd)
            bounds = self._limits(running)
            nproc = {} if bounds["nproc"] is None else {"RLIMIT_NPROC": bounds["nproc"]}
            running.confinement = {
                "rules": rules,
                "cgroup_procs": bounds["cgroup_procs"],
                "rlimits": bounds["rlimits"] | nproc,
            }
            fds = [*inside, *artifacts, *(fd for fd, _ in secrets), *volumes, running.log_fd]
            config = bounds | {
                "fds": fds,
                "bwrap_fds": inside,
                "argv": [bwrap.find(), "--args", str(inside[-1]), "--"],
                "command": list(spec.command),
                "rules": rules,
                "kill_at_ms": running.kill_at_ms,
                "root": root,
                "secrets": [{"fd": fd, "name": name} for fd, name in secrets],
                "volumes": volumes,
                "uid": trial.launcher_uid(),
                "log_fd": running.log_fd,
                "log_bytes": spec.log_bytes_max,
                "log_rate_bytes_s": limits.LOG_RATE_BYTES_S,
                "start_timeout_s": limits.START_TIMEOUT_S,
            }
            config_fd = keep(json.dumps(config).encode(), "config")
            argv = python_argv("node.executor.drivers.launcher", str(config_fd))
            return await start_helper(argv, [*fds, config_fd], running.errors_fd)

    def _limits(self, running: Running) -> dict[str, Any]:
        """Return how the launcher bounds the task: by groups where there are some, else by prlimit."""
        resources = running.spec.resources
        controllers: Mapping[str, Path] = running.group.paths if running.group else {}
        files = running.group.procs_files() if running.group else ()
        return {
            "cgroup_procs": [str(path) for path in files],
            "rlimits": bwrap.rlimits(
                resources,
                memory_by_cgroup="memory" in controllers,
                volume_bytes=max((volume.size_bytes for volume in running.spec.volumes), default=0),
            ),
            # One more than the workload may have: process 1 is bubblewrap's own.
            "nproc": None if "pids" in controllers else resources.pids + 1,
        }

    async def _take_down(self, running: Running) -> None:
        """Kill what is left and give everything back. Not cancelled by others; bounded by KILL_WITHIN_S."""
        with trio.CancelScope(shield=True):
            running.kill()
            with trio.move_on_after(limits.KILL_WITHIN_S / 2):
                if running.launcher is not None:
                    await running.wait()
            for door in (running.portal, running.outlet):
                if door is not None:
                    await door.close(0)
            # All are dead, but the group and the launcher, which know the figures, are still there.
            await trio.to_thread.run_sync(running.measure)
            if running.launcher is not None:
                await running.launcher.close(limits.KILL_WITHIN_S / 4)
            gone = await trio.to_thread.run_sync(_gone, running)
            running.close()
            if gone:
                records.remove(self._run_dir, running.task_id)
                self._running.pop(running.task_id, None)
                if not self._running and self._host is not None and self._host.groups is not None:
                    self._host.groups.remove_scope()
        if not gone:
            raise ExecutorError(f"task {running.task_id}: processes survived SIGKILL")

    def _recover(self, groups: cgroups.Cgroups | None) -> list[str]:
        found: set[str] = set()
        mine = set(self._running)
        stuck: list[str] = []
        leftovers = groups.leftovers() if groups is not None else {}
        for task_id, group in leftovers.items():
            if task_id not in mine:
                found.add(task_id)
                group.kill()
        for record in records.read_all(self._run_dir):
            if record.task_id in mine:
                continue
            found.add(record.task_id)
            group_left = leftovers.get(record.task_id)
            if not records.kill(record, limits.KILL_WITHIN_S):
                stuck.append(record.task_id)
            elif group_left is None or cgroups.remove_within(group_left, limits.KILL_WITHIN_S):
                records.remove(self._run_dir, record.task_id)
        for task_id in found - mine:
            if task_id in leftovers and not cgroups.remove_within(leftovers[task_id], limits.KILL_WITHIN_S):
                stuck.append(task_id)
        if stuck:
            raise ExecutorError(f"leftovers survived SIGKILL: {', '.join(sorted(set(stuck)))}")
        if groups is not None and not mine:
            groups.remove_scope()
        return sorted(found)


_T = TypeVar("_T")


def _own(given: object, kind: type[_T]) -> _T:
    if not isinstance(given, kind):
        raise TypeError(f"made by another driver: {type(given).__name__}")
    return given


def _until_executing(baseline: integrity.Baseline) -> None:
    deadline_s = time.monotonic() + limits.START_TIMEOUT_S
    while not integrity.executes(baseline):
        if time.monotonic() > deadline_s:
            raise StartFailed("the command was let go, but does not execute")
        time.sleep(_POLL_S)


def _gone(running: Running) -> bool:
    """Return True when no process of the task is left, and remove its group. Blocks, within its bound."""
    within_s = limits.KILL_WITHIN_S / 4
    if running.group is not None:
        return cgroups.remove_within(running.group, within_s)
    deadline_s = time.monotonic() + within_s
    while running.baseline is not None and procs.members(running.baseline.namespace):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_POLL_S)
    return True
