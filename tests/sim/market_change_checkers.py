"""What must hold of updates in every market: what changes over was asked for and is done when it is healthy,
what is taken off a slot stops, volumes go along. Counted from transactions, events and what really runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger.outcome import Event
from ledger.records import Slot, key_slot
from ledger.state import read
from ledger.transactions import RecordCopies
from tests.sim.market_approved import HEARD_MS
from tests.sim.market_chain import Final as FinalBlock
from tests.sim.market_checkers import RATE, MarketChecker
from tests.sim.market_copies import MarketCopier
from tests.sim.market_follow import NONE, applied, slot_of

if TYPE_CHECKING:
    from node.executor.decide import SlotId
    from tests.sim.market import Market
    from tests.sim.market_node import MarketNode


class Versions(MarketChecker):
    """What starts is of the manifest in force, or of the update that rolls, as its node knows; an update is
    done when all that changed over runs, but for those without whom enough replicas agree, and what did not
    is the same in both."""

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self.switched: dict[bytes, set[str]] = {}

    def final(self, block: FinalBlock) -> None:
        for event in block.result.events:
            id_ = bytes.fromhex(event.subject) if event.kind.startswith(("update.", "slot.")) else b""
            if event.kind == "update.approved":
                self.switched[id_] = set()
            elif event.kind == "slot.switched":
                self.switched[id_].add(str(event.fields["slot"]))
            elif event.kind == "update.done":
                self._done(id_, bytes.fromhex(str(event.fields["manifest"])))

    def _done(self, deployment: bytes, manifest: bytes) -> None:
        state, known = self.market.chronicle.state, self.market.followed
        for workload in known.source_of(manifest).workloads:
            slots: dict[str, Slot] = {}
            for index in range(int(workload.replicas)):
                name = f"{workload.name}/{index}"
                slot = read(state, Slot, key_slot(deployment, name))
                assert slot is not None
                slots[name] = slot
            well = [
                s for s in slots.values() if s.manifest == manifest and s.status in ("running", "succeeded")
            ]
            done = sum(slot.status == "succeeded" for slot in well)
            enough = 0 < int(workload.agree) <= done  # the others are left behind
            for name, slot in slots.items():
                of = known.work(slot.manifest, name) if slot.manifest else None
                switched = name in self.switched[deployment]
                if switched and slot not in well and not enough:
                    self.complain(f"an update is done, and {name} is {slot.status}")
                elif slot.term and (of is None or of.command != workload.command):
                    self.complain(f"an update is done, and {name} runs something else")
                elif not switched and slot.holder:
                    self.market.count("U7 kept its term")

    def started(self, node: MarketNode, slot_id: SlotId, term: int) -> None:
        known = self.market.followed
        digest = known.terms.get((slot_id, term), NONE)[1]
        work = known.work(digest, slot_id[1]) if digest else None
        wanted = [known.work(d, slot_id[1]) for _, d in known.at(slot_id[0], node.replica.height)]
        if work is None or work.command not in [w.command for w in wanted if w is not None]:
            self.complain(f"{slot_id[1]} term {term} starts on {node.name}, and nothing in force wants it")


class Told(MarketChecker):
    """Who knew HEARD_MS ago that the ledger had taken a term off it runs it no more, be it `available`."""

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self.taken: dict[tuple[SlotId, int], int] = {}  # heights
        self.running: dict[tuple[SlotId, int], MarketNode] = {}

    def final(self, block: FinalBlock) -> None:
        for event in block.result.events:
            if event.kind in ("slot.released", "slot.lost"):
                self.taken.setdefault(slot_of(event), block.height)
        for key, node in self.running.items():
            if 0 < self.taken.get(key, 0) <= node.known_height(HEARD_MS):
                self.complain(f"{key[0][1]} term {key[1]} still runs on {node.name}, which knows better")

    def started(self, node: MarketNode, slot_id: SlotId, term: int) -> None:
        self.running[slot_id, term] = node

    def stopped(self, node: MarketNode, slot_id: SlotId, term: int) -> None:
        self.running.pop((slot_id, term), None)


@dataclass(frozen=True, slots=True)
class Written:
    """Who wrote last to a slot's volume, when that ended, and what its node said of its copies then."""

    node: str
    until_us: int
    was_late: bool


