"""Deeds of organisations in words, for those who sign them and those who read of them later. Pure."""

from __future__ import annotations

from ledger.organisations.organisation import Charter, Deed, Member, charter_of
from ledger.organisations.records import Organisation


def words_of_deed(before: Organisation | None, deed: Deed) -> list[str]:
    """What a deed does, one line each. `before`: what stands; None when the deed founds."""
    if deed.act == "dissolve" or (before is None and deed.charter is None):
        return ["the organisation is dissolved, for good: nobody signs in its name any more"]
    if deed.rotation is not None:
        old = (
            next((s.key.hex() for s in before.seats if s.name == deed.rotation.member), "?")
            if before
            else "?"
        )
        return [
            f"{deed.rotation.member} signs by the key {deed.rotation.key} from then on",
            f"the key {old} signs no more; what it signed as a member counts on",
        ]
    assert deed.charter is not None
    if before is None:
        lines = [f"{m.name} ({m.key}) is a member{_holds(m)}" for m in deed.charter.members]
    else:
        lines = _changes(charter_of(before), deed.charter)
    return [*lines, *_quorum(deed.charter)]


def _holds(member: Member) -> str:
    roles = f", holds {', '.join(member.roles)}" if member.roles else ""
    return f" of weight {member.weight}{roles}"


def _changes(old: Charter, new: Charter) -> list[str]:
    by_key = {member.key: member for member in old.members}
    by_name = {member.name: member for member in old.members}
    kept = {member.key for member in new.members}
    replaced: set[str] = set()
    lines = [f"it is called {new.name} from then on"] if new.name != old.name else []
    for member in new.members:
        was = by_key.get(member.key)
        lost = by_name.get(member.name)
        if was is not None:
            lines += _same_key(was, member)
        elif lost is not None and lost.key not in kept:
            replaced.add(lost.key)
            lines.append(f"{member.name} has lost the key {lost.key} and has {member.key}{_holds(member)}")
            lines.append(f"what {member.name} signed before counts no more")
        else:
            lines.append(f"{member.name} ({member.key}) joins{_holds(member)}")
    for member in old.members:
        if member.key not in kept and member.key not in replaced:
            lines.append(f"{member.name} ({member.key}) leaves; what they signed as a member counts no more")
    return lines


def _same_key(was: Member, now: Member) -> list[str]:
    lines = []
    if was.name != now.name:
        lines.append(f"{was.name} is called {now.name} from then on")
    if was.weight != now.weight:
        lines.append(f"{now.name}: weight {was.weight} becomes {now.weight}")
    lines += [f"{now.name} holds {role} from then on" for role in now.roles if role not in was.roles]
    lines += [f"{now.name} does not hold {role} any more" for role in was.roles if role not in now.roles]
    return lines


def _quorum(charter: Charter) -> list[str]:
    """What it takes to change it, and whose loss it would not survive."""
    weights = sorted((member.weight for member in charter.members), reverse=True)
    total = sum(weights)
    lines = [f"weight {charter.quorum} of {total} changes the organisation from then on"]
    if total - weights[0] < charter.quorum:
        lines.append("warning: when the heaviest member's key is lost, nothing can be changed any more")
    return lines
