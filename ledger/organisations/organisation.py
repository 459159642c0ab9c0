"""Organisations: named members with keys, weights and roles, and how they change their own list.

A deed is what members sign: canonical JSON under DSSE's encoding with a payload type of its own, by plain
Ed25519 or SSHSIG ([X1]). The founding deed's sha256 is the organisation's id. Everything here is pure: the
state machine, an executing node and an auditor follow the same deeds to the same members.

[N1] An organisation is founded by a deed that a quorum of its own members signed. Its charter names 1 to
     ORGANISATION_MEMBERS_MAX members, each with a name, a key, a weight and roles; the quorum is at least 1
     and at most the weight of all.
[N2] A change names the version that it makes, which is the former + 1, and a time after which it is void.
     Signed by a quorum of the members before it and by a quorum of those after it: so nobody takes it over
     alone, and no list comes into force that could not change itself again.
[N3] A member's key is rotated by the old key and the new one alone. What the member signed before counts on;
     the old key signs nothing more. A key that was replaced does not come back while its member is there.
[N4] A lost key is replaced by a change that gives the member's name another key. What the lost key signed,
     and those before it, counts no more.
[N5] Dissolved by a quorum, an organisation has no members, for good. After ORGANISATION_DEEDS_MAX deeds that
     is all that can be done with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from ledger import keys
from ledger.codec import decode_exact_json, encode_json, sha256
from ledger.documents import pae, signs
from ledger.errors import Refused
from ledger.limits import (
    DETAIL_CHARS_MAX,
    NAME_CHARS_MAX,
    ORGANISATION_BYTES_MAX,
    ORGANISATION_DEEDS_MAX,
    ORGANISATION_KEYS_MAX,
    ORGANISATION_MEMBERS_MAX,
    ORGANISATION_VALID_MS_MAX,
    POLICY_WEIGHT_MAX,
    ROLES_MAX,
    TIME_MS_MAX,
)
from ledger.organisations.records import DeedRecord, Organisation, Seat
from ledger.text.template import NAME, unsafe_character

DEED_TYPE: Final = "application/vnd.gridpact.organisation+json"

Act = Literal["found", "change", "rotate", "dissolve"]
Signatures = tuple[tuple[bytes, bytes], ...]  # key and signature, by ascending key


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`weight`: what the member's word weighs when the organisation changes; 0: signs in its roles alone."""

    name: str  # for people, and unique: a lost key is replaced by name
    key: str  # a public key in hex
    weight: int
    roles: tuple[str, ...]


class Charter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`quorum`: so much weight of members changes the charter."""

    name: str
    members: tuple[Member, ...]
    quorum: int


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The member of this name has this key from then on."""

    member: str
    key: str  # the new public key in hex


class Deed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is signed. `organisation`: its id in hex, "" in the founding deed. `charter` of `found` and
    `change`, `rotation` of `rotate` alone."""

    chain_id: str
    organisation: str
    version: int
    act: Act
    valid_until_ms: int
    charter: Charter | None = None
    rotation: Rotation | None = None
    says: str = ""  # for people

    def encode(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, UTF-8."""
        return encode_json(self)


def deed_message(payload: bytes) -> bytes:
    """The bytes that a member signs (for SSH: what `ssh-keygen -Y sign -n gridpact` is given)."""
    return pae(DEED_TYPE, payload)


def sign_deed(key: keys.Key, payload: bytes) -> bytes:
    """A member's plain signature, 64 bytes."""
    return key.sign_raw(deed_message(payload))


def is_deed_signed(public: bytes, payload: bytes, signature: bytes) -> bool:
    """[X1] True when `signature` is `public`'s over this deed, plain or as an SSHSIG."""
    return signs(public, deed_message(payload), signature)


def decode_deed(payload: bytes) -> Deed:
    """Foreign bytes to a deed whose form and charter make sense. Raises Refused("organisation.…")."""
    deed = decode_exact_json(Deed, payload, "organisation", ORGANISATION_BYTES_MAX)
    _check_shape(deed)
    return deed


