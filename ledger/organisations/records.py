"""Records of organisations, by key. As `ledger.records`, which has the others."""

from __future__ import annotations

import msgspec

from ledger.records import be
from ledger.state import Reader, read


class _Record(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Base of the records."""


class Seat(_Record, frozen=True):
    """A member as it stands. `number` is of this membership alone: nobody else ever has it, nor the same
    person after a break or a lost key. `holds`: each of its roles, and "" for being a member, with the
    version since which it holds it without a break. `earlier`: keys that the member rotated away from, oldest
    first; what they signed counts on. `lost`: those that the organisation replaced; what they signed does
    not."""

    name: str
    key: bytes
    weight: int
    number: int
    holds: dict[str, int]
    earlier: tuple[bytes, ...]
    lost: tuple[bytes, ...]


class Organisation(_Record, frozen=True):
    """An organisation after its last deed, which was accepted in the block of `height`."""

    id: bytes
    name: str
    version: int
    quorum: int
    seats: tuple[Seat, ...]
    dissolved: bool
    height: int
    time_ms: int


class DeedRecord(_Record, frozen=True):
    """A deed as accepted: each version of an organisation has one. `signatures`: key and signature."""

    payload: bytes
    signatures: tuple[tuple[bytes, bytes], ...]
    height: int
    time_ms: int


def key_organisation(organisation: bytes) -> bytes:
    return b"organisation/" + organisation


def key_organisation_former(organisation: bytes) -> bytes:
    """The Organisation before its last deed: in force in the very block that holds that deed."""
    return b"organisation_former/" + organisation


def key_deed(organisation: bytes, version: int) -> bytes:
    return b"deed/" + organisation + b"/" + be(version)


def key_organisation_use(organisation: bytes, *, decided: bool, deployment: bytes) -> bytes:
    """Index of deployments to be judged again when members are others; the value is empty. First those on
    which a member has `decided`, which nobody else can add to."""
    return organisation_uses(organisation) + (b"0" if decided else b"1") + deployment


def organisation_uses(organisation: bytes) -> bytes:
    """What each `key_organisation_use` of an organisation begins with."""
    return b"organisation_use/" + organisation + b"/"


def key_organisation_turn(organisation: bytes) -> bytes:
    """While its deployments are judged again: b"" or, when its members changed since that began, b"again"."""
    return b"organisation_turn/" + organisation


def organisation_at(state: Reader, organisation: bytes, height: int | None = None) -> Organisation | None:
    """[N6] The organisation as the block of `height` counts it: a deed holds from the block after its own.
    None: for the block after the state's last. The answer is None where there is none."""
    found = read(state, Organisation, key_organisation(organisation))
    if found is not None and height is not None and found.height >= height:
        return read(state, Organisation, key_organisation_former(organisation))
    return found
