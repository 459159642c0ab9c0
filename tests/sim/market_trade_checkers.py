"""What must hold of money, time, notice and standing in every market: counted from transactions and events
alone, by rules written out by hand here, and compared with the records of the ledger."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ledger.codec import decode
from ledger.documents import open_document
from ledger.limits import PENALTY_MS
from ledger.outcome import Event
from ledger.records import Deployment, Node, Slot, key_deployment, key_farm, key_node
from ledger.records import Farm as FarmRecord
from ledger.state import read
from ledger.trade_records import Dispute, key_dispute
from ledger.transactions import (
    Body,
    CancelDeployment,
    CertifyNode,
    CloseDispute,
    Decide,
    ExtendDeployment,
    OpenDispute,
    OrderDeployment,
    TopUp,
    UncertifyNode,
    UpdateDeployment,
)
from tests.ledger.world import BUDGET
from tests.sim.market_chain import Final as FinalBlock
from tests.sim.market_checkers import MarketChecker
from tests.sim.market_follow import OVER, applied, timed

if TYPE_CHECKING:
    from tests.sim.market import Market

HOUR_MS: Final = 3_600_000


def _up(number: int, by: int) -> int:
    return (number + by - 1) // by


@dataclass(slots=True)
class Purse:
    """What went into a deployment's escrow, and what it may spend. `back`: what updates gave back."""

    paid_in: int
    funded: int
    topped_up: int = 0
    longer_s: int = 0
    back: int = 0


class Funds(MarketChecker):
    """What was put into escrow, and how much longer a term is, is what transactions said; more time costs in
    proportion to what all before it cost; an update locks what its terms cost more, and they count once it is
    done."""

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self.purses: dict[bytes, Purse] = {}

    def final(self, block: FinalBlock) -> None:
        self._told(timed(block))
        bodies = {tx_id: body for _, tx_id, body in applied(block)}
        for receipt in block.result.receipts:
            if receipt.ok:
                self._applied(receipt.id, bodies[receipt.id])
                self._told(receipt.events)
        for id_, purse in self.purses.items():
            self._compare(id_, purse)

    def _applied(self, tx_id: bytes, body: Body) -> None:
        match body:
            case OrderDeployment():
                self.purses[tx_id] = Purse(body.escrow, body.escrow)
            case TopUp():
                self.market.count("topped up")
                purse = self.purses[body.deployment]
                purse.paid_in, purse.funded = purse.paid_in + body.amount, purse.funded + body.amount
                purse.topped_up += body.amount
            case ExtendDeployment():
                self.market.count("extended")
                self._extended(body)
            case UpdateDeployment():
                purse = self.purses[body.deployment]
                more = max(0, self._under(purse, body.manifest) - purse.funded)
                if body.amount != more:
                    self.complain(f"an update locks {body.amount}, and costs {more} more")
                purse.paid_in += body.amount

    def _told(self, events: Iterable[Event]) -> None:
        for event in events:
            if event.kind in OVER:
                id_ = bytes.fromhex(event.subject)
                purse = self.purses[id_]
                purse.back += int(event.fields["refunded"])
                if event.kind == "update.done":
                    purse.funded = self._under(purse, bytes.fromhex(str(event.fields["manifest"])))

    def _under(self, purse: Purse, manifest: bytes) -> int:
        """What it would have to spend under a manifest's terms."""
        terms = self.market.followed.source_of(manifest).terms
        whole = int(terms.budget) + purse.topped_up
        return whole + _up((whole - int(terms.fee)) * purse.longer_s, int(terms.duration_s))

    def _compare(self, id_: bytes, purse: Purse) -> None:
        record = read(self.market.chronicle.state, Deployment, key_deployment(id_))
        assert record is not None
        found = (record.funded, record.topped_up, record.extended_s)
        if found != (purse.funded, purse.topped_up, purse.longer_s):
            self.complain(f"{id_.hex()[:8]}: funded, topped up and extended are {found}")
        if record.spent + record.escrow > purse.paid_in - purse.back:
            self.complain(f"{id_.hex()[:8]} has more than was put in")
        terms = self.market.followed.source(id_).terms
        never_late = not record.missed_ms and record.status in ("approved", "active")
        ends_ms = record.approved_ms + (int(terms.duration_s) + purse.longer_s) * 1000
        if never_late and record.ends_ms != ends_ms:
            self.complain(f"{id_.hex()[:8]} ends at {record.ends_ms}, not at {ends_ms}")

    def _extended(self, body: ExtendDeployment) -> None:
        id_ = body.deployment
        terms, purse = self.market.followed.source(id_).terms, self.purses[id_]
        paid = purse.funded - int(terms.fee)
        price = _up(paid * body.duration_s, int(terms.duration_s) + purse.longer_s)
        if body.amount != price:
            self.complain(f"{body.duration_s} s more of {id_.hex()[:8]} for {body.amount}, not {price}")
        purse.paid_in, purse.funded = purse.paid_in + body.amount, purse.funded + body.amount
        purse.longer_s += body.duration_s


