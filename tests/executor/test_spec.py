"""Every rule of a task's specification refuses what breaks it, and names the field."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from node.executor import limits
from node.executor.drivers.base import FileSpec, PortSpec, TaskSpec, TreeSpec
from node.executor.drivers.spec import check_spec
from node.executor.errors import SpecRefused

from .conftest import RESOURCES

FILE = FileSpec("/bin/a", "0" * 64, 10, 0o555, Path("a"))
TREE = TreeSpec("/data", "0" * 64, 10, Path("b"))
PORT = PortSpec("http", 8080)
GOOD = TaskSpec("d.s.1", ("/bin/a",), {"A": "1"}, (FILE,), (TREE,), (PORT,), RESOURCES, ("/result/a",))


def test_good_one_passes() -> None:
    check_spec(GOOD)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"task_id": ""}, "task_id"),
        ({"task_id": "../up"}, "task_id"),
        ({"task_id": "a/b"}, "task_id"),
        ({"task_id": "."}, "task_id"),
        ({"task_id": "a" * 129}, "task_id"),
        ({"task_id": "a\n"}, "task_id"),
        ({"command": ()}, "command"),
        ({"command": ("bin/a",)}, "command[0]"),
        ({"command": ("/bin/a", "x\x00y")}, "command"),
        ({"command": ("/bin/a", "x" * limits.COMMAND_BYTES_MAX)}, "command"),
        ({"command": ("/bin/a",) * (limits.COMMAND_ARGS_MAX + 1)}, "command"),
        ({"env": {"A=B": "1"}}, "env"),
        ({"env": {"": "1"}}, "env"),
        ({"env": {f"A{n}": "" for n in range(limits.ENV_MAX + 1)}}, "env"),
        ({"files": (replace(FILE, mode=0o4555),)}, "files[0].mode"),
        ({"files": (replace(FILE, mode=0o755),)}, "files[0].mode"),
        ({"files": (replace(FILE, digest="A" * 64),)}, "files[0].digest"),
        ({"files": (replace(FILE, digest="0" * 63),)}, "files[0].digest"),
        ({"files": (replace(FILE, size_bytes=-1),)}, "files[0].size_bytes"),
        ({"files": (replace(FILE, size_bytes=limits.ARTIFACT_BYTES_MAX + 1),)}, "files[0].size_bytes"),
        ({"files": (FILE, FILE)}, "files"),
        ({"files": (FILE, replace(FILE, path="/bin/a/b"))}, "files"),
        ({"files": (FILE, replace(FILE, path="/data/x"))}, "files"),
        ({"files": (FILE,) * (limits.FILES_MAX + 1)}, "files"),
        ({"trees": (TREE, replace(TREE, path="/bin"))}, "files"),
        ({"trees": (replace(TREE, path="/proc"),)}, "trees[0].path"),
        ({"trees": (replace(TREE, path="/result/x"),)}, "trees[0].path"),
        ({"trees": (replace(TREE, path="/"),)}, "trees[0].path"),
        ({"trees": (replace(TREE, path="/a/./b"),)}, "trees[0].path"),
        ({"trees": (replace(TREE, size_bytes=1 << 30), replace(TREE, path="/e"))}, "files"),
        ({"ports": (PORT, PORT)}, "ports"),
        ({"ports": (replace(PORT, name="Http"),)}, "ports[0].name"),
        ({"ports": (replace(PORT, inside=0),)}, "ports[0].inside"),
        ({"ports": (replace(PORT, inside=65_536),)}, "ports[0].inside"),
        ({"ports": (replace(PORT, listen_port=-1),)}, "ports[0].listen_port"),
        ({"resources": replace(RESOURCES, cpu_millis=0)}, "resources.cpu_millis"),
        ({"resources": replace(RESOURCES, memory_bytes=0)}, "resources.memory_bytes"),
        ({"resources": replace(RESOURCES, disk_bytes=0)}, "resources.disk_bytes"),
        ({"resources": replace(RESOURCES, pids=0)}, "resources.pids"),
        ({"results": ("/tmp/a",)}, "results[0]"),
        ({"results": ("/result/../a",)}, "results[0]"),
        ({"results": ("/result/",)}, "results[0]"),
        ({"results": ("/result/a", "/result/a")}, "results"),
        ({"log_bytes_max": 0}, "log_bytes_max"),
        ({"log_bytes_max": limits.LOG_BYTES_MAX + 1}, "log_bytes_max"),
    ],
)
def test_each_rule_refuses(change: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecRefused) as caught:
        check_spec(replace(GOOD, **change))
    assert caught.value.field == field
