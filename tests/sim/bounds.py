"""Nothing runs away: what a validator keeps in memory and on its disk beside the chain, and what it sends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.limits import HEADERS_MAX, RECENT_HEADERS, RELAYS_MAX, WANTS_MAX
from consensus.messages import Message
from ledger.transactions import decode_tx
from node.limits import VERIFIED_MAX
from node.voting.mempool import Usage
from tests.sim.checkers import Checker, Report
from tests.sim.clients import SMALL_POOL

if TYPE_CHECKING:
    from tests.sim.node import Block, SimNode
    from tests.sim.world import World


class Memory(Checker):
    """What a core holds, after each commit: its own limits, and votes of views above the tip only.

    The sign state holds what is above the tip: a handful of records for each view since.
    """

    SIGNATURES_PER_VIEW = 4  # for each member: Notar, Final, Skip, and one of a twin
    KEPT_PER_VIEW = 6  # three votes and three certificates
    LOOK_EVERY = 8  # heights
    WANTED_BYTES = 256 * 1024  # of batches that blocks name: of the last proposals of all

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        self.most: dict[str, int] = {}

    def committed(self, node: SimNode, block: Block) -> None:
        if node.is_waiting:
            return  # its core has not begun
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
        if block.header.height % self.LOOK_EVERY == 0:
            kept = sum(1 for prefix in (b"v/", b"c/") for _ in node.disk.scan(prefix))
            self._bound(node, "votes and certificates on disk", kept, open_views * self.KEPT_PER_VIEW)
        self.flooded(node)

    def flooded(self, node: SimNode) -> None:
        """Its own bounds, and that it counts rightly; a batch that consensus wants is held above them."""
        pool, limits = node.mempool, SMALL_POOL
        held = sum(len(batch.data) for batch in pool.batches.values())
        waiting = sum(len(tx.raw) for tx in pool.pending)
        wanted = self.WANTED_BYTES
        self._bound(node, "bytes of mempool", held + waiting, limits["MEMPOOL_BYTES_MAX"] + wanted)
        for maker, size in pool.by_maker.items():
            if maker != node.member:
                self._bound(node, "bytes of a maker", size, limits["MEMPOOL_MAKER_BYTES_MAX"] + wanted)
        own = sum(batch.count for d, batch in pool.batches.items() if pool.makers[d] == node.member)
        most = limits["MEMPOOL_TXS_MAX"] + node.taken_back
        self._bound(node, "own transactions", own + len(pool.pending), most)
        self._bound(node, "known transactions", len(pool.known.txs), VERIFIED_MAX)
        if pool.size_bytes != held + waiting or pool.pending_bytes != waiting:
            self.complain(f"node {node.id}: {held + waiting} bytes of mempool, it counts {pool.size_bytes}")

    def _bound(self, node: SimNode, what: str, found: int, most: int) -> None:
        self.most[what] = max(found, self.most.get(what, 0))
        if found > most:
            self.complain(f"node {node.id} holds {found} {what}, at most {most}")


class Bounded(Checker):
    """Nothing runs away: consensus messages per node and second, and what a core keeps in memory."""

    MESSAGES_PER_SECOND = 3_000
    TICKS_PER_SECOND = 500
    VIEWS = 1_500

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        self.counts: dict[tuple[int, str, int], int] = {}

    def count(self, node: SimNode, what: str, limit: int) -> None:
        key = (node.id, what, self.world.now_us // 1_000_000)
        self.counts[key] = self.counts.get(key, 0) + 1
        if self.counts[key] == limit:
            self.complain(f"node {node.id}: {limit} {what} within second {key[2]}")

    def sent(self, node: SimNode, message: Message) -> None:
        self.count(node, "messages", self.MESSAGES_PER_SECOND)

    def ticked(self, node: SimNode) -> None:
        """A timer of the node went off."""
        self.count(node, "ticks", self.TICKS_PER_SECOND)
        if len(node.core.views) > self.VIEWS:
            self.complain(f"node {node.id} keeps {len(node.core.views)} views")

    def turned_away(self, node: SimNode, raw: bytes) -> None:
        """A mempool had no room for an honest client's transaction: then it is full, its account has more
        under way than one may, or the clients together more than they leave free; and no flood of another
        account alone brought that about."""
        pool, limits = node.mempool, SMALL_POOL
        txs, waiting = pool.pending.usage("clients")
        used = pool.senders.get(decode_tx(raw, self.world.chain_id).tx.sender, Usage())
        full = len(pool.places) >= limits["MEMPOOL_TXS_MAX"]
        full |= pool.size_bytes + len(raw) > limits["MEMPOOL_BYTES_MAX"]
        greedy = used.txs >= limits["MEMPOOL_SENDER_TXS_MAX"]
        greedy |= txs >= limits["MEMPOOL_TXS_MAX"] - len(pool.places)
        greedy |= waiting + len(raw) > limits["MEMPOOL_BYTES_MAX"] - pool.size_bytes
        if not full and not greedy:
            self.complain(f"node {node.id} turned a transaction away, with room for it")


class Egress(Checker):
    """Bytes that a validator's core sends in a second, to all members together; batches travel apart."""

    BYTES_PER_SECOND = 80_000  # to each other member: views are as short as links of 1 ms let them be

    def __init__(self, world: World, report: Report) -> None:
        super().__init__(world, report)
        self.second: dict[int, tuple[int, int]] = {}
        self.most = 0

    def posted(self, node: SimNode, message: Message, size_bytes: int, to: int | None) -> None:
        """A message left, once or to all others."""
        others = len(self.world.validators.members) - 1
        copies, most = others if to is None else 1, others * self.BYTES_PER_SECOND
        now_s = self.world.now_us // 1_000_000
        second, sent = self.second.get(node.id, (now_s, 0))
        sent = size_bytes * copies + (sent if second == now_s else 0)
        self.second[node.id] = now_s, sent
        self.most = max(self.most, sent)
        if sent > most >= sent - size_bytes * copies:
            self.complain(f"node {node.id} sends {sent:,} bytes within second {now_s}")
