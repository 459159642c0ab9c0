"""What a node writes down about each running task, so that after a crash it can find and kill it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from node.executor.host import procs

_SUFFIX = ".task.json"
_RECORD_BYTES_MAX = 64 * 1024
_POLL_S = 0.01


@dataclass(frozen=True)
class Record:
    """The processes of one task, by pid with their start time in clock ticks since boot."""

    task_id: str
    boot: str
    processes: Mapping[int, int]

    def living(self) -> list[int]:
        """Return those that still run; a pid that now belongs to another process is not among them."""
        if self.boot != procs.boot_id():
            return []
        found = [pid for pid, ticks in self.processes.items() if procs.start_ticks(pid) == ticks]
        return [pid for pid in found if not procs.is_zombie(pid)]


def write(run_dir: Path, task_id: str, pids: list[int]) -> None:
    """Write the record, whole or not at all, before the workload is let go."""
    ticks = {pid: procs.start_ticks(pid) for pid in pids}
    known = {str(pid): value for pid, value in ticks.items() if value is not None}
    text = json.dumps({"task_id": task_id, "boot": procs.boot_id(), "processes": known})
    part = run_dir / f"{task_id}.part"
    part.write_text(text)
    os.replace(part, _path(run_dir, task_id))


def remove(run_dir: Path, task_id: str) -> None:
    """Remove the record; no record is fine."""
    _path(run_dir, task_id).unlink(missing_ok=True)


def exists(run_dir: Path, task_id: str) -> bool:
    """Return True when a record of the task is there."""
    return _path(run_dir, task_id).exists()


def read_all(run_dir: Path) -> list[Record]:
    """Return every record in `run_dir`. One that cannot be read names no processes; its group still tells."""
    found: list[Record] = []
    for path in sorted(run_dir.glob(f"*{_SUFFIX}")):
        task_id = path.name.removesuffix(_SUFFIX)
        boot, processes = "", {}
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            with path.open("rb") as file:
                value = json.loads(file.read(_RECORD_BYTES_MAX))
            boot = str(value["boot"])
            processes = {int(pid): int(ticks) for pid, ticks in value["processes"].items()}
        found.append(Record(task_id, boot, processes))
    return found


def kill(record: Record, within_s: float) -> bool:
    """SIGKILL what is left of the task; return True when all of it is gone within the time. Blocks."""
    deadline = time.monotonic() + within_s
    while living := record.living():
        for pid in living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _path(run_dir: Path, task_id: str) -> Path:
    return run_dir / f"{task_id}{_SUFFIX}"
