"""Copies of volumes as bytes that nobody reads without their key: what is sent to other nodes and restored.

    magic, then for each block of COPY_BLOCK_BYTES that is not all zero, in order:
    length (4 bytes, big-endian), box of number (8 bytes) and bytes
    at the end a box of _END alone

Boxes are XSalsa20-Poly1305 (NaCl secretbox); the nonce counts them, and a key is of one copy alone, so that
no block passes for another one, and a copy that was cut does not pass for a whole one. Blocking.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO, Final

from nacl.bindings import crypto_secretbox, crypto_secretbox_open
from nacl.exceptions import CryptoError

from ledger.copy_records import COPY_BLOCK_BYTES
from node.executor.drivers.still import data_extents
from node.executor.errors import VolumeRefused

KEY_BYTES: Final = 32
_MAGIC: Final = b"gridpact-volume1"
_END: Final = (1 << 64) - 1
_NONCE_BYTES: Final = 24
_LENGTH_BYTES: Final = 4
_NUMBER_BYTES: Final = 8
_BOX_BYTES: Final = 16  # what proves it unchanged
_FRAME_BYTES_MAX: Final = _BOX_BYTES + _NUMBER_BYTES + COPY_BLOCK_BYTES


def blocks(fd: int) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each block of a volume's file that is not all zero. Raises OSError."""
    size_bytes = os.fstat(fd).st_size
    following = 0
    for start, end in data_extents(fd, size_bytes):
        for number in range(max(following, start // COPY_BLOCK_BYTES), -(-end // COPY_BLOCK_BYTES)):
            following = number + 1
            data = os.pread(fd, COPY_BLOCK_BYTES, number * COPY_BLOCK_BYTES)
            if data.count(0) != len(data):
                yield number, data


def encode_copy(fd: int, key: bytes) -> Iterator[bytes]:
    """The copy of a volume's file, piece by piece. `key`: of this copy alone. Raises OSError."""
    yield _MAGIC
    count = 0
    for number, data in blocks(fd):
        yield _frame(count, number, data, key)
        count += 1
    yield _frame(count, _END, b"", key)


def restore_copy(file: BinaryIO, key: bytes, fd: int, size_bytes: int) -> int:
    """Write a copy into an empty volume's file of that size; returns how many blocks were in it. Raises
    VolumeRefused for a copy that is not whole, unchanged, and of this size; OSError."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise VolumeRefused("copy", "no copy of a volume")
    count, last = 0, -1
    while True:
        number, data = _open(file, count, key)
        if number == _END:
            break
        room = size_bytes - number * COPY_BLOCK_BYTES
        if not last < number or len(data) != min(COPY_BLOCK_BYTES, room):
            raise VolumeRefused("copy", f"block {number} does not belong into a volume of {size_bytes} bytes")
        view, at = memoryview(data), number * COPY_BLOCK_BYTES
        while view:
            done = os.pwrite(fd, view, at)
            view, at = view[done:], at + done
        count, last = count + 1, number
    if data or file.read(1):
        raise VolumeRefused("copy", "it does not end where it should")
    return count


def _frame(index: int, number: int, data: bytes, key: bytes) -> bytes:
    nonce = index.to_bytes(_NONCE_BYTES, "big")
    box = crypto_secretbox(number.to_bytes(_NUMBER_BYTES, "big") + data, nonce, key)
    return len(box).to_bytes(_LENGTH_BYTES, "big") + bytes(box)


def _open(file: BinaryIO, index: int, key: bytes) -> tuple[int, bytes]:
    length = int.from_bytes(file.read(_LENGTH_BYTES), "big")
    if not _BOX_BYTES + _NUMBER_BYTES <= length <= _FRAME_BYTES_MAX:
        raise VolumeRefused("copy", "it is cut, or was changed")
    try:
        plain = crypto_secretbox_open(file.read(length), index.to_bytes(_NONCE_BYTES, "big"), key)
    except (CryptoError, ValueError):
        raise VolumeRefused("copy", "it does not open with its key, or was changed") from None
    return int.from_bytes(plain[:_NUMBER_BYTES], "big"), bytes(plain[_NUMBER_BYTES:])
