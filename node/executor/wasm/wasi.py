"""WASI preview 1 (wasi_snapshot_preview1.witx), the same on every machine: what a program asks of its host.

The clock stands still but for one millisecond each time it is asked, and for sleeping, which moves it and
takes no time. What is random is the same stream for all programs. There is no network and no other process.
Each call costs fuel, so that fuel bounds also what we do for the program.

Standard library only: runs inside the sandbox.
"""

from __future__ import annotations

import ctypes
import struct
from _random import Random  # without what the module `random` imports beside it
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from node.executor.wasm.calls import ANSWER_AT, SIGNATURES
from node.executor.wasm.descriptors import APPEND, READ, RIGHTS, WRITE, Descriptors, Open, Stream, seek, write
from node.executor.wasm.files import (
    EXIST,
    FAULT,
    ILSEQ,
    INVAL,
    ISDIR,
    NAMETOOLONG,
    NOENT,
    NOSYS,
    NOTDIR,
    NOTSOCK,
    NOTSUP,
    PATH_BYTES_MAX,
    File,
    Folder,
    Node,
    WasiError,
    add,
    find,
    place,
    remove,
    rename,
)
from node.executor.wasm.library import Engine, Memory

CALL_FUEL: Final = 4_000  # about as long as so many instructions
_FUEL_BYTES: Final = 8  # that are moved for one unit
_ENTRY_FUEL: Final = 100
_TICK_NS: Final = 1_000_000
_CLOCKS: Final = 4
_VECTORS_MAX: Final = 1024
_SUBSCRIPTIONS_MAX: Final = 1024
_ROOT_NAME: Final = b"/"
_U64: Final = (1 << 64) - 1


