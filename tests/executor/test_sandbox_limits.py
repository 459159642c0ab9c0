"""Memory, processes, disk and CPU are bounded for real, and the driver says by what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import trio

from node.executor.drivers.base import Resources

from .conftest import RESOURCES, Bench

HOG = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(void) {
    for (int mib = 0; mib < 512; mib++) {
        char *block = malloc(1 << 20);
        if (!block) { printf("refused at %d MiB\n", mib); return 9; }
        memset(block, 1, 1 << 20);
    }
    printf("took 512 MiB\n");
    return 0;
}
"""


HOLD = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(void) {
    volatile char *block = malloc(48 << 20); // or the compiler leaves it out
    for (unsigned i = 0; i < 48 << 20; i += 4096) block[i] = 1;
    printf("held\n");
    fflush(stdout);
    for (volatile unsigned i = 0;; i++) block[i % (48 << 20)]++;
}
"""


async def test_memory_hog_is_killed(bench: Bench, compile_c: Callable[[str], bytes]) -> None:
    hog = bench.file("/hog", compile_c(HOG), 0o555)
    spec = bench.spec(("/hog",), files=(hog,), resources=replace(RESOURCES, memory_bytes=64 << 20))
    async with bench.running(spec) as handle:
        with trio.fail_after(60):
            ended = await bench.driver.wait(handle)
        assert not ended.ok
        if bench.driver.fingerprint().enforces("limit-memory"):
            assert ended.oom, ended
            assert ended.reason == "killed at the memory limit"
        else:
            assert b"refused at" in bench.driver.logs(handle, 1000)


async def test_memory_limit_counts_the_scratch(bench: Bench) -> None:
    if not bench.driver.fingerprint().enforces("limit-memory"):
        return
    resources = Resources(1000, 16 << 20, 64 << 20, 32)
    script = "dd if=/dev/zero of=/tmp/x bs=1M count=64; echo ended $?"
    text = await bench.output(bench.shell(script, resources=resources))
    assert "ended 0" not in text


async def test_fork_bomb_is_stopped(bench: Bench) -> None:
    script = "b() { b | b & }; b; echo up; while true; do sleep 0.1; done"
    async with bench.running(bench.shell(script, resources=replace(RESOURCES, pids=16))) as handle:
        await bench.until_logged(handle, "can't fork")
        live = await bench.driver.probe(handle)
        assert live.processes <= 16
        with trio.fail_after(60):
            await bench.driver.stop(handle, 0)


async def test_pids_limit_is_exact(bench: Bench) -> None:
    script = "i=0; while [ $i -lt 20 ]; do sleep 30 & i=$((i+1)); echo n$i; done"
    async with bench.running(bench.shell(script, resources=replace(RESOURCES, pids=8))) as handle:
        await bench.driver.wait(handle)
        text = bench.driver.logs(handle, 10_000).decode()
        # The shell itself is one of the eight.
        assert "n7\n" in text and "n8\n" not in text, text


async def test_scratch_is_bounded_in_bytes_and_inodes(bench: Bench) -> None:
    script = """
    busybox dd if=/dev/zero of=/tmp/big bs=64k count=1000 2>/dev/null || echo "tmp is full"
    busybox dd if=/dev/zero of=/result/big bs=64k count=1000 2>/dev/null || echo "so is result"
    du -sk /tmp /result | cut -f1
    rm /tmp/big; i=0; while true > /tmp/empty-$i; do i=$((i+1)); [ $i -gt 2000 ] && break; done 2>/dev/null
    echo "files $i"
    """
    text = await bench.output(bench.shell(script, resources=replace(RESOURCES, disk_bytes=1 << 20)))
    assert "tmp is full" in text and "so is result" in text
    lines = text.splitlines()
    assert sum(int(line) for line in lines if line.isdigit()) <= 1024
    assert int(lines[-1].split()[1]) < 200


async def test_cpu_is_bounded(bench: Bench) -> None:
    if not bench.driver.fingerprint().enforces("limit-cpu"):
        return
    script = "i=0; while [ $i -lt 20000000 ]; do i=$((i+1)); done"
    async with bench.running(bench.shell(script, resources=replace(RESOURCES, cpu_millis=100))) as handle:
        group = handle.group
        assert group is not None
        stat = group.paths["cpu"] / "cpu.stat"
        with trio.fail_after(60):
            while not _throttled(stat):
                await trio.sleep(0.05)


async def test_usage_of_a_busy_loop_and_of_memory_is_told(
    bench: Bench, compile_c: Callable[[str], bytes]
) -> None:
    """By cgroups as root, from /proc otherwise; it stays known when the task was stopped."""
    holder = bench.file("/hold", compile_c(HOLD), 0o555)
    async with bench.running(bench.spec(("/hold",), files=(holder,))) as handle:
        await bench.until_logged(handle, "held")
        before = await bench.driver.usage(handle)
        assert 48 << 20 <= before.memory_bytes_max < 80 << 20, before
        with trio.fail_after(60):
            while (now := await bench.driver.usage(handle)).cpu_ms < before.cpu_ms + 300:
                await trio.sleep(0.05)
        assert now.cpu_ms < 20_000
        await bench.driver.stop(handle, 0)
        last = await bench.driver.usage(handle)
        assert last.cpu_ms >= now.cpu_ms and last.memory_bytes_max >= now.memory_bytes_max


async def test_usage_counts_processes_that_have_ended(bench: Bench) -> None:
    """Also when all have, the first among them, as with a job that is over."""
    script = "(i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done); echo done"
    async with bench.running(bench.shell(script)) as handle:
        with trio.fail_after(60):
            await bench.driver.wait(handle)
        used = await bench.driver.usage(handle)
        assert used.cpu_ms >= 50, used


async def test_an_idle_task_uses_little(bench: Bench) -> None:
    async with bench.running(bench.shell("echo up; sleep 60")) as handle:
        await bench.until_logged(handle, "up")
        used = await bench.driver.usage(handle)
        assert used.cpu_ms < 1_000
        assert 0 < used.memory_bytes_max < 32 << 20


def _throttled(stat: Path) -> bool:
    fields = dict(line.split() for line in stat.read_text().splitlines())
    return int(fields["nr_throttled"]) > 2


async def test_groups_are_gone_after_stop(bench: Bench) -> None:
    async with bench.running(bench.shell("echo up; while true; do sleep 1; done")) as handle:
        await bench.until_logged(handle, "up")
        group = handle.group
        paths = list(group.paths.values()) if group is not None else []
        assert all(path.is_dir() for path in paths)
        if group is not None:
            # The monitor, process 1, the shell and its sleep: all of the task, and nobody else.
            assert 3 <= len(group.pids()) <= 4
    assert not any(path.exists() for path in paths)
