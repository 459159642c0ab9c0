"""Asking neighbours for addresses, telling them ours, and going round a relay when there is a direct way."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import trio

from p2p import discovery
from p2p.errors import ConnectFailed, PeerFault, RequestError
from p2p.ids import peer_of_address, relay_of_address
from p2p.limits import DIRECT_TRIES_MAX, EXCHANGE_EVERY_S, EXCHANGE_FIRST_S
from p2p.reach import may_hear

if TYPE_CHECKING:
    import random

    from p2p.book import PeerBook
    from p2p.link import Link, Pace
    from p2p.reach import DialRation
    from p2p.standing import Standing
    from p2p.transport import Connection, Transport


class Board(Protocol):
    """What this asks of the switchboard."""

    book: "PeerBook"
    ration: "DialRation"
    standing: "Standing"
    rng: "random.Random"
    links: dict[str, "Link"]

    def places_left(self) -> int:
        """How many neighbours there is room for."""

    def on_fault(self, fault: PeerFault) -> None:
        """Counts and punishes a broken rule."""

    async def run_link(self, connection: "Connection") -> "Link":
        """Lives as long as a link over that connection."""

    def look(self) -> None:
        """Makes the dialler look for due dials."""


class Exchange:
    """Of one peer. An address is a hint and no more: noise proves who is found there."""

    def __init__(self, board: Board, transport: "Transport", pace: "Pace") -> None:
        self._board = board
        self._transport = transport
        self._pace = pace

    async def run(self) -> None:
        """Asks now and then, while there is room for more neighbours, until cancelled."""
        pause_s = EXCHANGE_FIRST_S  # soon after the start, when everybody meets, then rarely
        while True:
            await trio.sleep(pause_s * self._pace.backoff_scale)
            pause_s = min(EXCHANGE_EVERY_S, pause_s * 2)
            if self._board.links and self._board.places_left() > 0:
                await self.ask(self._board.rng.choice(list(self._board.links.values())))

    def answer(self, link: "Link", body: bytes) -> bytes:
        """Returns what we know for who asks, and takes what it says of itself; raises PeerFault."""
        self._said(link, discovery.parse(link.peer_id, body, link.address))
        shared = self._board.book.shareable(discovery.SHARED_MAX, self._board.links, link.peer_id)
        return discovery.answer(self._own(link), shared)

    async def ask(self, link: "Link") -> None:
        """Learns what the neighbour knows; a malformed answer is its fault, a missing one is nobody's."""
        try:
            body = discovery.answer(self._own(link), ())
            answered = await link.request(discovery.METHOD, body, discovery.TIMEOUT_S)
            addresses = discovery.parse(link.peer_id, answered, link.address)
        except RequestError:
            return
        except PeerFault as fault:
            self._board.on_fault(fault)
            return
        own = self._said(link, addresses)
        for address in addresses:
            self._board.book.hear(address, link.address)
        self._board.look()
        if relay_of_address(link.address) is not None:
            await self._go_direct(link, [address for address in own if relay_of_address(address) is None])

    def _own(self, link: "Link") -> Sequence[str]:
        own = self._transport.addresses()
        return own if relay_of_address(link.address) is None else discovery.concrete(own)

    def _said(self, link: "Link", addresses: list[str]) -> list[str]:
        """Notes what a peer says of itself, in place of what it said before. Returns that."""
        own = [
            address
            for address in addresses
            if peer_of_address(address)[1] == link.peer_id and may_hear(address, link.address)
        ]
        for address in own:
            self._board.book.learn(address)
        is_proved = not link.inbound and relay_of_address(link.address) is None
        self._board.book.said(link.peer_id, own, link.address if is_proved else None)
        return own

    async def _go_direct(self, link: "Link", addresses: list[str]) -> None:
        """Dials who came through a relay; a direct link takes the place of the relayed one. Of two peers of
        which one is in the open, the other one's dial succeeds."""
        for address in addresses[:DIRECT_TRIES_MAX]:
            if link.ended.is_set():
                return
            if not self._board.ration.allows(address):
                continue
            try:
                connection = await self._transport.dial(address)
            except ConnectFailed:
                self._board.ration.failed(address)
                self._board.standing.count("direct.failed")
                continue
            self._board.standing.count("direct.connected")
            await self._board.run_link(connection)
            return
