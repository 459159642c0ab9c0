"""A state from elsewhere takes a store's place: resumable, whole or not at all; in LevelDB and in memory."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ledger.codec import encode
from ledger.errors import LocalError
from ledger.storage.kv import Freezable, MemoryKv
from ledger.storage.snapshot import BUCKETS, Bucket, Shelf, bucket_of, check_chunk, pair_bytes
from ledger.storage.staging import Staging
from ledger.storage.store import Store, finish_adoption
from ledger.storage.store_files import next_path
from ledger.storage.stored import Tip
from ledger.storage.views import FrozenState
from tests.ledger.chain_fixture import CHAIN_ID, GENESIS_HASH, SmallChain

BLOCKS = 8


def open_store(path: Path | None) -> Store:
    return Store.open(path, CHAIN_ID, GENESIS_HASH) if path else Store.memory(CHAIN_ID)


@pytest.fixture(params=["memory", "disk"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "store" if request.param == "disk" else None


def source() -> SmallChain:
    chain = SmallChain(Store.memory(CHAIN_ID))
    for height in range(1, BLOCKS + 1):
        chain.grow({b"k%d" % n: b"%d" % height * 9 for n in range(0, 90, height)}, [b"tx %d" % height])
    return chain


def shelf_of(frozen: FrozenState) -> Shelf:
    parts: list[list[tuple[bytes, bytes]]] = [[] for _ in range(BUCKETS)]
    for pair in frozen.pairs():
        parts[bucket_of(pair[0])].append(pair)
    buckets = {number: Bucket(BUCKETS + number, pairs) for number, pairs in enumerate(parts)}
    return Shelf([sum(map(pair_bytes, pairs)) for pairs in parts], lambda number: buckets[number])


def fill(staging: Staging, shelf: Shelf, chunks: int = 10**6) -> None:
    """Fetch up to so many chunks of what is missing."""
    while staging.todo and chunks:
        asked = staging.todo[0]
        proved = check_chunk(staging.now.root, encode(shelf.cut(asked, 300)))
        assert staging.take(proved, asked)
        assert not staging.take(proved, asked), "once"
        chunks -= 1


def finish(staging: Staging, chain: SmallChain) -> Tip:
    height = staging.now.height
    header, parent = chain.store.header(height), chain.store.header(height - 1)
    assert header is not None and parent is not None
    staging.remember([b"seen/1"], height, b"", header, chain.store.certificate(height) or b"")
    return staging.finish({})


@pytest.mark.parametrize("height", [BLOCKS, BLOCKS - 3])
def test_a_frozen_state_stays_while_the_chain_goes_on(place: Path | None, height: int) -> None:
    chain = SmallChain(open_store(place))
    states = {0: dict(chain.store.state.scan(b""))}
    for n in range(1, BLOCKS + 1):
        chain.grow(
            {b"a%d" % (n % 3): b"%d" % n, b"b%d" % n: b"x", b"b%d" % (n - 2): None, b"seen/%d" % n: b""}
        )
        states[n] = {k: v for k, v in chain.store.state.scan(b"") if not k.startswith(b"seen/")}
    frozen = chain.store.freeze(height)
    assert frozen is not None
    for n in range(BLOCKS + 1, BLOCKS + 9):
        chain.grow({b"a0": b"%d" % n, b"b%d" % n: b"y", b"b%d" % (n - 2): None})
    pairs = list(frozen.pairs())
    assert dict(pairs) == states[height]
    assert len(pairs) == len(states[height])
    assert shelf_of(frozen).root == chain.store.root(height)
    frozen.close()
    frozen.close()
    chain.store.close()


def test_a_snapshot_of_a_closed_store_is_an_error_not_a_crash(tmp_path: Path) -> None:
    chain = SmallChain(open_store(tmp_path / "store"))
    frozen = chain.store.freeze(0)
    chain.store.close()
    assert frozen is not None
    with pytest.raises(LocalError):
        list(frozen.pairs())
    assert isinstance(MemoryKv(), Freezable)


def test_a_fetched_state_takes_the_stores_place_and_the_chain_goes_on(place: Path | None) -> None:
    chain = source()
    frozen = chain.store.freeze(BLOCKS)
    assert frozen is not None
    store = open_store(place)
    SmallChain(store).grow({b"old": b"state"})
    staging = Staging(store.stage())
    staging.begin(BLOCKS, chain.store.tip.root)
    assert staging.share == 0.0
    fill(staging, shelf_of(frozen))
    assert staging.share == 1.0
    assert staging.now.pairs == len(list(frozen.pairs()))
    tip = finish(staging, chain)
    store.adopt()
    assert store.tip == tip == chain.store.tip
    assert store.first_height == BLOCKS + 1
    assert store.block(BLOCKS) is None and store.header(BLOCKS) == chain.store.header(BLOCKS)
    assert store.state.get(b"old") is None
    assert store.state.get(b"seen/1") == b""
    for one in (chain.store, store):
        SmallChain(one, lag=0).grow({b"k1": b"after", b"k2": None}, [b"tx"])
    assert store.tip == chain.store.tip
    assert store.finality(BLOCKS + 1) is not None
    store.close()
    if place is not None:
        again = open_store(place)
        assert again.tip == chain.store.tip
        assert not next_path(place).exists()
        again.close()


def test_a_kill_loses_nothing_that_was_there(tmp_path: Path) -> None:
    chain = source()
    frozen = chain.store.freeze(BLOCKS)
    assert frozen is not None
    shelf = shelf_of(frozen)
    store = open_store(tmp_path / "store")
    SmallChain(store)
    staging = Staging(store.stage())
    staging.begin(BLOCKS, chain.store.tip.root)
    fill(staging, shelf, 2)
    pairs, todo = staging.now.pairs, staging.todo
    assert pairs and todo
    shutil.copytree(next_path(tmp_path / "store"), tmp_path / "copy.next")  # as a kill leaves it
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    store.close()
    again = open_store(tmp_path / "copy")
    assert again.tip.height == 0
    staging = Staging(again.stage())
    assert (staging.now.pairs, staging.todo) == (pairs, todo)
    fill(staging, shelf)
    finish(staging, chain)
    again.adopt()
    assert again.tip == chain.store.tip
    again.close()


def test_what_no_fetch_can_go_on_in_does_not_stay_on_the_disk(tmp_path: Path) -> None:
    """Regression: an unfinished store stayed beside the chain's until the next fetch or reset, uncounted."""
    chain, path = source(), tmp_path / "store"
    store = open_store(path)
    SmallChain(store)
    assert store.staged_bytes() == 0
    store.stage().write({b"n\1": bytes(50_000)})  # blocks executed anew, say, and then a kill
    assert store.staged_bytes() > 50_000
    store.close()
    store = open_store(path)
    assert not next_path(path).exists()

    Staging(store.stage()).begin(BLOCKS, chain.store.tip.root)
    store.close()
    store = open_store(path)
    assert Staging(store.stage()).now.height == BLOCKS, "a fetch goes on"
    while store.tip.height < BLOCKS:
        SmallChain(store, lag=0).grow({b"k": b"v"})
    store.close()
    store = open_store(path)
    assert not next_path(path).exists(), "the chain came there by blocks"

    store.stage().write({b"n\1": b"x"})
    store.close()
    (next_path(path) / "CURRENT").write_bytes(b"MANIFEST-999999\n")
    store = open_store(path)
    assert not next_path(path).exists(), "it is damaged"
    store.close()


