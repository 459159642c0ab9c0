"""Who may sign for the roles of a manifest, where organisations hold some of them. Pure.

A role names its keys itself, or an organisation whose members hold it: those of one of its roles, or all.
The roll is what that comes to at one block; approvals are counted by it ([G9], [G10]).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from ledger.codec import sha256
from ledger.limits import ORGANISATION_MEMBERS_MAX
from ledger.organisations.records import Organisation, Seat
from ledger.policies.types import Role

_BY_ORGANISATION: Final = "organisation:"
Held = tuple[int, int]
NOTHING: Final[Held] = (0, 0)
Find = Callable[[bytes], Organisation | None]


def _nobody(organisation: bytes) -> Organisation | None:
    return None


class People:
    """Keys that belong to one person, as the organisations of a manifest know them.

    `one`: keys that sign as the same member, because one was rotated to the next. `kin`: also those that
    the organisation replaced; who is excluded is so with all of them.
    """

    __slots__ = ("_groups", "_kin", "_one")

    def __init__(self, seats: Iterable[Seat] = ()) -> None:
        self._one: dict[bytes, bytes] = {}
        self._groups: dict[bytes, frozenset[bytes]] = {}
        self._kin: list[frozenset[bytes]] = []
        found = [seat for seat in seats if seat.earlier or seat.lost]
        for group in _joined(frozenset((seat.key, *seat.earlier)) for seat in found):
            for key in group:
                self._one[key] = min(group)
                self._groups[key] = group
        self._kin = _joined(frozenset((seat.key, *seat.earlier, *seat.lost)) for seat in found)

    def one(self, key: bytes) -> bytes:
        """The key that stands for this one's person: the same for all keys that sign as one member."""
        return self._one.get(key, key)

    def group(self, key: bytes) -> frozenset[bytes]:
        """All keys that sign as one member with this one, itself among them."""
        return self._groups.get(key, frozenset((key,)))

    def kept_out(self, keys: Iterable[bytes]) -> frozenset[bytes]:
        """[G10] Who stands for these keys and for all that were the same members'."""
        out = set(keys)
        for kin in self._kin:
            if not out.isdisjoint(kin):
                out |= kin
        return frozenset(self.one(key) for key in out)


def _joined(groups: Iterable[frozenset[bytes]]) -> list[frozenset[bytes]]:
    """Groups that share a key become one."""
    out: list[frozenset[bytes]] = []
    for group in groups:
        apart = [other for other in out if other.isdisjoint(group)]
        met = [other for other in out if not other.isdisjoint(group)]
        out = [*apart, group.union(*met)]
    return out


EACH_KEY_ONE_PERSON = People()


class Roll:
    """Who holds each role of a manifest at one block.

    `roles`: with all keys whose approvals may count. `current`: those that may sign now. `seats`: of roles
    that organisations hold, by role and key, what its member holds there: the membership's number, and since
    which version of the organisation.
    """

    __slots__ = ("_held", "_members", "current", "people", "roles", "seats")

    def __init__(self, roles: Sequence[Role], find: Find = _nobody) -> None:
        self.roles: tuple[Role, ...] = tuple(roles)
        self.people = EACH_KEY_ONE_PERSON
        self.seats: dict[tuple[str, bytes], Held] = {}
        self._members: dict[tuple[str, bytes], int] = {}  # also those who do not hold the role
        self.current: dict[str, frozenset[bytes]] = {}
        self._held = frozenset(role.name for role in roles if role.organisation)
        if self._held:
            self._fill(find)
        for role in self.roles:
            if role.name not in self._held:
                self.current[role.name] = frozenset(bytes.fromhex(key) for key in role.keys)

    def _fill(self, find: Find) -> None:
        named = dict.fromkeys(role.organisation for role in self.roles if role.organisation)
        known = {id_: find(bytes.fromhex(id_)) for id_ in named}
        filled = []
        for role in self.roles:
            organisation = known.get(role.organisation)
            if not role.organisation:
                filled.append(role)
                continue
            mine = []
            for seat in organisation.seats if organisation is not None else ():
                since = seat.holds.get(role.organisation_role)
                mine += [seat] if since is not None else []
                for key in (seat.key, *seat.earlier):
                    self._members[role.name, key] = seat.number
                    if since is not None:
                        self.seats[role.name, key] = seat.number, since
            self.current[role.name] = frozenset(seat.key for seat in mine)
            counted = sorted(key.hex() for seat in mine for key in (seat.key, *seat.earlier))
            filled.append(replace(role, keys=tuple(counted)))
        self.roles = tuple(filled)
        self.people = People(seat for found in known.values() if found is not None for seat in found.seats)

    def now(self) -> tuple[Role, ...]:
        """The roles with the keys that may sign now alone."""
        return tuple(
            replace(role, keys=tuple(sorted(key.hex() for key in self.current[role.name])))
            for role in self.roles
        )

    def is_held(self, role: str) -> bool:
        """Whether an organisation holds the role."""
        return role in self._held

    def seat(self, role: str, key: bytes) -> Held:
        """What a key holds in the organisation that holds a role; NOTHING: another role, or not it."""
        return self.seats.get((role, key), NOTHING)

    def belongs(self, role: str, key: bytes, seat: Held) -> bool:
        """[G9] Whether a decision that this key made in this role is of one who is a member still, without a
        break: always, when the role names its keys itself."""
        return role not in self._held or self._members.get((role, key)) == seat[0]

    def counts(self, role: str, key: bytes, seat: Held) -> bool:
        """[G9] Whether it counts: its signer holds what it held then."""
        return role not in self._held or self.seats.get((role, key)) == seat


def organisations_of(roles: Iterable[Role]) -> list[bytes]:
    """Ids of the organisations that hold roles, ascending."""
    return sorted({bytes.fromhex(role.organisation) for role in roles if role.organisation})


def names_of(roles: Iterable[Role]) -> Mapping[str, str]:
    """Role: the organisation that holds it, in words."""
    return {
        role.name: f"{role.organisation_role or 'members'} of organisation {role.organisation}"
        for role in roles
        if role.organisation
    }


def role_of(name: str, words: Sequence[str]) -> Role:
    """The role that an order binds: to keys in hex, or to one `organisation:ID` or `organisation:ID/ROLE`."""
    if len(words) == 1 and words[0].startswith(_BY_ORGANISATION):
        organisation, _, role = words[0].removeprefix(_BY_ORGANISATION).partition("/")
        return Role(name=name, organisation=organisation, organisation_role=role)
    return Role(name=name, keys=tuple(sorted(words)))


def words_of(role: Role) -> tuple[str, ...]:
    """What an order says to bind a role so: the inverse of `role_of`."""
    if not role.organisation:
        return role.keys
    part = f"/{role.organisation_role}" if role.organisation_role else ""
    return (f"{_BY_ORGANISATION}{role.organisation}{part}",)


def as_if_many(roles: Iterable[Role]) -> tuple[Role, ...]:
    """The roles, where those of organisations are held by as many strangers as they can have members: what a
    policy can come to when nobody has looked at the organisation."""
    return tuple(
        Role(name=role.name, keys=tuple(_stranger(role.name, i) for i in range(ORGANISATION_MEMBERS_MAX)))
        if role.organisation
        else role
        for role in roles
    )


def _stranger(role: str, number: int) -> str:
    return sha256(f"{role}/{number}".encode()).hex()
