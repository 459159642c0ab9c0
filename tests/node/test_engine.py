"""The engine: persist, then send, then commit; crashes between; no vote without memory; floods, garbage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.leader import leader
from consensus.messages import (
    Certified,
    Commit,
    Event,
    Fetch,
    Message,
    Propose,
    Ready,
    Received,
    Record,
    Send,
    Start,
    Tick,
    Vote,
    decode_message,
    encode_message,
)
from ledger.blocks import batch_digest
from ledger.codec import encode
from ledger.machine import Context
from ledger.proofs.certificate import VOTE_DOMAIN, Ed25519Scheme, Statement, VoteKind, vote_message
from ledger.records import Account, key_account
from ledger.state import read
from ledger.storage.kv import MemoryKv
from ledger.storage.store import Store
from node.errors import StateDiffers
from node.limits import INBOX_MEMBER_MAX
from node.notary import Notary
from node.voting.engine import Engine
from node.voting.mempool import Mempool
from node.voting.safety_store import SafetyStore
from p2p.network import Lane
from tests.node.final_chain import batch_of, certificate, extend, new_notary, next_header, transfer_tx
from tests.node.network_fixture import CHAIN_ID, POOR, genesis, key, until
from tests.node.scripted_network import ScriptedNetwork


class Crash(Exception):
    """The process dies here."""


class CrashingKv(MemoryKv):
    """Dies at the write whose number `dies_at` says: before it, or after it was made."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.dies_at = 0
        self.dies_after = False
        self.on_write: Callable[[list[bytes]], object] = lambda deletes: None

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = (), sync: bool = True) -> None:
        self.writes += 1
        if self.writes == self.dies_at and not self.dies_after:
            raise Crash
        deletes = list(deletes)
        super().write(puts, deletes, sync)
        self.on_write(deletes)
        if self.writes == self.dies_at:
            raise Crash


