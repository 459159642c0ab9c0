"""Batches of a Byzantine validator: garbage, unsigned, repeated, too many, asked for too often."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from ledger import transactions as t
from ledger.blocks import batch_digest
from ledger.codec import encode
from ledger.errors import Refused
from ledger.transactions import SignedTx, decode_tx
from node.limits import BATCHES_OPENING_MAX, FETCH_ANSWERS_MAX, FETCH_ANSWERS_MS, VERIFY_THREAD_BYTES
from node.notary import Notary
from node.voting import batch_desk as module
from node.voting.batch_desk import BatchDesk
from node.voting.mempool import Mempool
from tests.node.final_chain import batch_of, extend, new_notary, transfer_tx
from tests.node.network_fixture import CHAIN_ID, RICH


@dataclass
class Desk:
    """A desk with what it was told."""

    notary: Notary = field(default_factory=new_notary)
    mempool: Mempool = field(default_factory=lambda: Mempool(CHAIN_ID))
    faults: list[tuple[int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.desk = BatchDesk(self.mempool, self.notary.store, self.fault, lambda: None)

    def fault(self, member: int, error: Refused) -> None:
        self.faults.append((member, error.rule))

    async def push(self, *datas: bytes, member: int = 1) -> list[bool]:
        async with trio.open_nursery() as nursery:
            return [self.desk.push(nursery, member, data) for data in datas]


def unsigned(salt: int) -> bytes:
    return encode(SignedTx(decode_tx(transfer_tx(salt), CHAIN_ID).payload, bytes(64)))


def foreign(salt: int) -> bytes:
    tx = t.Tx("other", RICH.public, 100, salt.to_bytes(8, "big"), t.Transfer(bytes(32), 1))
    return t.sign_tx(RICH, tx)


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"garbage", "batch.malformed"),
        (bytes(600 * 1024), "batch.too_long"),
        (batch_of(), "batch.size"),
        (batch_of(b"no transaction"), "batch.entries"),
        (batch_of(transfer_tx(1), unsigned(2)), "batch.entries"),
        (batch_of(foreign(1)), "batch.entries"),
        (batch_of(*(unsigned(i) for i in range(200))), "batch.entries"),  # long: checked in a thread
    ],
    ids=["garbage", "huge", "empty", "no_tx", "unsigned", "foreign_chain", "long_unsigned"],
)
async def test_a_bad_batch_is_its_bringers_fault(data: bytes, rule: str) -> None:
    world = Desk()
    await world.push(data, member=2)
    assert world.faults == [(2, rule)]
    assert world.desk.take() is None
    for _ in range(BATCHES_OPENING_MAX + 1):
        assert await world.push(data, member=2) == [True]  # faults leave no place taken


async def test_a_bad_batch_that_a_block_names_is_held_as_all_must() -> None:
    world = Desk()
    data = batch_of(transfer_tx(1), unsigned(2))
    world.desk.asked(batch_digest(data))
    await world.push(data)
    taken = world.desk.take()
    assert taken is not None
    assert (taken[1].count, len(taken[1].txs)) == (2, 1)
    assert world.faults == []


async def test_long_and_short_batches_open_alike() -> None:
    world = Desk()
    long = batch_of(*(transfer_tx(i) for i in range(200)))
    assert len(long) > VERIFY_THREAD_BYTES
    await world.push(long, batch_of(transfer_tx(0)))
    opened = {batch.digest: batch.count for _, batch in iter(world.desk.take, None)}  # type: ignore[misc]
    assert opened == {batch_digest(long): 200, batch_digest(batch_of(transfer_tx(0))): 1}


async def test_what_is_held_or_final_is_not_opened_again() -> None:
    world = Desk()
    held, final = batch_of(transfer_tx(1)), batch_of(transfer_tx(2))
    await world.push(held)
    taken = world.desk.take()
    assert taken is not None
    world.mempool.hold(taken[1], 1, wanted=False)
    extend(world.notary, final)
    await world.push(held, final)
    assert world.desk.take() is None
    assert world.faults == []


async def test_one_validator_has_only_so_many_batches_under_way() -> None:
    world = Desk()
    datas = [batch_of(transfer_tx(i)) for i in range(BATCHES_OPENING_MAX + 3)]
    taken = await world.push(*datas, member=1)
    assert taken.count(True) == BATCHES_OPENING_MAX
    assert await world.push(datas[-1], member=1) == [False]  # opened, but nobody took them yet
    assert await world.push(datas[-1], member=2) == [True]
    while world.desk.take():
        pass
    assert await world.push(datas[-1], member=1) == [True]


async def test_answers_to_fetches_are_bounded_for_each_validator() -> None:
    world = Desk()
    data = batch_of(transfer_tx(1))
    extend(world.notary, data)
    digest = batch_digest(data)
    answers = [world.desk.answer(1, digest, 0) for _ in range(FETCH_ANSWERS_MAX + 5)]
    assert answers.count(data) == FETCH_ANSWERS_MAX
    assert world.desk.answer(2, digest, 0) == data
    assert world.desk.answer(1, digest, FETCH_ANSWERS_MS) == data
    assert world.desk.answer(1, bytes(32), FETCH_ANSWERS_MS) is None


def test_remembered_questions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ASKED_MAX", 2)
    world = Desk()
    for n in range(5):
        world.desk.asked(bytes([n]) * 32)
    assert list(world.desk._asked) == [bytes([3]) * 32, bytes([4]) * 32]
