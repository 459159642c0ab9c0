"""What a WebAssembly program is told by its host, call by call, without an engine or a sandbox."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

import pytest

from node.executor.wasm import calls, files
from node.executor.wasm.wasi import CALL_FUEL, Exit, NoFuel, System

SIZE = 1 << 20
ROOM = 1 << 16  # of the files in memory


class Engine:
    """In the place of Wasmtime: a memory and a tank."""

    def __init__(self) -> None:
        self.memory = ctypes.create_string_buffer(SIZE)
        self.fuel = 1 << 40

    def place(self, memory: object) -> tuple[int, int]:
        return ctypes.addressof(self.memory), SIZE

    def trap(self, text: bytes) -> int:
        return 1


class Program:
    """Calls the host as a program does; `at` places data from 1024 on."""

    def __init__(
        self, inputs: Path, words: tuple[str, ...] = ("/p",), env: dict[str, str] | None = None
    ) -> None:
        self.engine = Engine()
        self.root = files.tree(str(inputs), ROOM)
        self.system = System(self.engine, self.root, words, env or {})  # type: ignore[arg-type]
        self.page = (ctypes.c_uint64 * 512)()
        self.system.joins(object(), ctypes.addressof(self.page))  # type: ignore[arg-type]

    def call(self, name: str, *given: int) -> int:
        assert len(given) == len(calls.SIGNATURES[name])
        for at, value in enumerate(given):
            self.page[at] = value & (1 << 64) - 1
        self.page[calls.ANSWER_AT] = 999
        assert self.system.call(name) == 0, repr(self.system.ended)
        return self.page[calls.ANSWER_AT]

    def put(self, at: int, data: bytes) -> int:
        ctypes.memmove(ctypes.addressof(self.engine.memory) + at, data, len(data))
        return at

    def get(self, at: int, size: int) -> bytes:
        return ctypes.string_at(ctypes.addressof(self.engine.memory) + at, size)

    def number(self, at: int, size: int = 4) -> int:
        return int.from_bytes(self.get(at, size), "little")

    def path(self, name: str, path: str, *more: int, fd: int = 3) -> int:
        """A call whose arguments are a folder and a path."""
        return self.call(name, fd, self.put(64, path.encode()), len(path.encode()), *more)

    def open(self, path: str, how: int = 0, rights: int = 0x3FFFFFFF, flags: int = 0, fd: int = 3) -> int:
        """The descriptor, or the error as a negative number."""
        raw = path.encode()
        errno = self.call("path_open", fd, 0, self.put(64, raw), len(raw), how, rights, 0, flags, 32)
        return -errno if errno else self.number(32)

    def read(self, fd: int, size: int = 4096) -> bytes:
        self.put(40, struct.pack("<II", 8192, size))
        assert self.call("fd_read", fd, 40, 1, 48) == 0
        return self.get(8192, self.number(48))

    def write(self, fd: int, data: bytes) -> int:
        self.put(40, struct.pack("<II", self.put(16384, data), len(data)))
        return self.call("fd_write", fd, 40, 1, 48)

    def names(self, fd: int = 3) -> list[tuple[str, int, int]]:
        """(name, number, type) of a folder's entries."""
        assert self.call("fd_readdir", fd, 8192, 8192, 0, 48) == 0
        raw, found = self.get(8192, self.number(48)), []
        while raw:
            _, number, size, kind = struct.unpack_from("<QQIB", raw)
            found.append((raw[24 : 24 + size].decode(), number, kind))
            raw = raw[24 + size :]
        return found

    def stat(self, path: str) -> tuple[int, ...]:
        assert self.path_stat(path) == 0
        return struct.unpack("<QQB7xQQQQQ", self.get(512, 64))

    def path_stat(self, path: str) -> int:
        raw = path.encode()
        return self.call("path_filestat_get", 3, 1, self.put(64, raw), len(raw), 512)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    inputs = tmp_path / "inputs"
    (inputs / "data").mkdir(parents=True)
    (inputs / "p").write_bytes(b"\0asm")
    (inputs / "data/one").write_bytes(b"0123456789")
    (inputs / "data/empty").write_bytes(b"")
    return Program(inputs, ("/p", "word"), {"B": "2", "A": "é"})


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


def test_inputs_are_read_and_nothing_else(program: Program) -> None:
    fd = program.open("data/one", rights=2)
    assert program.read(fd, 4) == b"0123"
    assert program.read(fd) == b"456789"
    assert program.read(fd) == b""
    assert program.write(fd, b"x") == 58, "no right to write"
    assert program.open("data/one", rights=0x40) == -69
    assert program.open("data/one", how=8, rights=2) == -69, "nor to cut"
    assert program.open("data/new", how=1) == -69
    assert program.path("path_unlink_file", "data/one") == 69
    assert program.path("path_create_directory", "data/x") == 69
    assert program.path("path_remove_directory", "data") == 69
    raw = b"tmp/one"
    program.put(256, raw)
    assert program.path("path_rename", "data/one", 3, 256, len(raw)) == 69
    assert program.path("path_rename", "tmp", 3, 256, 3) == 69, "the root is nobody's to change"


