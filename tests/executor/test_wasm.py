"""The wasm driver for real: programs in the cage, and that they are the same everywhere."""

from __future__ import annotations

import dataclasses
import signal

import pytest
import trio
from wasmtime import wat2wasm

from ledger.manifests.services import ISOLATION
from ledger.manifests.wasm import engine_bytes
from node.clock import boot_ms
from node.executor.drivers import wasm_trial
from node.executor.drivers.base import TreeSpec
from node.executor.errors import ExecutorError, ResultRefused

from .conftest import make_tar
from .wasm_bench import MIB, RESOURCES, Wasm, wasm_driver
from .wasm_programs import HELLO, LOOP, TELL, WORLD, WRITE_RESULT, start

WORLD_DIGEST = "a25b8fff5e292e6079df994f53ae3c4135b3dd96610065f72e55034d69a3c322"


@pytest.fixture(scope="module")
def wasm(tmp_path_factory: pytest.TempPathFactory) -> Wasm:
    return wasm_driver(tmp_path_factory.mktemp("wasm"))


def test_the_fingerprint_names_the_engine_and_only_what_it_enforces(wasm: Wasm) -> None:
    found = wasm.driver.fingerprint()
    assert found.driver == "wasm"
    for name in ("fuel", "deterministic", "program-memory", "seccomp", "no-capabilities"):
        assert found.enforces(name), name
    assert set(ISOLATION) <= {feature.name for feature in found.features}
    for name in ("egress", "secrets", "volumes", "volume-copies", "health-exec"):
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


async def test_the_engine_fits_into_its_share(wasm: Wasm) -> None:
    """A program of more than half a mebibyte is compiled in what is left beside a memory that is full."""
    part = "(local.set $n (i32.add (i32.mul (local.get $n) (i32.const 77)) (i32.load (local.get $n))))" * 30
    many = "".join(f"(func (param $n i32) (result i32) {part} (local.get $n))" for _ in range(2_000))
    program = start("(memory.fill (i32.const 0) (i32.const 1) (i32.const 131072))", many)
    assert len(program) > MIB // 2
    resources = dataclasses.replace(RESOURCES, memory_bytes=engine_bytes(len(program)) + MIB + 2 * 65536)
    found, said, _ = await wasm.run(wasm.spec(program, resources=resources))
    assert found.ok, (found, said)


async def test_a_result_that_is_missing_is_refused_and_others_results_are_not_there(wasm: Wasm) -> None:
    spec = wasm.spec(start("(nop)"), results=("/result/out",))
    async with wasm.running(spec) as handle:
        assert (await wasm.driver.wait(handle)).ok
        with pytest.raises(ResultRefused):
            await wasm.driver.collect(handle)


async def test_a_program_that_fails_leaves_no_results(wasm: Wasm) -> None:
    body = "(call $result (i32.const 0) (i32.const 4)) (call $exit (i32.const 3))"
    async with wasm.running(wasm.spec(start(body, WRITE_RESULT), results=("/result/out",))) as handle:
        assert (await wasm.driver.wait(handle)).code == 3
        with pytest.raises(ResultRefused):
            await wasm.driver.collect(handle)


async def test_the_same_on_every_machine_at_every_time(wasm: Wasm) -> None:
    """[Z8] All that could differ, twice, and by a fixed digest: other nodes and years must agree with it."""
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
        with trio.fail_after(60):
            found = await wasm.driver.stop(handle, 600)
        assert not found.ok
        assert (await wasm.driver.wait(handle)).code is None


async def test_its_launcher_kills_it_at_its_deadline(wasm: Wasm) -> None:
    handle = await wasm.driver.start(
        await wasm.driver.prepare(wasm.spec(LOOP, fuel=1 << 50)), boot_ms() + 1500
    )
    try:
        with trio.fail_after(60):
            found = await wasm.driver.wait(handle)
        assert found.signal == signal.SIGKILL
        assert "did not answer in time" in found.reason
    finally:
        await wasm.driver.stop(handle, 0)


async def test_how_it_ended_is_known_after_stop(wasm: Wasm) -> None:
    handle = await wasm.driver.start(await wasm.driver.prepare(wasm.spec(HELLO)))
    inner = handle.inner
    with trio.fail_after(60):
        await inner.wait()
    assert (await wasm.driver.stop(handle, 0)).code == 7
    assert (await wasm.driver.wait(handle)).code == 7


async def test_trees_are_inputs_and_lie_beside_the_engine(wasm: Wasm) -> None:
    """Even a tree at the engine's own path is the program's alone."""
    data = make_tar({"bin": None, "bin/python3": b"not this one"})
    file = wasm.file("/engine", data)
    body = """(call $exit (call $path_open (i32.const 3) (i32.const 1) (i32.const 64) (i32.const 18)
       (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 32)))"""
    tree = TreeSpec("/engine", file.digest, file.size_bytes, file.source)
    spec = wasm.spec(start(body, '(data (i32.const 64) "engine/bin/python3")'), trees=(tree,))
    found, said, _ = await wasm.run(spec)
    assert found.code == 0, said


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
