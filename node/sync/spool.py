"""A whole state sorted by where its keys stand in the tree, for chunks to be cut from
(ledger.storage.snapshot): in memory while it is small, else in a temporary file that has no name and is gone
with the process."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Final

from ledger.storage.snapshot import BUCKETS, Bucket, Shelf, bucket_of, pair_bytes
from ledger.storage.views import FrozenState
from node.limits import SNAPSHOT_BUCKETS_READ, SNAPSHOT_MEMORY_BYTES

_PIECE_BYTES: Final = 64 * 1024  # of a bucket, written at once
_LENGTHS: Final = struct.Struct(">II")
_STOP_EVERY: Final = 256  # pairs between looks whether to stop


class Stopped(Exception):
    """The peer stops: no need to finish."""


class Spool:
    """A frozen state sorted into buckets, in memory while it is small, else in a nameless file."""

    def __init__(self, state: FrozenState, folder: Path | None, is_stopped: Callable[[], bool]) -> None:
        where = str(folder) if folder else None
        self._file: IO[bytes] = SpooledTemporaryFile(SNAPSHOT_MEMORY_BYTES, dir=where)  # noqa: SIM115
        self._pieces: list[list[tuple[int, int]]] = [[] for _ in range(BUCKETS)]
        self._read: OrderedDict[int, Bucket] = OrderedDict()
        try:
            sizes = self._sort(state, is_stopped)
            self.shelf = Shelf(sizes, self.bucket)
        except BaseException:
            self._file.close()
            raise

    def _sort(self, state: FrozenState, is_stopped: Callable[[], bool]) -> list[int]:
        sizes = [0] * BUCKETS
        waiting = [bytearray() for _ in range(BUCKETS)]
        for count, (key, value) in enumerate(state.pairs()):
            if count % _STOP_EVERY == 0 and is_stopped():
                raise Stopped
            number = bucket_of(key)
            sizes[number] += pair_bytes((key, value))
            waiting[number] += _LENGTHS.pack(len(key), len(value)) + key + value
            if len(waiting[number]) >= _PIECE_BYTES:
                self._write(number, waiting[number])
        for number, data in enumerate(waiting):
            self._write(number, data)
        return sizes

    def _write(self, number: int, data: bytearray) -> None:
        if data:
            self._pieces[number].append((self._file.tell(), len(data)))
            self._file.write(data)
            data.clear()

    def bucket(self, number: int) -> Bucket:
        """One bucket; those read last are kept."""
        found = self._read.get(number)
        if found is not None:
            self._read.move_to_end(number)
            return found
        pairs: list[tuple[bytes, bytes]] = []
        for at, length in self._pieces[number]:
            self._file.seek(at)
            pairs += _pairs(self._file.read(length))
        found = self._read[number] = Bucket(BUCKETS + number, pairs)
        if len(self._read) > SNAPSHOT_BUCKETS_READ:
            self._read.popitem(last=False)
        return found

    def close(self) -> None:
        """Idempotent."""
        self._file.close()


def _pairs(data: bytes) -> list[tuple[bytes, bytes]]:
    found = []
    at = 0
    while at < len(data):
        key_bytes, value_bytes = _LENGTHS.unpack_from(data, at)
        at += _LENGTHS.size
        found.append((data[at : at + key_bytes], data[at + key_bytes : at + key_bytes + value_bytes]))
        at += key_bytes + value_bytes
    return found
