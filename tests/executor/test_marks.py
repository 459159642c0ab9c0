"""A folder of volumes whose disk is not mounted is not taken for it, and nothing is made there."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from ledger.manifests.types import Disk, Volume
from node.config import Node as Settings
from node.errors import ConfigError
from node.executor.volumes.marks import check_marks, leave_marks
from node.executor.volumes.rooms import Room, rooms_of
from node.executor.volumes.volumes import VolumeShelf

KEY = b"k" * 32
DATA = Volume(name="data", path="/data", size_bytes=16 << 20, storage="hdd")


@dataclass
class Machine:
    """A node's data folder, and a hard disk that is mounted, or not: then an empty folder is in its place."""

    home: Path
    disk: Path
    key: bytes = KEY
    folder: str | None = None

    def __post_init__(self) -> None:
        self.home.mkdir()
        self.disk.mkdir()

    @property
    def remembered(self) -> Path:
        return self.home / "volumes" / "hdd.mark"

    def rooms(self) -> dict[Disk, Room]:
        folder = str(self.disk) if self.folder is None else self.folder
        return rooms_of(Settings(ssd="1GiB", hdd="1GiB", hdd_folder=folder), self.home, self.key)

    def start(self) -> VolumeShelf:
        """As the node does. Raises ConfigError."""
        rooms = self.rooms()
        leave_marks(rooms, self.home, self.key)
        return VolumeShelf(rooms)

    def unmount(self) -> Path:
        """Where the disk is now."""
        elsewhere = self.disk.with_name("unmounted")
        self.disk.rename(elsewhere)
        self.disk.mkdir()
        return elsewhere

    def mount(self) -> None:
        shutil.rmtree(self.disk)
        self.disk.with_name("unmounted").rename(self.disk)

    def refused(self, match: str) -> None:
        """It does not start, and nothing changes; who only looks hears the same."""
        before = self.files()
        for attempt in (self.start, lambda: check_marks(self.rooms(), self.home, self.key)):
            with pytest.raises(ConfigError, match=match):
                attempt()
        assert self.files() == before

    def files(self) -> dict[str, bytes]:
        found = sorted((*self.home.rglob("*"), *self.disk.rglob("*")))
        return {str(file): file.read_bytes() if file.is_file() else b"" for file in found}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "data", tmp_path / "disk")


def test_a_disk_that_is_not_mounted_keeps_the_node_from_starting(machine: Machine) -> None:
    machine.start()
    machine.unmount()
    machine.refused(
        rf"^node\.hdd_folder: this node has volumes elsewhere, {machine.disk}\S+ has no mark of it: "
        rf"mount the disk, or remove {machine.remembered} when its volumes are gone for good$"
    )
    assert not any(machine.disk.iterdir())
    machine.mount()
    before = machine.files()
    machine.start()
    assert machine.files() == before, "the mark is made once"


def test_who_says_that_the_volumes_are_gone_begins_anew(machine: Machine) -> None:
    machine.start()
    elsewhere = machine.unmount()
    machine.remembered.unlink()
    machine.start()
    machine.start()
    shutil.rmtree(machine.disk)
    elsewhere.rename(machine.disk)  # the old disk is found again: whose volumes count, people must say
    machine.refused(r"^node\.hdd_folder: .* has the mark of other volumes: mount the disk, or remove ")
    machine.remembered.unlink()
    machine.start()


def test_a_folder_that_is_named_no_more_or_another_one_is_noticed(machine: Machine, tmp_path: Path) -> None:
    machine.start()
    room = machine.rooms()["hdd"].folder
    machine.folder = ""
    machine.refused(rf"^node\.hdd_folder: .*{machine.home} ?.* has no mark of it")
    other = tmp_path / "other"
    other.mkdir()
    machine.folder = str(other)
    machine.refused(r"^node\.hdd_folder: .* has no mark of it")
    room.rename(other / room.name)  # the operator moves the volumes along
    machine.start()


def test_a_crash_between_the_two_marks_is_mended_by_the_next_start(machine: Machine) -> None:
    machine.start()
    left = machine.remembered.read_bytes()
    machine.remembered.unlink()
    machine.start()
    assert machine.remembered.read_bytes() == left, "the disk's is the one that counts"


def test_another_nodes_folder_is_not_taken(machine: Machine) -> None:
    """Folders have the first digits of a node's key in their name, the mark has the whole key."""
    machine.start()
    machine.remembered.unlink()
    machine.key = KEY[:8] + b"x" * 24
    machine.refused(r"^node\.hdd_folder: .* is of node (6b){8}, not of this one: name another folder")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"node": "00", "id": "00", "more": 1}', b"\xff" * 2048])
@pytest.mark.parametrize("on_disk", [True, False])
def test_a_mark_that_cannot_be_read_is_not_written_over(
    machine: Machine, content: bytes, on_disk: bool
) -> None:
    machine.start()
    file = machine.rooms()["hdd"].folder / "gridpact.mark" if on_disk else machine.remembered
    file.write_bytes(content)
    machine.refused(rf"^node\.hdd_folder: {file} is no mark ")


def test_a_disk_that_cannot_be_written_to_is_told_and_nothing_is_remembered(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, mode: int = 0o777) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", broken)
        with pytest.raises(
            ConfigError, match=r"^node\.hdd_folder: .* cannot be made: Read-only file system$"
        ):
            machine.start()
    assert machine.files() == {}
    machine.start()


def test_a_node_without_folders_of_its_own_leaves_no_marks(machine: Machine) -> None:
    machine.folder = ""
    machine.start()
    assert machine.files() == {}


def test_a_disk_that_goes_away_while_the_node_runs_gets_no_volumes(machine: Machine) -> None:
    shelf = machine.start()
    assert shelf.problem(b"1" * 32, "db/0", (DATA,)) == ""
    machine.unmount()
    assert shelf.problem(b"1" * 32, "db/0", (DATA,)) == "volume data: its disk is not mounted any more"
    machine.mount()
    assert shelf.problem(b"1" * 32, "db/0", (DATA,)) == ""
