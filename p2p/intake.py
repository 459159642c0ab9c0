"""What one neighbour brings by gossip, and how much of it is judged: see ``p2p.gossip``."""

import trio

from p2p.budget import Budget, Slowed
from p2p.limits import GOSSIP_RATE_PER_S, GOSSIP_TOPIC_BURST, GOSSIP_TOPIC_RATE_PER_S, TOPICS_MAX


class Intake:
    """What one neighbour brings: on each topic, in its own name, and in all."""

    def __init__(self, slowed: Slowed) -> None:
        self.slowed = slowed
        now = trio.current_time()
        self._total = Budget(GOSSIP_RATE_PER_S, TOPICS_MAX * GOSSIP_TOPIC_BURST, now)
        self._own = Budget(GOSSIP_TOPIC_RATE_PER_S, GOSSIP_TOPIC_BURST, now)
        # Its frames, whatever is in them, nothing included; each takes two or three reads.
        self._reads = Budget(3 * GOSSIP_RATE_PER_S, 3 * TOPICS_MAX * GOSSIP_TOPIC_BURST, now)
        self._topics: dict[str, Budget] = {}  # of topics that we subscribe to, so they are few

    def admits(self, topic: str, is_own: bool) -> bool:
        """Counts a message of the neighbour. Returns whether it is to be judged."""
        now = trio.current_time()
        self._total.spend(now)
        if is_own:
            self._own.spend(now)
        budget = self._topics.get(topic)
        if budget is None:
            budget = self._topics[topic] = Budget(GOSSIP_TOPIC_RATE_PER_S, GOSSIP_TOPIC_BURST, now)
        return budget.spend(now)

    def spend_total(self) -> None:
        """Counts a message that is known already; an honest neighbour brings each once."""
        self._total.spend(trio.current_time())

    def spend_read(self) -> None:
        """Counts a read of its stream."""
        self._reads.spend(trio.current_time())

    def spend_own(self) -> None:
        """Counts what the neighbour says in its own name."""
        self._own.spend(trio.current_time())

    def debt_s(self) -> tuple[float, bool]:
        """Returns how long not to read from it, and whether that is its own doing: what it passes on, others
        may have made in order to have it punished."""
        now = trio.current_time()
        total_s, own_s = self._total.debt_s(now), self._own.debt_s(now)
        return max(total_s, own_s, self._reads.debt_s(now)), own_s > 0
