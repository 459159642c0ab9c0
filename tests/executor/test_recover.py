"""When the node dies, its workloads die; what is left over all the same, the next run finds and kills."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from node.executor.drivers import records
from node.executor.drivers.base import PortSpec
from node.executor.drivers.sandbox import SandboxDriver
from node.executor.host import procs

from .conftest import Bench

NODE = """
import json, sys
from pathlib import Path
import trio
from node.executor.drivers.base import FileSpec, PortSpec, Resources, TaskSpec
from node.executor.drivers.sandbox import SandboxDriver

async def main():
    run_dir, digest, size = sys.argv[1:]
    driver = SandboxDriver(Path(run_dir))
    busybox = FileSpec("/bin/busybox", digest, int(size), 0o555, Path("/bin/busybox"))
    command = ("/bin/busybox", "sh", "-c", "trap '' TERM HUP; while true; do sleep 0.05; done")
    spec = TaskSpec("d.s.1", command, {}, (busybox,), (), (PortSpec("http", 80),),
                    Resources(1000, 64 << 20, 1 << 20, 8))
    handle = await driver.start(await driver.prepare(spec))
    pids = [handle.launcher.pid, handle.portal.pid, *procs.members(handle.baseline.namespace)]
    print(json.dumps(pids), flush=True)
    await trio.sleep_forever()

from node.executor.host import procs
trio.run(main)
"""


async def start_node(bench: Bench) -> tuple[trio.Process, list[int]]:
    """Start a node process with one task; return it with the pids of all that the task is made of."""
    busybox = bench.busybox()
    command = [sys.executable, "-c", NODE, str(bench.folder / "run"), busybox.digest, str(busybox.size_bytes)]
    environment = dict(os.environ, PYTHONPATH=str(Path(records.__file__).parents[3]))
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    text = b""
    with trio.fail_after(60):
        while b"\n" not in text:
            chunk = await process.stdout.receive_some(4096)
            assert chunk, "the node ended early"
            text += chunk
    return process, json.loads(text)


async def until_gone(pids: Iterable[int]) -> None:
    with trio.fail_after(60):
        while any(procs.start_ticks(pid) is not None and not procs.is_zombie(pid) for pid in pids):
            await trio.sleep(0.01)


async def test_sigkill_of_the_node_leaves_no_workload(bench: Bench) -> None:
    process, pids = await start_node(bench)
    assert len(pids) >= 4
    process.kill()
    await process.wait()
    await until_gone(pids)
    assert await bench.driver.recover() == ["d.s.1"]
    assert await bench.driver.recover() == []
    assert not list((bench.folder / "run").iterdir())


async def test_recover_kills_what_could_not_die_by_itself(bench: Bench) -> None:
    """The launcher is stopped, so it does not see that the node died: only recover can end the task."""
    process, pids = await start_node(bench)
    launcher = pids[0]
    os.kill(launcher, signal.SIGSTOP)
    process.kill()
    await process.wait()
    init = pids[2]
    assert procs.start_ticks(init) is not None
    assert not procs.is_zombie(init)
    assert await bench.driver.recover() == ["d.s.1"]
    await until_gone(pids)
    groups = bench.driver._examined().groups
    assert groups is None or groups.leftovers() == {}


@asynccontextmanager
async def left_over(bench: Bench) -> AsyncIterator[list[int]]:
    """The pids of a task that survives its node's SIGKILL, since its launcher is stopped."""
    process, pids = await start_node(bench)
    os.kill(pids[0], signal.SIGSTOP)
    process.kill()
    await process.wait()
    try:
        yield pids
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await until_gone(pids)
        await bench.driver.recover()


async def test_recover_finds_by_its_group_what_no_record_names(bench: Bench) -> None:
    """As when the node was killed before it had written the record."""
    if bench.driver._examined().groups is None:
        pytest.skip("there are no control groups here")
    async with left_over(bench) as pids:
        for record in (bench.folder / "run").iterdir():
            record.unlink()
        assert await bench.driver.recover() == ["d.s.1"]
        await until_gone(pids[2:])


