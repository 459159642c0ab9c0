"""Places that owners share: who has many gives some up as soon as another owner has fewer and wants one, and
all who want one have it in turn. Pure: times are given, monotonic seconds.

A place is for work that may last for ever, as that of a fetch whose source is slow on purpose. What is under
way when its place is lost is not broken off; it begins nothing new until the place comes back.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(slots=True)
class _Who:
    """`since_s`: when it got its place, or began to want one."""

    owner: str
    since_s: float


class Turns:
    """So many `places`; one is held for `turn_s` while others want it."""

    def __init__(self, places: int, turn_s: float) -> None:
        self._places = places
        self._turn_s = turn_s
        self._holding: dict[object, _Who] = {}
        self._waiting: dict[object, _Who] = {}
        self._again_s = 0.0  # when places may change hands next, unless somebody comes or goes

    @property
    def held(self) -> int:
        """Places that are held."""
        return len(self._holding)

    def want(self, who: object, owner: str, now_s: float) -> None:
        """It wants a place; once more changes nothing, but that an owner with fewer places may take it
        over from the one that it had."""
        found = self._holding.get(who) or self._waiting.get(who)
        if found is None:
            self._waiting[who] = _Who(owner, now_s)
            self._again_s = 0.0
            return
        count = self._count()
        if count[owner] < count[found.owner]:
            self._again_s = 0.0
            found.owner = owner

    def has(self, who: object, now_s: float) -> bool:
        """Whether it has a place now. Asked now and then by all who want one."""
        if self._waiting and now_s >= self._again_s:
            while self._move(now_s):
                pass
            self._again_s = now_s + self._turn_s / 16
        return who in self._holding

    def leave(self, who: object) -> None:
        """It wants a place no more."""
        self._again_s = 0.0
        self._holding.pop(who, None)
        self._waiting.pop(who, None)

    def _count(self) -> Counter[str]:
        return Counter(who.owner for who in self._holding.values())

    def _move(self, now_s: float) -> bool:
        """Give one place to who should have it next. False when all who hold one may keep it."""
        count = self._count()
        for who in sorted(self._waiting, key=lambda who: count[self._waiting[who].owner]):
            if len(self._holding) >= self._places:
                last = self._to_give_up(self._waiting[who].owner, count, now_s)
                if last is None:
                    continue
                self._waiting[last] = _Who(self._holding.pop(last).owner, now_s)
            self._holding[who] = _Who(self._waiting.pop(who).owner, now_s)
            return True
        return False

    def _to_give_up(self, owner: str, count: Counter[str], now_s: float) -> object | None:
        """Who gives its place up to one of this owner; the oldest of several."""
        most = max(self._holding, key=lambda who: count[self._holding[who].owner])
        more = count[self._holding[most].owner] - count[owner]
        if more > 1 or (more == 1 and self._is_over(most, now_s)):
            return most
        own = (who for who, held in self._holding.items() if held.owner == owner)
        return next((who for who in own if self._is_over(who, now_s)), None)

    def _is_over(self, who: object, now_s: float) -> bool:
        return now_s - self._holding[who].since_s >= self._turn_s
