"""What the API says of organisations: who the members are, and by which deeds that came to be."""

from __future__ import annotations

import msgspec


class MemberView(msgspec.Struct, kw_only=True):
    """A member. `holds`: each role, "" for being a member, with the version since which it is held.
    `earlier`: keys that were rotated away from; `lost`: those that the organisation replaced."""

    name: str
    key: str
    weight: int
    holds: dict[str, int]
    earlier: list[str]
    lost: list[str]


class SignatureView(msgspec.Struct, kw_only=True):
    key: str
    signature: bytes


class DeedView(msgspec.Struct, kw_only=True):
    """A deed as accepted: exact bytes and signatures, so that anybody can check it; `words`: what it did."""

    version: int
    act: str
    height: int
    time_ms: int
    says: str
    words: list[str]
    payload: bytes
    signatures: list[SignatureView]


class OrganisationSummary(msgspec.Struct, kw_only=True):
    """`quorum` of `weight` changes it."""

    id: str
    name: str
    version: int
    members: int
    quorum: int
    weight: int
    dissolved: bool
    height: int
    time_ms: int


class OrganisationDetail(msgspec.Struct, kw_only=True):
    """`deeds`: from `first_version` on, in order; earlier ones stand in the state at deed/ID/."""

    id: str
    name: str
    version: int
    quorum: int
    weight: int
    dissolved: bool
    height: int
    time_ms: int
    members: list[MemberView]
    first_version: int
    deeds: list[DeedView]
