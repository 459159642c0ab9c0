"""LevelDB: the only file that knows it. `KeyValue` is a plain synced store; `Store` is the chain on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import plyvel

from ledger.errors import LocalError
from ledger.storage.chain import TIP_KEY, Chain
from ledger.storage.kv import Frozen, Kv, Measured, MemoryKv, prefix_end
from ledger.storage.retention import HISTORY
from ledger.storage.staging import wanted_height
from ledger.storage.store_files import (
    DAMAGED,
    adopt_next,
    check_logs,
    cut_torn_logs,
    former_path,
    next_path,
    remove_folder,
)
from ledger.storage.store_log import END_KEY

FORMAT: Final = 1  # of the chain's layout; a store with a higher number was written by a newer program
_FORMAT_KEY: Final = b"m/format"
_OWNER_KEY: Final = b"m/owner"
_TORN_KEY: Final = b"m/torn"  # how often a log was cut at opening [J1]

_SCAN_FIRST: Final = 16  # pairs read at first; most scans want few
_SCAN_MORE: Final = 512
_OPEN_FILES_MAX: Final = 256  # a network of many peers on one machine must fit in 1024 descriptors each


class Room(NamedTuple):
    """How much memory a store may take: what was written last, until it is a table (twice that while one is
    being made), and blocks of tables that were read. It fills in the course of hours, and stays."""

    write_bytes: int
    cache_bytes: int


# Of the chain: a few blocks of 1000 transactions. Half of it costs a busy chain a fifth more time for tables,
# and waits of 0.4 s; twice as much brings nothing. What is read often is in the caches of
# ledger.storage.chain.
CHAIN_ROOM: Final = Room(8 * 1024 * 1024, 8 * 1024 * 1024)
# Of what is read at the start alone: the sign state.
SMALL_ROOM: Final = Room(4 * 1024 * 1024, 256 * 1024)


class _Reader:
    """Reads of a LevelDB, or of a snapshot of one."""

    _fills_cache = True

    def __init__(self, db: Any, path: Path) -> None:
        self._db = db
        self._path = path

    def get(self, key: bytes) -> bytes | None:
        """The value, or None. Raises LocalError when the disk or the store fails."""
        try:
            found: bytes | None = self._db.get(key, verify_checksums=True, fill_cache=self._fills_cache)
            return found
        except (plyvel.Error, RuntimeError) as error:
            raise LocalError(_explain(self._path, error)) from error

    def scan(
        self, prefix: bytes, start: bytes = b"", limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """As Kv.scan. Reads in pieces, so no LevelDB iterator outlives a step, even of an unfinished scan."""
        start, end = max(prefix, start), prefix_end(prefix)
        size = _SCAN_FIRST
        while limit is None or limit > 0:
            wanted = size if limit is None else min(size, limit)
            piece = self._piece(start, end, wanted)
            yield from piece
            if len(piece) < wanted:
                return
            limit = None if limit is None else limit - len(piece)
            start = piece[-1][0] + b"\0"
            size = _SCAN_MORE

    def _piece(self, start: bytes, end: bytes | None, count: int) -> list[tuple[bytes, bytes]]:
        try:
            with contextlib.closing(self._iterator(start, end)) as iterator:
                return list(islice(iterator, count))
        except (plyvel.Error, RuntimeError) as error:
            raise LocalError(_explain(self._path, error)) from error

    def _iterator(self, start: bytes, stop: bytes | None, reverse: bool = False) -> Any:
        # LevelDB checks the sums of its tables only when asked: a bit that flipped at rest is an error here,
        # never a value. Blocks that are in its cache were checked when they were read.
        return self._db.iterator(
            start=start,
            stop=stop,
            fill_cache=self._fills_cache,
            reverse=reverse,
            verify_checksums=True,
        )

    def last(self, prefix: bytes) -> tuple[bytes, bytes] | None:
        """The pair with the greatest key under `prefix`."""
        try:
            with contextlib.closing(self._iterator(prefix, prefix_end(prefix), reverse=True)) as iterator:
                return next(iterator, None)
        except (plyvel.Error, RuntimeError) as error:
            raise LocalError(_explain(self._path, error)) from error


class KeyValue(_Reader):
    """A LevelDB directory with a format number and an owner: what it is for, and for whom.

    `open` refuses a directory of another owner or a newer format, so that a safety record is never
    used with another key and a store never with another chain. Keys that begin with b"m/" are its own.
    `mended` says what a power cut had torn and `open` cut off (ledger.storage.store_log); empty: nothing.
    """

    def __init__(self, db: plyvel.DB, path: Path, mended: str = "") -> None:
        super().__init__(db, path)
        self.mended = mended

    @classmethod
    def open(
        cls, path: Path, owner: str, *, create: bool = True, format_: int = FORMAT, room: Room = CHAIN_ROOM
    ) -> KeyValue:
        """Open, or create if allowed. Raises LocalError saying what is wrong and what to do."""
        if not create and not (path / "CURRENT").exists():
            raise LocalError(f"{path}: no store here. Was this peer initialised, and is this its home?")
        mended = ""
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            check_logs(path)
            try:
                db = _leveldb(path, create, room)
            except plyvel.CorruptionError:
                mended = cut_torn_logs(path)
                if not mended:
                    raise
                db = _leveldb(path, create, room)
        except (plyvel.Error, OSError) as error:
            raise LocalError(_explain(path, error)) from error
        store = cls(db, path, mended)
        try:
            store._check_owner(owner, format_)
            if mended:
                store.write({_TORN_KEY: b"%d" % (store.torn + 1)})
        except BaseException:
            store.close()
            raise
        return store

    def _check_owner(self, owner: str, format_: int) -> None:
        found_format, found_owner = self.get(_FORMAT_KEY), self.get(_OWNER_KEY)
        if found_format is None and found_owner is None:
            if self.last(b"") is not None:
                raise LocalError(f"{self._path}: a LevelDB store of another program. Choose another path.")
            self.write({_FORMAT_KEY: str(format_).encode(), _OWNER_KEY: owner.encode()})
            return
        if found_format != str(format_).encode():
            raise LocalError(
                f"{self._path}: store format {_text(found_format)}, this program knows {format_}. "
                "Use the program that wrote it, or move the directory away and sync anew."
            )
        if found_owner != owner.encode():
            raise LocalError(
                f"{self._path}: belongs to {_text(found_owner)!r}, not to {owner!r}. "
                "Use another home, or the matching genesis and keys."
            )

    @property
    def torn(self) -> int:
        """How often in this store's life its log was found torn and cut when it was opened."""
        return int(self.get(_TORN_KEY) or b"0")

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = (), sync: bool = True) -> None:
        """All or nothing; on disk when it returns, if `sync`. Raises LocalError when the disk fails."""
        try:
            batch = self._db.write_batch(sync=sync)
            for key in deletes:
                batch.delete(key)
            for key, value in puts.items():
                batch.put(key, value)
            batch.delete(END_KEY)  # so that the write's bytes end with 0xff: see ledger.storage.store_log
            batch.write()
        except (plyvel.Error, RuntimeError) as error:
            raise LocalError(_explain(self._path, error)) from error

    def freeze(self) -> Frozen:
        """As Freezable.freeze: a snapshot of LevelDB's. It costs nothing but what is deleted meanwhile."""
        try:
            return _Snapshot(self._db.snapshot(), self._path)
        except (plyvel.Error, RuntimeError) as error:
            raise LocalError(_explain(self._path, error)) from error

    def size_bytes(self, prefix: bytes) -> int:
        """As Measured.size_bytes, of the table files: the newest `Room.write_bytes` are not in it."""
        try:
            return self._db.approximate_size(prefix, prefix_end(prefix) or b"\xff" * 9)  # type: ignore[no-any-return]
        except (plyvel.Error, RuntimeError) as error:
            raise LocalError(_explain(self._path, error)) from error

    @property
    def memory_bytes(self) -> int:
        """What LevelDB holds in memory of this store, as it says itself."""
        return int(self._db.get_property(b"leveldb.approximate-memory-usage"))

    def compact(self, prefix: bytes) -> None:
        """As Measured.compact."""
        try:
            self._db.compact_range(start=prefix, stop=prefix_end(prefix))
        except (plyvel.Error, RuntimeError) as error:
            raise LocalError(_explain(self._path, error)) from error

    def close(self) -> None:
        """Idempotent."""
        self._db.close()


