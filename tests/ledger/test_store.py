"""The store: one block is one atomic write; foreign, newer, locked and damaged stores are refused."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ledger.blocks import header_hash
from ledger.codec import decode, encode, sha256
from ledger.errors import LocalError, Refused
from ledger.limits import RECENT_ROOTS
from ledger.outcome import Event
from ledger.proofs import tree
from ledger.records import be
from ledger.storage.kv import Kv, MemoryKv, ReadCache, prefix_end
from ledger.storage.store import CHAIN_ROOM, FORMAT, SMALL_ROOM, KeyValue, Room, Store
from ledger.storage.stored import CommitData
from tests.ledger.chain_fixture import CHAIN_ID, GENESIS_HASH, GENESIS_STATE, SmallChain

ROOT = Path(__file__).parents[2]


def no_node(_path: bytes) -> None:
    """An empty tree."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "db", CHAIN_ID, GENESIS_HASH)
    yield opened
    opened.close()


@pytest.fixture(params=["level", "memory"])
def kv(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kv]:
    opened: Kv = MemoryKv() if request.param == "memory" else KeyValue.open(tmp_path / "kv", "test")
    yield opened
    opened.close()


def test_scan_is_ordered_bounded_and_stays_under_its_prefix(kv: Kv) -> None:
    pairs = {b"a\xff": b"1", b"b": b"2", b"c\xff\xff": b"3"} | {b"b/%05d" % n: b"" for n in range(1200)}
    kv.write(pairs)
    assert [k for k, _ in kv.scan(b"b/")] == sorted(k for k in pairs if k.startswith(b"b/"))
    assert [k for k, _ in kv.scan(b"b/", b"b/01150", 3)] == [b"b/01150", b"b/01151", b"b/01152"]
    assert [k for k, _ in kv.scan(b"c\xff")] == [b"c\xff\xff"]
    assert list(kv.scan(b"b/", limit=0)) == []
    assert kv.last(b"b/") == (b"b/01199", b"")
    assert kv.last(b"zz") is None
    kv.write({b"b/00000": b"new"}, [b"b/00001"])
    assert [v for _, v in kv.scan(b"b/", limit=1)] == [b"new"]
    assert kv.get(b"b/00001") is None


def test_prefix_end() -> None:
    assert prefix_end(b"a\xff") == b"b"
    assert prefix_end(b"\xff\xff") is None


@pytest.mark.parametrize("stay_key_bytes", [0, 1, 2])
def test_read_cache_stays_right_and_bounded(stay_key_bytes: int) -> None:
    kv = MemoryKv()
    cache = ReadCache(kv, b"s", 5_000, stay_key_bytes)
    rng = random.Random(3)
    model: dict[bytes, bytes] = {}
    for _ in range(2_000):
        key = b"%d" % rng.randrange(60)
        if rng.random() < 0.5:
            value = rng.randbytes(rng.randrange(200)) if rng.random() < 0.7 else None
            if value is None:
                kv.write({}, [b"s" + key])
            else:
                kv.write({b"s" + key: value})
            cache.put({key: value})
            model.pop(key, None)
            if value is not None:
                model[key] = value
        assert cache.get(key) == model.get(key)
        assert cache._left_bytes >= 0


