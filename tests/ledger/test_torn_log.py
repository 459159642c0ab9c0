"""What a power cut leaves of LevelDB's log: rules [J1] and [J2] of ledger.storage.store_log, on real
files."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import plyvel
import pytest

from ledger.errors import LocalError
from ledger.storage.store import KeyValue
from ledger.storage.store_log import BLOCK_BYTES, SECTOR_BYTES, checksum, examine

OWNER = "me"


def written(path: Path, sizes: list[int]) -> tuple[Path, list[int]]:
    """A store whose log holds a write of each size after its marks, as a kill leaves it; where each ends."""
    rng, ends = Random(sum(sizes)), []
    live = KeyValue.open(path / "live", OWNER)
    log = next((path / "live").glob("*.log"))
    for number, size in enumerate(sizes):
        live.write({b"k%d" % number: rng.randbytes(size)})
        ends.append(log.stat().st_size)
    shutil.copytree(path / "live", path / "db")
    live.close()
    return path / "db", ends


def log_of(path: Path) -> Path:
    return next(path.glob("*.log"))


def held(path: Path, count: int) -> list[int]:
    store = KeyValue.open(path, OWNER, create=False)
    try:
        return [n for n in range(count) if store.get(b"k%d" % n) is not None]
    finally:
        store.close()


def zeroed(data: bytes, start: int, end: int | None = None) -> bytes:
    end = len(data) if end is None else end
    return data[:start] + bytes(end - start) + data[end:]


def test_checksum_is_leveldbs(tmp_path: Path) -> None:
    """By the vectors of RFC 3720 B.4, and by each record that LevelDB itself wrote."""
    assert checksum(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF
    path, _ = written(tmp_path, [10, 40_000, 600, 100_000])
    assert examine(log_of(path).read_bytes()).state == "whole"


def test_a_tail_of_zeros_is_cut_and_counted(tmp_path: Path) -> None:
    """[J1] Sectors of the last write that were never written: what was there before it stays, all of it."""
    path, ends = written(tmp_path, [300, 300, 5_000])
    log = log_of(path)
    whole = log.read_bytes()
    border = ends[1] // SECTOR_BYTES * SECTOR_BYTES + 2 * SECTOR_BYTES
    log.write_bytes(zeroed(whole, border))
    with pytest.raises(plyvel.CorruptionError):  # LevelDB alone refuses
        plyvel.DB(str(path), paranoid_checks=True)
    store = KeyValue.open(path, OWNER, create=False)
    assert f"to {ends[1]} B" in store.mended and "[J1]" in store.mended
    assert [store.get(b"k%d" % n) is not None for n in range(3)] == [True, True, False]
    assert store.torn == 1
    store.close()
    store = KeyValue.open(path, OWNER, create=False)
    assert (store.mended, store.torn) == ("", 1)
    store.close()


@pytest.mark.parametrize("there", [5, 6])
def test_a_sector_may_end_within_a_records_header(tmp_path: Path, there: int) -> None:
    """Regression [J1]: of the last write's header only the first bytes were written, its type reads as zero.
    The look at lengths and types alone, which comes first, took that for damage, and the store refused."""
    _, first = written(tmp_path / "probe", [300])
    size = 300 + (SECTOR_BYTES - there - first[0]) % SECTOR_BYTES
    path, ends = written(tmp_path, [size, 700])
    log = log_of(path)
    assert ends[0] % SECTOR_BYTES == SECTOR_BYTES - there, "the header lies over a border"
    log.write_bytes(zeroed(log.read_bytes(), ends[0] + there))
    assert held(path, 2) == [0]


@pytest.mark.parametrize("sizes", [[300, 40, 700], [300, 9_000, 4_000], [100, 40_000, 100_000], [3, 3, 3, 3]])
def test_zeros_from_any_sector_leave_all_whole_writes(tmp_path: Path, sizes: list[int]) -> None:
    """[J1] Wherever the written sectors end, the file being as long as it was: each write that lies whole
    before them is there, none behind, and it opens."""
    path, ends = written(tmp_path, sizes)
    whole = log_of(path).read_bytes()
    step = max(1, len(whole) // SECTOR_BYTES // 25)
    first = -(-(ends[0]) // SECTOR_BYTES)  # the marks, and the first write
    mended = 0
    for sector in range(first, len(whole) // SECTOR_BYTES + 1, step):
        copy = tmp_path / str(sector)
        shutil.copytree(path, copy)
        at = sector * SECTOR_BYTES
        log_of(copy).write_bytes(zeroed(whole, at))
        mended += examine(log_of(copy).read_bytes()).state == "torn"
        assert held(copy, len(sizes)) == [n for n, end in enumerate(ends) if end <= at]
    assert mended or len(whole) < 2 * SECTOR_BYTES


def test_synced_writes_are_never_cut(tmp_path: Path) -> None:
    """Values of zeros, also at the end of a write and over whole sectors, and any bit flipped in the last
    write: what is complete on the disk is read, or the store refuses; it is never cut off."""
    live = KeyValue.open(tmp_path / "live", OWNER)
    for number in range(4):
        live.write({b"k%d" % number: bytes(1_500)})
    shutil.copytree(tmp_path / "live", tmp_path / "db")
    live.close()
    path = tmp_path / "db"
    whole = log_of(path).read_bytes()
    assert held_all(path, tmp_path / "asis")
    start = len(whole) - 1_600
    for bit in range(start * 8, len(whole) * 8, 29):
        harmed = bytearray(whole)
        harmed[bit // 8] ^= 1 << bit % 8
        assert examine(bytes(harmed)).state != "torn"


def held_all(path: Path, copy: Path) -> bool:
    shutil.copytree(path, copy)
    return held(copy, 4) == [0, 1, 2, 3]


def test_anything_behind_a_bad_record_refuses(tmp_path: Path) -> None:
    """[J1] One sector of zeros with a later write behind it: that may have been acknowledged."""
    path, ends = written(tmp_path, [300, 5_000, 300])
    log, border = log_of(path), ends[0] // SECTOR_BYTES * SECTOR_BYTES + 2 * SECTOR_BYTES
    harmed = zeroed(log.read_bytes(), border, border + SECTOR_BYTES)
    log.write_bytes(harmed)
    with pytest.raises(LocalError, match="damaged"):
        KeyValue.open(path, OWNER, create=False)
    assert log.read_bytes() == harmed


def test_zeros_before_a_later_block_refuse(tmp_path: Path) -> None:
    """[J2] LevelDB alone passes over them: a promise of the sign state would be gone in silence."""
    path, ends = written(tmp_path, [32_600, 300])
    log = log_of(path)
    rest = BLOCK_BYTES - ends[0]
    assert 7 < rest < 400
    log.write_bytes(log.read_bytes()[: ends[0]] + bytes(rest) + log.read_bytes()[ends[0] :])
    alone = tmp_path / "alone"
    shutil.copytree(path, alone)
    db = plyvel.DB(str(alone), paranoid_checks=True)
    db.close()
    with pytest.raises(LocalError, match=r"\[J2\]"):
        KeyValue.open(path, OWNER, create=False)


def test_a_running_peers_log_is_not_cut(tmp_path: Path) -> None:
    """The lock comes first: another opening changes nothing of what a running one has."""
    live = KeyValue.open(tmp_path, OWNER)
    live.write({b"k": b"v" * 5_000})
    before = log_of(tmp_path).read_bytes()
    with pytest.raises(LocalError, match="in use"):
        KeyValue.open(tmp_path, OWNER)
    assert log_of(tmp_path).read_bytes() == before
    live.close()
