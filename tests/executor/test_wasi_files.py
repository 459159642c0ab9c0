"""The files of a WebAssembly program: what is there, what can be done with it, and what all of it costs."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from node.executor.wasm import files
from node.executor.wasm.guest import PIECE_BYTES

from .wasi_program import ROOM, SIZE, Program, sample


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return sample(tmp_path)


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


def test_listing_is_in_order_and_can_be_cut(program: Program) -> None:
    assert [name for name, _, _ in program.names()] == [".", "..", "data", "p", "result", "tmp"]
    assert program.call("fd_readdir", 3, 8192, 30, 2, 48) == 0
    assert program.number(48) == 30, "full: there is more"
    assert struct.unpack_from("<QQIB", program.get(8192, 30))[0] == 3
    assert program.call("fd_readdir", 3, 8192, 8192, 6, 48) == 0
    assert program.number(48) == 0
    assert program.call("fd_readdir", 1, 8192, 8192, 0, 48) == 54


def test_no_time_number_or_device_of_the_host(program: Program, tmp_path: Path) -> None:
    """[Z8]"""
    device, number, kind, links, size, *times = program.stat("data/one")
    assert (device, kind, links, size, times) == (1, 4, 1, 10, [0, 0, 0])
    assert number != os.stat(tmp_path / "inputs/data/one").st_ino
    fd = program.open("tmp/a", how=1)
    assert program.call("fd_filestat_set_times", fd, 1, 1, 15) == 0
    assert program.call("path_filestat_set_times", 3, 0, program.put(64, b"tmp/a"), 5, 9, 9, 15) == 0
    assert program.stat("tmp/a")[5:] == (0, 0, 0)


def test_much_is_moved_in_pieces_and_what_does_not_fit_is_told(program: Program) -> None:
    """A write that is cut by the room says how much it wrote, the next one that there is none."""
    data = os.urandom(SIZE - 32768)
    program.put(16384, data)
    fd = program.open("result/x", how=1)
    program.put(40, struct.pack("<II", 16384, len(data)))
    assert program.call("fd_write", fd, 40, 1, 48) == 0
    written = program.number(48)
    assert written % PIECE_BYTES == 0
    assert 0 < written < ROOM < len(data)
    assert program.call("fd_write", fd, 40, 1, 48) == 51
    found = files.written(program.root, "/result/x")
    assert found is not None
    assert bytes(found.data) == data[:written]
    program.put(40, struct.pack("<II", 16384, len(data)))
    assert program.call("fd_pread", fd, 40, 1, 1, 48) == 0
    assert program.number(48) == written - 1
    assert program.get(16384, written - 1) == data[1:written]


def test_what_a_program_left_is_a_file_of_its_own(program: Program) -> None:
    assert files.written(program.root, "/data/one") is None
    assert files.written(program.root, "/result") is None
    assert files.written(program.root, "/result/none") is None


def test_inputs_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(b"")
    monkeypatch.setattr(files, "INPUTS_MAX", 4)  # the root among them
    assert len(files.tree(str(tmp_path), ROOM).names) == 5
    monkeypatch.setattr(files, "INPUTS_MAX", 3)
    with pytest.raises(files.TooMany):
        files.tree(str(tmp_path), ROOM)
