"""The peer book: who may be dialled at which address, and when again. Kept on disk, because a peer that
restarts should find more than its bootstrap list."""

import json
import os
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from p2p.errors import LocalError
from p2p.ids import peer_of_address, relay_of_address
from p2p.limits import (
    BACKOFF_FIRST_S,
    BACKOFF_MAX_S,
    BOOK_ADDRESSES_MAX,
    BOOK_FAILURES_MAX,
    BOOK_FILE_BYTES_MAX,
    BOOK_PEERS_MAX,
    BOOK_SAID_MAX,
    BOOK_SAVE_S,
    HELD_MAX,
    OPERATOR_BANS_MAX,
)
from p2p.reach import may_hear

_FORMAT = 1


@dataclass(slots=True)
class Entry:
    """One known peer. ``keep``: hold a connection for ever; ``pinned``: configured, never forgotten;
    ``added``: kept by the operator's order, and written down as such.

    ``due_s`` is the monotonic time of the next dial; ``proved`` says that a dial has succeeded once.
    """

    peer_id: str
    addresses: list[str] = field(default_factory=list)
    keep: bool = False
    pinned: bool = False
    added: bool = False
    proved: bool = False
    failures: int = 0
    due_s: float = 0.0
    turn: int = 0


class PeerBook:
    """Bounded: when full, the peer with the most failed dials that nobody configured makes room."""

    def __init__(self, own_id: str, rng: random.Random, *, backoff_scale: float = 1.0) -> None:
        self.entries: dict[str, Entry] = {}
        self.banned: dict[str, str] = {}  # by the operator: peer id -> why
        self.held: frozenset[str] = frozenset()  # kept as long as they stand here, whether known or not
        self.changed = False
        self._own_id = own_id
        self._rng = rng
        self._backoff_scale = backoff_scale

    def learn(self, address: str, *, keep: bool = False, pinned: bool = False, added: bool = False) -> bool:
        """Adds a multiaddr with ``/p2p/ID``; returns whether it was news. Raises LocalError when it is
        malformed."""
        _, peer_id = peer_of_address(address)
        if peer_id == self._own_id:
            return False
        entry = self.entries.get(peer_id)
        if entry is None:
            if len(self.entries) >= BOOK_PEERS_MAX and not self._make_room():
                return False
            entry = self.entries[peer_id] = Entry(peer_id)
        entry.keep = entry.keep or keep
        entry.pinned = entry.pinned or pinned or keep
        if added and not entry.added:
            entry.added = self.changed = True
        if address in entry.addresses:
            return False
        # What is configured goes first; of what is heard, only the first few.
        if pinned or keep:
            entry.addresses.insert(0, address)
            del entry.addresses[BOOK_ADDRESSES_MAX:]
        elif len(entry.addresses) < BOOK_ADDRESSES_MAX:
            entry.addresses.append(address)
        else:
            return False
        self.changed = True
        return True

    def hear(self, address: str, teller: str) -> bool:
        """As ``learn``, of an address that the peer at ``teller`` tells of; one that is nearer to us than it
        is left out."""
        return may_hear(address, teller) and self.learn(address)

    def said(self, peer_id: str, addresses: Iterable[str], proved: str | None = None) -> None:
        """Takes what a known peer says of itself: before what was heard of it, after the address at which we
        have it (``proved``), and in place of all relays that it had before."""
        entry = self.entries.get(peer_id)
        if entry is None:
            return
        own = list(addresses)[:BOOK_SAID_MAX]
        rest = [one for one in entry.addresses if relay_of_address(one) is None or entry.pinned]
        found = list(dict.fromkeys([*([proved] if proved else []), *own, *rest]))[:BOOK_ADDRESSES_MAX]
        if own and found != entry.addresses:
            entry.addresses, entry.turn, self.changed = found, 0, True

    def hold(self, peer_ids: frozenset[str]) -> None:
        """Keeps these, in place of those named before. Raises LocalError for more than HELD_MAX."""
        if len(peer_ids) > HELD_MAX:
            raise LocalError(f"hold: {len(peer_ids)} peers, at most {HELD_MAX}")
        self.held = peer_ids - {self._own_id}

    def keeps(self, peer_id: str) -> bool:
        """Is a connection to this peer kept, for ever or for now?"""
        entry = self.entries.get(peer_id)
        return peer_id in self.held or (entry is not None and entry.keep)

    def is_own(self, peer_id: str) -> bool:
        """Is it our own id?"""
        return peer_id == self._own_id

    def forget(self, peer_id: str) -> bool:
        """Removes a peer, whoever named it; returns whether it was there."""
        was_known = self.entries.pop(peer_id, None) is not None
        self.changed = self.changed or was_known
        return was_known

    def ban(self, peer_id: str, reason: str) -> None:
        """Notes the operator's ban. Raises LocalError when there are OPERATOR_BANS_MAX."""
        if peer_id not in self.banned and len(self.banned) >= OPERATOR_BANS_MAX:
            raise LocalError(f"ban: at most {OPERATOR_BANS_MAX}; unban some")
        self.banned[peer_id] = reason
        self.changed = True

    def unban(self, peer_id: str) -> bool:
        """Lifts the operator's ban; returns whether there was one."""
        was_banned = self.banned.pop(peer_id, None) is not None
        self.changed = self.changed or was_banned
        return was_banned

    def due(self, now_s: float, busy: Iterable[str]) -> list[Entry]:
        """Returns the entries to dial now: not ``busy``, kept ones first, then by fewest failures, else at
        random."""
        blocked = set(busy)
        ready = [
            entry for entry in self.entries.values() if entry.due_s <= now_s and entry.peer_id not in blocked
        ]
        self._rng.shuffle(ready)
        ready.sort(key=lambda entry: (not self.keeps(entry.peer_id), entry.failures))
        return ready

    def next_address(self, entry: Entry) -> str:
        """Returns the entry's address whose turn it is."""
        return entry.addresses[entry.turn % len(entry.addresses)]

    def dialled(self, peer_id: str) -> None:
        """Notes that a dial to that peer succeeded."""
        entry = self.entries.get(peer_id)
        if entry is not None:
            self.changed = self.changed or not entry.proved
            entry.failures, entry.proved = 0, True

    def failed(self, peer_id: str, now_s: float) -> None:
        """Notes a failed dial: back off, try the next address, forget a peer that was only heard of."""
        entry = self.entries.get(peer_id)
        if entry is None:
            return
        entry.failures += 1
        if len(entry.addresses) >= BOOK_ADDRESSES_MAX and not entry.pinned:
            # Lies that filled it would keep the true one out for ever; the others move up.
            del entry.addresses[entry.turn % len(entry.addresses)]
        else:
            entry.turn += 1
        if entry.failures >= BOOK_FAILURES_MAX and not entry.pinned and peer_id not in self.held:
            del self.entries[peer_id]
            self.changed = True
            return
        wait_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(entry.failures - 1, 10))
        entry.due_s = now_s + wait_s * self._rng.uniform(0.5, 1.0) * self._backoff_scale

    def lost(self, peer_id: str, now_s: float) -> None:
        """Notes that a connection ended: the smaller peer id redials first, so that seldom both do."""
        entry = self.entries.get(peer_id)
        if entry is not None:
            early, late = (0.05, 0.15) if self._own_id < peer_id else (0.4, 0.8)
            entry.due_s = max(entry.due_s, now_s + self._rng.uniform(early, late) * self._backoff_scale)

    def shareable(self, count: int, linked: Iterable[str], skip: str) -> list[str]:
        """Returns up to ``count`` addresses at random, none of peer ``skip``: of peers that we dialled with
        success, and those that the ``linked`` ones, our neighbours, said of themselves."""
        good = set(linked)
        entries = [e for e in self.entries.values() if (e.proved or e.peer_id in good) and e.peer_id != skip]
        self._rng.shuffle(entries)
        return [self.next_address(entry) for entry in entries[:count]]

    def _make_room(self) -> bool:
        heard = [entry for entry in self.entries.values() if not entry.pinned and not entry.proved]
        if not heard:
            return False
        del self.entries[max(heard, key=lambda entry: entry.failures).peer_id]
        return True

    def load(self, path: Path) -> None:
        """Reads a book that ``save`` wrote; a missing one is an empty one. Raises LocalError when it is
        damaged."""
        try:
            if path.stat().st_size > BOOK_FILE_BYTES_MAX:
                raise LocalError(f"peer book {path.name}: above {BOOK_FILE_BYTES_MAX} B")
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            return
        except (ValueError, RecursionError) as error:
            raise LocalError(f"peer book {path.name}: not JSON ({error})") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise LocalError(f"peer book {path.name}: field format: must be {_FORMAT}")
        addresses = content.get("addresses")
        if not isinstance(addresses, list) or not all(isinstance(address, str) for address in addresses):
            raise LocalError(f"peer book {path.name}: field addresses: must be a list of text")
        added = content.get("added", [])
        if not isinstance(added, list) or not all(isinstance(address, str) for address in added):
            raise LocalError(f"peer book {path.name}: field added: must be a list of text")
        banned = content.get("banned", {})
        if not isinstance(banned, dict) or not all(isinstance(reason, str) for reason in banned.values()):
            raise LocalError(f"peer book {path.name}: field banned: must be text by peer id")
        for address in added[: BOOK_PEERS_MAX * BOOK_ADDRESSES_MAX]:
            self.learn(address, keep=True, added=True)
        for address in addresses[: BOOK_PEERS_MAX * BOOK_ADDRESSES_MAX]:
            self.learn(address)
        self.banned |= dict(list(banned.items())[:OPERATOR_BANS_MAX])
        self.changed = False

    def snapshot(self) -> bytes:
        """Returns what ``write_book`` keeps: the addresses of peers that were dialled with success, and the
        operator's orders."""
        self.changed = False
        addresses = [a for entry in self.entries.values() if entry.proved for a in entry.addresses]
        added = [a for entry in self.entries.values() if entry.added for a in entry.addresses]
        content = {"format": _FORMAT, "addresses": addresses, "added": added, "banned": self.banned}
        return json.dumps(content, indent=0).encode()


def write_book(path: Path, content: bytes) -> None:
    """Replaces the file at once: a crash leaves the old book or the new one. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    with open(fresh, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


async def keep_saved(book: PeerBook, path: Path) -> None:
    """Writes the book when it has changed, until cancelled. Raises OSError."""
    while True:
        await trio.sleep(BOOK_SAVE_S)
        if book.changed:
            await trio.to_thread.run_sync(write_book, path, book.snapshot())
