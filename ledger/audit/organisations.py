"""Organisations in an audit: their deeds from the founding on, and who held a role at which height."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.audit.file import Case
from ledger.audit.report import DeedRow, Facts, MemberRow
from ledger.errors import Refused
from ledger.organisations.history import replay
from ledger.organisations.organisation import decode_deed
from ledger.organisations.records import Organisation
from ledger.organisations.words import words_of_deed
from ledger.policies.people import Roll
from ledger.policies.types import Role


class Rolls:
    """Who holds a manifest's roles at each height: by the deeds of blocks below it ([N6]). `turns`: height
    and time of the blocks with a deed."""

    def __init__(self, case: Case, roles: Sequence[Role]) -> None:
        self._roles = roles
        self._history = {
            id_: replay(case.chain_id, deeds) for id_, (_, deeds) in case.records.organisations.items()
        }
        found = [(one.height, one.time_ms) for history in self._history.values() for one in history]
        self.turns = sorted(set(found))

    def height_at(self, time_ms: int) -> int:
        """Above all deeds before that time."""
        return 1 + max((height for height, at_ms in self.turns if at_ms < time_ms), default=0)

    def at(self, height: int) -> Roll:
        """The roll as the block of `height` counts it."""
        return Roll(self._roles, lambda id_: self._of(id_, height))

    def _of(self, organisation: bytes, height: int) -> Organisation | None:
        below = [one for one in self._history.get(organisation, []) if one.height < height]
        return below[-1] if below else None

    def member(self, role: str, key: bytes, height: int) -> tuple[Organisation, str] | None:
        """The organisation and the name by which a key held a role; None when it held none of one."""
        held = next((r for r in self._roles if r.name == role and r.organisation), None)
        found = self._of(bytes.fromhex(held.organisation), height) if held is not None else None
        if found is None:
            return None
        return next(((found, seat.name) for seat in found.seats if seat.key == key), None)


def check_organisations(case: Case, facts: Facts) -> str:
    """[N1]–[N6] Each organisation that holds a role is what its signed deeds lead to, none left out."""
    count = 0
    for id_, (record, deeds) in case.records.organisations.items():
        try:
            history = replay(case.chain_id, deeds)
        except Refused as error:
            detail = f"{id_.hex()[:10]}: {error.rule}: {error.detail}"[:300]
            raise Refused("audit.organisation", detail, "organisations") from None
        if not history or history[-1] != record or record.id != id_:
            detail = f"{id_.hex()[:10]}: its deeds do not lead to what is on record"
            raise Refused("audit.organisation", detail, "organisations")
        before: Organisation | None = None
        for found, after in zip(deeds, history, strict=True):
            deed = decode_deed(found.payload)
            names = {seat.key: seat.name for one in (before, after) if one is not None for seat in one.seats}
            signers = tuple(names.get(key, key.hex()) for key, _ in found.signatures)
            words = tuple(words_of_deed(before, deed))
            place = (id_.hex(), after.name, after.version, deed.act, found.height, found.time_ms)
            facts.deeds.append(DeedRow(*place, signers, deed.says, words))
            before, count = after, count + 1
    return f"{len(case.records.organisations)} hold roles, {count} deeds"


def note_member(rolls: Rolls, facts: Facts, act: str, role: str, key: bytes, height: int) -> None:
    """Who signed as whom: a row when the signer held the role as a member of an organisation."""
    found = rolls.member(role, key, height)
    if found is not None:
        organisation, name = found
        facts.members.append(
            MemberRow(
                height,
                act,
                role,
                key.hex(),
                name,
                organisation.name,
                organisation.id.hex(),
                organisation.version,
            )
        )
