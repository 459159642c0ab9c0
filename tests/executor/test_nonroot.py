"""The same sandbox for a node that is not root: the tests of isolation and limits, run again as nobody."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from .conftest import needs_sandbox

NOBODY = 65_534
MODULES = (
    "test_sandbox_isolation.py",
    "test_sandbox_limits.py",
    "test_recover.py",
    "test_integrity.py",
    "test_secrets.py",
)


@pytest.mark.skipif(os.geteuid() != 0, reason="the tests run without root already")
@pytest.mark.timeout(400)
@pytest.mark.parametrize("module", MODULES)
def test_as_nobody(checkout: Path, module: str) -> None:
    needs_sandbox()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv is not installed")
    become = [setpriv, "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    if subprocess.run([*become, sys.executable, "-c", "import trio, node"], cwd=checkout).returncode:
        pytest.skip("nobody cannot read the checkout or its Python")
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, NOBODY, NOBODY)
        options = ["-q", "-rs", "-o", f"cache_dir={folder}/cache", f"--basetemp={folder}/t"]
        command = [
            *become,
            sys.executable,
            "-B",
            "-m",
            "pytest",
            *options,
            str(Path(__file__).parent / module),
        ]
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=390)
    print(done.stdout[-3000:])
    if "is not usable here" in done.stdout:
        pytest.skip("this host closes user namespaces to users")
    assert done.returncode == 0, done.stdout[-10_000:]
    assert " passed" in done.stdout
