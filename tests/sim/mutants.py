"""Hand-broken variants. The checkers must catch each within its seeds, or they check nothing.

A core mutant breaks one rule of docs/spec.md, a shell mutant one promise of the shell. `caught_by` names a
checker that complains; `twin` picks seeds with a Byzantine member and the lie that brings the fault out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final
from unittest.mock import patch

from consensus.core import Core
from consensus.messages import Ready, Record, Send, Status
from consensus.relay import Relay
from consensus.safety import SafetyState
from consensus.votes import ViewState
from ledger.blocks import ZERO_HASH, Header
from ledger.codec import encode
from ledger.proofs.certificate import Certificate, ValidatorSet, VoteKind
from ledger.records import Account, key_account
from node.notary import Notary
from tests.sim.node import SimNode
from tests.sim.offences import AnyTwoVotes, BelievesUnsigned, NeverReports
from tests.sim.scenario import Fault, Scenario, make
from tests.sim.world import Variant


class _Reckless(Core):
    """Casts whatever it is told to, without the asserts of production."""

    def _cast(self, state: ViewState, kind: VoteKind, block: bytes, header: Header | None) -> None:
        if kind is VoteKind.NOTAR:
            state.own_notar = block
        elif kind is VoteKind.FINAL:
            state.own_final = block
        else:
            state.own_skip = True
        data = header.encode() if header else b""
        self._out.records.append(Record(kind, state.number, block, data, 0))
        vote = self._vote(kind, state.number, block)
        self._out.send.append(Send(None, vote))
        self._count(vote)


class _NoRelay(Relay):
    def due(self, now_ms: int, final_view: int) -> list[Send]:
        self.waiting.clear()
        return []


class SkipAfterFinal(_Reckless):
    """Without relay: it soon brings the Notar certificate that a restarted voter of Final has lost."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.relay = _NoRelay(self.config.me, len(self.config.validators.members))

    def _skip(self) -> None:
        state = self._view(self.frontier)
        if not state.own_skip and self._now_ms >= self._skip_ms(state):
            self._cast(state, VoteKind.SKIP, ZERO_HASH, None)

    def _wake_ms(self) -> int:
        state = self._view(self.frontier)
        return super()._wake_ms() if state.own_skip else min(super()._wake_ms(), self._skip_ms(state))


class FinalAfterSkip(_Reckless):
    def _vote_final(self, state: ViewState) -> None:
        if state.own_final is None and state.notar and state.notar.statement.block == state.own_notar:
            self._cast(state, VoteKind.FINAL, state.own_notar, None)


class FinalUncertified(_Reckless):
    def _vote_final(self, state: ViewState) -> None:
        if state.own_notar is not None and state.own_final is None and not state.own_skip:
            self._cast(state, VoteKind.FINAL, state.own_notar, None)


class SecondProposal(_Reckless):
    def _hold_proposal(self, header: Header) -> None:
        if header.view > self.final_view and self._view(header.view).proposal_hash != header.hash:
            state = self._view(header.view)
            state.proposal, state.proposal_hash, state.own_notar = header, header.hash, None
            self.chain.add(state.proposal_hash, header)


class BatchesNotHeld(Core):
    def _all_held(self, headers: list[Header]) -> bool:
        for header in headers:
            for digest in header.batches:
                self.batches.setdefault(digest, 1)
        return True


class ParentNotProved(Core):
    def _proved(self, header: Header) -> bool:
        return True


class RootNotChecked(Core):
    def _broken_rule(self, header: Header, parent: Header) -> str | None:
        rule = super()._broken_rule(header, parent)
        return None if rule == "block.state_root" else rule


class HeightNotChecked(Core):
    def _broken_rule(self, header: Header, parent: Header) -> str | None:
        rule = super()._broken_rule(header, parent)
        return None if rule == "block.height" else rule


class TimeNotChecked(Core):
    def _notarize(self, state: ViewState) -> None:
        wall_ms, self._wall_ms = self._wall_ms, 1 << 60
        super()._notarize(state)
        self._wall_ms = wall_ms


class ForgetsNotarAtRestart(Core):
    def restore(self, state: SafetyState) -> None:
        super().restore(replace(state, notar={}, headers={}))


class ForgetsFinalAtRestart(_Reckless):
    def restore(self, state: SafetyState) -> None:
        super().restore(replace(state, final={}, certificates=[]))

    def _vote_final(self, state: ViewState) -> None:  # so that an early Skip may come between
        if self.started:
            super()._vote_final(state)


class TimerNeverGrows(Core):
    def _skip_ms(self, state: ViewState) -> int:
        state.timeout_ms = self.config.timing.view_timeout_ms
        return super()._skip_ms(state)


