"""Bytes a second: who takes more than the rate waits. Pure: times are given, monotonic seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BURST_S: Final = 0.25  # of the rate, at once after a pause: chunks do not come evenly


class Rate:
    """One rate; 0: none. What is taken counts at once, and is paid for by waiting."""

    __slots__ = ("_even_s", "bytes_s")

    def __init__(self, bytes_s: int = 0) -> None:
        self.bytes_s = bytes_s
        self._even_s = 0.0  # when all that was taken is paid for

    def delay_s(self, now_s: float) -> float:
        """How long who comes now would wait."""
        return max(0.0, self._even_s - BURST_S - now_s) if self.bytes_s else 0.0

    def take(self, size_bytes: int, now_s: float) -> float:
        """Count so many bytes. Returns how long to wait before they go."""
        if not self.bytes_s:
            return 0.0
        delay_s = self.delay_s(now_s)
        self._even_s = max(self._even_s, now_s) + size_bytes / self.bytes_s
        return delay_s

    def is_even(self, now_s: float) -> bool:
        """Whether all that was taken is paid for: then it may be forgotten."""
        return self._even_s <= now_s


@dataclass(frozen=True, slots=True)
class FileRates:
    """What artifacts may take of the line, bytes a second; 0: as fast as it goes.

    `upload_bytes_s`: to all others; `upload_peer_bytes_s`: to each of them; `download_bytes_s`: of all.
    """

    upload_bytes_s: int = 0
    upload_peer_bytes_s: int = 0
    download_bytes_s: int = 0
