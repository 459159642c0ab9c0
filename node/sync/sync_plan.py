"""Whom to ask for which blocks: the pure half of catching up. It sees no clock, network or store.

Heights above the tip are cut into pieces. Several are under way at once, each with one source; what came
waits, proved, until the pieces below it are committed. Pieces and sources are bounded: at most
PIECES_MAX pieces are under way or wait, and PIECES_PER_SOURCE are with one source. The lowest piece holds
up all others: when its source is slow, a second one is asked for it, too, and whoever delivers first wins.
A source's word on its height is a hint: who does not deliver what it told of rests, longer each time, and
its word counts no more until it delivers. Who lied is not asked for LIED_REST_S.

At the tip, where blocks come one by one, new ones are asked for every FOLLOW_PACE_S: the first at once, those
that are told of meanwhile together. What a follower does for each request it does once for all of these.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from node.limits import (
    FOLLOW_BACKOFF_MAX_S,
    FOLLOW_BACKOFF_S,
    FOLLOW_HEDGE_S,
    FOLLOW_LIED_REST_S,
    FOLLOW_PACE_S,
    PIECE_BLOCKS_MAX,
    PIECE_BYTES,
    PIECES_MAX,
    PIECES_PER_SOURCE,
)


@dataclass(slots=True)
class Source:
    """A neighbour: the height that it told, how often in a row it did not deliver, until when it rests."""

    told: int = 0
    failures: int = 0
    rest_until_s: float = 0.0
    first: int = 0  # the first height that it holds, when it has refused older ones
    used: int = 0  # number of the last request to it, so that all get their turn
    asked: int = 0  # pieces that it is asked for now


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to be made: heights `first` to `last`. `number` tells it from all others."""

    number: int
    peer_id: str
    first: int
    last: int
    since_s: float

    @property
    def blocks_max(self) -> int:
        """How many blocks it is for."""
        return self.last - self.first + 1


