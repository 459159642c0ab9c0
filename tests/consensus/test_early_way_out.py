"""A vote that completes no certificate ends its step early (`CoreState._is_settled`): nothing is lost by it.

Four cores talk over links that lose, delay, double and reorder, while one member also signs what it should
not. Beside each runs a core that always applies all rules, with the same events at the same times.
"""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.chain import Chain
from consensus.core import Config, Core
from consensus.messages import (
    BatchHeld,
    Event,
    Executed,
    Fetch,
    Message,
    Ready,
    Received,
    Send,
    Start,
    Tick,
    Vote,
)
from consensus.verify import Rules, check
from ledger.codec import sha256
from ledger.proofs.certificate import Ed25519Scheme, VoteKind
from tests.consensus.support import CHAIN, GENESIS, GENESIS_HASH, KEYS, ROOT, SET, TIMING, WALL, vote
from tests.sim.crypto import fast_signatures

STEPS = 400


class Thorough(Core):
    """All rules at each vote."""

    __slots__ = ()

    def _is_settled(self) -> bool:
        return False


def told(ready: Ready) -> tuple[object, ...]:
    """All that a Ready asks for, but the wake."""
    return (
        [(send.to, send.message) for send in ready.send],
        ready.records,
        ready.certificates,
        ready.commit,
        ready.evidence,
        ready.alarms,
        ready.prune_view,
    )


class Pair:
    """The core of a member, and the same without the early way out."""

    def __init__(self, me: int, kinds: tuple[type[Core], type[Core]]) -> None:
        self.cores = [
            kind(
                Config(CHAIN, SET, me, TIMING, Ed25519Scheme(), lambda d, m: KEYS[me].sign(d, CHAIN, m)),
                Chain(GENESIS, GENESIS_HASH),
                {0: ROOT},
                None,
            )
            for kind in kinds
        ]
        self.rules = Rules(CHAIN, SET, Ed25519Scheme(), lambda statement: False)
        self.wake_ms = 0

    def step(self, event: Event, now_ms: int) -> Ready:
        """One event through both: they ask for the same, and the first wakes no later."""
        first, other = (core.step(event, now_ms, WALL + now_ms) for core in self.cores)
        assert told(first) == told(other)
        assert (first.wake_ms is None) == (other.wake_ms is None)
        if first.wake_ms is not None and other.wake_ms is not None:
            assert first.wake_ms <= other.wake_ms
            self.wake_ms = first.wake_ms
        return first


class Net:
    """Members, messages on their way, and the time."""

    def __init__(self, seed: int, kinds: tuple[type[Core], type[Core]] = (Core, Thorough)) -> None:
        self.random = Random(seed)
        self.loss = self.random.choice((0.0, 0.05, 0.3))
        self.slow_ms = self.random.choice((20, 200, 1_500))
        self.pairs = [Pair(me, kinds) for me in range(4)]
        self.now_ms = 0
        self.sent: list[tuple[int, int, int, Message]] = []  # when it comes, from, to, what
        self.votes = 0
        for me in range(4):
            self.carry(me, self.pairs[me].step(Start(), 0))

    def carry(self, me: int, ready: Ready) -> None:
        """Send what is to be sent, execute what is committed."""
        for send in ready.send:
            self.post(me, send)
        for commit in ready.commit:
            done = Executed(commit.header.height, sha256(commit.header.hash))
            self.carry(me, self.pairs[me].step(done, self.now_ms))

    def post(self, me: int, send: Send) -> None:
        for to in range(4) if send.to is None else (send.to,):
            if to != me and self.random.random() >= self.loss:
                for _ in range(1 + (self.random.random() < 0.1)):
                    late_ms = self.random.randint(1, self.slow_ms)
                    self.sent.append((self.now_ms + late_ms, me, to, send.message))

    def lie(self) -> None:
        """Member 3 signs something else, too."""
        kind = self.random.choice(tuple(VoteKind))
        view = max(1, self.pairs[3].cores[0].frontier + self.random.randint(-2, 2))
        block = bytes(32) if kind is VoteKind.SKIP else sha256(self.random.randbytes(1))
        self.post(3, Send(self.random.randrange(3), vote(3, kind, view, block)))

    def go_on(self) -> None:
        """The next thing that happens."""
        if self.random.random() < 0.05:
            digest = sha256(self.random.randbytes(4))
            for me in range(4):
                if self.random.random() < 0.9:
                    self.carry(me, self.pairs[me].step(BatchHeld(digest, 1), self.now_ms))
        if self.random.random() < 0.05:
            self.lie()
        me = min(range(4), key=lambda member: self.pairs[member].wake_ms)
        first = min(self.sent, default=None, key=lambda one: one[0])
        if first is None or self.pairs[me].wake_ms < first[0]:
            self.now_ms = max(self.now_ms + 1, self.pairs[me].wake_ms + self.random.choice((0, 0, 5)))
            self.carry(me, self.pairs[me].step(Tick(), self.now_ms))
            return
        self.sent.remove(first)
        at_ms, sender, to, message = first
        self.now_ms = max(self.now_ms, at_ms)
        event: Received = check(self.pairs[to].rules, sender, message)
        self.votes += isinstance(message, Vote)
        if isinstance(message, Fetch) and message.kind == "batch":  # the shell's to answer
            self.carry(sender, self.pairs[sender].step(BatchHeld(message.digest, 1), self.now_ms))
            return
        self.carry(to, self.pairs[to].step(event, self.now_ms))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_the_early_way_out_loses_nothing(seed: int) -> None:
    """Whatever the order of messages: the same is sent, kept, committed and accused, and nothing later."""
    with fast_signatures(True):
        net = Net(seed)
        for _ in range(STEPS):
            net.go_on()
        assert net.votes > 20
        for pair in net.pairs:
            first, other = pair.cores
            assert (first.frontier, first.final_view) == (other.frontier, other.final_view)


def test_most_votes_take_it() -> None:
    """It is no dead branch: of the votes that come, most leave early, and blocks are committed."""
    left: list[bool] = []

    class Counting(Core):
        __slots__ = ()

        def _is_settled(self) -> bool:
            left.append(super()._is_settled())
            return left[-1]

    with fast_signatures(True):
        heights = []
        for seed in range(4):
            net = Net(seed, (Counting, Thorough))
            for _ in range(STEPS):
                net.go_on()
            heights.append(net.pairs[0].cores[0].chain.tip.height)
    assert sum(left) > len(left) / 2 > 100
    assert max(heights) > 10


class PastCertificates(Core):
    """Broken: it leaves although the vote completed a certificate."""

    __slots__ = ()

    def _is_settled(self) -> bool:
        self._out.wake_ms = self._due_ms
        return self._due_ms is not None and self._now_ms < self._due_ms


class PastTheWake(Core):
    """Broken: it leaves although something is due."""

    __slots__ = ()

    def _is_settled(self) -> bool:
        self._out.wake_ms = self._due_ms
        return self._due_ms is not None and not self._out.certificates


def many(broken: type[Core]) -> None:
    """Networks, until the comparison fails."""
    with fast_signatures(True):
        for seed in range(40):
            net = Net(seed, (broken, Thorough))
            for _ in range(STEPS):
                net.go_on()


@pytest.mark.parametrize("broken", [PastCertificates, PastTheWake])
def test_a_broken_way_out_is_seen(broken: type[Core]) -> None:
    """The comparison sees what it is for."""
    with pytest.raises(AssertionError):
        many(broken)
