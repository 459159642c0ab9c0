"""Copies of volumes as bytes that nobody reads without their key: what is sent to other nodes and restored.

    each block of COPY_BLOCK_BYTES that is not all zero, in order, sealed and as long as before
    nonce (24 bytes) and box of the index: _MAGIC, then number, nonce and proof of each block
    length of that nonce and box (8 bytes, big-endian)

Blocks are as long as the chunks of an artifact, and a block looks the same in each copy under one key until
its bytes change: so a copy has most of its chunks from the one before, and the others alone travel. Boxes
are XSalsa20-Poly1305 (NaCl secretbox); a block's proof stands in the index. Its nonce is a keyed hash of its
number and bytes (as in SIV, RFC 5297): no nonce ever serves two different blocks. The index says which
blocks make up this copy, so that none passes for another one, of this copy or of a former, and a copy that
was cut does not pass for a whole one. Blocking.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, Final

from nacl.bindings import crypto_secretbox, crypto_secretbox_open
from nacl.exceptions import CryptoError
from nacl.utils import random

from ledger.copy_records import COPY_BLOCK_BYTES
from node.executor.drivers.still import data_extents
from node.executor.errors import VolumeRefused

KEY_BYTES: Final = 32
_MAGIC: Final = b"gridpact-volume2"
_NONCE_BYTES: Final = 24
_PROOF_BYTES: Final = 16
_ENTRY: Final = struct.Struct(">Q24s16s")
_LENGTH: Final = struct.Struct(">Q")
_INDEX_BYTES_MIN: Final = _NONCE_BYTES + _PROOF_BYTES + len(_MAGIC)


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
    """The copy of a volume's file, piece by piece. `key`: of this volume alone. Raises OSError."""
    sealing, naming, index_key = (_part_of(key, purpose) for purpose in (b"block", b"nonce", b"index"))
    index = [_MAGIC]
    for number, data in blocks(fd):
        hashed = hashlib.blake2b(number.to_bytes(8, "big"), digest_size=_NONCE_BYTES, key=naming)
        hashed.update(data)
        nonce = hashed.digest()
        box = crypto_secretbox(data, nonce, sealing)
        index.append(_ENTRY.pack(number, nonce, box[:_PROOF_BYTES]))
        yield box[_PROOF_BYTES:]
    nonce = random(_NONCE_BYTES)
    sealed = nonce + crypto_secretbox(b"".join(index), nonce, index_key)
    yield sealed + _LENGTH.pack(len(sealed))


def restore_copy(file: BinaryIO, key: bytes, fd: int, size_bytes: int) -> int:
    """Write a copy into an empty volume's file of that size; returns how many blocks were in it. Raises
    VolumeRefused for a copy that is not whole, unchanged, and of this size; OSError."""
    index, left_bytes = _read_index(file, key, size_bytes)
    sealing, count, last = _part_of(key, b"block"), 0, -1
    file.seek(0)
    for number, nonce, proof in _ENTRY.iter_unpack(index):
        due_bytes = min(COPY_BLOCK_BYTES, size_bytes - number * COPY_BLOCK_BYTES)
        if not last < number or due_bytes <= 0:
            raise VolumeRefused("copy", f"block {number} does not belong into a volume of {size_bytes} bytes")
        left_bytes -= due_bytes
        if left_bytes < 0:
            raise VolumeRefused("copy", "it is cut, or was changed")
        view = memoryview(_open(proof + file.read(due_bytes), nonce, sealing))
        at = number * COPY_BLOCK_BYTES
        while view:
            done = os.pwrite(fd, view, at)
            view, at = view[done:], at + done
        count, last = count + 1, number
    if left_bytes:
        raise VolumeRefused("copy", "its blocks do not end where they should")
    return count


def _read_index(file: BinaryIO, key: bytes, size_bytes: int) -> tuple[bytes, int]:
    """The entries, and how many bytes the blocks have. Raises VolumeRefused."""
    end = file.seek(0, os.SEEK_END) - _LENGTH.size
    most = _INDEX_BYTES_MIN + -(-size_bytes // COPY_BLOCK_BYTES) * _ENTRY.size
    length = 0
    if end >= 0:
        file.seek(end)
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
    if not _INDEX_BYTES_MIN <= length <= min(end, most):
        raise VolumeRefused("copy", "it is cut, was changed, or does not belong into a volume of this size")
    file.seek(end - length)
    nonce, box = file.read(_NONCE_BYTES), file.read(length - _NONCE_BYTES)
    index = _open(box, nonce, _part_of(key, b"index"))
    if not index.startswith(_MAGIC) or (len(index) - len(_MAGIC)) % _ENTRY.size:
        raise VolumeRefused("copy", "no copy of a volume")
    return index[len(_MAGIC) :], end - length


def _open(box: bytes, nonce: bytes, key: bytes) -> bytes:
    try:
        return bytes(crypto_secretbox_open(box, nonce, key))
    except (CryptoError, ValueError):
        raise VolumeRefused("copy", "it does not open with its key, or was changed") from None


def _part_of(key: bytes, purpose: bytes) -> bytes:
    """A key for one purpose (RFC 7693, keyed BLAKE2b with a personal string)."""
    return hashlib.blake2b(key=key, person=b"gridpact-" + purpose, digest_size=KEY_BYTES).digest()