class NeverSkips(Core):
    def _skip(self) -> None:
        return

    def _wake_ms(self) -> int:
        return max(super()._wake_ms(), self._now_ms + 10)


class NoStandstill(Core):
    def _answer(self, sender: int, asked: Status) -> None:
        return


class CommitsNotarized(Core):
    def _hold(self, certificate: Certificate) -> None:
        super()._hold(certificate)
        if certificate.statement.kind is VoteKind.NOTAR:
            self._finalize(certificate)


class KeepsAllViews(Core):
    def _prune(self) -> None:
        views = self.views
        super()._prune()
        self.views = views


class TellsAtEachStep(Core):
    def _advance(self) -> None:
        self.standstill_ms = self._now_ms
        self.answered_ms.clear()
        super()._advance()


class WeakQuorum(ValidatorSet, frozen=True):
    @property
    def quorum(self) -> int:
        return 2 * self.total // 3


class NeverPersists(SimNode):
    def persist(self, ready: Ready) -> None:
        return


class NeverPrunes(SimNode):
    def prune(self, view: int) -> None:
        return


class NeverSyncs(SimNode):
    def persist(self, ready: Ready) -> None:
        self.disk.is_stuck = True
        self.safety.persist(ready, self.desk.bytes_of)


class SendsFirst(SimNode):
    def carry_out(self, ready: Ready) -> None:
        self.send(ready)
        super().carry_out(replace(ready, send=[]))


class PersistsNoBatches(SimNode):
    def persist(self, ready: Ready) -> None:
        self.safety.persist(ready, lambda digest: None)


class ExecutesNewestFirst(SimNode):
    def execute_next(self, life: int) -> None:
        self.queue.reverse()
        super().execute_next(life)


class PrunesBeforeCommit(SimNode):
    def carry_out(self, ready: Ready) -> None:
        super().carry_out(ready)
        if ready.prune_view:
            self.prune(ready.prune_view)
            self.disk.write({}, sync=True)


class LosesBlocks(SimNode):
    def crash(self, how: str = "lost") -> None:
        super().crash(how)
        if self.height:
            self.chain_disk.write({}, [b"h" + self.tip.hash])


class NeverSyncsBlocks(SimNode):
    def apply(self, *block: Any) -> None:
        self.chain_disk.is_stuck = True
        super().apply(*block)


class AcceptsDamage(SimNode):
    """Reads on over checksums that do not fit: what is there is another value."""

    def open_store(self) -> None:
        disk = self.chain_disk
        if disk.harmed:
            disk.harmed.clear()
            key, _ = next(disk.scan(b"saccount/"))
            disk.write({key: encode(Account(7))})
        super().open_store()


class MakesMoney(SimNode):
    def apply(self, *block: Any) -> None:
        rich = {key_account(self.world.clients.keys[0].public): encode(Account(10**12))}
        self.chain_disk.write({b"s" + key: value for key, value in rich.items()})
        self.store._state.put(rich)
        super().apply(*block)


class StateDrifts(SimNode):
    def apply(self, *block: Any) -> None:
        if self.id:
            super().apply(*block)
        else:
            with patch.object(Notary, "transactions", lambda *_: []):
                super().apply(*block)


class PoolWithoutBound(SimNode):
    def take(self, raw: bytes, source: str = "clients") -> str:
        more = {"MEMPOOL_TXS_MAX": 10**9, "MEMPOOL_SENDER_TXS_MAX": 10**9}
        with patch.multiple("node.voting.mempool", **more):
            return super().take(raw, source)


