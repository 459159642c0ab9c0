"""State sync of a simulated node (`node.sync.state_sync`): the production's offers, chunks, proofs and
staging; when to ask whom is the simulator's own, as that half of the production needs an event loop.

What runs as it is: `Snapshots.take`, `Spool`, `Shelf.cut`, `check_chunk`, `Staging`, `Trust.final`,
`Notary.check_range`, `StateFetch._seen` and `_keep`, `Store.adopt`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ledger.blocks import Header, decode_header
from ledger.codec import decode, encode
from ledger.errors import Refused
from ledger.proofs.light import FinalityProof
from ledger.proofs.tree import path_of
from ledger.storage.snapshot import is_within, place_of
from ledger.storage.staging import Staging
from ledger.storage.stored import Tip
from node.limits import RANGE_BYTES_MAX
from node.sync.ranges import answer_range, decode_range
from node.sync.snapshots import named_state
from node.sync.spool import Spool
from node.sync.state_fetch import StateFetch
from node.sync.state_wire import ChunkRequest, Offer, decode_chunk_request, decode_offers
from node.wire import RangeRequest

if TYPE_CHECKING:
    from tests.sim.pruned import PrunedNode

LOOK_MS: Final = 100
ASK_AGAIN_MS: Final = 300  # a source that is silent, or a message that was lost
STALE_MS: Final = 3_000  # with nothing new: other offers
PLACES_AT_ONCE: Final = 2
CHUNK_BYTES: Final = 1_500  # small: a state has many; more than the largest pair, as `Shelf.cut` wants
WINDOW_BLOCKS: Final = 6  # of one answer
_OFFERS, _OFFERED, _CHUNK, _PART, _BLOCKS, _RANGE = b"?", b"!", b"c", b"C", b"b", b"B"


class States:
    """Of one node: gives states, and takes one when its blocks are nowhere any more."""

    def __init__(self, node: PrunedNode) -> None:
        self.node = node
        self.is_on = False
        self.fetch: StateFetch | None = None
        self.banned: set[str] = set()
        self.offers: dict[bytes, tuple[FinalityProof, set[int]]] = {}
        self.asked_us: dict[int, int] = {}  # when a place, or (-1) a range, was asked for
        self.came_us = 0

    # ------------------------------------------------------------------ answers

    def receive(self, sender: int, body: bytes) -> None:
        """A message about states."""
        kind, body = body[:1], body[1:]
        try:
            match kind:
                case b"?":
                    self.say(sender, _OFFERED, encode(self._offers()))
                case b"c":
                    self._give(sender, body)
                case b"b":
                    self.say(sender, _RANGE, answer_range(self.node.store, body))
        except Refused:
            return  # what is not held (any more): the asker asks another
        try:
            match kind:
                case b"!":
                    self._offered(sender, body)
                case b"C" if self.fetch is not None:
                    self._part(sender, body)
                case b"B" if self.fetch is not None:
                    self._range(sender, body)
        except Refused as error:
            self.banned.add(str(sender))
            self.node.world.lied(self.node, sender, error)

    def say(self, to: int, kind: bytes, body: bytes) -> None:
        """A message about states to a member."""
        self.node.post(to, b"S" + kind + body)

    def _offers(self) -> tuple[Offer, ...]:
        snapshots = self.node.snapshots
        found = (snapshots._finality(snapshots._snapshots[h]) for h in reversed(snapshots.heights))
        return tuple(Offer(finality) for finality in found if finality is not None)

    def _give(self, sender: int, body: bytes) -> None:
        request = decode_chunk_request(body)
        snapshot = self.node.snapshots._snapshots.get(request.height)
        if snapshot is None:
            raise Refused("snapshot.gone", f"no state of height {request.height} is on offer")
        if snapshot.spool is None:
            snapshot.spool = Spool(snapshot.state, None, lambda: False)
            if snapshot.spool.shelf.root != snapshot.root:
                what = f"node {self.node.id} offers another state than was signed"
                self.node.world.report("InstalledState", what)
        chunk = encode(snapshot.spool.shelf.cut(place_of(request.place), request.size_bytes_max))
        changed = self.node.world.changed_chunk(self.node, chunk)
        if changed is not None:
            self.say(sender, _PART, encode((request.height, request.place, changed)))

    # ------------------------------------------------------------------ fetching

    def begin(self) -> None:
        """Our tip's child is nowhere any more."""
        if not self.is_on:
            self.is_on = True
            self.node.world.result.faults["state.wanted"] += 1
            self._start_over()
            self.look(self.node.life)

    def _start_over(self) -> None:
        self.fetch, self.offers, self.asked_us = None, {}, {}
        self.came_us = self.node.world.now_us

    def look(self, life: int) -> None:
        """Ask for what is missing; again and again."""
        node, world = self.node, self.node.world
        if life != node.life or not self.is_on:
            return
        world.at(world.now_us + LOOK_MS * 1_000, node, self.look, life)
        if world.now_us - self.came_us > STALE_MS * 1_000:
            self._start_over()
        if self.fetch is None:
            self._choose()
        else:
            self._ask()

    def _others(self) -> list[int]:
        members = (m for m in range(len(self.node.world.instances)) if m != self.node.member)
        return [m for m in members if str(m) not in self.banned]

    def _may_ask(self, what: int) -> bool:
        now_us = self.node.world.now_us
        if now_us - self.asked_us.get(what, -(1 << 40)) < ASK_AGAIN_MS * 1_000:
            return False
        self.asked_us[what] = now_us
        return True

    def _choose(self) -> None:
        """What was begun, then what most offer, then the newest; as `StateSync._in_order`."""
        node = self.node
        begun = Staging(node.store.stage()).status
        found = []
        for anchor, members in self.offers.values():
            height, root = named_state(anchor)
            if height > node.height:
                found.append((begun is not None and begun.root == root, len(members), height, anchor, root))
        if not found:
            if self._may_ask(-2):
                for member in self._others():
                    self.say(member, _OFFERS, b"")
            return
        _, _, height, anchor, root = max(found, key=lambda one: one[:3])
        staging = Staging(node.store.stage())
        if staging.status is None or (staging.now.height, staging.now.root) != (height, root):
            node.new_stage()
            staging = Staging(node.store.stage())
            staging.begin(height, root)
        else:
            node.world.result.faults["state.resumed"] += 1
        if staging.now.blocks >= decode(Header, anchor.header).height:  # as of a later header
            staging.remember((), 0, b"")
        network: Any = None
        self.fetch = StateFetch(network, node.notary, staging, anchor, list, self.banned)
        self.asked_us = {}
        self._ask()

    def _offered(self, sender: int, body: bytes) -> None:
        for offer in decode_offers(body):
            self.node.notary.trust.final(offer.anchor)
            self.offers.setdefault(offer.anchor.header, (offer.anchor, set()))[1].add(sender)

    def _ask(self) -> None:
        assert self.fetch is not None, "a state was chosen"
        node, staging, others = self.node, self.fetch.staging, self._others()
        if not others:
            return
        places = [p for p in staging.todo[:PLACES_AT_ONCE] if self._may_ask(p)]
        for place in places:
            request = ChunkRequest(staging.now.height, path_of(place), CHUNK_BYTES)
            self.say(node.world.rng.choice(others), _CHUNK, encode(request))
        if staging.todo:
            return
        first = max(node.window_first(staging.now.height), staging.now.blocks + 1)
        if first >= decode(Header, self.fetch.anchor.header).height:
            self._install()
        elif self._may_ask(-1):
            request_ = RangeRequest(first, RANGE_BYTES_MAX, WINDOW_BLOCKS)
            self.say(node.world.rng.choice(others), _BLOCKS, encode(request_))

    def _part(self, sender: int, body: bytes) -> None:
        """A chunk, for the place that was asked for. Raises Refused for a lie."""
        assert self.fetch is not None, "a state is being fetched"
        staging = self.fetch.staging
        height, asked, data = decode(tuple[int, bytes, bytes], body)
        place = place_of(asked)
        if height != staging.now.height or place not in staging.todo:
            return  # it came twice, or of a state that is not wanted any more
        proved = self.node.check_chunk(staging.now.root, data)
        if not is_within(proved.place, place):
            raise Refused("snapshot.place", "not below the place that was asked for")
        self.node.may_crash("in_state")
        staging.take(proved, place)
        self._came("state.chunk")

    def _range(self, sender: int, body: bytes) -> None:
        """Blocks of the replay window. Raises Refused for a lie."""
        assert self.fetch is not None, "a state is being fetched"
        fetch, status = self.fetch, self.fetch.staging.now
        blocks = decode_range(body)
        first = decode_header(blocks[0].header).height if blocks else 0
        wanted = max(self.node.window_first(status.height), status.blocks + 1)
        if fetch.staging.todo or first != wanted:
            return
        parent = status.parent or decode_header(blocks[0].header).parent_hash
        covered = fetch.judge.check_range(blocks, Tip(first - 1, parent, 0, 0, b"", 0))
        end = decode(Header, fetch.anchor.header).height
        rows = []
        for block, proved in zip(blocks, covered, strict=False):
            if proved.header.height >= end:
                break
            if proved.header.height <= status.height and len(block.batches) != len(proved.header.batches):
                self.node.world.report("InstalledState", "a block of the window came without batches")
                break
            guards = proved.header.height <= status.height and block.batches
            rows.append((block, proved.header, fetch._seen(proved, block.batches) if guards else []))
        self.node.may_crash("in_window")
        fetch._keep(rows)
        self._came("state.window")

    def _came(self, what: str) -> None:
        self.node.world.result.faults[what] += 1
        self.came_us = self.node.world.now_us
        self.asked_us.pop(-1, None)
        self._ask()

    def _install(self) -> None:
        """The state takes the place of ours, unless blocks were faster; as `StateSync._install`."""
        fetch, node = self.fetch, self.node
        assert fetch is not None, "a state was fetched"
        if fetch.staging.now.parent != decode(Header, fetch.anchor.header).parent_hash:
            node.world.report("InstalledState", "the window is not of the anchor's chain")
        self.is_on, self.fetch = False, None
        if fetch.staging.now.height <= node.height:
            node.new_stage()
            return
        node.may_crash("before_finish")
        fetch.staging.finish({})
        node.may_crash("before_adopt")
        node.adopt()