@pytest.mark.parametrize("path", ["..", "../x", "data/../..", "tmp/../../etc", "/", "/etc", "//p"])
def test_nothing_is_above_the_root(program: Program, path: str) -> None:
    assert program.path_stat(path) == 76
    assert program.open(path, how=1) == -76


@pytest.mark.parametrize(
    ("path", "errno"),
    [("", 44), ("data/no", 44), ("p/x", 54), ("data/one/..", 54), ("a\0b", 28), ("data/one/", 54)],
)
def test_bad_names(program: Program, path: str, errno: int) -> None:
    assert program.open(path) == -errno


def test_a_name_that_is_no_text_or_too_long(program: Program) -> None:
    program.put(64, b"\xff\xfe")
    assert program.call("path_filestat_get", 3, 0, 64, 2, 512) == 25
    assert program.call("path_filestat_get", 3, 0, 64, 4097, 512) == 37
    assert program.open("tmp/" + "n" * 256, how=1) == -37
    assert program.open("tmp/" + "n" * 255, how=1) > 3


def test_files_are_written_read_moved_and_removed(program: Program) -> None:
    fd = program.open("tmp/a", how=1 | 4)
    assert program.write(fd, b"hello world") == 0
    assert program.call("fd_seek", fd, -5, 2, 48) == 0
    assert program.number(48, 8) == 6
    assert program.read(fd) == b"world"
    assert program.call("fd_seek", fd, -20, 1, 48) == 28
    assert program.call("fd_tell", fd, 48) == 0
    assert program.number(48, 8) == 11
    program.put(40, struct.pack("<II", program.put(16384, b"HE"), 2))
    assert program.call("fd_pwrite", fd, 40, 1, 0, 48) == 0
    program.put(40, struct.pack("<II", 8192, 5))
    assert program.call("fd_pread", fd, 40, 1, 0, 48) == 0
    assert program.get(8192, 5) == b"HEllo"
    assert program.open("tmp/a", how=1 | 4) == -20, "exclusive"
    program.put(256, b"result/b")
    assert program.path("path_rename", "tmp/a", 3, 256, 8) == 0
    assert program.path_stat("tmp/a") == 44
    assert program.stat("result/b")[4] == 11
    assert program.path("path_unlink_file", "result/b") == 0
    assert program.path_stat("result/b") == 44
    assert program.write(fd, b"!") == 0, "still open"
    assert program.call("fd_close", fd) == 0
    assert program.call("fd_close", fd) == 8


def test_append_truncate_allocate_and_holes(program: Program) -> None:
    fd = program.open("tmp/a", how=1, flags=1)
    assert program.write(fd, b"one") == 0
    assert program.call("fd_seek", fd, 0, 0, 48) == 0
    assert program.write(fd, b"two") == 0
    assert program.stat("tmp/a")[4] == 6
    assert program.call("fd_filestat_set_size", fd, 2) == 0
    assert program.call("fd_allocate", fd, 0, 4) == 0
    assert program.call("fd_allocate", fd, 0, 1) == 0
    other = program.open("tmp/a")
    assert program.read(other) == b"on\0\0"
    program.put(40, struct.pack("<II", program.put(16384, b"!"), 1))
    assert program.call("fd_pwrite", other, 40, 1, 10, 48) == 0
    assert program.stat("tmp/a")[4] == 11
    assert program.open("tmp/a", how=8) > other
    assert program.stat("tmp/a")[4] == 0


def test_folders(program: Program) -> None:
    assert program.path("path_create_directory", "tmp/d") == 0
    assert program.path("path_create_directory", "tmp/d") == 20
    assert program.path("path_create_directory", "tmp/d/e") == 0
    folder = program.open("tmp/d", how=2)
    assert program.open("x", how=1, fd=folder) > folder
    assert [name for name, _, _ in program.names(folder)] == [".", "..", "e", "x"]
    assert program.path("path_remove_directory", "tmp/d") == 55
    assert program.path("path_unlink_file", "tmp/d/e") == 31
    assert program.path("path_remove_directory", "tmp/d/x") == 54
    program.put(256, b"tmp/d/e/f")
    assert program.path("path_rename", "tmp/d", 3, 256, 9) == 28, "not into itself"
    program.put(256, b"result/d")
    assert program.path("path_rename", "tmp/d", 3, 256, 8) == 0
    assert program.path_stat("result/d/../d/x") == 0
    assert program.open("..", how=2, fd=folder) > 3
    assert program.open("result/d", rights=0x40) == -31
    assert program.path("path_remove_directory", "result/d/e") == 0
    assert program.path("path_unlink_file", "result/d/x") == 0
    assert program.path("path_remove_directory", "result/d") == 0
    assert program.open("x", how=1, fd=folder) == -44, "a folder that is gone takes nothing in"


