"""Nothing runs in a market, and no update begins, without its quorum: counted by the samples' rule written
out by hand, the members of the organisation that holds a role by its deeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ledger.codec import decode
from ledger.documents import open_document
from ledger.organisations.organisation import decode_deed, organisation_id
from ledger.organisations.records import key_organisation_turn
from ledger.records import Deployment
from ledger.transactions import ActOrganisation, Decide
from tests.sim.market_board import BOARD, HELD, PART
from tests.sim.market_chain import Final as FinalBlock
from tests.sim.market_checkers import MarketChecker
from tests.sim.market_follow import NONE, applied, slot_of
from tests.sim.market_people import ROLES

if TYPE_CHECKING:
    from node.executor.decide import SlotId
    from tests.sim.market import Market
    from tests.sim.market_node import MarketNode

HEARD_MS: Final = 9_000  # from the block that a node knows of to the end of what it forbids: a kill, a look
Acts = tuple[bytes, int]
"""Deployment, and the number of the update that brought what was decided on; 0: its order."""


@dataclass(slots=True)
class Person:
    """A member of the board. `seat`: another number after each break, or lost key; 0: not on it."""

    keys: set[bytes]
    current: bytes
    seat: int


class Board:
    """The members, by the deeds that were accepted; nothing else is asked."""

    def __init__(self) -> None:
        self.people: dict[str, Person] = {}
        self.seats = 0

    def follow(self, body: ActOrganisation) -> bool:
        """A deed was accepted; whether it was one of this organisation."""
        deed = decode_deed(body.payload)
        if deed.organisation != BOARD.hex() and organisation_id(body.payload) != BOARD:
            return False
        if deed.rotation is not None:
            person, new = self.people[deed.rotation.member], bytes.fromhex(deed.rotation.key)
            person.keys.add(new)
            person.current = new
        for member in deed.charter.members if deed.charter is not None else ():
            key, sits = bytes.fromhex(member.key), PART in member.roles
            person = self.people.setdefault(member.name, Person({key}, key, 0))
            if person.current != key:
                person.keys, person.current, person.seat = {key}, key, 0
            if not sits:
                person.seat = 0
            elif not person.seat:
                self.seats += 1
                person.seat = self.seats
        return True

    def who(self, key: bytes) -> tuple[str, int]:
        """Name and seat of who has, or had, this key; ("", 0): nobody."""
        found = [(name, person.seat) for name, person in self.people.items() if key in person.keys]
        return found[0] if found else ("", 0)


@dataclass(slots=True)
class Given:
    """A grant that stands: in which role, by which key, from which seat of the board."""

    role: str
    key: bytes
    seat: int


@dataclass(slots=True)
class Running:
    """Terms that run. `given`: the height at which a term was given out."""

    now: set[tuple[str, SlotId, int]] = field(default_factory=set)
    given: dict[tuple[SlotId, int], int] = field(default_factory=dict)


class Approved(MarketChecker):
    """Nothing runs, and no deployment is approved and no update rolls, without its quorum: a grant of the
    budget's holder that stands, and one of the expert's or the lawyer's, for exactly this manifest. Each
    document counts once. What a node knows to be withdrawn ends within HEARD_MS."""

    def __init__(self, market: Market) -> None:
        super().__init__(market)
        self.board = Board()
        self.standing: dict[Acts, dict[str, Given]] = {}
        self.documents: set[bytes] = set()
        self.history: dict[Acts, list[tuple[int, bool]]] = {}  # whether the quorum stands from a height on
        self.running = Running()

    def final(self, block: FinalBlock) -> None:
        for event in block.result.events:
            if event.kind == "slot.claimed":
                self.running.given[slot_of(event)] = block.height
        for _, _, body in applied(block):
            if isinstance(body, Decide):
                self._decided(body)
        self._note(block.height)
        if block.result.events:
            self._compare(block)
        # In one block everybody counts by the same members.
        deeds = [body for _, _, body in applied(block) if isinstance(body, ActOrganisation)]
        if sum(self.board.follow(body) for body in deeds):
            self._note(block.height + 1)
        self._heard()

    def _decided(self, body: Decide) -> None:
        document = open_document(body.envelope, "approval")
        if document.id in self.documents:
            self.complain(f"approval {document.id.hex()[:8]} was counted twice")
        self.documents.add(document.id)
        said = document.predicate
        if said.act not in ("deploy", "update"):
            return
        acts = bytes.fromhex(said.deployment), said.update
        if document.subject != self.market.followed.brought.get(acts):
            self.complain(f"an approval of {document.subject.hex()[:8]} counts for something else")
        name, seat = self.board.who(document.signer)
        standing = self.standing.setdefault(acts, {})
        person = name or document.signer.hex()
        if said.decision == "granted":
            standing[person] = Given(said.role, document.signer, seat)
        else:
            standing.pop(person, None)

    def _stands(self, acts: Acts) -> bool:
        """By the members of now."""
        held = HELD in self.market.ordered[acts[0]].contract.roles
        roles = set()
        for given in self.standing[acts].values():
            if held and given.role == HELD.name:
                counts = given.seat > 0 and self.board.who(given.key)[1] == given.seat
            else:
                counts = ROLES[given.role].public == given.key
            roles |= {given.role} if counts else set()
        return "budget" in roles and not roles.isdisjoint(("it-expert", "legal"))

    def _note(self, height: int) -> None:
        for acts in self.standing:
            history, stands = self.history.setdefault(acts, []), self._stands(acts)
            if stands != bool(history and history[-1][1]):
                history.append((height, stands))

    def _compare(self, block: FinalBlock) -> None:
        state = self.market.chronicle.state
        if state.get(key_organisation_turn(BOARD)) is not None:
            return  # its members are others now, and all is being judged again
        for _, data in state.scan(b"deployment/"):
            record = decode(Deployment, data)
            life = self.market.followed.lives[record.id]
            if record.status in ("approved", "active") and not self._quorum(
                (record.id, life.in_force[0]), block.height
            ):
                self.complain(f"{record.id.hex()[:8]} is {record.status} without its quorum")
            if life.rolls and not self._quorum((record.id, life.asked[0]), block.height):
                self.complain(f"update {life.asked[0]} of {record.id.hex()[:8]} rolls without its quorum")
            if (record.manifest, record.generation) != life.in_force[::-1]:
                self.complain(f"another manifest of {record.id.hex()[:8]} is in force than was brought")

    def _quorum(self, acts: Acts, height: int) -> bool:
        """As of a height."""
        found = [quorum for at, quorum in self.history.get(acts, []) if at <= height]
        return bool(found) and found[-1]

    def started(self, node: MarketNode, slot_id: SlotId, term: int) -> None:
        self.running.now.add((node.name, slot_id, term))
        known, height = self.market.followed, node.replica.height
        digest = known.terms.get((slot_id, term), NONE)[1]
        if not digest:
            return  # it was never given out: another checker's
        work = known.work(digest, slot_id[1])
        wanted = [
            number
            for number, other in known.at(slot_id[0], height)
            if (other_work := known.work(other, slot_id[1])) and work and other_work.command == work.command
        ]
        if not any(self._quorum((slot_id[0], number), height) for number in wanted):
            self.complain(f"{slot_id[1]} of {slot_id[0].hex()[:8]} starts on {node.name} without its quorum")

    def stopped(self, node: MarketNode, slot_id: SlotId, term: int) -> None:
        self.running.now.discard((node.name, slot_id, term))

    def _heard(self) -> None:
        """Who knew HEARD_MS ago that the quorum of a term was gone runs it no more."""
        for name, slot_id, term in sorted(self.running.now):
            node = next(n for n in self.market.nodes if n.name == name)
            known, given = node.known_height(HEARD_MS), self.running.given.get((slot_id, term), 0)
            number = self.market.followed.terms.get((slot_id, term), NONE)[0]
            since = max(given, self._moved(slot_id[0], number))
            gone = self.history.get((slot_id[0], number), [])
            if any(not quorum and since < at <= known for at, quorum in gone):
                self.complain(f"{slot_id[1]} term {term} still runs on {name}, which knows of its withdrawal")

    def _moved(self, deployment: bytes, number: int) -> int:
        """The height at which this number came into force; 0: it was not followed by an update."""
        life = self.market.followed.lives[deployment]
        found = [height for height, in_force, _ in life.past if in_force[0] == number]
        return found[0] if found and number else 0
