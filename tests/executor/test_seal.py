"""Sealed bytes are the verified bytes, and nobody can change them, root included."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from node.executor.errors import VerificationFailed
from node.executor.host.seal import hash_fd, seal_bytes, seal_file

from .conftest import sha256

DATA = b"verified" * 300_000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "artifact"
    path.write_bytes(DATA)
    return path


def test_sealed_bytes_cannot_change(source: Path) -> None:
    sealed = seal_file(source, sha256(DATA), len(DATA), "files[0]")
    try:
        with pytest.raises(PermissionError):
            os.pwrite(sealed.fd, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(sealed.fd, 10)
        with pytest.raises(PermissionError):
            os.ftruncate(sealed.fd, len(DATA) + 1)
        with pytest.raises(PermissionError):
            mmap.mmap(sealed.fd, 0, mmap.MAP_SHARED, mmap.PROT_WRITE)
        again = os.open(f"/proc/self/fd/{sealed.fd}", os.O_RDWR)
        with pytest.raises(PermissionError):
            os.write(again, b"x")
        os.close(again)
        source.write_bytes(b"tampered")
        assert hash_fd(sealed.fd) == sha256(DATA)
    finally:
        sealed.close()
        sealed.close()


@pytest.mark.parametrize(
    ("digest", "size_bytes", "field"),
    [
        ("0" * 64, len(DATA), "files[0].digest"),
        (sha256(DATA), len(DATA) - 1, "files[0].size_bytes"),
        (sha256(DATA), len(DATA) + 1, "files[0].size_bytes"),
    ],
)
def test_wrong_bytes_are_refused(source: Path, digest: str, size_bytes: int, field: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(VerificationFailed) as caught:
        seal_file(source, digest, size_bytes, "files[0]")
    assert caught.value.field == field
    assert len(os.listdir("/proc/self/fd")) == before


def test_sources_that_are_no_plain_file(source: Path, tmp_path: Path) -> None:
    link, fifo = tmp_path / "link", tmp_path / "fifo"
    link.symlink_to(source)
    os.mkfifo(fifo)
    for path in (link, fifo, tmp_path, tmp_path / "none"):
        with pytest.raises(VerificationFailed, match="source"):
            seal_file(path, sha256(DATA), len(DATA), "files[0]")


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    seal_file(path, sha256(b""), 0, "files[0]").close()


def test_seal_bytes_is_read_from_its_start() -> None:
    fd = seal_bytes(b"options", "options")
    assert os.read(fd, 100) == b"options"
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    os.close(fd)
