"""What a workload without egress reaches: nothing of host, neighbours or cloud. A plain process does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def reached(runtime: str, folder: Path) -> None:
    """`reach_inside.py`, where all that must be out of reach is on a loopback of its own."""
    unshare = shutil.which("unshare")
    if unshare is None or shutil.which("ip") is None:
        pytest.skip("unshare or ip is not installed")
    if os.geteuid() != 0:
        pytest.skip("only root makes a network namespace with addresses of its own")
    command = [unshare, "--net", sys.executable, "-B", str(HERE / "reach_inside.py"), str(folder), runtime]
    done = subprocess.run(command, cwd=HERE.parent.parent, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "all as it should be"


@pytest.mark.usefixtures("bench")
def test_the_node_its_neighbours_and_metadata_are_out_of_reach(tmp_path: Path) -> None:
    reached("sandbox", tmp_path / "own")


@pytest.mark.usefixtures("oci")
def test_they_are_for_a_container_too(tmp_path: Path) -> None:
    reached("oci", tmp_path / "own")
