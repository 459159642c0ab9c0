"""Reads the tar of a tree artifact, strictly. Standard library only: the launcher uses it too.

A tree holds plain files and directories, nothing else. Only the POSIX ustar format is read (IEEE 1003.1,
"ustar Interchange Format"); pax and GNU extensions are refused, since their headers may be of any size and
two readers may disagree on them. Owner and time in the tar are ignored; of the mode only "executable"
counts. What is not understood is refused, never skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from node.executor.limits import PATH_BYTES_MAX, TREE_DEPTH_MAX, TREE_MEMBERS_MAX

BLOCK_BYTES = 512
_END_BYTES = 2 * BLOCK_BYTES
_COPY_BYTES = 1 << 20

_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a fifo",
    b"x": "a pax header",
    b"g": "a pax header",
    b"L": "a GNU long name",
    b"K": "a GNU long link",
    b"S": "a sparse file",
}


class TreeRefused(Exception):
    """The tar breaks a rule; `member` names the entry (or its offset), `rule` what must hold."""

    def __init__(self, member: str, rule: str) -> None:
        super().__init__(f"{member}: {rule}")
        self.member = member
        self.rule = rule


@dataclass(frozen=True)
class Member:
    """One entry: `path` relative with no dots, the place of its data in the tar, its mode when unpacked."""

    path: str
    is_dir: bool
    mode: int
    offset: int
    size_bytes: int


def read_tree(tar: BinaryIO, size_bytes: int) -> tuple[Member, ...]:
    """Return the members of `tar` in their order. Raises TreeRefused for the first broken rule."""
    members: list[Member] = []
    seen = _Seen(set(), set())
    offset = 0
    while True:
        tar.seek(offset)
        block = tar.read(BLOCK_BYTES)
        if len(block) != BLOCK_BYTES:
            raise TreeRefused(f"offset {offset}", "the tar ends without its two zero blocks")
        if not any(block):
            break
        member = _member(block, offset)
        if len(members) == TREE_MEMBERS_MAX:
            raise TreeRefused(member.path, f"at most {TREE_MEMBERS_MAX} members")
        seen.place(member)
        members.append(member)
        offset = member.offset + -(-member.size_bytes // BLOCK_BYTES) * BLOCK_BYTES
        if offset > size_bytes:
            raise TreeRefused(member.path, "its data goes past the end of the tar")
    _only_zeros(tar, offset, size_bytes)
    return tuple(members)


def chunks(tar: BinaryIO, member: Member) -> Iterator[bytes]:
    """Yield the data of `member` in pieces of at most 1 MiB."""
    tar.seek(member.offset)
    left = member.size_bytes
    while left:
        chunk = tar.read(min(left, _COPY_BYTES))
        if not chunk:
            raise TreeRefused(member.path, "its data goes past the end of the tar")
        left -= len(chunk)
        yield chunk


def check_relative(path: str) -> str | None:
    """Return the rule that `path` breaks as a relative path inside a root, or None."""
    if not path or len(path.encode()) > PATH_BYTES_MAX:
        return f"a path has 1 to {PATH_BYTES_MAX} bytes"
    if any(ord(char) < 32 or ord(char) == 127 for char in path):
        return "a path has no control characters"
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "a path is relative, with no empty, '.' or '..' part"
    if len(parts) > TREE_DEPTH_MAX:
        return f"a path is at most {TREE_DEPTH_MAX} deep"
    return None


def _member(block: bytes, offset: int) -> Member:
    where = f"offset {offset}"
    total = sum(block[:148]) + 8 * 32 + sum(block[156:])
    if _octal(block[148:156], where, "checksum") != total:
        raise TreeRefused(where, "the header's checksum is wrong")
    if block[257:265] != b"ustar\x0000":
        raise TreeRefused(where, "the header is not ustar")
    name = _text(block[0:100], where)
    prefix = _text(block[345:500], where)
    full = f"{prefix}/{name}" if prefix else name
    kind = block[156:157]
    if kind not in (b"0", b"\x00", b"5"):
        what = _KINDS.get(kind, f"type {kind!r}")
        raise TreeRefused(full, f"a tree holds files and directories only, not {what}")
    is_dir = kind == b"5"
    path = full.removesuffix("/") if is_dir else full
    rule = check_relative(path)
    if rule is not None:
        raise TreeRefused(full, rule)
    mode = _octal(block[100:108], full, "mode")
    if mode & ~0o777:
        raise TreeRefused(full, "no set-user-id, set-group-id or sticky bit")
    size_bytes = _octal(block[124:136], full, "size")
    if is_dir:
        if size_bytes:
            raise TreeRefused(full, "a directory has no data")
        return Member(path, True, 0o555, offset + BLOCK_BYTES, 0)
    return Member(path, False, 0o555 if mode & 0o111 else 0o444, offset + BLOCK_BYTES, size_bytes)


@dataclass
class _Seen:
    """What earlier members made: `named` entries, and `dirs`, which others may imply."""

    named: set[str]
    dirs: set[str]

    def place(self, member: Member) -> None:
        if member.path in self.named:
            raise TreeRefused(member.path, "named twice")
        parts = member.path.split("/")
        parents = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        for parent in parents:
            if parent in self.named and parent not in self.dirs:
                raise TreeRefused(member.path, f"{parent} is a file")
        if not member.is_dir and member.path in self.dirs:
            raise TreeRefused(member.path, "is a directory already")
        self.dirs |= parents
        if member.is_dir:
            self.dirs.add(member.path)
        self.named.add(member.path)


def _only_zeros(tar: BinaryIO, offset: int, size_bytes: int) -> None:
    if size_bytes - offset < _END_BYTES:
        raise TreeRefused(f"offset {offset}", "the tar ends without its two zero blocks")
    tar.seek(offset)
    while chunk := tar.read(_COPY_BYTES):
        if chunk.count(0) != len(chunk):
            raise TreeRefused(f"offset {offset}", "only zero bytes may follow the last member")


def _octal(field: bytes, where: str, name: str) -> int:
    digits = field.rstrip(b"\x00 ").lstrip(b" ")
    if not digits or any(byte not in b"01234567" for byte in digits):
        raise TreeRefused(where, f"{name} is not an octal number")
    return int(digits, 8)


def _text(field: bytes, where: str) -> str:
    try:
        return field.split(b"\x00", 1)[0].decode()
    except UnicodeDecodeError as error:
        raise TreeRefused(where, "a name is not UTF-8") from error
