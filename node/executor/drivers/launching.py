"""What every launcher does: one process per task, which starts it, keeps its log ring and dies with the node.

A launcher runs by itself (`python -I -S`), with the standard library alone and one thread. One thread
matters: the kernel's "die with parent" signal fires when the *thread* that forked ends, and the node's worker
threads end all the time, so the node must not be the parent of what runs a task. The launcher is; and it dies
with the node because it sees the end of its control pipe.

It speaks JSON lines on stdout: `ready` (all is set up and held back), `exit`, or `failed`. On stdin it takes
`G`, to let the workload go, and `D` with eight bytes, little-endian, a time of the boot clock in ms at which
it kills the workload by itself: the node moves that on with each renewal of its lease, so a node that is
frozen or hung keeps nothing running. The end of stdin means kill everything. It stays after the workload's
exit, so that results can still be read, until stdin ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from node.executor.drivers.ring import LogRing
from node.executor.host import kernel

READ_BYTES = 64 * 1024


def launch(
    start: Callable[[dict[str, Any]], tuple[Launcher, str | None]],
    faults: tuple[type[Exception], ...] = (OSError, ValueError),
) -> None:
    """Read the configuration from the descriptor named as the argument, and run one task. `start` sets it up
    and holds it back; it returns its launcher and the loop device behind its root.

    `faults` are told as the reason why it failed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(int(sys.argv[1]), "rb") as file:
        config = json.load(file)
    for fd in config["fds"]:
        os.set_inheritable(fd, False)
    try:
        launcher, loop = start(config)
    except faults as error:
        _say({"event": "failed", "reason": str(error)})
        return
    launcher.serve(loop)


def _say(message: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(message).encode() + b"\n")


class Launcher(ABC):
    """One task, held back at first; then the loop that pumps its log and watches the node."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._late = False
        self._timer = kernel.boot_timer()
        if config["kill_at_ms"] is not None:
            kernel.set_boot_timer(self._timer, config["kill_at_ms"])
        self._ring = LogRing(config["log_fd"], config["log_bytes"], config["log_rate_bytes_s"])
        self._log, self._log_in = os.pipe()
        self._init = 0
        self._init_fd = -1  # process 1: once it is collected, its number may belong to another process

    @property
    @abstractmethod
    def helper(self) -> int:
        """The process that made the task's namespaces and goes with them; 0 when it was collected."""

    @abstractmethod
    def watched(self) -> Mapping[int, Callable[[], None]]:
        """What to do, once, when these descriptors can be read."""

    @abstractmethod
    def let_go(self) -> None:
        """Let the workload begin. Raises OSError, ValueError."""

    @abstractmethod
    def ended(self) -> dict[str, Any]:
        """How the workload, which has ended, did: its `status`, with what else an `exit` says."""

    @abstractmethod
    def end_task(self) -> None:
        """SIGKILL the workload, so that its exit is reported as any other."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL all, and collect it; again is harmless."""

    def serve(self, loop: str | None) -> None:
        """Say `ready`, then serve until the node closes our stdin."""
        _say({"event": "ready", "helper": self.helper, "init": self._init, "loop": loop})
        watched = self.watched()
        with selectors.DefaultSelector() as selector:
            for fd in (0, self._log, self._timer, *watched):
                selector.register(fd, selectors.EVENT_READ)
            pause_s = 0.0
            while True:
                found = {key.fd for key, _ in selector.select(pause_s or None)}
                if pause_s:
                    selector.register(self._log, selectors.EVENT_READ)
                    pause_s = 0.0
                if self._timer in found:
                    self._bark()
                if 0 in found and not self._control():
                    break
                if self._log in found and (not self._pump() or (pause_s := self._ring.wait_s()) > 0):
                    selector.unregister(self._log)
                for fd, act in watched.items():
                    if fd in found:
                        selector.unregister(fd)
                        act()
        self.kill()

    def report_exit(self) -> None:
        """Say how the workload ended."""
        # What is already in the pipe belongs to the log, also when the budget is spent.
        self._ring.put(self.drain())
        _say({"event": "exit", "late": self._late} | self.ended())

    def drain(self) -> bytes:
        """Take what is in the log's pipe now."""
        found = b""
        os.set_blocking(self._log, False)
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._log, READ_BYTES):
                found += data
        os.set_blocking(self._log, True)
        return found

    def _bark(self) -> None:
        """The deadline has come, and nobody moved it on: kill. Its exit is reported as any other."""
        with contextlib.suppress(BlockingIOError):  # not moved on in between
            os.read(self._timer, 8)
            self._late = self.helper != 0
            self.end_task()

    def _control(self) -> bool:
        """Take one control message; False at the end of the pipe."""
        byte = os.read(0, 1)
        if byte == b"D":
            kernel.set_boot_timer(self._timer, int.from_bytes(os.read(0, 8), "little"))
        if byte == b"G":
            try:
                self.let_go()
            except (OSError, ValueError) as error:
                _say({"event": "failed", "reason": str(error)})
                self.kill()
        return bool(byte)

    def _pump(self) -> bool:
        data = os.read(self._log, READ_BYTES)
        self._ring.put(data)
        return bool(data)
