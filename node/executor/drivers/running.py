"""One started sandbox, as the node holds it: processes, log ring, ports, exit."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import trio

from node.executor import limits
from node.executor.drivers.base import Exit, Liveness, TaskSpec, Usage
from node.executor.drivers.process import Helper
from node.executor.errors import ExecutorError, StartFailed
from node.executor.host import procs
from node.executor.host.cgroups import TaskGroup
from node.executor.integrity import Baseline

_LOG_HEAD_BYTES = 8
_BACKLOG = 64
_SIGNAL_BASE = 128
"""Bubblewrap's process 1 reports "ended by signal N" as exit code 128 + N, as shells do."""


class Running:
    """The `Handle` of the sandbox driver."""

    first_is_own = False
    """Whether process 1 is the workload's own, and not one that only keeps it."""

    def __init__(self, spec: TaskSpec, kill_at_ms: int | None = None) -> None:
        self.spec = spec
        self.kill_at_ms = kill_at_ms
        self.ports: dict[str, tuple[str, int]] = {}
        self.group: TaskGroup | None = None
        self.launcher: Helper | None = None
        self.portal: Helper | None = None
        self.outlet: Helper | None = None
        self.baseline: Baseline | None = None
        self.init_fd = -1
        self.log_fd = os.memfd_create("log", os.MFD_CLOEXEC)
        self.errors_fd = os.memfd_create("errors", os.MFD_CLOEXEC)
        self.used = Usage()
        self._tail = b""
        self.exit: Exit | None = None
        self.stopped: Exit | None = None
        self.stopping = trio.Lock()
        self._exit_lock = trio.Lock()
        self.confinement: dict[str, Any] = {}  # what a command run beside the workload takes upon itself
        self.entering = trio.Lock()  # what enters is the workload's only when its command executes

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.spec.task_id

    def listen(self) -> dict[socket.socket, int]:
        """Open and return a listening socket per port, with the port inside. Raises OSError."""
        found: dict[socket.socket, int] = {}
        try:
            for port in self.spec.ports:
                family = socket.AF_INET6 if ":" in port.listen_host else socket.AF_INET
                listener = socket.socket(family, socket.SOCK_STREAM)
                found[listener] = port.inside
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((port.listen_host, port.listen_port))
                listener.listen(_BACKLOG)
                self.ports[port.name] = (port.listen_host, listener.getsockname()[1])
        except BaseException:
            for listener in found:
                listener.close()
            raise
        return found

    async def said(self, event: str) -> dict[str, Any]:
        """Return the launcher's next message, which must be `event`. Raises StartFailed with its reason."""
        assert self.launcher is not None
        line = await self.launcher.line()
        if line is None:
            text = os.pread(self.errors_fd, 1 << 16, 0).decode(errors="replace").strip()
            raise StartFailed(f"the launcher ended: {text[-500:] or 'it said nothing'}")
        message: dict[str, Any] = json.loads(line)
        if message["event"] != event:
            raise StartFailed(str(message.get("reason", message["event"]))[:500])
        return message

    async def wait(self) -> Exit:
        """Return how the command ended; any number of tasks may wait."""
        async with self._exit_lock:
            if self.exit is None:
                if self.launcher is None:
                    raise ExecutorError(f"task {self.task_id} never started")
                try:
                    said = await self.said("exit")
                except StartFailed as error:
                    self.kill()
                    self.exit = Exit(None, signal.SIGKILL, self._oom(), str(error))
                else:
                    self.exit = self._exit(int(said["status"]), bool(said["late"]))
            return self.exit

    def look(self) -> Liveness:
        """Return what /proc says about the task now. Blocks for a few milliseconds."""
        doors = ((self.spec.ports, self.portal), (self.spec.egress, self.outlet))
        served = all(not asked or (d is not None and not procs.is_ending(d.pid)) for asked, d in doors)
        baseline = self.baseline
        if self.exit is not None or baseline is None:
            return Liveness(False, 0, served, self.exit.reason if self.exit else "not started")
        first = baseline.init_pid
        over = procs.start_ticks(first) != baseline.init_start_ticks
        if over or (self.first_is_own and procs.is_ending(first)):
            return Liveness(False, 0, served, "process 1 has ended")
        inside = [pid for pid in procs.members(baseline.namespace) if self.first_is_own or pid != first]
        reason = "running" if inside else "no process left"
        return Liveness(bool(inside), len(inside), served, reason if served else "a door has ended")

    def measure(self) -> None:
        """Bring `used` up to date: from the group, else from /proc. Blocks for a few milliseconds."""
        cpu_ms, memory_bytes = self.group.usage() if self.group is not None else (None, None)
        baseline, launcher = self.baseline, self.launcher
        if baseline is not None and launcher is not None and (cpu_ms is None or memory_bytes is None):
            alive = procs.start_ticks(baseline.init_pid) == baseline.init_start_ticks
            pids = {*procs.members(baseline.namespace), *((baseline.init_pid,) if alive else ())}
            if cpu_ms is None:
                # Those that ended are in the figures of who collected them, at last the launcher.
                cpu_ms = sum(map(procs.cpu_ms, pids)) + procs.collected_cpu_ms(launcher.pid)
            if memory_bytes is None:
                memory_bytes = sum(map(procs.memory_peak_bytes, pids))
        # Never less than before: processes end between two reads.
        self.used = Usage(
            max(self.used.cpu_ms, cpu_ms or 0), max(self.used.memory_bytes_max, memory_bytes or 0)
        )

    def logs(self, last_bytes: int) -> bytes:
        """Return the newest bytes of the ring; of a closed task the newest LOG_KEPT_BYTES are kept."""
        if self.log_fd < 0:
            return self._tail[max(0, len(self._tail) - last_bytes) :] if last_bytes > 0 else b""
        size = self.spec.log_bytes_max
        total = int.from_bytes(os.pread(self.log_fd, _LOG_HEAD_BYTES, 0), "little")
        data = os.pread(self.log_fd, size, _LOG_HEAD_BYTES)
        if total > size:
            at = total % size
            data = data[at:] + data[:at]
        return data[max(0, len(data) - last_bytes) :] if last_bytes > 0 else b""

    def signal_all(self) -> None:
        """Send SIGTERM to every process of the task but process 1, which is bubblewrap's."""
        if self.baseline is None:
            return
        group, namespace = self.group, self.baseline.namespace
        # Where there is a group it is asked: a node that stops all its slots has no time for as many walks.
        for pid in procs.members(namespace) if group is None else group.pids():
            if pid == self.baseline.init_pid:
                continue
            with contextlib.suppress(OSError):
                fd = os.pidfd_open(pid)
                try:
                    # Held by descriptor now, so it cannot become another process between check and signal.
                    if procs.pid_namespace(pid) == namespace:
                        signal.pidfd_send_signal(fd, signal.SIGTERM)
                finally:
                    os.close(fd)

    def groups(self) -> tuple[Path, ...]:
        """Return the files into which a process writes 0 to be counted with the workload. Raises OSError."""
        return self.group.procs_files() if self.group is not None else ()

    def kill(self) -> None:
        """SIGKILL process 1, with which the kernel ends its pid namespace, and all else in the group."""
        if self.group is not None:
            self.group.freeze(True)
        if self.init_fd >= 0:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self.init_fd, signal.SIGKILL)
        if self.group is not None:
            self.group.kill()
        elif self.launcher is not None and self.init_fd < 0:
            self.launcher.end()

    def close(self) -> None:
        """Close what the node holds of the task and settle its exit."""
        self._tail = self.logs(limits.LOG_KEPT_BYTES)
        self.stopped = self.exit or Exit(None, signal.SIGKILL, self._oom(), "stopped")
        for fd in (self.init_fd, self.log_fd, self.errors_fd):
            if fd >= 0:
                os.close(fd)
        self.init_fd = self.log_fd = self.errors_fd = -1
        self.baseline = None

    def _exit(self, status: int, late: bool) -> Exit:
        oom = self._oom()
        if late:
            return Exit(None, signal.SIGKILL, oom, "killed by its launcher: the node did not answer in time")
        number = -status if status < 0 else max(0, status - _SIGNAL_BASE)
        if number:
            reason = "killed at the memory limit" if oom else f"ended by signal {number}"
            return Exit(None, number, oom, reason)
        return Exit(status, None, oom, f"ended with code {status}")

    def _oom(self) -> bool:
        return self.group is not None and self.group.oom_kills() > 0
