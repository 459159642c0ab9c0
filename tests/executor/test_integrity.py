"""A running task whose bytes, code, mounts or privileges change is found out."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from collections.abc import Callable

import pytest
import trio

from node.executor import integrity
from node.executor.drivers.base import Attestation
from node.executor.drivers.running import Running
from node.executor.drivers.stage import ROOT
from node.executor.errors import ExecutorError
from node.executor.host import kernel, procs

from .conftest import Bench, make_tar

IDLE = "echo up; while true; do sleep 0.1; done"


def inside(handle: Running) -> int:
    assert handle.baseline is not None
    return handle.baseline.init_pid


def as_host_root(pid: int, action: Callable[[], object]) -> None:
    """Run `action` in a child of ours that joined the mount namespace of `pid`, as the host's root can."""
    target = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            kernel.setns(target, kernel.CLONE_NEWNS)
            action()
            status = 0
        finally:
            os._exit(status)
    os.close(target)
    _, status = os.waitpid(child, 0)
    assert status == 0


def where(attested: Attestation) -> list[str]:
    return [drift.where for drift in attested.drifts]


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can tamper from outside")


async def test_nothing_changed(bench: Bench) -> None:
    tree = bench.tree("/data", make_tar({"a": b"1" * 10_000, "sub/b": b"2"}))
    async with bench.running(bench.shell(IDLE, trees=(tree,))) as handle:
        await bench.until_logged(handle, "up")
        for _ in range(3):
            attested = await bench.driver.attest(handle)
            assert attested.ok, attested.drifts
        assert attested.files_checked == 3
        assert attested.mappings_checked > 0


