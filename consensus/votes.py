"""Votes of one view, counted by weight, until they make certificates."""

from __future__ import annotations

from dataclasses import dataclass, field

from ledger.blocks import ZERO_HASH, Header
from ledger.proofs.certificate import Certificate, Scheme, Statement, ValidatorSet, VoteKind


@dataclass(slots=True)
class ViewState:
    """All that is known of one view."""

    number: int
    entered_ms: int | None = None
    timeout_ms: int = 0  # [8] fixed at entry: a Final that comes later does not shorten it
    is_near_final: bool = False  # [14] of when it was entered
    work_ms: int | None = None  # when there was first something to propose, since entry
    proposal: Header | None = None
    proposal_hash: bytes = b""
    refused: bool = False  # the proposal broke a rule: skip
    own_notar: bytes | None = None
    own_final: bytes | None = None
    own_skip: bool = False
    notar: Certificate | None = None
    skip: Certificate | None = None
    final: Certificate | None = None
    signatures: dict[tuple[VoteKind, bytes], dict[int, bytes]] = field(default_factory=dict)
    voted: dict[tuple[VoteKind, int], bytes] = field(default_factory=dict)

    def certificate(self, kind: VoteKind) -> Certificate | None:
        """The certificate held for a kind."""
        if kind is VoteKind.NOTAR:
            return self.notar
        return self.skip if kind is VoteKind.SKIP else self.final

    def hold(self, certificate: Certificate) -> bool:
        """Keep a verified certificate. False when one of its kind is held already."""
        kind = certificate.statement.kind
        if self.certificate(kind) is not None:
            return False
        if kind is VoteKind.NOTAR:
            self.notar = certificate
        elif kind is VoteKind.SKIP:
            self.skip = certificate
        else:
            self.final = certificate
        return True


def count_vote(
    state: ViewState,
    statement: Statement,
    voter: int,
    signature: bytes,
    validators: ValidatorSet,
    scheme: Scheme,
) -> Certificate | None:
    """Count one verified vote; a new certificate when it completes a quorum.

    Only a voter's first vote of each kind counts in a view: a second, different one is
    equivocation (rule 11, consensus.evidence) and could at most help one block too many.
    """
    kind = statement.kind
    if kind is VoteKind.SKIP and statement.block != ZERO_HASH:
        return None
    if state.voted.setdefault((kind, voter), statement.block) != statement.block:
        return None
    votes = state.signatures.setdefault((kind, statement.block), {})
    votes[voter] = signature
    if state.certificate(kind) is not None:
        return None
    if not validators.reached(votes):
        return None
    return scheme.assemble(statement, votes, len(validators.members))
