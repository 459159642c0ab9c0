"""Admission on a model chain in model time: what is accepted is soon final, and a flood starves nobody."""

from __future__ import annotations

import contextlib
import heapq
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256

import pytest
from msgspec import structs

from ledger.blocks import Batch
from ledger.codec import encode
from ledger.errors import Refused
from ledger.keys import Key
from ledger.machine import Context
from ledger.transactions import SignedTx, VerifiedTx, decode_tx, verified
from node.limits import (
    PACE_LOST_MS,
    PACE_WINDOW_BYTES_MAX,
    PACE_WINDOW_BYTES_MIN,
    QUEUE_FREE_SOURCE_BYTES,
    QUEUE_MS_MAX,
    RETRY_MS_MAX,
    RETRY_MS_MIN,
)
from node.seam import Overloaded
from node.voting import mempool as module
from node.voting.fair_queue import cost_of
from node.voting.mempool import HeldBatch, Mempool, open_batch
from node.voting.pace import Pace
from tests.node.final_chain import transfer_tx
from tests.node.network_fixture import CHAIN_ID
from tests.node.test_mempool import naming

LOUD, QUIET, OTHER = Key(b"l" * 32), Key(b"q" * 32), Key(b"o" * 32)
CAPACITY_PER_S = 2_000
PIPELINE_MS = 25  # a block at least


@cache
def tx(salt: int, sender: Key) -> VerifiedTx:
    return verified(decode_tx(transfer_tx(salt, sender=sender), CHAIN_ID))


def unsigned(salt: int, sender: Key) -> VerifiedTx:
    """As `tx`, made quickly: pools do not look at signatures once they were checked."""
    like, name = tx(0, sender), salt.to_bytes(8, "big")
    return structs.replace(like, id=sha256(sender.public + name).digest(), raw=like.raw[:-8] + name)


@dataclass
class Chain:
    """One validator's pool over a chain: one block after the other, each of all that is sealed, final in
    PIPELINE_MS or when its capacity has done it."""

    now: int = 1_000_000
    capacity_per_s: int = CAPACITY_PER_S
    pool: Mempool = field(init=False)
    sealed: list[HeldBatch] = field(default_factory=list)
    block: list[HeldBatch] = field(default_factory=list)
    block_due: int = 0
    arrived: dict[bytes, int] = field(default_factory=dict)
    delays: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    order: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    refused: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    offered: dict[bytes, tuple[str, int]] = field(default_factory=dict)
    final: list[tuple[bytes, int, int]] = field(default_factory=list)  # (account, number, delay)
    peak: int = 0

    def __post_init__(self) -> None:
        self.pool = Mempool(CHAIN_ID, Pace(lambda: self.now))

    def offer(self, entry: VerifiedTx, source: str, number: int) -> bool:
        try:
            self.pool.add(entry, self.now, source)
        except Overloaded as refusal:
            self.refused[source].append(refusal.retry_ms)
            return False
        self.arrived[entry.id] = self.now
        self.offered[entry.id] = (source, number)
        return True

    def tick(self) -> None:
        """One millisecond."""
        due = self.pool.seal_due_ms()
        while due is not None and due <= self.now:
            batch = self.pool.seal(0)
            if batch is not None:
                self.sealed.append(batch)
            due = self.pool.seal_due_ms()
        if self.block and self.now >= self.block_due:
            self.pool.committed(naming(*(batch.digest for batch in self.block)), ())
            for entry in (entry for batch in self.block for entry in batch.txs):
                source, number = self.offered[entry.id]
                self.delays[source].append(self.now - self.arrived[entry.id])
                self.final.append((entry.tx.sender, number, self.delays[source][-1]))
                self.order[source].append(number)
            self.block = []
        if not self.block and self.sealed and self.capacity_per_s:
            self.block, self.sealed = self.sealed, []
            work_ms = sum(batch.count for batch in self.block) * 1000 // self.capacity_per_s
            self.block_due = self.now + max(PIPELINE_MS, work_ms)
        self.peak = max(self.peak, self.pool.size_bytes)
        self.now += 1

    def order_of(self, sender: Key) -> list[int]:
        return [number for who, number, _ in self.final if who == sender.public]

    def delays_of(self, sender: Key) -> list[int]:
        return [delay for who, _, delay in self.final if who == sender.public]


