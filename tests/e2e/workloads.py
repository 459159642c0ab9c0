"""A node's workloads as the host's root sees them: processes, and the way to change their bytes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from node.executor import procs
from node.executor.drivers import records
from node.executor.drivers.launcher import ROOT
from tests.e2e.net import Net


def workloads(net: Net, name: str, deployment: str = "") -> set[int]:
    """Living processes of a node's workloads (of one deployment): those of its records, and all that are in
    their pid namespaces."""
    found: set[int] = set()
    ours = procs.pid_namespace(os.getpid())
    for record in records.read_all(net.home(name).data_dir / "sandbox"):
        if deployment[:16] not in record.task_id:
            continue
        for pid in record.living():
            found.add(pid)
            namespace = procs.pid_namespace(pid)
            if namespace is not None and namespace != ours:
                found.update(procs.members(namespace))
    return found


def alive(pids: set[int]) -> set[int]:
    """Which of them run."""
    return {pid for pid in pids if procs.start_ticks(pid) is not None and not procs.is_zombie(pid)}


def launcher_of(pids: set[int]) -> int:
    """The process that holds the sealed root's mounts."""
    return next(pid for pid in pids if b"launcher" in Path(f"/proc/{pid}/cmdline").read_bytes())


def tamper(pids: set[int], path: str, text: str) -> None:
    """Change a verified file under a running workload, as the owner of the hardware can."""
    # Inside, the mount is locked read-only; the launcher's mount of the same tmpfs is not.
    script = f'mount -n -o remount,rw "{ROOT}" && printf %s "$0" > "{ROOT}{path}" && cat "{ROOT}{path}"'
    command = ["nsenter", "-t", str(launcher_of(pids)), "-m", "sh", "-c", script, text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    assert done.returncode == 0 and done.stdout == text, done.stderr  # the change is real
