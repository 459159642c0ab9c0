"""Retention: what is dropped is gone, what is kept is whole, audits of what lives still hold."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.audit.audit import export, verify
from ledger.blocks import Header, decode_batch, header_hash
from ledger.codec import decode, sha256
from ledger.errors import LocalError, Refused
from ledger.records import be
from ledger.storage.chain import EVENTS_PER_BLOCK_MAX
from ledger.storage.kv import MemoryKv
from ledger.storage.retention import HISTORY, Retention
from ledger.storage.store import Store
from ledger.transactions import CancelDeployment, Renew, RenewItem
from tests.ledger.chain_fixture import CHAIN_ID, GENESIS_HASH, ChainWorld, SmallChain
from tests.ledger.test_audit import site_life
from tests.ledger.world import CONSUMER, LEGAL, NODES, contract

ROOT = Path(__file__).resolve().parents[2]


def prune(store: Store, first: int) -> None:
    """Drop all below `first`, and look again at what was kept."""
    for height in range(store.first_height, first):
        store.retention.drop(store.retention.plan(height))
    for height in store.retention.kept(0, 10_000):
        store.retention.drop(store.retention.plan(height))


def history(store: Store) -> dict[bytes, bytes]:
    return {key: value for space in HISTORY for key, value in store._kv.scan(space)}


def height_of(key: bytes, value: bytes) -> int:
    """The block that an entry belongs to; 0 where many do (batches)."""
    match key[:1]:
        case b"b" | b"c" | b"r" | b"k":
            return int.from_bytes(key[1:], "big")
        case b"h":
            return int.from_bytes(value, "big")
        case b"e":
            return int.from_bytes(key[1:], "big") // EVENTS_PER_BLOCK_MAX
        case b"d":
            return int.from_bytes(key[-16:-8], "big")
        case b"u":
            return int.from_bytes(key[-8:], "big")
    return 0


def check_above(store: Store, first: int, before: dict[bytes, bytes]) -> None:
    """Everything from `first` on is as it was, and readable."""
    after = history(store)
    for key, value in before.items():
        if height_of(key, value) >= first:
            assert after.get(key) == value, key
    for height in range(first, store.tip.height + 1):
        block = store.block(height)
        assert block is not None
        assert store.height_of(header_hash(block.header)) == height
        assert store.finality(height) is not None
        for receipt in store.receipts(height):
            found = store.tx(receipt.id)
            assert found is not None
            assert found.receipt == receipt


def check_below(store: Store, first: int) -> None:
    """Of what is below there are only kept blocks, each with what an audit needs."""
    kept = set(store.retention.kept(0, 10_000))
    named: set[bytes] = set()
    for height in range(first, store.tip.height + 1):
        named.update(decode(Header, store.header(height) or b"").batches)
    for key, value in history(store).items():
        height = height_of(key, value)
        if 0 < height < first:
            assert height in kept, (key, height)
            assert key[:1] in (b"b", b"h", b"r", b"k", b"d", b"u"), key
    for key, _ in store._kv.scan(b"t"):
        assert store.tx(key[1:]) is not None  # with its batch, receipt and header
    for height in kept:
        header = decode(Header, store.header(height) or b"")
        left = [d for d in header.batches if store._kv.get(b"u" + d + be(height)) is not None]
        assert left
        named.update(left)
    assert {key[1:] for key, _ in store._kv.scan(b"B")} == named


def test_the_audit_of_what_lives_survives_and_goes_when_it_has_ended() -> None:
    world = ChainWorld()
    world.add_nodes()
    deployment = world.running(contract())
    for _ in range(6):
        world.ok(NODES[0], Renew((RenewItem(deployment, "web/0", 1),)), step_ms=5_000)
        world.ok(NODES[2], Renew((RenewItem(deployment, "web/1", 1),)), step_ms=5_000)
    first = world.store.tip.height - 2
    before = history(world.store)
    prune(world.store, first)
    check_above(world.store, first, before)
    check_below(world.store, first)
    assert world.store.tx(deployment) is not None
    report = verify(export(world.store, deployment), world.genesis)
    assert report.ok, (report.rule, report.detail)
    assert report.facts.status == "active"

    world.ok(CONSUMER, CancelDeployment(deployment, "done"))
    for _ in range(4):
        world.run()
    prune(world.store, world.store.tip.height - 1)
    check_below(world.store, world.store.first_height)
    with pytest.raises(Refused, match=r"audit.pruned"):
        export(world.store, deployment)
    kept = world.store.retention.kept(0, 100)
    assert len(kept) == 1  # the contract's publication: it may be ordered again
    again = world.order(contract(), world.deployment(deployment).contract)
    world.run()
    world.run()
    assert verify(export(world.store, again), world.genesis).ok
    prune(world.store, world.store.tip.height)
    world.ok(LEGAL, world.decide(again, LEGAL, "legal"))
    world.run()
    world.run()
    assert verify(export(world.store, again), world.genesis).ok


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_above_all_is_intact_below_nothing_is_left(data: st.DataObject) -> None:
    """Any chain of blocks, certified or not, some naming a batch again, pruned in any steps."""
    store = Store.memory(CHAIN_ID)
    chain = SmallChain(store)
    for n in range(data.draw(st.integers(6, 20))):
        txs = [b"tx %d %d" % (data.draw(st.integers(0, 8)), k) for k in range(data.draw(st.integers(0, 3)))]
        if any(store.tx(sha256(tx)) for tx in txs):
            txs = [b"tx new %d" % n]
        chain.grow({b"k%d" % (n % 3): b"%d" % n}, txs, certified=data.draw(st.booleans()))
    chain.grow({})
    before = history(store)
    pairs = dict(store.state.scan(b""))
    first = 1
    while first < store.tip.height and data.draw(st.booleans()):
        first = data.draw(st.integers(first, store.tip.height))
        prune(store, first)
        assert store.first_height == first
        check_above(store, first, before)
        check_below(store, first)
        assert all(store.block(height) is None for height in range(first))
    assert dict(store.state.scan(b"")) == pairs
    assert Store(store._kv, CHAIN_ID).first_height == first


def test_a_batch_that_is_named_again_between_plan_and_drop_stays() -> None:
    """Plans are made in a thread beside commits."""
    store = Store.memory(CHAIN_ID)
    chain = SmallChain(store)
    shared = chain.grow({}, [b"one"]).batches[0]
    planned = store.retention.plan(1)
    again = chain.grow({}, [b"one"])
    store.retention.drop(planned)
    assert again.batches == (shared,)
    assert store.batch(shared) is not None
    assert store.block(again.height) is not None
    store.retention.drop(store.retention.plan(2))
    assert store.batch(shared) is None


def test_a_shared_batch_stays_while_a_block_names_it() -> None:
    store = Store.memory(CHAIN_ID)
    chain = SmallChain(store)
    chain.grow({}, [b"one"])
    chain.grow({}, [b"other"])
    shared = chain.grow({}, [b"one"]).batches[0]  # a leader may name it again; nothing of it counts twice
    chain.grow({})
    prune(store, 3)
    block = store.block(3)
    assert block is not None
    assert decode_batch(block.batches[0]).txs == (b"one",)
    prune(store, 4)
    assert store.batch(shared) is None
    assert [key for key, _ in store._kv.scan(b"u")] == []


def test_plan_of_a_block_that_is_not_there() -> None:
    store = Store.memory(CHAIN_ID)
    SmallChain(store).grow({})
    with pytest.raises(LocalError, match="no block at height 7"):
        store.retention.plan(7)


def test_a_write_that_fails_drops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.memory(CHAIN_ID)
    chain = SmallChain(store)
    chain.grow({}, [b"one"])
    chain.grow({})
    before = history(store)
    planned = store.retention.plan(1)

    def fails(*_: object, **__: object) -> None:
        raise LocalError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryKv, "write", fails)
        with pytest.raises(LocalError):
            store.retention.drop(planned)
    assert (history(store), store.first_height) == (before, 1)
    assert Retention(store._kv).first_height == 1


def test_what_has_ended_before_is_dropped_at_once() -> None:
    world, deployment = site_life()
    assert verify(export(world.store, deployment), world.genesis).ok
    order = world.store.tx(deployment)
    assert order is not None
    prune(world.store, order.height + 1)
    assert world.store.tx(deployment) is None
    with pytest.raises(Refused, match=r"audit.pruned"):
        export(world.store, deployment)


CHILD = """
import sys
from pathlib import Path
from ledger.storage.store import Store
from tests.ledger.chain_fixture import CHAIN_ID, GENESIS_HASH, SmallChain
store = Store.open(Path(sys.argv[1]), CHAIN_ID, GENESIS_HASH)
chain = SmallChain(store)
while True:
    for _ in range(12):
        height = store.tip.height + 1
        chain.grow({b"k": b"%d" % height}, [b"tx %d %d" % (height, n) for n in range(200)])
    for _ in range(11):
        store.retention.drop(store.retention.plan(store.first_height))
        print(store.first_height, flush=True)
    store.compact_history()
