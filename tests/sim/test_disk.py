"""The simulated disk against LevelDB: harmed alike, both open with the same writes, or both refuse."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from ledger.errors import LocalError
from ledger.storage.store import KeyValue
from tests.sim.disk import Disk, DiskDamaged
from tests.sim.journal import SECTOR_BYTES, DamagedLog, lay_out, whole

OWNER = "sim"
_MARKS = {b"m/format": b"1", b"m/owner": OWNER.encode()}  # KeyValue's first write


def _batches(rng: Random, count: int, most_bytes: int) -> list[dict[bytes, bytes | None]]:
    return [{b"k%d" % n: rng.randbytes(rng.randrange(most_bytes))} for n in range(count)]


def _mangled(rng: Random, log: bytes) -> bytes:
    """As a power cut or a bad sector leaves it."""
    data = bytearray(log)
    match rng.randrange(5):
        case 0:
            del data[rng.randrange(len(data)) :]
        case 1:
            at = rng.randrange(len(data))
            data[at] ^= 1 << rng.randrange(8)
        case 2:
            at = rng.randrange(len(data)) // SECTOR_BYTES * SECTOR_BYTES
            data[at : at + SECTOR_BYTES] = bytes(len(data[at : at + SECTOR_BYTES]))
        case 3:
            at = rng.randrange(len(data))
            data[at:] = bytes(len(data) - at)
        case _:  # a file that was made longer, its last sectors never written
            at = rng.randrange(len(data)) // SECTOR_BYTES * SECTOR_BYTES
            data[at:] = bytes(len(data) - at)
    return bytes(data)


def _real(path: Path, log: bytes, name: str, count: int) -> list[int] | None:
    """Numbers of the writes that a LevelDB store with this log shows; None when it refuses."""
    (path / name).write_bytes(log)
    try:
        store = KeyValue.open(path, OWNER, create=False)
    except LocalError:
        return None
    found = [n for n in range(count) if store.get(b"k%d" % n) is not None]
    store.close()
    return found


@pytest.fixture
def spare(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.mark.parametrize(("count", "most_bytes"), [(12, 400), (10, 9_000), (4, 40_000)])
def test_log_is_read_as_leveldb_reads_it(spare: Path, count: int, most_bytes: int) -> None:
    """Cuts, flips and zeroed sectors anywhere in the log."""
    rng = Random(count)
    batches = _batches(rng, count, most_bytes)
    store = KeyValue.open(spare / "whole", OWNER)
    for writes in batches:
        store.write({k: v for k, v in writes.items() if v is not None}, sync=False)
    shutil.copytree(spare / "whole", spare / "copy")
    store.close()
    name = next(f.name for f in (spare / "copy").iterdir() if f.suffix == ".log")
    log, model = (spare / "copy" / name).read_bytes(), lay_out([_MARKS, *batches])
    assert len(log) == len(model)
    seen = set()
    for number in range(30):
        seed = rng.random()
        harmed, modelled = _mangled(Random(seed), log), _mangled(Random(seed), model)
        shutil.copytree(spare / "copy", spare / str(number))
        found = _real(spare / str(number), harmed, name, count)
        try:
            kept = whole(modelled)
            if 0 not in kept:
                continue  # not even the owner's mark: another refusal than the log's
            assert found == [n - 1 for n in kept[1:]], f"seed {seed}"
        except DamagedLog:
            assert found is None, f"seed {seed}"
        seen.add(found is None)
    assert seen == {True, False}


@pytest.mark.parametrize("how", ["lost", "torn", "reordered"])
def test_crash_keeps_a_first_part_of_the_unsynced(how: str) -> None:
    """What was synced stays; of the rest a first part, each write whole; or the store refuses."""
    kept, refused = set(), 0
    for seed in range(200):
        rng, disk = Random(seed), Disk()
        disk.write({b"a": b"synced", b"x": b"old"}, sync=True)
        for n in range(5):
            disk.write({b"n%d" % n: b"." * 300, b"x": b"%d" % n}, [b"a"] if n == 4 else [], sync=False)
        assert disk.durable(b"x") == b"old"
        assert disk.crash(rng, how) == how
        found = [n for n in range(5) if disk.get(b"n%d" % n) is not None]
        assert found == [*range(len(found))]
        assert disk.get(b"x") == (b"%d" % (len(found) - 1) if found else b"old")
        assert (disk.get(b"a") is None) == (len(found) == 5)
        kept.add(len(found))
        if disk.refuses:
            refused += 1
            with pytest.raises(DiskDamaged):
                disk.open()
    assert len(kept) > (1 if how == "reordered" else 3)
    assert (refused > 0) == (how == "reordered")


def test_flipped_bit_is_noticed() -> None:
    """A harmed pair is an error however it is read, until it is written anew."""
    disk = Disk()
    disk.write({b"k%02d" % n: b"v" for n in range(9)})
    assert disk.flip(Random(1))
    key = min(disk.harmed)
    for read in (lambda: disk.get(key), lambda: list(disk.scan(b"k"))):
        with pytest.raises(DiskDamaged):
            read()
    for harmed in sorted(disk.harmed):
        disk.write({harmed: b"w"})
    assert len(list(disk.scan(b"k"))) == 9