class PoolForOne(SimNode):
    """One account may fill what all share."""

    def take(self, raw: bytes, source: str = "clients") -> str:
        less = {"MEMPOOL_TXS_MAX": 40, "MEMPOOL_SENDER_TXS_MAX": 10**9}
        with patch.multiple("node.voting.mempool", **less):
            return super().take(raw, source)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A variant, the checkers of which one must complain, and where to look for it."""

    variant: Variant
    caught_by: tuple[str, ...]
    twin: str | None = None  # seeds with a Byzantine member of this lie; "" with any
    # "slow": links slower than the first timeout; "outages": many, and slow execution; "pauses", "flips",
    # "floods": nothing else, again and again
    hard: str = ""
    seeds: int = 40


def _core(name: str, core: type[Core], *caught_by: str, **more: object) -> Mutant:
    return Mutant(Variant(name, core=core), caught_by, **more)  # type: ignore[arg-type]


def _shell(name: str, node: type[SimNode], *caught_by: str, **more: object) -> Mutant:
    return Mutant(Variant(name, node=node), caught_by, **more)  # type: ignore[arg-type]


MUTANTS: Final = (
    _core("skip_after_final", SkipAfterFinal, "Promises", hard="pauses"),
    _core("final_after_skip", FinalAfterSkip, "Promises"),
    _core("final_without_notar_certificate", FinalUncertified, "Promises"),
    _core("accepts_second_proposal", SecondProposal, "Promises", twin="nothing"),
    _core("notar_without_batches", BatchesNotHeld, "Promises"),
    _core("parent_not_proved", ParentNotProved, "Promises", twin="parent"),
    _core("state_root_not_checked", RootNotChecked, "EqualState", "Exception", twin="root"),
    _core("height_not_checked", HeightNotChecked, "Agreement", "Exception", twin="height"),
    _core("time_not_checked", TimeNotChecked, "BlockTime", twin="time"),
    _core("forgets_notar_at_restart", ForgetsNotarAtRestart, "Promises", hard="outages"),
    _core("forgets_final_at_restart", ForgetsFinalAtRestart, "Promises", hard="outages"),
    _core("timer_never_grows", TimerNeverGrows, "Progress", hard="slow"),
    _core("never_skips", NeverSkips, "Progress"),
    _core("no_standstill", NoStandstill, "Progress"),
    _core("keeps_all_views", KeepsAllViews, "Memory"),
    _core("tells_at_each_step", TellsAtEachStep, "Egress", "Bounded"),
    _shell("sign_state_never_pruned", NeverPrunes, "Memory"),
    _core("commits_notarized_blocks", CommitsNotarized, "Certificates"),
    Mutant(Variant("quorum_minus_one", validators=WeakQuorum), ("Certificates",)),
    _shell("never_persists", NeverPersists, "Promises"),
    _shell("never_syncs", NeverSyncs, "Promises"),
    _shell("sends_before_persist", SendsFirst, "Promises"),
    _shell("persists_no_batches", PersistsNoBatches, "Promises"),
    _shell("executes_newest_first", ExecutesNewestFirst, "Agreement", "Exception"),
    _shell("prunes_before_commit", PrunesBeforeCommit, "Promises", "Progress", hard="outages"),
    _shell("loses_blocks", LosesBlocks, "Durability"),
    _shell("blocks_not_synced", NeverSyncsBlocks, "Durability"),
    _shell("damage_not_noticed", AcceptsDamage, "Money", hard="flips"),
    _shell("mempool_without_bound", PoolWithoutBound, "Memory", hard="floods"),
    _shell("mempool_for_one_account", PoolForOne, "Bounded", hard="floods"),
    _shell("makes_money", MakesMoney, "Money"),
    _shell("state_drifts", StateDrifts, "EqualState"),
    _shell("compatible_votes_are_an_offence", AnyTwoVotes, "NoFalseEvidence"),
    _shell("evidence_needs_no_signature", BelievesUnsigned, "NoFalseEvidence", twin="nothing"),
    _shell("never_reports_evidence", NeverReports, "Offences", twin="nothing"),
)


def scenarios(mutant: Mutant) -> list[tuple[int, Scenario]]:
    """Seeds and scenarios in which the mutant must be caught: those of the suite, narrowed to its fault."""
    found: list[tuple[int, Scenario]] = []
    for seed in range(10 * mutant.seeds):
        scenario = make(seed)
        if (mutant.twin is None) != (scenario.twin is None):
            continue
        if mutant.twin is not None:
            scenario.lie = mutant.twin
        if "slow" in mutant.hard:
            scenario.latency_ms = (300, 400)
            scenario.timing = replace(scenario.timing, view_timeout_ms=300, alpha_percent=150)
            scenario.faults_end_ms = 5_000
        if "outages" in mutant.hard:
            times = range(700, 15_000, 1_100)
            scenario.faults = [Fault(at, "outage", 100) for at in times]
            scenario.faults_end_ms, scenario.execute_ms, scenario.batch_every_ms = 16_500, 300, 60
            scenario.timing = replace(scenario.timing, view_timeout_ms=300, standstill_ms=1_000)
        if "pauses" in mutant.hard:
            count = len(scenario.weights)
            scenario.faults = [
                Fault(at, "pause", 900, (at // 400 % count,)) for at in range(400, 15_000, 400)
            ]
            scenario.faults_end_ms, scenario.latency_ms = 16_000, (10, 300)
            scenario.timing = replace(scenario.timing, view_timeout_ms=300)
        if mutant.hard in ("flips", "floods"):
            kind, points = ("flip", ("chain",)) if mutant.hard == "flips" else ("flood", ("one", "many"))
            count = len(scenario.weights)
            scenario.faults = [
                Fault(at, kind, 700, (at // 900 % count,), point=points[at // 900 % len(points)])
                for at in range(900, 9_000, 900)
            ]
            scenario.faults_end_ms = 10_000
        found.append((seed, scenario))
        if len(found) == mutant.seeds:
            break
    return found
