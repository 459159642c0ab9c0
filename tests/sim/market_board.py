"""An organisation of four, whose members hold a role in the market: its deeds, and the members' keys."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

from msgspec.structs import replace

from ledger.codec import sha256
from ledger.contracts.types import ContractRole
from ledger.keys import Key
from ledger.organisations.organisation import Charter, Deed, Rotation, charter_of, organisation_id
from ledger.organisations.records import Organisation, key_organisation
from ledger.state import Reader, read
from ledger.transactions import ActOrganisation
from tests.ledger.organisation_fixture import ANNA, BEN, CARL, DORA, THREE, member, signed
from tests.sim.world import GENESIS_MS, World

PART: Final = "board"
HOUR_MS: Final = 3_600_000
FOUNDING: Final = Deed(
    chain_id=World.chain_id,
    organisation="",
    version=1,
    act="found",
    valid_until_ms=GENESIS_MS + HOUR_MS,
    charter=Charter(name="The city", members=(*THREE, member("Dora", DORA, PART)), quorum=2),
)
BOARD: Final = organisation_id(FOUNDING.encode())
HELD: Final = ContractRole(name="it-expert", bind="author", organisation=BOARD.hex(), organisation_role=PART)


def founded() -> ActOrganisation:
    """The deed that founds it."""
    return signed(FOUNDING, ANNA, BEN)


class Ring:
    """All keys that members have had. What changes the organisation goes by its record."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.keys = {key.public: key for key in (ANNA, BEN, CARL, DORA)}

    def fresh(self) -> Key:
        """A new key of a member."""
        key = Key(sha256(b"fresh %d" % len(self.keys)))
        self.keys[key.public] = key
        return key

    def seated(self, state: Reader) -> dict[str, Key]:
        """Members that sit on the board now, by name, with their keys."""
        now = read(state, Organisation, key_organisation(BOARD))
        seats = now.seats if now is not None else ()
        return {seat.name: self.keys[seat.key] for seat in seats if PART in seat.holds}

    def act(self, kind: str, state: Reader, now_ms: int) -> ActOrganisation | None:
        """A signed deed that follows what stands: `rotate`, `lose`, `seat` (somebody leaves the board, or
        comes back), or `usurp`, signed by too few."""
        now = read(state, Organisation, key_organisation(BOARD))
        if now is None:
            return None
        return _ACTS[kind](self, now, now_ms + HOUR_MS)

    def _rotate(self, now: Organisation, until_ms: int) -> ActOrganisation:
        seat, new = self.rng.choice(now.seats), self.fresh()
        rotation = Rotation(member=seat.name, key=new.public.hex())
        return signed(_deed(now, "rotate", until_ms, rotation=rotation), self.keys[seat.key], new)

    def _lose(self, now: Organisation, until_ms: int) -> ActOrganisation:
        lost = self.rng.choice(now.seats)
        return self._charter(now, until_ms, lost.name, key=self.fresh().public.hex())

    def _seat(self, now: Organisation, until_ms: int) -> ActOrganisation:
        away = [seat for seat in now.seats if PART not in seat.holds]
        seat = away[0] if away else self.rng.choice(now.seats)
        return self._charter(now, until_ms, seat.name, roles=(PART,) if away else ())

    def _usurp(self, now: Organisation, until_ms: int) -> ActOrganisation:
        seat = self.rng.choice(now.seats)
        deed = _deed(now, "change", until_ms, charter=replace(charter_of(now), quorum=1))
        return signed(deed, self.keys[seat.key])

    def _charter(self, now: Organisation, until_ms: int, name: str, **changes: Any) -> ActOrganisation:
        """One member changed; two others sign it."""
        charter = charter_of(now)
        members = tuple(replace(m, **changes) if m.name == name else m for m in charter.members)
        deed = _deed(now, "change", until_ms, charter=replace(charter, members=members))
        return signed(deed, *[self.keys[seat.key] for seat in now.seats if seat.name != name][:2])


_ACTS: Final[dict[str, Callable[[Ring, Organisation, int], ActOrganisation]]] = {
    "rotate": Ring._rotate,
    "lose": Ring._lose,
    "seat": Ring._seat,
    "usurp": Ring._usurp,
}


def _deed(now: Organisation, act: Any, until_ms: int, **what: Any) -> Deed:
    return Deed(
        chain_id=World.chain_id,
        organisation=BOARD.hex(),
        version=now.version + 1,
        act=act,
        valid_until_ms=until_ms,
        **what,
    )
