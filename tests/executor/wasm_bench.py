"""The wasm driver for tests, and short ways to make and run programs on it."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from ledger.limits import WASM_ENGINE_BYTES
from node.executor.drivers.base import Exit, FileSpec, Handle, Resources, ResultFile, TaskSpec
from node.executor.drivers.sandbox import SandboxDriver
from node.executor.drivers.wasm import WasmDriver

from .conftest import sha256, usable

MIB = 1 << 20
ROOM_BYTES = 8 * MIB  # of a program, at the least
RESOURCES = Resources(1000, WASM_ENGINE_BYTES + ROOM_BYTES + 2 * MIB, MIB, 1)


@dataclass
class Wasm:
    """A driver, and short ways to make and run programs on it."""

    driver: WasmDriver
    sandbox: SandboxDriver
    folder: Path
    count: int = 0

    def file(self, path: str, data: bytes) -> FileSpec:
        source = self.folder / sha256(data)
        source.write_bytes(data)
        return FileSpec(path, sha256(data), len(data), 0o444, source)

    def spec(
        self, program: bytes, *words: str, files: Mapping[str, bytes] | None = None, **more: object
    ) -> TaskSpec:
        self.count += 1
        made = TaskSpec(
            task_id=f"d{self.count}.sum.1",
            command=("/program", *words),
            env={},
            files=(self.file("/program", program), *(self.file(*item) for item in (files or {}).items())),
            trees=(),
            ports=(),
            resources=RESOURCES,
            runtime="wasm",
            fuel=100_000_000,
        )
        return dataclasses.replace(made, **more)  # type: ignore[arg-type]

    @asynccontextmanager
    async def running(self, spec: TaskSpec) -> AsyncIterator[Handle]:
        handle = await self.driver.start(await self.driver.prepare(spec))
        try:
            yield handle
        finally:
            await self.driver.stop(handle, 0)

    async def run(self, spec: TaskSpec) -> tuple[Exit, bytes, tuple[ResultFile, ...]]:
        """Run to the end: how it ended, what it said, and its results when it ended well."""
        async with self.running(spec) as handle:
            with trio.fail_after(60):
                found = await self.driver.wait(handle)
            results = await self.driver.collect(handle) if found.ok else ()
            return found, self.driver.logs(handle, 1 << 20), results

    async def reason(self, spec: TaskSpec) -> str:
        """Run to its end, which is no exit."""
        found, _, _ = await self.run(spec)
        assert found.code is None
        assert found.signal is None
        return found.reason


def wasm_driver(folder: Path) -> Wasm:
    """A driver in that folder, tried out; skips, with the reason, where there is no sandbox."""
    sandbox = usable(SandboxDriver(folder / "run"))
    driver = WasmDriver(sandbox, folder / "engine")
    assert driver.fingerprint().usable, driver.fingerprint().reason
    return Wasm(driver, sandbox, folder)