@dataclass
class Rig:
    """One validator's engine over disks that outlive it."""

    validators: int = 4
    me: int = 0
    chain: CrashingKv = field(default_factory=CrashingKv)
    votes: CrashingKv = field(default_factory=CrashingKv)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A new engine, as after a start of the process."""
        self.network = ScriptedNetwork()
        self.notary = Notary.open(genesis(self.validators), Store(self.chain, CHAIN_ID), Ed25519Scheme())
        self.mempool = Mempool(CHAIN_ID)
        self.safety = SafetyStore(self.votes)
        self.engine = Engine(
            self.notary,
            self.mempool,
            self.safety,
            self.network,
            key(f"validator{self.me}"),
            self.me,
            prune_every_views=1,
        )
        self.notary.on_commit.append(
            lambda done: self.mempool.committed(done.header, tuple(r.id for r in done.result.receipts))
        )

    def add(self, *salts: int) -> None:
        tip = self.notary.store.tip
        context = Context(CHAIN_ID, tip.height + 1, tip.time_ms, tip.hash)
        for salt in salts:
            raw = transfer_tx(salt)
            try:
                self.mempool.add(self.mempool.check(raw, context, self.notary.store.state.get), 0)
            except Exception as error:  # noqa: BLE001 - final before the crash
                assert "tx.duplicate" in str(error)
        self.engine.wake()

    def messages(self) -> list[Message]:
        return [decode_message("", data) for _, lane, data in self.network.sent if lane is Lane.CONSENSUS]

    def received(self) -> int:
        account = read(self.notary.store.state, Account, key_account(POOR.public))
        return account.balance if account else 0


async def run_until_crash(rig: Rig, salts: Iterable[int]) -> bool:
    """True when the injected crash came before height 3."""
    crashed = False
    try:
        async with trio.open_nursery() as nursery:
            rig.add(*salts)
            nursery.start_soon(rig.engine.run)
            await until(lambda: rig.notary.store.tip.height >= 3)
            nursery.cancel_scope.cancel()
    except* Crash:
        crashed = True
    return crashed


@pytest.mark.parametrize("dies_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("disk", "dies_at"), [*(("chain", n) for n in (1, 2, 3)), *(("votes", n) for n in range(1, 7))]
)
async def test_a_crash_at_any_write_loses_no_block_and_contradicts_no_vote(
    disk: str, dies_after: bool, dies_at: int
) -> None:
    rig = Rig(validators=1)
    kv: CrashingKv = getattr(rig, disk)
    kv.writes, kv.dies_at, kv.dies_after = 0, dies_at, dies_after
    assert await run_until_crash(rig, (1, 2))
    kv.dies_at = 0
    voted = dict(rig.votes.scan(b"v/"))
    before = [rig.notary.store.header(h) for h in range(1, Store(rig.chain, CHAIN_ID).tip.height + 1)]
    rig.start()
    assert not await run_until_crash(rig, (1, 2))
    again = dict(rig.votes.scan(b"v/"))
    assert all(again[name] == value for name, value in voted.items() if name in again)
    assert [rig.notary.store.header(h) for h in range(1, len(before) + 1)] == before
    await finish(rig)
    assert rig.received() == 2  # each transfer once, though it was submitted again


async def finish(rig: Rig) -> None:
    rig.start()
    async with trio.open_nursery() as nursery:
        rig.add(1, 2)
        nursery.start_soon(rig.engine.run)
        await until(lambda: rig.received() >= 2)
        nursery.cancel_scope.cancel()


async def test_nothing_is_sent_before_what_it_promises_is_on_disk() -> None:
    rig = Rig(me=leader(genesis(4).validator_set, 1))
    checked = []

    def on_send() -> None:
        records = {name for name, _ in rig.votes.scan(b"v/")}
        promised = {
            b"v/" + s.view.to_bytes(8, "big") + bytes([s.kind])
            for m in rig.messages()
            if isinstance(m, Vote)
            for s in (m.statement,)
        }
        assert promised <= records
        checked.append(len(promised))

    rig.network.on_send = on_send
    for member in range(4):
        if member != rig.me:
            rig.engine.connected(member, f"peer{member}")
    async with trio.open_nursery() as nursery:
        rig.add(1)
        nursery.start_soon(rig.engine.run)
        await until(lambda: bool(checked) and checked[-1] >= 2)  # its Notar, and Skip when nobody answers
        nursery.cancel_scope.cancel()


class OneStep:
    """A core that asks for everything at once, then for nothing."""

    def __init__(self, ready: Ready) -> None:
        self.readies = [ready]

    def step(self, event: Event, now_ms: int, wall_ms: int) -> Ready:
        return self.readies.pop() if self.readies else Ready()


def test_persist_then_send_then_commit_then_prune() -> None:
    rig, trace = Rig(), []
    header = next_header(rig.notary, [])
    vote = Vote(Statement(VoteKind.NOTAR, 0, 1, header.hash), 0, bytes(64))
    ready = Ready(
        records=[Record(VoteKind.NOTAR, 1, header.hash, header.encode())],
        send=[Send(1, vote)],
        commit=[Commit(header, certificate(header))],
        prune_view=1,
    )
    rig.engine.core = OneStep(ready)  # type: ignore[assignment]
    rig.engine.peers[1] = "peer1"
    rig.votes.on_write = lambda deletes: trace.append("prune" if deletes else "persist")
    rig.network.on_send = lambda: trace.append("send")
    rig.notary.on_commit.append(lambda done: trace.append("commit"))
    rig.engine._step(Tick())
    assert trace == ["persist", "send"]
    rig.engine._commit()
    assert trace == ["persist", "send", "commit", "prune"]


@dataclass
class Patient:
    """In place of a core: has something to do `in_ms` after each step. Remembers what it was told."""

    in_ms: int
    events: list[Event] = field(default_factory=list)
    ended: bool = False

    def step(self, event: Event, now_ms: int, wall_ms: int) -> Ready:
        self.events.append(event)
        return Ready(wake_ms=now_ms + self.in_ms)


def test_time_that_has_not_come_costs_no_step() -> None:
    """An idle validator is woken by each message: one step each, not two. Time that is due is a step."""
    rig = Rig()
    rig.engine.core = Patient(60_000)  # type: ignore[assignment]
    first = rig.engine._drain()
    assert first is not None and rig.engine.core.events == [Tick()]
    assert rig.engine._drain() == first and len(rig.engine.core.events) == 1
    rig.engine.core = Patient(0)  # type: ignore[assignment]
    rig.engine._step(Tick())
    rig.engine._drain()
    assert rig.engine.core.events == [Tick(), Tick()]


async def test_it_does_not_vote_before_its_chain_is_where_its_votes_were_forgotten() -> None:
    """Someone moved the chain away, but kept the sign state: views up to 3 were voted in before."""
    source = new_notary()
    headers = [extend(source, batch_of(transfer_tx(n))) for n in range(4)]
    rig = Rig()
    for header in headers[:3]:
        rig.safety.persist(
            Ready(records=[Record(VoteKind.SKIP, header.view, bytes(32), b"")]), lambda _: None
        )
    rig.safety.prune(3)
    rig.engine.connected(1, "peer1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.engine.run)
        for height, header in enumerate(headers, 1):
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert bool(rig.network.sent) == (height > 3)
            block = source.store.block(height)
            assert block is not None
            rig.notary.commit(header, certificate(header), block.batches, {})
            rig.engine.synced(header, certificate(header))
        await until(lambda: any(isinstance(m, Vote) for m in rig.messages()))
        assert all(m.statement.view > 3 for m in rig.messages() if isinstance(m, Vote))
        nursery.cancel_scope.cancel()


async def test_a_flood_of_one_validator_does_not_drown_the_others_votes() -> None:
    rig = Rig()
    for member in (1, 2):
        rig.engine.connected(member, f"peer{member}")
    for _ in range(INBOX_MEMBER_MAX * 2):
        rig.engine.deliver(1, b"flood")
    statement = Statement(VoteKind.SKIP, 0, 1, bytes(32))
    signature = key("validator2").sign(VOTE_DOMAIN, CHAIN_ID, vote_message(statement))
    rig.engine.deliver(2, encode_message(Vote(statement, 2, signature)))
    assert rig.engine.counters.dropped == INBOX_MEMBER_MAX
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.engine.run)
        views = rig.engine.core.views
        await until(lambda: 1 in views and (VoteKind.SKIP, bytes(32)) in views[1].signatures)
        assert rig.engine.counters.received < INBOX_MEMBER_MAX
        nursery.cancel_scope.cancel()
    assert {peer for peer, _ in rig.network.penalties} == {"peer1"}


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 3), st.binary(max_size=120)), max_size=8))
def test_foreign_bytes_are_faults_never_the_end_of_the_engine(messages: list[tuple[int, bytes]]) -> None:
    rig = Rig()
    for member, data in messages:
        rig.engine._message(member, data)
    assert sum(rig.engine.counters.faults.values()) == len(messages)
    assert all(rule.startswith("consensus.message.") for rule in rig.engine.counters.faults)


async def test_batches_asked_for_come_by_the_bulk_lane_and_only_so_many() -> None:
    rig = Rig()
    data = batch_of(transfer_tx(1))
    header = next_header(rig.notary, [data])
    rig.notary.commit(header, certificate(header), [data], {})
    rig.engine.connected(1, "peer1")
    for _ in range(200):
        rig.engine._message(1, encode_message(Fetch("batch", batch_digest(data))))
    bulk = [payload for _, lane, payload in rig.network.sent if lane is Lane.BULK]
    assert 64 <= len(bulk) <= 128
    assert all(data in payload for payload in bulk)


async def test_a_late_batch_of_a_final_block_is_not_held_again() -> None:
    rig = Rig()
    data = batch_of(transfer_tx(1))
    header = next_header(rig.notary, [data])
    rig.notary.commit(header, certificate(header), [data], {})
    async with trio.open_nursery() as nursery:
        rig.engine.connected(1, "peer1")
        nursery.start_soon(rig.engine.run)
        await until(lambda: rig.engine.counters.steps > 0)
        rig.engine.deliver_batch(1, data)
        rig.engine.deliver_batch(1, batch_of(transfer_tx(2)))
        await until(lambda: bool(rig.mempool.batches))
        assert list(rig.mempool.batches) == [batch_digest(batch_of(transfer_tx(2)))]
        nursery.cancel_scope.cancel()


def test_a_batch_before_the_start_is_dropped_and_counted() -> None:
    rig = Rig()
    rig.engine.deliver_batch(1, batch_of(transfer_tx(1)))
    assert rig.engine.counters.dropped == 1


async def test_a_quorums_state_root_that_is_not_ours_is_an_alarm_and_no_crash() -> None:
    notary = new_notary()
    extend(notary, batch_of(transfer_tx(1)))
    extend(notary)
    with pytest.raises(StateDiffers):
        extend(notary, state_height=1, state_root=bytes(32))
    with pytest.raises(StateDiffers):
        extend(notary)
    assert (notary.store.tip.height, notary.wrong_roots, notary.differs) == (2, 1, 1)


@pytest.mark.parametrize("named", [1, 2])
def test_roots_of_blocks_that_range_sync_brought_come_before_those_above(named: int) -> None:
    """The store is two blocks ahead of the core; the core commits a third one, and judges a proposal that
    names the root of one of the two."""
    other = new_notary()
    first, second, third = (extend(other) for _ in range(3))
    root = other.store.root(named)
    fourth = next_header(other, (), state_height=named, state_root=root)
    rig = Rig(me=1)
    engine = rig.engine
    engine._step(Start())
    for header in (second, third):
        engine.core.chain.add(header.hash, header)
    engine._step(Received(1, Certified(certificate(third))))
    proposal = Propose(encode(fourth), bytes(64), certificate(third), ())
    engine._step(Received(leader(rig.notary.validators, fourth.view), proposal, fourth))
    assert engine.core.chain.tip.height == 0  # the first block is missing
    for header in (first, second):
        rig.notary.commit(header, certificate(header), [], {})
        engine.synced(header, certificate(header))
    engine._take_synced()
    engine._commit()
    assert (rig.notary.store.tip.height, engine.counters.alarms) == (3, {})
    assert engine.core.views[fourth.view].own_notar == fourth.hash