def percentile(values: list[int], share: float) -> int:
    return sorted(values)[int(share * (len(values) - 1))]


def run(chain: Chain, seconds: int, *flows: tuple[str, Key, float, int]) -> None:
    """Open loop: each flow (client, account, ms between two, first at ms) offers its transactions, whatever
    becomes of them. Then until all that was accepted is final."""
    start = chain.now
    queue = []
    for place, (source, sender, every_ms, first_ms) in enumerate(flows):
        heapq.heappush(queue, (first_ms, place, 0, source, sender, every_ms, first_ms))
    while chain.now < start + seconds * 1000:
        while queue[0][0] <= chain.now - start:
            _, place, number, source, sender, every_ms, first_ms = queue[0]
            chain.offer(unsigned(number, sender), source, number)
            due = first_ms + int((number + 1) * every_ms)
            heapq.heapreplace(queue, (due, place, number + 1, source, sender, every_ms, first_ms))
        chain.tick()
    for _ in range(20_000):
        if not (chain.pool.tx_count or chain.sealed):
            return
        chain.tick()
    raise AssertionError("what was accepted did not become final")


FLOOD_MS = 1000 / (10 * CAPACITY_PER_S)


def test_a_flood_at_ten_times_capacity_starves_nobody() -> None:
    """Who sends 5 a second waits for no more than the window of the flood that is under way, and all of it is
    final. The flood gets the rest of the capacity, waits no longer than is told, and hears when to come
    again."""
    alone = Chain()
    run(alone, 10, ("quiet", QUIET, 200, 0))
    chain = Chain()
    run(chain, 5, ("quiet", QUIET, 200, 0), ("loud", LOUD, FLOOD_MS, 2_000))
    unloaded, loaded = (percentile(c.delays["quiet"], 0.99) for c in (alone, chain))
    window_ms = PACE_WINDOW_BYTES_MIN / len(tx(0, LOUD).raw) / CAPACITY_PER_S * 1000
    assert loaded <= unloaded + window_ms, (unloaded, loaded, window_ms)
    assert not chain.refused["quiet"]
    assert chain.order["quiet"] == list(range(25))
    assert chain.order["loud"] == sorted(chain.order["loud"])
    assert len(chain.delays["loud"]) >= 0.9 * 3 * CAPACITY_PER_S
    assert max(chain.delays["loud"]) <= 1.25 * QUEUE_MS_MAX
    assert all(RETRY_MS_MIN <= hint <= RETRY_MS_MAX for hint in chain.refused["loud"])
    assert chain.peak < 2_000_000


def test_a_flood_of_one_account_leaves_the_others_of_its_client_their_turns() -> None:
    """Programs of one machine share its address: then accounts take turns."""
    chain = Chain()
    run(chain, 3, ("here", QUIET, 100, 0), ("here", LOUD, FLOOD_MS, 500))
    assert set(chain.pool.refused) == {"account_wait"}
    assert chain.order_of(QUIET) == list(range(30))
    assert max(chain.delays_of(QUIET)) <= 400  # a turn each: far below what the flood waits
    assert chain.order_of(LOUD) == sorted(chain.order_of(LOUD))
    assert max(chain.delays_of(LOUD)) > 1_000


