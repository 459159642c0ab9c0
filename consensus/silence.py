"""Rule 14: whose views ended by Skip and who has not been heard since is not waited for.

What is known here is local and volatile: it decides how long a view waits for its leader, never what is true.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Silence:
    """Members of whom nothing came since a view of theirs was entered: `unheard`; those of them whose view
    then ended by Skip: `silent`. Members are indexes of the validator set, so both are bounded by it."""

    me: int
    unheard: set[int] = field(default_factory=set)
    silent: set[int] = field(default_factory=set)

    def heard(self, member: int) -> None:
        """Something valid came from that member itself, or a view of its own was notarized."""
        self.unheard.discard(member)
        self.silent.discard(member)

    def entered(self, leader: int) -> None:
        """A view of that leader begins here."""
        if leader != self.me:
            self.unheard.add(leader)

    def skipped(self, leader: int) -> None:
        """A view of that leader was cleared by Skip alone."""
        if leader in self.unheard:
            self.silent.add(leader)