class Volumes(MarketChecker):
    """Who takes over a slot's volume has what its last holder wrote, or the newest copy on record; what is
    lost between the two is no more than the rpo, unless the holder said so. Only the holder of the newest
    term records copies, kept by others; what it says to be saved is on record."""

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self.written: dict[SlotId, Written] = {}
        self.runs: dict[SlotId, list[tuple[int, int]]] = {}  # what was written when
        self.began_us: dict[SlotId, int] = {}  # the last start: what was lost before it is told of
        self.copies: dict[SlotId, list[tuple[int, int]]] = {}  # height, and what they hold
        self.holders: dict[SlotId, tuple[int, bytes]] = {}
        self.running: dict[tuple[SlotId, int], MarketCopier] = {}
        self.late: set[tuple[SlotId, int]] = set()
        self.since_us: dict[tuple[SlotId, int], int] = {}

    def final(self, block: FinalBlock) -> None:
        for event in block.result.events:
            if event.kind == "slot.claimed":
                slot_id, term = slot_of(event)
                self.holders[slot_id] = term, bytes.fromhex(str(event.fields["node"]))
            elif event.kind == "slot.freed":
                self._freed(event)
        for sender, _, body in applied(block):
            if isinstance(body, RecordCopies):
                self._recorded(sender, body, block.height)
        for (slot_id, term), copier in self.running.items():
            self._look(slot_id, term, copier)

    def _recorded(self, sender: bytes, body: RecordCopies, height: int) -> None:
        slot_id = body.deployment, body.slot
        if self.holders[slot_id] != (body.term, sender):
            self.complain(f"copies of {body.slot} are recorded by who does not hold it")
        if any(sender in copy.keepers for copy in body.copies):
            self.complain(f"a copy of {body.slot} is kept by its holder")
        holds_us = int.from_bytes(body.copies[0].sha256, "big")
        self.copies.setdefault(slot_id, []).append((height, holds_us))

    def _freed(self, event: Event) -> None:
        """A term that ended as its node wished, with its last copies."""
        slot_id, term = slot_of(event)
        copier, written = self.running.pop((slot_id, term), None), self.written.get(slot_id)
        if copier is None or written is None or copier.tenure.is_running:
            return
        recorded = self.copies.get(slot_id, [(0, -1)])[-1][1]
        if copier.saved_us == written.until_us:
            self.market.count("C16 moved with all of it")
            if recorded != written.until_us:
                self.complain(f"{slot_id[1]} term {term} is said to be saved, and is not on record")

    def _look(self, slot_id: SlotId, term: int, copier: MarketCopier) -> None:
        """What runs without a copy that is new enough says so."""
        if not copier.tenure.is_running or copier.node.is_paused:
            return
        began_us = copier.began_us
        newest_us = max([began_us, *(holds for _, holds in self.copies.get(slot_id, []))])
        age_ms = (self.now_us - newest_us) / 1_000
        if copier.is_late and (slot_id, term) not in self.late:
            self.late.add((slot_id, term))
            self.market.count("C15 late, and said so")
        if age_ms > copier.rpo_ms * RATE + 1 and not copier.is_late:
            self.complain(f"{slot_id[1]} term {term}: newest copy is {age_ms:.0f} ms old, and nobody says so")

    def started(self, node: MarketNode, slot_id: SlotId, term: int) -> None:
        tenure = node.tenures.get(slot_id)
        if tenure is None or not tenure.copier.volumes:
            return
        self.running[slot_id, term] = tenure.copier
        self.since_us[slot_id, term] = self.now_us
        written, found_us = self.written.get(slot_id), node.volumes.get(slot_id, 0)
        if written is None:
            return
        if written.node == node.name:
            wanted_us = written.until_us
        else:
            known = [h for at, h in self.copies.get(slot_id, []) if at <= node.replica.height]
            wanted_us = known[-1] if known else 0
            self.market.count("C11 goes on elsewhere")
        if found_us != wanted_us:
            self.complain(f"{slot_id[1]} term {term} begins on {node.name} with an old volume")
        if_lost = tenure.workload.volumes[0].if_lost
        since_us = max(found_us, self.began_us.get(slot_id, 0))
        self.began_us[slot_id] = self.now_us
        lost_us = sum(max(0, until - max(begin, since_us)) for begin, until in self.runs[slot_id])
        lost_ms = lost_us / 1_000
        if not found_us and if_lost == "wait":
            self.complain(f"{slot_id[1]} term {term} begins on {node.name} with nothing")
        elif found_us and lost_ms > tenure.copier.rpo_ms * RATE + 1 and not written.was_late:
            self.complain(f"{slot_id[1]} term {term} has lost {lost_ms:.0f} ms, and nobody had said so")

    def stopped(self, node: MarketNode, slot_id: SlotId, term: int) -> None:
        copier = self.running.get((slot_id, term))
        if copier is not None:
            self.written[slot_id] = Written(node.name, self.now_us, copier.is_late)
            self.runs.setdefault(slot_id, []).append((self.since_us.pop((slot_id, term)), self.now_us))


CHANGE_CHECKERS: Final = (Versions, Told, Volumes)
