"""Rule 11: what each member signed lately, so that a second, different statement is noticed.

Only checked statements come here: votes, proposals, and the single votes inside certificates. The last
matter most: who tells each half of the network something else is found when a certificate of one half
reaches the other. The first piece of evidence against a member is enough; it is watched no more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from consensus.limits import EVIDENCE_VIEWS, VIEW_WINDOW
from consensus.messages import Propose, Vote
from ledger import evidence
from ledger.blocks import Header
from ledger.evidence import Evidence, SignedHeader, SignedVote, TwoProposals, TwoVotes
from ledger.proofs.certificate import Certificate, Statement, ValidatorSet, VoteKind, single_signatures


@dataclass(slots=True)
class Watch:
    """Statements of the views from EVIDENCE_VIEWS below the frontier to VIEW_WINDOW above it."""

    validators: ValidatorSet
    me: int
    # By view: the first of each member and kind; the first proposal.
    votes: dict[int, dict[tuple[int, VoteKind], SignedVote]] = field(default_factory=dict)
    proposals: dict[int, SignedHeader] = field(default_factory=dict)
    accused: set[int] = field(default_factory=set)
    duplicates: int = 0  # votes that had come before, for metrics
    lowest: int = 0  # view below which nothing is kept

    def forget(self, frontier: int) -> None:
        """Drop what is too far behind the frontier, and all that comes from there later."""
        if frontier - EVIDENCE_VIEWS <= self.lowest:
            return
        self.lowest = frontier - EVIDENCE_VIEWS
        for view in [v for v in self.votes if v < self.lowest]:
            del self.votes[view]
        for view in [v for v in self.proposals if v < self.lowest]:
            del self.proposals[view]

    def is_news(self, vote: Vote, frontier: int) -> bool:
        """Could a vote that is not checked yet tell anything that is not known?"""
        known = self.votes.get(vote.statement.view, {}).get((vote.voter, vote.statement.kind))
        is_known = known is not None and known.statement == vote.statement
        return not is_known and self._minds(vote.voter, vote.statement.view, frontier)

    def vote(self, vote: Vote, frontier: int) -> Evidence | None:
        """A member's vote; the evidence that it completes, once per member."""
        known = self.votes.get(vote.statement.view, {}).get((vote.voter, vote.statement.kind))
        if known is not None and known.statement == vote.statement:
            self.duplicates += 1
            return None
        return self._signed(vote.voter, vote.statement, vote.signature, frontier)

    def certificate(self, certificate: Certificate, frontier: int) -> list[Evidence]:
        """The single votes inside a verified certificate, none where its scheme does not show them."""
        found = (
            self._signed(member, certificate.statement, signature, frontier)
            for member, signature in single_signatures(certificate, len(self.validators.members)).items()
        )
        return [one for one in found if one is not None]

    def proposal(self, header: Header, message: Propose, frontier: int) -> Evidence | None:
        """A leader's proposal; the evidence that it completes, once per member."""
        leader = self.validators.index(header.proposer)
        if leader is None or not self._minds(leader, header.view, frontier):
            return None
        signed = SignedHeader(message.header, message.signature)
        first = self.proposals.setdefault(header.view, signed)
        if first.header == signed.header:
            return None
        self.accused.add(leader)
        return TwoProposals(first, signed)

    def _signed(self, member: int, statement: Statement, signature: bytes, frontier: int) -> Evidence | None:
        if not self._minds(member, statement.view, frontier):
            return None
        known = self.votes.setdefault(statement.view, {})
        vote = SignedVote(statement, signature)
        if known.setdefault((member, statement.kind), vote).statement == statement:
            others = (known.get((member, kind)) for kind in VoteKind if kind is not statement.kind)
            against = [v for v in others if v is not None and evidence.conflict(v.statement, statement)]
        else:
            against = [known[member, statement.kind]]
        if not against:
            return None
        self.accused.add(member)
        return TwoVotes(self.validators.members[member].key, against[0], vote)

    def _minds(self, member: int, view: int, frontier: int) -> bool:
        is_near = self.lowest <= view <= frontier + VIEW_WINDOW
        return is_near and member != self.me and member not in self.accused
