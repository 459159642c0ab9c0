"""Puts the layers of an image on top of each other, in memory first: what the root will hold, and from where.

The plan is made before anything is written, so no path of an image is ever looked up on a file system that
the image shaped: a link in one layer leads no later layer anywhere. The same layers give the same plan, and
the same plan the same bytes. OCI Image Specification 1.1, "Whiteouts". Standard library only: the launcher
uses it.

[Z4] Layers are laid over each other by name: an upper one replaces, whiteouts take away what lower ones
     have, and no path goes through a link. Devices, fifos and users above 65,535 are refused; set-user-id
     bits and what other mounts hide are left out. An artifact takes the place of a file, and of nothing
     else.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from node.executor.limits import IMAGE_BYTES_MAX, IMAGE_JSON_BYTES_MAX, IMAGE_MEMBERS_MAX
from node.executor.oci.layers import Entry, ImageRefused, read_layer
from node.executor.tree import read_tree

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_COPY_BYTES = 1 << 20
_MTAB = "etc/mtab"
HIDDEN = ("proc", "dev", "sys", "tmp", "result", "secrets")
"""Other mounts stand here; what an image has below is left out, and so is what it has in their place."""


@dataclass(frozen=True)
class Piece:
    """A part of the root. `kind`: file, folder or link. A file's bytes are `size_bytes` from `offset` in the
    source of number `source`. Two paths with one Piece are one file with two names."""

    kind: str
    mode: int
    uid: int = 0
    gid: int = 0
    source: int = -1
    offset: int = 0
    size_bytes: int = 0
    target: str = ""


@dataclass
class Plan:
    """What the root holds, by relative path; every folder on the way is there, too."""

    pieces: dict[str, Piece] = field(default_factory=dict)
    below: dict[str, set[str]] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """All files together, those with several names once."""
        return sum(piece.size_bytes for piece in set(self.files().values()))

    def files(self) -> dict[str, Piece]:
        """The files alone."""
        return {path: piece for path, piece in self.pieces.items() if piece.kind == "file"}

    def put(self, path: str, piece: Piece, replaces: bool = True) -> None:
        """Place a piece. A folder takes a folder's place and keeps what is below. Raises ImageRefused."""
        self._make_way(path)
        old = self.pieces.get(path)
        if old is not None and not (old.kind == piece.kind == "folder"):
            if not replaces:
                raise ImageRefused(path, f"there is a {old.kind} in the way")
            self.remove(path)
        self.pieces[path] = piece
        self.below.setdefault(_above(path), set()).add(path)
        if len(self.pieces) > IMAGE_MEMBERS_MAX:
            raise ImageRefused(path, f"at most {IMAGE_MEMBERS_MAX} members in all")

    def folder(self, path: str) -> None:
        """Make sure that a folder is there, by no link. Raises ImageRefused."""
        old = self.pieces.get(path)
        if old is None:
            self.put(path, Piece("folder", 0o755))
        elif old.kind != "folder":
            raise ImageRefused(path, f"a folder is needed here, there is a {old.kind}")

    def remove(self, path: str) -> None:
        """Remove a path and all below; none is fine."""
        pending = [path]
        while pending:
            at = pending.pop()
            pending += self.below.pop(at, ())
            if self.pieces.pop(at, None) is not None:
                self.below.get(_above(at), set()).discard(at)

    def _make_way(self, path: str) -> None:
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            above = "/".join(parts[:depth])
            old = self.pieces.get(above)
            if old is None:
                self.pieces[above] = Piece("folder", 0o755)
                self.below.setdefault(_above(above), set()).add(above)
            elif old.kind != "folder":
                raise ImageRefused(path, f"{above} is a {old.kind}, and leads nowhere")


def flatten(layers: Iterable[tuple[int, BinaryIO, int]]) -> Plan:
    """Return the plan of (source number, tar, size) of each layer, lowest first. Raises ImageRefused."""
    plan = Plan()
    for number, tar, size_bytes in layers:
        entries = [entry for entry in read_layer(tar, size_bytes) if not _is_hidden(entry.path)]
        # First what is taken away: it never concerns this layer's own members, whatever their order.
        for entry in entries:
            _take_away(plan, entry)
        named: set[str] = set()
        for entry in entries:
            if entry.path and not _base(entry.path).startswith(_WHITEOUT):
                _add(plan, entry, number, named)
    for name in HIDDEN:
        plan.remove(name)
    size_bytes = plan.size_bytes
    if size_bytes > IMAGE_BYTES_MAX:
        raise ImageRefused("layers", f"{size_bytes} B when unpacked, at most {IMAGE_BYTES_MAX}")
    return plan


def _take_away(plan: Plan, entry: Entry) -> None:
    above, name = _above(entry.path), _base(entry.path)
    if any(part.startswith(_WHITEOUT) for part in above.split("/")):
        raise ImageRefused(entry.path, "nothing is below a whiteout")
    if name == _OPAQUE:
        for path in tuple(plan.below.get(above, ())):
            plan.remove(path)
    elif name.startswith(_WHITEOUT):
        gone = name.removeprefix(_WHITEOUT)
        if gone in ("", ".", "..") or gone.startswith(_WHITEOUT):
            raise ImageRefused(entry.path, "no whiteout that is known")
        plan.remove(f"{above}/{gone}" if above else gone)