class _Snapshot(_Reader):
    """See KeyValue.freeze. What it reads takes no room from what the chain reads."""

    _fills_cache = False

    def close(self) -> None:
        """Idempotent."""
        self._db.close()


def _leveldb(path: Path, create: bool, room: Room) -> plyvel.DB:
    return plyvel.DB(
        str(path),
        create_if_missing=create,
        paranoid_checks=True,
        write_buffer_size=room.write_bytes,
        lru_cache_size=room.cache_bytes,
        max_open_files=_OPEN_FILES_MAX,
        bloom_filter_bits=10,
        compression=None,  # hashes, keys and signatures: an eighth of a busy validator's time for nothing
    )


def _text(found: bytes | None) -> str:
    return "none" if found is None else found.decode(errors="replace")


def _explain(path: Path, error: Exception) -> str:
    # plyvel gives LevelDB's words as bytes.
    text = "; ".join(a.decode(errors="replace") if isinstance(a, bytes) else str(a) for a in error.args)
    if "LOCK" in text or "already held" in text:
        return f"{path}: in use by another process. Is this peer running already? ({text})"
    if isinstance(error, plyvel.CorruptionError) or "Corruption" in text:
        return DAMAGED.format(path, text)
    if "does not exist" in text:
        return f"{path}: the store is missing or incomplete. ({text})"
    return f"{path}: the store cannot be used: {text}"


