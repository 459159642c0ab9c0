"""Several commits as one write: read through while open, all or nothing on the disk."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import LocalError
from ledger.storage.group import Group
from ledger.storage.kv import MemoryKv
from ledger.storage.store import Store
from tests.ledger.chain_fixture import CHAIN_ID, GENESIS_HASH, SmallChain

keys = st.binary(min_size=1, max_size=3)
writes = st.lists(
    st.tuples(st.dictionaries(keys, st.binary(max_size=3)), st.lists(keys, max_size=3)), max_size=8
)


@given(before=st.dictionaries(keys, st.binary(max_size=3)), made=writes, prefix=st.binary(max_size=2))
def test_an_open_group_reads_as_if_each_write_was_made(
    before: dict[bytes, bytes], made: list[tuple[dict[bytes, bytes], list[bytes]]], prefix: bytes
) -> None:
    plain, base = MemoryKv(), MemoryKv()
    plain.write(before)
    base.write(before)
    group = Group(base)
    with group.grouped():
        for puts, deletes in made:
            plain.write(puts, deletes)
            group.write(puts, deletes)
            for key in (*puts, *deletes):
                assert group.get(key) == plain.get(key)
            if prefix:
                assert list(group.scan(prefix)) == list(plain.scan(prefix))
                assert list(group.scan(prefix, prefix + b"\1", 2)) == list(
                    plain.scan(prefix, prefix + b"\1", 2)
                )
        assert list(group.scan(b"")) == list(plain.scan(b""))
        assert group.last(prefix) == plain.last(prefix)
    assert list(base.scan(b"")) == list(plain.scan(b""))


def test_until_the_end_nothing_is_written_and_then_all_at_once_synced() -> None:
    seen: list[tuple[int, bool]] = []

    class Disk(MemoryKv):
        def write(
            self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = (), sync: bool = True
        ) -> None:
            seen.append((len(puts), sync))
            super().write(puts, deletes, sync)

    disk = Disk()
    chain = SmallChain(Store(disk, CHAIN_ID))
    seen.clear()
    with chain.store.grouped():
        for n in range(5):
            chain.grow({b"key %d" % n: b"value"}, [b"tx %d" % n])
        assert seen == []
        assert chain.store.tip.height == 5
        copy = MemoryKv()
        copy.write(dict(disk.scan(b"")))
        assert Store(copy, CHAIN_ID).tip.height == 0, "a crash now: the block before the group"
    assert len(seen) == 1 and seen[0][1]
    assert Store(disk, CHAIN_ID).tip == chain.store.tip
    assert chain.store.block(3) is not None


def test_a_group_ends_with_what_was_committed_when_something_breaks_in_it() -> None:
    disk = MemoryKv()
    chain = SmallChain(Store(disk, CHAIN_ID))

    def breaks() -> None:
        with chain.store.grouped():
            chain.grow({b"key": b"value"})
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        breaks()
    assert Store(disk, CHAIN_ID).tip.height == 1
    chain.grow({b"key": b"other"})
    assert Store(disk, CHAIN_ID).tip.height == 2


def test_there_is_one_group_at_a_time() -> None:
    group = Group(MemoryKv())
    with group.grouped(), pytest.raises(LocalError, match="open already"), group.grouped():
        pass


def test_a_torn_tail_falls_back_to_the_end_of_a_group(tmp_path: Path) -> None:
    """A power cut anywhere in the log of a peer that catches up: whole groups, each of whole blocks."""
    store = Store.open(tmp_path / "store", CHAIN_ID, GENESIS_HASH)
    chain = SmallChain(store)
    roots = {0: store.tip.root}
    for _ in range(4):
        with store.grouped():
            for _ in range(3):
                chain.grow({b"key %d" % (store.tip.height % 4): b"%d" % store.tip.height * 30}, [b"tx"])
                roots[store.tip.height] = store.tip.root
    store.close()
    rng = random.Random(3)
    found = set()
    for number in range(60):
        copy = tmp_path / str(number)
        shutil.copytree(tmp_path / "store", copy)
        log = max(copy.glob("*.log"), key=lambda file: file.stat().st_size)
        with log.open("r+b") as stream:
            stream.truncate(rng.randrange(log.stat().st_size))
        try:
            torn = Store.open(copy, CHAIN_ID, GENESIS_HASH, create=False)
        except LocalError as error:
            assert "sync anew" in str(error) or "missing" in str(error)
            continue
        if not torn.is_empty:
            height = torn.tip.height
            found.add(height)
            assert torn.tip.root == roots[height]
            assert all(torn.block(n) is not None for n in range(1, height + 1))
            assert torn.block(height + 1) is None
        torn.close()
    assert found - {12} == {0, 3, 6, 9}