def test_rename_onto_what_is_there(program: Program) -> None:
    for path in ("tmp/a", "tmp/b"):
        assert program.write(program.open(path, how=1), path.encode()) == 0
    assert program.path("path_create_directory", "tmp/d") == 0
    program.put(256, b"tmp/b")
    assert program.path("path_rename", "tmp/a", 3, 256, 5) == 0
    assert program.read(program.open("tmp/b")) == b"tmp/a"
    assert program.path("path_rename", "tmp/b", 3, 256, 5) == 0, "onto itself"
    assert program.path("path_rename", "tmp/d", 3, 256, 5) == 54
    program.put(256, b"tmp/d")
    assert program.path("path_rename", "tmp/b", 3, 256, 5) == 31
    assert program.path("path_rename", "tmp/none", 3, 256, 5) == 44


def test_the_room_is_bounded_and_given_back(program: Program) -> None:
    fd = program.open("tmp/a", how=1)
    assert program.call("fd_filestat_set_size", fd, ROOM) == 51
    assert program.call("fd_allocate", fd, 0, 1 << 62) == 51
    assert program.call("fd_filestat_set_size", fd, ROOM - 4 * files.NODE_BYTES) == 0
    made = 0
    while program.open(f"tmp/{made}", how=1) > 0:
        made += 1
    assert made == 3, "empty files are not free"
    assert program.write(fd, b"") == 0
    assert program.path("path_unlink_file", "tmp/a") == 0
    assert program.open("tmp/more", how=1) == -51, "it is still open"
    assert program.call("fd_close", fd) == 0
    assert program.open("tmp/more", how=1) > 0


def test_descriptors_are_bounded_and_the_lowest_is_taken(program: Program) -> None:
    opened = []
    while (fd := program.open("p", rights=2)) > 0:
        opened.append(fd)
    assert (fd, opened[0], opened[-1]) == (-33, 4, 255)
    assert program.call("fd_close", 7) == 0
    assert program.open("p", rights=2) == 7
    assert program.call("fd_renumber", 8, 9) == 0
    assert program.call("fd_close", 8) == 8
    assert program.call("fd_renumber", 10, 300) == 8
    assert len(os.listdir("/proc/self/fd")) < 200, "the host's are opened when read from"


def test_rights_can_be_given_up(program: Program) -> None:
    fd = program.open("tmp/a", how=1)
    assert program.call("fd_fdstat_set_rights", fd, 2, 0) == 0
    assert program.write(fd, b"x") == 58
    assert program.call("fd_fdstat_get", fd, 512) == 0
    kind, flags, rights, _ = struct.unpack("<BxHxxxxQQ", program.get(512, 24))
    assert (kind, flags, rights) == (4, 0, 2)


def test_the_root_is_the_only_folder_that_is_given(program: Program) -> None:
    assert program.call("fd_prestat_get", 3, 512) == 0
    assert struct.unpack("<II", program.get(512, 8)) == (0, 1)
    assert program.call("fd_prestat_dir_name", 3, 512, 1) == 0
    assert program.get(512, 1) == b"/"
    assert program.call("fd_prestat_get", 4, 512) == 8
    assert program.call("fd_prestat_get", 1, 512) == 54


def test_streams(program: Program, capfd: pytest.CaptureFixture[str]) -> None:
    assert program.write(1, b"out\n") == 0
    assert program.write(2, b"err\n") == 0
    assert program.write(0, b"in") == 58
    assert program.read(0) == b""
    assert program.call("fd_seek", 1, 0, 0, 48) == 70
    assert capfd.readouterr() == ("out\n", "err\n")


def test_listing_is_in_order_and_can_be_cut(program: Program) -> None:
    assert [name for name, _, _ in program.names()] == [".", "..", "data", "p", "result", "tmp"]
    assert program.call("fd_readdir", 3, 8192, 30, 2, 48) == 0
    assert program.number(48) == 30, "full: there is more"
    assert struct.unpack_from("<QQIB", program.get(8192, 30))[0] == 3
    assert program.call("fd_readdir", 3, 8192, 8192, 6, 48) == 0
    assert program.number(48) == 0
    assert program.call("fd_readdir", 1, 8192, 8192, 0, 48) == 54


def test_no_time_number_or_device_of_the_host(program: Program, tmp_path: Path) -> None:
    device, number, kind, links, size, *times = program.stat("data/one")
    assert (device, kind, links, size, times) == (1, 4, 1, 10, [0, 0, 0])
    assert number != os.stat(tmp_path / "inputs/data/one").st_ino
    fd = program.open("tmp/a", how=1)
    assert program.call("fd_filestat_set_times", fd, 1, 1, 15) == 0
    assert program.call("path_filestat_set_times", 3, 0, program.put(64, b"tmp/a"), 5, 9, 9, 15) == 0
    assert program.stat("tmp/a")[5:] == (0, 0, 0)


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
