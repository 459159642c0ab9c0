"""Memory, open files and processor time of a network's processes, over time."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.common import cpu_s
from tests.e2e.net import Net

EVERY_S: Final = 5.0
MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one time."""

    at_s: float
    rss_bytes: int
    files: int
    cpu_s: float


@dataclass(slots=True)
class Usage:
    """`sample` as often as one likes; it looks every EVERY_S."""

    net: Net
    names: tuple[str, ...]
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    _due_s: float = 0.0

    def sample(self, now: bool = False) -> None:
        """Look at all processes when it is time, or `now`."""
        at_s = time.monotonic()
        if at_s < self._due_s and not now:
            return
        self._due_s = at_s + EVERY_S
        for name in self.names:
            pid = self.net.peer(name).pid
            process = Path(f"/proc/{pid}")
            lines = process.joinpath("status").read_text().splitlines()
            rss_kib = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
            files = len(list(process.joinpath("fd").iterdir()))
            found = self.samples.setdefault(name, [])
            found.append(Sample(at_s, rss_kib * 1024, files, cpu_s(pid)))

    def figures(self) -> dict[str, Any]:
        """First and last sample of each process, and the growth of the second half as a rate: the first
        half fills caches."""
        return {"processes": {name: _figures(samples) for name, samples in self.samples.items()}}


def _figures(samples: list[Sample]) -> dict[str, Any]:
    first, middle, last = samples[0], samples[len(samples) // 2], samples[-1]
    hours = max(last.at_s - middle.at_s, 1.0) / 3600
    return {
        "rss_mib": [round(first.rss_bytes / MIB, 1), round(last.rss_bytes / MIB, 1)],
        "rss_growth_mib_per_h": round((last.rss_bytes - middle.rss_bytes) / MIB / hours, 1),
        "open_files": [first.files, last.files],
        "cpu_percent": round(100 * (last.cpu_s - first.cpu_s) / max(last.at_s - first.at_s, 1.0), 1),
    }
