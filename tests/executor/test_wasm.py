"""The wasm driver for real: programs in the cage, what bounds them, and that they are the same everywhere."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from wasmtime import wat2wasm

from ledger.limits import WASM_ENGINE_BYTES
from node.clock import boot_ms
from node.executor.drivers import wasm_trial
from node.executor.drivers.base import (
    EgressSpec,
    Exit,
    FileSpec,
    Handle,
    PortSpec,
    Resources,
    ResultFile,
    TaskSpec,
    VolumeSpec,
)
from node.executor.drivers.sandbox import SandboxDriver
from node.executor.drivers.wasm import WasmDriver
from node.executor.errors import DriverUnavailable, ExecutorError, ResultRefused, SpecRefused

from .conftest import make_tar, needs_sandbox, sha256
from .wasm_programs import HELLO, LOOP, TELL, WORLD, built, start

MIB = 1 << 20
RESOURCES = Resources(1000, WASM_ENGINE_BYTES + 9 * MIB, MIB, 1)  # 8 MiB for the program
WORLD_DIGEST = "a25b8fff5e292e6079df994f53ae3c4135b3dd96610065f72e55034d69a3c322"


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
            with trio.fail_after(30):
                found = await self.driver.wait(handle)
            results = await self.driver.collect(handle) if found.ok else ()
            return found, self.driver.logs(handle, 1 << 20), results

    async def reason(self, spec: TaskSpec) -> str:
        """Run to its end, which is no exit."""
        found, _, _ = await self.run(spec)
        assert found.code is None
        assert found.signal is None
        return found.reason


@pytest.fixture(scope="module")
def wasm(tmp_path_factory: pytest.TempPathFactory) -> Wasm:
    needs_sandbox()
    folder = tmp_path_factory.mktemp("wasm")
    sandbox = SandboxDriver(folder / "run")
    driver = WasmDriver(sandbox, folder / "engine")
    if not sandbox.fingerprint().usable:
        pytest.skip(f"the sandbox driver is not usable here: {sandbox.fingerprint().reason}")
    assert driver.fingerprint().usable, driver.fingerprint().reason
    return Wasm(driver, sandbox, folder)


def test_the_fingerprint_names_the_engine_and_only_what_it_enforces(wasm: Wasm) -> None:
    found = wasm.driver.fingerprint()
    assert found.driver == "wasm"
    for name in ("fuel", "deterministic", "program-memory", "seccomp", "no-capabilities"):
        assert found.enforces(name), name
    for name in ("egress", "secrets", "volumes", "volume-copies"):
        assert not found.enforces(name), name


def test_the_trial_is_the_program_that_its_text_says() -> None:
    assert bytes(wat2wasm(wasm_trial.SOURCE)) == wasm_trial.PROGRAM


async def test_a_program_says_and_ends(wasm: Wasm) -> None:
    found, said, _ = await wasm.run(wasm.spec(HELLO))
    assert (found.code, found.reason, said) == (7, "ended with code 7", b"hello\n")


@pytest.mark.parametrize("code", [0, 1, 127, 128, 137, 255, 256])
async def test_an_exit_code_is_no_signal(wasm: Wasm, code: int) -> None:
    found, _, _ = await wasm.run(wasm.spec(start(f"(call $exit (i32.const {code}))")))
    assert (found.code, found.signal) == (code & 0xFF, None)


async def test_it_gets_its_words_environment_and_files_and_leaves_results(wasm: Wasm) -> None:
    spec = wasm.spec(
        TELL,
        "one",
        "two words",
        files={"/data/one": b"of the contract"},
        env={"B": "2", "A": "1", "LD_PRELOAD": "/inputs/data/one", "PYTHONPATH": "/inputs"},
        results=("/result/out",),
    )
    found, said, (result,) = await wasm.run(spec)
    assert found.ok, (found, said)
    texts = result.data[:1024].rstrip(b"\0"), result.data[1024:2048].rstrip(b"\0"), result.data[2048:]
    assert texts[0] == b"/program\0one\0two words"
    assert texts[1] == b"A=1\0B=2\0LD_PRELOAD=/inputs/data/one\0PYTHONPATH=/inputs"
    assert texts[2].rstrip(b"\0") == b"of the contract"
    assert said == b"", "the engine's own linker saw the environment of the program"


async def test_fuel_ends_a_loop(wasm: Wasm) -> None:
    assert await wasm.reason(wasm.spec(LOOP)) == "its fuel is used up: 100000000"


async def test_calls_cost_fuel_too(wasm: Wasm) -> None:
    """By its instructions alone, this loop would make half a million calls of a millisecond's rest each."""
    body = "(loop $a (drop (call $random_get (i32.const 0) (i32.const 65536))) (br $a))"
    used = (await wasm.run(wasm.spec(start(body), fuel=10_000_000)))[0]
    assert used.reason == "its fuel is used up: 10000000"


