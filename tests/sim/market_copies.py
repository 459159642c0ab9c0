"""Copies of volumes on a simulated 3node, with the timing and rules of `node.executor.volumes.copier` and
`gather`.

What is in a volume is when it was last written, in true time: so a copy that is older than it should be
shows. A copy's digest says it, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.copy_records import Copies, VolumeCopy, key_copies
from ledger.manifests.services import copied_volumes
from ledger.records import Node, Slot, key_node, key_slot
from ledger.state import read
from ledger.transactions import RecordCopies
from node.executor.limits import COPIES_WANTED, COPY_LAST_TRIES, COPY_RETRY_S

if TYPE_CHECKING:
    from tests.sim.market_node import MarketNode
    from tests.sim.market_tenure import MarketTenure

KEEP_MS: Final = (100, 3_000)  # until others have all of it
DIGEST_BYTES: Final = 32


def digest_of(written_us: int) -> bytes:
    """Of what a volume holds."""
    return written_us.to_bytes(DIGEST_BYTES, "big")


class MarketCopier:
    """Of one term. Nothing happens where no volume is copied."""

    def __init__(self, tenure: MarketTenure) -> None:
        self.tenure, self.node = tenure, tenure.node
        self.volumes = copied_volumes(tenure.workload)
        self.rpo_ms = min((volume.rpo_s for volume in self.volumes), default=0) * 1_000
        self.began_ms, self.began_us = self.node.boot_ms(), self.node.market.world.now_us
        self.newest_ms: int | None = None  # boot clock at which the newest recorded one was taken
        self.saved_us: int | None = None  # what that one holds
        self.sending: tuple[bytes, int, int] | None = None  # transaction, boot clock, what it holds
        self.is_busy = False
        self.saves = False  # the term has ended, and its last copies are to be made
        self.tries = 0

    # ------------------------------------------------------------------ before it runs

    def gather(self) -> bool:
        """Rule C18: its own volume when no other node has written since, else the newest recorded copy. False
        when nobody gives that."""
        if not self.tenure.workload.volumes:
            return True
        state, slot_id, volumes = self.node.replica.state, self.tenure.id, self.node.volumes
        slot = read(state, Slot, key_slot(*slot_id))
        record = read(state, Copies, key_copies(*slot_id))
        old = slot is not None and slot.home not in (b"", self.node.key.public)
        if old or slot_id not in volumes:
            if record is not None:
                copy = record.copies[0]
                if not any(self.reaches(node) for node in self.node.market.nodes_of(copy.keepers)):
                    return False
                self.node.market.count("C18 copy restored")
                volumes[slot_id] = int.from_bytes(copy.sha256, "big")
            else:
                volumes[slot_id] = 0
        return True

    def may_write(self) -> bool:
        """Rule C11: nothing is written before the ledger knows that it is here."""
        slot = read(self.node.replica.state, Slot, key_slot(*self.tenure.id))
        at_home = slot is not None and slot.home == self.node.key.public
        return not self.tenure.workload.volumes or at_home

    def reaches(self, other: MarketNode) -> bool:
        """Whether the two nodes can talk now."""
        all_members = frozenset(range(len(self.node.market.world.nodes)))
        cut = self.node.cut >= all_members or other.cut >= all_members
        return other.up and not other.is_paused and not cut

    # ------------------------------------------------------------------ while it runs

    @property
    def age_ms(self) -> int:
        """Of what would be lost with this node now, by its own clock."""
        return self.node.boot_ms() - (self.began_ms if self.newest_ms is None else self.newest_ms)

    @property
    def is_late(self) -> bool:
        """What it tells people: that its newest copy is older than its rpo."""
        return bool(self.volumes) and self.age_ms > self.rpo_ms

    def run(self) -> None:
        """Rule C15: while its workload runs, and no other is under way."""
        if not self.volumes or self.tenure.ending is not None:
            return
        done = self.tenure.is_running and not self.is_busy and self.take()
        self.node.later(self.rpo_ms / 2 if done else COPY_RETRY_S * 1_000, self.run)

    def take(self) -> bool:
        """Of what is in it now; whether others keep it."""
        keepers = self._keepers()
        if not keepers:
            return False
        if self.tenure.is_running:
            self.node.volumes[self.tenure.id] = self.node.market.world.now_us
        holds_us = self.node.volumes[self.tenure.id]
        taken = (self.node.boot_ms(), holds_us)
        self.is_busy = True
        self.node.later(self.node.market.rng.randint(*KEEP_MS), self._kept, keepers, *taken)
        return True

    def _keepers(self) -> tuple[bytes, ...]:
        state, now_ms = self.node.replica.state, self.node.replica.time_ms
        found = []
        for other in self.node.market.nodes:
            record = read(state, Node, key_node(other.key.public))
            offers = record is not None and record.valid_until_ms > now_ms
            if other is not self.node and offers and self.reaches(other):
                found.append(other.key.public)
        return tuple(sorted(found[:COPIES_WANTED]))

    def _kept(self, keepers: tuple[bytes, ...], taken_ms: int, holds_us: int) -> None:
        if not self.tenure.is_held():
            self.is_busy = False
            return
        copies = tuple(
            VolumeCopy(volume.name, digest_of(holds_us), volume.size_bytes, b"c" * 32, b"box", keepers)
            for volume in self.volumes
        )
        self.sending = (
            self.node.send(RecordCopies(*self.tenure.id, self.tenure.term, copies)),
            taken_ms,
            holds_us,
        )
        self.sent(taken_ms, holds_us)

    def sent(self, taken_ms: int, holds_us: int) -> None:
        """Nothing is kept by sending."""

    def look(self) -> None:
        """A new height: is the one under way final?"""
        if self.sending is None:
            return
        tx_id, taken_ms, holds_us = self.sending
        place = self.node.place(tx_id)
        if place is not None and place.receipt.ok:
            self.newest_ms, self.saved_us = taken_ms, holds_us
            self.node.market.count("C15 copied in time" if not self.saves else "C16 last copy")
        elif place is None and tx_id in self.node.pending:
            return
        self.sending, self.is_busy = None, False

    # ------------------------------------------------------------------ when it stops

    def written(self) -> bool:
        """Whether this term may have written to volumes that are copied."""
        slot = read(self.node.replica.state, Slot, key_slot(*self.tenure.id))
        return bool(self.volumes) and slot is not None and slot.home == self.node.key.public

    def last(self) -> None:
        """Rule C16: once nothing runs, a few times while its lease lasts; then the term is given back."""
        holds_us = self.node.volumes.get(self.tenure.id)
        leased = self.tenure.lease.left_ms(self.node.lease_ms()) > 0 and self.tenure.is_held()
        tried = not self.is_busy and self.tries >= COPY_LAST_TRIES
        if self.saved_us == holds_us or not leased or tried:
            self.saves = False
            self.tenure.leave_word()
            return
        if not self.is_busy:
            self.tries += 1
            self.take()
        self.node.later(500 if self.is_busy else COPY_RETRY_S * 1_000, self.last)
