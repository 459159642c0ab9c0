"""A 3node counts on ledger time only when honest leaders of the present have told it (rule 3 of leases)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ledger.limits import LEASE_MS
from ledger.proofs.certificate import Validator, ValidatorSet
from node.executor.lease import SEEN_EVERY_MS, SEEN_MS, LeaseClock, LedgerTime
from node.executor.ledger_clock import GAP_MS, HEADERS_MAX, SURE_MS, LedgerClock
from tests.consensus.support import header
from tests.node.network_fixture import key

KEYS = [key(f"validator{n}").public for n in range(4)]
WEIGHTED = ValidatorSet(0, tuple(Validator(k, 1, f"v{n}") for n, k in enumerate(KEYS)))
STALL_MS = 600_000
LIAR = 3


class Chain:
    """What the clock looks at of a peer: blocks with times that their leaders chose."""

    def __init__(self, members: ValidatorSet = WEIGHTED) -> None:
        self.blocks: list[tuple[int, int]] = []  # leader, time
        self.validators = members
        self.boot_ms = 5_000_000
        self.store = SimpleNamespace(header=self.header)
        self.clock = LedgerClock(self, lambda: self.boot_ms)  # type: ignore[arg-type]

    @property
    def height(self) -> int:
        return len(self.blocks)

    @property
    def time_ms(self) -> int:
        return self.blocks[-1][1]

    def header(self, height: int) -> bytes | None:
        if not 0 < height <= self.height:
            return None
        leader, time_ms = self.blocks[height - 1]
        changes: dict[str, Any] = {"proposer": self.validators.members[leader].key, "time_ms": time_ms}
        return header(height, **changes).encode()

    def block(self, leader: int, time_ms: int, wait_ms: int = 1_000) -> None:
        self.boot_ms += wait_ms
        self.blocks.append((leader, time_ms))
        self.clock.look()


def test_after_a_restart_in_a_stall_one_lying_leader_cannot_date_a_claim_back() -> None:
    """Regression: a node that started in a stall had no sample of ledger time but the old tip, which a block
    dated back to its parent agrees with: its lease ended for the ledger ten minutes before it ended here."""
    net, true_ms = Chain(), 1_700_000_000_000
    for number in range(40):  # fetched within a second, made before the stall
        net.block(number % 4, true_ms + number * 1_000, wait_ms=10)
    true_ms += 40_000 + STALL_MS
    assert not net.clock.is_sure, "old blocks, of however many leaders, tell nothing"
    sent_ms = net.boot_ms
    net.block(LIAR, net.time_ms)  # holds our offer
    net.clock.sent(net.height, net.clock.token)
    net.block(LIAR, net.time_ms)
    assert not net.clock.is_sure, "one leader's word"
    assert LedgerTime.behind_ms(net.clock.at(sent_ms), net.time_ms) == 0, "it would be taken as fresh"
    net.block(0, true_ms + 3_000)
    assert net.clock.is_sure
    sent_ms = net.boot_ms
    behind_ms = LedgerTime.behind_ms(net.clock.at(sent_ms), true_ms - STALL_MS)
    assert behind_ms >= STALL_MS
    assert LeaseClock.claimed(sent_ms, behind_ms).must_stop(sent_ms)


def test_a_stall_in_this_life_makes_the_clock_unsure_and_keeps_the_best_sample() -> None:
    net, start_ms = Chain(), 1_700_000_000_000
    net.block(0, start_ms)
    net.clock.sent(1, net.clock.token)
    for number in range(1, 5):
        net.block(number % 4, start_ms + number * 1_000)
    assert net.clock.is_sure and not net.clock.wants_own
    token = net.clock.token
    net.block(LIAR, net.time_ms, wait_ms=SEEN_MS + STALL_MS)
    assert not net.clock.is_sure and net.clock.wants_own
    net.clock.sent(net.height, token)
    assert net.clock.wants_own, "it was sent before the gap"
    assert net.clock.at(net.boot_ms) == start_ms + 4_000 + SEEN_MS + STALL_MS, "not what the liar says"
    net.clock.sent(net.height, net.clock.token)
    net.block(1, start_ms + 5_000 + SEEN_MS + STALL_MS)
    assert net.clock.is_sure


def sure(start_ms: int) -> Chain:
    """A network of four whose node knows what time it is."""
    net = Chain()
    net.block(0, start_ms)
    net.clock.sent(1, net.clock.token)
    for number in range(1, 9):
        net.block(number % 3, start_ms + number * 1_000)
    assert net.clock.is_sure
    return net


@pytest.mark.parametrize("wait_ms", [2_000, GAP_MS - 1])
def test_leaders_that_lie_alone_for_long_do_not_make_it_forget(wait_ms: int) -> None:
    """Regression: blocks came, so there was no gap, but all of one liar, dated back to their parents, while
    what honest leaders propose was late. After SEEN_MS nothing else was remembered, and a renewal in such a
    block was worth a whole lease here, and nothing on the ledger."""
    start_ms = 1_700_000_000_000
    net = sure(start_ms)
    last_ms, since_ms = net.time_ms, net.boot_ms
    while net.clock.is_sure:
        net.block(LIAR, last_ms, wait_ms)
        passed_ms = net.boot_ms - since_ms
        assert net.clock.at(net.boot_ms) == last_ms + passed_ms, "as the honest ones told"
        assert passed_ms <= SURE_MS + wait_ms
    assert passed_ms > SURE_MS and net.clock.wants_own, "so old a sample is not good enough to claim by"
    net.clock.sent(net.height, net.clock.token)
    net.block(LIAR, net.time_ms)
    assert not net.clock.is_sure, "one leader's word"
    net.block(1, last_ms + passed_ms + 1_000)
    assert net.clock.is_sure


def test_honest_leaders_that_take_turns_keep_it_sure() -> None:
    """With the liar's blocks between, and with a set of other members after them."""
    start_ms = 1_700_000_000_000
    net = sure(start_ms)
    for number in range(9, 400):
        net.block(number % 4, start_ms + number * 1_000)
        assert net.clock.is_sure and len(net.clock.time._seen) <= SEEN_MS // SEEN_EVERY_MS + 1
    others = tuple(Validator(key(f"other{n}").public, 1, f"w{n}") for n in range(4))
    net.validators = ValidatorSet(1, others)
    net.block(0, start_ms + 400_000)
    assert net.clock.is_sure, "one of four was heard so far, the others before are strangers now"
    for number in range(401, 500):
        net.block(number % 4, start_ms + number * 1_000)
        assert net.clock.is_sure