@dataclass(slots=True)
class Term:
    """What is known of a term of a slot."""

    node: bytes
    rate_hour: int
    is_released: bool = False
    is_punished: bool = False


class Penalties(MarketChecker):
    """Each lost lease is paid for once, by the owner of the farm of the node that lost it, an hour of the
    slot; no other term ever is."""

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self.terms: dict[tuple[str, str, int], Term] = {}

    def final(self, block: FinalBlock) -> None:
        for event in block.result.events:
            if not event.kind.startswith(("slot.", "lease.")) or "term" not in event.fields:
                continue
            key = (event.subject, str(event.fields["slot"]), int(event.fields["term"]))
            match event.kind:
                case "slot.claimed":
                    node = bytes.fromhex(str(event.fields["node"]))
                    self.terms[key] = Term(node, int(event.fields["rate_hour"]))
                case "slot.released":
                    self.terms[key].is_released = True
                case "lease.penalty":
                    self._penalty(key, event)
                case "slot.lost":
                    if not event.fields["missed_ms"] and not self.terms[key].is_punished:
                        self.complain(f"{key[1]} term {key[2]} was lost, and nobody pays")

    def _penalty(self, key: tuple[str, str, int], event: Event) -> None:
        self.market.count("penalty")
        term, state = self.terms[key], self.market.chronicle.state
        node = read(state, Node, key_node(term.node))
        assert node is not None
        farm = read(state, FarmRecord, key_farm(node.farm))
        assert farm is not None
        owed = _up(term.rate_hour * PENALTY_MS, HOUR_MS)
        if term.is_punished or term.is_released:
            self.complain(f"{key[1]} term {key[2]} is punished, and was released or punished before")
        if (event.fields["payer"], event.fields["owed"]) != (farm.owner.hex(), owed):
            self.complain(f"{key[1]} term {key[2]}: {event.fields['payer']} owes {event.fields['owed']}")
        if event.fields["amount"] != owed:
            paid = event.fields["amount"]
            self.complain(f"{key[1]} term {key[2]}: {paid} paid of {owed}, and there is enough")
        term.is_punished = True


class Notice(MarketChecker):
    """A node that leaves gets no slot, and after that holds none but those that it was told to stop."""

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self.leaving: set[str] = set()

    def final(self, block: FinalBlock) -> None:
        left: set[str] = set()
        for event in block.result.events:
            match event.kind:
                case "node.draining":
                    self.market.count("drain")
                    self.leaving.add(event.subject)
                case "offer.posted":
                    self.leaving.discard(event.subject)
                case "node.left":
                    self.market.count("left")
                    left.add(event.subject)
                case "slot.claimed" if event.fields["node"] in self.leaving:
                    self.complain(f"{event.fields['slot']} is given to a node that leaves")
        for _, data in self.market.chronicle.state.scan(b"slot/") if left else ():
            slot = decode(Slot, data)
            if slot.holder.hex() in left & self.leaving and slot.status != "released":
                self.complain(f"{slot.name} is {slot.status} on a node that has left")