def test_many_accounts_of_one_client_wait_together() -> None:
    chain = Chain()
    crowd = [Key(bytes([number]) * 32) for number in range(1, 41)]
    flood = [("loud", sender, 40 * FLOOD_MS, number) for number, sender in enumerate(crowd)]
    run(chain, 4, ("quiet", QUIET, 200, 0), *flood)
    assert chain.pool.refused["source_wait"] > 0
    assert chain.order["quiet"] == list(range(20))
    assert max(chain.delays["quiet"]) <= 300
    free_ms = QUEUE_FREE_SOURCE_BYTES / cost_of(tx(0, QUIET)) / CAPACITY_PER_S * 1000
    assert max(chain.delays["loud"]) <= max(QUEUE_MS_MAX, free_ms) * 1.25


def test_a_network_that_stands_still_takes_little_and_says_when_to_come_again() -> None:
    chain = Chain()
    run(chain, 2, ("loud", LOUD, FLOOD_MS, 0))
    hints = len(chain.refused["loud"])
    chain.capacity_per_s = 0
    for number in range(100_000, 104_000):
        chain.offer(unsigned(number, LOUD), "loud", number)
        chain.tick()
    assert len(chain.refused["loud"]) - hints > 1_500
    assert chain.refused["loud"][-1] > chain.refused["loud"][hints]  # the longer, the later
    taken = chain.pool.pending.waiting("loud", LOUD.public)
    assert taken <= QUEUE_MS_MAX * CAPACITY_PER_S / 1000 * cost_of(tx(0, LOUD)) * 1.1
    assert chain.offer(unsigned(99, QUIET), "quiet", 99)
    chain.capacity_per_s = CAPACITY_PER_S
    run(chain, 1, ("quiet", QUIET, 200, 100))
    assert sorted(chain.order["quiet"]) == [0, 1, 2, 3, 4, 99]


def test_the_window_follows_the_network() -> None:
    """It grows where batches are final in time, shrinks where they are not, and stays within its bounds."""
    now = 0
    pace = Pace(lambda: now)
    for number in range(200):
        digest = number.to_bytes(32, "big")
        pace.sealed(digest, pace.window_bytes, pace.window_bytes)
        assert pace.room(PACE_WINDOW_BYTES_MAX) == 0
        now += 30
        pace.final([digest])
        if number == 0:
            first = pace.window_bytes
    assert PACE_WINDOW_BYTES_MIN < first < pace.window_bytes == PACE_WINDOW_BYTES_MAX
    assert pace.base_ms == 30
    smallest = pace.window_bytes
    for number in range(60):  # the network is that slow now: the window is not kept small for ever
        digest = (1_000 + number).to_bytes(32, "big")
        pace.sealed(digest, pace.window_bytes, pace.window_bytes)
        pace.room(PACE_WINDOW_BYTES_MAX)
        now += 2_000
        pace.final([digest])
        smallest = min(smallest, pace.window_bytes)
    assert smallest == PACE_WINDOW_BYTES_MIN
    assert pace.base_ms > 900
    assert pace.window_bytes > 10 * PACE_WINDOW_BYTES_MIN
    assert pace.under_way_bytes == 0


class Away(Chain):
    """A loaded network where one view in four has no leader: the next one's block comes a second later."""

    views = 0

    def tick(self) -> None:
        before = self.block
        super().tick()
        if self.block and self.block is not before:
            self.views += 1
            self.block_due += 300 if self.views % 3 else 1_300


def test_a_leader_that_is_away_does_not_keep_the_others_from_working() -> None:
    """One of four dead, whole timeouts: what each round brings is late by a second whatever the window is, so
    that must not shrink to nothing. It did: 100 a second of four validators came down to 30, and hundreds
    that were accepted were not final after 20 s."""
    chain = Away()
    run(chain, 20, ("here", LOUD, 20, 0))
    assert chain.order["here"] == list(range(1_000))
    assert not chain.refused["here"]
    assert max(chain.delays["here"]) <= 5_000