async def test_not_executing_before_process_1_has_its_filter(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bubblewrap's process 1 and the command that it forked race for their filters: start waits for both."""
    async with bench.running(bench.shell(IDLE)) as handle:
        await bench.until_logged(handle, "up")
        assert handle.baseline is not None
        assert integrity.executes(handle.baseline)
        init, real = handle.baseline.init_pid, procs.privileges
        late = procs.Privileges(0, 0, True)
        monkeypatch.setattr(procs, "privileges", lambda pid: late if pid == init else real(pid))
        assert not integrity.executes(handle.baseline)


async def test_ended_task_is_no_good(bench: Bench) -> None:
    async with bench.running(bench.shell("exit 0")) as handle:
        await bench.driver.wait(handle)
        attested = await bench.driver.attest(handle)
        assert attested.ended and not attested.ok
        assert attested.drifts == ()


async def test_bytes_of_an_ended_task_are_still_there(bench: Bench) -> None:
    tree = bench.tree("/data", make_tar({"a": b"1" * 10_000, "sub/b": b"2"}))
    async with bench.running(bench.shell("exit 0", trees=(tree,))) as handle:
        await bench.driver.wait(handle)
        attested = await bench.driver.attest_ended(handle)
        assert attested.ok and attested.ended
        assert (attested.files_checked, attested.drifts) == (3, ())
    with pytest.raises(ExecutorError, match="not ended by itself"):
        await bench.driver.attest_ended(handle)


async def test_bytes_that_went_with_the_launcher_are_no_drift(bench: Bench) -> None:
    async with bench.running(bench.shell("echo up; exit 0")) as handle:
        await bench.driver.wait(handle)
        assert handle.launcher is not None
        os.kill(handle.launcher.pid, signal.SIGKILL)
        with trio.fail_after(60):
            # Not before it is a zombie: a process that is ending gives up its mounts after its memory.
            while not procs.is_zombie(handle.launcher.pid):
                await trio.sleep(0.01)
        with pytest.raises(ExecutorError, match="launcher has ended"):
            await bench.driver.attest_ended(handle)


async def test_a_running_task_has_no_last_check(bench: Bench) -> None:
    async with bench.running(bench.shell(IDLE)) as handle:
        with pytest.raises(ExecutorError, match="not ended by itself"):
            await bench.driver.attest_ended(handle)


@needs_root
async def test_changed_bytes_of_an_ended_task(bench: Bench) -> None:
    await bench.plain()
    tree = bench.tree("/data", make_tar({"a": b"honest"}))
    async with bench.running(bench.shell("exit 0", trees=(tree,))) as handle:
        await bench.driver.wait(handle)

        def tamper() -> None:
            kernel.mount("none", ROOT, "none", kernel.MS_REMOUNT | kernel.MS_NOSUID | kernel.MS_NODEV)
            with open(f"{ROOT}/data/a", "r+b") as file:
                file.write(b"hijack")

        assert handle.launcher is not None
        as_host_root(handle.launcher.pid, tamper)
        attested = await bench.driver.attest_ended(handle)
        assert where(attested) == ["/data/a"]
        assert not attested.ok


@needs_root
async def test_changed_bytes(bench: Bench) -> None:
    await bench.plain()
    tree = bench.tree("/data", make_tar({"a": b"honest", "b": b"b"}))
    async with bench.running(bench.shell(IDLE, trees=(tree,))) as handle:
        await bench.until_logged(handle, "up")
        with pytest.raises(OSError, match="Read-only"):
            os.open(f"/proc/{inside(handle)}/root/data/a", os.O_WRONLY)

        def tamper() -> None:
            # Inside, the mount is locked read-only; the launcher's mount of the same tmpfs is not.
            kernel.mount("none", ROOT, "none", kernel.MS_REMOUNT | kernel.MS_NOSUID | kernel.MS_NODEV)
            with open(f"{ROOT}/data/a", "r+b") as file:
                file.write(b"hijack")
            os.chmod(f"{ROOT}/data/b", 0o755)
            with open(f"{ROOT}/data/new", "w") as file:
                file.write("x")

        assert handle.launcher is not None
        as_host_root(handle.launcher.pid, tamper)
        attested = await bench.driver.attest(handle)
        assert not attested.ok
        assert {"/data/a", "/data/b", "/data/new"} <= set(where(attested))


@needs_root
async def test_file_mounted_over(bench: Bench) -> None:
    async with bench.running(bench.shell(IDLE)) as handle:
        await bench.until_logged(handle, "up")

        def tamper() -> None:
            shutil.copyfile("/bin/busybox", "/tmp/other")
            kernel.mount("/tmp/other", "/bin/busybox", "none", 4096)

        as_host_root(inside(handle), tamper)
        attested = await bench.driver.attest(handle)
        assert {"/bin/busybox", "mounts"} <= set(where(attested))
        found = next(drift.found for drift in attested.drifts if drift.where == "/bin/busybox")
        assert found == "another file in its place"


@needs_root
async def test_foreign_process_in_the_sandbox(bench: Bench) -> None:
    """A shell that the host's operator sends in runs code that no artifact has."""
    async with bench.running(bench.shell(IDLE)) as handle:
        await bench.until_logged(handle, "up")
        command = ["nsenter", "-t", str(inside(handle)), "-p", "sleep", "60"]
        intruder = await trio.lowlevel.open_process(command)
        try:
            with trio.fail_after(60):
                while (await bench.driver.attest(handle)).ok:
                    await trio.sleep(0.02)
            attested = await bench.driver.attest(handle)
            assert any("sleep" in drift.found for drift in attested.drifts), attested.drifts
            assert any(drift.expected == "no capabilities" for drift in attested.drifts)
        finally:
            intruder.terminate()
            await intruder.wait()


PATCHER = r"""
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
__attribute__((noinline)) int answer(void) { return 1; }
int main(void) {
    int fd = open("/proc/self/mem", O_RDWR);
    long done = pwrite(fd, "\xc3", 1, (long)&answer);
    printf(done == 1 ? "patched\n" : "refused\n");
    fflush(stdout);
    for (;;) pause();
}
"""


@pytest.mark.parametrize("ruled", [True, False])
async def test_code_patched_in_memory(bench: Bench, compile_c: Callable[[str], bytes], ruled: bool) -> None:
    """No mapping changes its name when a process overwrites its own code; its pages tell. Landlock lets no
    process do it at all."""
    host = await bench.driver.examined()
    ruled = ruled and host.landlock
    bench.driver._host = dataclasses.replace(host, landlock=ruled)
    program = bench.file("/patcher", compile_c(PATCHER), 0o555)
    async with bench.running(bench.spec(("/patcher",), files=(program,))) as handle:
        text = await bench.until_logged(handle, "ed\n")
        attested = await bench.driver.attest(handle)
        assert text == "refused\n" or not ruled
        if text == "refused\n":
            assert attested.ok
        else:
            assert [drift.found for drift in attested.drifts] == ["changed in memory"]


async def test_recheck_of_10_mb_is_cheap(bench: Bench) -> None:
    data = bench.file("/data/big", os.urandom(10_000_000))
    async with bench.running(bench.shell(IDLE, files=(data,))) as handle:
        await bench.until_logged(handle, "up")
        best_ms = min([(await bench.driver.attest(handle)).duration_ms for _ in range(3)])
        print(f"attest of 10 MB: {best_ms:.1f} ms")
        assert best_ms < 1000


async def test_event_loop_is_not_held_up_by_a_recheck(bench: Bench) -> None:
    data = bench.file("/data/big", os.urandom(30_000_000))
    async with bench.running(bench.shell(IDLE, files=(data,))) as handle:
        await bench.until_logged(handle, "up")
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await trio.sleep(0.001)
                ticks += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            await bench.driver.attest(handle)
            nursery.cancel_scope.cancel()
        assert ticks >= 3


def test_mappings_of_ourselves() -> None:
    found = procs.executable_mappings(os.getpid())
    assert found is not None
    assert any("python" in mapping.name for mapping in found)
    assert any(mapping.name == "[vdso]" and mapping.inode == 0 for mapping in found)
    status = os.stat("/proc/self/exe")
    assert any(mapping.inode == status.st_ino for mapping in found)


def test_process_that_is_not_there() -> None:
    assert procs.start_ticks(2**22 + 1) is None
    assert procs.executable_mappings(2**22 + 1) is None
    assert procs.privileges(2**22 + 1) is None
    assert procs.mounts(2**22 + 1) is None
    assert procs.start_ticks(os.getpid()) is not None