def _check_shape(deed: Deed) -> None:
    """[N1] What a deed may say by itself."""
    founding = deed.act == "found"
    if founding != (deed.version == 1) or founding != (deed.organisation == ""):
        raise Refused("organisation.shape", "the founding deed, and it alone, is version 1 of none", "act")
    if not founding:
        keys.public_key_from_hex(deed.organisation, "organisation")
    if (deed.charter is not None) != (deed.act in ("found", "change")):
        raise Refused("organisation.shape", "found and change, and they alone, have a charter", "charter")
    if (deed.rotation is not None) != (deed.act == "rotate"):
        raise Refused("organisation.shape", "rotate, and it alone, has a rotation", "rotation")
    if not 0 <= deed.valid_until_ms <= TIME_MS_MAX or not 1 <= deed.version <= TIME_MS_MAX:
        raise Refused("organisation.shape", "a time or version out of range", "valid_until_ms")
    if len(deed.chain_id) > NAME_CHARS_MAX or len(deed.says) > DETAIL_CHARS_MAX:
        raise Refused("organisation.shape", f"at most {DETAIL_CHARS_MAX} characters", "says")
    if unsafe_character(deed.says) is not None:
        raise Refused("organisation.shape", "a control or invisible character", "says")
    if deed.rotation is not None:
        keys.public_key_from_hex(deed.rotation.key, "rotation.key")
    if deed.charter is not None:
        check_charter(deed.charter)


def check_charter(charter: Charter) -> None:
    """[N1] Raises Refused("organisation.…", "key.malformed") for the first rule that a charter breaks."""
    _check_name(charter.name, "charter.name")
    members = charter.members
    if not 1 <= len(members) <= ORGANISATION_MEMBERS_MAX:
        detail = f"1 to {ORGANISATION_MEMBERS_MAX} wanted, found {len(members)}"
        raise Refused("organisation.members", detail, "charter.members")
    for index, member in enumerate(members):
        field = f"charter.members[{index}]"
        _check_name(member.name, f"{field}.name")
        keys.public_key_from_hex(member.key, f"{field}.key")
        if not 0 <= member.weight <= POLICY_WEIGHT_MAX:
            raise Refused("organisation.weight", f"0 to {POLICY_WEIGHT_MAX} wanted", f"{field}.weight")
        if len(member.roles) > ROLES_MAX or list(member.roles) != sorted(set(member.roles)):
            raise Refused("organisation.roles", f"at most {ROLES_MAX}, sorted, each once", f"{field}.roles")
        if any(len(role) > NAME_CHARS_MAX or not NAME.fullmatch(role) for role in member.roles):
            raise Refused("organisation.roles", "lower-case letters, digits, - and _", f"{field}.roles")
    if len({member.name for member in members}) != len(members):
        raise Refused("organisation.members", "a name is there twice", "charter.members")
    if len({member.key for member in members}) != len(members):
        raise Refused("organisation.members", "a key is there twice", "charter.members")
    total = sum(member.weight for member in members)
    if not 1 <= charter.quorum <= total:
        raise Refused("organisation.quorum", f"1 to {total}, the weight of all, wanted", "charter.quorum")


def _check_name(name: str, field: str) -> None:
    if not 1 <= len(name) <= NAME_CHARS_MAX or unsafe_character(name) is not None or name != name.strip():
        raise Refused("organisation.name", f"1 to {NAME_CHARS_MAX} plain characters wanted", field)


