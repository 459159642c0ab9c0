"""Volumes in the real sandbox: of exactly their size, kept from one run to the next, one holder at a time."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from msgspec import structs

from ledger.manifests.types import DISKS, Disk, Volume
from node.config import Node as Settings
from node.errors import ConfigError
from node.executor import limits
from node.executor.drivers.base import TaskSpec, VolumeSpec
from node.executor.errors import SpecRefused, StartFailed, VolumeRefused
from node.executor.host.filesystem import make_filesystem
from node.executor.volumes.rooms import Room, rooms_of
from node.executor.volumes.volumes import VolumeShelf
from node.limits import ARTIFACT_DISK_RESERVE_BYTES

from .conftest import Bench

MIB = 1 << 20
ONE, TWO = b"1" * 32, b"2" * 32
DATA = Volume(name="data", path="/data", size_bytes=16 * MIB)


@pytest.fixture
def shelf(bench: Bench, tmp_path: Path) -> VolumeShelf:
    if not bench.driver.fingerprint().enforces("volumes"):
        pytest.skip("the driver cannot mount volumes here")
    return VolumeShelf({"ssd": Room(tmp_path / "volumes", 64 * MIB)})


def with_volume(bench: Bench, shelf: VolumeShelf, script: str, slot: str = "db/0") -> TaskSpec:
    file = shelf.ensure(ONE, slot, DATA)
    return replace(bench.shell(script), volumes=(VolumeSpec("/data", file, DATA.size_bytes),))


async def test_what_a_run_wrote_the_next_one_reads(bench: Bench, shelf: VolumeShelf) -> None:
    first = await bench.output(
        with_volume(bench, shelf, "ls -a /data; echo kept > /data/file; mkdir /data/d")
    )
    assert first.split() == [".", ".."]  # empty, and not even the file system's own folder
    assert await bench.output(with_volume(bench, shelf, "cat /data/file; ls /data")) == "kept\nd\nfile\n"
    assert (
        await bench.output(with_volume(bench, shelf, "ls /data", "db/1")) == ""
    )  # another slot's is another


async def test_it_is_kept_when_the_task_is_killed_while_it_writes(bench: Bench, shelf: VolumeShelf) -> None:
    script = "echo begun > /data/begun; sync; echo up; while true; do echo more >> /data/more; done"
    async with bench.running(with_volume(bench, shelf, script)) as handle:
        await bench.until_logged(handle, "up")
    assert "begun" in await bench.output(with_volume(bench, shelf, "cat /data/begun; ls /data"))


async def test_its_size_is_a_limit(bench: Bench, shelf: VolumeShelf) -> None:
    script = (
        "head -c 33554432 /dev/zero > /data/fill || echo full; du -m /data/fill | cut -f1; rm /data/fill; "
    )
    script += "i=0; "
    script += "while echo x > /data/f$i; do i=$((i+1)); [ $i = 100000 ] && break; done 2>/dev/null; "
    script += "[ $i -lt 100000 ] && echo bounded"
    text = await bench.output(with_volume(bench, shelf, script))
    lines = text.splitlines()
    assert "full" in lines and "bounded" in lines, text
    assert int(next(line for line in lines if line.isdigit())) < 16
    assert shelf.used_bytes() == 16 * MIB


async def test_nothing_in_it_is_executed_set_uid_or_a_device(bench: Bench, shelf: VolumeShelf) -> None:
    script = """
    cp /bin/busybox /data/tool; chmod 4755 /data/tool; /data/tool true || echo "not executed"
    mknod /data/device c 1 3 || echo "no device"
    grep ' /data ' /proc/self/mounts
    """
    text = await bench.output(with_volume(bench, shelf, script))
    assert "not executed" in text and "no device" in text
    (mount,) = [line.split() for line in text.splitlines() if " /data " in line]
    assert mount[2] == "ext4"
    assert {"rw", "nosuid", "nodev", "noexec"} <= set(mount[3].split(","))


async def test_the_bytes_stay_verified_with_a_volume_beside_them(bench: Bench, shelf: VolumeShelf) -> None:
    spec = with_volume(bench, shelf, "echo x > /data/x; echo up; sleep 60")
    async with bench.running(spec) as handle:
        await bench.until_logged(handle, "up")
        found = await bench.driver.attest(handle)
        assert found.ok, found.drifts


async def test_two_at_once_never_have_one_volume(
    bench: Bench, shelf: VolumeShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two mounts of one file system would destroy it. The second waits for the first to go, then fails."""
    async with bench.running(with_volume(bench, shelf, "echo up; sleep 60")) as handle:
        await bench.until_logged(handle, "up")
        monkeypatch.setattr(limits, "START_TIMEOUT_S", 1.0)
        with pytest.raises(StartFailed, match=r"still mounted|not started within"):
            await bench.driver.start(await bench.driver.prepare(with_volume(bench, shelf, "true")))
        monkeypatch.undo()
    with trio.fail_after(60):
        assert await bench.output(with_volume(bench, shelf, "echo mine")) == "mine\n"


