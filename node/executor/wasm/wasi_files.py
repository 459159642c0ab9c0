"""The calls of WASI preview 1 about files. See `wasi` for the rest, and `files` for what files are here.

Standard library only: runs inside the sandbox.
"""

from __future__ import annotations

import struct
from typing import Final

from node.executor.wasm.descriptors import APPEND, READ, RIGHTS, WRITE, Open, Stream, seek, write
from node.executor.wasm.files import (
    EXIST,
    INVAL,
    ISDIR,
    NOENT,
    NOTDIR,
    NOTSUP,
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
from node.executor.wasm.guest import ENTRY_FUEL, FUEL_BYTES, Guest

_ROOT_NAME: Final = b"/"


class FileCalls(Guest):
    """Each method is one call: its parameters as numbers, in the order of the standard; it returns the errno,
    or nothing for success, or raises WasiError with it. Numbers named `at`, `out` or after what they point to
    are places in the program's memory."""

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
        self._pay(max(0, min(size - file.size_bytes, file.space.left_bytes)) // FUEL_BYTES)

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
        for where, size in self._pieces(self._vectors(vectors, count)):
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
        if isinstance(found, Stream):
            done = 0
            for where, size in self._pieces(self._vectors(vectors, count)):
                found.write(self._read(where, size))
                done += size
        else:
            at = found.own().size_bytes if found.flags & APPEND else found.at
            done = self._put(found, at, vectors, count)
            found.at = at + done
        self._number(out, done)

    def fd_pwrite(self, fd: int, vectors: int, count: int, at: int, out: int) -> None:
        self._number(out, self._put(self._files.opened(fd), at, vectors, count))

    def _put(self, opened: Open, at: int, vectors: int, count: int) -> int:
        """Write as much as there is room for; all of nothing is an error, as write(2) has it."""
        file, start = opened.own(), at
        for where, size in self._pieces(self._vectors(vectors, count)):
            self._pay_for_zeros(file, at)
            try:
                write(opened, at, self._read(where, size))
            except WasiError:
                if at == start:
                    raise
                break
            at += size
        return at - start

    def fd_readdir(self, fd: int, at: int, size: int, cookie: int, out: int) -> None:
        folder, found = self._files.folder(fd), bytearray()
        self._within(at, size)
        self._pay(len(folder.names) * ENTRY_FUEL)
        entries = folder.entries()
        for index in range(min(cookie, len(entries)), len(entries)):
            if len(found) >= size:
                break
            name, node = entries[index]
            raw = name.encode()
            found += struct.pack("<QQIB3x", index + 1, node.number, len(raw), node.kind) + raw
        self._write(at, bytes(found[:size]))  # cut, where it is full: the program asks again
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
