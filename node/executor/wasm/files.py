"""The files that a WebAssembly program sees: its inputs, read-only, and what it writes, in memory alone.

A name here is a key of a dictionary and never reaches the host's file system, so there is nothing to escape
to: no links, no devices, no `..` above the root. Numbers and times are the same on every machine, names are
listed in order. What is written counts against one budget, empty files and folders too.

Standard library only: runs inside the sandbox.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

ACCES, BADF, EXIST, FAULT, FBIG, ILSEQ, INVAL = 2, 8, 20, 21, 22, 25, 28
ISDIR, MFILE, NAMETOOLONG, NOENT, NOSPC, NOSYS, NOTDIR, NOTEMPTY = 31, 33, 37, 44, 51, 52, 54, 55
NOTSOCK, NOTSUP, PERM, ROFS, SPIPE, NOTCAPABLE = 57, 58, 63, 69, 70, 76
"""`errno` of wasi_snapshot_preview1.witx."""

FOLDER, FILE = 3, 4  # filetype of the same
NODE_BYTES: Final = 512  # what a file or folder costs beside its content: about its size in memory here
PATH_BYTES_MAX: Final = 4096
NAME_BYTES_MAX: Final = 255
INPUTS_MAX: Final = 8_192  # files and folders of the contract: half a kibibyte each of the engine's memory
_PIECE_BYTES: Final = 1 << 20


class TooMany(Exception):
    """The contract's trees have more files than the engine has room for."""


class WasiError(Exception):
    """A call fails; `errno` is what the program is told."""

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno


class Space:
    """The budget of all that is written, in bytes."""

    def __init__(self, size_bytes: int) -> None:
        self.left_bytes = size_bytes
        self.numbers = 0

    def take(self, size_bytes: int) -> None:
        """Take from the budget. Raises WasiError when it is used up."""
        if size_bytes > self.left_bytes:
            raise WasiError(NOSPC)
        self.left_bytes -= size_bytes

    def number(self) -> int:
        """The next file's number: by order of making, so the same everywhere."""
        self.numbers += 1
        return self.numbers


class Node:
    """A file or a folder."""

    kind = 0

    def __init__(self, space: Space, writable: bool) -> None:
        self.space = space
        self.writable = writable
        self.number = space.number()
        self.linked = True
        self.opens = 0

    @property
    def size_bytes(self) -> int:
        """Of the content."""
        return 0

    def dropped(self) -> None:
        """Nobody has it open, or nothing names it, any more: when both, its bytes are given back."""
        if not self.linked and not self.opens and self.writable:
            self.space.left_bytes += NODE_BYTES + self.size_bytes


class File(Node):
    """A file in memory."""

    kind = FILE

    def __init__(self, space: Space, writable: bool = True) -> None:
        super().__init__(space, writable)
        self.data = bytearray()

    @property
    def size_bytes(self) -> int:
        """Of the content."""
        return len(self.data)

    def read(self, at: int, size: int) -> bytes:
        """At most `size` bytes from `at`; none at the end."""
        return bytes(self.data[at : at + size])

    def write(self, at: int, data: bytes) -> None:
        """Write at `at`; what is between the end and there becomes zeros. Raises WasiError."""
        if at + len(data) > len(self.data):
            self.resize(at + len(data))
        self.data[at : at + len(data)] = data

    def resize(self, size_bytes: int) -> None:
        """Cut or fill with zeros. Raises WasiError."""
        more = size_bytes - len(self.data)
        if more > 0:
            self.space.take(more)
            while more > 0:  # in pieces: the zeros are in memory twice for a moment
                piece = min(more, _PIECE_BYTES)
                self.data += bytes(piece)
                more -= piece
        else:
            del self.data[size_bytes:]
            self.space.left_bytes -= more


class Input(Node):
    """A file of the contract, read where it stands in the sealed root."""

    kind = FILE

    def __init__(self, space: Space, path: str) -> None:
        super().__init__(space, writable=False)
        self._path = path
        self._fd = -1
        self._size_bytes = os.stat(path).st_size

    @property
    def size_bytes(self) -> int:
        """Of the content."""
        return self._size_bytes

    def read(self, at: int, size: int) -> bytes:
        """At most `size` bytes from `at`; none at the end."""
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        size = max(0, min(size, self._size_bytes - at))
        found = bytearray()
        while len(found) < size and (chunk := os.pread(self._fd, size - len(found), at + len(found))):
            found += chunk
        return bytes(found)

    def dropped(self) -> None:
        """Nobody has it open: close it."""
        if not self.opens and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Folder(Node):
    """Names and what they name."""

    kind = FOLDER

    def __init__(self, space: Space, parent: Folder | None, writable: bool) -> None:
        super().__init__(space, writable)
        self.parent = parent or self
        self.names: dict[str, Node] = {}

    def entries(self) -> list[tuple[str, Node]]:
        """All names in order, itself and its parent first."""
        return [(".", self), ("..", self.parent), *sorted(self.names.items())]

    def is_in(self, other: Folder) -> bool:
        """Whether it is `other`, or somewhere below it."""
        at = self
        while at is not other and at.parent is not at:
            at = at.parent
        return at is other


