"""How fast a validator's own batches become final, and so how many may be under way and who must wait.

Without a bound, a flood would stand in sealed batches, where nobody takes turns any more. The window of
bytes under way follows the delay as congestion control does: it grows while it is full and batches are final
in time, and shrinks when they are late: beside what they take while nothing of ours has to wait, or while
the window is as small as can be. Late is a row of which none was quick: where each fourth view waits for a
leader that is not there, no smaller window makes the others quicker, and all would wait for nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from node.limits import (
    PACE_EXPRESS_BYTES,
    PACE_EXPRESS_MS,
    PACE_FORGET_MS,
    PACE_LOST_MS,
    PACE_RATE_HALF_MS,
    PACE_SLACK_MS,
    PACE_WINDOW_BYTES,
    PACE_WINDOW_BYTES_MAX,
    PACE_WINDOW_BYTES_MIN,
    RETRY_MS_MAX,
    RETRY_MS_MIN,
)

# The part of a new measurement that counts: what is quick is soon believed, one late batch is chance.
_FALLS = 2
_RISES = 8
_ROW = 4  # measurements in a row; more, and a network that has become slow is noticed late
_MIN_MS = 1.0  # the clock's grain


class _Sealed(NamedTuple):
    at_ms: int
    size_bytes: int
    cost: int


@dataclass(slots=True)
class Pace:
    """See the module. `now_ms` is monotonic. Costs are those of `node.voting.fair_queue.cost_of`."""

    now_ms: Callable[[], int]
    window_bytes: int = PACE_WINDOW_BYTES
    under_way_bytes: int = 0
    base_ms: float = 0.0  # delay of batches when none has to wait; 0: not known yet
    last_ms: int = 0  # delay of the last own batch
    _under_way: dict[bytes, _Sealed] = field(default_factory=dict)
    _express_ms: int = 0  # when the last express batch went out
    _is_full: bool = False  # something had to wait since the last own batch became final
    _work: float = 0.0  # cost done and busy time, older ones counting less
    _busy_ms: float = 0.0
    _since_ms: int = 0  # busy since, or measured last
    _measured_ms: int = 0
    _cut_ms: int = 0
    _row_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_ROW))  # delays, the last ones

    def room(self, waiting_bytes: int) -> int:
        """How large the next batch may be; 0 when it has to wait. Not until a quarter of the window is free,
        as many tiny batches cost more."""
        self._forget_lost()
        room = self.window_bytes - self.under_way_bytes
        if not self._under_way or room >= min(waiting_bytes, self.window_bytes // 4):
            return max(room, PACE_WINDOW_BYTES_MIN)
        self._is_full = True
        return 0

    @property
    def express_due_ms(self) -> int:
        """When a batch of those who had nothing waiting may go out beside a full window."""
        return self._express_ms + PACE_EXPRESS_MS

    def express(self) -> int:
        """How large such a batch may be now; 0 when it is not due. The next one is due later."""
        now = self.now_ms()
        if now < self.express_due_ms:
            return 0
        self._express_ms = now
        return PACE_EXPRESS_BYTES

    def sealed(self, digest: bytes, size_bytes: int, cost: int) -> None:
        """An own batch is under way from now on."""
        now = self.now_ms()
        if not self._under_way:
            self._since_ms = now
        self._under_way[digest] = _Sealed(now, size_bytes, cost)
        self.under_way_bytes += size_bytes

    def final(self, digests: Iterable[bytes]) -> None:
        """A block with these batches is final; those of others count for nothing."""
        ours = [sealed for digest in digests if (sealed := self._under_way.pop(digest, None)) is not None]
        if not ours:
            return
        now = self.now_ms()
        size = sum(sealed.size_bytes for sealed in ours)
        self.under_way_bytes -= size
        self.last_ms = now - min(sealed.at_ms for sealed in ours)
        delay_ms = max(_MIN_MS, self.last_ms)
        self._row_ms.append(delay_ms)
        quick_ms = min(self._row_ms)
        if not self.base_ms:
            self.base_ms = delay_ms
        elif not self._is_full or self.window_bytes == PACE_WINDOW_BYTES_MIN:  # it is not we who are late
            self.base_ms += (quick_ms - self.base_ms) / (_FALLS if quick_ms < self.base_ms else _RISES)
        if self._is_full:
            self._measure(now, sum(sealed.cost for sealed in ours))
        self._since_ms = now
        self._adapt(now, delay_ms, size)
        self._is_full = False

    def clear(self) -> None:
        """Nothing of ours is under way any more: another engine begins."""
        self._under_way.clear()
        self.under_way_bytes = 0
        self._is_full = False

    def wait_ms(self, cost: int) -> float:
        """How long that much takes, by what was done while work was waiting; 0 when that is not known."""
        now = self.now_ms()
        is_old = now - self._measured_ms > PACE_FORGET_MS
        if not self._work or (is_old and not self._under_way):
            return 0.0
        standing_ms = now - self._since_ms if self._under_way else 0
        return cost * (self._busy_ms + standing_ms) / self._work

    def _measure(self, now: int, cost: int) -> None:
        elapsed_ms = float(now - self._since_ms)
        if now - self._measured_ms > PACE_FORGET_MS:
            self._work = self._busy_ms = 0.0
        keep = 0.5 ** (elapsed_ms / PACE_RATE_HALF_MS)
        self._work = self._work * keep + cost
        self._busy_ms = self._busy_ms * keep + elapsed_ms
        self._measured_ms = now

    def _adapt(self, now: int, delay_ms: float, size_bytes: int) -> None:
        late_ms = 2 * self.base_ms + PACE_SLACK_MS
        quick_ms = min(self._row_ms)
        if quick_ms > late_ms:
            if now - self._cut_ms >= delay_ms:  # once for all that were under way together
                self._cut_ms = now
                in_time = int(self.window_bytes * max(0.5, late_ms / quick_ms))
                self.window_bytes = max(PACE_WINDOW_BYTES_MIN, in_time)
        elif self._is_full and delay_ms <= late_ms:
            share = min(1.0, late_ms / delay_ms - 1)
            self.window_bytes = min(PACE_WINDOW_BYTES_MAX, self.window_bytes + int(size_bytes * share))

    def _forget_lost(self) -> None:
        now = self.now_ms()
        while self._under_way:
            digest, oldest = next(iter(self._under_way.items()))
            if now - oldest.at_ms < PACE_LOST_MS:
                return
            del self._under_way[digest]
            self.under_way_bytes -= oldest.size_bytes


def retry_ms(wait_ms: float) -> int:
    """When to come again, for one that would wait so long beyond what is allowed."""
    return round(min(RETRY_MS_MAX, max(RETRY_MS_MIN, wait_ms)))