@pytest.mark.parametrize(
    "path", ["/", "data", "/tmp", "/tmp/x", "/proc/x", "/secrets", "/bin", "/bin/busybox/x", "/a/../b"]
)
async def test_a_volume_stands_beside_everything_else(bench: Bench, tmp_path: Path, path: str) -> None:
    spec = replace(bench.shell("true"), volumes=(VolumeSpec(path, tmp_path / "none", MIB),))
    with pytest.raises(SpecRefused, match="volumes"):
        await bench.driver.prepare(spec)


def test_volumes_of_a_deployment_go_together(shelf: VolumeShelf) -> None:
    for deployment in (ONE, TWO):
        shelf.ensure(deployment, "db/0", DATA)
    assert shelf.deployments() == {ONE, TWO}
    assert shelf.drop(ONE) == 1
    assert shelf.deployments() == {TWO}
    assert shelf.used_bytes() == 16 * MIB


def test_no_more_is_promised_than_there_is(shelf: VolumeShelf) -> None:
    for number in range(4):
        shelf.ensure(ONE, f"db/{number}", DATA)
    assert shelf.problem(ONE, "db/3", (DATA,)) == ""  # it is here already
    with pytest.raises(VolumeRefused, match="do not fit"):
        shelf.ensure(TWO, "db/0", DATA)
    other = Volume(name="data", path="/data", size_bytes=17 * MIB)
    with pytest.raises(VolumeRefused, match="is here with"):
        shelf.ensure(ONE, "db/0", other)
    assert not list(shelf.rooms["ssd"].folder.glob(".*"))


def test_a_volume_takes_its_bytes_when_it_is_made(shelf: VolumeShelf) -> None:
    file = shelf.ensure(ONE, "db/0", DATA)
    assert file.stat().st_blocks * 512 >= 16 * MIB
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_volume_that_is_mounted_keeps_its_bytes(shelf: VolumeShelf) -> None:
    dumpe2fs = shutil.which("dumpe2fs", path=f"{os.defpath}:/usr/sbin:/sbin")
    assert dumpe2fs is not None, "it comes with mkfs.ext4"
    file = shelf.ensure(ONE, "db/0", DATA)
    said = subprocess.run([dumpe2fs, file], capture_output=True, text=True, check=True).stdout
    groups = [line for line in said.splitlines() if line.startswith("Group ") and "(Blocks" in line]
    # What is not zeroed the kernel zeroes after the mount: by holes in the file, which other files then fill.
    assert groups and all("ITABLE_ZEROED" in line for line in groups), groups


