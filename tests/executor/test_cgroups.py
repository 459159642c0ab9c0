"""Groups are found, limited, frozen, killed and removed, in version 1 and 2; a lack is told, not raised."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from node.executor.drivers.base import Resources
from node.executor.host import cgroups, procs

RESOURCES = Resources(cpu_millis=250, memory_bytes=64 << 20, disk_bytes=1 << 20, pids=10)


def real() -> cgroups.Cgroups:
    groups, found = cgroups.detect(f"test-{os.getpid()}")
    if groups is None:
        pytest.skip(f"no group can be made here: {found}")
    return groups


def fake_v2(top: Path, controllers: str) -> str:
    """Make a folder that looks like a version 2 hierarchy; return the mounts file that names it."""
    for folder in (top, top / "gridpact", top / "gridpact/s"):
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.subtree_control").touch()
    (top / "cgroup.controllers").write_text(controllers + "\n")
    return f"cgroup2 {top} cgroup2 rw,nosuid 0 0\nproc /proc proc rw 0 0\n"


def test_v2_limits_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = fake_v2(tmp_path, "cpuset cpu io memory pids")
    files = ("memory.max", "memory.swap.max", "pids.max", "cpu.max", "cgroup.procs")
    make = Path.mkdir

    def mkdir(path: Path, *arguments: object, **options: object) -> None:
        # As the kernel does: a new group comes with its files.
        make(path, *arguments, **options)  # type: ignore[arg-type]
        if path.parent.name == "s":
            for name in files:
                (path / name).touch()

    monkeypatch.setattr(Path, "mkdir", mkdir)
    # A group with files in it cannot be removed as the kernel's can; that is all right here.
    groups, found = cgroups.detect("s", mounts)
    assert groups is not None and groups.version == 2
    assert set(found.values()) == {"cgroup v2"}
    group = groups.create("d.s.1", RESOURCES)
    path = tmp_path / "gridpact/s/d.s.1"
    assert (path / "memory.max").read_text() == str(64 << 20)
    assert (path / "memory.swap.max").read_text() == "0"
    assert (path / "pids.max").read_text() == "12"
    assert (path / "cpu.max").read_text() == "25000 100000"
    assert (tmp_path / "gridpact/s/cgroup.subtree_control").read_text() == "+memory +pids +cpu"
    assert group.procs_files() == (path / "cgroup.procs",)
    (path / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert group.oom_kills() == 2
    assert group.usage() == (None, None)
    (path / "cpu.stat").write_text("usage_usec 2500999\nuser_usec 2000000\n")
    assert group.usage() == (2_500, None)  # a kernel before 5.19 counts no peak
    (path / "memory.peak").write_text("1048576\n")
    assert group.usage() == (2_500, 1_048_576)
    assert "d.s.1" in groups.leftovers()


def test_v2_without_our_controllers_is_no_use(tmp_path: Path) -> None:
    groups, found = cgroups.detect("s", fake_v2(tmp_path, "hugetlb"))
    assert groups is None
    assert all(how.startswith("no: ") for how in found.values())


def test_no_hierarchy_at_all() -> None:
    groups, found = cgroups.detect("s", "proc /proc proc rw 0 0\n")
    assert groups is None
    assert found["memory"] == "no: this host has no such controller"


def test_unwritable_hierarchy_is_told(tmp_path: Path) -> None:
    mounts = f"cgroup {tmp_path}/none cgroup rw,memory 0 0\ncgroup /proc cgroup rw,pids 0 0\n"
    groups, found = cgroups.detect("s", mounts)
    assert groups is None
    assert found["memory"].startswith("no: ")
    assert found["pids"].startswith("no: ")


def test_real_group_holds_freezes_and_kills() -> None:
    groups = real()
    group = groups.create("d.s.1", RESOURCES)
    child = subprocess.Popen(["sleep", "60"])
    try:
        with pytest.raises(FileExistsError):
            groups.create("d.s.1", RESOURCES)
        for file in group.procs_files():
            file.write_text(str(child.pid))
        assert group.pids() == (child.pid,)
        assert group.remove() is False
        assert list(groups.leftovers()) == ["d.s.1"]
        group.freeze(True)
        assert group.oom_kills() == 0
        assert cgroups.remove_within(groups.leftovers()["d.s.1"], 2.0)
        assert child.wait(60) == -9
        assert groups.leftovers() == {}
        assert group.remove() is True
    finally:
        child.kill()
        child.wait()
        cgroups.remove_within(group, 2.0)
        groups.remove_scope()


def test_frozen_group_can_be_killed() -> None:
    groups = real()
    group = groups.create("d.s.2", RESOURCES)
    child = subprocess.Popen(["sleep", "60"])
    try:
        for file in group.procs_files():
            file.write_text(str(child.pid))
        group.freeze(True)
        group.kill()
        assert child.wait(60) == -9
        assert procs.start_ticks(child.pid) is None
    finally:
        child.kill()
        child.wait()
        cgroups.remove_within(group, 2.0)
        groups.remove_scope()


def test_v2_freeze_and_kill_on_a_real_hierarchy() -> None:
    """Version 2's own files, also where its controllers belong to version 1 (a hybrid host)."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    mounts = [Path(line.split()[1]) for line in lines if line.split()[2] == "cgroup2"]
    path = mounts[0] / f"gridpact-test-{os.getpid()}" if mounts else Path("/")
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no version 2 group can be made here: {error}")
    group = cgroups.TaskGroup(2, {"memory": path})
    child = subprocess.Popen(["sleep", "60"])
    try:
        (path / "cgroup.procs").write_text(str(child.pid))
        group.freeze(True)
        deadline = time.monotonic() + 60
        while "frozen 1" not in (path / "cgroup.events").read_text():
            assert time.monotonic() < deadline
        assert group.pids() == (child.pid,)
        assert cgroups.remove_within(group, 2.0)
        assert child.wait(60) == -9
    finally:
        child.kill()
        child.wait()
        cgroups.remove_within(group, 2.0)


def test_where_a_process_is_can_be_joined() -> None:
    """Of this process, and as each version writes it down: also several controllers in one hierarchy, and
    those that are mounted nowhere here."""
    files = cgroups.procs_files_of(os.getpid())
    for file in files:
        assert str(os.getpid()) in file.read_text().split(), file
    mounts = (
        "none /cg/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\nnone /cg/memory cgroup rw,memory 0 0\n"
        "none /cg/systemd cgroup rw,xattr,name=systemd 0 0\nnone /cg/unified cgroup2 rw 0 0\n"
    )
    groups = "4:cpu,cpuacct:/a/b\n3:memory:/\n2:name=systemd:/x:y\n1:freezer:/a\n0::/user\n"
    found = cgroups._files_of(mounts, groups)
    wanted = ("cpu,cpuacct/a/b", "memory", "systemd/x:y", "unified/user")
    assert found == tuple(Path("/cg") / name / "cgroup.procs" for name in wanted)
    assert cgroups._files_of("none /cg cgroup2 rw 0 0\n", "0::/a/b\n") == (Path("/cg/a/b/cgroup.procs"),)
    with pytest.raises(OSError):
        cgroups.procs_files_of(1 << 22)  # a number that no process has
