"""The seam under the ledger's storage: ordered bytes with atomic writes. Here: the seam, a bounded
read cache, and the in-memory kind for simulations and tests; ledger.storage.store has LevelDB."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final, Protocol, runtime_checkable

from sortedcontainers import SortedDict

_ENTRY_OVERHEAD_BYTES: Final = 150  # dict slot and two bytes objects, roughly


class Readable(Protocol):
    """Ordered bytes to bytes."""

    def get(self, key: bytes) -> bytes | None: ...

    def scan(
        self, prefix: bytes, start: bytes = b"", limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Pairs whose key has `prefix` and is >= `start`, in byte order, at most `limit`."""

    def last(self, prefix: bytes) -> tuple[bytes, bytes] | None:
        """The pair with the greatest key under `prefix`."""

    def close(self) -> None:
        """Idempotent."""


class Kv(Readable, Protocol):
    """Ordered bytes to bytes, to read and to write."""

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = (), sync: bool = True) -> None:
        """All or nothing; on disk when it returns, if `sync`."""


class Frozen(Readable, Protocol):
    """The pairs of a Kv as they were at one moment, until it is closed. May be read in another thread than
    the Kv."""


@runtime_checkable
class Freezable(Protocol):
    """A Kv that can be read as it is now while it is written on."""

    def freeze(self) -> Frozen: ...


@runtime_checkable
class Measured(Protocol):
    """A Kv that takes room on a disk."""

    def size_bytes(self, prefix: bytes) -> int:
        """Roughly what the pairs under `prefix` take; what was deleted counts until `compact`."""

    def compact(self, prefix: bytes) -> None:
        """Give back the room of what was deleted under `prefix`. Takes long: call it in a thread."""


def prefix_end(prefix: bytes) -> bytes | None:
    """The smallest key greater than all with `prefix`; None when there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


class MemoryKv:
    """A Kv in memory: atomic, but nothing survives it."""

    def __init__(self) -> None:
        self._pairs: SortedDict[bytes, bytes] = SortedDict()

    def get(self, key: bytes) -> bytes | None:
        return self._pairs.get(key)

    def scan(
        self, prefix: bytes, start: bytes = b"", limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """As Kv.scan, over the keys as they are at the call."""
        end = prefix_end(prefix)
        keys = self._pairs.irange(max(prefix, start), end, inclusive=(True, False))
        found: list[tuple[bytes, bytes]] = []
        for key in keys:
            if limit is not None and len(found) >= limit:
                break
            found.append((key, self._pairs[key]))
        return iter(found)

    def last(self, prefix: bytes) -> tuple[bytes, bytes] | None:
        keys = self._pairs.irange(prefix, prefix_end(prefix), inclusive=(True, False), reverse=True)
        key = next(iter(keys), None)
        return None if key is None else (key, self._pairs[key])

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = (), sync: bool = True) -> None:
        for key in deletes:
            self._pairs.pop(key, None)
        self._pairs.update(puts)

    def freeze(self) -> Frozen:
        """As Freezable.freeze: a copy."""
        copy = MemoryKv()
        copy._pairs = self._pairs.copy()
        return copy

    def close(self) -> None:
        """Nothing is held."""


class ReadCache:
    """The last read or written pairs of one namespace of a Kv, absence included, bounded in bytes.

    Keys of at most `stay_key_bytes` are the last to go: the upper nodes of a tree, which each change reads.
    """

    def __init__(self, kv: Kv, namespace: bytes, size_bytes_max: int, stay_key_bytes: int = 0) -> None:
        self._kv = kv
        self._namespace = namespace
        self._stay_key_bytes = stay_key_bytes
        self._left_bytes = self._size_bytes_max = size_bytes_max
        self._pairs: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | None:
        """The value, from memory if it is there."""
        pairs = self._pairs
        if key in pairs:
            return pairs[key]
        value = self._kv.get(self._namespace + key)
        self._pairs[key] = value
        self._left_bytes -= _ENTRY_OVERHEAD_BYTES + len(key) + (len(value) if value else 0)
        if self._left_bytes < 0:
            self._shrink()
        return value

    def put(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Follow a write that was made."""
        pairs, left_bytes = self._pairs, self._left_bytes
        for key, value in changes.items():
            if key in pairs:
                old = pairs[key]
                left_bytes += len(old) if old else 0
            else:
                left_bytes -= _ENTRY_OVERHEAD_BYTES + len(key)
            left_bytes -= len(value) if value else 0
            pairs[key] = value
        self._left_bytes = left_bytes
        self._shrink()

    def _shrink(self) -> None:
        """When full, the older half goes at once: popping a dict's first key one by one is slow."""
        pairs, stay_key_bytes = self._pairs, self._stay_key_bytes
        while self._left_bytes < 0:
            gone = 0
            for key in list(islice(pairs, (len(pairs) + 1) // 2)):
                value = pairs.pop(key)
                if len(key) <= stay_key_bytes:
                    pairs[key] = value  # behind the younger ones
                    continue
                gone += 1
                self._left_bytes += _ENTRY_OVERHEAD_BYTES + len(key) + (len(value) if value else 0)
            if not gone:
                stay_key_bytes = 0  # the bound comes first
