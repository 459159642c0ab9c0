"""Machines on one switch, each with a line of a given rate both ways, for bench.files. Needs root and tc."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import Final

_PREFIX: Final = f"gpf{os.getpid()}-"
_LATENCY: Final = "50ms"  # a home router's buffer


def why_not() -> str:
    """Why there can be no such lines here; "" when there can."""
    if os.geteuid():
        return "network namespaces need root"
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: iproute2)"
    name = f"{_PREFIX}try"
    made = _run("ip", "netns", "add", name)
    if made:
        return made
    problem = _run("ip", "-n", name, "link", "add", "t0", "type", "veth", "peer", "name", "t1") or _run(
        "tc", "-n", name, "qdisc", "add", "dev", "t0", "root", "tbf", *_shape(10)
    )
    _run("ip", "netns", "del", name)
    return problem


def _shape(mbit_s: int) -> tuple[str, ...]:
    burst = f"{max(64, mbit_s)}kb"  # as much as goes between two ticks of the kernel, and some more
    return ("rate", f"{mbit_s}mbit", "burst", burst, "latency", _LATENCY)


def _run(*words: str) -> str:
    """Runs a command. Returns what is wrong, "" for nothing."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"{' '.join(words)}: {done.stderr.strip()}"


def _must(*words: str) -> None:
    problem = _run(*words)
    if problem:
        raise RuntimeError(problem)


@dataclass(slots=True)
class Lines:
    """So many machines, each a namespace at 10.77.0.N. A context manager."""

    count: int
    mbit_s: int
    made: list[str] = field(default_factory=list)

    def __enter__(self) -> Lines:
        try:
            hub = self._namespace("hub")
            _must("ip", "-n", hub, "link", "add", "br0", "type", "bridge")
            _must("ip", "-n", hub, "link", "set", "br0", "up")
            for number in range(self.count):
                self._machine(hub, number)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _machine(self, hub: str, number: int) -> None:
        own, port = self._namespace(str(number)), f"p{number}"
        link = ("type", "veth", "peer", "name", port, "netns", hub)
        _must("ip", "-n", own, "link", "add", "eth0", *link)
        _must("ip", "-n", hub, "link", "set", port, "master", "br0", "up")
        _must("ip", "-n", own, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
        _must("ip", "-n", own, "link", "set", "eth0", "up")
        for space, device in ((own, "eth0"), (hub, port)):  # up, and down
            _must("tc", "-n", space, "qdisc", "add", "dev", device, "root", "tbf", *_shape(self.mbit_s))

    def _namespace(self, name: str) -> str:
        full = _PREFIX + name
        _must("ip", "netns", "add", full)
        self.made.append(full)
        _must("ip", "-n", full, "link", "set", "lo", "up")
        return full

    def address(self, number: int) -> str:
        """The address of a machine."""
        return f"10.77.0.{number + 1}"

    def inside(self, number: int) -> tuple[str, ...]:
        """What stands before a command that is to run on a machine."""
        return ("ip", "netns", "exec", _PREFIX + str(number))

    def __exit__(self, *error: object) -> None:
        for name in self.made:
            _run("ip", "netns", "del", name)
        self.made.clear()
