"""Which manifest of each deployment is in force, and which one an update rolls out, as an observer concludes
it from transactions and events alone; and of which of them each term of a slot is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ledger.contracts.types import Contract, WorkloadTemplate
from ledger.manifests.expansion import decode_manifest
from ledger.outcome import Event
from ledger.records import Slot, key_manifest, key_slot
from ledger.state import read
from ledger.transactions import Body, OrderDeployment
from tests.sim.market_chain import Chronicle
from tests.sim.market_chain import Final as FinalBlock
from tests.sim.market_tenure import BAD

if TYPE_CHECKING:
    from node.executor.decide import SlotId
    from tests.sim.market_people import Plan

OVER: Final = ("update.done", "update.reverted", "update.cancelled", "update.rejected", "update.expired")
NONE: Final = (-1, b"")


def applied(block: FinalBlock) -> Iterator[tuple[bytes, bytes, Body]]:
    """Sender, id and body of what was applied, in block order."""
    txs = {tx.id: tx.tx for tx in block.txs}
    for receipt in block.result.receipts:
        if receipt.ok:
            yield txs[receipt.id].sender, receipt.id, txs[receipt.id].body


def timed(block: FinalBlock) -> tuple[Event, ...]:
    """What timed work told, which comes before all transactions."""
    events = block.result.events
    return events[: len(events) - sum(len(receipt.events) for receipt in block.result.receipts)]


def slot_of(event: Event) -> tuple[SlotId, int]:
    """Slot and term that an event is about."""
    return (bytes.fromhex(event.subject), str(event.fields["slot"])), int(event.fields["term"])


@dataclass(slots=True)
class Life:
    """A deployment's manifests: number and digest of the one in force, of the update under way, and whether
    that rolls. `past`: the height from which on these two were so."""

    in_force: tuple[int, bytes]
    asked: tuple[int, bytes] = NONE
    rolls: bool = False
    past: list[tuple[int, tuple[int, bytes], tuple[int, bytes]]] = field(default_factory=list)

    @property
    def rolling(self) -> tuple[int, bytes]:
        return self.asked if self.rolls else NONE


class Followed:
    """See the module."""

    def __init__(self, chronicle: Chronicle, plans: tuple[Plan, ...]) -> None:
        self.chronicle = chronicle
        self.sources = {(c.name, c.version): c for plan in plans for c in (plan.contract, *plan.later)}
        self.made_of: dict[bytes, Contract] = {}  # manifests' contracts
        self.lives: dict[bytes, Life] = {}
        self.terms: dict[tuple[SlotId, int], tuple[int, bytes]] = {}  # number and digest
        self.brought: dict[tuple[bytes, int], bytes] = {}  # digest that each update, or the order (0), named

    def final(self, block: FinalBlock) -> None:
        """The next block, before anybody asks about it."""
        for _, tx_id, body in applied(block):
            if isinstance(body, OrderDeployment):
                self.lives[tx_id] = Life((0, body.manifest))
                self.brought[tx_id, 0] = body.manifest
        for event in block.result.events:
            if event.kind == "slot.claimed":
                self._claimed(event)
            elif event.kind.startswith("update."):
                self._update(event, self.lives[bytes.fromhex(event.subject)])
        for life in self.lives.values():
            now = (life.in_force, life.rolling)
            if not life.past or life.past[-1][1:] != now:
                life.past.append((block.height, *now))

    def _claimed(self, event: Event) -> None:
        slot_id, term = slot_of(event)
        slot, life = read(self.chronicle.state, Slot, key_slot(*slot_id)), self.lives[slot_id[0]]
        assert slot is not None
        new = life.rolls and slot.manifest == life.asked[1]
        self.terms[slot_id, term] = life.asked if new else (life.in_force[0], slot.manifest)

    def _update(self, event: Event, life: Life) -> None:
        number = int(event.fields["number"])
        if event.kind == "update.asked":
            life.asked = number, bytes.fromhex(str(event.fields["manifest"]))
            self.brought[bytes.fromhex(event.subject), number] = life.asked[1]
        elif event.kind == "update.approved":
            life.rolls = True
        elif event.kind in OVER:
            if event.kind == "update.done":
                life.in_force = life.asked
            life.asked, life.rolls = NONE, False
            for key, (_, digest) in self.terms.items():
                if key[0][0] == bytes.fromhex(event.subject):
                    self.terms[key] = life.in_force[0], digest

    def at(self, deployment: bytes, height: int) -> list[tuple[int, bytes]]:
        """What might run as of a height: the manifest in force, and that of an update that rolls."""
        found = [past for past in self.lives[deployment].past if past[0] <= height]
        return [one for one in found[-1][1:] if one != NONE] if found else []

    def source(self, deployment: bytes) -> Contract:
        """The contract in force."""
        return self.source_of(self.lives[deployment].in_force[1])

    def source_of(self, digest: bytes) -> Contract:
        """The contract that a manifest was made of."""
        if digest not in self.made_of:
            data = self.chronicle.state.get(key_manifest(digest))
            assert data is not None
            manifest = decode_manifest(data)
            self.made_of[digest] = self.sources[manifest.name, manifest.version]
        return self.made_of[digest]

    def available_ms(self, slot_id: SlotId, term: int) -> int:
        """For how long a term may run past its lease."""
        digest = self.terms.get((slot_id, term), NONE)[1]
        work = self.work(digest, slot_id[1]) if digest else None
        return 0 if work is None else int(work.available_s) * 1000

    def is_bad(self, digest: bytes, slot: str) -> bool:
        """Does what this manifest wants of a slot fail at once, wherever it runs?"""
        work = self.work(digest, slot)
        return work is not None and work.command[-1] == BAD

    def work(self, digest: bytes, slot: str) -> WorkloadTemplate | None:
        """What a manifest wants of a slot; None: it has no such slot."""
        name, _, index = slot.partition("/")
        found = [w for w in self.source_of(digest).workloads if w.name == name]
        return found[0] if found and int(index) < int(found[0].replicas) else None
