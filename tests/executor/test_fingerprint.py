"""The fingerprint tells what was seen to work, and why something did not."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.executor.drivers import bwrap, seccomp, trial
from node.executor.drivers.base import FileSpec, Resources, TaskSpec
from node.executor.drivers.sandbox import SandboxDriver
from node.executor.errors import DriverUnavailable

from .conftest import Bench, sha256


def test_usable_host(bench: Bench) -> None:
    fingerprint = bench.driver.fingerprint()
    assert fingerprint is bench.driver.fingerprint()
    for name in ("user", "pid", "net", "mnt", "ipc", "uts", "cgroup"):
        assert fingerprint.enforces(f"{name}-namespace")
    for name in ("no-capabilities", "no-new-privileges", "seccomp", "read-only-root", "noexec-scratch"):
        assert fingerprint.enforces(name)
    assert fingerprint.enforces("limit-pids") and fingerprint.enforces("limit-disk")
    assert not fingerprint.enforces("no such thing")
    assert all(feature.how for feature in fingerprint.features)


async def test_without_bubblewrap_nothing_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find() -> str:
        raise DriverUnavailable("bwrap is not installed")

    monkeypatch.setattr(bwrap, "find", find)
    driver = SandboxDriver(tmp_path / "run")
    fingerprint = driver.fingerprint()
    assert not fingerprint.usable and fingerprint.reason == "bwrap is not installed"
    assert not fingerprint.enforces("seccomp") and not fingerprint.enforces("net-namespace")
    (tmp_path / "a").write_bytes(b"x")
    file = FileSpec("/a", sha256(b"x"), 1, 0o555, tmp_path / "a")
    spec = TaskSpec("d.s.1", ("/a",), {}, (file,), (), (), Resources(100, 8 << 20, 1 << 20, 4))
    prepared = await driver.prepare(spec)
    with pytest.raises(DriverUnavailable, match="not installed"):
        await driver.start(prepared)
    assert prepared.files[0].fd == -1


@pytest.mark.parametrize(
    ("line", "feature"),
    [
        ("Seccomp:\t0", "seccomp"),
        ("NoNewPrivs:\t0", "no-new-privileges"),
        ("CapEff:\t0000000000000400", "no-capabilities"),
        ("root: writable", "read-only-root"),
    ],
)
def test_one_lack_makes_it_unusable(monkeypatch: pytest.MonkeyPatch, line: str, feature: str) -> None:
    good = {f"ns-{name}": f"{name}:[1]" for name in ("user", "pid", "net", "mnt", "ipc", "uts", "cgroup")}
    good |= dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0" * 16)
    good |= {"NoNewPrivs": "1", "Seccomp": "2", "root": "read-only", "scratch": "not executable"}
    monkeypatch.setattr(trial, "_look_inside", lambda *_, **__: good)
    assert trial.examine("sandbox", "s").fingerprint.usable
    name, _, value = line.partition(":")
    monkeypatch.setattr(trial, "_look_inside", lambda *_, **__: good | {name: value.strip()})
    fingerprint = trial.examine("sandbox", "s").fingerprint
    assert not fingerprint.usable and feature in fingerprint.reason
    assert not fingerprint.enforces(feature)


def test_filters_are_two_programs() -> None:
    try:
        programs = seccomp.filters()
    except DriverUnavailable as error:
        pytest.skip(str(error))
    assert all(len(program) % 8 == 0 and len(program) > 100 for program in programs)