def _owner(chain_id: str, genesis_hash: bytes) -> str:
    return f"chain {chain_id} {genesis_hash.hex()}"


class Store(Chain):
    """The chain on disk. See ledger.storage.chain for what it holds and answers."""

    @property
    def mended(self) -> str:
        """As KeyValue.mended."""
        kv = self._kv.base
        return kv.mended if isinstance(kv, KeyValue) else ""

    def history_bytes(self) -> int:
        """Roughly what the blocks and their indexes take on the disk; 0 in memory."""
        kv = self._kv.base
        return sum(map(kv.size_bytes, HISTORY)) if isinstance(kv, Measured) else 0

    def compact_history(self) -> None:
        """Give back the room of dropped blocks. Takes long, and may run in a thread beside commits."""
        kv = self._kv.base
        if isinstance(kv, Measured):
            for namespace in HISTORY:
                kv.compact(namespace)

    @classmethod
    def open(cls, path: Path, chain_id: str, genesis_hash: bytes, *, create: bool = True) -> Store:
        """Open or create. Raises LocalError for another chain's store, a newer format, a locked, missing
        or damaged one. A new store is empty: call `begin` with the genesis state."""
        owner = _owner(chain_id, genesis_hash)
        finish_adoption(path, owner)
        store = cls._over(KeyValue.open(path, owner, create=create), chain_id)
        store._disk = path, owner
        store._forget_useless()
        return store

    @classmethod
    def open_raw(cls, path: Path, chain_id: str, genesis_hash: bytes) -> KeyValue:
        """The pairs of an existing store, for inspection and repair. Raises as `open`."""
        return KeyValue.open(path, _owner(chain_id, genesis_hash), create=False)

    @classmethod
    def memory(cls, chain_id: str) -> Store:
        """A chain in memory, for simulations and tests."""
        return cls._over(MemoryKv(), chain_id)

    @classmethod
    def _over(cls, kv: Kv, chain_id: str) -> Store:
        try:
            return cls(kv, chain_id)
        except BaseException:
            kv.close()
            raise

    # --- another store that takes this one's place (ledger.storage.staging fills it) ------------------------

    _disk: tuple[Path, str] | None = None  # where this store is, and its owner; None in memory
    _staged: Kv | None = None

    def stage(self) -> Kv:
        """The store beside this one that is to take its place, with what an earlier run left there."""
        if self._staged is None:
            disk = self._disk
            self._staged = KeyValue.open(next_path(disk[0]), disk[1]) if disk else MemoryKv()
        return self._staged

    def unstage(self) -> None:
        """Forget the store beside this one, if there is one. Raises LocalError when the disk fails."""
        if self._staged is not None:
            self._staged.close()
            self._staged = None
        if self._disk is not None:
            remove_folder(next_path(self._disk[0]))

    def _forget_useless(self) -> None:
        """The store beside this one stays over a start only while a fetch can go on in it, to a height that
        this one has not come to by blocks. Raises LocalError when the disk fails."""
        if self._disk is None or not (following := next_path(self._disk[0])).exists():
            return
        try:
            kv = KeyValue.open(following, self._disk[1])
            try:
                height = wanted_height(kv)
            finally:
                kv.close()
        except LocalError:  # damaged, or of another chain
            height = None
        if height is None or (not self.is_empty and height <= self.tip.height):
            remove_folder(following)

    def staged_bytes(self) -> int:
        """What the store beside this one takes on the disk."""
        if self._disk is None:
            return 0
        total = 0
        for file in next_path(self._disk[0]).glob("*"):
            with contextlib.suppress(FileNotFoundError):  # LevelDB removes files as it goes
                total += file.stat().st_size
        return total

    def adopt(self) -> None:
        """Go on with what `stage` gave, which holds a tip; what was here before is removed. All at once: a
        crash leaves one or the other. Raises LocalError when the disk fails (the peer must stop)."""
        staged = self.stage()
        if staged.get(TIP_KEY) is None:
            raise LocalError("the store that was to take this one's place is not complete")
        self._staged = None
        if self._disk is None:
            self._attach(staged)
            return
        staged.close()
        self._kv.base.close()
        path, owner = self._disk
        adopt_next(path)
        self._attach(KeyValue.open(path, owner, create=False))

    def close(self) -> None:
        """Idempotent."""
        if self._staged is not None:
            self._staged.close()
        super().close()


def finish_adoption(path: Path, owner: str) -> None:
    """After a crash within `Store.adopt`: the complete next store takes its place. Else nothing happens."""
    following = next_path(path)
    if path.exists() or not (following / "CURRENT").exists():
        if path.exists():
            remove_folder(former_path(path))
        return
    kv = KeyValue.open(following, owner, create=False)
    is_complete = kv.get(TIP_KEY) is not None
    kv.close()
    if is_complete:
        adopt_next(path)
