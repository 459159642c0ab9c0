"""What a disk does to files at rest: torn tails and flipped bits.

A store opens at a whole block, or says what to do; it never shows a state that was not committed.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ledger.blocks import header_hash
from ledger.errors import LocalError
from ledger.proofs import tree
from ledger.storage.store import KeyValue, Store
from tests.ledger.chain_fixture import CHAIN_ID, GENESIS_HASH, SmallChain

BLOCKS = 12


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, bytes]]:
    """A closed store of some blocks, and the root at each height."""
    path = tmp_path_factory.mktemp("torn") / "db"
    store = Store.open(path, CHAIN_ID, GENESIS_HASH)
    chain = SmallChain(store)
    roots = {0: store.tip.root}
    for height in range(1, BLOCKS + 1):
        chain.grow(
            {b"k%d" % n: b"%d" % height * 20 for n in range(0, 60, 1 + height % 3)}, [b"tx %d" % height]
        )
        roots[height] = store.tip.root
    store.close()
    return path, roots


def no_node(path: bytes) -> bytes | None:
    return None


def look(path: Path, roots: dict[int, bytes]) -> int | None:
    """Open and read all. The height at which it stands, None when it refused with words that help."""
    try:
        store = Store.open(path, CHAIN_ID, GENESIS_HASH, create=False)
    except LocalError as error:
        assert str(path) in str(error) or "damaged" in str(error)
        assert any(
            word in str(error) for word in ("sync anew", "start again", "missing", "initialised", "Choose")
        )
        return None
    try:
        if store.is_empty:
            return -1
        tip = store.tip
        assert tip.root == roots[tip.height]
        assert tree.update(no_node, dict(store.state.scan(b"")))[0] == tip.root
        for height in range(1, tip.height + 1):
            block = store.block(height)
            assert block is not None and store.height_of(header_hash(block.header)) == height
            assert len(store.receipts(height)) == 1
        assert store.block(tip.height + 1) is None
        return tip.height
    except LocalError as error:
        assert "damaged" in str(error)
        return None
    finally:
        store.close()


def tried(
    whole: tuple[Path, dict[int, bytes]], to: Path, ending: str, harm: Callable[[Path, random.Random], None]
) -> list[int | None]:
    """What comes of a store of which a file with this ending was harmed, many times."""
    path, roots = whole
    rng = random.Random(ending)
    found = []
    for number in range(60):
        copy = to / str(number)
        shutil.copytree(path, copy)
        file = max(copy.glob(f"*{ending}"), key=lambda file: file.stat().st_size)
        harm(file, rng)
        found.append(look(copy, roots))
        shutil.rmtree(copy)
    return found


def cut(file: Path, rng: random.Random) -> None:
    with file.open("r+b") as stream:
        stream.truncate(rng.randrange(file.stat().st_size))


def flip(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def test_a_torn_tail_leaves_whole_blocks(whole: tuple[Path, dict[int, bytes]], tmp_path: Path) -> None:
    """The log is cut anywhere: what is left is a prefix of the blocks."""
    found = tried(whole, tmp_path, ".log", cut)
    assert len({height for height in found if height is not None}) > 5


def test_a_flipped_bit_in_the_log_is_noticed(whole: tuple[Path, dict[int, bytes]], tmp_path: Path) -> None:
    found = tried(whole, tmp_path, ".log", flip)
    assert found.count(None) > 50


def test_a_flipped_bit_in_a_table_is_noticed(whole: tuple[Path, dict[int, bytes]], tmp_path: Path) -> None:
    """LevelDB checks the sums of tables only when it is asked to."""
    path, roots = whole
    settled = tmp_path / "settled"
    shutil.copytree(path, settled)
    assert look(settled, roots) == BLOCKS  # opening moves the log into a table
    assert look(settled, roots) == BLOCKS
    found = tried((settled, roots), tmp_path, ".ldb", flip)
    assert found.count(None) >= 5  # most bits are of former values, which nobody reads


def test_a_table_that_is_gone_is_missed(whole: tuple[Path, dict[int, bytes]], tmp_path: Path) -> None:
    path, roots = whole
    copy = tmp_path / "db"
    shutil.copytree(path, copy)
    assert look(copy, roots) == BLOCKS
    for file in copy.glob("*.ldb"):
        file.unlink()
    assert look(copy, roots) is None


def test_a_flipped_bit_is_never_read_as_a_value(tmp_path: Path) -> None:
    """Of the plain store, too, which holds the sign state."""
    path = tmp_path / "db"
    for _ in range(2):  # the second opening makes a table
        kv = KeyValue.open(path, "me")
        kv.write({b"k%d" % n: b"value %d" % n * 30 for n in range(300)})
        kv.close()
    KeyValue.open(path, "me").close()
    rng = random.Random(5)
    noticed = 0
    for number in range(40):
        copy = tmp_path / str(number)
        shutil.copytree(path, copy)
        flip(max(copy.glob("*.ldb"), key=lambda file: file.stat().st_size), rng)
        try:
            kv = KeyValue.open(copy, "me", create=False)
        except LocalError:
            noticed += 1
            continue
        try:
            assert dict(kv.scan(b"k")) == {b"k%d" % n: b"value %d" % n * 30 for n in range(300)}
            assert all(kv.get(b"k%d" % n) == b"value %d" % n * 30 for n in range(300))
        except LocalError:
            noticed += 1
        finally:
            kv.close()
    assert noticed > 30
