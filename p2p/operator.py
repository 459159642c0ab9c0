"""What the peer's operator may order while it runs: who is known, added, forgotten, banned and welcome again.

Orders stand in the peer book's file, so they hold after a restart. They go before what the peer finds out by
itself: an operator's ban does not end, and no flood of other bans pushes it out.
"""

from collections.abc import Callable
from dataclasses import dataclass

from p2p.book import PeerBook
from p2p.errors import LocalError
from p2p.ids import public_key_of
from p2p.limits import REASON_BYTES_MAX
from p2p.standing import Standing


@dataclass(frozen=True, slots=True)
class Known:
    """A peer of the book. ``keep``: its connection is held for ever; ``proved``: a dial has succeeded;
    ``failures``: dials that failed since; ``added``: by the operator. ``score`` is 0 (good) to -100."""

    peer_id: str
    addresses: tuple[str, ...]
    keep: bool
    added: bool
    proved: bool
    failures: int
    score: int
    fault: str


class Operator:
    """Orders to a running network. ``drop`` ends all links to a peer; ``wake`` makes the dialler look."""

    def __init__(
        self,
        book: PeerBook,
        standing: Standing,
        drop: Callable[[str, str], None],
        wake: Callable[[], None],
    ) -> None:
        self._book = book
        self._standing = standing
        self._drop = drop
        self._wake = wake

    def known(self) -> tuple[Known, ...]:
        """Returns the whole book, sorted by peer id."""
        return tuple(
            Known(
                peer_id=entry.peer_id,
                addresses=tuple(entry.addresses),
                keep=entry.keep,
                added=entry.added,
                proved=entry.proved,
                failures=entry.failures,
                score=self._standing.score(entry.peer_id),
                fault=self._standing.last_fault(entry.peer_id),
            )
            for _, entry in sorted(self._book.entries.items())
        )

    def add(self, address: str) -> bool:
        """Adds a peer whose connection is held for ever; returns whether it was news. Raises LocalError for a
        malformed address, our own, or one of a peer that the operator has banned."""
        peer_id = address.rpartition("/p2p/")[2]
        if self._book.is_own(peer_id):
            raise LocalError("address: that is this peer itself")
        if peer_id in self._book.banned:
            raise LocalError(f"address: {peer_id} is banned by you; unban it first")
        news = self._book.learn(address, keep=True, added=True)
        self._wake()
        return news

    def remove(self, peer_id: str) -> bool:
        """Forgets a peer and ends its links; returns whether it was known. It may come again by itself, or by
        others' word: ban it to keep it away. Raises LocalError for what is no peer id."""
        public_key_of(peer_id)
        was_known = self._book.forget(peer_id)
        self._drop(peer_id, "removed")
        return was_known

    def ban(self, peer_id: str, reason: str) -> bool:
        """Refuses a peer until ``unban``; returns whether it was not banned by hand already. Raises
        LocalError for what is no peer id, ourselves, a reason that is too long, or one ban too many."""
        public_key_of(peer_id)
        if self._book.is_own(peer_id):
            raise LocalError("peer id: that is this peer itself")
        if len(reason.encode()) > REASON_BYTES_MAX or not reason.isprintable():
            raise LocalError(f"reason: printable, at most {REASON_BYTES_MAX} B")
        was_banned = peer_id in self._book.banned
        self._book.ban(peer_id, reason)
        self._drop(peer_id, "banned by the operator")
        return not was_banned

    def unban(self, peer_id: str) -> bool:
        """Lifts any ban and forgives all faults; returns whether there was a ban. Raises LocalError for what
        is no peer id."""
        public_key_of(peer_id)
        was_banned = self._book.unban(peer_id)
        was_banned = self._standing.forgive(peer_id) or was_banned
        self._wake()
        return was_banned
