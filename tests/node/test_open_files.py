"""A peer lifts its own first limit of open files. Tried in processes of their own."""

from __future__ import annotations

import subprocess
import sys

from node.limits import OPEN_FILES_WANTED

TRY = """
import os, resource, sys
from node import run
soft, hard, run.OPEN_FILES_WANTED = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
told = run.raise_open_files()
assert run.raise_open_files() == told == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] == hard
opened = [os.open("/proc/self/stat", os.O_RDONLY) for _ in range(200)]
print(told)
"""


def lifted(soft: int, hard: int, wanted: int = OPEN_FILES_WANTED) -> int:
    command = [sys.executable, "-c", TRY, *map(str, (soft, hard, wanted))]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


def test_the_first_limit_is_raised_to_what_the_host_allows() -> None:
    assert lifted(128, 700) == 700
    assert lifted(700, 700) == 700


def test_it_wants_no_more_than_it_may_need() -> None:
    assert lifted(300, 700, 500) == 500
    assert lifted(600, 700, 500) == 600