def test_one_late_batch_in_four_is_chance_and_four_in_a_row_are_not() -> None:
    now = 0
    pace = Pace(lambda: now)

    def final_after(delay_ms: int) -> int:
        nonlocal now
        digest = now.to_bytes(32, "big")
        pace.sealed(digest, pace.window_bytes, pace.window_bytes)
        pace.room(PACE_WINDOW_BYTES_MAX)
        now += delay_ms
        pace.final([digest])
        return pace.window_bytes

    for _ in range(3):
        grown = final_after(40)
    for _ in range(10):
        assert final_after(1_040) == grown
        grown = [final_after(40) for _ in range(3)][-1]
    assert grown == PACE_WINDOW_BYTES_MAX
    assert [final_after(1_040) for _ in range(3)] == [grown] * 3
    assert final_after(1_040) == grown // 2


def test_a_batch_that_is_lost_holds_up_no_others() -> None:
    now = 0
    pace = Pace(lambda: now)
    pace.sealed(bytes(32), pace.window_bytes, 1)
    assert pace.room(10_000) == 0
    now = PACE_LOST_MS
    assert pace.room(10_000) > 0
    assert pace.under_way_bytes == 0


def test_a_flood_costs_no_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no room is refused before its signature is checked, and a forged one fills nobody's share."""
    monkeypatch.setattr(module, "MEMPOOL_SENDER_TXS_MAX", 2)
    chain = Chain()
    context = Context(CHAIN_ID, 10, 1_700_000_000_000, bytes(32))
    for number in range(2):
        chain.pool.add(tx(number, LOUD), 0, "loud")
    bad = encode(SignedTx(tx(9, LOUD).payload, bytes(64)))
    with pytest.raises(Overloaded):
        chain.pool.check(bad, context, lambda key: None, "loud")
    with pytest.raises(Refused, match=r"tx\.signature"):
        chain.pool.check(encode(SignedTx(tx(9, QUIET).payload, bytes(64))), context, lambda key: None, "loud")
    assert chain.pool.senders.keys() == {LOUD.public}
    assert chain.pool.check(tx(0, LOUD).raw, context, lambda key: None, "x") == tx(
        0, LOUD
    )  # held: no room needed


def test_one_client_never_has_more_than_its_part_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMPOOL_TXS_MAX", 6)
    pool = Mempool(CHAIN_ID)
    for number in range(3):
        pool.add(tx(number, LOUD if number else OTHER), 0, "loud")
    with pytest.raises(Overloaded):
        pool.add(tx(9, OTHER), 0, "loud")
    assert pool.refused == {"source": 1}
    assert pool.add(tx(9, OTHER), 0, "quiet")


@pytest.mark.parametrize("bound", ["MEMPOOL_TXS_MAX", "MEMPOOL_BYTES_MAX"])
def test_many_addresses_leave_room_for_one_more(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    """Forty clients bring all that is taken of them, again and again: a newcomer finds room at any time."""
    size = len(tx(0, LOUD).raw)
    monkeypatch.setattr(module, bound, 400 if bound == "MEMPOOL_TXS_MAX" else 400 * (size + 2))
    pool = Mempool(CHAIN_ID)
    number = 0
    for _ in range(12):
        for address in range(40):
            number += 1
            with contextlib.suppress(Overloaded):
                pool.add(tx(number, LOUD if number % 2 else OTHER), 0, f"loud {address}")
        number += 1
        assert pool.add(tx(number, QUIET), 0, f"newcomer {number}")
    assert pool.refused["source"] > 0
    assert "pool" not in pool.refused


def test_batches_of_one_maker_leave_room_for_those_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three makers that fill what they may do not keep a fourth one's batches out."""

    def batch(first: int) -> HeldBatch:
        raws = tuple(tx(number, LOUD).raw for number in range(first, first + 4))
        return open_batch(encode(Batch(raws)), CHAIN_ID, pool.known.verify)

    pool = Mempool(CHAIN_ID)
    monkeypatch.setattr(module, "MEMPOOL_BYTES_MAX", 12 * len(batch(0).data))
    number = 0
    for _ in range(10):
        for maker in range(3):
            number += 4
            pool.hold(batch(number), maker, wanted=False)
    assert pool.hold(batch(9_000), 3, wanted=False)
