"""What a peer may bring in a second. Who brings more is read more slowly; who goes on all the same breaks a
rule."""

from collections.abc import Callable

import trio

from p2p.limits import PAUSE_S_MAX, SLOWED_FAULT_S, SLOWED_RECOVERY


class Budget:
    """A token bucket that may go into debt, at most by what PAUSE_S_MAX pays. Times in monotonic seconds."""

    __slots__ = ("_at_s", "_burst", "_rate_per_s", "_tokens")

    def __init__(self, rate_per_s: float, burst: float, now_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._at_s = now_s

    def spend(self, now_s: float) -> bool:
        """Takes one token; returns False when there is none: then the debt grows."""
        self._refill(now_s)
        within = self._tokens >= 1
        self._tokens = max(-self._rate_per_s * PAUSE_S_MAX, self._tokens - 1)
        return within

    def has_one(self, now_s: float) -> bool:
        """Returns whether there is a token to spend."""
        self._refill(now_s)
        return self._tokens >= 1

    @property
    def is_in_debt(self) -> bool:
        """False when there is no debt, whatever the time is; else ask ``debt_s``."""
        return self._tokens < 0

    def debt_s(self, now_s: float) -> float:
        """Returns how long it takes to pay the debt; 0 when there is none."""
        self._refill(now_s)
        return max(0.0, -self._tokens / self._rate_per_s)

    def _refill(self, now_s: float) -> None:
        self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._rate_per_s)
        self._at_s = now_s


class Slowed:
    """Slows one peer down to its budgets. ``on_slowed`` hears of each pause, ``on_flood`` when the pauses for
    what is the peer's own doing have come to SLOWED_FAULT_S; they are forgotten at SLOWED_RECOVERY."""

    def __init__(self, on_slowed: Callable[[], None], on_flood: Callable[[], None]) -> None:
        self._on_slowed = on_slowed
        self._on_flood = on_flood
        self._paused_s = 0.0
        self._at_s = trio.current_time()

    async def pause(self, debt_s: float, *, is_fault: bool = True) -> None:
        """Waits while a peer in debt pays it; returns at once when there is none."""
        if debt_s <= 0:
            return
        self._on_slowed()
        if is_fault:
            now = trio.current_time()
            self._paused_s = max(0.0, self._paused_s - (now - self._at_s) * SLOWED_RECOVERY) + debt_s
            self._at_s = now + debt_s  # nothing is forgiven while it is being slowed
            if self._paused_s >= SLOWED_FAULT_S:
                self._paused_s = 0.0
                self._on_flood()
        await trio.sleep(debt_s)