async def test_memory_ends_at_its_bound(wasm: Wasm) -> None:
    """8 MiB are 128 pages: 126 more than it begins with, and not one beyond."""
    grow = "(if (i32.ne (memory.grow (i32.const {})) (i32.const {})) (then (unreachable)))"
    fits = start(grow.format(126, 2) + grow.format(1, -1))
    assert (await wasm.run(wasm.spec(fits)))[0].ok
    assert "memory" in await wasm.reason(wasm.spec(built('(func (export "_start"))', pages=129)))


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (start("(unreachable)"), "it trapped: wasm `unreachable` instruction executed"),
        (built('(func $f (export "_start") (call $f))'), "it trapped: call stack exhausted"),
        (start("(drop (i32.load (i32.const -4)))"), "it trapped: out of bounds memory access"),
        (start("(drop (i32.div_u (i32.const 1) (i32.const 0)))"), "it trapped: integer divide by zero"),
        (bytes(wat2wasm("(module)")), "no program for this engine: it exports no function _start"),
        (b"\x7fELF", "no program for this engine: failed to parse WebAssembly module"),
        (b"", "no program for this engine: failed to parse WebAssembly module"),
        (
            bytes(wat2wasm('(module (import "env" "system" (func)))')),
            "no program for this engine: unknown import",
        ),
        (
            bytes(wat2wasm('(module (import "host" "fd_write" (func)) (func (export "_start")))')),
            "no program for this engine: unknown import",
        ),
        (
            bytes(
                wat2wasm(
                    '(module (import "wasi_snapshot_preview1" "page" (memory 1)) (func (export "_start")))'
                )
            ),
            "no program for this engine: unknown import",
        ),
    ],
)
async def test_what_is_no_program_or_fails_says_why(wasm: Wasm, program: bytes, reason: str) -> None:
    assert (await wasm.reason(wasm.spec(program))).startswith(reason)


@pytest.mark.parametrize(
    "text",
    [
        '(module (memory 1 1 shared) (func (export "_start")))',
        '(module (memory i64 1) (func (export "_start")))',
        '(module (memory 1) (memory 1) (func (export "_start")))',
        '(module (func (export "_start") (drop (i8x16.relaxed_swizzle (v128.const i64x2 0 0)'
        " (v128.const i64x2 0 0)))))",
        '(module (func $f (export "_start") (return_call $f)))',
    ],
)
async def test_what_could_differ_or_is_not_in_webassembly_2_is_refused(wasm: Wasm, text: str) -> None:
    assert (await wasm.reason(wasm.spec(bytes(wat2wasm(text))))).startswith("no program for this engine")


@pytest.mark.parametrize(
    ("path", "errno"),
    [
        ("etc/passwd", 44),
        ("../etc/passwd", 76),
        ("tmp/../../etc/passwd", 76),
        ("/etc/passwd", 76),
        ("proc/self/maps", 44),
        ("engine/bin/python3", 44),
        ("inputs/program", 44),
        ("tmp/end", 44),
        ("dev/null", 44),
        ("program", 0),
    ],
)
async def test_there_is_nothing_outside(wasm: Wasm, path: str, errno: int) -> None:
    """The last one is the control: the same call opens what is there."""
    body = f"""(call $exit (call $path_open (i32.const 3) (i32.const 1) (i32.const 64) (i32.const {len(path)})
       (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 32)))"""
    found, _, _ = await wasm.run(wasm.spec(start(body, f'(data (i32.const 64) "{path}")')))
    assert found.code == errno


async def test_a_result_that_is_missing_is_refused_and_others_results_are_not_there(wasm: Wasm) -> None:
    spec = wasm.spec(start("(nop)"), results=("/result/out",))
    async with wasm.running(spec) as handle:
        assert (await wasm.driver.wait(handle)).ok
        with pytest.raises(ResultRefused):
            await wasm.driver.collect(handle)


async def test_a_program_that_fails_leaves_no_results(wasm: Wasm) -> None:
    body = "(call $result (i32.const 0) (i32.const 4)) (call $exit (i32.const 3))"
    from .wasm_programs import WRITE_RESULT

    async with wasm.running(wasm.spec(start(body, WRITE_RESULT), results=("/result/out",))) as handle:
        assert (await wasm.driver.wait(handle)).code == 3
        with pytest.raises(ResultRefused):
            await wasm.driver.collect(handle)


async def test_the_same_on_every_machine_at_every_time(wasm: Wasm) -> None:
    """All that could differ, twice, and by a fixed digest: other nodes, other years must agree with it."""
    spec = wasm.spec(
        WORLD, files={"/data/one": b"1", "/data/b": b"", "/z": b"", "/a": b""}, results=("/result/out",)
    )
    first, said, one = await wasm.run(spec)
    assert first.ok, (first, said)
    again = dataclasses.replace(spec, task_id="another.sum.2", files=tuple(reversed(spec.files)), fuel=10**9)
    _, _, two = await wasm.run(again)
    assert one[0].data == two[0].data
    assert one[0].digest == WORLD_DIGEST, one[0].data.hex()


async def test_what_runs_is_attested_and_nothing_was_made_executable(wasm: Wasm) -> None:
    async with wasm.running(wasm.spec(LOOP, fuel=1 << 50)) as handle:
        seen = await wasm.driver.attest(handle)
        assert seen.ok, seen.drifts
        assert seen.processes_checked >= 1
        assert seen.mappings_checked > 3
        assert (await wasm.driver.probe(handle)).alive
        assert handle.ports == {}


