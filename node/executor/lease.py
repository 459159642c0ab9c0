"""Lease arithmetic on a node's boot clock (design section 8, rules 3, 4 and 6). Pure: times are given.

A holder counts from the moment at which it *sent* its claim or renewal, which is before the ledger
counted from the block that holds it. So, whatever the network does and with clock rates within
CLOCK_RATE_PERCENT, the holder has stopped (at the latest K after its deadline) before the ledger
frees the slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.limits import KILL_MS, LEASE_MS

RENEW_EVERY_MS: Final = LEASE_MS // 3
START_LEFT_MS: Final = LEASE_MS // 2
STOP_GRACE_MS: Final = KILL_MS // 2  # for SIGTERM; the driver needs up to 2 s more, the rest is reserve


@dataclass(frozen=True, slots=True)
class LeaseClock:
    """One term's lease as its holder sees it. Times in ms of the boot clock.

    `deadline_ms` moves when a renewal is final, never back; `asked_ms` is when the last claim or
    renewal was sent, final or not.
    """

    deadline_ms: int
    asked_ms: int

    @classmethod
    def claimed(cls, sent_ms: int) -> LeaseClock:
        """The lease won by a claim that was sent then."""
        return cls(sent_ms + LEASE_MS, sent_ms)

    def asked(self, sent_ms: int) -> LeaseClock:
        """A renewal was sent; nothing is gained before it is final."""
        return LeaseClock(self.deadline_ms, max(self.asked_ms, sent_ms))

    def renewed(self, sent_ms: int) -> LeaseClock:
        """The renewal that was sent then is final."""
        return LeaseClock(max(self.deadline_ms, sent_ms + LEASE_MS), max(self.asked_ms, sent_ms))

    def left_ms(self, now_ms: int) -> int:
        """Until the deadline; negative after it."""
        return self.deadline_ms - now_ms

    def may_start(self, now_ms: int) -> bool:
        """Rule 3: a workload starts only with half a lease left."""
        return self.left_ms(now_ms) >= START_LEFT_MS

    def must_stop(self, now_ms: int) -> bool:
        """Rule 4: at the deadline the workload is stopped, whatever the network says."""
        return self.left_ms(now_ms) <= 0

    def renew_due(self, now_ms: int) -> bool:
        """Rule 3: every third of a lease."""
        return now_ms >= self.asked_ms + RENEW_EVERY_MS
