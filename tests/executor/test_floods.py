"""Floods of the same program under a narrow limit and under a wide one: the limit is what stops them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import trio

from node.executor.drivers.base import Resources

from .conftest import RESOURCES, Bench

MIB = 1 << 20
TAKE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(int count, char **words) {
    for (int mib = 0; mib < atoi(words[1]); mib++) {
        volatile char *block = malloc(1 << 20);
        if (!block) return 9;
        for (int i = 0; i < 1 << 20; i += 4096) block[i] = 1;
    }
    puts("took all");
    return 0;
}
"""


async def forked(bench: Bench, resources: Resources) -> int:
    """How many of 40 processes that rest could be started."""
    script = "i=0; while [ $i -lt 40 ]; do sleep 30 & i=$((i+1)); echo n$i; done; echo over; sleep 30"
    async with bench.running(bench.shell(script, resources=resources)) as handle:
        with trio.fail_after(60):
            while handle.exit is None and b"over" not in bench.driver.logs(handle, 10_000):
                await trio.sleep(0.02)
                if b"can't fork" in bench.driver.logs(handle, 10_000):
                    break
        return max(map(int, re.findall(r"n(\d+)\n", bench.driver.logs(handle, 10_000).decode())), default=0)


async def test_processes(bench: Bench) -> None:
    assert await forked(bench, replace(RESOURCES, pids=12)) < 12
    assert await forked(bench, replace(RESOURCES, pids=64)) == 40


async def test_memory(bench: Bench, compile_c: Callable[[str], bytes]) -> None:
    program = bench.file("/take", compile_c(TAKE), 0o555)
    for memory_mib, gets_it in ((32, False), (160, True)):
        resources = replace(RESOURCES, memory_bytes=memory_mib * MIB)
        text = await bench.output(bench.spec(("/take", "96"), files=(program,), resources=resources))
        assert ("took all" in text) == gets_it, (memory_mib, text)


@pytest.mark.parametrize("folder", ["/tmp", "/result"])
async def test_disk(bench: Bench, folder: str) -> None:
    script = f"dd if=/dev/zero of={folder}/big bs=64k count=48 2>/dev/null && echo took all"
    for disk_mib, gets_it in ((1, False), (16, True)):
        text = await bench.output(
            bench.shell(script, resources=replace(RESOURCES, disk_bytes=disk_mib * MIB))
        )
        assert ("took all" in text) == gets_it, (disk_mib, text)


async def test_logs(bench: Bench) -> None:
    """Of what is written a ring keeps the newest bytes: as many as its size, however many come."""
    script = "i=0; while [ $i -lt 3000 ]; do echo line-$i-of-a-flood; i=$((i+1)); done; echo the end"
    small = await bench.output(bench.shell(script, log_bytes_max=4096))
    assert len(small) <= 4096 and small.endswith("the end\n") and "line-0-" not in small
    large = await bench.output(bench.shell(script, log_bytes_max=1 << 17))
    assert "line-0-" in large and len(large) > 60_000


async def test_result_files(bench: Bench) -> None:
    """More than a node takes into memory is refused by name; a byte less is taken."""
    from node.executor import limits
    from node.executor.errors import ResultRefused

    wide = replace(RESOURCES, disk_bytes=64 * MIB)
    for size_bytes, taken in ((limits.RESULT_BYTES_MAX, True), (limits.RESULT_BYTES_MAX + 1, False)):
        script = f"head -c {size_bytes} /dev/zero > /result/flood"
        spec = bench.shell(script, resources=wide, results=("/result/flood",))
        async with bench.running(spec) as handle:
            assert (await bench.driver.wait(handle)).ok
            if taken:
                (found,) = await bench.driver.collect(handle)
                assert found.size_bytes == size_bytes
            else:
                with pytest.raises(ResultRefused, match="flood"):
                    await bench.driver.collect(handle)
