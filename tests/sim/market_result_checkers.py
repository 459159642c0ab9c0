"""What must hold of results in every market: replicas agree on what counts, and are paid, by what they told
alone; nothing leaves a node before those who must have signed for exactly it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ledger.codec import decode
from ledger.documents import open_document
from ledger.outcome import Event
from ledger.records import Bill, Deployment
from ledger.transactions import Decide, Report
from tests.ledger.world import BUDGET, LEGAL
from tests.sim.market_chain import Final as FinalBlock
from tests.sim.market_checkers import MarketChecker
from tests.sim.market_follow import OVER, applied, slot_of, timed

if TYPE_CHECKING:
    from node.executor.decide import SlotId
    from tests.sim.market import Market
    from tests.sim.market_node import MarketNode

Key = tuple[bytes, str]
"""Deployment and workload."""


@dataclass(slots=True)
class Said:
    """Of one job, since it was begun or an update had it done anew: its slots' newest terms that committed,
    and what was told of them, by slot."""

    committed: dict[str, int] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)


class Agreements(MarketChecker):
    """Results are told when enough have committed, and nobody commits after that. Those count that enough
    replicas told alike; their terms are paid, and no other; who told something else, or nothing, pays once,
    and nobody who told what won ever does."""

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self.jobs: dict[Key, Said] = {}
        self.blamed: Counter[tuple[SlotId, int]] = Counter()
        self.agreed: set[Key] = set()
        self.lost: set[tuple[SlotId, int]] = set()
        self.switched: set[Key] = set()  # by the update that rolls

    def final(self, block: FinalBlock) -> None:
        self._happened(timed(block))
        bodies = {tx_id: body for _, tx_id, body in applied(block)}
        for receipt in block.result.receipts:
            body = bodies.get(receipt.id)
            if isinstance(body, Report):
                self._reported(body)
            self._happened(receipt.events)
        for event in block.result.events:
            if event.kind == "lease.penalty":
                slot_id, term = slot_of(event)
                if (slot_id, term) not in self.lost and not self.blamed[slot_id, term]:
                    self.complain(f"{slot_id[1]} term {term} pays, and has done nothing")

    def _happened(self, events: Sequence[Event]) -> None:
        for event in events:
            match event.kind:
                case "slot.lost":
                    self.lost.add(slot_of(event))
                case "slot.disagrees" | "slot.silent":
                    self._blamed(event)
                case "job.agreed":
                    self._agreed(event)
                case "deployment.failed" if "agree" in str(event.fields["reason"]):
                    self._none_agree(bytes.fromhex(event.subject))
                case "slot.switched":
                    key = bytes.fromhex(event.subject), str(event.fields["slot"]).partition("/")[0]
                    self.switched.add(key)
                    self.jobs.pop(key, None)
                case kind if kind in OVER:
                    self._update_over(bytes.fromhex(event.subject), kind == "update.done")

    def _update_over(self, deployment: bytes, is_done: bool) -> None:
        """[Y10] Jobs that had changed over are done anew, as they were before, unless it is done."""
        for key in [key for key in self.switched if key[0] == deployment]:
            self.switched.remove(key)
            if not is_done:
                self.jobs.pop(key, None)

    def _reported(self, body: Report) -> None:
        said = open_document(body.envelope, "receipt").predicate
        name = said.slot.partition("/")[0]
        deployment = bytes.fromhex(said.deployment)
        digest = self.market.followed.terms[(deployment, said.slot), said.term][1]
        work = self.market.followed.work(digest, said.slot)
        assert work is not None
        if not work.agree or said.status not in ("committed", "succeeded"):
            return
        job = self.jobs.setdefault((deployment, name), Said())
        if said.status == "committed":
            if job.told:
                self.complain(f"{said.slot} commits when others have told")
            job.committed[said.slot] = said.term
            return
        if len(job.committed) < int(work.agree) or job.committed.get(said.slot) != said.term:
            self.complain(f"{said.slot} tells its results too early")
        job.told[said.slot] = str(sorted((path, file.sha256) for path, file in said.results.items()))

    def _blamed(self, event: Event) -> None:
        (slot_id, term), kind = slot_of(event), event.kind
        job = self.jobs[slot_id[0], slot_id[1].partition("/")[0]]
        self.blamed[slot_id, term] += 1
        if self.blamed[slot_id, term] > 1:
            self.complain(f"{slot_id[1]} term {term} is blamed twice")
        if (slot_id[1] in job.told) != (kind == "slot.disagrees"):
            self.complain(f"{kind} of {slot_id[1]} term {term}, and that is not so")

    def _most(self, key: Key) -> tuple[str, int]:
        told = Counter(self.jobs[key].told.values())
        return told.most_common(1)[0] if told else ("", 0)

    def _agreed(self, event: Event) -> None:
        deployment, name = bytes.fromhex(event.subject), str(event.fields["workload"])
        job, (found, most) = self.jobs[deployment, name], self._most((deployment, name))
        (work,) = [w for w in self.market.followed.source(deployment).workloads if w.name == name]
        if most < int(work.agree) or most != event.fields["agree"]:
            self.complain(f"{most} replicas of {name} told the same, and {event.fields['agree']} are said to")
        for slot, term in job.committed.items():
            wins, blamed = job.told.get(slot) == found, self.blamed[(deployment, slot), term]
            if wins == bool(blamed):
                self.complain(f"{slot} term {term} {'wins, and pays' if wins else 'pays nothing'}")
            if (self._paid(deployment, slot, term) > 0) != wins:
                self.complain(f"{slot} term {term} {'wins, and is not' if wins else 'is'} paid")

    def _none_agree(self, deployment: bytes) -> None:
        self.market.count("R8 none agree")
        for (id_, name), job in self.jobs.items():
            if id_ != deployment:
                continue
            (work,) = [w for w in self.market.followed.source(id_).workloads if w.name == name]
            if self._most((id_, name))[1] >= int(work.agree):
                self.complain(f"{name} has failed, and enough replicas told the same")
            if any(self._paid(id_, slot, term) for slot, term in job.committed.items()):
                self.complain(f"{name} has failed, and somebody is paid")

    def _paid(self, deployment: bytes, slot: str, term: int) -> int:
        """What a farmer has of a term."""
        found = (decode(Bill, b) for _, b in self.market.chronicle.state.scan(b"bill/" + deployment))
        return sum(bill.amount - bill.withheld for bill in found if (bill.slot, bill.term) == (slot, term))


class Releases(MarketChecker):
    """Results are released when both who must have signed for exactly these, stand to it, and no update has
    begun since they were found; a node hands them out after that alone."""

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self.held: dict[bytes, str] = {}
        self.signed: dict[tuple[bytes, str], set[bytes]] = {}
        self.released: dict[tuple[bytes, str], int] = {}

    def final(self, block: FinalBlock) -> None:
        self._told(timed(block), block.height)
        bodies = {tx_id: body for _, tx_id, body in applied(block)}
        for receipt in block.result.receipts:
            body = bodies.get(receipt.id)
            if isinstance(body, Decide):
                self._decided(body)
            self._told(receipt.events, block.height)
        if not block.result.events:
            return
        for _, data in self.market.chronicle.state.scan(b"deployment/"):
            record = decode(Deployment, data)
            results = self.held.get(record.id, "")
            if record.results.hex() != results:
                self.complain(f"results of {record.id.hex()[:8]} are on record, and others were found")
            if bool(record.released_ms) != ((record.id, results) in self.released and bool(results)):
                self.complain(f"results of {record.id.hex()[:8]} are released, or not, against what was told")

    def _told(self, events: Sequence[Event], height: int) -> None:
        for event in events:
            if event.kind.startswith(("results.", "update.", "deployment.")):
                self._event(event, bytes.fromhex(event.subject), height)

    def _event(self, event: Event, id_: bytes, height: int) -> None:
        match event.kind:
            case "results.held":
                self.held[id_] = str(event.fields["results"])
                self.released.pop((id_, self.held[id_]), None)
            case "update.approved" if id_ in self.held:
                self.market.count("Y8 taken back")
                del self.held[id_]
            case "results.released":
                self._released(id_, str(event.fields["results"]), height)
            case "deployment.cancelled" | "deployment.failed" | "deployment.rejected" | "deployment.expired":
                self.held.pop(id_, None)

    def _decided(self, body: Decide) -> None:
        document = open_document(body.envelope, "approval")
        said = document.predicate
        if said.act != "release":
            return
        id_ = bytes.fromhex(said.deployment)
        for (other, results), signers in self.signed.items():
            if other == id_ and results != said.released:
                signers.discard(document.signer)
        signers = self.signed.setdefault((id_, said.released), set())
        (signers.add if said.decision == "granted" else signers.discard)(document.signer)

    def _released(self, id_: bytes, results: str, height: int) -> None:
        if self.held.get(id_) != results:
            self.complain(f"results of {id_.hex()[:8]} are released that are not there")
        if not {BUDGET.public, LEGAL.public} <= self.signed.get((id_, results), set()):
            self.complain(f"results of {id_.hex()[:8]} are released, and not by those who must")
        self.released[id_, results] = height

    def handed_out(self, node: MarketNode, deployment: bytes, results: bytes) -> None:
        self.market.count("Y7 handed out")
        height = self.released.get((deployment, results.hex()), 0)
        if not 0 < height <= node.replica.height:
            self.complain(f"{node.name} hands results of {deployment.hex()[:8]} out before their release")


RESULT_CHECKERS: Final = (Agreements, Releases)
