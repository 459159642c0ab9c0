"""A change of the validator set in words, for those who are to sign it. Pure."""

from __future__ import annotations

from ledger.proofs.certificate import ValidatorSet
from ledger.proofs.quorum import tolerated


def words_of(before: ValidatorSet, after: ValidatorSet) -> list[str]:
    """What changes, one line each, and what it means for the network."""
    old = {member.key: member for member in before.members}
    new = {member.key: member for member in after.members}
    lines = [
        f"{m.moniker} ({m.key.hex()}) joins with weight {m.weight}" for k, m in new.items() if k not in old
    ]
    lines += [f"{m.moniker} ({m.key.hex()}) leaves" for k, m in old.items() if k not in new]
    for key, member in old.items():
        now = new.get(key)
        if now is not None and now.weight != member.weight:
            lines.append(f"{member.moniker}: weight {member.weight} becomes {now.weight}")
        if now is not None and now.moniker != member.moniker:
            lines.append(f"{member.moniker}: is called {now.moniker} from then on")
    if [key for key in old if key in new] != [key for key in new if key in old]:
        lines.append("the order of the validators, and so of the leaders, changes")
    total, most = after.total, max(member.weight for member in after.members)
    lines.append(
        f"then {len(after.members)} validators of weight {total}: {after.quorum} decide, "
        f"up to {tolerated(total)} may be faulty"
    )
    if most > tolerated(total):
        lines.append("warning: without the heaviest one nothing becomes final")
    return lines
