"""Random orders of found, change, rotate, approve and revoke, against a model that knows people and not keys.

The model says after each step who is a member, whose word counts, and whether the deployment is approved; so
no stranger's approval ever counts, no member's is forgotten, and a quorum of keys that people hold can always
change the organisation again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ledger.keys import Key
from ledger.manifests.types import Rule
from ledger.organisations.organisation import Member, check_deed
from ledger.state import MemoryState
from tests.ledger.invariants import check
from tests.ledger.organisation_fixture import Office, held_contract, member, signed
from tests.ledger.world import CHAIN_ID, STRANGER, World, key_of

KEYS = tuple(key_of(f"person {n}") for n in range(9))
NAMES = ("Ann", "Bob", "Cat", "Dan")
PICK = st.integers(0, len(KEYS) - 1)
NAME = st.integers(0, len(NAMES) - 1)


@dataclass
class Person:
    """A member as the model knows it. `keys`: of this membership, the last is in force. `gone`: replaced."""

    name: str
    keys: list[Key]
    board: bool
    weight: int
    gone: set[bytes] = field(default_factory=set)
    word: str = ""  # the last decision that counts for the board
    token: object = field(default_factory=object)  # of this membership


class Boards(RuleBasedStateMachine):
    @initialize(quorum=st.integers(1, 3))
    def begin(self, quorum: int) -> None:
        self.world = World()
        members = tuple(member(NAMES[n], KEYS[n], "board") for n in range(3))
        self.office = Office(self.world, *members, quorum=quorum, by=KEYS[:quorum])
        self.world.run()
        self.people = [Person(NAMES[n], [KEYS[n]], True, 1) for n in range(3)]
        self.quorum = quorum
        self.said: dict[bytes, tuple[int, str, object]] = {}  # last decision by key, of which membership
        self.number = 0
        source = held_contract(self.office.role("board", "board"), deploy=Rule(role="board", count=2))
        self.deployment = self.world.order(source, self.world.publish(source))

    # --- what people do

    @rule(
        slots=st.lists(st.tuples(NAME, PICK, st.booleans(), st.integers(0, 2)), min_size=0, max_size=4),
        kept=st.sets(NAME),
        quorum=st.integers(0, 4),
        signers=st.sets(PICK),
        all_sign=st.booleans(),
    )
    def change(
        self,
        slots: list[tuple[int, int, bool, int]],
        kept: set[int],
        quorum: int,
        signers: set[int],
        all_sign: bool,
    ) -> None:
        now = {
            p.name: member(p.name, p.keys[-1], *(["board"] * p.board), weight=p.weight) for p in self.people
        }
        members = {name: m for name, m in now.items() if NAMES.index(name) in kept or all_sign}
        for name, key, board, weight in slots[: 1 if all_sign else 4]:
            members[NAMES[name]] = member(NAMES[name], KEYS[key], *(["board"] * board), weight=weight)
        after = tuple(members.values())
        by = [KEYS[n] for n in sorted(signers)]
        if all_sign:
            wanted = {p.keys[-1].public for p in self.people} | {bytes.fromhex(m.key) for m in after}
            by = [key for key in KEYS if key.public in wanted]
        quorum = max(1, quorum % 3) if all_sign else quorum
        deed = self.office.charter(*after, quorum=quorum)
        receipt = self.world.do(STRANGER, signed(deed, *by))
        assert receipt.ok == self.may_change(after, quorum, by), (receipt.rule, receipt.detail)
        if receipt.ok:
            self.people = [self.next_person(m, after) for m in after]
            self.quorum = quorum
        self.world.run()

    def may_change(self, after: tuple[Member, ...], quorum: int, by: list[Key]) -> bool:
        old = {p.keys[-1].public: p.weight for p in self.people}
        new = {bytes.fromhex(m.key): m.weight for m in after}
        gone = set().union(*(p.gone for p in self.people)) if self.people else set()
        given = {key.public for key in by}
        same = [(p.name, p.keys[-1].public, p.board, p.weight) for p in self.people] == [
            (m.name, bytes.fromhex(m.key), bool(m.roles), m.weight) for m in after
        ]
        return (
            bool(after)
            and len(new) == len(after)
            and 1 <= quorum <= sum(new.values())
            and not (same and quorum == self.quorum)
            and gone.isdisjoint(new)
            and given <= old.keys() | new.keys()
            and sum(old.get(key, 0) for key in given) >= self.quorum
            and sum(new.get(key, 0) for key in given) >= quorum
        )

    def next_person(self, m: Member, after: tuple[Member, ...]) -> Person:
        key = next(k for k in KEYS if k.public.hex() == m.key)
        board = bool(m.roles)
        for p in self.people:
            if p.keys[-1].public == key.public:
                word = p.word if p.board and board else ""
                return Person(m.name, p.keys, board, m.weight, p.gone, word, p.token)
        kept = {other.key for other in after}
        for p in self.people:
            if p.name == m.name and p.keys[-1].public.hex() not in kept:
                return Person(m.name, [key], board, m.weight, p.gone | {p.keys[-1].public})
        return Person(m.name, [key], board, m.weight)

    @rule(who=NAME, key=PICK, thief=st.booleans())
    def rotate(self, who: int, key: int, thief: bool) -> None:
        old = self.people[who % len(self.people)]
        new = KEYS[key]
        gone = set().union(*(p.gone for p in self.people))
        used = {p.keys[-1].public for p in self.people}
        by = [new, KEYS[(key + 1) % len(KEYS)]] if thief else [old.keys[-1], new]
        right = {k.public for k in by} == {old.keys[-1].public, new.public}
        may = right and new.public not in gone | used and len(old.gone) < 8
        receipt = self.world.do(STRANGER, signed(self.office.rotation(old.name, new), *by))
        assert receipt.ok == may, (receipt.rule, receipt.detail)
        if may:
            old.gone |= {old.keys[-1].public}
            old.keys = [*old.keys, new]
        self.world.run()

    @rule(key=PICK, revoke=st.booleans())
    def decide(self, key: int, revoke: bool) -> None:
        signer = KEYS[key]
        person = next((p for p in self.people if p.keys[-1] is signer), None)
        before = self.last_word(person) if person is not None else ""
        may = person is not None and person.board and (not revoke or before == "granted")
        decision = "revoked" if revoke else "granted"
        receipt = self.world.do(STRANGER, self.world.decide(self.deployment, signer, "board", decision))
        assert receipt.ok == may, (receipt.rule, receipt.detail)
        if receipt.ok and person is not None:
            self.said[signer.public] = self.number, decision, person.token
            self.number += 1
            person.word = decision

    def last_word(self, person: Person) -> str:
        """What it decided last; also what its key did in another's hands."""
        said = [
            self.said[key.public]
            for key in person.keys
            if key.public in self.said
            and (key is person.keys[-1] or self.said[key.public][2] is person.token)
        ]
        return max(said, key=lambda item: item[0])[1] if said else ""

    # --- what must hold

    @invariant()
    def the_members_of_now_decide(self) -> None:
        if not hasattr(self, "world"):
            return
        check(MemoryState(self.world.state.entries()), self.world.now_ms)
        granted = sum(p.word == "granted" for p in self.people)
        status = self.world.deployment(self.deployment).status
        assert status == ("approved" if granted >= 2 else "awaiting_approval")

    @invariant()
    def a_quorum_that_people_hold_can_change_it_again(self) -> None:
        if not hasattr(self, "world"):
            return
        now = self.office.now
        assert [(s.name, s.key, s.weight) for s in now.seats] == [
            (p.name, p.keys[-1].public, p.weight) for p in self.people
        ]
        assert 1 <= now.quorum <= sum(seat.weight for seat in now.seats)
        newcomer = member("Newcomer", key_of("newcomer"))
        deed = self.office.charter(*(charter_member(p) for p in self.people), newcomer)
        body = signed(deed, *(p.keys[-1] for p in self.people))
        check_deed(CHAIN_ID, now, deed, body.payload, body.signatures)


def charter_member(p: Person) -> Member:
    return member(p.name, p.keys[-1], *(["board"] * p.board), weight=p.weight)


Boards.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestBoards = Boards.TestCase
