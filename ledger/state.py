"""The state as the machine sees it: an ordered map of bytes, and overlays that make steps all or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol, TypeVar

from sortedcontainers import SortedDict, SortedSet

from ledger.codec import decode, encode

T = TypeVar("T")

_ABSENT: Any = object()


class Reader(Protocol):
    """What can be read of a state. A scan is invalid once its state is written: collect it first."""

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""
        ...

    def scan(
        self, prefix: bytes, start: bytes = b"", limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Pairs in byte order, at most `limit`, whose keys begin with `prefix` and are >= `start` (a key)."""
        ...


class State(Reader, Protocol):
    """A state that can be written, too."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set a value."""
        ...

    def delete(self, key: bytes) -> None:
        """Remove a key; nothing happens when it is absent."""
        ...


class MemoryState:
    """A whole state in memory, for tests and the simulator."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Mapping[bytes, bytes] | None = None) -> None:
        self._entries: SortedDict[bytes, bytes] = SortedDict(entries or {})

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._entries.get(key)
        return value

    def put(self, key: bytes, value: bytes) -> None:
        self._entries[key] = value

    def delete(self, key: bytes) -> None:
        self._entries.pop(key, None)

    def scan(
        self, prefix: bytes, start: bytes = b"", limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        keys = _within(self._entries.irange(minimum=max(prefix, start)), prefix)
        return ((key, self._entries[key]) for key in islice(keys, limit))

    def update(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Apply what `Overlay.changes` returned."""
        for key, value in changes.items():
            if value is None:
                self._entries.pop(key, None)
            else:
                self._entries[key] = value

    def entries(self) -> dict[bytes, bytes]:
        """A copy, in byte order of the keys."""
        return dict(self._entries)


class Overlay:
    """Writes kept over `base` until `commit` hands them down; dropping the overlay discards them."""

    __slots__ = ("_base", "_order", "_writes")

    def __init__(self, base: Reader) -> None:
        self._base = base
        self._writes: dict[bytes, bytes | None] = {}
        self._order: SortedSet[bytes] | None = None  # of the written keys; built by the first scan

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._writes.get(key, _ABSENT)
        return self._base.get(key) if value is _ABSENT else value

    def put(self, key: bytes, value: bytes) -> None:
        self._writes[key] = value
        if self._order is not None:
            self._order.add(key)

    def delete(self, key: bytes) -> None:
        self._writes[key] = None
        if self._order is not None:
            self._order.add(key)

    def scan(
        self, prefix: bytes, start: bytes = b"", limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        if not self._writes:
            return self._base.scan(prefix, start, limit)
        if self._order is None:
            self._order = SortedSet(self._writes)
        return islice(self._merged(self._order, prefix, start), limit)

    def _merged(self, order: SortedSet[bytes], prefix: bytes, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        below = self._base.scan(prefix, start)
        item = next(below, None)
        for key in _within(order.irange(minimum=max(prefix, start)), prefix):
            while item is not None and item[0] < key:
                yield item
                item = next(below, None)
            if item is not None and item[0] == key:
                item = next(below, None)  # the overlay's value hides it
            value = self._writes[key]
            if value is not None:
                yield key, value
        while item is not None:
            yield item
            item = next(below, None)

    def changes(self) -> dict[bytes, bytes | None]:
        """All writes in byte order of the keys; None means deleted."""
        return dict(sorted(self._writes.items()))

    def commit(self, target: State) -> None:
        """Hand the writes down to `target` (as a rule the base) and start empty again. O(writes)."""
        if isinstance(target, Overlay):  # once a transaction: no call for each key
            target._writes.update(self._writes)
            if target._order is not None:
                target._order.update(self._writes)
        else:
            for key, value in self._writes.items():
                if value is None:
                    target.delete(key)
                else:
                    target.put(key, value)
        self.discard()

    def discard(self) -> None:
        """Forget the writes."""
        self._writes = {}
        self._order = None


def _within(keys: Iterable[bytes], prefix: bytes) -> Iterator[bytes]:
    for key in keys:
        if not key.startswith(prefix):
            return
        yield key


def read(state: Reader, kind: type[T], key: bytes) -> T | None:
    """The decoded record at `key`, or None."""
    data = state.get(key)
    return None if data is None else decode(kind, data)


def write(state: State, key: bytes, record: Any) -> None:
    """Encode a record and put it at `key`."""
    state.put(key, encode(record))
