"""All links of one peer: who may connect, who is a neighbour, who is dialled when. The same for libp2p and
memory."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from p2p import discovery, room
from p2p.book import PeerBook, keep_saved, write_book
from p2p.errors import ConnectFailed, LocalError, PeerFault, PeerGone, Refused, RequestError
from p2p.exchange import Exchange
from p2p.ids import relay_of_address
from p2p.limits import (
    DIAL_TICK_S,
    DIALS_AT_ONCE_MAX,
    FAULT_POINTS,
    INSTANCE_BYTES,
    LINKS_PENDING_MAX,
    LINKS_PENDING_OF_GROUP_MAX,
    NEIGHBOURS_MAX,
    PAYLOAD_BYTES_MAX,
    REFUSAL_ADDRESSES_MAX,
)
from p2p.link import Link, Pace
from p2p.network import Ban, Handlers, Lane, Neighbour
from p2p.operator import Operator
from p2p.reach import DialRation
from p2p.standing import Standing
from p2p.transport import Connection, Transport


@dataclass(frozen=True, slots=True)
class Policy:
    """How a peer finds and bounds its neighbours; ``random_seed`` None takes the system's randomness."""

    bootstrap: tuple[str, ...] = ()
    book_path: Path | None = None
    neighbours_max: int = NEIGHBOURS_MAX
    pace: Pace = field(default_factory=Pace)
    random_seed: int | None = None


