"""Ways out of the sandbox, each tried for real (`attempts.c`) inside it, and outside: there it must succeed,
or the attempt would prove nothing."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from .conftest import Bench

SOURCE = Path(__file__).with_name("attempts.c")
WORD = "gridpact-neighbour"
ATTEMPTS = tuple(n for n in re.findall(r"ONE\((\w+)\)", SOURCE.read_text()) if n not in ("name", "nothing"))


@pytest.fixture
def program(compile_c: Callable[[str], bytes]) -> bytes:
    return compile_c(SOURCE.read_text())


@contextmanager
def target(name: str, folder: Path) -> Iterator[str]:
    """What an attempt is aimed at, there on the host while it lasts; "" where it needs none."""
    with ExitStack() as stack:
        if name == "proc":
            stack.enter_context(_victim())
            yield WORD
        elif name == "file":
            aim = folder / "of-the-host"
            aim.touch(mode=0o666)
            yield str(aim)
        elif name == "cgroup":
            yield stack.enter_context(_limit_file())
        elif name == "abstract_socket":
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(f"\0{WORD}-{os.getpid()}")
            listener.listen()
            yield f"{WORD}-{os.getpid()}"
        else:
            yield ""


@contextmanager
def _victim() -> Iterator[None]:
    process = subprocess.Popen(["sleep", "60"], env={**os.environ, "GRIDPACT_TEST": f"{WORD}!"})
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def _limit_file() -> Iterator[str]:
    """A limit that root may write: of a group that is made for it, where there are groups."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2" or (kind == "cgroup" and "pids" in options.split(",")):
            group = Path(where) / f"gridpact-attempt-{os.getpid()}"
            try:
                group.mkdir()
            except OSError:
                continue
            try:
                yield str(group / "cgroup.procs")
            finally:
                group.rmdir()
            return
    yield "/sys/fs/cgroup/cgroup.procs"


@pytest.mark.parametrize("name", ATTEMPTS)
async def test_what_leads_out_is_refused(name: str, bench: Bench, program: bytes, tmp_path: Path) -> None:
    with target(name, tmp_path) as aim:
        file = bench.file("/attempt", program, 0o555)
        text = await bench.output(bench.spec(("/attempt", name, aim), files=(file,)))
    assert text.startswith("refused "), f"{name}: {text}"


@pytest.mark.parametrize("name", ATTEMPTS)
async def test_what_leads_out_of_a_container_is_refused(
    name: str, oci: Bench, program: bytes, tmp_path: Path
) -> None:
    """The same, in a container of podman's."""
    with target(name, tmp_path) as aim:
        file = oci.file("/attempt", program, 0o555)
        spec = dataclasses.replace(oci.spec(("/attempt", name, aim), files=(file,)), runtime="oci")
        text = await oci.output(spec)
    assert text.startswith("refused "), f"{name}: {text}"


async def test_what_leads_out_is_refused_to_a_check_too(
    either: Bench, program: bytes, tmp_path: Path
) -> None:
    """[E8] Each of them as the command of a health check, beside the workload; one that asks for nothing runs
    to its end."""
    file = either.file("/attempt", program, 0o555)
    async with either.running(either.shell("echo up; sleep 100", files=(file,))) as handle:
        await either.until_logged(handle, "up")
        assert await either.driver.check(handle, ("/attempt", "nothing"), 10) == 0
        for name in ATTEMPTS:
            with target(name, tmp_path) as aim:
                status = await either.driver.check(handle, ("/attempt", name, aim), 10)
            assert status == 1, f"{name} as a check: {status}"


@pytest.mark.parametrize("name", ATTEMPTS)
def test_outside_it_succeeds(name: str, program: bytes, tmp_path: Path) -> None:
    """As root with mounts of its own, so that nothing of this host changes."""
    unshare = shutil.which("unshare")
    if os.geteuid() != 0 or unshare is None:
        pytest.skip("only root with unshare can show what an unconfined process may do")
    file = tmp_path / "attempt"
    file.write_bytes(program)
    file.chmod(0o755)
    apart = [unshare, "--mount", "--ipc", "--propagation", "private"]
    tmpfs = 'mount -t tmpfs none /tmp && exec "$@"'
    with target(name, tmp_path) as aim:
        held = os.open(file, os.O_RDONLY)
        inside = f"/proc/self/fd/{held}"
        try:
            command = [*apart, "sh", "-c", tmpfs, "-", inside, name, aim]
            if name == "file":  # its target must not be hidden by the /tmp of its own
                command = [str(file), name, aim]
            done = subprocess.run(command, pass_fds=(held,), capture_output=True, text=True, timeout=120)
        finally:
            os.close(held)
    if done.stdout.startswith("refused "):
        number = int(done.stdout.split()[1])
        pytest.skip(f"this kernel refuses it to its own root: {os.strerror(number)}")
    # A copy of the program that was started says it, too.
    assert (done.returncode, set(done.stdout.split())) == (0, {"done"}), done.stderr


def test_the_list_has_what_must_be_tried() -> None:
    wanted = {"mount", "ptrace", "unshare", "keyctl", "bpf", "io_uring", "raw_socket", "proc", "cgroup"}
    assert wanted <= set(ATTEMPTS)
    assert len(ATTEMPTS) == len(set(ATTEMPTS)) > 20


async def test_an_attempt_that_is_allowed_is_told_so(bench: Bench, program: bytes) -> None:
    """The program runs in there, so "refused" is about the attempt."""
    file = bench.file("/attempt", program, 0o555)
    assert await bench.output(bench.spec(("/attempt", "nothing"), files=(file,))) == "done\n"
