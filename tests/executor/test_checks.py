"""Commands of a contract that run inside a running sandbox: as confined as the workload, and gone in time."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from node.executor.drivers.running import Running
from node.executor.errors import ExecutorError
from node.executor.host import procs
from node.executor.host.census import Census

from .conftest import Bench

SLEEPS = "echo up; while true; do sleep 1; done"


def shell(script: str) -> tuple[str, ...]:
    return "/bin/busybox", "sh", "-c", script


async def test_its_exit_status_is_told(either: Bench) -> None:
    async with either.running(either.shell(SLEEPS)) as handle:
        await either.until_logged(handle, "up")
        check = either.driver.check
        assert await check(handle, ("/bin/busybox", "true"), 5) == 0
        assert await check(handle, ("/bin/busybox", "false"), 5) == 1
        assert await check(handle, shell("exit 42"), 5) == 42
        assert await check(handle, shell("kill -9 $$"), 5) == 137
        with pytest.raises(ExecutorError, match="No such file"):
            await check(handle, ("/bin/none",), 5)


async def test_it_is_as_confined_as_the_workload(either: Bench) -> None:
    """The same namespaces, no capability, the filters, the rules, the groups; what it leaves shows it."""
    script = """
    {
    for n in user pid net mnt ipc uts cgroup; do readlink /proc/self/ns/$n; done
    grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups)' /proc/self/status
    cat /proc/self/cgroup; ulimit -a
    ls -l /proc/self/fd | wc -l
    cp /bin/busybox /tmp/x-WHO; /tmp/x-WHO true 2>&1 | tr -d a-z; mount -t tmpfs none /tmp; unshare -U true
    echo x > /proc/self/comm; echo x > /bin/y; env | grep -vE '^(HOME|HOSTNAME)='  # podman's own
    } > /tmp/WHO 2>&1
    """
    async with either.running(either.shell(script.replace("WHO", "workload") + SLEEPS)) as handle:
        await either.until_logged(handle, "up")
        assert await either.driver.check(handle, shell(script.replace("WHO", "check")), 10) == 0
        differ = "diff /tmp/workload /tmp/check > /tmp/diff"
        assert await either.driver.check(handle, shell(differ), 10) == 0, show(handle)
        assert (
            await either.driver.check(handle, shell("grep -q 'CapEff.*0000000000000000' /tmp/check"), 5) == 0
        )
        assert await either.driver.check(handle, shell("grep -q 'Seccomp:.*2' /tmp/check"), 5) == 0


def show(handle: object) -> str:
    assert isinstance(handle, Running) and handle.baseline is not None
    with open(f"/proc/{handle.baseline.init_pid}/root/tmp/diff") as file:
        return file.read()


async def test_what_takes_too_long_is_killed_with_all_that_it_started(either: Bench) -> None:
    async with either.running(either.shell(SLEEPS)) as handle:
        await either.until_logged(handle, "up")
        assert isinstance(handle, Running) and handle.baseline is not None
        namespace = handle.baseline.namespace
        with trio.fail_after(60):
            assert await either.driver.check(handle, shell("sleep 777 & sleep 778 & sleep 779"), 0.3) is None
            while any("77" in cmdline(pid) for pid in procs.members(namespace)):
                await trio.sleep(0.05)
        assert (await either.driver.probe(handle)).alive


def cmdline(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read()
    except OSError:
        return ""


async def test_re_checks_of_the_bytes_go_on_beside_it(either: Bench) -> None:
    """What enters is seen as the workload's own only when it is: no re-check takes it for drift."""
    async with either.running(either.shell(SLEEPS)) as handle:
        await either.until_logged(handle, "up")
        over = trio.Event()

        async def checks() -> None:
            for _ in range(12):
                assert await either.driver.check(handle, shell("sleep 0.05"), 5) == 0
            over.set()

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(checks)
                while not over.is_set():
                    found = await either.driver.attest(handle)
                    assert found.ok, found.drifts


async def test_a_re_check_waits_for_what_is_entering(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    async def members(_census: Census, namespace: str) -> tuple[int, ...]:
        looked.append(namespace)
        return ()

    monkeypatch.setattr(Census, "members", members)
    async with bench.running(bench.shell(SLEEPS)) as handle:
        await bench.until_logged(handle, "up")
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery, handle.entering:
                nursery.start_soon(bench.driver.attest, handle)
                await trio.testing.wait_all_tasks_blocked()
                assert looked == []
        assert looked == [handle.baseline and handle.baseline.namespace]


async def test_it_counts_among_the_workloads_processes_and_ends_with_it(either: Bench) -> None:
    async with either.running(either.shell(SLEEPS)) as handle:
        await either.until_logged(handle, "up")
        assert isinstance(handle, Running) and handle.baseline is not None
        namespace = handle.baseline.namespace
        async with trio.open_nursery() as nursery:

            async def long() -> None:
                with pytest.raises(ExecutorError):
                    raise ExecutorError(str(await either.driver.check(handle, shell("sleep 60"), 60)))

            nursery.start_soon(long)
            with trio.fail_after(60):
                while not any("60" in cmdline(pid) for pid in procs.members(namespace)):
                    await trio.sleep(0.02)
            with trio.fail_after(60):
                await either.driver.stop(handle, 0.1)
        assert not procs.members(namespace)
        with pytest.raises(ExecutorError, match="not running"):
            await either.driver.check(handle, ("/bin/busybox", "true"), 5)
