"""The log of a task: a ring in a memfd that the launcher fills and the node reads. Standard library only."""

from __future__ import annotations

import os
import time


class LogRing:
    """The newest bytes of the workload's output, in a memfd that the node reads.

    Layout: 8 bytes, little-endian, bytes written ever; then the ring. Reading is held to a rate, so that a
    flood is answered by blocking the workload's writes and not by the host's CPU.
    """

    def __init__(self, fd: int, size_bytes: int, rate_bytes_s: int) -> None:
        self._fd = fd
        self._size = size_bytes
        self._rate = rate_bytes_s
        self._total = 0
        self._budget = float(rate_bytes_s)
        self._at = time.monotonic()

    def put(self, data: bytes) -> None:
        """Append `data`, over the oldest bytes when full."""
        self._budget -= len(data)
        tail = data[-self._size :]
        at = (self._total + len(data) - len(tail)) % self._size
        first = tail[: self._size - at]
        os.pwrite(self._fd, first, 8 + at)
        os.pwrite(self._fd, tail[len(first) :], 8)
        self._total += len(data)
        os.pwrite(self._fd, self._total.to_bytes(8, "little"), 0)

    def wait_s(self) -> float:
        """Return how long to read nothing; 0 when there is budget."""
        now = time.monotonic()
        self._budget = min(float(self._rate), self._budget + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, -self._budget / self._rate)
