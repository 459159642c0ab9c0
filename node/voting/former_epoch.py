"""What validators still say of the epoch before ours (rule 11): late, but an offence all the same.

The core of that epoch has ended and takes no votes; its record of who signed what stays for one epoch, so
that a second, different statement is noticed. Only who sits in both sets is heard here: others are strangers
to the engine. Certificates are not looked at: none that an honest member makes is new after the end.
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.core import Core
from consensus.evidence import Watch
from consensus.messages import Message, Propose, Vote
from consensus.verify import Rules, check
from ledger.evidence import Evidence


@dataclass(slots=True)
class FormerEpoch:
    """See the module. `frontier`: where the ended core stood; its window bounds what is kept."""

    rules: Rules
    watch: Watch
    frontier: int

    @classmethod
    def of(cls, core: Core) -> FormerEpoch:
        """Of an ended core. Certificates in a proposal prove its place, not who signed it: they are not
        checked, so that a late proposal costs one signature."""
        config = core.config
        rules = Rules(config.chain_id, config.validators, config.scheme, lambda statement: True)
        return cls(rules, core.watch, core.frontier)

    @property
    def epoch(self) -> int:
        """Its number."""
        return self.rules.validators.epoch

    def heard(self, key: bytes, message: Message) -> Evidence | None:
        """The evidence that a message of this validator completes. Raises PeerFault for a false one."""
        member = self.rules.validators.index(key)
        if member is None or not isinstance(message, Vote | Propose):
            return None
        if isinstance(message, Vote) and not self.watch.is_news(message, self.frontier):
            return None
        event = check(self.rules, member, message)
        if isinstance(message, Vote):
            return self.watch.vote(message, self.frontier)
        return None if event.header is None else self.watch.proposal(event.header, message, self.frontier)
