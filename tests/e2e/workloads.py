"""A node's workloads as the host's root sees them: processes, and the way to change their bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from node.executor.drivers import records
from node.executor.host import procs
from tests.e2e.net import Net

_MOUNT_OVER = """
import os, sys
from node.executor.host import kernel
pid, path, text = sys.argv[1:]
kernel.setns(os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY), kernel.CLONE_NEWNS)
with open("/tmp/other", "w") as file:
    file.write(text)
kernel.mount("/tmp/other", path, "none", 4096)
with open(path) as file:
    print(file.read(), end="")
"""


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


def tamper(pids: set[int], path: str, text: str) -> None:
    """Change what a running workload sees at a verified file's path, as the owner of the hardware can: the
    sealed root cannot be written to, but another file can be mounted over one of it."""
    ours = procs.pid_namespace(os.getpid())
    pid = next(pid for pid in pids if procs.pid_namespace(pid) not in (ours, None))
    command = [sys.executable, "-c", _MOUNT_OVER, str(pid), path, text]
    environment = dict(os.environ, PYTHONPATH=str(Path(records.__file__).parents[3]))
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, env=environment)
    assert done.returncode == 0 and done.stdout == text, done.stderr  # the change is real
