"""Hand-broken cores that the enumeration of twins must catch, and the checks of which one must complain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from consensus.core import Core
from consensus.messages import Send, Status
from consensus.votes import ViewState
from ledger.blocks import ZERO_HASH, Header
from ledger.proofs.certificate import Certificate, VoteKind
from tests.sim.byzantine import ParentLiar
from tests.sim.mutants import (
    CommitsNotarized,
    FinalAfterSkip,
    FinalUncertified,
    NeverSkips,
    NoStandstill,
    ParentNotProved,
    SecondProposal,
    WeakQuorum,
    _Reckless,
)
from tests.sim.twins import Cast, Found, Search, leader_orders, shaped


class FinalOfAnotherBlock(Core):
    """Final for whatever block got the Notar certificate, though it voted for another."""

    def _vote_final(self, state: ViewState) -> None:
        if state.notar is not None and state.own_notar not in (None, state.notar.statement.block):
            state.own_notar = state.notar.statement.block
        super()._vote_final(state)


class CountsTwice(Core):
    """A member's second Notar of a view counts too: with it one member may be in two quorums."""

    def _count(self, vote: object) -> None:
        state = self._view(vote.statement.view)  # type: ignore[attr-defined]
        state.voted.clear()
        for votes in state.signatures.values():
            for member, signature in tuple(votes.items()):
                for other in state.signatures.values():
                    other.setdefault(member, signature)
        super()._count(vote)  # type: ignore[arg-type]


class SkipsAreNotNeeded(Core):
    """Enters the next view when it times out, without a Skip certificate, and builds over the gap."""

    def _cleared(self, view: int) -> bool:
        state = self.views.get(view)
        return super()._cleared(view) or bool(state and state.own_skip)

    def _proved(self, header: Header) -> bool:
        return True


class SkipsAfterFinal(_Reckless):
    """On timeout it skips its oldest view that is not final, though it voted Final there."""

    def _skip(self) -> None:
        super()._skip()
        for view in sorted(v for v in self.views if self.final_view < v < self.frontier):
            state = self.views[view]
            if state.entered_ms is None or state.own_skip or state.own_final is None:
                continue
            if self._now_ms >= self._skip_ms(state):
                self._cast(state, VoteKind.SKIP, ZERO_HASH, None)


class BuildsOnSkipped(Core):
    """Leader and voters take the last proposal they saw for the parent, notarized or not."""

    def _base(self) -> tuple[int, bytes]:
        for view in range(self.frontier - 1, self.chain.tip.view, -1):
            state = self.views.get(view)
            if state is not None and state.proposal is not None:
                return view, state.proposal_hash
        return super()._base()

    def _proved(self, header: Header) -> bool:
        return True


class NeverRetries(Core):
    """Skip is sent once; at a standstill nothing is told again."""

    def _status(self) -> Status:
        return Status(0, None, 0, 1, b"\xff" * 64, b"\xff" * 64)

    def _answer(self, sender: int, asked: Status) -> None:
        return


class ForgetsTheParent(Core):
    """Never asks for headers that it misses."""

    def _advance(self) -> None:
        super()._advance()
        self._out.send = [s for s in self._out.send if type(s.message).__name__ != "Fetch"]


class SkipCountsAsFinal(Core):
    """Takes a Skip certificate for a proof that the proposal of its view is final."""

    def _hold(self, certificate: Certificate) -> None:
        super()._hold(certificate)
        state = self.views.get(certificate.statement.view)
        if certificate.statement.kind is VoteKind.SKIP and state and state.proposal is not None:
            self.chain.commit(state.proposal_hash, state.proposal)


class VotesWithoutSending(Core):
    """Keeps its Final votes to itself."""

    def _advance(self) -> None:
        super()._advance()
        self._out.send = [s for s in self._out.send if not _is_final(s)]


def _is_final(send: Send) -> bool:
    statement = getattr(send.message, "statement", None)
    return statement is not None and statement.kind is VoteKind.FINAL and statement.block != ZERO_HASH


STOP_AT: Final = 12  # violations of one order of leaders


@dataclass(frozen=True, slots=True)
class TwinsMutant:
    """A cast with a broken rule."""

    name: str
    cast: Cast
    caught_by: tuple[str, ...]
    shape: str = "nn"


MUTANTS: Final = (
    TwinsMutant("skip_after_final", Cast(SkipsAfterFinal), ("Promises",), "wn"),
    TwinsMutant("final_after_skip", Cast(FinalAfterSkip), ("Promises",)),
    TwinsMutant("final_without_notar_certificate", Cast(FinalUncertified), ("Promises",)),
    TwinsMutant("accepts_second_proposal", Cast(SecondProposal), ("Promises",)),
    TwinsMutant("parent_not_proved", Cast(ParentNotProved, ParentLiar), ("Agreement", "Promises"), "wn"),
    TwinsMutant("never_skips", Cast(NeverSkips), ("Progress",)),
    TwinsMutant("no_standstill", Cast(NoStandstill, NoStandstill), ("Progress",)),
    TwinsMutant("commits_notarized_blocks", Cast(CommitsNotarized), ("Agreement", "Certificates")),
    TwinsMutant("quorum_minus_one", Cast(validators=WeakQuorum), ("Agreement", "Certificates", "Promises")),
    TwinsMutant("final_of_another_block", Cast(FinalOfAnotherBlock), ("Certificates", "Promises"), "wn"),
    TwinsMutant("counts_votes_of_other_blocks", Cast(CountsTwice), ("Certificates", "Promises")),
    TwinsMutant("skips_are_not_needed", Cast(SkipsAreNotNeeded), ("Agreement", "Promises")),
    TwinsMutant(
        "builds_on_what_was_skipped", Cast(BuildsOnSkipped, BuildsOnSkipped), ("Agreement", "Promises"), "wn"
    ),
    TwinsMutant("skip_counts_as_final", Cast(SkipCountsAsFinal), ("Agreement", "Progress")),
    TwinsMutant("never_tells_what_it_holds", Cast(NeverRetries), ("Progress",)),
    TwinsMutant("never_fetches", Cast(ForgetsTheParent), ("Progress",)),
    TwinsMutant("final_never_sent", Cast(VotesWithoutSending), ("Progress",)),
)


def hunt(mutant: TwinsMutant) -> Found:
    """Search all leaders until one of the named checks complains; its violation stands first. Others may come
    before it: a broken network stalls, too."""
    total = Found()
    for leaders in leader_orders(len(mutant.shape)):
        total.add(Search(mutant.cast, leaders, shaped(mutant.shape), stop_at=STOP_AT).run())
        total.violations.sort(key=lambda violation: violation[0] not in mutant.caught_by)
        if total.violations and total.violations[0][0] in mutant.caught_by:
            break
    return total
