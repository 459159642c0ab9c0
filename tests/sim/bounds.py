"""Nothing runs away: what a validator keeps in memory and on its disk beside the chain, and what it sends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.limits import HEADERS_MAX, RECENT_HEADERS, RELAYS_MAX, WANTS_MAX
from consensus.messages import Message
from tests.sim.checkers import Checker, Report
from tests.sim.disk import Block

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.world import World


class Memory(Checker):
    """What a core holds, after each commit: its own limits, and votes of views above the tip only.

    The sign state holds what is above the tip: a handful of records for each view since.
    """

    SIGNATURES_PER_VIEW = 4  # for each member: Notar, Final, Skip, and one of a twin
    KEPT_PER_VIEW = 16  # records, certificates, batches and who uses them

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        self.most: dict[str, int] = {}

    def committed(self, node: SimNode, block: Block) -> None:
        core = node.core
        open_views = core.frontier - core.chain.tip.view + 64
        signatures = sum(len(votes) for view in core.views.values() for votes in view.signatures.values())
        members = len(self.world.validators.members)
        self._bound(node, "headers", len(core.chain.headers), min(HEADERS_MAX, open_views * 4))
        self._bound(node, "recent headers", len(core.chain.recent), RECENT_HEADERS)
        self._bound(node, "views", len(core.views), open_views)
        self._bound(node, "wants", len(core.wants.wants), WANTS_MAX)
        self._bound(node, "relays", len(core.relay.waiting), RELAYS_MAX)
        self._bound(node, "signatures", signatures, open_views * members * self.SIGNATURES_PER_VIEW)
        self._bound(node, "pairs of sign state", len(node.disk.durable), open_views * self.KEPT_PER_VIEW)

    def _bound(self, node: SimNode, what: str, found: int, most: int) -> None:
        self.most[what] = max(found, self.most.get(what, 0))
        if found > most:
            self.complain(f"node {node.id} holds {found} {what}, at most {most}")


class Egress(Checker):
    """Bytes that a validator's core sends in a second, to all members together; batches travel apart."""

    BYTES_PER_SECOND = 150_000  # honest runs need a fifth of it

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        self.second: dict[int, tuple[int, int]] = {}
        self.most = 0

    def posted(self, node: SimNode, message: Message, size_bytes: int, to: int | None) -> None:
        """A message left, once or to all others."""
        copies = len(self.world.validators.members) - 1 if to is None else 1
        now_s = self.world.now_us // 1_000_000
        second, sent = self.second.get(node.id, (now_s, 0))
        sent = size_bytes * copies + (sent if second == now_s else 0)
        self.second[node.id] = now_s, sent
        self.most = max(self.most, sent)
        if sent > self.BYTES_PER_SECOND >= sent - size_bytes * copies:
            self.complain(f"node {node.id} sends {sent:,} bytes within second {now_s}")
