"""A peer lifts its own first limit of open files. Tried in processes of their own."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from node.limits import OPEN_FILES_WANTED

TRY = """
import os, resource, sys
from node.run import raise_open_files
soft, hard = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
told = raise_open_files()
assert raise_open_files() == told == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] == hard
opened = [os.open("/proc/self/stat", os.O_RDONLY) for _ in range(200)]
print(told)
"""


def lifted(soft: int, hard: int) -> int:
    command = [sys.executable, "-c", TRY, str(soft), str(hard)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


def test_the_first_limit_is_raised_to_what_the_host_allows() -> None:
    assert lifted(128, 700) == 700
    assert lifted(700, 700) == 700


def test_it_wants_no_more_than_it_may_need() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard <= OPEN_FILES_WANTED:
        pytest.skip(f"this host allows {hard} alone")
    assert lifted(1_024, hard) == OPEN_FILES_WANTED
