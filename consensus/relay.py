"""Rule 6: relay each new certificate, coalesced, but not to members known to be past it.

Everybody makes the same certificates from the same votes, so in a healthy network nothing needs to
be relayed. A certificate therefore waits RELAY_AFTER_MS; by then most members have shown, by a
later vote, that they hold it. Only the others get it, once. What is lost again, standstill brings.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from consensus.limits import RELAY_AFTER_MS, RELAYS_MAX
from consensus.messages import Certified, Message, Propose, Send, Status, Vote
from ledger.proofs.certificate import Certificate, VoteKind


@dataclass(slots=True)
class Relay:
    """What waits to be relayed, and how far each member is known to be."""

    me: int
    size: int
    frontiers: dict[int, int] = field(default_factory=dict)  # member -> smallest view it may not have cleared
    finals: dict[int, int] = field(default_factory=dict)  # member -> view whose Final it most likely holds
    waiting: dict[tuple[VoteKind, int], tuple[int, Certificate]] = field(default_factory=dict)

    def heard(self, member: int, message: Message) -> None:
        """Learn from a checked message how far its sender is."""
        frontier = 0
        match message:
            case Vote(statement):
                # Final(v) shows Notar[v]; the others show that all before v is cleared.
                frontier = statement.view + (statement.kind is VoteKind.FINAL)
                if statement.kind is VoteKind.FINAL:  # it is there, so it most likely hears the others too
                    self.finals[member] = max(self.finals.get(member, 0), statement.view)
            case Propose(parent=parent):
                if parent is not None:
                    frontier = parent.statement.view + 1
            case Status(final=final, frontier=told):
                frontier = told
                if final is not None:
                    self.finals[member] = max(self.finals.get(member, 0), final.statement.view)
            case Certified(certificate) if certificate.statement.kind is VoteKind.FINAL:
                self.finals[member] = max(self.finals.get(member, 0), certificate.statement.view)
        self.frontiers[member] = max(self.frontiers.get(member, 0), frontier)

    def add(self, certificate: Certificate, now_ms: int) -> None:
        """A new certificate is held. At the bound the oldest goes: standstill covers it."""
        statement = certificate.statement
        self.waiting[statement.kind, statement.view] = (now_ms + RELAY_AFTER_MS, certificate)
        if len(self.waiting) > RELAYS_MAX:
            del self.waiting[next(iter(self.waiting))]

    def hurry(self, now_ms: int) -> None:
        """What waits goes with the next `due`."""
        self.waiting = {key: (now_ms, certificate) for key, (_, certificate) in self.waiting.items()}

    def due(self, now_ms: int, final_view: int) -> list[Send]:
        """Certificates whose wait is over, to the members that may lack them. A newer Final covers all
        up to its view, so those are dropped; it goes itself to members that took no part in one as new."""
        ripe = [key for key, (due_ms, _) in self.waiting.items() if due_ms <= now_ms]
        sends: list[Send] = []
        for kind, view in ripe:
            _, certificate = self.waiting.pop((kind, view))
            if view < final_view or (view == final_view and kind is not VoteKind.FINAL):
                continue
            for member in range(self.size):
                if member != self.me and not self._past(member, kind, view):
                    sends.append(Send(member, Certified(certificate)))
        return sends

    def _past(self, member: int, kind: VoteKind, view: int) -> bool:
        if kind is VoteKind.FINAL:
            return self.finals.get(member, 0) >= view
        return self.frontiers.get(member, 0) > view

    def wake_ms(self) -> int | None:
        """When the next wait is over."""
        return min((due_ms for due_ms, _ in self.waiting.values()), default=None)