def _add(plan: Plan, entry: Entry, number: int, named: set[str]) -> None:
    if entry.path in named and entry.kind != "folder":
        raise ImageRefused(entry.path, "named twice in one layer")
    named.add(entry.path)
    if entry.kind == "hard":
        old = plan.pieces.get(entry.target)
        if old is None or old.kind != "file":
            raise ImageRefused(entry.path, f"a hard link to {entry.target}, which is no file")
        plan.put(entry.path, old)
        return
    source = number if entry.kind == "file" else -1
    ids = (entry.uid, entry.gid)
    offset = entry.offset if entry.kind == "file" else 0
    target = entry.target if entry.kind == "link" else ""
    plan.put(entry.path, Piece(entry.kind, entry.mode, *ids, source, offset, entry.size_bytes, target))


def lay_over(
    plan: Plan,
    trees: Iterable[tuple[int, BinaryIO, int, str]],
    files: Iterable[tuple[int, int, str, int]],
    points: Iterable[str],
) -> None:
    """Add artifacts to an image's plan, and folders and files for mounts to stand on.

    `trees`: source number, tar, size, absolute path; `files`: source number, size, absolute path, mode. One
    may take the place of a file, nothing else gives way. `points`: absolute paths of folders. Raises
    ImageRefused, and TreeRefused for a tree.
    """
    for number, tar, size_bytes, top in trees:
        plan.folder(top[1:])
        for member in read_tree(tar, size_bytes):
            path = f"{top[1:]}/{member.path}"
            if member.is_dir:
                plan.folder(path)
            else:
                _lay_file(
                    plan, path, Piece("file", member.mode, 0, 0, number, member.offset, member.size_bytes)
                )
    for number, size_bytes, path, mode in files:
        _lay_file(plan, path[1:], Piece("file", mode, 0, 0, number, 0, size_bytes))
    for name in HIDDEN:
        plan.put(name, Piece("folder", 0o755))
    for path in points:
        plan.folder(path[1:])


def stand_ins(plan: Plan, paths: Iterable[str]) -> None:
    """Put an empty file where the engine mounts its own and the image has none. Raises ImageRefused."""
    for path in paths:
        old = plan.pieces.get(path[1:])
        if old is None:
            plan.put(path[1:], Piece("file", 0o444))
        elif old.kind != "file":
            raise ImageRefused(path, f"a file is needed here, there is a {old.kind}")
        elif old.size_bytes > IMAGE_JSON_BYTES_MAX:  # the engine reads some of them, on the node's account
            raise ImageRefused(path, f"at most {IMAGE_JSON_BYTES_MAX} B")
    if _MTAB not in plan.pieces:  # the engine insists on it, and could not make it
        plan.put(_MTAB, Piece("link", 0o777, target="/proc/mounts"))


def _lay_file(plan: Plan, path: str, piece: Piece) -> None:
    old = plan.pieces.get(path)
    if old is not None and old.kind == "file":
        plan.remove(path)
    plan.put(path, piece, replaces=False)


def write(plan: Plan, root: str, sources: list[int], base: int | None) -> None:
    """Write the plan below the empty folder `root`, from these descriptors. `base`: the host's number of user
    0, None to leave owners. Raises OSError."""
    at: dict[Piece, str] = {}
    folders: list[tuple[str, Piece]] = []
    for path in sorted(plan.pieces):
        piece, full = plan.pieces[path], f"{root}/{path}"
        if piece.kind == "folder":
            os.mkdir(full, 0o700)
            folders.append((full, piece))
        elif piece.kind == "link":
            os.symlink(piece.target, full)
        elif piece.size_bytes and piece in at:
            os.link(at[piece], full)
            continue
        else:
            _write_file(full, piece, sources)
            at[piece] = full
        if base is not None:
            os.chown(full, base + piece.uid, base + piece.gid, follow_symlinks=False)
        if piece.kind == "file":
            os.chmod(full, piece.mode)  # after the owner, whose change takes bits away
    for full, piece in reversed(folders):
        os.chmod(full, piece.mode)
    if base is not None:
        os.chown(root, base, base)


def data_of(piece: Piece, sources: list[int]) -> Iterator[bytes]:
    """Yield a file's bytes in pieces of at most 1 MiB. Raises OSError when there are fewer."""
    offset, left = piece.offset, piece.size_bytes
    while left:
        chunk = os.pread(sources[piece.source], min(left, _COPY_BYTES), offset)
        if not chunk:
            raise OSError(f"a layer ends {left} B too early")
        offset, left = offset + len(chunk), left - len(chunk)
        yield chunk


def _write_file(full: str, piece: Piece, sources: list[int]) -> None:
    fd = os.open(full, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as target:
        for chunk in data_of(piece, sources):
            target.write(chunk)


def _is_hidden(path: str) -> bool:
    first, _, rest = path.partition("/")
    return first in HIDDEN and bool(rest)


def _above(path: str) -> str:
    return path.rpartition("/")[0]


def _base(path: str) -> str:
    return path.rpartition("/")[2]
