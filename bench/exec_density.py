"""How many idle services one 3node keeps, each with processor and memory of its own. See bench.exec."""

from __future__ import annotations

import math
import os
import resource
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import trio

from bench.exec_tasks import MIB, shell
from ledger.contracts.language import RECHECK_S_DEFAULT
from ledger.limits import KILL_MS
from node.executor.drivers.base import Driver
from node.executor.drivers.running import Running
from node.executor.drivers.sandbox import SandboxDriver
from node.executor.host import procs
from node.executor.lease import STOP_GRACE_MS
from node.executor.limits import TENURES_MAX

GIB: Final = 1024 * MIB
NODE_BYTES: Final = 24 * GIB
IDLE_S: Final = 10.0
STARTS_AT_ONCE: Final = 8
POLL_S: Final = 0.02
# What the kernel holds for tasks beside the pages of processes: sealed images, groups, mounts, stacks. What
# others on this machine begin or end meanwhile counts as well, so it is measured while nothing else runs.
_KERNEL: Final = ("Shmem", "Slab", "PageTables", "KernelStack")
_SCRIPT: Final = "mkdir /tmp/www; echo up; exec httpd -f -p 8080 -h /tmp/www"


async def density(folder: Path, steps: Sequence[int]) -> dict[str, Any]:
    """Measured at each number of slots, growing; then all are stopped. Root with cgroups: limits are real."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    driver = SandboxDriver(folder / "run")
    tasks: list[Running] = []
    rows = []
    try:
        await driver.examined()
        at_first = _meminfo(), _descriptors()
        for wanted in steps:
            share = min(256 * MIB, NODE_BYTES // wanted)
            begin = time.perf_counter()
            await _fill(driver, tasks, wanted, share, folder)
            took = time.perf_counter() - begin
            rows.append(await _look(driver, tasks, share, at_first, took))
        stopped_s = await _stop_together(driver, tasks)
    finally:
        await _stop(driver, tasks)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return {
        "measured": rows,
        "stop_all_s": round(stopped_s, 1),
        "bounds": bounds(rows[-1], soft, os.cpu_count() or 1, stopped_s),
        "features": {
            f.name: f.enforced for f in driver.fingerprint().features if f.name.startswith("limit-")
        },
    }


async def _fill(driver: Driver, tasks: list[Running], wanted: int, share: int, folder: Path) -> None:
    """Start until there are so many; a few at a time, as claims come."""
    spec = shell(_SCRIPT).spec(folder, 8080)
    cpu_millis = max(10, 1000 * (os.cpu_count() or 1) // wanted)
    need = replace(spec.resources, memory_bytes=share, cpu_millis=cpu_millis, disk_bytes=MIB)
    numbers = iter(range(len(tasks), wanted))

    async def start_some() -> None:
        for number in numbers:
            made = replace(spec, task_id=f"bench.density.{number}", resources=need)
            handle = await driver.start(await driver.prepare(made))
            assert isinstance(handle, Running)
            tasks.append(handle)
            with trio.fail_after(120):
                while b"up" not in driver.logs(handle, 1 << 12):  # noqa: ASYNC110 - a log is no event
                    await trio.sleep(0.01)

    async with trio.open_nursery() as nursery:
        for _ in range(STARTS_AT_ONCE):
            nursery.start_soon(start_some)


async def _look(
    driver: Driver, tasks: list[Running], share: int, at_first: tuple[dict[str, int], int], took_s: float
) -> dict[str, Any]:
    """What so many cost while they do nothing, while each is re-checked at its time, and all at once."""
    empty, files = at_first
    await trio.sleep(1)
    held = [_helpers(task) for task in tasks]
    before, begin = _cpu_ms(held), time.perf_counter()
    own = time.process_time()
    await trio.sleep(IDLE_S)
    idle_s = (_cpu_ms(held) - before) / 1000 + time.process_time() - own
    idle_share = idle_s / (time.perf_counter() - begin)
    recheck_cpu_s = await _recheck(driver, tasks)
    begin = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(_attest, driver, task)
    together_s = time.perf_counter() - begin
    count = len(tasks)
    usages = [await driver.usage(task) for task in tasks]
    now = _meminfo()
    kernel = sum(now[name] - empty[name] for name in _KERNEL)
    pss = sum(_pss_bytes(pid) for pids in held for pid in pids)
    return {
        "slots": count,
        "memory_limit_mib": share // MIB,
        "cpu_limit_millis": tasks[-1].spec.resources.cpu_millis,
        "started_s": round(took_s, 1),
        "memory_per_slot_mib": round((pss + kernel) / count / MIB, 1),
        "of_it_processes_mib": round(pss / count / MIB, 1),
        "available_less_per_slot_mib": round((empty["MemAvailable"] - now["MemAvailable"]) / count / MIB, 1),
        "charged_to_workload_mib": round(sum(u.memory_bytes_max for u in usages) / count / MIB, 1),
        "processes_per_slot": round(sum(map(len, held)) / count, 1),
        "descriptors_per_slot": round((_descriptors() - files) / count, 1),
        "idle_cpu_percent_of_a_core": round(100 * idle_share, 2),
        "recheck_all_cpu_s": round(recheck_cpu_s, 2),
        "recheck_all_s": round(together_s, 2),
    }


async def _recheck(driver: Driver, tasks: list[Running]) -> float:
    """Processor seconds of this process for a re-check of each, at the pace at which so many come."""
    own, count = time.process_time(), max(1, int(len(tasks) * IDLE_S / RECHECK_S_DEFAULT))
    async with trio.open_nursery() as nursery:
        for task in tasks[:count]:
            nursery.start_soon(_attest, driver, task)
            await trio.sleep(IDLE_S / count)
    return (time.process_time() - own) * len(tasks) / count


async def _attest(driver: Driver, task: Running) -> None:
    found = await driver.attest(task)
    assert found.ok, found.drifts


def bounds(row: dict[str, Any], descriptors: int, cores: int, stopped_s: float) -> dict[str, Any]:
    """How many slots each thing allows, by the last measurement; what allows the fewest is the bound.
    `stopped_s`: until nothing ran any more, when all were stopped together."""
    memory = row["memory_per_slot_mib"] * MIB
    per_slot_cpu = row["idle_cpu_percent_of_a_core"] / 100 / row["slots"]
    per_slot_cpu += row["recheck_all_cpu_s"] / row["slots"] / RECHECK_S_DEFAULT
    allowed = {
        "memory of 24 GiB, a tenth kept back": math.floor(0.9 * NODE_BYTES / max(1, memory)),
        "half of the cores, idle and re-checked": math.floor(cores / 2 / max(1e-9, per_slot_cpu)),
        f"open files of the node ({descriptors})": math.floor(
            (descriptors - 128) / max(0.1, row["descriptors_per_slot"])
        ),
        "K, for those whose leases end together": math.floor(
            row["slots"] * KILL_MS / 1000 / max(0.01, stopped_s)
        ),
        "slots that a node claims (TENURES_MAX)": TENURES_MAX,
    }
    first = min(allowed, key=lambda name: allowed[name])
    return {"allowed": allowed, "slots": allowed[first], "bound_by": first}


async def _stop_together(driver: Driver, tasks: list[Running]) -> float:
    """Stop all as when their leases end at one moment; seconds until no workload runs any more."""
    inside = [Path(f"/proc/{task.baseline.init_pid}") for task in tasks if task.baseline is not None]
    begin = time.perf_counter()

    def until_gone() -> float:
        while any(path.exists() for path in inside):
            time.sleep(POLL_S)
        return time.perf_counter() - begin

    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(driver.stop, task, STOP_GRACE_MS / 1000)
        stopped_s = await trio.to_thread.run_sync(until_gone, limiter=trio.CapacityLimiter(1))
    tasks.clear()
    return stopped_s


async def _stop(driver: Driver, tasks: list[Running]) -> None:
    while tasks:
        async with trio.open_nursery() as nursery:
            for task in tasks[-8:]:
                nursery.start_soon(driver.stop, task, 0)
        del tasks[-8:]


def _helpers(task: Running) -> list[int]:
    """Every process of a task: launcher, bubblewrap, doors, and those inside."""
    assert task.baseline is not None
    assert task.launcher is not None
    found = {task.launcher.pid, *procs.members(task.baseline.namespace)}
    found |= {door.pid for door in (task.portal, task.outlet) if door is not None}
    above = Path(f"/proc/{task.launcher.pid}/task/{task.launcher.pid}/children")
    if above.exists():
        found |= {int(pid) for pid in above.read_text().split()}
    return sorted(found)


def _cpu_ms(held: list[list[int]]) -> int:
    return sum(procs.cpu_ms(pid) for pids in held for pid in pids)


def _pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _meminfo() -> dict[str, int]:
    """Bytes by name."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def why_not() -> str:
    """Why there is nothing to measure here, or ""."""
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    if not Path("/bin/busybox").exists():
        return "busybox-static is not installed"
    return ""
