"""What bounds a WebAssembly program, and what is none: fuel, memory, files, the language itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from ledger.limits import WASM_ENGINE_BYTES
from ledger.manifests.wasm import engine_bytes
from node.executor.drivers.base import EgressSpec, PortSpec, TreeSpec, VolumeSpec
from node.executor.drivers.wasm import WasmDriver
from node.executor.errors import DriverUnavailable, ResultRefused, SpecRefused

from .conftest import make_tar
from .wasm_bench import MIB, RESOURCES, ROOM_BYTES, Wasm, wasm_driver
from .wasm_programs import HELLO, LOOP, WRITE_RESULT, built, start


@pytest.fixture(scope="module")
def wasm(tmp_path_factory: pytest.TempPathFactory) -> Wasm:
    return wasm_driver(tmp_path_factory.mktemp("wasm"))


async def test_fuel_ends_a_loop(wasm: Wasm) -> None:
    """[Z9]"""
    assert await wasm.reason(wasm.spec(LOOP)) == "its fuel is used up: 100000000"


async def test_calls_cost_fuel_too(wasm: Wasm) -> None:
    """By its instructions alone, this loop would make half a million calls of a millisecond's rest each."""
    body = "(loop $a (drop (call $random_get (i32.const 0) (i32.const 65536))) (br $a))"
    used = (await wasm.run(wasm.spec(start(body), fuel=10_000_000)))[0]
    assert used.reason == "its fuel is used up: 10000000"


async def test_memory_ends_at_its_bound(wasm: Wasm) -> None:
    """[Z7] 8 MiB are 128 pages: 126 more than it begins with, and not one beyond."""
    grow = "(if (i32.ne (memory.grow (i32.const {})) (i32.const {})) (then (unreachable)))"
    for program, ends in (
        (start(grow.format(126, 2) + grow.format(1, -1)), "ended with code 0"),
        (
            built('(func (export "_start"))', pages=129),
            "no program for this engine: memory minimum size of 129",
        ),
    ):
        exact = engine_bytes(len(program)) + ROOM_BYTES + MIB
        resources = dataclasses.replace(RESOURCES, memory_bytes=exact)
        found, _, _ = await wasm.run(wasm.spec(program, resources=resources))
        assert found.reason.startswith(ends)


async def test_where_memory_is_not_counted_by_groups_its_addresses_are(
    wasm: Wasm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a gibibyte for the program, all of it used, on a host without control groups."""
    monkeypatch.setattr(
        wasm.sandbox, "_host", dataclasses.replace(await wasm.sandbox.examined(), groups=None)
    )
    body = """(if (i32.eq (memory.grow (i32.const 8000)) (i32.const -1)) (then (unreachable)))
     (memory.fill (i32.const 0) (i32.const 1) (i32.const 524000000))"""
    resources = dataclasses.replace(RESOURCES, memory_bytes=600 * MIB)
    found, said, _ = await wasm.run(wasm.spec(start(body), resources=resources, fuel=10**9))
    assert found.ok, (found, said)


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


async def test_without_its_library_the_driver_says_so(wasm: Wasm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.executor.drivers.wasm_root._PACKAGE", "no_such_package")
    driver = WasmDriver(wasm.sandbox, wasm.folder / "other")
    found = driver.fingerprint()
    assert not found.usable
    assert "wasmtime is not installed" in found.reason
    with pytest.raises(DriverUnavailable):
        await driver.prepare(wasm.spec(HELLO))


async def test_too_many_files_are_told(wasm: Wasm) -> None:
    data = make_tar({f"f{n}": b"" for n in range(8_200)})
    file = wasm.file("/many", data)
    tree = TreeSpec("/many", file.digest, file.size_bytes, file.source)
    assert await wasm.reason(wasm.spec(HELLO, trees=(tree,))) == (
        "no program for this engine: more than 8192 files and folders"
    )


async def test_a_result_that_is_too_large_is_refused(wasm: Wasm) -> None:
    """20 MiB of the program's files, of which no more is put where the node looks than it takes to see."""
    body = """(memory.fill (i32.const 4096) (i32.const 7) (i32.const 20000000))
     (call $result (i32.const 4096) (i32.const 20000000))"""
    program = built(f'{WRITE_RESULT}(func (export "_start") {body})', pages=400)
    resources = dataclasses.replace(RESOURCES, memory_bytes=120 * MIB, disk_bytes=20 * MIB)
    spec = wasm.spec(program, resources=resources, results=("/result/out",))
    async with wasm.running(spec) as handle:
        assert (await wasm.driver.wait(handle)).ok
        with pytest.raises(ResultRefused, match="at most"):
            await wasm.driver.collect(handle)
