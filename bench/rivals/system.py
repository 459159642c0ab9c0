"""What a measured system is to the comparison."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.load.worker import Job

START_S: Final = 60.0
STOP_S: Final = 10.0
POLL_S: Final = 0.05


class NotHere(Exception):
    """This machine has not what the system needs; the text says what."""


class System(ABC):
    """One system of several servers, all on this machine, its data below one folder."""

    name = ""
    protocol = ""
    signatures = ""  # what is signed and who checks it, for the table
    kills_one = True  # measured once more with one server dead
    client_may_sign = False  # measured once more with clients that sign and verify

    def __init__(self) -> None:
        self.settings: list[str] = []  # version, and every setting that is not a default

    @abstractmethod
    def start(self, folder: Path) -> None:
        """Set up and start; returns when it takes writes. Raises NotHere, or RuntimeError."""

    @abstractmethod
    def pids(self) -> list[int]:
        """The servers that run."""

    @abstractmethod
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Where clients of the running servers connect."""

    @abstractmethod
    def kill_one(self) -> None:
        """SIGKILL one server, for good."""

    @abstractmethod
    def stop(self) -> None:
        """Stop all that runs. Does nothing the second time."""

    def job(self) -> Job:
        """What clients need to know now."""
        return Job(self.protocol, self.addresses(), 0, 0)


class Processes:
    """Server processes by name, started and ended by us; what they say goes to files beside the data."""

    def __init__(self) -> None:
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: dict[str, Path] = {}

    def start(
        self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        """Start one."""
        self._logs[name] = log
        with log.open("wb") as stream:
            self.running[name] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=stream, stderr=subprocess.STDOUT, env=env
            )

    def check(self) -> None:
        """Raises RuntimeError with the last words of one that has ended by itself."""
        for name, process in self.running.items():
            if process.poll() is not None:
                words = self._logs[name].read_text(errors="replace")[-2_000:]
                raise RuntimeError(f"{name} ended with {process.returncode}:\n{words}")

    def kill(self, name: str) -> None:
        """SIGKILL one."""
        self._end({name: self.running.pop(name)}, signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM all, and SIGKILL those that stay."""
        ending, self.running = self.running, {}
        self._end(ending, signal.SIGTERM)

    def _end(self, ending: Mapping[str, subprocess.Popen[bytes]], number: signal.Signals) -> None:
        for process in ending.values():
            process.send_signal(number)
        deadline = time.monotonic() + STOP_S
        for process in ending.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()


def until(
    holds: Callable[[], bool], check: Callable[[], None], what: str, timeout_s: float = START_S
) -> None:
    """Wait until it holds. Raises RuntimeError when it never does, and what `check` raises."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(POLL_S)


def answers(port: int, path: str, agrees: Callable[[Any], bool]) -> bool:
    """Whether a server of this machine answers, and its JSON is what is waited for."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=2) as answer:
            return agrees(json.load(answer))
    except OSError:
        return False


def free_ports(count: int) -> list[int]:
    """Loopback ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def output_of(command: Sequence[str]) -> str:
    """What a program says, on either stream."""
    done = subprocess.run(command, stdin=subprocess.PIPE, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def clean_env() -> dict[str, str]:
    """Our environment without settings that were meant for other servers."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("ETCD", "CMT", "TM"))}
