"""The clocks of a peer: the one place of the engine and its peers where time comes from."""

from __future__ import annotations

import time


def now_ms() -> int:
    """Monotonic ms, for timers."""
    return time.monotonic_ns() // 1_000_000


def wall_ms() -> int:
    """Unix ms, for block times."""
    return time.time_ns() // 1_000_000


def boot_ms() -> int:
    """Ms since boot, going on while the machine sleeps: the clock that leases are counted on."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