def check_deed(
    chain_id: str, now: Organisation | None, deed: Deed, payload: bytes, signatures: Signatures
) -> None:
    """[N1]–[N5] Whether a deed may follow what stands: `now`, None before the founding. Its time is not
    judged here (`check_deed_time`). Raises Refused with the broken rule; signatures are checked last."""
    if deed.chain_id != chain_id:
        raise Refused("organisation.foreign_chain", f"chain {deed.chain_id[:40]!r} is not ours", "chain_id")
    if now is not None:
        _check_follows(now, deed)
    elif deed.act != "found":
        detail = f"no organisation {deed.organisation}: nothing was founded before this deed"
        raise Refused("organisation.unknown", detail, "organisation")
    given = [public for public, _ in signatures]
    if given != sorted(set(given)):
        raise Refused("organisation.signers", "each key once, in ascending order", "signatures")
    if deed.rotation is not None and now is not None:
        wanted = sorted((_seat(now, deed.rotation.member).key, bytes.fromhex(deed.rotation.key)))
        if given != wanted:
            raise Refused("organisation.signers", "the old key and the new one wanted", "signatures")
    else:
        _check_quorums(now, deed, given)
    for public, signature in signatures:
        if not is_deed_signed(public, payload, signature):
            raise Refused("organisation.signature", f"of {public.hex()[:16]} does not hold", "signatures")


def check_deed_time(deed: Deed, now_ms: int) -> None:
    """[N2] Raises Refused("organisation.expired" | "organisation.valid_until") at a block's time."""
    if deed.valid_until_ms < now_ms:
        detail = f"it was valid up to {deed.valid_until_ms} ms, it is {now_ms}"
        raise Refused("organisation.expired", detail, "valid_until_ms")
    if deed.valid_until_ms > now_ms + ORGANISATION_VALID_MS_MAX:
        days = ORGANISATION_VALID_MS_MAX // 86_400_000
        raise Refused("organisation.valid_until", f"at most {days} days ahead", "valid_until_ms")


def _check_follows(now: Organisation, deed: Deed) -> None:
    """[N2] [N3] [N5]"""
    if deed.organisation not in ("", now.id.hex()):  # in a history: the same people may sign for two
        raise Refused("organisation.unknown", "the deed is about another organisation", "organisation")
    if now.dissolved:
        raise Refused("organisation.dissolved", "it has been dissolved", "organisation")
    if now.version >= ORGANISATION_DEEDS_MAX and deed.act != "dissolve":
        detail = f"{ORGANISATION_DEEDS_MAX}; it can only be dissolved"
        raise Refused("organisation.too_many_deeds", detail, "organisation")
    if deed.version != now.version + 1:
        raise Refused("organisation.stale", f"it is at version {now.version}", "version")
    gone = {key for seat in now.seats for key in (*seat.earlier, *seat.lost)}
    if deed.charter is not None:
        if deed.charter == charter_of(now):
            raise Refused("organisation.same", "nothing would change", "charter")
        back = [member.name for member in deed.charter.members if bytes.fromhex(member.key) in gone]
        if back:
            raise Refused("organisation.former_key", f"{back[0]}: this key was replaced", "charter.members")
    if deed.rotation is not None:
        seat, new = _seat(now, deed.rotation.member), bytes.fromhex(deed.rotation.key)
        if new in gone or any(other.key == new for other in now.seats):
            raise Refused("organisation.former_key", "the key is or was a member's", "rotation.key")
        if len(seat.earlier) + len(seat.lost) >= ORGANISATION_KEYS_MAX:
            detail = f"{ORGANISATION_KEYS_MAX} times; only the organisation gives the member a new key now"
            raise Refused("organisation.rotations", detail, "rotation.member")


def _check_quorums(now: Organisation | None, deed: Deed, given: Sequence[bytes]) -> None:
    """[N1] [N2] [N5] Enough of those before, and enough of those after."""
    lists: list[tuple[str, dict[bytes, int], int]] = []
    if now is not None:
        lists.append(("before it", {seat.key: seat.weight for seat in now.seats}, now.quorum))
    if deed.charter is not None:
        after = {bytes.fromhex(member.key): member.weight for member in deed.charter.members}
        lists.append(("after it" if now is not None else "that it names", after, deed.charter.quorum))
    if any(all(public not in weights for _, weights, _ in lists) for public in given):
        raise Refused("organisation.signers", "only members sign", "signatures")
    for which, weights, quorum in lists:
        weight = weight_of(weights, given)
        if weight < quorum:
            detail = f"weight {weight} of {quorum} of the members {which}"
            raise Refused("organisation.no_quorum", detail, "signatures")


