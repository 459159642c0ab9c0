"""Lease arithmetic on a node's boot clock (design section 8, rules 3, 4 and 6). Pure: times are given.

A holder counts from the moment at which it *sent* its claim or renewal, which is before the ledger
counted from the block that holds it. So, whatever the network does and with clock rates within
CLOCK_RATE_PERCENT, the holder has stopped (at the latest K after its deadline) before the ledger
frees the slot.

Blocks carry times that a leader chose, and no rule keeps those from being old: after a stall, a leader
with a slow clock, or one that lies, can date a renewal from before it was sent. The ledger then frees the
slot that much earlier, so the holder deducts it (`behind_ms`), by what `LedgerTime` has seen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, TypeVar

from ledger.limits import KILL_MS, LEASE_MS
from node.executor.decide import SlotId
from node.executor.limits import GUARD_REST_S, GUARD_TICK_S, KILL_WITHIN_S

RENEW_EVERY_MS: Final = LEASE_MS // 3
START_LEFT_MS: Final = LEASE_MS // 2
STOP_GRACE_MS: Final = KILL_MS // 2  # for SIGTERM; the driver needs up to 2 s more, the rest is reserve
SEEN_MS: Final = 2 * LEASE_MS  # looked back at, at least: within it, two clocks drift by a second or so
SEEN_EVERY_MS: Final = LEASE_MS // 30  # one block a second is enough, and bounds how many are kept


@dataclass(frozen=True, slots=True)
class LeaseClock:
    """One term's lease as its holder sees it. Times in ms of the boot clock.

    `deadline_ms` moves when a renewal is final, never back; `asked_ms` is when the last claim or
    renewal was sent, final or not; `beyond_ms` is for how long what runs may go on past the deadline, 0 but
    for services that are `available` (rule 8).
    """

    deadline_ms: int
    asked_ms: int
    beyond_ms: int = 0

    @classmethod
    def claimed(cls, sent_ms: int, behind_ms: int = 0) -> LeaseClock:
        """The lease won by a claim that was sent then. `behind_ms`: see `LedgerTime.behind_ms`."""
        return cls(sent_ms + LEASE_MS - behind_ms, sent_ms)

    def asked(self, sent_ms: int) -> LeaseClock:
        """A renewal was sent; nothing is gained before it is final."""
        return replace(self, asked_ms=max(self.asked_ms, sent_ms))

    def renewed(self, sent_ms: int, behind_ms: int = 0) -> LeaseClock:
        """The renewal that was sent then is final. `behind_ms`: see `LedgerTime.behind_ms`."""
        deadline_ms = sent_ms + LEASE_MS - behind_ms
        return replace(
            self, deadline_ms=max(self.deadline_ms, deadline_ms), asked_ms=max(self.asked_ms, sent_ms)
        )

    def left_ms(self, now_ms: int) -> int:
        """Until the deadline; negative after it."""
        return self.deadline_ms - now_ms

    def may_start(self, now_ms: int, again: bool = False) -> bool:
        """Rule 3: a workload starts only with half a lease left; `again`, after it had run in this term, what
        is `available` does so as long as it may run (rule 8)."""
        if again and self.beyond_ms:
            return not self.must_stop(now_ms)
        return self.left_ms(now_ms) >= START_LEFT_MS

    def must_stop(self, now_ms: int) -> bool:
        """Rule 4: at the deadline the workload is stopped, whatever the network says; rule 8: what is
        `available` that much later."""
        return self.left_ms(now_ms) + self.beyond_ms <= 0

    def look_in_s(self, now_ms: int) -> float:
        """Rule 4: until the guard looks again: in time for the end, and seldom before."""
        until_s = (self.left_ms(now_ms) + self.beyond_ms) / 1000
        return min(GUARD_REST_S, max(GUARD_TICK_S, until_s))

    def grace_ms(self, now_ms: int) -> int:
        """Rule 4: for SIGTERM in a stop that begins now. Who comes late (the machine slept through the
        deadline, the loop was held up) gives less, or none: all is over K after the deadline."""
        spare_ms = self.left_ms(now_ms) + self.beyond_ms + KILL_MS - int(KILL_WITHIN_S * 1000)
        return max(0, min(STOP_GRACE_MS, spare_ms))

    @property
    def kill_at_ms(self) -> int:
        """When the launcher kills by itself, should this process be frozen: after the end of the longest stop
        that begins at the deadline, and before K after it."""
        return self.deadline_ms + self.beyond_ms + STOP_GRACE_MS + int(KILL_WITHIN_S * 1000)

    @property
    def due_ms(self) -> int:
        """Rule 3: when to renew next, every third of a lease."""
        return self.asked_ms + RENEW_EVERY_MS

    def renew_due(self, now_ms: int) -> bool:
        """Rule 3."""
        return now_ms >= self.due_ms


class Leased(Protocol):
    """A term that a node holds."""

    id: SlotId
    lease: LeaseClock


T = TypeVar("T", bound=Leased)


def next_renewal(held: Sequence[T], now_ms: int, under_way: Collection[SlotId], most: int) -> list[T]:
    """Rule 3: the terms that a renewal sent now carries, at most `most`; none when nothing is due.

    Of what is due, what ends first goes first, the rest is the next renewal's: one that is lost never costs
    all. Room that is left over goes to what is due next, as an entry costs less than a transaction. Rule 8:
    what is past its lease and goes on waits for what was sent before (`under_way`): while there is no notary,
    more would pile up.
    """

    def is_due(term: T) -> bool:
        waits = term.lease.left_ms(now_ms) <= 0 and term.id in under_way
        return term.lease.renew_due(now_ms) and not waits

    due = sorted(filter(is_due, held), key=lambda term: term.lease.deadline_ms)
    if not due or len(due) >= most:
        return due[:most]
    taken = {term.id for term in due}
    rest = sorted((term for term in held if term.id not in taken), key=lambda term: term.lease.due_ms)
    return due + rest[: most - len(due)]


@dataclass(slots=True)
class LedgerTime:
    """What ledger time it is at a moment of the boot clock, by the blocks seen lately."""

    _seen: deque[tuple[int, int]] = field(default_factory=deque)  # boot clock, time of the block

    def saw(self, block_ms: int, now_ms: int, back_ms: int = SEEN_MS, keeps_best: bool = False) -> None:
        """A committed block of that time is there now. What is older than `back_ms` is forgotten, but with
        `keeps_best` the best of it, as what came since may all be dated back."""
        if self._seen and now_ms < self._seen[-1][0] + SEEN_EVERY_MS:
            last_ms, was_ms = self._seen[-1]
            # The best of each second: who catches up sees old blocks first.
            self._seen[-1] = last_ms, max(was_ms, block_ms - (now_ms - last_ms))
            return
        self._seen.append((now_ms, block_ms))
        old: list[tuple[int, int]] = []
        while self._seen[0][0] < now_ms - back_ms:
            old.append(self._seen.popleft())
        if old and keeps_best:
            self._seen.appendleft(max(old, key=lambda seen: seen[1] - seen[0]))

    def at(self, now_ms: int) -> int:
        """Ledger time then, as the block says that was ahead of the boot clock the most: the others came
        late. 0 when none was seen."""
        return now_ms + max((block_ms - seen_ms for seen_ms, block_ms in self._seen), default=-now_ms)

    @staticmethod
    def behind_ms(expected_ms: int, block_ms: int) -> int:
        """By how much a block's time is before what ledger time was when its claim or renewal was sent."""
        return max(0, expected_ms - block_ms)
