"""Audit files judged by `js/src/verify_audit.js`: Node.js, no packages, no network, none of our code."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from ledger.genesis import Genesis
from tests.interop.build import NODE_MAJOR

PROGRAM: Final = Path(__file__).resolve().parent / "js" / "src" / "verify_audit.js"
TIMEOUT_S: Final = 300


def node() -> str:
    """Node.js as it is installed; the test is skipped without it."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed")
    said = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    if int(said.lstrip("v").partition(".")[0]) < NODE_MAJOR:
        pytest.skip(f"Node.js {NODE_MAJOR} or newer is needed, here is {said.strip()}")
    return found


def judged(folder: Path, genesis: Genesis, files: Sequence[bytes]) -> list[dict[str, Any]]:
    """What the program says of each file."""
    place = folder / "genesis.json"
    place.write_bytes(genesis.encode())
    paths = []
    for number, data in enumerate(files):
        path = folder / f"{number}.audit"
        path.write_bytes(data)
        paths.append(str(path))
    command = [node(), str(PROGRAM), str(place), *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert not done.stderr, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == (0 if all(report["ok"] for report in found) else 1)
    return found