def test_short_keys_are_the_last_that_a_read_cache_lets_go() -> None:
    class Counting(MemoryKv):
        asked = 0

        def get(self, key: bytes) -> bytes | None:
            self.asked += 1
            return super().get(key)

    kv = Counting()
    cache = ReadCache(kv, b"n", 20_000, stay_key_bytes=1)
    for number in range(40):
        cache.put({bytes([number]): bytes(65)})
    for number in range(2_000):
        cache.put({b"long" + bytes([number // 256, number % 256]): bytes(65)})
    for number in range(40):
        assert cache.get(bytes([number])) == bytes(65)
    assert kv.asked == 0


def test_a_block_is_there_after_reopening(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "db", CHAIN_ID, GENESIS_HASH)
    chain = SmallChain(store)
    deployment = sha256(b"d")
    event = Event("transfer", "x", {"amount": 1})
    header = chain.grow(
        {b"account/\x01": b"7", b"account/\x02": None, b"z": b""},
        [b"tx one", b"tx two"],
        about=(deployment,),
        events=(event,),
    )
    before = store.tip
    store.close()
    store.close()  # idempotent
    store = Store.open(tmp_path / "db", CHAIN_ID, GENESIS_HASH, create=False)
    assert store.tip == before
    assert store.tip.hash == header.hash == header_hash(store.header(1) or b"")
    assert store.height_of(header.hash) == 1
    assert store.state.get(b"account/\x01") == b"7"
    assert store.state.get(b"account/\x02") is None
    two = store.state.scan(b"account/", b"account/\x01", 2)
    assert [k for k, _ in two] == [b"account/\x01", b"account/\x03"]
    found = store.tx(sha256(b"tx two"))
    assert found is not None
    assert (found.height, found.raw, found.receipt.id) == (1, b"tx two", sha256(b"tx two"))
    assert store.history(deployment) == [sha256(b"tx one"), sha256(b"tx two")]
    assert store.history(deployment, 1) == [sha256(b"tx one")]
    assert [e for _, e in store.events(0, 10)] == [event]
    assert store.events(store.last_event_id(), 10) == []
    assert len(store.receipts(1)) == 2
    assert store.tx(b"no") is None
    assert store.block(2) is None
    assert store.header(0) is None
    expected = dict(GENESIS_STATE) | {b"account/\x01": b"7", b"z": b""}
    del expected[b"account/\x02"]
    assert dict(store.state.scan(b"")) == expected
    assert store.tip.root == tree.update(no_node, expected)[0]
    store.close()


def test_proofs_survive_a_clean_restart(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "db", CHAIN_ID, GENESIS_HASH)
    chain = SmallChain(store)
    for n in range(5):
        chain.grow({b"k": b"%d" % n})
    before = store.prove(b"k")
    store.close()
    store = Store.open(tmp_path / "db", CHAIN_ID, GENESIS_HASH)
    assert store.prove(b"k") == before
    SmallChain(store).grow({b"k": b"9"})
    assert store.prove(b"k").value == b"3"  # of height 4: the header at 6 is one behind its parent
    store.close()


def test_uncommitted_or_unfit_blocks_change_nothing(store: Store) -> None:
    chain = SmallChain(store)
    chain.grow({b"k": b"1"})
    before = (store.tip, dict(store.state.scan(b"")))
    header = chain.header()
    good = CommitData(header, (), None, (), (), (), {b"k": b"2"})
    for bad in (
        msgspec.structs.replace(good, header=msgspec.structs.replace(header, height=5)),
        msgspec.structs.replace(good, header=msgspec.structs.replace(header, parent_hash=bytes(32))),
        msgspec.structs.replace(good, header=msgspec.structs.replace(header, chain_id="other")),
        msgspec.structs.replace(good, batches=(b"x",)),
    ):
        with pytest.raises(LocalError, match="commit of"):
            store.commit(bad)
        assert (store.tip, dict(store.state.scan(b""))) == before
    with pytest.raises(LocalError, match="holds a chain"):
        store.begin(GENESIS_HASH, {}, 0)


def test_a_failed_write_leaves_the_reader_as_it_was(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = SmallChain(store)
    chain.grow({b"k": b"1"})

    def fail(*_args: object, **_kw: object) -> None:
        raise LocalError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(store._kv, "write", fail)
        with pytest.raises(LocalError, match="disk full"):
            chain.grow({b"k": b"2"})
    assert store.tip.height == 1
    assert store.state.get(b"k") == b"1"
    assert store.at(1).root() == store.tip.root
    chain.grow({b"k": b"3"})
    assert store.at(1).get(b"k") == b"1"
    assert store.at(2).get(b"k") == b"3"


def test_views_at_recent_heights(store: Store) -> None:
    chain = SmallChain(store)
    states = {0: dict(GENESIS_STATE)}
    rng = random.Random(5)
    for height in range(1, 24):
        changes: dict[bytes, bytes | None] = {
            b"k%d" % rng.randrange(30): rng.choice([None, rng.randbytes(3)]) for _ in range(4)
        }
        chain.grow(changes)
        now = dict(states[height - 1])
        for key, value in changes.items():
            if value is None:
                now.pop(key, None)
            else:
                now[key] = value
        states[height] = now
    tip = store.tip.height
    for height in range(tip - 16, tip + 1):
        view = store.at(height)
        assert view.root() == store.root(height) == tree.update(no_node, states[height])[0]
        for key in (b"k3", b"k9", b"account/\x03", b"none"):
            assert view.get(key) == states[height].get(key)
            assert tree.verify(view.root(), key, view.get(key), view.prove(key))
    with pytest.raises(Refused, match=r"state\.pruned"):
        store.at(tip - 17)
    with pytest.raises(Refused, match=r"state\.future"):
        store.at(tip + 1)


def test_scans_of_queues_agree_with_a_model() -> None:
    """The reader remembers the front of `seen/` and `due/`; it must never hide a live entry."""
    store = Store.memory(CHAIN_ID)
    chain = SmallChain(store)
    rng = random.Random(9)
    model = dict(GENESIS_STATE)
    for _ in range(300):
        changes: dict[bytes, bytes | None] = {}
        for _ in range(rng.randrange(4)):
            key = rng.choice([b"seen/", b"due/", b"duf/"]) + be(rng.randrange(40))
            changes[key] = rng.choice([b"", None])
        if rng.random() < 0.5:  # as a queue is used: the first entries go
            changes |= dict.fromkeys(sorted(k for k in model if k.startswith(b"due/"))[:3])
        chain.grow(changes, certified=False)
        for key, value in changes.items():
            model.pop(key, None)
            if value is not None:
                model[key] = value
        for prefix in (b"seen/", b"due/", b"d"):
            start = rng.choice([b"", prefix + be(rng.randrange(40))])
            limit = rng.choice([None, 1, 3])
            wanted = sorted(k for k in model if k.startswith(prefix) and k >= start)[:limit]
            assert [k for k, _ in store.state.scan(prefix, start, limit)] == wanted


def test_roots_are_kept_for_recent_heights_only() -> None:
    store = Store.memory(CHAIN_ID)
    chain = SmallChain(store)
    for n in range(RECENT_ROOTS + 3):
        chain.grow({b"k": b"%d" % n}, certified=False)
    assert store.root(store.tip.height) == store.tip.root
    assert store.root(store.tip.height - RECENT_ROOTS + 1) is not None
    assert store.root(store.tip.height - RECENT_ROOTS) is None


def test_replay_guards_are_not_under_the_root() -> None:
    store = Store.memory(CHAIN_ID)
    chain = SmallChain(store)
    root = store.tip.root
    chain.grow({b"seen/x": b""})
    assert store.tip.root == root
    assert store.state.get(b"seen/x") == b""
    with pytest.raises(Refused, match=r"proof\.unproved"):
        store.prove(b"seen/x")


def test_blocks_in_ranges_end_with_a_certificate() -> None:
    store = Store.memory(CHAIN_ID)
    chain = SmallChain(store)
    for n in range(12):
        chain.grow({b"k": b"%d" % n}, [b"x" * 1000 + b"%d" % n], certified=n % 3 == 2)
    got = store.blocks(1, 1)
    assert [bool(b.certificate) for b in got] == [False, False, True]
    assert len(store.blocks(1, 1 << 20)) == 12
    assert len(store.blocks(4, 9_000)) == 6
    assert store.blocks(13, 1 << 20) == ()
    chain.grow({}, certified=False)
    assert store.blocks(13, 1 << 20) == ()
    assert store.finality(13) is None
    proof = store.finality(10)
    assert proof is not None
    assert len(proof.path) == 2


def test_another_chain_or_format_is_refused(tmp_path: Path) -> None:
    Store.open(tmp_path / "db", CHAIN_ID, GENESIS_HASH).close()
    with pytest.raises(LocalError, match=r"belongs to 'chain test-chain .* Use another home"):
        Store.open(tmp_path / "db", "other", GENESIS_HASH)
    with pytest.raises(LocalError, match="belongs to"):
        Store.open(tmp_path / "db", CHAIN_ID, bytes(32))
    kv = KeyValue.open(tmp_path / "db", f"chain {CHAIN_ID} {GENESIS_HASH.hex()}")
    kv.write({b"m/format": b"%d" % (FORMAT + 1)})
    kv.close()
    with pytest.raises(LocalError, match=f"format {FORMAT + 1}, this program knows {FORMAT}"):
        Store.open(tmp_path / "db", CHAIN_ID, GENESIS_HASH)


def test_missing_locked_foreign_and_damaged_stores(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="no store here"):
        Store.open(tmp_path / "none", CHAIN_ID, GENESIS_HASH, create=False)
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(LocalError, match="cannot be used"):
        Store.open(tmp_path / "file", CHAIN_ID, GENESIS_HASH)
    first = Store.open(tmp_path / "db", CHAIN_ID, GENESIS_HASH)
    with pytest.raises(LocalError, match="in use by another process"):
        Store.open(tmp_path / "db", CHAIN_ID, GENESIS_HASH)
    SmallChain(first).grow({b"k": b"1"})
    first.close()
    manifest = next((tmp_path / "db").glob("MANIFEST-*"))
    manifest.write_bytes(b"\0garbage" * 100)
    with pytest.raises(LocalError, match=r"damaged|cannot be used"):
        Store.open(tmp_path / "db", CHAIN_ID, GENESIS_HASH)


def test_a_state_that_does_not_match_its_root_is_noticed(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "db", CHAIN_ID, GENESIS_HASH)
    SmallChain(store).grow({b"k": b"1"})
    store._kv.write({b"n\x01": b"\x01" + bytes(64)})
    store.close()
    with pytest.raises(LocalError, match="do not agree"):
        Store.open(tmp_path / "db", CHAIN_ID, GENESIS_HASH)


def test_use_after_close_is_a_local_error(tmp_path: Path) -> None:
    kv = KeyValue.open(tmp_path / "kv", "test")
    scan = kv.scan(b"")
    kv.close()
    with pytest.raises(LocalError):
        kv.get(b"x")
    with pytest.raises(LocalError):
        list(scan)


CHILD = """
import sys
from pathlib import Path
from ledger.codec import sha256
from ledger.storage.store import Store
from tests.ledger.chain_fixture import CHAIN_ID, GENESIS_HASH, SmallChain
store = Store.open(Path(sys.argv[1]), CHAIN_ID, GENESIS_HASH)
chain = SmallChain(store)
print(store.tip.height, flush=True)
while True:
    height = store.tip.height + 1
    changes = {b"k%d" % n: b"%d" % height for n in range(0, 400, 1 + height % 3)}
    changes["all-same".encode()] = b"%d" % height
    chain.grow(changes, [b"tx %d %d" % (height, n) for n in range(50)])
    print(store.tip.height, flush=True)
"""


def test_kill_in_the_middle_leaves_one_whole_block(tmp_path: Path) -> None:
    """A real process, SIGKILL at random moments; what it said was committed is there, whole."""
    rng = random.Random(11)
    told = 0
    for _ in range(6):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path / "db")], stdout=subprocess.PIPE, env=environment
        )
        assert child.stdout is not None
        kill_at = told + rng.randrange(1, 25)
        extra_s = rng.random() * 0.01
        deadline = time.monotonic() + 20
        while told < kill_at and time.monotonic() < deadline:
            assert select.select([child.stdout], [], [], 20)[0], "the child says nothing"
            told = int(child.stdout.readline())
        time.sleep(extra_s)  # anywhere within a commit; nothing waits for this
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read().split(b"\n")[:-1]
        child.stdout.close()
        child.wait()
        told = max([told, *map(int, rest)])
        store = Store.open(tmp_path / "db", CHAIN_ID, GENESIS_HASH)
        tip = store.tip
        assert tip.height in (told, told + 1)  # it may have died between the write and the word
        pairs = dict(store.state.scan(b""))
        assert tree.update(no_node, pairs)[0] == tip.root == store.root(tip.height)
        assert pairs[b"all-same"] == b"%d" % tip.height
        block = store.block(tip.height)
        assert block is not None
        assert header_hash(block.header) == tip.hash
        assert store.block(tip.height + 1) is None
        assert len(store.receipts(tip.height)) == 50
        assert store.tx(sha256(b"tx %d 49" % tip.height)) is not None
        told = tip.height
        store.close()


def test_tip_record_decodes_to_itself(store: Store) -> None:
    SmallChain(store).grow({})
    assert decode(type(store.tip), encode(store.tip)) == store.tip
    assert store.root(0) is not None
    assert be(1) < be(256)


@pytest.mark.parametrize("room", [CHAIN_ROOM, SMALL_ROOM])
def test_a_store_takes_no_more_memory_than_its_room(tmp_path: Path, room: Room) -> None:
    """However much is written and read: two of what is being written, and the cache."""
    kv, rng = KeyValue.open(tmp_path, "me", room=room), random.Random(3)
    values, most = [rng.randbytes(64 * 1024) for _ in range(8)], 0
    for number in range(5 * room.write_bytes // (64 * 1024)):
        kv.write({rng.randbytes(16): values[number % 8]}, sync=False)
        most = max(most, kv.memory_bytes)
    for _ in range(2):
        for _ in kv.scan(b""):
            most = max(most, kv.memory_bytes)
    kv.close()
    assert room.write_bytes // 2 < most < 2 * room.write_bytes + room.cache_bytes + 1024 * 1024
    assert kv_total(CHAIN_ROOM) + kv_total(SMALL_ROOM) <= 40 * 1024 * 1024


def kv_total(room: Room) -> int:
    return 2 * room.write_bytes + room.cache_bytes


def test_a_prefix_that_was_empty_is_not_so_any_more_after_a_commit(store: Store) -> None:
    """The reader remembers that a prefix has no keys until the next commit, which may write some."""
    store.begin(bytes(32), {b"a/1": b"1"}, 0)
    state = store.state
    for _ in range(2):  # the second answer comes from memory
        assert list(state.scan(b"b/")) == []
    assert list(state.scan(b"a/", b"a/2")) == [], "empty from there on, but not as a whole"
    assert list(state.scan(b"a/")) == [(b"a/1", b"1")]
    assert list(state.scan(b"a/", limit=0)) == []
    assert list(state.scan(b"a/")) == [(b"a/1", b"1")]
    state.follow({b"b/1": b"2"})
    store._kv.write({b"sb/1": b"2"})
    assert list(state.scan(b"b/")) == [(b"b/1", b"2")]