"""


def test_kill_in_the_middle_of_pruning(tmp_path: Path) -> None:
    """A real process, SIGKILL at random moments: each block is there whole, or gone whole."""
    rng = random.Random(5)
    told = 1
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path / "db")],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert child.stdout is not None
        kill_at, deadline = told + rng.randrange(1, 30), time.monotonic() + 20
        while told < kill_at and time.monotonic() < deadline:
            assert select.select([child.stdout], [], [], 20)[0], "the child says nothing"
            told = int(child.stdout.readline())
        time.sleep(rng.random() * 0.01)  # anywhere within a step; nothing waits for this
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split(b"\n")[:-1]
        child.stdout.close()
        child.wait()
        told = max([told, *map(int, rest)])
        store = Store.open(tmp_path / "db", CHAIN_ID, GENESIS_HASH)
        assert store.first_height in (told, told + 1)
        check_below(store, store.first_height)
        check_above(store, store.first_height, {})
        told = store.first_height
        store.close()


def test_the_disk_really_shrinks(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "db", CHAIN_ID, GENESIS_HASH)
    chain, noise = SmallChain(store), random.Random(3)
    for n in range(60):
        chain.grow({b"k%d" % (n % 7): b"%d" % n}, [noise.randbytes(1000) for _ in range(200)])
    store.compact_history()
    full_bytes = store.history_bytes()
    assert full_bytes > 60 * 200 * 1000
    prune(store, 46)
    store.compact_history()
    left_bytes = store.history_bytes()
    print(f"60 blocks: {full_bytes} bytes; 15 blocks: {left_bytes} bytes")
    assert left_bytes < full_bytes * 0.3
    store.close()
    on_disk = sum(file.stat().st_size for file in (tmp_path / "db").iterdir())
    assert on_disk < full_bytes * 0.35
