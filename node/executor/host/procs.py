"""Reads /proc: which processes a task has, what they map and mount, what they may do. Blocking, but short.

See proc(5). A process may end between any two reads; then the functions return None or leave it out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mapping:
    """One executable mapping: device and inode of its file (inode 0: none) and the name /proc shows.

    `changed` means that some of its pages are the process's own copies: code that is not the file's.
    """

    device: tuple[int, int]
    inode: int
    name: str
    changed: bool


@dataclass(frozen=True)
class Privileges:
    """The fields of /proc/PID/status that say what a process may do."""

    capabilities: int
    seccomp: int
    no_new_privileges: bool


def start_ticks(pid: int) -> int | None:
    """Return when the process started, in clock ticks since boot: with the pid, its identity."""
    text = _read(f"/proc/{pid}/stat")
    # The command name may hold spaces and brackets; the fields count from the last bracket.
    return int(text.rpartition(")")[2].split()[19]) if text else None


def pid_namespace(pid: int) -> str | None:
    """Return the name of the process's pid namespace."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


def members(namespace: str) -> tuple[int, ...]:
    """Return the living processes in the pid namespace of that name, by a walk over all of /proc."""
    return living(namespaces().get(namespace, ()))


def namespaces() -> dict[str, tuple[int, ...]]:
    """Return the processes of each pid namespace by its name, zombies too, by a walk over all of /proc."""
    found: dict[str, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (namespace := pid_namespace(int(name))) is not None:
            found.setdefault(namespace, []).append(int(name))
    return {namespace: tuple(sorted(pids)) for namespace, pids in found.items()}


def living(pids: Iterable[int]) -> tuple[int, ...]:
    """Return those that are no zombies."""
    return tuple(pid for pid in pids if not is_zombie(pid))


def is_zombie(pid: int) -> bool:
    """Return True when the process has ended and only waits to be collected."""
    text = _read(f"/proc/{pid}/stat")
    return text is not None and text.rpartition(")")[2].split()[0] in ("Z", "X")


def is_ending(pid: int) -> bool:
    """Return True when the process has begun to end: it has given up its memory, or is a zombie, or gone."""
    text = _read(f"/proc/{pid}/status")
    # A process without memory shows no VmSize; kernel threads aside, that is one on its way out.
    return text is None or "\nVmSize:" not in text


def cpu_ms(pid: int) -> int:
    """Return the CPU time of the process and of all that it has collected; 0 when it is gone."""
    return _ticks_ms(pid, 11, 15)


def collected_cpu_ms(pid: int) -> int:
    """Return the CPU time of ended children that the process has collected, with theirs."""
    return _ticks_ms(pid, 13, 15)


def _ticks_ms(pid: int, first: int, end: int) -> int:
    """Return a sum of utime, stime, cutime, cstime: fields 14 to 17 of stat, 11 to 14 after the name."""
    text = _read(f"/proc/{pid}/stat")
    ticks = sum(int(field) for field in text.rpartition(")")[2].split()[first:end]) if text else 0
    return ticks * 1000 // os.sysconf("SC_CLK_TCK")


def memory_peak_bytes(pid: int) -> int:
    """Return the most memory that the process held at one time, shared pages too; 0 when it has ended."""
    for line in (_read(f"/proc/{pid}/status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def executable_mappings(pid: int) -> frozenset[Mapping] | None:
    """Return what the process maps with execute permission; None when it has ended."""
    text = _read(f"/proc/{pid}/smaps")
    if text is None:
        return None
    found: set[Mapping] = set()
    current: Mapping | None = None
    for line in text.splitlines():
        first, _, rest = line.partition(" ")
        if not first.endswith(":"):
            current = _mapping(rest)
        elif current is not None and first == "Anonymous:":
            changed = current.inode != 0 and int(rest.split()[0]) > 0
            found.add(Mapping(current.device, current.inode, current.name, changed))
    return frozenset(found)


def _mapping(rest: str) -> Mapping | None:
    """Return the mapping of a header line without its addresses, or None when it is not executable."""
    permissions, _, device, inode, *name = rest.split(None, 4)
    if "x" not in permissions:
        return None
    major, minor = device.split(":")
    return Mapping((int(major, 16), int(minor, 16)), int(inode), name[0] if name else "", False)


def mounts(pid: int) -> tuple[str, ...] | None:
    """Return the process's mounts, one text each: id, parent, device, root, mount point, its own options."""
    text = _read(f"/proc/{pid}/mountinfo")
    if not text:
        return None
    return tuple(" ".join(line.split(" ")[:6]) for line in text.splitlines())


def privileges(pid: int) -> Privileges | None:
    """Return what the process may do; None when it has ended."""
    text = _read(f"/proc/{pid}/status")
    if not text:
        return None
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    held = 0
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        held |= int(fields[name], 16)
    # A kernel without seccomp shows no such field, which counts as no filter.
    return Privileges(held, int(fields.get("Seccomp", "0")), fields.get("NoNewPrivs", "0").strip() == "1")


def boot_id() -> str:
    """Return the random name of this boot: pids and start times mean nothing in another."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return None
