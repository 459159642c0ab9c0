"""What a WebAssembly program is told by its host, call by call: time, chance, streams, faults, fuel."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from node.executor.wasm import calls
from node.executor.wasm.guest import NoFuel
from node.executor.wasm.wasi import CALL_FUEL, Exit, System

from .wasi_program import SIZE, Program, sample


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return sample(tmp_path)


def test_words_and_environment(program: Program) -> None:
    assert program.call("args_sizes_get", 0, 4) == 0
    assert (program.number(0), program.number(4)) == (2, 8)
    assert program.call("args_get", 100, 200) == 0
    assert program.get(200, 8) == b"/p\0word\0"
    assert (program.number(100), program.number(104)) == (200, 203)
    assert program.call("environ_sizes_get", 0, 4) == 0
    assert (program.number(0), program.number(4)) == (2, 9)
    assert program.call("environ_get", 100, 200) == 0
    assert program.get(200, 9) == "A=é\0B=2\0".encode()


def test_streams(program: Program, capfd: pytest.CaptureFixture[str]) -> None:
    assert program.write(1, b"out\n") == 0
    assert program.write(2, b"err\n") == 0
    assert program.write(0, b"in") == 58
    assert program.read(0) == b""
    assert program.call("fd_seek", 1, 0, 0, 48) == 70
    assert capfd.readouterr() == ("out\n", "err\n")


def test_the_clock_counts_questions_and_sleep(program: Program) -> None:
    assert program.call("clock_res_get", 1, 512) == 0
    assert program.number(512, 8) == 1_000_000
    for expected in (1_000_000, 2_000_000):
        assert program.call("clock_time_get", 0, 0, 512) == 0
        assert program.number(512, 8) == expected
    relative = struct.pack("<QB7xI4xQQH6x", 77, 0, 1, 10**12, 0, 0)
    absolute = struct.pack("<QB7xI4xQQH6x", 78, 0, 1, 5_000_000, 0, 1)
    program.put(1024, relative + absolute)
    assert program.call("poll_oneoff", 1024, 2048, 2, 512) == 0
    assert program.number(512) == 1
    assert struct.unpack("<QHB", program.get(2048, 11)) == (78, 0, 0)
    assert program.call("clock_time_get", 0, 0, 512) == 0
    assert program.number(512, 8) == 6_000_000, "the earliest one rang"
    ready = struct.pack("<QB7xI4xQQH6x", 79, 1, 0, 0, 0, 0)
    program.put(1024, relative + ready)
    assert program.call("poll_oneoff", 1024, 2048, 2, 512) == 0
    assert struct.unpack("<QHB", program.get(2048, 11)) == (79, 0, 1)
    assert program.call("poll_oneoff", 1024, 2048, 0, 512) == 28
    assert program.call("clock_time_get", 4, 0, 512) == 28


def test_chance_is_the_same_for_all(program: Program, tmp_path: Path) -> None:
    other = Program(tmp_path / "inputs")
    found = []
    for each in (program, program, other):
        assert each.call("random_get", 512, 64) == 0
        found.append(each.get(512, 64))
    assert found[0] == found[2] != found[1]
    assert program.call("random_get", 512, 0) == 0
    assert found[0].hex().startswith("000000000000") is False


@pytest.mark.parametrize(
    "given",
    [
        ("args_get", SIZE - 4, 0),
        ("random_get", SIZE - 3, 4),
        ("clock_time_get", 0, 0, SIZE - 7),
        ("fd_write", 1, SIZE - 4, 1, 0),
        ("fd_readdir", 3, SIZE - 8, 9, 0, 0),
        ("path_open", 3, 0, SIZE, 1, 1, 0, 0, 0, 0),
        ("path_open", 3, 0, 64, 1, 1, 0, 0, 0, SIZE),
        ("path_filestat_get", 3, 0, 64, 1, SIZE - 63),
        ("poll_oneoff", SIZE - 47, 0, 1, 0),
        ("random_get", 0xFFFFFFFF, 0xFFFFFFFF),
    ],
)
def test_what_is_not_its_memory_is_a_fault(program: Program, given: tuple[str, int]) -> None:
    name, *arguments = given
    program.put(64, b"p")
    assert program.call(name, *arguments) == 21


def test_vectors_are_bounded(program: Program) -> None:
    program.put(40, struct.pack("<II", SIZE - 4, 8))
    assert program.call("fd_write", 1, 40, 1, 0) == 21
    assert program.call("fd_read", program.open("data/one", rights=2), 40, 1, 0) == 21
    assert program.call("fd_write", 1, 40, 1025, 0) == 28
    program.put(4096, struct.pack("<II", 0, SIZE) * 1024)
    assert program.call("fd_write", 1, 4096, 1024, 0) == 28, "a kibi of its whole memory in one call"


def test_there_is_no_network_no_link_no_signal(program: Program) -> None:
    for name in ("sock_accept", "sock_recv", "sock_send", "sock_shutdown"):
        assert program.call(name, *range(len(calls.SIGNATURES[name]))) == 57
    assert program.call("path_link", 3, 0, 64, 1, 3, 64, 1) == 58
    assert program.call("path_symlink", 64, 1, 3, 64, 1) == 58
    program.put(64, b"p")
    assert program.call("path_readlink", 3, 64, 1, 512, 64, 48) == 28
    assert program.call("proc_raise", 9) == 52
    assert program.call("sched_yield") == 0


def test_calls_are_paid_for(program: Program) -> None:
    """[Z9]"""
    before = program.engine.fuel
    assert program.call("sched_yield") == 0
    assert before - program.engine.fuel == CALL_FUEL
    before = program.engine.fuel
    assert program.call("random_get", 0, 80_000) == 0
    assert before - program.engine.fuel > CALL_FUEL + 80_000
    program.engine.fuel = CALL_FUEL - 1
    assert program.system.call("sched_yield") == 1
    assert isinstance(program.system.ended, NoFuel)
    assert program.engine.fuel == 0


def test_exit_ends_it(program: Program) -> None:
    program.page[0] = 3
    assert program.system.call("proc_exit") == 1
    assert isinstance(program.system.ended, Exit)
    assert program.system.ended.code == 3


def test_every_function_of_preview_1_is_there() -> None:
    assert len(calls.SIGNATURES) == 46
    assert list(calls.SIGNATURES) == sorted(calls.SIGNATURES)
    for name in calls.SIGNATURES:
        assert callable(getattr(System, name))
