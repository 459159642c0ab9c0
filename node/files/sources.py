"""The peers that one fetch asks: what each gives, how long it rests, and who is asked next. Times are given,
monotonic seconds."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

import trio

from node.limits import (
    ARTIFACT_ASKED_MAX,
    ARTIFACT_CHUNK_S,
    ARTIFACT_FAILED_REST_S_MAX,
    ARTIFACT_REST_S,
    ARTIFACT_REST_S_MAX,
    ARTIFACT_RUN_MAX,
    ARTIFACT_RUN_S,
    ARTIFACT_RUN_WINDOW,
    ARTIFACT_SOURCE_WINDOW,
    ARTIFACT_SOURCES_MAX,
    ARTIFACT_STALLED_S,
    ARTIFACT_TAKERS_MAX,
)

_KEPT: Final = 0.8  # of a source's usual time, when a new one is taken into it


@dataclass(slots=True)
class Source:
    """A peer that is being asked. `failures`: in a row; `usual_s`: what a chunk takes it, at first 0."""

    peer_id: str
    heard_s: float
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    failures: int = 0
    takers: int = 0
    given: int = 0
    usual_s: float = 0.0

    def gave(self, took_s: float) -> None:
        """A good chunk came. What it usually takes grows at once and shrinks slowly."""
        self.usual_s = max(took_s, _KEPT * self.usual_s + (1 - _KEPT) * took_s)
        self.given += 1
        self.failures = 0

    @property
    def run(self) -> int:
        """Chunks to ask for in one request: one, and several of a source that is fast."""
        return ARTIFACT_RUN_MAX if self.given and self.usual_s < ARTIFACT_RUN_S else 1

    @property
    def window(self) -> int:
        """Requests to have under way to it. Two at first; where each takes long, its line is full, and more
        at once would only wait longer."""
        if not self.given:
            return min(2, ARTIFACT_SOURCE_WINDOW)
        if self.run > 1:
            return ARTIFACT_RUN_WINDOW
        return max(1, round(ARTIFACT_SOURCE_WINDOW / max(1.0, self.usual_s / ARTIFACT_CHUNK_S)))


@dataclass(slots=True)
class Past:
    """A peer that was asked: when it may be asked again, and what it gave."""

    again_s: float = 0.0
    empty: int = 0  # how often in a row it had nothing
    failed: int = 0  # how often in a row it failed
    given: int = 0

    def rest(self, joined: bool, is_fetching: bool, failures: int, now_s: float) -> None:
        """Its turn is over: it rests, longer each time that it had nothing or failed."""
        self.empty = 0 if joined or is_fetching else self.empty + 1
        self.failed = self.failed + 1 if joined and failures else 0
        most_s = ARTIFACT_FAILED_REST_S_MAX if self.failed else ARTIFACT_REST_S_MAX
        times = min(10, max(0, self.failed + self.empty - 1))
        self.again_s = now_s + min(most_s, ARTIFACT_REST_S * 2.0**times)


class Sources:
    """Who is being asked, and who was."""

    def __init__(self) -> None:
        self.active: dict[str, Source] = {}
        self._past: dict[str, Past] = {}

    def next(self, known: Iterable[str], dropped: Collection[str], now_s: float) -> list[Source]:
        """Whom to ask now, of those that are known, so that at most ARTIFACT_SOURCES_MAX give: best first,
        then whoever is unknown. They count as asked from now on."""
        stalled = sum(now_s - source.heard_s > ARTIFACT_STALLED_S for source in self.active.values())
        room = min(ARTIFACT_SOURCES_MAX + stalled, ARTIFACT_ASKED_MAX) - len(self.active)
        if room <= 0:
            return []
        none = Past()
        ready = [
            (past.failed, -past.given, random.random(), peer_id)
            for peer_id in known
            if (past := self._past.get(peer_id, none)).again_s <= now_s
            and peer_id not in self.active
            and peer_id not in dropped
        ]
        found = [Source(peer_id, now_s) for *_, peer_id in sorted(ready)[:room]]
        for source in found:
            self.active[source.peer_id] = source
            self._of(source.peer_id, now_s).again_s = math.inf
        return found

    def over(self, source: Source, joined: bool, is_fetching: bool, now_s: float) -> None:
        """Its turn is over. `joined`: it gave, or tried to; `is_fetching`: it has nothing yet, but will."""
        del self.active[source.peer_id]
        past = self._of(source.peer_id, now_s)
        past.given += source.given
        past.rest(joined, is_fetching, source.failures, now_s)

    def last(self, peer_ids: Iterable[str], now_s: float) -> None:
        """These are not asked again while others may be."""
        for peer_id in peer_ids:
            self._of(peer_id, now_s).again_s = now_s + ARTIFACT_FAILED_REST_S_MAX

    def _of(self, peer_id: str, now_s: float) -> Past:
        if peer_id not in self._past and len(self._past) >= ARTIFACT_TAKERS_MAX:
            self._past = {name: past for name, past in self._past.items() if past.again_s > now_s}
        return self._past.setdefault(peer_id, Past())