def weight_of(weights: dict[bytes, int], given: Iterable[bytes]) -> int:
    """What these keys weigh together; one that is not there weighs nothing."""
    return sum(weights.get(public, 0) for public in given)


def _seat(now: Organisation, name: str) -> Seat:
    for seat in now.seats:
        if seat.name == name:
            return seat
    raise Refused("organisation.member", f"no member {name[:NAME_CHARS_MAX]!r}", "rotation.member")


def charter_of(now: Organisation) -> Charter:
    """The charter in force: the last one that was signed, with the keys that were rotated since."""
    members = tuple(
        Member(name=s.name, key=s.key.hex(), weight=s.weight, roles=tuple(r for r in s.holds if r))
        for s in now.seats
    )
    return Charter(name=now.name, members=members, quorum=now.quorum)


def organisation_id(payload: bytes) -> bytes:
    """32 bytes: sha256 of the founding deed."""
    return sha256(payload)


def applied(now: Organisation | None, deed: Deed, payload: bytes, height: int, time_ms: int) -> Organisation:
    """What stands after a checked deed that was accepted in this block."""
    if now is None:
        assert deed.charter is not None
        seats = tuple(_new_seat(member, 1, index) for index, member in enumerate(deed.charter.members))
        made = (organisation_id(payload), deed.charter.name, 1, deed.charter.quorum, seats)
        return Organisation(*made, False, height, time_ms)
    name, quorum, seats = now.name, now.quorum, now.seats
    if deed.charter is not None:
        name, quorum = deed.charter.name, deed.charter.quorum
        members = range(len(deed.charter.members))
        seats = tuple(_next_seat(now, deed.charter, index, deed.version) for index in members)
    elif deed.rotation is not None:
        seats = tuple(_rotated(seat, deed.rotation) for seat in seats)
    else:
        seats = ()
    dissolved = deed.act == "dissolve"
    return Organisation(now.id, name, deed.version, quorum, seats, dissolved, height, time_ms)


def _new_seat(member: Member, version: int, index: int, lost: tuple[bytes, ...] = ()) -> Seat:
    holds = dict.fromkeys(("", *member.roles), version)
    number = version * ORGANISATION_MEMBERS_MAX + index
    return Seat(member.name, bytes.fromhex(member.key), member.weight, number, holds, (), lost)


def _next_seat(now: Organisation, charter: Charter, index: int, version: int) -> Seat:
    """Who keeps the key keeps what it holds; who keeps the name with another key has lost the former one."""
    member = charter.members[index]
    key = bytes.fromhex(member.key)
    for seat in now.seats:
        if seat.key == key:
            holds = {role: seat.holds.get(role, version) for role in ("", *member.roles)}
            return Seat(member.name, key, member.weight, seat.number, holds, seat.earlier, seat.lost)
    kept = {bytes.fromhex(other.key) for other in charter.members}
    for seat in now.seats:
        if seat.name == member.name and seat.key not in kept:
            lost = (*seat.lost, *seat.earlier, seat.key)[-ORGANISATION_KEYS_MAX:]
            return _new_seat(member, version, index, lost)
    return _new_seat(member, version, index)


def _rotated(seat: Seat, rotation: Rotation) -> Seat:
    if seat.name != rotation.member:
        return seat
    new, earlier = bytes.fromhex(rotation.key), (*seat.earlier, seat.key)
    return Seat(seat.name, new, seat.weight, seat.number, seat.holds, earlier, seat.lost)


def keys_in(record: DeedRecord) -> set[bytes]:
    """Every key that an accepted deed made a member's. Raises Refused when its bytes are no deed."""
    deed = decode_deed(record.payload)
    given = [member.key for member in deed.charter.members] if deed.charter is not None else []
    return {
        bytes.fromhex(key) for key in [*given, *([deed.rotation.key] if deed.rotation is not None else [])]
    }
