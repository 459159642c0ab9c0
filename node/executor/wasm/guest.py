"""A WebAssembly program as its host sees it: its memory, checked at each step, and its fuel.

Standard library only: runs inside the sandbox.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable, Iterator
from typing import Final

from node.executor.wasm.descriptors import Descriptors
from node.executor.wasm.files import (
    FAULT,
    ILSEQ,
    INVAL,
    NAMETOOLONG,
    PATH_BYTES_MAX,
    Folder,
    WasiError,
)
from node.executor.wasm.library import Engine, Memory

FUEL_BYTES: Final = 8  # that are moved for one unit
ENTRY_FUEL: Final = 100  # for each name of a folder, and for each byte of a path
PIECE_BYTES: Final = 1 << 20  # moved at once: what a call copies takes so much memory beside the program's
_VECTORS_MAX: Final = 1024


class NoFuel(Exception):
    """It cannot pay for a call."""


class Guest:
    """Where the program's memory is, and what it has open."""

    def __init__(self, engine: Engine, root: Folder) -> None:
        self._engine = engine
        self._files = Descriptors(root)
        self._memory: Memory | None = None
        self._at, self._size = 0, 0

    def _look(self) -> None:
        """Before each call: the memory may have grown, and moved."""
        if self._memory is not None:
            self._at, self._size = self._engine.place(self._memory)

    def _pay(self, fuel: int) -> None:
        left = self._engine.fuel
        if left < fuel:
            self._engine.fuel = 0
            raise NoFuel
        self._engine.fuel = left - fuel

    def _read(self, at: int, size: int) -> bytes:
        self._within(at, size)
        return ctypes.string_at(self._at + at, size)

    def _write(self, at: int, data: bytes) -> None:
        self._within(at, len(data))
        ctypes.memmove(self._at + at, data, len(data))

    def _within(self, at: int, size: int) -> None:
        if at + size > self._size:
            raise WasiError(FAULT)
        self._pay(size // FUEL_BYTES)

    def _number(self, at: int, value: int, size: int = 4) -> None:
        self._write(at, value.to_bytes(size, "little"))

    def _path(self, at: int, size: int) -> str:
        if size > PATH_BYTES_MAX:
            raise WasiError(NAMETOOLONG)
        self._pay(size * ENTRY_FUEL)
        try:
            path = self._read(at, size).decode()
        except UnicodeDecodeError:
            raise WasiError(ILSEQ) from None
        if "\0" in path:
            raise WasiError(INVAL)
        return path

    def _vectors(self, at: int, count: int) -> list[tuple[int, int]]:
        if count > _VECTORS_MAX:
            raise WasiError(INVAL)
        found = list(struct.iter_unpack("<II", self._read(at, 8 * count)))
        if sum(size for _, size in found) > self._size:
            raise WasiError(INVAL)  # parts of it many times over: not in one call
        for where, size in found:
            self._within(where, size)
        return [(where, size) for where, size in found if size]

    def _pieces(self, vectors: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        for where, size in vectors:
            for at in range(where, where + size, PIECE_BYTES):
                yield at, min(PIECE_BYTES, where + size - at)
