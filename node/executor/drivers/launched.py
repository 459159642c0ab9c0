"""What drivers have in common whose tasks have a launcher each: all of the seam but `prepare`. See `base` for
the seam, `launching` for the launcher, and `start` for the order of a start."""

from __future__ import annotations

import contextlib
import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import trio

from node.executor import integrity, limits
from node.executor.drivers import records, stage, trial
from node.executor.drivers.artifacts import SealedTask
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
from node.executor.drivers.results import collect_results
from node.executor.drivers.running import Running
from node.executor.drivers.start import Way, start_task
from node.executor.drivers.still import copy_still
from node.executor.errors import DriverUnavailable, ExecutorError, StartFailed
from node.executor.host import cgroups, procs
from node.executor.host.census import Census

_POLL_S = 0.002


class LaunchedDriver(ABC):
    """Runs tasks by their launchers. `run_dir` holds its records; one node at a time may use it."""

    def __init__(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._run_dir = run_dir.resolve()
        self._scope = hashlib.sha256(str(self._run_dir).encode()).hexdigest()[:16]
        self._host: trial.Host | None = None
        self._running: dict[str, Running] = {}
        self._census = Census()

    @property
    @abstractmethod
    def name(self) -> str:
        """The runtime."""

    @property
    @abstractmethod
    def isolation(self) -> Isolation:
        """The level of it."""

    @property
    @abstractmethod
    def way(self) -> Way:
        """How tasks of this kind are started."""

    @abstractmethod
    async def prepare(self, spec: TaskSpec) -> SealedTask:
        """See `Driver.prepare`."""

    @abstractmethod
    def _taken(self, prepared: Prepared) -> SealedTask:
        """Return what this driver prepared itself. Raises TypeError."""

    @abstractmethod
    def _made(self, spec: TaskSpec, kill_at_ms: int | None) -> Running:
        """Return the handle of a new task."""

    @abstractmethod
    def _examined(self) -> trial.Host:
        """Return what this host offers; tries it the first time. Blocks."""

    def fingerprint(self) -> Fingerprint:
        """See `Driver.fingerprint`."""
        return self._examined().fingerprint

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
                    await start_task(self.way, host, task, running, self._run_dir)
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
        running = own(handle, Running)
        if running.launcher is not None and running.stopped is None:
            with contextlib.suppress(OSError):  # it has ended, or hangs, and then kills at the old time
                running.launcher.tell(b"D" + kill_at_ms.to_bytes(8, "little"))

    async def wait(self, handle: Handle) -> Exit:
        """See `Driver.wait`."""
        return await own(handle, Running).wait()

    async def probe(self, handle: Handle) -> Liveness:
        """See `Driver.probe`."""
        running = own(handle, Running)
        return await trio.to_thread.run_sync(running.look)

    def logs(self, handle: Handle, last_bytes: int) -> bytes:
        """See `Driver.logs`."""
        return own(handle, Running).logs(last_bytes)

    async def usage(self, handle: Handle) -> Usage:
        """See `Driver.usage`."""
        running = own(handle, Running)
        if running.stopped is None:
            await trio.to_thread.run_sync(running.measure)
        return running.used

    async def collect(self, handle: Handle) -> tuple[ResultFile, ...]:
        """See `Driver.collect`."""
        running = own(handle, Running)
        if running.stopped is not None or running.launcher is None:
            raise ExecutorError(f"task {running.task_id} was stopped; its results are gone")
        return await trio.to_thread.run_sync(collect_results, running.launcher.pid, running.spec.results)

    async def copy_volumes(self, handle: Handle, into: Mapping[str, Path]) -> float:
        """See `Driver.copy_volumes`."""
        running = own(handle, Running)
        baseline = running.baseline
        if baseline is None or running.exit is not None:
            raise ExecutorError(f"task {running.task_id} is not running")
        volumes = running.spec.volumes
        return await trio.to_thread.run_sync(copy_still, running.group, baseline.init_pid, volumes, into)

    async def stop(self, handle: Handle, grace_s: float) -> Exit:
        """See `Driver.stop`."""
        running = own(handle, Running)
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
        running = own(handle, Running)
        baseline = running.baseline
        if baseline is None:
            raise ExecutorError(f"task {running.task_id} is not running")
        async with running.entering:
            pids = await self._census.members(baseline.namespace)
            in_group = running.group.pids if running.group is not None else tuple
            return await trio.to_thread.run_sync(integrity.check, baseline, pids, in_group)

    async def check(self, handle: Handle, command: tuple[str, ...], timeout_s: float) -> int | None:
        """See `Driver.check`."""
        return await run_check(own(handle, Running), command, timeout_s)

    async def attest_ended(self, handle: Handle) -> Attestation:
        """See `Driver.attest_ended`. Reads through the launcher, which outlives the workload."""
        running = own(handle, Running)
        if running.baseline is None or running.launcher is None or running.exit is None:
            raise ExecutorError(f"task {running.task_id} has not ended by itself")
        root = f"/proc/{running.launcher.pid}/root{stage.ROOT}"
        found = await trio.to_thread.run_sync(integrity.check_ended, running.baseline, root)
        if not found.ok and procs.is_ending(running.launcher.pid):
            # The mounts went with it: that is no drift.
            raise ExecutorError(f"task {running.task_id}: its launcher has ended, and the bytes with it")
        return found

    async def examined(self) -> trial.Host:
        """Return what this host offers; tries it the first time."""
        return await trio.to_thread.run_sync(self._examined)

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


def own(given: object, kind: type[_T]) -> _T:
    """Return what a driver of this kind made itself. Raises TypeError."""
    if not isinstance(given, kind):
        raise TypeError(f"made by another driver: {type(given).__name__}")
    return given


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
