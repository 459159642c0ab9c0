"""The tar reader refuses everything but plain files and directories inside the tree."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.executor.limits import TREE_DEPTH_MAX, TREE_MEMBERS_MAX
from node.executor.tree import TreeRefused, check_relative, chunks, read_tree

from .conftest import make_tar


def one(name: str, **fields: object) -> bytes:
    """Return a tar with one member, made by Python's own writer."""
    info = tarfile.TarInfo(name)
    data = fields.pop("data", b"")
    form = fields.pop("format", tarfile.USTAR_FORMAT)
    assert isinstance(data, bytes) and isinstance(form, int)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", data)
    return buffer.getvalue()


def refusal(data: bytes) -> str:
    with pytest.raises(TreeRefused) as caught:
        read_tree(io.BytesIO(data), len(data))
    return str(caught.value)


def test_files_and_directories() -> None:
    data = make_tar({"a": b"1" * 513, "dir/": None, "dir/b": b"", "implied/deep/c": b"3"})
    tar = io.BytesIO(data)
    members = read_tree(tar, len(data))
    assert [(member.path, member.is_dir, member.mode) for member in members] == [
        ("a", False, 0o444),
        ("dir", True, 0o555),
        ("dir/b", False, 0o444),
        ("implied/deep/c", False, 0o444),
    ]
    assert b"".join(chunks(tar, members[0])) == b"1" * 513
    assert b"".join(chunks(tar, members[3])) == b"3"


def test_only_executable_counts_of_the_mode() -> None:
    data = one("x", mode=0o710)
    assert read_tree(io.BytesIO(data), len(data))[0].mode == 0o555


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"name": "a", "type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "not a symbolic link"),
        ({"name": "a", "type": tarfile.LNKTYPE, "linkname": "b"}, "not a hard link"),
        ({"name": "a", "type": tarfile.CHRTYPE}, "not a character device"),
        ({"name": "a", "type": tarfile.BLKTYPE}, "not a block device"),
        ({"name": "a", "type": tarfile.FIFOTYPE}, "not a fifo"),
        ({"name": "a", "type": tarfile.CONTTYPE}, "files and directories only"),
        ({"name": "../a"}, "no empty, '.' or '..' part"),
        ({"name": "a/../../b"}, "no empty, '.' or '..' part"),
        ({"name": "/etc/passwd"}, "no empty, '.' or '..' part"),
        ({"name": "./a"}, "no empty, '.' or '..' part"),
        ({"name": "a//b"}, "no empty, '.' or '..' part"),
        ({"name": "a\nb"}, "no control characters"),
        ({"name": "a", "mode": 0o4755}, "no set-user-id"),
        ({"name": "a", "mode": 0o2755}, "no set-user-id"),
        ({"name": "a", "mode": 0o1777}, "sticky"),
        ({"name": "a/" * TREE_DEPTH_MAX + "b"}, "deep"),
        ({"name": "n" * 300, "format": tarfile.GNU_FORMAT}, "not ustar"),
        ({"name": "n" * 300, "format": tarfile.PAX_FORMAT}, "not a pax header"),
    ],
)
def test_refused_members(fields: dict[str, object], rule: str) -> None:
    assert rule in refusal(one(**fields))  # type: ignore[arg-type]


def test_duplicates_and_files_as_directories() -> None:
    assert "named twice" in refusal(_joined({"a": b"1"}, {"a": b"2"}))
    assert "a is a file" in refusal(_joined({"a": b"1"}, {"a/b": b"2"}))
    assert "is a directory already" in refusal(_joined({"a/b": b"1"}, {"a": b"2"}))
    assert "named twice" in refusal(_joined({"a/": None}, {"a": b"2"}))


def _joined(*parts: dict[str, bytes | None]) -> bytes:
    """Return one tar of several of one small member each."""
    lengths = [1024 if next(iter(part.values())) else 512 for part in parts]
    bodies = [make_tar(part)[:length] for part, length in zip(parts, lengths, strict=True)]
    return b"".join(bodies) + bytes(1024)


def test_damaged_tars() -> None:
    data = make_tar({"a": b"1" * 1000})
    assert "two zero blocks" in refusal(b"")
    assert "past the end" in refusal(data[:512])
    assert "two zero blocks" in refusal(data[:1536])
    assert "past the end" in refusal(data[:1024])
    assert "checksum" in refusal(b"x" + data[1:])
    assert "only zero bytes" in refusal(data + b"hidden")
    assert "two zero blocks" in refusal(data[:2048])
    assert "not an octal" in refusal(_with_header(data, 124, b"99999999999\x00"))


def _with_header(data: bytes, at: int, field: bytes) -> bytes:
    """Return `data` with a field of its first header replaced, and the checksum made right."""
    header = bytearray(data[:512])
    header[at : at + len(field)] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\x00 " % sum(header)
    return bytes(header) + data[512:]


def test_size_beyond_the_tar_is_refused_without_reading() -> None:
    data = make_tar({"a": b"1"})
    assert "past the end" in refusal(_with_header(data, 124, b"77777777777\x00"))


def test_number_of_members_is_bounded() -> None:
    data = make_tar({f"{number}": b"" for number in range(TREE_MEMBERS_MAX + 1)})
    assert f"at most {TREE_MEMBERS_MAX}" in refusal(data)


@given(st.binary(max_size=2048))
def test_garbage_is_refused_or_empty(data: bytes) -> None:
    try:
        members = read_tree(io.BytesIO(data), len(data))
    except TreeRefused:
        return
    assert members == ()


@given(st.integers(0, 511), st.integers(0, 255))
def test_one_changed_header_byte_never_escapes_the_tree(at: int, value: int) -> None:
    data = bytearray(make_tar({"dir/a": b"1" * 600}))
    data[at] = value
    try:
        members = read_tree(io.BytesIO(bytes(data)), len(data))
    except TreeRefused:
        return
    for member in members:
        assert check_relative(member.path) is None
        assert member.offset + member.size_bytes <= len(data)
        assert member.mode in (0o444, 0o555)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zipped])
def test_what_is_packed_is_no_tree(pack: Callable[[bytes], bytes]) -> None:
    """A megabyte of nothing in a few bytes: no packed form is read, so there is nothing to blow up."""
    data = make_tar({"a": bytes(1 << 20)})
    assert read_tree(io.BytesIO(data), len(data))[0].size_bytes == 1 << 20
    small = pack(data)
    assert len(small) < len(data) // 100
    refusal(small)


def test_holes_are_not_filled() -> None:
    """GNU and pax forms, which name sizes without bytes, are refused by their type; a plain file is none."""
    plain = make_tar({"a": b""})
    assert read_tree(io.BytesIO(_with_header(plain, 156, b"0")), len(plain))[0].path == "a"
    for kind in (tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE, tarfile.XGLTYPE):
        assert "files and directories only" in refusal(_with_header(plain, 156, kind))
