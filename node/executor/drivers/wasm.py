"""The `wasm` driver: WebAssembly programs, interpreted by Wasmtime inside the sandbox driver's cage.

A task of this driver is a task of the sandbox whose root holds the engine and, apart from it, the contract's
files; `node.executor.wasm.run` says what the program sees. So deadlines, limits, re-checks and recovery are
the sandbox's own. What the program computes is the same on every node that has the same Wasmtime.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import trio

from ledger.manifests.wasm import engine_bytes
from node.executor.drivers import wasm_trial
from node.executor.drivers.artifacts import SealedTask
from node.executor.drivers.base import (
    Attestation,
    Exit,
    Feature,
    Fingerprint,
    Handle,
    Isolation,
    Liveness,
    Prepared,
    ResultFile,
    TaskSpec,
    Usage,
)
from node.executor.drivers.results import collect_results
from node.executor.drivers.running import Running
from node.executor.drivers.sandbox import SandboxDriver
from node.executor.drivers.spec import check_spec
from node.executor.drivers.wasm_root import INPUTS, LIBRARY, EngineRoot, pack
from node.executor.errors import DriverUnavailable, ExecutorError, ResultRefused, SpecRefused
from node.executor.wasm.run import END

_PIDS: Final = 8  # bubblewrap's two, the engine's one thread, and room for what Wasmtime starts
_END_BYTES: Final = 1 << 16  # of disk, for how it ended
_MAPPED_BYTES: Final = 192 << 20  # of addresses: the engine's files, Python's arenas, Wasmtime's stacks
_NOT_HERE: Final = ("secrets", "egress", "volumes", "volume-copies", "health-exec")


@dataclass(frozen=True)
class _Prepared:
    spec: TaskSpec
    inner: SealedTask

    def close(self) -> None:
        self.inner.close()


@dataclass
class _Handle:
    inner: Running
    exit: Exit | None = None

    @property
    def task_id(self) -> str:
        return self.inner.task_id

    @property
    def ports(self) -> Mapping[str, tuple[str, int]]:
        return {}


class WasmDriver:
    """Runs jobs on `sandbox`, a driver of the same node; `folder` keeps the packed engine."""

    def __init__(self, sandbox: SandboxDriver, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._sandbox = sandbox
        self._folder = folder.resolve()
        self._engine: EngineRoot | None = None
        self._fingerprint: Fingerprint | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """`wasm`."""
        return "wasm"

    @property
    def isolation(self) -> Isolation:
        """WebAssembly, within the sandbox."""
        return Isolation.WASM

    def fingerprint(self) -> Fingerprint:
        """See `Driver.fingerprint`. Runs a program that tries what it must not be able to do."""
        with self._lock:
            if self._fingerprint is None:
                self._fingerprint = self._examine()
            return self._fingerprint

    async def prepare(self, spec: TaskSpec) -> _Prepared:
        """See `Driver.prepare`."""
        if not (await trio.to_thread.run_sync(self.fingerprint)).usable:
            raise DriverUnavailable(self.fingerprint().reason)
        return await self._prepare(spec)

    async def start(self, prepared: Prepared, kill_at_ms: int | None = None) -> _Handle:
        """See `Driver.start`."""
        if not isinstance(prepared, _Prepared):
            raise TypeError(f"made by another driver: {type(prepared).__name__}")
        return _Handle(await self._sandbox.start(prepared.inner, kill_at_ms))

    def keep(self, handle: Handle, kill_at_ms: int) -> None:
        """See `Driver.keep`."""
        self._sandbox.keep(_own(handle).inner, kill_at_ms)

    async def wait(self, handle: Handle) -> Exit:
        """See `Driver.wait`."""
        task = _own(handle)
        found = await task.inner.wait()
        if task.exit is None:
            task.exit = await trio.to_thread.run_sync(_ended, task.inner, found)
        return task.exit

    async def probe(self, handle: Handle) -> Liveness:
        """See `Driver.probe`."""
        return await self._sandbox.probe(_own(handle).inner)

    def logs(self, handle: Handle, last_bytes: int) -> bytes:
        """See `Driver.logs`."""
        return self._sandbox.logs(_own(handle).inner, last_bytes)

    async def usage(self, handle: Handle) -> Usage:
        """See `Driver.usage`."""
        return await self._sandbox.usage(_own(handle).inner)

    async def collect(self, handle: Handle) -> tuple[ResultFile, ...]:
        """See `Driver.collect`."""
        return await self._sandbox.collect(_own(handle).inner)

    async def stop(self, handle: Handle, grace_s: float) -> Exit:
        """See `Driver.stop`."""
        task = _own(handle)
        if task.inner.exit is not None and task.inner.stopped is None:
            await self.wait(task)  # how it ended goes with the mounts
        stopped = await self._sandbox.stop(task.inner, grace_s)
        return task.exit or stopped

    async def recover(self) -> list[str]:
        """See `Driver.recover`. The sandbox's, which this driver's tasks are."""
        return await self._sandbox.recover()

    async def attest(self, handle: Handle) -> Attestation:
        """See `Driver.attest`. The engine is looked at as the program is."""
        return await self._sandbox.attest(_own(handle).inner)

    async def attest_ended(self, handle: Handle) -> Attestation:
        """See `Driver.attest_ended`."""
        return await self._sandbox.attest_ended(_own(handle).inner)

    async def copy_volumes(self, handle: Handle, into: Mapping[str, Path]) -> float:
        """A job has no volumes. Raises ExecutorError."""
        raise ExecutorError(f"task {_own(handle).task_id} has no volumes")

    async def check(self, handle: Handle, command: tuple[str, ...], timeout_s: float) -> int | None:
        """A job has no health checks. Raises ExecutorError."""
        raise ExecutorError(f"task {_own(handle).task_id} has no health checks")

    async def _prepare(self, spec: TaskSpec) -> _Prepared:
        check_spec(spec)
        _check(spec)
        assert self._engine is not None, "examined before"
        groups = (await self._sandbox.examined()).groups
        by_group = groups is not None and "memory" in groups.mounts
        return _Prepared(spec, await self._sandbox.prepare(_caged(spec, self._engine, by_group)))

    def _examine(self) -> Fingerprint:
        cage = self._sandbox.fingerprint()
        features = [feature for feature in cage.features if feature.name not in _NOT_HERE]
        try:
            if not cage.usable:
                raise DriverUnavailable(cage.reason)
            self._engine = pack(self._folder)
            wasm_trial.try_out(self._trial)
        except DriverUnavailable as error:
            return Fingerprint(self.name, self.isolation, False, str(error), ())
        interpreted = f"Wasmtime {self._engine.version}, interpreted (Pulley)"
        features += [
            Feature("deterministic", True, f"{interpreted}; no clock, no chance, no threads"),
            Feature("fuel", True, "counted by Wasmtime, calls to the host too"),
            Feature("program-memory", True, "bounded by Wasmtime, within the cage's own limit"),
        ]
        return Fingerprint(self.name, self.isolation, True, "", tuple(features))

    async def _trial(self, spec: TaskSpec) -> tuple[Exit, bytes]:
        """Run one task; how it ended, and what it said."""
        task = await self.start(await self._prepare(spec))
        try:
            found = await self.wait(task)
            return found, self.logs(task, spec.log_bytes_max)
        finally:
            await self.stop(task, 0)


def program_bytes(spec: TaskSpec) -> int:
    """[Z7] How much memory the program may have: what engine and files in memory leave of the task's."""
    size = sum(file.size_bytes for file in spec.files if file.path == spec.command[0])
    return spec.resources.memory_bytes - engine_bytes(size) - spec.resources.disk_bytes


