"""A WebAssembly program's host without an engine or a sandbox: tests make its calls themselves."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

from node.executor.wasm import calls, files
from node.executor.wasm.wasi import System

SIZE = 1 << 22
ROOM = 3 << 20  # of the files in memory


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


def sample(folder: Path) -> Program:
    """With a few inputs: /p, /data/one, /data/empty."""
    inputs = folder / "inputs"
    (inputs / "data").mkdir(parents=True)
    (inputs / "p").write_bytes(b"\0asm")
    (inputs / "data/one").write_bytes(b"0123456789")
    (inputs / "data/empty").write_bytes(b"")
    return Program(inputs, ("/p", "word"), {"B": "2", "A": "é"})