@pytest.mark.parametrize("wait_ms", [GAP_MS, GAP_MS + 1])
def test_a_gap_is_as_long_as_a_lease(wait_ms: int) -> None:
    net = Chain()
    net.block(0, 1_000)
    net.clock.sent(1, 0)
    net.block(1, 2_000)
    assert net.clock.is_sure
    net.block(2, 3_000, wait_ms)
    assert net.clock.is_sure == (wait_ms <= LEASE_MS)


def test_weight_counts_and_only_members() -> None:
    """f of 9 is 2: one leader of weight 6 is enough, three of weight 1 are; strangers are nothing."""
    members = tuple(Validator(k, 6 if n == 0 else 1, f"v{n}") for n, k in enumerate(KEYS))
    for leaders, is_sure in (([0], True), ([1, 2], False), ([1, 2, 3], True), ([1, 1, 1], False)):
        net = Chain(ValidatorSet(0, members))
        net.block(1, 0)
        net.clock.sent(2, 0)
        for leader in leaders:
            net.block(leader, 1_000)
        assert net.clock.is_sure == is_sure, leaders


def test_few_headers_are_looked_at_in_one_step() -> None:
    net = Chain()
    net.blocks = [(0, 1_000)] * (10 * HEADERS_MAX)
    read: list[int] = []
    plain = net.header
    net.store.header = lambda height: (read.append(height), plain(height))[1]
    net.clock.look()
    net.clock.sent(1, 0)
    assert len(read) == HEADERS_MAX and max(read) == net.height