def _check(spec: TaskSpec) -> None:
    def need(holds: bool, field: str, rule: str) -> None:
        if not holds:
            raise SpecRefused(field, rule)

    files = [file.path for file in spec.files]
    need(spec.command[0] in files, "command[0]", "one of the task's files: the program")
    need(spec.fuel > 0, "fuel", "more than 0")
    need(not spec.ports, "ports", "none: there is no network")
    need(not spec.egress, "egress", "none: there is no network")
    need(not spec.secrets, "secrets", "none")
    need(not spec.volumes, "volumes", "none")
    need(program_bytes(spec) > 0, "resources.memory_bytes", "room for the engine and disk_bytes")


def _caged(spec: TaskSpec, engine: EngineRoot, by_group: bool) -> TaskSpec:
    """The sandbox's task that runs this one. `by_group`: its memory is counted, not its addresses."""
    config = {
        "library": LIBRARY,
        "inputs": INPUTS,
        "words": spec.command,
        "environment": dict(spec.env),
        "results": spec.results,
        "fuel": spec.fuel,
        "memory_bytes": program_bytes(spec),
        "disk_bytes": spec.resources.disk_bytes,
    }
    # Wasmtime reserves as many addresses as the program's memory may have for the page of `calls`, too.
    addresses = program_bytes(spec) + _MAPPED_BYTES
    resources = replace(
        spec.resources,
        memory_bytes=spec.resources.memory_bytes + (0 if by_group else addresses),
        disk_bytes=spec.resources.disk_bytes + _END_BYTES,
        pids=_PIDS,
    )
    return replace(
        spec,
        command=(*engine.command, json.dumps(config, ensure_ascii=False, separators=(",", ":"))),
        env={},  # the program's own is in the words: nothing of a contract reaches the engine's
        files=tuple(replace(file, path=INPUTS + file.path, mode=0o444) for file in spec.files),
        trees=(engine.tree, *(replace(tree, path=INPUTS + tree.path) for tree in spec.trees)),
        resources=resources,
        runtime="sandbox",
    )


def _ended(running: Running, found: Exit) -> Exit:
    """How the program ended, by what the engine left; else how the engine did."""
    if not found.ok or running.launcher is None:
        return found
    try:
        (file,) = collect_results(running.launcher.pid, (END,))
        said = json.loads(file.data)
        code, reason = said["code"], str(said["reason"])
    except (ResultRefused, OSError, ValueError, KeyError) as error:
        return Exit(None, None, False, f"the engine did not say how the program ended: {error}")
    return Exit(int(code) if code is not None else None, None, False, reason)


def _own(handle: Handle) -> _Handle:
    if not isinstance(handle, _Handle):
        raise TypeError(f"made by another driver: {type(handle).__name__}")
    return handle