def test_volumes_made_at_once_do_not_exceed_the_budget_together(
    shelf: VolumeShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(mkfs: str, target: str) -> None:
        begun.set()
        assert go_on.wait(60)
        make_filesystem(mkfs, target)

    monkeypatch.setattr("node.executor.volumes.volumes.make_filesystem", slow)
    shelf.rooms["ssd"].size_bytes_max = 31 * MIB
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(shelf.ensure, ONE, "db/0", DATA)
        assert begun.wait(60)
        assert "do not fit" in shelf.problem(TWO, "db/0", (DATA,))
        with pytest.raises(VolumeRefused, match="do not fit"):
            shelf.ensure(TWO, "db/0", DATA)
        with pytest.raises(VolumeRefused, match="being made"):
            shelf.ensure(ONE, "db/0", DATA)
        go_on.set()
        assert first.result(10).stat().st_size == 16 * MIB
    assert shelf.used_bytes() == 16 * MIB
    assert shelf.problem(TWO, "db/0", (of_size(15),)) == ""


def of_size(mib: int) -> Volume:
    return Volume(name="data", path="/data", size_bytes=mib * MIB)


def test_volumes_leave_the_ledger_its_reserve_of_the_disk(
    shelf: VolumeShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "_disk_free_bytes", lambda folder: ARTIFACT_DISK_RESERVE_BYTES + 16 * MIB - 1)
    assert "disk is too full" in shelf.problem(ONE, "db/0", (DATA,))
    with pytest.raises(VolumeRefused, match="disk is too full"):
        shelf.ensure(ONE, "db/0", DATA)
    monkeypatch.setattr(shelf, "_disk_free_bytes", lambda folder: ARTIFACT_DISK_RESERVE_BYTES + 16 * MIB)
    shelf.ensure(ONE, "db/0", DATA)


def test_what_a_crash_left_half_made_goes(shelf: VolumeShelf) -> None:
    file = shelf.ensure(ONE, "db/0", DATA)
    half = file.with_name(f".{file.name}.new")
    half.write_bytes(bytes(4096))
    again = VolumeShelf({"ssd": Room(file.parent, 64 * MIB)})
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert again.deployments() == {ONE}


@pytest.fixture
def two_kinds(shelf: VolumeShelf, tmp_path: Path) -> VolumeShelf:
    """32 MiB of each kind, in folders of one file system."""
    return VolumeShelf({disk: Room(tmp_path / disk, 32 * MIB) for disk in DISKS})


def on(disk: Disk, name: str = "data") -> Volume:
    return Volume(name=name, path=f"/{name}", size_bytes=16 * MIB, storage=disk)


def test_a_volume_is_made_on_the_disk_that_was_bought(two_kinds: VolumeShelf, tmp_path: Path) -> None:
    for disk in DISKS:
        assert two_kinds.ensure(ONE, "db/0", on(disk, disk)).parent == tmp_path / disk
    assert two_kinds.used_bytes() == 32 * MIB
    assert two_kinds.deployments() == {ONE}
    assert two_kinds.drop(ONE) == 2
    assert [list((tmp_path / disk).iterdir()) for disk in DISKS] == [[], []]


def test_one_kind_makes_no_room_for_the_other(two_kinds: VolumeShelf) -> None:
    for number in range(2):
        two_kinds.ensure(ONE, f"db/{number}", on("hdd"))
    with pytest.raises(VolumeRefused, match="do not fit beside"):
        two_kinds.ensure(ONE, "db/2", on("hdd"))
    two_kinds.ensure(ONE, "db/2", on("ssd"))


def test_a_volume_that_is_on_the_other_kind_is_not_made_anew(two_kinds: VolumeShelf) -> None:
    """It would look as if the database had always been empty, also where it may begin so."""
    kept = two_kinds.ensure(ONE, "db/0", on("ssd"))
    moved = structs.replace(on("hdd"), if_lost="empty")
    assert two_kinds.problem(ONE, "db/0", (moved,)) == "volume data is here on ssd, not on hdd"
    with pytest.raises(VolumeRefused, match="is here on ssd"):
        two_kinds.ensure(ONE, "db/0", moved)
    assert kept.exists()


def test_a_kind_that_is_not_here_is_refused(shelf: VolumeShelf) -> None:
    assert shelf.problem(ONE, "db/0", (on("hdd"),)) == "volume data: no hdd is here"
    with pytest.raises(VolumeRefused, match="no hdd is here"):
        shelf.ensure(ONE, "db/0", on("hdd"))


def test_two_kinds_on_one_file_system_leave_the_reserve_together(
    two_kinds: VolumeShelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = ARTIFACT_DISK_RESERVE_BYTES + 32 * MIB
    wanted = (on("ssd", "one"), on("hdd", "two"))
    monkeypatch.setattr(two_kinds, "_disk_free_bytes", lambda folder: free - 1)
    assert "disk is too full" in two_kinds.problem(ONE, "db/0", wanted)
    assert two_kinds.problem(ONE, "db/0", wanted[:1]) == ""
    monkeypatch.setattr(two_kinds, "_disk_free_bytes", lambda folder: free)
    assert two_kinds.problem(ONE, "db/0", wanted) == ""


def test_rooms_are_where_the_settings_say(tmp_path: Path) -> None:
    """A named folder that is not there may be a disk that is not mounted: nothing is made in its place."""
    disk, key = tmp_path / "disk", b"k" * 32
    settings = Settings(ssd="3GiB", hdd="2TiB", hdd_folder=str(disk))
    with pytest.raises(ConfigError, match=r"node\.hdd_folder: .* is no folder"):
        rooms_of(settings, tmp_path, key)
    assert not disk.exists()
    disk.mkdir()
    disk.chmod(0o777)
    with pytest.raises(ConfigError, match="written to by anybody"):
        rooms_of(settings, tmp_path, key)
    disk.chmod(0o755)
    rooms = rooms_of(settings, tmp_path, key)
    assert rooms["ssd"] == Room(tmp_path / "volumes" / "ssd", 3 << 30)
    assert rooms["hdd"].size_bytes_max == 2 << 40 and rooms["hdd"].folder.parent == disk
    assert rooms_of(settings, tmp_path, b"x" * 32)["hdd"].folder != rooms["hdd"].folder  # of two nodes