def test_nothing_takes_the_place_before_it_is_whole(place: Path | None) -> None:
    chain = source()
    frozen = chain.store.freeze(BLOCKS)
    assert frozen is not None
    store = open_store(place)
    SmallChain(store)
    staging = Staging(store.stage())
    with pytest.raises(LocalError, match="no state"):
        staging.finish({})
    staging.begin(BLOCKS, chain.store.tip.root)
    fill(staging, shelf_of(frozen), 1)
    with pytest.raises(LocalError, match="not complete"):
        finish(staging, chain)  # the header is there, and the root's record came with the first chunk
    with pytest.raises(LocalError, match="not complete"):
        store.adopt()
    with pytest.raises(LocalError, match="already"):
        staging.begin(3, bytes(32))
    assert store.tip.height == 0
    store.unstage()
    assert Staging(store.stage()).status is None
    store.close()


def test_a_store_that_is_not_what_its_root_says_is_never_finished() -> None:
    chain = source()
    frozen = chain.store.freeze(BLOCKS)
    assert frozen is not None
    kv = MemoryKv()
    staging = Staging(kv)
    staging.begin(BLOCKS, chain.store.tip.root)
    fill(staging, shelf_of(frozen))
    kv.write({b"n\1": b"\1" + bytes(64)})
    with pytest.raises(LocalError, match="has root"):
        finish(staging, chain)


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_crash_while_stores_change_places_leaves_one_of_them(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "store"
    chain = source()
    frozen = chain.store.freeze(BLOCKS)
    assert frozen is not None
    store = open_store(path)
    SmallChain(store)
    owner = store._disk[1] if store._disk else ""
    staging = Staging(store.stage())
    staging.begin(BLOCKS, chain.store.tip.root)
    fill(staging, shelf_of(frozen))
    finish(staging, chain)
    store.close()
    if moment != "before":
        path.rename(tmp_path / "store.former")
    if moment == "after":
        next_path(path).rename(path)
    again = open_store(path)
    assert again.tip.height == (0 if moment == "before" else BLOCKS)
    again.close()
    assert not (tmp_path / "store.former").exists()
    finish_adoption(path, owner)
    assert path.exists()


def test_a_reset_store_does_not_come_back_from_an_unfinished_one(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = open_store(path)
    SmallChain(store)
    chain = source()
    frozen = chain.store.freeze(BLOCKS)
    assert frozen is not None
    staging = Staging(store.stage())
    staging.begin(BLOCKS, chain.store.tip.root)
    fill(staging, shelf_of(frozen), 2)
    store.close()
    shutil.rmtree(path)
    again = open_store(path)
    assert again.is_empty
    assert list(again.state.scan(b"")) == []
    assert Staging(again.stage()).now.pairs > 0, "what was fetched is still of use"
    again.close()