async def test_recover_finds_by_pid_and_start_time_what_is_in_no_group(bench: Bench) -> None:
    """As where the host has none. A process that was started at another time is left alone."""
    driver = SandboxDriver(bench.folder / "run")
    driver._host = replace(bench.driver._examined(), groups=None)
    async with left_over(bench) as pids:
        (file,) = (bench.folder / "run").iterdir()
        record = json.loads(file.read_text())
        record["processes"] = {pid: ticks + 1 for pid, ticks in record["processes"].items()}
        other = file.with_name("other.s.1.task.json")
        other.write_text(json.dumps(record | {"task_id": "other.s.1"}))
        text = file.read_text()
        file.unlink()
        assert await driver.recover() == ["other.s.1"]
        launcher, _, *inside = pids  # the portal ends by itself, with the node
        assert all(procs.start_ticks(pid) is not None for pid in (launcher, *inside))
        file.write_text(text)
        assert await driver.recover() == ["d.s.1"]
        await until_gone(pids)


async def test_sigkill_of_the_launcher_ends_the_task(bench: Bench) -> None:
    spec = bench.shell(
        "trap '' TERM; echo up; while true; do sleep 0.05; done", ports=(PortSpec("http", 80),)
    )
    handle = await bench.driver.start(await bench.driver.prepare(spec))
    await bench.until_logged(handle, "up")
    assert handle.launcher is not None and handle.baseline is not None
    pids = procs.members(handle.baseline.namespace)
    os.kill(handle.launcher.pid, signal.SIGKILL)
    with trio.fail_after(60):
        ended = await bench.driver.wait(handle)
    assert ended.signal == signal.SIGKILL and "launcher" in ended.reason
    await until_gone(pids)
    await bench.driver.stop(handle, 1)
    assert not list((bench.folder / "run").iterdir())


async def test_dead_portal_is_seen(bench: Bench) -> None:
    spec = bench.shell("while true; do sleep 0.05; done", ports=(PortSpec("http", 80),))
    async with bench.running(spec) as handle:
        assert (await bench.driver.probe(handle)).ports_served
        assert handle.portal is not None
        os.kill(handle.portal.pid, signal.SIGKILL)
        with trio.fail_after(60):
            while (await bench.driver.probe(handle)).ports_served:
                await trio.sleep(0.01)


async def test_recover_spares_what_runs_and_what_is_not_ours(bench: Bench) -> None:
    async with bench.running(bench.shell("echo up; while true; do sleep 0.05; done")) as handle:
        await bench.until_logged(handle, "up")
        # A record whose pid belongs to another process by now: this one.
        run_dir = bench.folder / "run"
        stale = {"task_id": "old.s.1", "boot": procs.boot_id(), "processes": {str(os.getpid()): 1}}
        (run_dir / "old.s.1.task.json").write_text(json.dumps(stale))
        (run_dir / "torn.s.1.task.json").write_text('{"task_id": "torn')
        other = SandboxDriver(bench.folder / "other")
        assert await other.recover() == []
        assert await bench.driver.recover() == ["old.s.1", "torn.s.1"]
        assert (await bench.driver.probe(handle)).alive
        assert (await bench.driver.attest(handle)).ok


def test_records_of_another_boot_name_nobody(tmp_path: Path) -> None:
    records.write(tmp_path, "a.b.1", [os.getpid()])
    (record,) = records.read_all(tmp_path)
    assert record.living() == [os.getpid()]
    assert records.Record("a.b.1", "another boot", record.processes).living() == []
    records.remove(tmp_path, "a.b.1")
    assert records.read_all(tmp_path) == []


@pytest.mark.parametrize("text", ["", "[]", "null", '{"boot": 1}', '{"boot": "x", "processes": {"a": 1}}'])
def test_garbage_in_a_record_is_survived(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.b.1.task.json").write_text(text)
    (record,) = records.read_all(tmp_path)
    assert record.task_id == "a.b.1"
    assert record.living() == []