async def test_an_ended_program_is_attested_too(wasm: Wasm) -> None:
    async with wasm.running(wasm.spec(HELLO)) as handle:
        await wasm.driver.wait(handle)
        seen = await wasm.driver.attest_ended(handle)
        assert seen.ok
        assert seen.files_checked > 10, "the engine's own files are looked at"


async def test_stop_ends_it_at_once(wasm: Wasm) -> None:
    async with wasm.running(wasm.spec(LOOP, fuel=1 << 50)) as handle:
        began = time.monotonic()
        found = await wasm.driver.stop(handle, 5)
        assert time.monotonic() - began < 5
        assert not found.ok
        assert (await wasm.driver.wait(handle)).code is None


async def test_its_launcher_kills_it_at_its_deadline(wasm: Wasm) -> None:
    handle = await wasm.driver.start(
        await wasm.driver.prepare(wasm.spec(LOOP, fuel=1 << 50)), boot_ms() + 1500
    )
    try:
        with trio.fail_after(10):
            found = await wasm.driver.wait(handle)
        assert found.signal == signal.SIGKILL
        assert "did not answer in time" in found.reason
    finally:
        await wasm.driver.stop(handle, 0)


async def test_how_it_ended_is_known_after_stop(wasm: Wasm) -> None:
    handle = await wasm.driver.start(await wasm.driver.prepare(wasm.spec(HELLO)))
    inner = handle.inner
    with trio.fail_after(10):
        await inner.wait()
    assert (await wasm.driver.stop(handle, 0)).code == 7
    assert (await wasm.driver.wait(handle)).code == 7


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"fuel": 0}, "fuel"),
        ({"command": ("/other",)}, "command[0]"),
        ({"ports": (PortSpec("http", 80),)}, "ports"),
        ({"egress": (EgressSpec("192.0.2.1", 9),)}, "egress[0].address"),
        ({"secrets": {"key": b"x"}}, "secrets"),
        ({"volumes": (VolumeSpec("/v", Path("/v"), 16 * MIB),)}, "volumes"),
        (
            {"resources": dataclasses.replace(RESOURCES, memory_bytes=WASM_ENGINE_BYTES + MIB)},
            "resources.memory_bytes",
        ),
    ],
)
async def test_what_it_does_not_do_is_refused(wasm: Wasm, change: dict[str, object], field: str) -> None:
    with pytest.raises(SpecRefused) as refused:
        await wasm.driver.prepare(wasm.spec(HELLO, **change))
    assert refused.value.field == field


async def test_trees_are_inputs_and_lie_beside_the_engine(wasm: Wasm) -> None:
    """Even a tree at the engine's own path is the program's alone."""
    from node.executor.drivers.base import TreeSpec

    data = make_tar({"bin": None, "bin/python3": b"not this one"})
    file = wasm.file("/engine", data)
    body = """(call $exit (call $path_open (i32.const 3) (i32.const 1) (i32.const 64) (i32.const 18)
       (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 32)))"""
    tree = TreeSpec("/engine", file.digest, file.size_bytes, file.source)
    spec = wasm.spec(start(body, '(data (i32.const 64) "engine/bin/python3")'), trees=(tree,))
    found, said, _ = await wasm.run(spec)
    assert found.code == 0, said


async def test_without_its_library_the_driver_says_so(wasm: Wasm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.executor.drivers.wasm_root._PACKAGE", "no_such_package")
    driver = WasmDriver(wasm.sandbox, wasm.folder / "other")
    found = driver.fingerprint()
    assert not found.usable
    assert "wasmtime is not installed" in found.reason
    with pytest.raises(DriverUnavailable):
        await driver.prepare(wasm.spec(HELLO))


async def test_volumes_are_not_copied(wasm: Wasm) -> None:
    async with wasm.running(wasm.spec(HELLO)) as handle:
        with pytest.raises(ExecutorError):
            await wasm.driver.copy_volumes(handle, {})


def test_the_structures_are_those_of_the_installed_library() -> None:
    """`library` has its own: the package cannot be imported in the sandbox."""
    import ctypes

    from wasmtime import _bindings as theirs

    from node.executor.wasm import library as ours

    for name, mine in (
        ("wasmtime_extern_t", ours.Extern),
        ("wasmtime_func_t", ours.Function),
        ("wasmtime_memory_t", ours.Memory),
        ("wasmtime_instance_t", ours.Instance),
        ("wasm_byte_vec_t", ours.Bytes),
    ):
        assert ctypes.sizeof(getattr(theirs, name)) == ctypes.sizeof(mine), name
        assert ctypes.alignment(getattr(theirs, name)) == ctypes.alignment(mine), name
    assert theirs.wasmtime_extern_t.of.offset == ours.Extern.of.offset
    codes = theirs.wasmtime_trap_code_enum
    assert codes.WASMTIME_TRAP_CODE_OUT_OF_FUEL.value == ours.OUT_OF_FUEL
