"""What each peer's behaviour has earned it: counters by name, scores that recover, and bans that end."""

from collections import Counter, OrderedDict
from collections.abc import Callable

from p2p.limits import BAN_S, BANS_MAX, SCORE_MAX, SCORE_MIN, SCORE_RECOVERY_PER_S
from p2p.network import Ban

_COUNTER_NAMES_MAX = 512  # rules are ours and few; this only guards against a rule made from foreign text


class Standing:
    """Scores and bans; ``now`` gives monotonic seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.counts: Counter[str] = Counter()
        self._now = now
        self._scores: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._faults: dict[str, str] = {}  # of those that have a score: the last rule broken
        self._bans: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def count(self, name: str) -> None:
        """Adds one to a counter."""
        if name not in self.counts and len(self.counts) >= _COUNTER_NAMES_MAX:
            name = "other"
        self.counts[name] += 1

    def score(self, peer_id: str) -> int:
        """Returns the peer's score now: 0 is spotless, SCORE_MIN bans."""
        value, at = self._scores.get(peer_id, (float(SCORE_MAX), 0.0))
        return round(min(SCORE_MAX, value + (self._now() - at) * SCORE_RECOVERY_PER_S))

    def fault(self, peer_id: str, rule: str, points: int) -> bool:
        """Counts a broken rule and lowers the score; returns True when that bans the peer."""
        self.count(f"fault.{rule}")
        value = max(SCORE_MIN, self.score(peer_id) - max(0, points))
        self._scores[peer_id] = (float(value), self._now())
        self._faults[peer_id] = rule
        self._scores.move_to_end(peer_id)
        while len(self._scores) > BANS_MAX:
            self._faults.pop(self._scores.popitem(last=False)[0], None)
        if value > SCORE_MIN:
            return False
        self.count("banned")
        self._bans[peer_id] = (rule, self._now() + BAN_S)
        self._bans.move_to_end(peer_id)
        while len(self._bans) > BANS_MAX:
            self._bans.popitem(last=False)
        # After its ban the peer starts half forgiven, so that one more fault does not ban it again at once.
        self._scores[peer_id] = (SCORE_MIN / 2, self._now() + BAN_S)
        return True

    def last_fault(self, peer_id: str) -> str:
        """Returns the rule that the peer broke last, "" when its score is spotless again."""
        return self._faults.get(peer_id, "") if self.score(peer_id) < SCORE_MAX else ""

    def forgive(self, peer_id: str) -> bool:
        """Forgets a peer's faults and lifts its ban; returns whether there was one in force."""
        was_banned = self.is_banned(peer_id)
        self._bans.pop(peer_id, None)
        self._scores.pop(peer_id, None)
        self._faults.pop(peer_id, None)
        return was_banned

    def is_banned(self, peer_id: str) -> bool:
        """Returns whether a ban on that peer is in force; forgets one that has ended."""
        ban = self._bans.get(peer_id)
        if ban is None:
            return False
        if ban[1] <= self._now():
            del self._bans[peer_id]
            return False
        return True

    def banned(self) -> tuple[Ban, ...]:
        """Returns the bans in force, sorted by peer id."""
        now = self._now()
        return tuple(
            Ban(peer, rule, round(until - now, 3))
            for peer, (rule, until) in sorted(self._bans.items())
            if until > now
        )