class Switchboard:
    """Holds at most one link per peer and redials. Raises LocalError for a malformed bootstrap address."""

    def __init__(self, transport: Transport, policy: Policy) -> None:
        # No secret depends on it: jitter, the order of dials, and the name of this start.
        self.rng = random.Random(policy.random_seed)
        self.instance = self.rng.randbytes(INSTANCE_BYTES)
        self.peer_id = transport.peer_id
        self.standing = Standing(trio.current_time)
        self.ration = DialRation(trio.current_time)
        self.book = PeerBook(self.peer_id, self.rng, backoff_scale=policy.pace.backoff_scale)
        self.is_sheltered: Callable[[str], bool] = lambda peer_id: False  # beside the places, if linked
        self.on_link_up: Callable[[Link], None] = lambda link: None
        self.on_link_down: Callable[[Link], None] = lambda link: None
        self.operator = Operator(self.book, self.standing, self._end_links, self.look)
        self._transport = transport
        self._exchange = Exchange(self, transport, policy.pace)
        self._policy = policy
        self._handlers: Handlers | None = None
        self.links: dict[str, Link] = {}
        self._pending: set[Link] = set()
        self._dialling: dict[str, str] = {}  # peer id -> the address, of those that are being dialled
        self._wake = trio.Event()
        self._ready = trio.Event()
        self._nursery: trio.Nursery | None = None
        for address in policy.bootstrap:
            self.book.learn(address, pinned=True)

    # --- what the network's user calls ---------------------------------------------------------------------

    def neighbours(self) -> tuple[Neighbour, ...]:
        """See ``Network.neighbours``."""
        return tuple(self._describe(link) for _, link in sorted(self.links.items()))

    def send(self, peer_id: str, lane: Lane, payload: bytes) -> bool:
        """See ``Network.send``."""
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise LocalError(f"message: {len(payload)} B, at most {PAYLOAD_BYTES_MAX} B")
        link = self.links.get(peer_id)
        if link is not None and link.send(lane, payload):
            return True
        self.standing.count("shed.no_neighbour" if link is None else f"shed.{lane.value}")
        return False

    async def request(self, peer_id: str, method: str, body: bytes, timeout_s: float) -> bytes:
        """See ``Network.request``."""
        if len(body) > PAYLOAD_BYTES_MAX:
            raise LocalError(f"request: {len(body)} B, at most {PAYLOAD_BYTES_MAX} B")
        link = self.links.get(peer_id)
        try:
            if link is None:
                raise PeerGone(f"peer {peer_id} is not connected")
            return await link.request(method, body, timeout_s)
        except RequestError as error:
            self.standing.count(f"request.{type(error).__name__}")
            raise

    def penalise(self, peer_id: str, rule: str, points: int) -> None:
        """See ``Network.penalise``."""
        if self.standing.fault(peer_id, rule, points):
            self._end_links(peer_id, f"banned: {rule}")

    def _end_links(self, peer_id: str, reason: str) -> None:
        for link in [*self._pending, *self.links.values()]:
            if link.peer_id == peer_id:
                link.end(reason, goodbye=True)

    def look(self) -> None:
        """Makes the dialler look for due dials."""
        self._wake.set()

    def is_banned(self, peer_id: str) -> bool:
        """Is that peer refused now, by the operator or for its faults?"""
        return peer_id in self.book.banned or self.standing.is_banned(peer_id)

    def announce(self) -> None:
        """Our addresses have changed: tells all neighbours."""
        if self._nursery is not None:
            for link in list(self.links.values()):
                self._nursery.start_soon(self._exchange.ask, link)

    def add_peer(self, address: str, *, keep: bool) -> None:
        """See ``Network.add_peer``."""
        self.book.learn(address, keep=keep)
        self._wake.set()

    def hold(self, peer_ids: frozenset[str]) -> None:
        """See ``Network.hold``."""
        before = self.book.held
        self.book.hold(peer_ids)
        if self.book.held != before:
            self._wake.set()

    def banned(self) -> tuple[Ban, ...]:
        """See ``Network.banned``."""
        by_hand = [Ban(peer_id, reason, None) for peer_id, reason in self.book.banned.items()]
        found = [ban for ban in self.standing.banned() if ban.peer_id not in self.book.banned]
        return tuple(sorted([*found, *by_hand], key=lambda ban: ban.peer_id))

    def stats(self) -> dict[str, int]:
        """See ``Network.stats``; adds the state of now: ``neighbours``, ``known_peers``."""
        return {
            **self.standing.counts,
            "neighbours": len(self.links),
            "known_peers": len(self.book.entries),
        }

    # --- running -------------------------------------------------------------------------------------------

    async def run(self, handlers: Handlers) -> None:
        """Dials and holds links until cancelled."""
        self._handlers = handlers
        self._load_book()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._ready.set()
                nursery.start_soon(self._dial_loop)
                nursery.start_soon(self._exchange.run)
                if self._policy.book_path is not None:
                    nursery.start_soon(keep_saved, self.book, self._policy.book_path)
        finally:
            if self._policy.book_path is not None and self.book.changed:
                write_book(self._policy.book_path, self.book.snapshot())

    async def incoming(self, connection: Connection) -> None:
        """Lives as long as the inbound connection; refuses it when there is no room or the peer is banned."""
        if self.is_banned(connection.peer_id):
            self.standing.count("refused.banned")
        elif len(self._pending) >= LINKS_PENDING_MAX or self._crowds(connection):
            self.standing.count("refused.pending")
        else:
            await self._ready.wait()
            await self.run_link(connection)
            return
        await connection.close()

    def _crowds(self, connection: Connection) -> bool:
        pending = room.groups([link.address for link in self._pending if link.inbound])
        return pending[room.group_of(connection.address)] >= LINKS_PENDING_OF_GROUP_MAX

    async def run_link(self, connection: Connection) -> Link:
        """Lives as long as a link over that connection. Returns the link, ended."""
        link = Link(connection, self, self._policy.pace)
        self._pending.add(link)
        try:
            await link.run()
        finally:
            self._pending.discard(link)
            self._drop(link)
        return link

    def _drop(self, link: Link) -> None:
        """Ends the neighbourhood of a link, once, if it is still the one to its peer."""
        if self.links.get(link.peer_id) is not link:
            return
        del self.links[link.peer_id]
        self.standing.count("link.down")
        self.book.lost(link.peer_id, trio.current_time())
        self.on_link_down(link)
        assert self._handlers is not None
        self._handlers.on_down(link.peer_id, link.reason)
        self._wake.set()

    # --- what a link asks ----------------------------------------------------------------------------------

    def hello_for(self, peer_id: str) -> bytes:
        """Returns our hello text for that peer."""
        assert self._handlers is not None
        return self._handlers.hello(peer_id)

    def check_hello(self, peer_id: str, text: bytes) -> None:
        """Raises PeerFault when the owner refuses the peer."""
        assert self._handlers is not None
        self._handlers.check_hello(peer_id, text)

    def admit(self, link: Link) -> str | None:
        """Makes the link the one to its peer, or returns why not."""
        peer_id = link.peer_id
        if self.is_banned(peer_id):
            return "banned"
        old = self.links.get(peer_id)
        if old is not None:
            # Two links of the same two processes, dialled from both sides: the smaller peer id's stays, and a
            # direct one before one through a relay. In all other cases the peer has started anew or given up
            # the old link, so the new one is the living one.
            dialler = peer_id if link.inbound else self.peer_id
            is_relayed, was_relayed = (relay_of_address(one.address) is not None for one in (link, old))
            is_same = old.instance == link.instance
            is_crossed = is_same and old.inbound != link.inbound and is_relayed == was_relayed
            is_detour = is_same and is_relayed and not was_relayed
            if is_detour or (is_crossed and dialler != min(peer_id, self.peer_id)):
                self.standing.count("link.duplicate")
                return "duplicate"
            old.end("replaced", goodbye=True)
            self._drop(old)
        elif not self._has_place(link) and not self._make_place(link):
            self.standing.count("refused.full")
            return self._refusal(peer_id)
        self.links[peer_id] = link
        self._pending.discard(link)
        self._dialling.pop(peer_id, None)
        self.standing.count("link.up")
        if not link.inbound:
            self.book.dialled(peer_id)
        assert self._handlers is not None
        assert self._nursery is not None
        self.on_link_up(link)
        self._handlers.on_up(self._describe(link))
        self._nursery.start_soon(self._exchange.ask, link)  # for us, or for whom we must refuse
        return None

    def _is_beside(self, peer_id: str) -> bool:
        return self.book.keeps(peer_id) or self.is_sheltered(peer_id)

    def places_left(self) -> int:
        """How many neighbours there is room for; kept connections stand beside the places."""
        taken = sum(not self._is_beside(peer_id) for peer_id in self.links)
        return self._policy.neighbours_max - taken

    def _guests(self) -> list[Link]:
        """Who dialled us, in the order in which they came, but for those that are kept."""
        return [link for link in self.links.values() if link.inbound and not self._is_beside(link.peer_id)]

    def _dialled(self) -> tuple[list[Link], int]:
        """Whom we dialled, but for those that are kept, oldest first; and how many they should be at most."""
        found = [x for x in self.links.values() if not x.inbound and not self.book.keeps(x.peer_id)]
        return found, room.dialled_max(self._policy.neighbours_max, len(self.book.entries))

    def _has_place(self, link: Link) -> bool:
        if self.book.keeps(link.peer_id):
            return True
        guests_max = room.inbound_max(self._policy.neighbours_max)
        return self.places_left() > 0 and (not link.inbound or len(self._guests()) < guests_max)

    def _make_place(self, link: Link) -> bool:
        guests, (dialled, most) = self._guests() if link.inbound else [], self._dialled()
        takes_more = link.inbound and len(guests) < room.inbound_max(self._policy.neighbours_max)
        if takes_more and len(dialled) > most:
            gone = dialled[-1]
        elif (found := room.gives_way([guest.address for guest in guests], link.address)) is not None:
            gone = guests[found]
        else:
            return False
        self.standing.count("link.gave_way")
        gone.end(self._refusal(gone.peer_id), goodbye=True)
        self._drop(gone)
        return True

    def _refusal(self, peer_id: str) -> str:
        """Who joins by one address finds others, also when that one is full."""
        return room.refusal(self.book.shareable(REFUSAL_ADDRESSES_MAX, self.links, peer_id))

    def on_data(self, link: Link, lane: Lane, payload: bytes) -> None:
        """Passes a message on; a PeerFault lowers the sender's score."""
        assert self._handlers is not None
        try:
            self._handlers.on_message(link.peer_id, lane, payload)
        except PeerFault as fault:
            self.on_fault(fault)

    async def serve(self, link: Link, method: str, body: bytes) -> bytes:
        """Returns the answer to a request; raises Refused."""
        assert self._handlers is not None
        self.standing.count("request.served")
        try:
            if method == discovery.METHOD:
                return self._exchange.answer(link, body)
            if method.startswith("p2p/"):
                raise Refused(f"unknown method {method}")
            return await self._handlers.serve(link.peer_id, method, body)
        except PeerFault as fault:
            self.on_fault(fault)
            raise Refused(fault.rule) from fault

    def on_slowed(self, lane: Lane) -> None:
        """Counts that a peer brings too much on a lane."""
        self.standing.count(f"slowed.{lane.value}")

    def on_fault(self, fault: PeerFault) -> None:
        """Counts and punishes a broken rule."""
        self.penalise(fault.peer, fault.rule, FAULT_POINTS)

    def _describe(self, link: Link) -> Neighbour:
        return Neighbour(
            peer_id=link.peer_id,
            address=link.address,
            inbound=link.inbound,
            hello=link.hello,
            since_ms=link.since_ms,
            rtt_ms=link.rtt_ms,
            score=self.standing.score(link.peer_id),
            bytes_in=link.bytes_in,
            bytes_out=link.bytes_out,
            dropped=link.dropped,
            fault=self.standing.last_fault(link.peer_id),
        )

    # --- dialling and finding ------------------------------------------------------------------------------

    async def _dial_loop(self) -> None:
        assert self._nursery is not None
        while True:
            now = trio.current_time()
            busy = [*self.links, *self._dialling, *(link.peer_id for link in self._pending)]
            here = room.groups([link.address for link in self.links.values()])
            due = self.book.due(now, busy)
            kept = {entry.peer_id for entry in due if self.book.keeps(entry.peer_id)}
            due.sort(key=lambda e: (e.peer_id not in kept, here[room.group_of(self.book.next_address(e))]))
            for entry in due:
                dialled, most = self._dialled()
                left = min(self.places_left(), most - len(dialled)) - len(self._dialling)
                if len(self._dialling) >= DIALS_AT_ONCE_MAX or (left <= 0 and entry.peer_id not in kept):
                    break
                address = self.book.next_address(entry)
                is_due = entry.peer_id in kept or self.ration.allows(address, self._dialling.values())
                if is_due and not self.is_banned(entry.peer_id):
                    self._dialling[entry.peer_id] = address
                    self._nursery.start_soon(self._dial, entry.peer_id, address)
            self._wake = trio.Event()
            with trio.move_on_after(DIAL_TICK_S * self._policy.pace.backoff_scale):
                await self._wake.wait()

    async def _dial(self, peer_id: str, address: str) -> None:
        try:
            try:
                connection = await self._transport.dial(address)
            except ConnectFailed:
                self.ration.failed(address)
                self.standing.count("dial.failed")
                self.book.failed(peer_id, trio.current_time())
                return
            self.standing.count("dial.connected")
            link = await self.run_link(connection)
            for other in room.read_refusal(link.reason):
                self.book.hear(other, address)
            if not link.was_admitted and peer_id not in self.links:
                self.book.failed(peer_id, trio.current_time())  # refused, or broken in its handshake
        finally:
            self._dialling.pop(peer_id, None)
            self._wake.set()

    # --- the book on disk ----------------------------------------------------------------------------------

    def _load_book(self) -> None:
        if self._policy.book_path is None:
            return
        try:
            self.book.load(self._policy.book_path)
        except LocalError:
            # It is only a cache: go on with the bootstrap list, and show it in the counters.
            self.standing.count("book.unreadable")
