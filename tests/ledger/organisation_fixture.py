"""Organisations for tests of the ledger: founded, changed and rotated by real signed deeds."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from ledger.contracts.types import Contract, ContractRole
from ledger.keys import Key
from ledger.manifests.types import Policies, Rule
from ledger.organisations.organisation import (
    Charter,
    Deed,
    Member,
    Rotation,
    charter_of,
    deed_message,
    organisation_id,
)
from ledger.organisations.records import Organisation, key_organisation
from ledger.sshsig import blob_of, signed_bytes
from ledger.state import read
from ledger.transactions import ActOrganisation
from tests.ledger.world import CHAIN_ID, STRANGER, World, contract, key_of

ANNA, BEN, CARL, DORA, EVE = (key_of(name) for name in ("anna", "ben", "carl", "dora", "eve"))
HOUR_MS = 3_600_000


def member(name: str, key: Key, *roles: str, weight: int = 1) -> Member:
    """A member of a charter."""
    return Member(name=name, key=key.public.hex(), weight=weight, roles=tuple(sorted(roles)))


THREE = (member("Anna", ANNA, "board"), member("Ben", BEN, "board"), member("Carl", CARL, "board", "legal"))


def signed(deed: Deed, *signers: Key, ssh: bool = False) -> ActOrganisation:
    """A deed with these signatures."""
    payload = deed.encode()
    words = {}
    for key in signers:
        message = deed_message(payload)
        words[key.public] = (
            blob_of(key.public, key.sign_raw(signed_bytes(message))) if ssh else key.sign_raw(message)
        )
    return ActOrganisation(payload, tuple(sorted(words.items())))


def founding(
    world: World, *members: Member, quorum: int = 2, name: str = "City of Ghent", **changes: Any
) -> Deed:
    """A founding deed as of now."""
    fields: dict[str, Any] = {
        "chain_id": CHAIN_ID,
        "organisation": "",
        "version": 1,
        "act": "found",
        "valid_until_ms": world.now_ms + HOUR_MS,
        "charter": Charter(name=name, members=members or THREE, quorum=quorum),
    }
    return Deed(**(fields | changes))


class Office:
    """An organisation of Anna, Ben and Carl (or others), two of whom change it."""

    def __init__(self, world: World, *members: Member, quorum: int = 2, by: tuple[Key, ...] = ()) -> None:
        self.world = world
        deed = founding(world, *members, quorum=quorum)
        self.id = organisation_id(deed.encode())
        world.ok(STRANGER, signed(deed, *(by or (ANNA, BEN))))

    @property
    def now(self) -> Organisation:
        """Its record."""
        found = read(self.world.state, Organisation, key_organisation(self.id))
        assert found is not None
        return found

    def deed(self, act: str, **changes: Any) -> Deed:
        """A deed that follows what stands."""
        fields: dict[str, Any] = {
            "chain_id": CHAIN_ID,
            "organisation": self.id.hex(),
            "version": self.now.version + 1,
            "act": act,
            "valid_until_ms": self.world.now_ms + HOUR_MS,
        }
        return Deed(**(fields | changes))

    def charter(self, *members: Member, quorum: int | None = None) -> Deed:
        """A change to these members."""
        now = charter_of(self.now)
        charter = replace(now, members=members, quorum=now.quorum if quorum is None else quorum)
        return self.deed("change", charter=charter)

    def rotation(self, name: str, new: Key) -> Deed:
        return self.deed("rotate", rotation=Rotation(member=name, key=new.public.hex()))

    def act(self, deed: Deed, *by: Key, step_ms: int = 1_000) -> str:
        """Carry a deed in; the rule that refused it, or "". The next block counts by it."""
        receipt = self.world.do(STRANGER, signed(deed, *by), step_ms)
        self.world.run(step_ms=step_ms)
        return receipt.rule

    def change(self, *members: Member, by: tuple[Key, ...], quorum: int | None = None) -> str:
        return self.act(self.charter(*members, quorum=quorum), *by)

    def rotate(self, name: str, old: Key, new: Key) -> str:
        return self.act(self.rotation(name, new), old, new)

    def role(self, name: str, part: str = "") -> ContractRole:
        """A contract's role that members hold."""
        return ContractRole(name=name, bind="author", organisation=self.id.hex(), organisation_role=part)


def held_contract(*roles: ContractRole, deploy: Rule | None, **changes: Any) -> Contract:
    """The usual contract with these roles beside the others."""
    fields: dict[str, Any] = {"deploy": deploy, "signoff": None}
    policies = Policies(**(fields | changes))
    source = contract(policies=policies)
    others = tuple(role for role in source.roles if role.name not in {r.name for r in roles})
    return replace(source, roles=(*others, *roles))
