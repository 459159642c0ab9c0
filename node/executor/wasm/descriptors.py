"""Open files of a WebAssembly program, by number. Standard library only: runs inside the sandbox."""

from __future__ import annotations

import os
from typing import Final

from node.executor.wasm.files import (
    BADF,
    EXIST,
    FBIG,
    INVAL,
    ISDIR,
    MFILE,
    NOENT,
    NOTDIR,
    ROFS,
    SPIPE,
    File,
    Folder,
    Input,
    Node,
    WasiError,
    add,
    place,
)

CREATE, DIRECTORY, EXCLUSIVE, TRUNCATE = 1, 2, 4, 8  # oflags
APPEND: Final = 1  # fdflags
READ, SEEK, WRITE = 1 << 1, 1 << 2 | 1 << 5, 1 << 6  # rights: fd_read; fd_seek and fd_tell; fd_write
RIGHTS: Final = (1 << 30) - 1
TERMINAL: Final = 2  # filetype: character_device
OPEN_MAX: Final = 256  # as a soft limit of processes; each is some hundred bytes here
OFFSET_MAX: Final = (1 << 63) - 1


class Stream:
    """Standard input, which is at its end, or output, which goes to the log."""

    kind = TERMINAL

    def __init__(self, fd: int, rights: int) -> None:
        self._fd = fd
        self.rights = rights
        self.flags = 0

    def write(self, data: bytes) -> None:
        """To the log, all of it: who writes too fast is held back there."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]


class Open:
    """An open file or folder, and where reading goes on."""

    def __init__(self, node: Node, rights: int, flags: int) -> None:
        self.node = node
        self.rights = rights
        self.flags = flags
        self.at = 0
        node.opens += 1

    @property
    def kind(self) -> int:
        """The file type."""
        return self.node.kind

    def file(self, right: int) -> File | Input:
        """The file, for what `right` allows. Raises WasiError."""
        if isinstance(self.node, Folder):
            raise WasiError(ISDIR)
        if not self.rights & right or not isinstance(self.node, File | Input):
            raise WasiError(BADF)
        return self.node

    def own(self) -> File:
        """The file, for writing. Raises WasiError."""
        found = self.file(WRITE)
        if not isinstance(found, File):
            raise WasiError(ROFS)
        return found

    def close(self) -> None:
        """Give it up."""
        self.node.opens -= 1
        self.node.dropped()


class Descriptors:
    """All that is open: 0 to 2 are the streams, 3 is the root."""

    def __init__(self, root: Folder) -> None:
        self.root = root
        self._open: dict[int, Stream | Open] = {
            0: Stream(0, READ),
            1: Stream(1, WRITE),
            2: Stream(2, WRITE),
            3: Open(root, RIGHTS, 0),
        }

    def any(self, fd: int) -> Stream | Open:
        """What is open by that number. Raises WasiError."""
        found = self._open.get(fd)
        if found is None:
            raise WasiError(BADF)
        return found

    def opened(self, fd: int) -> Open:
        """The same, streams left out. Raises WasiError."""
        found = self.any(fd)
        if isinstance(found, Stream):
            raise WasiError(SPIPE)
        return found

    def folder(self, fd: int) -> Folder:
        """The same, folders alone. Raises WasiError."""
        found = self.any(fd)
        if isinstance(found, Stream) or not isinstance(found.node, Folder):
            raise WasiError(NOTDIR)
        return found.node

    def close(self, fd: int) -> None:
        """Close; the root may be closed too. Raises WasiError."""
        found = self.any(fd)
        del self._open[fd]
        if isinstance(found, Open):
            found.close()

    def renumber(self, fd: int, to: int) -> None:
        """Give it another, open number, whose file is closed. Raises WasiError."""
        found = self.any(fd)
        self.any(to)
        if fd != to:
            self.close(to)
            self._open[to] = found
            del self._open[fd]

    def open(self, fd: int, path: str, how: int, rights: int, flags: int) -> int:
        """Open, or make, what a path below a folder names; its number is the lowest that is free.

        Raises WasiError.
        """
        number = next((n for n in range(OPEN_MAX) if n not in self._open), None)
        if number is None:
            raise WasiError(MFILE)
        folder, name, node = place(self.folder(fd), path, self.root)
        if node is None:
            if not how & CREATE or how & DIRECTORY:
                raise WasiError(NOENT)
            node = add(folder, name, File)
        elif how & EXCLUSIVE and how & CREATE:
            raise WasiError(EXIST)
        if isinstance(node, Folder):
            if how & TRUNCATE or (rights & WRITE and not how & DIRECTORY):
                raise WasiError(ISDIR)
        elif how & DIRECTORY or path.endswith("/"):
            raise WasiError(NOTDIR)
        elif (how & TRUNCATE or rights & WRITE) and not isinstance(node, File):
            raise WasiError(ROFS)
        if how & TRUNCATE and isinstance(node, File):
            node.resize(0)
        self._open[number] = Open(node, rights & RIGHTS, flags)
        return number


def seek(opened: Open, offset: int, whence: int) -> int:
    """Move where reading goes on; the new place. Raises WasiError."""
    file = opened.file(RIGHTS)
    if whence not in (0, 1, 2):
        raise WasiError(INVAL)
    at = offset + (0, opened.at, file.size_bytes)[whence]
    if not 0 <= at <= OFFSET_MAX:
        raise WasiError(INVAL)
    opened.at = at
    return at


def write(opened: Open, at: int, data: bytes) -> None:
    """Write at a place; an empty write changes nothing. Raises WasiError."""
    file = opened.own()
    if at + len(data) > OFFSET_MAX:
        raise WasiError(FBIG)
    if data:
        file.write(at, data)
