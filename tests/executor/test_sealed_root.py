"""The sealed image: not even the host's root changes a byte of it, and what root can do instead is seen."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from node.executor.drivers import image, trial
from node.executor.drivers.stage import ROOT
from node.executor.errors import DriverUnavailable, StartFailed
from node.executor.host import kernel

from .conftest import Bench, make_tar
from .test_integrity import IDLE, as_host_root, inside, where

CHANGE_FD = 0x4C06  # loop(4), LOOP_CHANGE_FD

needs_image = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mkfs.erofs") is None or not Path("/dev/loop-control").exists(),
    reason="sealed images need root, loop devices and mkfs.erofs (Debian: erofs-utils)",
)


def root_mount(pid: int) -> str:
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return next(line for line in lines if line.split()[4] == "/")


def mkfs() -> str:
    found = shutil.which("mkfs.erofs")
    assert found is not None
    return found


@needs_image
async def test_it_is_advertised_and_used(bench: Bench) -> None:
    assert bench.driver.fingerprint().enforces("sealed-image")
    tree = bench.tree("/data", make_tar({"a": b"1" * 10_000, "sub/b": b"2", "empty": b""}))
    async with bench.running(bench.shell(IDLE, trees=(tree,))) as handle:
        await bench.until_logged(handle, "up")
        assert handle.baseline is not None and handle.baseline.loop is not None
        assert f" - erofs {handle.baseline.loop} ro" in root_mount(inside(handle))
        attested = await bench.driver.attest(handle)
        assert attested.ok, attested.drifts
        assert attested.files_checked == 4
        loop = handle.baseline.loop
    with pytest.raises(OSError, match="No such device"):
        image.backing(loop)  # freed with the task


@needs_image
async def test_root_cannot_change_a_byte(bench: Bench) -> None:
    tree = bench.tree("/data", make_tar({"a": b"honest"}))
    async with bench.running(bench.shell(IDLE, trees=(tree,))) as handle:
        await bench.until_logged(handle, "up")
        assert handle.launcher is not None and handle.baseline is not None
        loop = handle.baseline.loop
        assert loop is not None

        def tamper() -> None:
            with contextlib.suppress(OSError):  # the kernel may refuse even this
                kernel.mount("none", ROOT, "none", kernel.MS_REMOUNT | kernel.MS_NOSUID | kernel.MS_NODEV)
            for path in (f"{ROOT}/data/a", loop):
                try:
                    with open(path, "r+b") as file:
                        file.write(b"hijack")
                except OSError:
                    continue
                raise AssertionError(f"wrote to {path}")
            try:
                os.chmod(f"{ROOT}/data/a", 0o777)
            except OSError:
                return
            raise AssertionError("changed a mode")

        as_host_root(handle.launcher.pid, tamper)
        attested = await bench.driver.attest(handle)
        assert attested.ok, attested.drifts


@needs_image
async def test_another_file_behind_the_device_is_seen(bench: Bench, tmp_path: Path) -> None:
    """The pages of the old one may still be in memory, so hashing alone would tell nothing."""
    tree = bench.tree("/data", make_tar({"a": b"honest"}))
    async with bench.running(bench.shell(IDLE, trees=(tree,))) as handle:
        await bench.until_logged(handle, "up")
        assert handle.baseline is not None and handle.baseline.loop is not None
        loop = os.open(handle.baseline.loop, os.O_RDONLY)
        other = tmp_path / "other"
        with other.open("wb") as file:
            while chunk := os.read(loop, 1 << 20):
                file.write(chunk.replace(b"honest", b"hijack"))
        with other.open("rb") as file:
            fcntl.ioctl(loop, CHANGE_FD, file.fileno())
        os.close(loop)
        attested = await bench.driver.attest(handle)
        assert not attested.ok
        assert handle.baseline.loop in where(attested)


@needs_image
def test_equal_trees_give_equal_images(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        folder = tmp_path / name
        (folder / "sub").mkdir(parents=True)
        for path, data in (("b", b"2"), ("a", b"1" * 9_000), ("sub/c", b"")):
            (folder / path).write_bytes(data)
            os.chmod(folder / path, 0o444)
        os.utime(folder / "a", (len(found), len(found)))
        fd = image.make(mkfs(), str(folder))
        found.append(os.pread(fd, 1 << 20, 0))
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
        os.close(fd)
    assert found[0] == found[1] and len(found[0]) > 9_000


@needs_image
def test_an_image_that_is_not_sealed_is_not_mounted(tmp_path: Path) -> None:
    fd = os.memfd_create("image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with pytest.raises(OSError, match="not sealed"):
        image.mount(fd, str(tmp_path))
    os.close(fd)


@needs_image
async def test_it_never_falls_back_in_silence(bench: Bench) -> None:
    """What was advertised and does not work now is a failed start, not a weaker one."""
    host = await bench.driver.examined()
    bench.driver._host = dataclasses.replace(host, mkfs="/bin/false")
    with pytest.raises(StartFailed, match="/bin/false"):
        await bench.driver.start(await bench.driver.prepare(bench.shell(IDLE)))


def test_a_host_without_says_so_and_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    look = trial._look_inside

    def no_images(rules: Any = None, **options: Any) -> dict[str, str]:
        if options.get("mkfs") is not None:
            raise DriverUnavailable("no free loop device")
        return look(rules, **options)

    monkeypatch.setattr(trial, "_look_inside", no_images)
    monkeypatch.setattr(trial, "image_maker", lambda: ("/sbin/mkfs.erofs", "sealed"))
    host = trial.examine("sandbox", "no-images")
    assert host.fingerprint.usable and host.mkfs is None
    feature = next(one for one in host.fingerprint.features if one.name == "sealed-image")
    assert (feature.enforced, feature.how) == (False, "no free loop device")
