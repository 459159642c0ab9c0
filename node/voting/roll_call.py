"""Who of the validators votes, as heard here: the last view of each, and a line in the log when one votes
again after it came (anew)."""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog

from consensus.messages import Message, Vote
from ledger.proofs.certificate import ValidatorSet

log = structlog.get_logger("roll_call")


@dataclass(slots=True)
class RollCall:
    """See the module. Validators by their keys: a place in the set is another's in the next epoch."""

    last_views: dict[bytes, int] = field(default_factory=dict)  # the highest view of a checked vote
    _awaited: set[bytes] = field(default_factory=set)

    def came(self, member: int, validators: ValidatorSet) -> None:
        """A validator's stream is up."""
        self._awaited.add(validators.members[member].key)

    def heard(self, member: int, message: Message, validators: ValidatorSet) -> None:
        """A checked message of a member. Votes that it sends once more say nothing new."""
        who = validators.members[member]
        if not isinstance(message, Vote) or message.statement.view <= self.last_views.get(who.key, 0):
            return
        self.last_views[who.key] = message.statement.view
        if who.key in self._awaited:
            self._awaited.remove(who.key)
            log.info("validator_votes", moniker=who.moniker, key=who.key.hex(), view=message.statement.view)
        if len(self.last_views) > len(validators.members):
            members = {member.key for member in validators.members}
            self.last_views = {key: view for key, view in self.last_views.items() if key in members}
            self._awaited &= members