class Standing(MarketChecker):
    """Where a contract asks for it, a slot is given to nodes only that its certifier stands for."""

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self.until_ms: dict[tuple[str, str], int] = {}  # node, certifier

    def final(self, block: FinalBlock) -> None:
        for event in block.result.events:  # slots are given out before the block's transactions count
            if event.kind == "slot.claimed":
                self._given(event, block.time_ms)
        for sender, _, body in applied(block):
            if isinstance(body, CertifyNode):
                self.market.count("certified")
                said = body.certification
                self.until_ms[said.node.hex(), body.certifier.hex()] = said.valid_until_ms
            elif isinstance(body, UncertifyNode):
                self.market.count("uncertified")
                del self.until_ms[body.node.hex(), sender.hex()]

    def _given(self, event: Event, now_ms: int) -> None:
        contract = self.market.ordered[bytes.fromhex(event.subject)].contract
        name = str(event.fields["slot"]).partition("/")[0]
        (workload,) = (w for w in contract.workloads if w.name == name)
        wanted, node = workload.placement.certified_by, str(event.fields["node"])
        if wanted:
            self.market.count("given to a certified node")
        if wanted and not any(self.until_ms.get((node, key), 0) > now_ms for key in wanted):
            self.complain(f"{event.fields['slot']} is given to a node that nobody stands for")


class Consent(MarketChecker):
    """What was approved once is cancelled only with the consent that its contract asks for."""

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self.approved: set[bytes] = set()
        self.consents: dict[tuple[bytes, int], set[bytes]] = {}

    def final(self, block: FinalBlock) -> None:
        before = set(self.approved)
        for event in block.result.events:
            if event.kind == "deployment.approved":
                self.approved.add(bytes.fromhex(event.subject))
        for _, _, body in applied(block):
            if isinstance(body, Decide):
                self._decided(body)
            elif isinstance(body, CancelDeployment):
                asked = self.market.ordered[body.deployment].contract.policies.delete is not None
                self.market.count("cancelled with consent" if asked else "cancelled")
                number = self.market.followed.lives[body.deployment].in_force[0]
                given = BUDGET.public in self.consents.get((body.deployment, number), set())
                if asked and body.deployment in before and not given:
                    self.complain(f"{body.deployment.hex()[:8]} is cancelled without consent")

    def _decided(self, body: Decide) -> None:
        document = open_document(body.envelope, "approval")
        if document.predicate.act == "delete":
            said = document.predicate
            standing = self.consents.setdefault((bytes.fromhex(said.deployment), said.update), set())
            given = said.decision == "granted"
            (standing.add if given else standing.discard)(document.signer)


@dataclass(slots=True)
class Complaint:
    """A dispute as it was opened."""

    opener: bytes
    is_closed: bool = False


@dataclass(slots=True)
class Record:
    """All disputes of a deployment."""

    complaints: list[Complaint] = field(default_factory=list)


class Disputes(MarketChecker):
    """Each dispute stays on record as it was opened, and only who opened it closes it, once."""

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self.records: dict[bytes, Record] = {}

    def final(self, block: FinalBlock) -> None:
        for sender, _, body in applied(block):
            if isinstance(body, OpenDispute):
                self.market.count("dispute")
                self.records.setdefault(body.deployment, Record()).complaints.append(Complaint(sender))
            elif isinstance(body, CloseDispute):
                self.market.count("dispute closed")
                complaint = self.records[body.deployment].complaints[body.number]
                if complaint.opener != sender or complaint.is_closed:
                    self.complain(f"dispute {body.number} is closed by another, or again")
                complaint.is_closed = True
        for id_, record in self.records.items():
            self._compare(id_, record.complaints)

    def _compare(self, id_: bytes, complaints: list[Complaint]) -> None:
        state = self.market.chronicle.state
        found = [read(state, Dispute, key_dispute(id_, number)) for number in range(len(complaints))]
        wanted = [(complaint.opener, complaint.is_closed) for complaint in complaints]
        if [(d.opener, d.closed_ms > 0) for d in found if d is not None] != wanted:
            self.complain(f"disputes of {id_.hex()[:8]} are not those that were opened")


TRADE_CHECKERS: Final = (Funds, Penalties, Notice, Standing, Consent, Disputes)
