"""The disk of a simulated validator: the seam `ledger.storage.kv.Kv` as LevelDB keeps it, with all that
befalls one.

Where the model sits: above it runs the production code (`ledger.storage.chain`, `node.voting.safety_store`),
unchanged. Below it would be LevelDB, whose log is modelled in bytes (`tests.sim.journal`), and whose tables
are taken as whole. Checksums of tables are not computed but known: a pair that was harmed cannot be read, as
`ledger.storage.store.KeyValue` reads with `verify_checksums`. `tests/sim/test_disk.py` holds the model
against the real thing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from random import Random
from typing import Final

from consensus.messages import Record
from ledger.codec import decode
from ledger.errors import LocalError
from ledger.proofs.certificate import Statement
from ledger.storage.kv import MemoryKv, prefix_end
from tests.sim.journal import SECTOR_BYTES, DamagedLog, lay_out, whole

_RECORD, _BATCH = b"v/", b"b/"  # as in node.voting.safety_store
_HARMED_PAIRS: Final = 3  # a checksum covers a block of neighbours

LOSSES: Final = ("lost", "torn", "reordered")


class DiskDamaged(LocalError):
    """The store cannot be read; its peer stops, and says so."""


class Disk(MemoryKv):
    """Pairs, and the writes among them that no sync has made durable yet, with what they overwrote."""

    def __init__(self) -> None:
        super().__init__()
        self.unsynced: list[tuple[dict[bytes, bytes | None], dict[bytes, bytes | None]]] = []
        self.is_stuck = False  # power fails within a write: its sync does not come to an end
        self.harmed: set[bytes] = set()
        self.refuses = False
        self.lost = 0  # writes that crashes took

    # ------------------------------------------------------------------ Kv

    def get(self, key: bytes) -> bytes | None:
        if self.harmed and key in self.harmed:
            raise DiskDamaged("the store is damaged. Move it away and sync anew. (checksum mismatch)")
        return self._pairs.get(key)

    def scan(
        self, prefix: bytes, start: bytes = b"", limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        found = super().scan(prefix, start, limit)
        return map(self._read, found) if self.harmed else found

    def last(self, prefix: bytes) -> tuple[bytes, bytes] | None:
        found = super().last(prefix)
        return None if found is None else self._read(found)

    def _read(self, pair: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
        self.get(pair[0])
        return pair

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = (), sync: bool = True) -> None:
        deletes = tuple(deletes)
        if self.harmed:
            self.harmed.difference_update(puts, deletes)
        if not sync or self.is_stuck:
            writes = {**dict.fromkeys(deletes), **puts}
            self.unsynced.append((writes, {key: self._pairs.get(key) for key in writes}))
        else:
            self.unsynced.clear()
        super().write(puts, deletes, sync)

    # ------------------------------------------------------------------ what befalls it

    def durable(self, key: bytes) -> bytes | None:
        """What is there if all that no sync made durable is lost."""
        for _, before in self.unsynced:
            if key in before:
                return before[key]
        return self._pairs.get(key)

    def crash(self, rng: Random, how: str = "lost") -> str:
        """Power off. Returns what happened: "" when nothing was under way.

        Of the log's unsynced sectors a first part is there ("lost"), ends anywhere ("torn"), or some are and
        some are not ("reordered": the disk wrote them as it liked, the file is as long as it was).
        """
        pending, self.unsynced, self.is_stuck = self.unsynced, [], False
        if not pending:
            return ""
        for writes, before in reversed(pending):
            self._restore(before if before.keys() == writes.keys() else writes)
        batches = [writes for writes, _ in pending]
        start = rng.randrange(32 * 1024)  # where in a block of the log we are
        log = bytearray(lay_out(batches, start))
        if how == "lost":
            keep = rng.randint(0, len(batches))
            log = bytearray(lay_out(batches[:keep], start))
        elif how == "torn":
            del log[rng.randrange(len(log)) :]
        else:
            for sector in range(-(start % SECTOR_BYTES), len(log), SECTOR_BYTES):
                if rng.random() < 0.5:
                    first, end = max(sector, 0), min(sector + SECTOR_BYTES, len(log))
                    log[first:end] = bytes(end - first)
        try:
            kept = whole(bytes(log), start)
        except DamagedLog:
            self.refuses = True
            kept = []
        for number in kept:
            self._restore(batches[number])
        self.lost += len(batches) - len(kept)
        return how

    def _restore(self, values: Mapping[bytes, bytes | None]) -> None:
        puts = {key: value for key, value in values.items() if value is not None}
        super().write(puts, [key for key in values if key not in puts])

    def flip(self, rng: Random, prefix: bytes = b"") -> bool:
        """A bit changes in a pair at rest: it and its neighbours fail their checksum. False: nothing is."""
        keys = list(self._pairs.irange(prefix, prefix_end(prefix), inclusive=(True, False)))
        if not keys:
            return False
        at = rng.randrange(len(keys))
        self.harmed.update(keys[at : at + _HARMED_PAIRS])
        return True

    def open(self) -> None:
        """As `KeyValue.open`: raises DiskDamaged when the log cannot be read to its end."""
        if self.refuses:
            raise DiskDamaged("the store is damaged. Move it away and sync anew. (log)")

    def close(self) -> None:
        """A clean stop: the system writes what is in its hands."""
        self.unsynced.clear()


# What checkers look up: they read the disk, not the code that wrote it.


def durable_record(disk: Disk, statement: Statement) -> Record | None:
    """An own vote that is durable: the record of a statement."""
    wanted = statement.kind, statement.epoch, statement.view, statement.block
    place = statement.view.to_bytes(8, "big") + bytes([statement.kind])
    for key, _ in disk.scan(_RECORD + place):
        data = disk.durable(key)
        if data is not None:
            record = decode(Record, data)
            if (record.kind, record.epoch, record.view, record.block) == wanted:
                return record
    return None


def holds_batch(disk: Disk, digest: bytes) -> bool:
    """Is a batch durable beside the votes that name it?"""
    return disk.durable(_BATCH + digest) is not None
