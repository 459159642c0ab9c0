"""Landlock beside seccomp: code, reading, writing and devices, each where it belongs, whatever modes say."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable

import pytest

from node.executor.drivers import entry, trial
from node.executor.host import landlock

from .conftest import Bench, make_tar

needs_landlock = pytest.mark.skipif(
    landlock.abi() < landlock.ABI_LEAST or not entry.supported(), reason="the kernel speaks no Landlock here"
)

PROBE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#define TRY(name, call) do { errno = 0; long r = (long)(call); \
    printf("%s %s %d\n", name, r < 0 ? "refused" : "DONE", errno); fflush(stdout); } while (0)
__attribute__((noinline)) int answer(void) { return 1; }
int main(int argc, char **argv) {
    TRY("own-memory", open("/proc/self/mem", O_RDWR));
    TRY("own-name", open("/proc/self/comm", O_WRONLY));
    TRY("oom-score", open("/proc/self/oom_score_adj", O_WRONLY));
    TRY("signal-process-1", kill(1, 0));
    TRY("allowed-read-proc", open("/proc/self/status", O_RDONLY));
    TRY("allowed-list-root", open("/", O_RDONLY | O_DIRECTORY));
    TRY("allowed-list-proc", open("/proc", O_RDONLY | O_DIRECTORY));
    TRY("allowed-null", open("/dev/null", O_RDWR));
    TRY("allowed-random", open("/dev/urandom", O_RDONLY));
    TRY("allowed-artifact", open("/data/sub/a", O_RDONLY));
    TRY("allowed-top-file", open("/plain", O_RDONLY));
    TRY("allowed-scratch", open("/tmp/file", O_RDWR | O_CREAT | O_TRUNC, 0644));
    TRY("allowed-result", open("/result/file", O_RDWR | O_CREAT | O_TRUNC, 0644));
    TRY("allowed-folder", mkdir("/tmp/sub", 0755));
    TRY("allowed-move", rename("/tmp/file", "/tmp/sub/file"));
    TRY("allowed-link", link("/tmp/sub/file", "/tmp/link"));
    TRY("allowed-symlink", symlink("/plain", "/tmp/soft"));
    TRY("allowed-fifo", mkfifo("/tmp/fifo", 0644));
    TRY("allowed-remove", unlink("/tmp/link"));
    TRY("allowed-signal-self", kill(getpid(), 0));
    TRY("allowed-exec", access("/probe", X_OK));
    return 0;
}
"""


async def probe(bench: Bench, compile_c: Callable[[str], bytes]) -> dict[str, tuple[str, int]]:
    files = (bench.file("/probe", compile_c(PROBE), 0o555), bench.file("/plain", b"x"))
    tree = bench.tree("/data/sub", make_tar({"a": b"a"}))
    text = await bench.output(bench.spec(("/probe",), files=files, trees=(tree,)))
    found = {name: (verdict, int(number)) for name, verdict, number in map(str.split, text.splitlines())}
    assert len(found) == PROBE.count("TRY(") - 1, text
    return found


@needs_landlock
async def test_what_landlock_denies(bench: Bench, compile_c: Callable[[str], bytes]) -> None:
    assert bench.driver.fingerprint().enforces("landlock")
    found = await probe(bench, compile_c)
    refused = {name: number for name, (verdict, number) in found.items() if verdict == "refused"}
    wanted = {"own-memory": errno.EACCES, "own-name": errno.EACCES, "oom-score": errno.EACCES}
    if landlock.abi() >= 6:
        wanted["signal-process-1"] = errno.EPERM
    assert refused == wanted


@needs_landlock
async def test_nothing_else_denies_it(bench: Bench, compile_c: Callable[[str], bytes]) -> None:
    """The control: the same task without the rules, so it is Landlock that the test above sees."""
    host = await bench.driver.examined()
    bench.driver._host = dataclasses.replace(host, landlock=False)
    found = await probe(bench, compile_c)
    assert {name for name, (verdict, _) in found.items() if verdict == "refused"} == set()


@needs_landlock
async def test_the_command_gets_its_words_and_environment_and_no_descriptor(bench: Bench) -> None:
    script = 'echo "$0|$1|$2|$ONE|$TWO"; ls /proc/$$/fd; readlink /proc/$$/exe'
    command = ("/bin/busybox", "sh", "-c", script, "a b", "", "c\td")
    text = await bench.output(bench.spec(command, env={"ONE": "1 1", "TWO": ""}))
    first, *fds, program = text.splitlines()
    assert first == "a b||c\td|1 1|"
    assert sorted(fds) == ["0", "1", "2"]
    assert program == "/bin/busybox"


@needs_landlock
async def test_a_command_that_is_no_program(bench: Bench) -> None:
    data = bench.file("/data", b"not a program")
    async with bench.running(bench.spec(("/data",), files=(data,))) as handle:
        ended = await bench.driver.wait(handle)
        assert ended.code == 127
        assert b"cannot execute /data" in bench.driver.logs(handle, 1000)


def test_a_trial_that_shows_no_denial_is_not_advertised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: landlock.ABI_LEAST)
    monkeypatch.setattr(entry, "supported", lambda: True)
    free = {"open": "written", "shut": "written"}
    ruled = {"open": "written", "shut": "denied"}
    monkeypatch.setattr(trial, "_look_inside", lambda rules: ruled)
    assert trial._try_landlock(free)[0] is True
    # Denied without rules, too: then it is something else that denies.
    assert trial._try_landlock(ruled)[0] is False
    for said in ({}, free, {"open": "denied", "shut": "denied"}):
        monkeypatch.setattr(trial, "_look_inside", lambda rules, said=said: said)
        assert trial._try_landlock(free)[0] is False
    monkeypatch.setattr(landlock, "abi", lambda: 1)
    assert "version 1" in trial._try_landlock(free)[1]


def test_rules_name_no_executable_place_but_the_artifacts() -> None:
    rules = dict(landlock.task_rules(["/bin/a", "/bin/b", "/lib/x/y", "/site"]))
    assert {path for path, name in rules.items() if name == "code"} == {"/bin", "/lib", "/site"}
    assert {path for path, name in rules.items() if name == "write"} == {"/tmp", "/result"}
    assert rules["/proc"] == "read" and rules["/"] == "list"