class Exit(Exception):
    """The program asked to end, with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class NoFuel(Exception):
    """It cannot pay for a call."""


class _Call:
    """One function, as `library` wants it."""

    def __init__(self, system: System, name: str) -> None:
        self._system = system
        self._name = name

    def __len__(self) -> int:
        return self._system.call(self._name)


class System:
    """The host of one program. `ended`: what ended the program in a call, if anything did."""

    def __init__(
        self, engine: Engine, root: Folder, words: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self.ended: BaseException | None = None
        self._engine = engine
        self._files = Descriptors(root)
        self._words = [word.encode() + b"\0" for word in words]
        self._environment = [
            f"{name}={value}".encode() + b"\0" for name, value in sorted(environment.items())
        ]
        self._page: ctypes.Array[ctypes.c_uint64] | None = None
        self._memory: Memory | None = None
        self._at, self._size = 0, 0
        self._now_ns = 0
        self._random = Random(0)

    def calls(self) -> dict[str, _Call]:
        """Each function of WASI by its name."""
        return {name: _Call(self, name) for name in SIGNATURES}

    def joins(self, memory: Memory | None, page: int) -> None:
        """The program's own memory, and where its calls are put."""
        self._memory = memory
        self._page = (ctypes.c_uint64 * (ANSWER_AT + 1)).from_address(page)

    def call(self, name: str) -> int:
        """Carry one call out; 0, or the address of a trap that ends the program. Never raises."""
        try:
            assert self._page is not None, "nothing runs before it joined"
            self._pay(CALL_FUEL)
            if self._memory is not None:
                self._at, self._size = self._engine.place(self._memory)
            method: Callable[..., int | None] = getattr(self, name)
            try:
                errno = method(*self._page[: len(SIGNATURES[name])])
            except WasiError as error:
                errno = error.errno
            self._page[ANSWER_AT] = errno or 0
        except BaseException as error:  # noqa: BLE001 - nothing may reach Wasmtime's frames
            self.ended = error
            return self._engine.trap(b"the host ended the program")
        return 0

    def _pay(self, fuel: int) -> None:
        left = self._engine.fuel
        if left < fuel:
            self._engine.fuel = 0
            raise NoFuel
        self._engine.fuel = left - fuel

    # ------------------------------------------------------------------ the program's memory

    def _read(self, at: int, size: int) -> bytes:
        self._within(at, size)
        return ctypes.string_at(self._at + at, size)

    def _write(self, at: int, data: bytes) -> None:
        self._within(at, len(data))
        ctypes.memmove(self._at + at, data, len(data))

    def _within(self, at: int, size: int) -> None:
        if at + size > self._size:
            raise WasiError(FAULT)
        self._pay(size // _FUEL_BYTES)

    def _number(self, at: int, value: int, size: int = 4) -> None:
        self._write(at, value.to_bytes(size, "little"))

    def _path(self, at: int, size: int) -> str:
        if size > PATH_BYTES_MAX:
            raise WasiError(NAMETOOLONG)
        self._pay(size * _ENTRY_FUEL)
        try:
            path = self._read(at, size).decode()
        except UnicodeDecodeError:
            raise WasiError(ILSEQ) from None
        if "\0" in path:
            raise WasiError(INVAL)
        return path

    def _vectors(self, at: int, count: int) -> list[tuple[int, int]]:
        if count > _VECTORS_MAX:
            raise WasiError(INVAL)
        found = list(struct.iter_unpack("<II", self._read(at, 8 * count)))
        for where, size in found:
            self._within(where, size)
        return [(where, size) for where, size in found if size]

    # ------------------------------------------------------------------ words, environment

    def _texts(self, texts: list[bytes], pointers: int, at: int) -> None:
        for text in texts:
            self._number(pointers, at)
            self._write(at, text)
            pointers, at = pointers + 4, at + len(text)

    def _sizes(self, texts: list[bytes], count: int, size: int) -> None:
        self._number(count, len(texts))
        self._number(size, sum(map(len, texts)))

    def args_get(self, pointers: int, at: int) -> None:
        self._texts(self._words, pointers, at)

    def args_sizes_get(self, count: int, size: int) -> None:
        self._sizes(self._words, count, size)

    def environ_get(self, pointers: int, at: int) -> None:
        self._texts(self._environment, pointers, at)

    def environ_sizes_get(self, count: int, size: int) -> None:
        self._sizes(self._environment, count, size)

    # ------------------------------------------------------------------ time, chance, the end

    def clock_res_get(self, clock: int, out: int) -> None:
        if clock >= _CLOCKS:
            raise WasiError(INVAL)
        self._number(out, _TICK_NS, 8)

    def clock_time_get(self, clock: int, precision: int, out: int) -> None:
        if clock >= _CLOCKS:
            raise WasiError(INVAL)
        self._now_ns = min(self._now_ns + _TICK_NS, _U64)
        self._number(out, self._now_ns, 8)

    def random_get(self, at: int, size: int) -> None:
        self._within(at, size)
        self._pay(size)
        if size:
            self._write(at, self._random.getrandbits(8 * size).to_bytes(size, "little"))

    def poll_oneoff(self, given: int, out: int, count: int, found: int) -> None:
        """Files are ready at once; else the earliest clock rings, at once, too, and it is that late then."""
        if not 0 < count <= _SUBSCRIPTIONS_MAX:
            raise WasiError(INVAL)
        ready, clocks = [], []
        for user, kind, clock, timeout, flags in struct.iter_unpack(
            "<QB7xI4xQ8xH6x", self._read(given, 48 * count)
        ):
            if kind == 0:
                at_ns = timeout if flags & 1 else self._now_ns + timeout
                clocks.append((max(self._now_ns, min(at_ns, _U64)), user))
            else:
                ready.append((user, kind, self._ready(clock)))
        if not ready:
            first = min(at_ns for at_ns, _ in clocks)
            self._now_ns = first
            ready = [(user, 0, 0) for at_ns, user in clocks if at_ns == first]
        events = [struct.pack("<QHB5xQHxxxxxx", user, errno, kind, 0, 0) for user, kind, errno in ready]
        self._write(out, b"".join(events))
        self._number(found, len(events))

    def _ready(self, fd: int) -> int:
        try:
            self._files.any(fd)
        except WasiError as error:
            return error.errno
        return 0

    def proc_exit(self, code: int) -> None:
        raise Exit(code)

    def proc_raise(self, signal: int) -> int:
        return NOSYS

    def sched_yield(self) -> None:
        return None

    # ------------------------------------------------------------------ open files

    def fd_prestat_get(self, fd: int, out: int) -> None:
        if self._files.folder(fd) is not self._files.root or fd != 3:
            raise WasiError(NOTSUP)
        self._write(out, struct.pack("<II", 0, len(_ROOT_NAME)))

    def fd_prestat_dir_name(self, fd: int, at: int, size: int) -> None:
        if self._files.folder(fd) is not self._files.root or size < len(_ROOT_NAME):
            raise WasiError(NOTDIR)
        self._write(at, _ROOT_NAME)

    def fd_close(self, fd: int) -> None:
        self._files.close(fd)

    def fd_renumber(self, fd: int, to: int) -> None:
        self._files.renumber(fd, to)

    def fd_fdstat_get(self, fd: int, out: int) -> None:
        found = self._files.any(fd)
        self._write(out, struct.pack("<BxHxxxxQQ", found.kind, found.flags, found.rights, RIGHTS))

    def fd_fdstat_set_flags(self, fd: int, flags: int) -> None:
        self._files.any(fd).flags = flags & 0x1F

    def fd_fdstat_set_rights(self, fd: int, rights: int, inheriting: int) -> None:
        self._files.any(fd).rights &= rights

    def fd_filestat_get(self, fd: int, out: int) -> None:
        found = self._files.any(fd)
        self._stat(out, found.node if isinstance(found, Open) else None, found.kind)

    def _stat(self, out: int, node: Node | None, kind: int) -> None:
        number, size = (node.number, node.size_bytes) if node is not None else (0, 0)
        self._write(out, struct.pack("<QQB7xQQQQQ", 1, number, kind, 1, size, 0, 0, 0))

    def fd_filestat_set_size(self, fd: int, size: int) -> None:
        file = self._files.opened(fd).own()
        self._pay_for_zeros(file, size)
        file.resize(size)

    def _pay_for_zeros(self, file: File, size: int) -> None:
        """That are put between a file's end and there; what does not fit is refused by the file."""
        self._pay(max(0, min(size - file.size_bytes, file.space.left_bytes)) // _FUEL_BYTES)

    def fd_allocate(self, fd: int, at: int, size: int) -> None:
        file = self._files.opened(fd).own()
        if at + size > file.size_bytes:
            self.fd_filestat_set_size(fd, at + size)

    def fd_filestat_set_times(self, fd: int, accessed: int, modified: int, flags: int) -> None:
        self._files.any(fd)

    def fd_advise(self, fd: int, at: int, size: int, advice: int) -> None:
        self._files.opened(fd)

    def fd_sync(self, fd: int) -> None:
        self._files.any(fd)

    fd_datasync = fd_sync

    def fd_seek(self, fd: int, offset: int, whence: int, out: int) -> None:
        signed = offset - (1 << 64) if offset >> 63 else offset
        self._number(out, seek(self._files.opened(fd), signed, whence), 8)

    def fd_tell(self, fd: int, out: int) -> None:
        opened = self._files.opened(fd)
        opened.file(RIGHTS)
        self._number(out, opened.at, 8)

    def fd_read(self, fd: int, vectors: int, count: int, out: int) -> None:
        found = self._files.any(fd)
        if isinstance(found, Stream):
            if not found.rights & READ:
                raise WasiError(NOTSUP)
            self._number(out, 0)  # at its end
            return
        done = self._fill(found, found.at, vectors, count)
        found.at += done
        self._number(out, done)

    def fd_pread(self, fd: int, vectors: int, count: int, at: int, out: int) -> None:
        self._number(out, self._fill(self._files.opened(fd), at, vectors, count))

    def _fill(self, opened: Open, at: int, vectors: int, count: int) -> int:
        file, start = opened.file(READ), at
        for where, size in self._vectors(vectors, count):
            data = file.read(at, size)
            self._write(where, data)
            at += len(data)
            if len(data) < size:
                break
        return at - start

    def fd_write(self, fd: int, vectors: int, count: int, out: int) -> None:
        found = self._files.any(fd)
        if not found.rights & WRITE:
            raise WasiError(NOTSUP)
        data = self._gather(vectors, count)
        if isinstance(found, Stream):
            found.write(data)
        else:
            at = found.own().size_bytes if found.flags & APPEND else found.at
            self._put(found, at, data)
            found.at = at + len(data)
        self._number(out, len(data))

    def fd_pwrite(self, fd: int, vectors: int, count: int, at: int, out: int) -> None:
        opened = self._files.opened(fd)
        data = self._gather(vectors, count)
        self._put(opened, at, data)
        self._number(out, len(data))

    def _gather(self, vectors: int, count: int) -> bytes:
        found = self._vectors(vectors, count)
        if sum(size for _, size in found) > self._size:
            raise WasiError(INVAL)  # parts of it many times over: not in one call
        return b"".join(self._read(where, size) for where, size in found)

    def _put(self, opened: Open, at: int, data: bytes) -> None:
        self._pay_for_zeros(opened.own(), at)
        write(opened, at, data)

    def fd_readdir(self, fd: int, at: int, size: int, cookie: int, out: int) -> None:
        folder, found = self._files.folder(fd), b""
        self._within(at, size)
        self._pay(len(folder.names) * _ENTRY_FUEL)
        for index, (name, node) in enumerate(folder.entries()):
            if index >= cookie and len(found) < size:
                raw = name.encode()
                found += struct.pack("<QQIB3x", index + 1, node.number, len(raw), node.kind) + raw
        self._write(at, found[:size])  # cut, where it is full: the program asks again
        self._number(out, min(len(found), size))

    # ------------------------------------------------------------------ names

    def path_open(
        self,
        fd: int,
        how: int,
        at: int,
        size: int,
        flags: int,
        rights: int,
        inheriting: int,
        mode: int,
        out: int,
    ) -> None:
        self._within(out, 4)
        self._number(out, self._files.open(fd, self._path(at, size), flags, rights, mode & 0x1F))

    def path_filestat_get(self, fd: int, how: int, at: int, size: int, out: int) -> None:
        node = find(self._files.folder(fd), self._path(at, size), self._files.root)
        self._stat(out, node, node.kind)

    def path_filestat_set_times(
        self, fd: int, how: int, at: int, size: int, accessed: int, modified: int, flags: int
    ) -> None:
        find(self._files.folder(fd), self._path(at, size), self._files.root)

    def _place(self, fd: int, at: int, size: int) -> tuple[Folder, str, Node | None]:
        return place(self._files.folder(fd), self._path(at, size), self._files.root)

    def path_create_directory(self, fd: int, at: int, size: int) -> None:
        folder, name, node = self._place(fd, at, size)
        if node is not None:
            raise WasiError(EXIST)
        add(folder, name, Folder)

    def path_remove_directory(self, fd: int, at: int, size: int) -> None:
        self._remove(fd, at, size, folder=True)

    def path_unlink_file(self, fd: int, at: int, size: int) -> None:
        self._remove(fd, at, size, folder=False)

    def _remove(self, fd: int, at: int, size: int, *, folder: bool) -> None:
        above, name, node = self._place(fd, at, size)
        if node is None:
            raise WasiError(NOENT)
        if name in (".", ".."):
            raise WasiError(INVAL)
        if isinstance(node, Folder) != folder:
            raise WasiError(NOTDIR if folder else ISDIR)
        remove(above, name, node)

    def path_rename(self, fd: int, at: int, size: int, to: int, to_at: int, to_size: int) -> None:
        rename(self._place(fd, at, size), self._place(to, to_at, to_size))

    def path_readlink(self, fd: int, at: int, size: int, buffer: int, length: int, out: int) -> int:
        find(self._files.folder(fd), self._path(at, size), self._files.root)
        return INVAL  # there are no links

    def path_link(self, *given: int) -> int:
        return NOTSUP

    path_symlink = path_link

    # ------------------------------------------------------------------ there is no network

    def sock_accept(self, *given: int) -> int:
        return NOTSOCK

    sock_recv = sock_send = sock_shutdown = sock_accept