def tree(inputs: str, size_bytes: int) -> Folder:
    """The root: all below the folder `inputs` read-only, /tmp and /result writable, `size_bytes` together.

    Raises TooMany.
    """
    space = Space(size_bytes)
    root = Folder(space, None, writable=False)
    _take_in(root, inputs)
    for name in ("tmp", "result"):
        root.names[name] = Folder(space, root, writable=True)
    return root


def _take_in(folder: Folder, path: str) -> None:
    for name in sorted(os.listdir(path)):
        inner = f"{path}/{name}"
        if folder.space.numbers >= INPUTS_MAX:
            raise TooMany(f"more than {INPUTS_MAX} files and folders")
        if os.path.isdir(inner):
            made = Folder(folder.space, folder, writable=False)
            folder.names[name] = made
            _take_in(made, inner)
        else:
            folder.names[name] = Input(folder.space, inner)


def find(start: Folder, path: str, root: Folder) -> Node:
    """What a path names, seen from a folder. Raises WasiError."""
    at: Node = start
    for part in _parts(path):
        at = _step(at, part, root)
    return at


def place(start: Folder, path: str, root: Folder) -> tuple[Folder, str, Node | None]:
    """The folder and name that a path ends in, and what it names now, if anything. Raises WasiError."""
    *above, name = _parts(path) or ["."]
    at: Node = start
    for part in above:
        at = _step(at, part, root)
    if not isinstance(at, Folder):
        raise WasiError(NOTDIR)
    if name in (".", ".."):
        return at, name, _step(at, name, root)
    if len(name.encode()) > NAME_BYTES_MAX:
        raise WasiError(NAMETOOLONG)
    return at, name, at.names.get(name)


def add(folder: Folder, name: str, node: type[File] | type[Folder]) -> Node:
    """A new, empty file or folder. Raises WasiError."""
    if not folder.writable:
        raise WasiError(ROFS)
    if not folder.linked:
        raise WasiError(NOENT)
    folder.space.take(NODE_BYTES)
    made: Node = File(folder.space) if node is File else Folder(folder.space, folder, writable=True)
    folder.names[name] = made
    return made


def remove(folder: Folder, name: str, node: Node) -> None:
    """Take a name away; a folder must be empty. Raises WasiError."""
    if not folder.writable or (not node.writable or folder.parent is folder):
        raise WasiError(ROFS)
    if isinstance(node, Folder) and node.names:
        raise WasiError(NOTEMPTY)
    del folder.names[name]
    node.linked = False
    node.dropped()


def rename(old: tuple[Folder, str, Node | None], new: tuple[Folder, str, Node | None]) -> None:
    """Move a name; a file may take another's place, a folder that of an empty one. Raises WasiError."""
    (source, name, node), (target, wanted, there) = old, new
    if node is None:
        raise WasiError(NOENT)
    if {name, wanted} & {".", ".."}:
        raise WasiError(INVAL)
    if not source.writable or not target.writable:
        raise WasiError(ROFS)
    if not target.linked:
        raise WasiError(NOENT)
    if node is there:
        return
    if isinstance(node, Folder) and target.is_in(node):
        raise WasiError(INVAL)
    if there is not None:
        if isinstance(node, Folder) != isinstance(there, Folder):
            raise WasiError(ISDIR if isinstance(there, Folder) else NOTDIR)
        remove(target, wanted, there)
    del source.names[name]
    target.names[wanted] = node
    if isinstance(node, Folder):
        node.parent = target


def written(root: Folder, path: str) -> File | None:
    """The file that the program left at an absolute path, or None when it is no file of its own."""
    try:
        node = find(root, path.lstrip("/"), root)
    except WasiError:
        return None
    return node if isinstance(node, File) else None


def _parts(path: str) -> list[str]:
    if path.startswith("/"):
        raise WasiError(NOTCAPABLE)
    if not path:
        raise WasiError(NOENT)
    return list(_named(path))


def _named(path: str) -> Iterator[str]:
    return (part for part in path.split("/") if part)


def _step(at: Node, part: str, root: Folder) -> Node:
    if not isinstance(at, Folder):
        raise WasiError(NOTDIR)
    if part == ".":
        return at
    if part == "..":
        if at is root:
            raise WasiError(NOTCAPABLE)
        return at.parent
    found = at.names.get(part)
    if found is None:
        raise WasiError(NOENT)
    return found
