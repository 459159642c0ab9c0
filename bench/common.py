"""What the measurements share: the machine's shape, percentiles, tables, result files."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).resolve().parent / "results"


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie; nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def machine() -> dict[str, Any]:
    """Cores, memory, processor, kernel and Python: what a figure depends on."""
    memory = Path("/proc/meminfo").read_text().splitlines()
    memory_kib = next(int(line.split()[1]) for line in memory if line.startswith("MemTotal"))
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(memory_kib / 1024 / 1024, 1),
        "processor": models[0] if models else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def sync_ms(folder: Path) -> dict[str, float]:
    """How long the file system takes to make 4 KiB durable, p50 and p99 of 200. All systems wait for this."""
    times: list[float] = []
    with tempfile.TemporaryFile(dir=folder) as stream:
        for _ in range(200):
            begin = time.perf_counter()
            os.write(stream.fileno(), bytes(4096))
            os.fdatasync(stream.fileno())
            times.append((time.perf_counter() - begin) * 1000)
    return {"p50": round(percentile(times, 0.5), 2), "p99": round(percentile(times, 0.99), 2)}


def file_system(folder: Path) -> str:
    """The type of the file system that a folder is on, from /proc/mounts."""
    place = str(folder.resolve())
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    above = [(point, kind) for point, kind in mounts if (place + "/").startswith(point.rstrip("/") + "/")]
    return max(above, key=lambda mount: len(mount[0]))[1]


def memory_mib(pid: int) -> float:
    """Resident memory of a process, MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024 / 1024


def save(name: str, command: str, shape: dict[str, Any], figures: dict[str, Any]) -> Path:
    """Write one result file, named by date and measurement. Returns its path."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    day = time.strftime("%Y-%m-%d", time.gmtime())
    file = RESULTS / f"{day}-{name}.json"
    content = {"date": day, "command": command, "machine": shape, "figures": figures}
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    return file


def show(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Print a table of figures."""
    table = Table(title=title, show_header=False)
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in rows:
        table.add_row(name, value)
    Console().print(table)


def cpu_s(pid: int) -> float:
    """Processor seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
