"""`gridpact org`: organisations whose members hold roles, and how they agree on who these are.

A deed is a small JSON file that goes from hand to hand: one writes it, enough members sign, anybody submits.
It holds no secret. What an organisation is, this computer works out from the signed deeds themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from msgspec.structs import replace

from ledger.organisations.organisation import Act, Charter, Deed, Member, Rotation, charter_of
from ledger.organisations.records import Organisation
from node.cli.context import EXIT_USAGE, Failure, current
from node.cli.deeds import show_file, write_unsigned
from node.cli.keys import public_key
from node.cli.organisation_state import checked, organisation_of
from node.cli.output import clean, emit, emit_facts, say
from node.client.amounts import parse_span, time_text
from node.client.deed_file import read_deed

DeedPath = Annotated[Path, Parameter(name=["--file", "-f"], help="Where to write the deed.")]
Valid = Annotated[str, Parameter(help="How long it may be signed and submitted, at most 30d.")]
Says = Annotated[str, Parameter(help="A word for the record.")]


def _several(text: str) -> Parameter:
    return Parameter(negative="", help=f"{text} May be given several times.")


Add = Annotated[
    tuple[str, ...],
    _several("KEY:WEIGHT:ROLES:NAME of a member that joins; ROLES joined by commas, or nothing."),
]


def list_all() -> int:
    """List the organisations."""
    found = list(current.client().organisations())
    rows = [
        (o.id[:12], o.name, o.members, f"{o.quorum} of {o.weight}", o.version, _state(o.dissolved, o.time_ms))
        for o in found
    ]
    emit(found, ("organisation", "name", "members", "changed by", "version", "since (UTC)"), rows)
    return 0


def _state(dissolved: bool, time_ms: int) -> str:
    return f"dissolved {time_text(time_ms)}" if dissolved else time_text(time_ms)


def show(ref: str, /) -> int:
    """Show an organisation and its deeds, or what a deed in a file would do and who has signed it.

    Args:
        ref: The organisation's id, or the first 6 or more digits; or a file.
    """
    if Path(ref).is_file():
        return show_file(read_deed(Path(ref)))
    detail = current.client().organisation(ref)
    now = checked(current.client(), detail, ref)
    facts: list[tuple[str, object]] = [
        ("organisation", detail.id),
        ("name", detail.name),
        ("version", f"{detail.version}, since {time_text(detail.time_ms)} UTC, height {detail.height}"),
        ("changed by", f"weight {detail.quorum} of {detail.weight}" if not detail.dissolved else "nobody"),
    ]
    for member in detail.members:
        held = [f"{role} since version {version}" for role, version in member.holds.items() if role]
        roles = ", ".join(held) or "no role"
        facts.append((f"member {member.name}", f"{member.key} weight {member.weight}; {roles}"))
        facts += [("  rotated away", key) for key in member.earlier]
        facts += [("  lost", key) for key in member.lost]
    for deed in detail.deeds:
        said = f": {deed.says}" if deed.says else ""
        by = f"{len(deed.signatures)} signatures"
        facts.append((f"deed {deed.version}", f"{deed.act}, {time_text(deed.time_ms)} UTC, {by}{said}"))
        facts += [("", line) for line in deed.words]
    emit_facts(detail, facts)
    say(f"checked here: {now.version} signed deeds lead to this")
    return 0


def found(
    name: str,
    /,
    *,
    file: DeedPath,
    add: Add,
    quorum: Annotated[int, Parameter(help="So much weight of members changes the organisation.")],
    valid: Valid = "7d",
    says: Says = "",
) -> int:
    """Write the founding deed of an organisation to a file, to be signed by its first members.

    Args:
        name: What it is called; others tell it by its id.
    """
    charter = Charter(name=name, members=tuple(_newcomer(text) for text in add), quorum=quorum)
    return write_unsigned(file, None, _deed(None, "found", valid, says, charter))


def change(
    organisation: str,
    /,
    *,
    file: DeedPath,
    add: Add = (),
    remove: Annotated[tuple[str, ...], _several("Name of a member that leaves.")] = (),
    new_key: Annotated[tuple[str, ...], _several("NAME=KEY: this member has lost its key.")] = (),
    weight: Annotated[tuple[str, ...], _several("NAME=NUMBER, a new weight.")] = (),
    roles: Annotated[tuple[str, ...], _several("NAME=ROLES, all that this member holds from then on.")] = (),
    quorum: int | None = None,
    name: str = "",
    valid: Valid = "7d",
    says: Says = "",
) -> int:
    """Write a change of members, weights or roles to a file, to be signed by the members.

    Args:
        organisation: Its id, or the first 6 or more digits.
        quorum: So much weight changes it from then on.
        name: What it is called from then on.
    """
    now = organisation_of(organisation)
    charter = charter_of(now)
    members = list(charter.members)
    for text in remove:
        del members[_place(members, text)]
    for text in new_key:
        place, value = _assigned(members, text)
        members[place] = replace(members[place], key=public_key(value).hex())
    for text in weight:
        place, value = _assigned(members, text)
        members[place] = replace(members[place], weight=_number(value, text))
    for text in roles:
        place, value = _assigned(members, text)
        members[place] = replace(members[place], roles=_roles(value))
    members += [_newcomer(text) for text in add]
    charter = Charter(
        name=name or charter.name,
        members=tuple(members),
        quorum=charter.quorum if quorum is None else quorum,
    )
    return write_unsigned(file, now, _deed(now, "change", valid, says, charter))


def rotate(
    organisation: str, /, *, member: str, to: str, file: DeedPath, valid: Valid = "7d", says: Says = ""
) -> int:
    """Write the change of your own key to a file: the old key and the new one sign it, nobody else.

    Args:
        organisation: Its id, or the first 6 or more digits.
        member: Your name in it.
        to: The new public key, 64 hex digits, or the name of a key here.
    """
    now = organisation_of(organisation)
    rotation = Rotation(member=member, key=public_key(to).hex())
    return write_unsigned(file, now, _deed(now, "rotate", valid, says, rotation=rotation))


def dissolve(organisation: str, /, *, file: DeedPath, valid: Valid = "7d", says: Says = "") -> int:
    """Write the end of an organisation to a file, to be signed by its members.

    Args:
        organisation: Its id, or the first 6 or more digits.
    """
    now = organisation_of(organisation)
    return write_unsigned(file, now, _deed(now, "dissolve", valid, says))


# ---------------------------------------------------------------------- what is changed


def _deed(
    now: Organisation | None,
    act: Act,
    valid: str,
    says: str,
    charter: Charter | None = None,
    rotation: Rotation | None = None,
) -> Deed:
    status = current.client().status()
    return Deed(
        chain_id=status.chain_id,
        organisation="" if now is None else now.id.hex(),
        version=1 if now is None else now.version + 1,
        act=act,
        valid_until_ms=status.block_time_ms + parse_span(valid, "--valid") * 1000,
        charter=charter,
        rotation=rotation,
        says=says,
    )


def _newcomer(text: str) -> Member:
    key, _, rest = text.partition(":")
    number, _, rest = rest.partition(":")
    roles, mark, name = rest.partition(":")
    if not mark or not name:
        raise Failure(EXIT_USAGE, f"--add {text}: KEY:WEIGHT:ROLES:NAME wanted")
    public = public_key(key).hex()
    return Member(name=name.strip(), key=public, weight=_number(number, text), roles=_roles(roles))


def _number(text: str, whole: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 10:
        raise Failure(EXIT_USAGE, f"{whole!r}: a weight is a whole number")
    return int(text)


def _roles(text: str) -> tuple[str, ...]:
    return tuple(sorted({part.strip() for part in text.split(",") if part.strip()}))


def _assigned(members: list[Member], text: str) -> tuple[int, str]:
    name, mark, value = text.rpartition("=")
    if not mark:
        raise Failure(EXIT_USAGE, f"{text!r}: NAME=VALUE wanted")
    return _place(members, name), value


def _place(members: list[Member], name: str) -> int:
    places = [index for index, member in enumerate(members) if member.name == name]
    if not places:
        known = ", ".join(member.name for member in members)
        raise Failure(EXIT_USAGE, f"no member {clean(name)!r}; members: {clean(known)}")
    return places[0]
