"""The sandbox driver does its job: services answer, jobs leave results, logs are bounded, stops in time."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from node.executor.doors import probe
from node.executor.drivers.base import PortSpec
from node.executor.errors import ResultRefused, SpecRefused, StartFailed, VerificationFailed
from node.executor.host import procs
from node.executor.limits import KILL_WITHIN_S, RESULT_BYTES_MAX

from .conftest import Bench, found_below, make_tar, sha256

WEB = ("/bin/busybox", "httpd", "-f", "-v", "-p", "8080", "-h", "/site")
PAGE = b"<h1>verified</h1>" * 5000


async def fetch(address: tuple[str, int], path: str) -> bytes:
    """Return the whole answer to a GET."""
    data = b""
    with trio.fail_after(60):
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            while chunk := await stream.receive_some(65536):
                data += chunk
    return data


async def healthy(address: tuple[str, int], path: str = "/") -> None:
    with trio.fail_after(60):
        while not (await probe.http_get(*address, path, 2.0)).healthy:
            await trio.sleep(0.02)


async def test_service_answers_through_its_port(bench: Bench) -> None:
    site = bench.tree("/site", make_tar({"index.html": PAGE, "img/": None, "img/a.txt": b"a"}))
    spec = bench.spec(WEB, trees=(site,), ports=(PortSpec("http", 8080),))
    async with bench.running(spec) as handle:
        address = handle.ports["http"]
        await healthy(address, "/index.html")
        answer = await fetch(address, "/index.html")
        assert answer.startswith((b"HTTP/1.0 200", b"HTTP/1.1 200"))
        assert answer.endswith(PAGE)
        assert (await probe.tcp_open(*address, 1.0)).healthy
        assert (await probe.http_get(*address, "/none", 2.0)).reason == "status 404"
        live = await bench.driver.probe(handle)
        assert live.alive and live.ports_served and live.processes >= 1
        attested = await bench.driver.attest(handle)
        assert attested.ok, attested.drifts
        assert attested.files_checked == 3
        assert attested.processes_checked >= 2
    assert not (await probe.tcp_open(*address, 1.0)).healthy


async def test_many_connections_at_once(bench: Bench) -> None:
    site = bench.tree("/site", make_tar({"index.html": PAGE}))
    async with bench.running(bench.spec(WEB, trees=(site,), ports=(PortSpec("http", 8080),))) as handle:
        await healthy(handle.ports["http"])
        good: list[bytes] = []

        async def one() -> None:
            good.append(await fetch(handle.ports["http"], "/index.html"))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(one)
        assert [answer.endswith(PAGE) for answer in good] == [True] * 20


async def test_job_leaves_results(bench: Bench) -> None:
    corpus = bench.file("/data/words", b"one two\ntwo\n")
    script = "mkdir /result/sub; grep -c two /data/words > /result/sub/count; echo $WHO; exit 7"
    spec = bench.shell(script, files=(corpus,), results=("/result/sub/count",), env={"WHO": "me"})
    async with bench.running(spec) as handle:
        ended = await bench.driver.wait(handle)
        assert (ended.code, ended.signal, ended.oom) == (7, None, False)
        assert not ended.ok
        (result,) = await bench.driver.collect(handle)
        assert (result.path, result.data, result.digest) == ("/result/sub/count", b"2\n", sha256(b"2\n"))
        assert bench.driver.logs(handle, 100) == b"me\n"
        assert not (await bench.driver.probe(handle)).alive
    assert (await bench.driver.stop(handle, 1)).code == 7


@pytest.mark.parametrize(
    ("script", "rule"),
    [
        ("ln -s /etc/passwd /result/out", "behind no link"),
        ("mkdir /result/out", "plain file"),
        ("mkfifo /result/out", "plain file"),
        ("true", "No such file"),
        ("mkdir /tmp/a; echo x > /tmp/a/out; ln -s /tmp/a /result/sub", "behind no link"),
        (f"busybox truncate -s {RESULT_BYTES_MAX + 1} /result/out", "at most"),
    ],
)
async def test_bad_results_are_refused(bench: Bench, script: str, rule: str) -> None:
    path = "/result/sub/out" if "sub" in script else "/result/out"
    resources = bench.spec(("/x",)).resources
    roomy = type(resources)(resources.cpu_millis, resources.memory_bytes, 64 << 20, resources.pids)
    async with bench.running(bench.shell(script, results=(path,), resources=roomy)) as handle:
        await bench.driver.wait(handle)
        with pytest.raises(ResultRefused, match=rule):
            await bench.driver.collect(handle)


async def test_wrong_digest_is_refused(bench: Bench) -> None:
    good = bench.busybox()
    good = replace(good, path="/bin/other")
    for bad, field in (
        (replace(good, digest="0" * 64), "files[1].digest"),
        (replace(good, size_bytes=good.size_bytes - 1), "files[1].size_bytes"),
        (replace(good, size_bytes=good.size_bytes + 1), "files[1].size_bytes"),
        (replace(good, source=Path("/proc/none")), "files[1].source"),
        (replace(good, source=bench.folder), "files[1].source"),
    ):
        with pytest.raises(VerificationFailed) as caught:
            await bench.driver.prepare(bench.spec(("/bin/busybox",), files=(bad,)))
        assert caught.value.field == field


async def test_bad_tree_is_refused_and_named(bench: Bench) -> None:
    bad = bench.tree("/site", make_tar({"../up": b"x"}))
    with pytest.raises(VerificationFailed, match=r"trees\[0\]: \.\./up"):
        await bench.driver.prepare(bench.spec(WEB, trees=(bad,)))


async def test_source_replaced_after_prepare_changes_nothing(bench: Bench) -> None:
    script = bench.file("/run.sh", b"echo verified bytes\n")
    prepared = await bench.driver.prepare(bench.spec(("/bin/busybox", "sh", "/run.sh"), files=(script,)))
    script.source.write_bytes(b"echo tampered!!!!!!\n")
    handle = await bench.driver.start(prepared)
    try:
        assert (await bench.driver.wait(handle)).ok
        assert bench.driver.logs(handle, 100) == b"verified bytes\n"
    finally:
        await bench.driver.stop(handle, 0)


async def test_signal_and_missing_command(bench: Bench) -> None:
    async with bench.running(bench.shell("kill -USR1 $$")) as handle:
        ended = await bench.driver.wait(handle)
        assert (ended.code, ended.signal) == (None, signal.SIGUSR1)
    async with bench.running(bench.spec(("/bin/none",))) as handle:
        assert not (await bench.driver.wait(handle)).ok
        assert b"/bin/none" in bench.driver.logs(handle, 1000)


async def test_log_flood_is_bounded_and_keeps_the_newest(bench: Bench) -> None:
    script = "i=0; while [ $i -lt 4000 ]; do echo line-$i-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; i=$((i+1)); done"
    async with bench.running(bench.shell(script, log_bytes_max=8192)) as handle:
        assert (await bench.driver.wait(handle)).ok
        text = bench.driver.logs(handle, 1 << 20)
        assert len(text) == 8192
        assert text.endswith(b"line-3999-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n")
        assert bench.driver.logs(handle, 10) == text[-10:]
        assert bench.driver.logs(handle, 0) == b""


async def test_what_a_workload_writes_is_on_no_disk(bench: Bench, tmp_path: Path) -> None:
    """Its consumer asks for it (node.executor.logs); it is in memory, and gone with the task."""
    async with bench.running(bench.shell("echo the-patients-$((40 + 2)); sleep 60")) as handle:
        await bench.until_logged(handle, "the-patients-42")
        assert not found_below(tmp_path, b"the-patients-42")
    assert not found_below(tmp_path, b"the-patients-42")


async def test_endless_flood_does_not_eat_the_host(bench: Bench) -> None:
    async with bench.running(bench.shell("yes", log_bytes_max=8192)) as handle:
        await bench.until_logged(handle, "y")
        assert handle.launcher is not None
        started = time.monotonic()
        with trio.fail_after(60):
            while time.monotonic() - started < 2:
                await trio.sleep(0.05)
        assert _cpu_s(handle.launcher.pid) < 0.5


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_stop_is_gentle_first(bench: Bench) -> None:
    script = "trap 'echo bye > /result/bye; exit 3' TERM; echo up; while true; do sleep 0.05; done"
    handle = await bench.driver.start(await bench.driver.prepare(bench.shell(script)))
    await bench.until_logged(handle, "up")
    ended = await bench.driver.stop(handle, 5)
    assert ended.code == 3
    assert await bench.driver.stop(handle, 5) == ended


async def test_stop_is_in_time_when_sigterm_is_ignored(bench: Bench) -> None:
    script = "trap '' TERM; echo up; (while true; do sleep 0.01; done) & while true; do sleep 0.01; done"
    handle = await bench.driver.start(await bench.driver.prepare(bench.shell(script)))
    await bench.until_logged(handle, "up")
    started = time.monotonic()
    ended = await bench.driver.stop(handle, 0.3)
    took = time.monotonic() - started
    assert 0.3 <= took <= 0.3 + KILL_WITHIN_S
    assert ended.signal == signal.SIGKILL


async def test_stop_finishes_although_cancelled(bench: Bench) -> None:
    script = "trap '' TERM; echo up; while true; do sleep 0.01; done"
    handle = await bench.driver.start(await bench.driver.prepare(bench.shell(script)))
    await bench.until_logged(handle, "up")
    assert handle.baseline is not None
    namespace = handle.baseline.namespace
    with trio.move_on_after(0.1) as scope:
        await bench.driver.stop(handle, 60)
    assert scope.cancelled_caught
    assert handle.stopped is not None
    assert procs.members(namespace) == ()


async def test_many_may_wait(bench: Bench) -> None:
    async with bench.running(bench.shell("read x; exit 0")) as handle:
        codes: list[int | None] = []

        async def one() -> None:
            codes.append((await bench.driver.wait(handle)).code)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(one)
        assert len(codes) == 3 and len(set(codes)) == 1


async def test_same_task_twice_and_taken_port(bench: Bench) -> None:
    spec = bench.shell("while true; do sleep 1; done", ports=(PortSpec("http", 80),))
    async with bench.running(spec) as handle:
        with pytest.raises(StartFailed, match="there already"):
            await bench.driver.start(await bench.driver.prepare(spec))
        taken = PortSpec("http", 80, "127.0.0.1", handle.ports["http"][1])
        other = bench.shell("true", ports=(taken,))
        with pytest.raises(StartFailed, match="in use"):
            await bench.driver.start(await bench.driver.prepare(other))
        assert (await bench.driver.probe(handle)).alive
    assert not list((bench.folder / "run").iterdir())


async def test_bad_specification_is_refused(bench: Bench) -> None:
    with pytest.raises(SpecRefused, match="results"):
        await bench.driver.prepare(bench.shell("true", results=("/tmp/x",)))


async def test_start_cancelled_leaves_nothing(bench: Bench) -> None:
    prepared = await bench.driver.prepare(bench.shell("while true; do sleep 1; done"))
    with trio.CancelScope() as scope:
        scope.cancel()
        await bench.driver.start(prepared)
    assert scope.cancelled_caught
    assert not list((bench.folder / "run").iterdir())
    assert await bench.driver.recover() == []
