"""Reads one layer of a container image: an uncompressed tar, as image builders write it. Standard library
only.

OCI Image Specification 1.1, "Image Layer Filesystem Changeset". Builders write ustar with pax records (IEEE
1003.1) or GNU long names, and both are read here, in bounds. What is not understood is refused, never
skipped: devices, fifos, sparse files, paths that leave the root. Times and extended attributes are left out,
and so are set-user-id bits, which mean nothing to a process that can gain no privileges.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from node.executor.limits import IMAGE_LINK_BYTES_MAX, IMAGE_MEMBERS_MAX, IMAGE_PAX_BYTES_MAX
from node.executor.tree import BLOCK_BYTES, check_relative

_REFUSED = {
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a fifo",
    b"g": "a global pax header",
    b"S": "a sparse file",
}
_KINDS = {b"0": "file", b"\x00": "file", b"1": "hard", b"2": "link", b"5": "folder"}
_USTAR, _GNU = b"ustar\x0000", b"ustar  \x00"
ID_MAX = 65_535
"""The highest user and group that an image may name: as many are mapped into its namespace."""


class ImageRefused(Exception):
    """The image breaks a rule; `where` names the member, blob or field, `rule` what must hold."""

    def __init__(self, where: str, rule: str) -> None:
        super().__init__(f"{where}: {rule}")
        self.where = where
        self.rule = rule


@dataclass(frozen=True)
class Entry:
    """One member: `path` relative, with no dots; "" is the root itself. `kind`: file, folder, link or hard;
    `target`: of a link, its text; of a hard one, the path of the file."""

    path: str
    kind: str
    mode: int
    uid: int
    gid: int
    offset: int
    size_bytes: int
    target: str


def read_layer(tar: BinaryIO, size_bytes: int) -> Iterator[Entry]:
    """Yield the members of `tar` in their order. Raises ImageRefused for the first broken rule."""
    offset = count = 0
    more: dict[str, str] = {}
    while True:
        block = _read(tar, offset, BLOCK_BYTES)
        if len(block) != BLOCK_BYTES:
            raise ImageRefused(f"offset {offset}", "the layer ends without its zero blocks")
        if not any(block):
            break
        _check_header(block, offset)
        length = _number(block[124:136], f"offset {offset}", "size")
        kind = block[156:157]
        after = offset + BLOCK_BYTES
        if kind in (b"x", b"L", b"K"):
            if length > IMAGE_PAX_BYTES_MAX:
                raise ImageRefused(f"offset {offset}", f"a header of at most {IMAGE_PAX_BYTES_MAX} B")
            more |= _extended(kind, _read(tar, after, length), f"offset {offset}")
            offset = after + _padded(length)
        else:
            count += 1
            if count > IMAGE_MEMBERS_MAX:
                raise ImageRefused(f"offset {offset}", f"at most {IMAGE_MEMBERS_MAX} members")
            entry = _entry(block, after, more)
            more = {}
            yield entry
            offset = after + _padded(entry.size_bytes)
        if offset > size_bytes:
            raise ImageRefused(f"offset {offset}", "a member's data goes past the end of the layer")


def _entry(block: bytes, offset: int, more: dict[str, str]) -> Entry:
    where = f"offset {offset - BLOCK_BYTES}"
    name = more.get("path") or _name(block, where)
    kind = _KINDS.get(block[156:157])
    if kind is None:
        what = _REFUSED.get(block[156:157], f"type {block[156:157]!r}")
        raise ImageRefused(name, f"files, folders and links only, not {what}")
    path = name.removeprefix("./") if name != "." else ""
    path = path.rstrip("/") if kind == "folder" else path
    if not (kind == "folder" and path == ""):
        _check_path(path, name)
    target = more.get("linkpath") or _text(block[157:257], where)
    size_bytes = _record(more, "size", where) if "size" in more else _number(block[124:136], where, "size")
    ids = [
        _record(more, key, where) if key in more else _number(field, where, key)
        for key, field in (("uid", block[108:116]), ("gid", block[116:124]))
    ]
    if max(ids) > ID_MAX:
        raise ImageRefused(name, f"users and groups up to {ID_MAX}")
    if kind != "file":
        size_bytes = 0  # some builders repeat a hard link's size; no data follows
    if kind == "hard":
        target = target.removeprefix("./")
        _check_path(target, f"{name} -> {target}")
    elif kind == "link" and not 0 < len(target.encode()) <= IMAGE_LINK_BYTES_MAX:
        raise ImageRefused(name, f"a link's text has 1 to {IMAGE_LINK_BYTES_MAX} bytes")
    mode = _number(block[100:108], where, "mode") & 0o777
    return Entry(path, kind, mode, ids[0], ids[1], offset, size_bytes, target)


def _check_path(path: str, shown: str) -> None:
    rule = check_relative(path)
    if rule is not None:
        raise ImageRefused(shown[:200] or "a member", rule)


def _check_header(block: bytes, offset: int) -> None:
    where = f"offset {offset}"
    if _number(block[148:156], where, "checksum") != sum(block[:148]) + 8 * 32 + sum(block[156:]):
        raise ImageRefused(where, "the header's checksum is wrong")
    if block[257:265] not in (_USTAR, _GNU):
        raise ImageRefused(where, "the header is neither ustar nor GNU")


def _name(block: bytes, where: str) -> str:
    name = _text(block[0:100], where)
    prefix = _text(block[345:500], where) if block[257:265] == _USTAR else ""
    return f"{prefix}/{name}" if prefix else name


def _extended(kind: bytes, data: bytes, where: str) -> dict[str, str]:
    """What a header adds to the next member."""
    if kind != b"x":
        return {"path" if kind == b"L" else "linkpath": _text(data, where)}
    found: dict[str, str] = {}
    while data:
        length, space, _ = data.partition(b" ")
        if (
            not space
            or not length.isdigit()
            or len(length) > 7
            or not len(length) + 3 < int(length) <= len(data)
        ):
            raise ImageRefused(where, "a pax record begins with its length")
        record, data = data[len(length) + 1 : int(length)], data[int(length) :]
        key, sign, value = record.partition(b"=")
        if not sign or not value.endswith(b"\n") or b"\x00" in record:
            raise ImageRefused(where, "a pax record is KEY=VALUE and a line's end")
        if key.startswith(b"GNU.sparse"):
            raise ImageRefused(where, "files, folders and links only, not a sparse file")
        if key in (b"path", b"linkpath", b"size", b"uid", b"gid"):
            found[key.decode()] = _text(value[:-1], where)
    return found


def _record(more: dict[str, str], key: str, where: str) -> int:
    if not more[key].isdecimal() or len(more[key]) > 15:
        raise ImageRefused(where, f"{key} is not a number")
    return int(more[key])


def _number(field: bytes, where: str, name: str) -> int:
    if field[:1] == b"\x80":  # GNU: binary, for what octal has no room
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b"\x00 ")
    if any(byte not in b"01234567" for byte in digits):
        raise ImageRefused(where, f"{name} is not an octal number")
    return int(digits or b"0", 8)


def _text(field: bytes, where: str) -> str:
    try:
        return field.split(b"\x00", 1)[0].decode()
    except UnicodeDecodeError as error:
        raise ImageRefused(where, "a name is not UTF-8") from error


def _read(tar: BinaryIO, offset: int, length: int) -> bytes:
    tar.seek(offset)
    return tar.read(length)


def _padded(length: int) -> int:
    return -(-length // BLOCK_BYTES) * BLOCK_BYTES
