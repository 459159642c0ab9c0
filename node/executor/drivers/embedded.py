"""The drivers that every node tries: what it really offers of them, their fingerprints tell."""

from __future__ import annotations

from pathlib import Path

from node.executor.drivers.sandbox import SandboxDriver
from node.executor.drivers.several import Several
from node.executor.drivers.wasm import WasmDriver
from node.executor.oci.driver import OciDriver


def drivers(folder: Path) -> Several:
    """All of them, each with a folder of its own below `folder`; the sandbox is the first."""
    sandbox = SandboxDriver(folder / "sandbox")
    return Several((sandbox, WasmDriver(sandbox, folder / "wasm"), OciDriver(folder / "oci")))
