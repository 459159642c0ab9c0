"""Rollback: byte for byte the store that was there, or a clear refusal and nothing changed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.codec import decode, encode
from ledger.errors import LocalError
from ledger.storage.chain import UNDO_KEY
from ledger.storage.kv import MemoryKv
from ledger.storage.retention import Retention
from ledger.storage.rollback import roll_back, saved_window
from ledger.storage.store import Store
from ledger.storage.views import UNDO_COMMITS_MAX, SavedUndo
from tests.ledger import world as world_fixture
from tests.ledger.chain_fixture import CHAIN_ID, START_MS, ChainWorld, SmallChain
from tests.ledger.world import CONSUMER, NODES, contract


def pairs(kv: MemoryKv) -> dict[bytes, bytes]:
    """All but the window: it holds less after a rollback."""
    return {key: value for key, value in kv.scan(b"") if key != UNDO_KEY}


def grown(
    blocks: int,
) -> tuple[MemoryKv, list[dict[bytes, bytes]], list[tuple[dict[bytes, bytes], list[bytes]]]]:
    """A store closed cleanly, what it held at each height, and what each block did."""
    kv = MemoryKv()
    store = Store(kv, CHAIN_ID)
    chain = SmallChain(store)
    held, done = [pairs(kv)], []
    for n in range(1, blocks + 1):
        changes = {b"k%d" % (n % 5): b"%d" % n, b"seen/%d" % n: b""}
        txs = [b"tx %d" % n, b"same"] if n % 4 else [b"one of %d" % (n % 3)]
        txs = txs[:1] if n > 1 else txs
        chain.grow(changes, txs, certified=n % 3 == 0)
        held.append(pairs(kv))
        done.append((changes, txs))
    store.close()
    return kv, held, done


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 30), st.integers(1, 20))
def test_what_is_left_is_what_was_there(grow: int, back: int) -> None:
    kv, held, done = grown(grow)
    before = dict(kv.scan(b""))
    if back > min(grow, UNDO_COMMITS_MAX):
        with pytest.raises(LocalError, match="cannot be taken back"):
            roll_back(kv, back, START_MS)
        assert dict(kv.scan(b"")) == before
        return
    tip = roll_back(kv, back, START_MS)
    target = grow - back
    left, there = pairs(kv), held[target]
    lost_roots = {key for key in there if key.startswith(b"R")} - set(left)
    assert not lost_roots
    repeated = {b"t", b"B", b"u"}  # these tests name some transactions twice, which no real chain does
    strip = lambda found: {k: v for k, v in found.items() if k[:1] not in repeated}  # noqa: E731
    assert strip(left) == strip(there)
    again = SmallChain(Store(kv, CHAIN_ID))
    assert again.store.tip == tip
    for n, (changes, txs) in enumerate(done[target:], target + 1):
        again.grow(dict(changes), txs, certified=n % 3 == 0)
    assert strip(pairs(kv)) == strip(held[grow])


def test_a_real_life_is_taken_back_and_lived_again() -> None:
    kv = MemoryKv()
    world = ChainWorld(Store(kv, world_fixture.CHAIN_ID))
    world.add_nodes()
    world.ordered(contract())
    before, tip = pairs(kv), world.store.tip
    for node in NODES[:2]:
        world.run(world.tx(node, world.offer()))
    deployment = world.ordered(contract(version="2.0.0"))
    world.approve(deployment)
    taken = world.store.tip.height - tip.height
    world.store.close()
    assert saved_window(kv) >= taken
    assert roll_back(kv, taken, 0) == tip
    assert pairs(kv) == before
    assert saved_window(kv) == UNDO_COMMITS_MAX - taken
    assert Store(kv, world.store.chain_id).tx(deployment) is None
    assert CONSUMER.public in {key[-32:] for key, _ in kv.scan(b"saccount/")}


def test_a_shared_batch_stays_for_the_block_before() -> None:
    store = Store.memory(CHAIN_ID)
    chain = SmallChain(store)
    digest = chain.grow({}, [b"one"]).batches[0]
    chain.grow({}, [b"one"])
    store.close()
    kv = store._kv
    roll_back(kv, 1, START_MS)
    assert Store(kv, CHAIN_ID).batch(digest) is not None
    assert not list(kv.scan(b"u"))


def test_after_a_kill_there_is_no_window() -> None:
    store = Store.memory(CHAIN_ID)
    SmallChain(store).grow({})
    kv = store._kv
    before = dict(kv.scan(b""))
    with pytest.raises(LocalError, match=r"last 0 overwrote .*after a kill.*gridpact reset"):
        roll_back(kv, 1, START_MS)
    assert dict(kv.scan(b"")) == before
    with pytest.raises(LocalError, match="empty"):
        roll_back(MemoryKv(), 1, START_MS)


def test_a_window_of_another_tip_is_none() -> None:
    kv, _, _ = grown(6)
    entries = decode(tuple[int, list[SavedUndo]], kv.get(UNDO_KEY) or b"")[1]
    kv.write({UNDO_KEY: encode((5, entries))})
    assert saved_window(kv) == 0
    with pytest.raises(LocalError, match="cannot be taken back"):
        roll_back(kv, 1, START_MS)


def test_a_false_window_is_noticed() -> None:
    kv, _, _ = grown(6)
    height, entries = decode(tuple[int, list[SavedUndo]], kv.get(UNDO_KEY) or b"")
    bad = [SavedUndo(e.height, e.state, []) for e in entries]
    kv.write({UNDO_KEY: encode((height, bad))})
    before = dict(kv.scan(b""))
    with pytest.raises(LocalError, match="not the state of height 4"):
        roll_back(kv, 2, START_MS)
    assert dict(kv.scan(b"")) == before


def test_not_below_what_was_dropped() -> None:
    kv, _, _ = grown(6)
    retention = Retention(kv)
    for height in range(1, 6):
        retention.drop(retention.plan(height))
    with pytest.raises(LocalError, match="height 4 was dropped: blocks are held from 6 on"):
        roll_back(kv, 2, START_MS)