@dataclass(slots=True)
class SyncPlan:
    """See the module. Heights are of final blocks, times in seconds of any steady clock."""

    sources: dict[str, Source] = field(default_factory=dict)
    block_bytes: float = 1_000.0  # of one block, as of late
    hedged: int = 0  # pieces that a second source was asked for
    _asks: dict[int, Ask] = field(default_factory=dict)
    _held: dict[int, int] = field(default_factory=dict)  # proved pieces that wait: first -> last
    _number: int = 0
    _asked_to: int = 0  # the highest height that was asked for; new are those above it
    _paced_until_s: float = 0.0  # a part of a piece, all new, is not asked for before

    # ------------------------------------------------------------------ sources

    def came(self, peer_id: str, height: int) -> None:
        """A neighbour is there, and says that it holds final blocks up to `height`."""
        self.sources.setdefault(peer_id, Source()).told = height

    def told(self, peer_id: str, height: int) -> bool:
        """A neighbour says that it holds final blocks up to `height`. False for a stranger: not counted."""
        source = self.sources.get(peer_id)
        if source is None:
            return False
        source.told = height
        return True

    def gone(self, peer_id: str) -> None:
        """A neighbour is gone; what it was asked for is asked anew."""
        self.sources.pop(peer_id, None)
        self._asks = {number: ask for number, ask in self._asks.items() if ask.peer_id != peer_id}

    def best_height(self, tip: int) -> int:
        """Highest height held, or told by a source that did not fail to deliver."""
        return max(tip, *(s.told for s in self.sources.values() if not s.failures), 0)

    def is_too_old(self, tip: int) -> bool:
        """True when all that are ahead have dropped the tip's child."""
        ahead = [source.first for source in self.sources.values() if source.told > tip]
        return bool(ahead) and min(ahead) > tip + 1

    # ------------------------------------------------------------------ what to ask

    def next(self, tip: int, now_s: float) -> Ask | None:
        """The next request to make, already counted as made; None when there is none now."""
        if len(self._asks) + len(self._held) < PIECES_MAX:
            first, end = self._gap(tip)
            peer_id = self._choose(first, now_s)
            if peer_id is not None:
                count = max(1, min(PIECE_BLOCKS_MAX, int(PIECE_BYTES / self.block_bytes)))
                last = min(first + count - 1, self.sources[peer_id].told, end)
                if not (first > self._asked_to and last < first + count - 1 and now_s < self._paced_until_s):
                    if last > self._asked_to:
                        self._asked_to, self._paced_until_s = last, now_s + FOLLOW_PACE_S
                    return self._make(peer_id, first, last, now_s)
        return self._hedge(tip, now_s)

    def _gap(self, tip: int) -> tuple[int, int]:
        """The lowest heights that nobody is asked for and that do not wait here."""
        first = tip + 1
        taken = [(ask.first, ask.last) for ask in self._asks.values()] + list(self._held.items())
        for begin, last in sorted(taken):
            if begin > first:
                return first, begin - 1
            first = max(first, last + 1)
        return first, 1 << 62

    def _choose(self, first: int, now_s: float, but: str = "") -> str | None:
        """Whom to ask: those that deliver first, then the least busy, in turns."""
        ready = [
            (source.failures, source.asked, source.used, peer_id)
            for peer_id, source in self.sources.items()
            if source.told >= first >= source.first
            and source.rest_until_s <= now_s
            and source.asked < PIECES_PER_SOURCE
            and peer_id != but
        ]
        return min(ready)[3] if ready else None

    def _hedge(self, tip: int, now_s: float) -> Ask | None:
        """The lowest piece again, from another source, when its own takes long and nobody else was asked."""
        lowest = [ask for ask in self._asks.values() if ask.first <= tip + 1]
        if len(lowest) != 1 or now_s < lowest[0].since_s + FOLLOW_HEDGE_S:
            return None
        ask = lowest[0]
        peer_id = self._choose(ask.first, now_s, but=ask.peer_id)
        if peer_id is None:
            return None
        self.hedged += 1
        return self._make(peer_id, ask.first, min(ask.last, self.sources[peer_id].told), now_s)

    def _make(self, peer_id: str, first: int, last: int, now_s: float) -> Ask:
        self._number += 1
        source = self.sources[peer_id]
        source.used = self._number
        source.asked += 1
        ask = self._asks[self._number] = Ask(self._number, peer_id, first, last, now_s)
        return ask

    def wait_s(self, tip: int, now_s: float) -> float:
        """How long `next` has nothing new, unless something else happens."""
        due = [
            source.rest_until_s
            for source in self.sources.values()
            if source.told > tip and source.first <= tip + 1 and source.asked < PIECES_PER_SOURCE
        ]
        if any(source.told > max(tip, self._asked_to) for source in self.sources.values()):
            due.append(self._paced_until_s)
        due += [ask.since_s + FOLLOW_HEDGE_S for ask in self._asks.values() if ask.first <= tip + 1]
        later = [at_s - now_s for at_s in due if at_s > now_s]
        return min(later, default=3600.0)

    def others(self, ask: Ask) -> bool:
        """Could somebody else be asked for this piece?"""
        return any(s.told >= ask.first >= s.first for peer, s in self.sources.items() if peer != ask.peer_id)

    # ------------------------------------------------------------------ what came of it

    def delivered(self, ask: Ask, last: int, size_bytes: int, now_s: float) -> list[Ask] | None:
        """Its blocks up to `last` are here and proved: they wait. Returns the requests for the same blocks
        that are not needed any more; who was so slow that a second one was asked rests. None: it was given
        up meanwhile, and nothing waits."""
        if self._asks.pop(ask.number, None) is None:
            return None
        source = self.sources.get(ask.peer_id)
        if source is not None:
            source.asked -= 1
            source.failures = 0
        self._held[ask.first] = max(last, self._held.get(ask.first, 0))
        count = last - ask.first + 1
        self.block_bytes += (size_bytes / count - self.block_bytes) / 2
        beaten = [other for other in self._asks.values() if other.first == ask.first]
        for other in beaten:
            self.failed(other, now_s)
        return beaten

    def failed(self, ask: Ask, now_s: float) -> None:
        """It brought nothing (late, refused, less than it told): it rests, longer each time."""
        source = self._drop(ask)
        if source is None or source.rest_until_s > now_s:
            return  # it rests already: what was under way beside it does not count twice
        rest_s = FOLLOW_BACKOFF_S * 2 ** min(source.failures, 16)
        source.failures += 1
        source.rest_until_s = now_s + min(rest_s, FOLLOW_BACKOFF_MAX_S)

    def lied(self, ask: Ask, now_s: float) -> list[Ask]:
        """It brought what does not prove itself. Returns what else it was asked for: to be given up."""
        source = self._drop(ask)
        if source is not None:
            source.failures += 1
            source.rest_until_s = now_s + FOLLOW_LIED_REST_S
        more = [other for other in self._asks.values() if other.peer_id == ask.peer_id]
        for other in more:
            self._drop(other)
        return more

    def lacks(self, peer_id: str, first: int) -> None:
        """A source dropped the blocks below `first`."""
        source = self.sources.get(peer_id)
        if source is not None:
            source.first = max(source.first, first)

    def forget(self) -> None:
        """Nothing is under way and nothing waits any more: the chain goes on from another place."""
        for ask in list(self._asks.values()):
            self._drop(ask)
        self._held.clear()
        self._asked_to = 0

    def given_up(self, ask: Ask) -> None:
        """A request was cancelled through nobody's fault."""
        self._drop(ask)

    def _drop(self, ask: Ask) -> Source | None:
        source = self.sources.get(ask.peer_id)
        if self._asks.pop(ask.number, None) is not None and source is not None:
            source.asked -= 1
        return source

    # ------------------------------------------------------------------ what waits here

    def ready(self, tip: int) -> int | None:
        """The first height of a piece that waits and holds the tip's child."""
        return next((first for first, last in self._held.items() if first <= tip + 1 <= last), None)

    def used(self, first: int) -> None:
        """A piece that waited is committed, or not wanted."""
        self._held.pop(first, None)

    def past(self, tip: int) -> list[int]:
        """The pieces that wait and were committed by another way; they wait no more."""
        found = [first for first, last in self._held.items() if last <= tip]
        for first in found:
            del self._held[first]
        return found
