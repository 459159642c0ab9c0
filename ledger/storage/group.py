"""Several commits as one synced write, for a peer that is far behind: a sync costs more than a small block.

Inside `grouped` what is written stands over the store in memory and is read through; at the end all of it is
one atomic write. So after a crash the store stands at a block's end, at the group's beginning or its end, and
never between; separate unsynced writes could leave a hole where LevelDB changed its log file between them.
Nothing may run beside a group but its own commits: nobody else sees what is not on the disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from ledger.errors import LocalError
from ledger.state import Overlay
from ledger.storage.kv import Freezable, Frozen, Kv


class Group:
    """A Kv over `base`, which stands for it outside of groups."""

    def __init__(self, base: Kv) -> None:
        self.base = base
        self._layers: dict[int, Overlay] | None = None  # by namespace: only the state's is ever scanned

    def get(self, key: bytes) -> bytes | None:
        """The value, of the group if it wrote or deleted the key."""
        if self._layers is not None:
            layer = self._layers.get(key[0])
            if layer is not None:
                return layer.get(key)
        return self.base.get(key)

    def scan(
        self, prefix: bytes, start: bytes = b"", limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """As Kv.scan."""
        if self._layers is not None:
            if not prefix:
                self.flush()
            elif (layer := self._layers.get(prefix[0])) is not None:
                return layer.scan(prefix, start, limit)
        return self.base.scan(prefix, start, limit)

    def last(self, prefix: bytes) -> tuple[bytes, bytes] | None:
        """As Kv.last; rare, so an open group is written first."""
        self.flush()
        return self.base.last(prefix)

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = (), sync: bool = True) -> None:
        """As Kv.write, on disk at the end of the group that is open."""
        if self._layers is None:
            self.base.write(puts, deletes, sync)
            return
        for key in deletes:
            self._layer(key).delete(key)
        for key, value in puts.items():
            self._layer(key).put(key, value)

    def _layer(self, key: bytes) -> Overlay:
        assert self._layers is not None
        found = self._layers.get(key[0])
        if found is None:
            found = self._layers[key[0]] = Overlay(self.base)
        return found

    @contextmanager
    def grouped(self) -> Iterator[None]:
        """One group. Writes what was committed also when its end is an exception. Raises LocalError when
        the disk fails or a group is open."""
        if self._layers is not None:
            raise LocalError("a group of commits is open already")
        self._layers = {}
        try:
            yield
        finally:
            try:
                self.flush()
            finally:
                self._layers = None

    def flush(self) -> None:
        """Write what an open group holds, synced. Nothing happens outside of one."""
        if not self._layers:
            return
        puts: dict[bytes, bytes] = {}
        deletes: list[bytes] = []
        for layer in self._layers.values():
            for key, value in layer.changes().items():
                if value is None:
                    deletes.append(key)
                else:
                    puts[key] = value
        self._layers = {}
        self.base.write(puts, deletes, sync=True)

    def freeze(self) -> Frozen | None:
        """As Freezable.freeze, what a group holds included; None where the store can't."""
        self.flush()
        return self.base.freeze() if isinstance(self.base, Freezable) else None

    def close(self) -> None:
        """Idempotent."""
        self.flush()
        self.base.close()
