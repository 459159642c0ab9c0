"""Whatever holds the node up, its workload ends in time: the launcher kills by itself (leases, rule 4)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from ledger.limits import KILL_MS, LEASE_MS
from node.executor.drivers import records
from node.executor.executor import boot_ms
from node.executor.host import procs
from node.executor.lease import STOP_GRACE_MS, LeaseClock
from node.executor.limits import KILL_WITHIN_S

from .conftest import Bench

IDLE = "trap '' TERM HUP; echo up; while true; do sleep 0.05; done"

NODE = """
import json, sys
from pathlib import Path
import trio
from node.executor.host import procs
from node.executor.drivers.base import FileSpec, Resources, TaskSpec
from node.executor.drivers.sandbox import SandboxDriver
from node.executor.executor import boot_ms

async def main():
    run_dir, digest, size, lease_ms = sys.argv[1:]
    driver = SandboxDriver(Path(run_dir))
    busybox = FileSpec("/bin/busybox", digest, int(size), 0o555, Path("/bin/busybox"))
    command = ("/bin/busybox", "sh", "-c", "trap '' TERM HUP; while true; do sleep 0.05; done")
    spec = TaskSpec("d.s.1", command, {}, (busybox,), (), (), Resources(1000, 64 << 20, 1 << 20, 8))
    await driver.examined()
    kill_at_ms = boot_ms() + int(lease_ms)
    handle = await driver.start(await driver.prepare(spec), kill_at_ms)
    pids = procs.members(handle.baseline.namespace)
    print(json.dumps([kill_at_ms, *pids]), flush=True)
    ended = await driver.wait(handle)
    print(json.dumps([ended.signal, ended.reason]), flush=True)
    await driver.stop(handle, 0)

trio.run(main)
"""


async def line(process: trio.Process) -> list[object]:
    assert process.stdout is not None
    text = b""
    while b"\n" not in text:
        chunk = await process.stdout.receive_some(4096)
        assert chunk, "the node ended early"
        text += chunk
    found: list[object] = json.loads(text)
    return found


def alive(pids: list[int]) -> bool:
    return any(procs.start_ticks(pid) is not None and not procs.is_zombie(pid) for pid in pids)


async def test_a_frozen_node_keeps_nothing_running(bench: Bench) -> None:
    """SIGSTOP, as a debugger, a paused machine or a hung disk does it: only others can act then."""
    busybox = bench.busybox()
    arguments = [str(bench.folder / "run"), busybox.digest, str(busybox.size_bytes), "3000"]
    environment = dict(os.environ, PYTHONPATH=str(Path(records.__file__).parents[3]))
    command = [sys.executable, "-c", NODE, *arguments]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, env=environment)
    try:
        with trio.fail_after(60):
            kill_at_ms, *pids = map(int, await line(process))  # type: ignore[call-overload]
            process.send_signal(signal.SIGSTOP)
            assert len(pids) >= 2
            died_ms = 0
            while not died_ms:
                now_ms = boot_ms()
                died_ms = 0 if alive(pids) else now_ms
                await trio.sleep(0.01)
            assert kill_at_ms <= died_ms < kill_at_ms + KILL_MS / 2
            process.send_signal(signal.SIGCONT)
            number, reason = await line(process)
            assert number == signal.SIGKILL and "did not answer in time" in str(reason)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            await process.wait()


async def test_who_renews_is_kept_running(bench: Bench) -> None:
    spec = bench.shell(IDLE)
    handle = await bench.driver.start(await bench.driver.prepare(spec), boot_ms() + 60_000)
    try:
        await bench.until_logged(handle, "up")
        first_ms = boot_ms()
        while boot_ms() < first_ms + 4_500:
            kept_ms = boot_ms() + 3_000
            bench.driver.keep(handle, kept_ms)
            await trio.sleep(0.2)
        assert handle.exit is None and (await bench.driver.probe(handle)).alive
        with trio.fail_after(60):
            ended = await bench.driver.wait(handle)
        assert ended.signal == signal.SIGKILL and "did not answer in time" in ended.reason
        assert boot_ms() >= kept_ms
        bench.driver.keep(handle, boot_ms() + 3_000)  # harmless
    finally:
        await bench.driver.stop(handle, 0)
    bench.driver.keep(handle, boot_ms())


async def test_a_time_that_is_past_kills_at_once(bench: Bench) -> None:
    async with bench.running(bench.shell(IDLE)) as handle:
        await bench.until_logged(handle, "up")
        bench.driver.keep(handle, boot_ms() - 1)
        with trio.fail_after(60):
            assert (await bench.driver.wait(handle)).signal == signal.SIGKILL


async def test_a_hung_launcher_does_not_hold_the_node_up(bench: Bench) -> None:
    """Its pipe fills up; the node goes on, and its own stop still works."""
    handle = await bench.driver.start(await bench.driver.prepare(bench.shell(IDLE)), boot_ms() + 60_000)
    try:
        assert handle.launcher is not None
        os.kill(handle.launcher.pid, signal.SIGSTOP)
        for _ in range(10_000):
            bench.driver.keep(handle, boot_ms() + 60_000)
    finally:
        await bench.driver.stop(handle, 0)


@pytest.mark.parametrize("sent_ms", [0, 123_456])
def test_the_launcher_kills_after_the_nodes_own_stop_and_before_the_ledger_frees(sent_ms: int) -> None:
    lease = LeaseClock.claimed(sent_ms)
    stopped_ms = lease.deadline_ms + STOP_GRACE_MS + int(KILL_WITHIN_S * 1000)
    assert lease.kill_at_ms >= stopped_ms
    assert lease.kill_at_ms + 1_000 <= sent_ms + LEASE_MS + KILL_MS
    assert lease.renewed(sent_ms + 10_000).kill_at_ms == lease.kill_at_ms + 10_000
