"""Which chunk to ask of which source next. Pure: times and chance are given.

While all sources have everything, chunks are asked in order: the file grows from its start, and its digest
with it. Once somebody is a source that is still fetching itself, each asks for what fewest others have, so
that those who fetch at once soon have something to give each other, and the first source gives each chunk
about once. An idle source takes over what another was asked for longer ago than it usually takes that one;
at the end also what it can give much sooner: whoever stalls or is slow holds nobody up.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from random import Random

from node.limits import ARTIFACT_COPIES_MAX, ARTIFACT_LOOKS_MAX, ARTIFACT_PICKS_MAX, ARTIFACT_STEAL_S


class Picks:
    """The chunks of one artifact that are missing, and who was asked for which."""

    def __init__(self, missing: Sequence[int], count: int, chance: Random) -> None:
        self._chance = chance
        self._map_bytes = -(-count // 8)
        self._todo = list(missing)[::-1]  # asked of nobody at the moment; the next one stands last
        self._left = set(missing)
        self._asked: dict[int, dict[str, float]] = {}  # chunk: who was asked, and when
        self._usual_s: dict[str, float] = {}
        self._sources: dict[str, bytearray | None] = {}  # what each has, a bit for each chunk; None: all
        self._copies = array("H", bytes(16 * self._map_bytes))  # of each chunk, at sources that have not all
        self._spread = False
        self.stolen = 0

    @property
    def is_done(self) -> bool:
        """Whether every chunk has come."""
        return not self._left

    def is_missing(self, index: int) -> bool:
        """Whether that chunk has not come yet."""
        return index in self._left

    def has(self, source: str, held: int | None) -> None:
        """A source is there, or has more by now. `held`: a bit for each chunk, the first one lowest; None:
        all of them."""
        now = None if held is None else bytearray(held.to_bytes(self._map_bytes, "little"))
        self._count(self._sources.get(source), now)
        self._sources[source] = now
        self._spread = self._spread or now is not None

    def has_not(self, source: str, index: int) -> None:
        """It turned out that the source lacks this chunk. Of one that has all, nothing is noted."""
        held = self._sources.get(source)
        if held is not None and _holds(held, index):
            held[index >> 3] &= ~(1 << (index & 7))
            self._copies[index] -= 1

    def spread(self) -> None:
        """Others are fetching it, too, whoever has something to give by now."""
        self._spread = True

    def gone(self, source: str) -> None:
        """The source is none any more."""
        self._count(self._sources.pop(source, None), None)
        self._usual_s.pop(source, None)

    def next(self, source: str, now_s: float, own_s: float) -> int | None:
        """The chunk to ask that source for, or None when there is none for it now. `own_s`: how long a chunk
        takes it, 0 when that is not known."""
        held = self._sources[source]
        self._usual_s[source] = own_s
        index = self._unasked(held) if self._todo else None
        if index is None:
            index = self._to_steal(source, held, now_s, own_s)
        if index is not None:
            self._asked.setdefault(index, {})[source] = now_s
        return index

    def more(self, source: str, first: int, most: int, now_s: float) -> int:
        """How many chunks from `first` on, which it is asked for already, to ask the source for in one
        request: those that follow, while nobody else is fetching; at most so many."""
        count = 1
        while count < most and not self._spread and self._todo and self._todo[-1] == first + count:
            self._asked[self._todo.pop()] = {source: now_s}
            count += 1
        return count

    def came(self, index: int) -> bool:
        """That chunk is here, verified. False when it was already."""
        if index not in self._left:
            return False
        self._left.discard(index)
        if index not in self._asked:  # it was given back, and came all the same
            self._todo.remove(index)
        return True

    def over(self, index: int, source: str) -> None:
        """That source's answer is there, or will not come. What nobody is asked for any more is to do
        again."""
        askers = self._asked.get(index)
        if askers is None or askers.pop(source, None) is None or askers:
            return
        del self._asked[index]
        if index in self._left:
            self._todo.append(index)

    def _unasked(self, held: bytearray | None) -> int | None:
        todo = self._todo
        if not self._spread:
            return todo.pop()
        looks = ARTIFACT_PICKS_MAX if held is None else ARTIFACT_LOOKS_MAX
        start, best, rarest, found = self._chance.randrange(len(todo)), -1, 0, 0
        for step in range(min(looks, len(todo))):
            at = (start + step) % len(todo)
            index = todo[at]
            if held is not None and not _holds(held, index):
                continue
            copies = self._copies[index]
            if best < 0 or copies < rarest:
                best, rarest = at, copies
            found += 1
            if found >= ARTIFACT_PICKS_MAX:
                break
        if best < 0:
            return None
        index = todo[best]
        todo[best] = todo[-1]
        todo.pop()
        return index

    def _to_steal(self, source: str, held: bytearray | None, now_s: float, own_s: float) -> int | None:
        most_s, chosen = 0.0, None
        for index, askers in self._asked.items():
            if source in askers or len(askers) >= ARTIFACT_COPIES_MAX or index not in self._left:
                continue
            if held is not None and not _holds(held, index):
                continue
            other, asked_s = max(askers.items(), key=lambda ask: ask[1])
            waited_s, usual_s = now_s - asked_s, self._usual_s.get(other, 0.0)
            is_late = waited_s > max(ARTIFACT_STEAL_S, 2 * own_s, 2 * usual_s)
            is_slow = not self._todo and waited_s > ARTIFACT_STEAL_S and 0 < 2 * own_s < usual_s - waited_s
            if (is_late or is_slow) and waited_s > most_s:
                most_s, chosen = waited_s, index
        if chosen is not None:
            self.stolen += 1
        return chosen

    def _count(self, before: bytearray | None, now: bytearray | None) -> None:
        if before is None and now is None:
            return
        none = bytes(self._map_bytes)
        for at, (old, new) in enumerate(zip(before or none, now or none, strict=True)):
            if old != new:
                for bit in range(8):
                    self._copies[at * 8 + bit] += (new >> bit & 1) - (old >> bit & 1)


def _holds(held: bytearray, index: int) -> bool:
    return bool(held[index >> 3] >> (index & 7) & 1)
