"""What an artifact store holds, and what of it may go when room is needed. Pure: no file is touched here.

Two budgets bound it: the bytes that it may use, and a reserve of the disk that it leaves to others, the
ledger first of all. What is *kept* goes by order only: what somebody here gave, and a workload's result, for
so long and up to a share of the budget (a result that is kept no more is a cache, as what follows). What was
fetched is a cache: it goes when room is needed, used longest ago first, but never while it is *in use* (a
task runs it, is about to, or it is being fetched).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from node.errors import ArtifactFull
from node.limits import ARTIFACT_DISK_RESERVE_BYTES, ARTIFACT_RESULT_KEPT_S, ARTIFACT_RESULT_SHARE

Hold = Literal["kept", "result", "cached"]
"""Why it is here: somebody gave it, a workload wrote it, or it may go when room is needed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One artifact in the store. `kept`: goes by order only; `in_use`: must not go now; `is_whole`: False for
    what a fetch left, or is still writing."""

    sha256: str
    size_bytes: int
    kept: bool
    in_use: bool
    is_whole: bool


@dataclass(slots=True)
class Held:
    """A verified artifact. `used_at`: when it was used last, Unix seconds; `result_at`: when it came, of a
    result that is kept as such, else None."""

    size_bytes: int
    kept: bool
    used_at: float
    result_at: float | None = None


class Cache:
    """The books of one store. Callers hold its store's lock."""

    def __init__(self, size_bytes_max: int) -> None:
        self.size_bytes_max = size_bytes_max
        self.held: dict[str, Held] = {}
        self.parts: dict[str, int] = {}  # on their way, or left by a fetch that broke off; oldest first
        self.under_way: set[str] = set()  # of these, the ones that somebody is writing
        self.pins: Counter[str] = Counter()

    @property
    def used_bytes(self) -> int:
        """Bytes of artifacts and of those on their way."""
        return sum(held.size_bytes for held in self.held.values()) + sum(self.parts.values())

    def pin(self, names: Iterable[str]) -> None:
        """These are in use; once for each call."""
        self.pins.update(names)

    def unpin(self, names: Iterable[str]) -> None:
        """What `pin` did, undone."""
        self.pins.subtract(names)
        self.pins += Counter()  # forget those at zero

    def in_use(self, name: str) -> bool:
        """Whether it must not go."""
        return self.pins[name] > 0 or name in self.under_way

    def lapsed(self, now_s: float) -> list[str]:
        """Results that need not be kept any longer: for their age, or the oldest of more than their share."""
        found = [(held.result_at, name) for name, held in self.held.items() if held.result_at is not None]
        over = sum(self.held[name].size_bytes for _, name in found)
        over -= self.size_bytes_max // ARTIFACT_RESULT_SHARE
        names = []
        for came_s, name in sorted(found):
            if over <= 0 and now_s - came_s < ARTIFACT_RESULT_KEPT_S:
                break
            names.append(name)
            over -= self.held[name].size_bytes
        return names

    def spare(self) -> list[tuple[str, int]]:
        """What may go, in that order, with its bytes: broken-off fetches, then what was used longest ago."""
        parts = [(name, size) for name, size in self.parts.items() if not self.in_use(name)]
        cached = [(n, held) for n, held in self.held.items() if not held.kept and not self.in_use(n)]
        cached.sort(key=lambda entry: entry[1].used_at)
        return parts + [(name, held.size_bytes) for name, held in cached]

    def victims(self, size_bytes: int, disk_free_bytes: int) -> list[str]:
        """What has to go so that `size_bytes` more fit. Raises ArtifactFull; nothing has to go then."""
        used = self.used_bytes
        room = min(self.size_bytes_max - used, disk_free_bytes - ARTIFACT_DISK_RESERVE_BYTES)
        if size_bytes <= room:
            return []
        chosen: list[str] = []
        for name, freed in self.spare():
            chosen.append(name)
            room += freed
            if size_bytes <= room:
                return chosen
        if disk_free_bytes - ARTIFACT_DISK_RESERVE_BYTES < self.size_bytes_max - used:
            raise ArtifactFull(f"{size_bytes} bytes do not fit: the disk has {disk_free_bytes} bytes left")
        raise ArtifactFull(f"{size_bytes} bytes do not fit: {used} of {self.size_bytes_max} are used")

    def fits(self, size_bytes: int, disk_free_bytes: int) -> bool:
        """Whether so much would fit, after dropping what may be dropped."""
        try:
            self.victims(size_bytes, disk_free_bytes)
        except ArtifactFull:
            return False
        return True
