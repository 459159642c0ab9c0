"""Hand-broken markets: 3nodes that break a lease rule, ledgers that break one of theirs. The named checker
must complain within a few seeds, or it checks nothing.

A broken ledger is one for all: validators agree on it, and only the market's checkers can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ledger.transition.approvals
import ledger.transition.claims
import ledger.transition.escrow
import ledger.transition.leases
import ledger.transition.lifecycle
import ledger.transition.reports
from ledger.limits import LEASE_MS
from ledger.manifests.types import Workload
from ledger.policies.decision import Decision
from ledger.records import Node, Slot, key_document
from ledger.transition.deal import Deal
from ledger.transition.money import credit
from ledger.transition.slots import free_slot, release_slot, use_capacity
from node.executor.claims import Attempt
from node.executor.decide import SlotId
from node.executor.lease import LeaseClock
from tests.sim.market import MarketVariant, Patch
from tests.sim.market_node import MarketNode
from tests.sim.market_scenario import (
    MarketScenario,
    cut_market,
    late_market,
    make_market,
    stalled_market,
    withdrawn_market,
)
from tests.sim.market_tenure import MarketTenure

_t = ledger.transition


# ---------------------------------------------------------------------- 3nodes


class NeverStops(MarketNode):
    """The guard looks away."""

    def _tick(self) -> None:
        for tenure in self.tenures.values():
            tenure.lease = LeaseClock(1 << 60, tenure.lease.asked_ms)
        super()._tick()


class WallClock(MarketNode):
    """Leases on the clock that people set."""

    def lease_ms(self) -> int:
        return self.wall_ms()


class FromArrival(MarketNode):
    """A renewal counts from when the node heard that it is final."""

    def renewed(self, lease: LeaseClock, sent_ms: int, behind_ms: int) -> LeaseClock:
        return lease.renewed(self.lease_ms())


class WonFromArrival(MarketNode):
    """A claim counts from when the node heard that it has won."""

    def won(self, attempt: Attempt, claimed_ms: int) -> LeaseClock:
        return LeaseClock.claimed(self.lease_ms())


class AskingIsEnough(MarketNode):
    """A renewal counts as soon as it is sent."""

    def renewal_sent(self, held: list[MarketTenure], sent_ms: int) -> None:
        for tenure in held:
            tenure.lease = tenure.lease.renewed(sent_ms)


class BelievesBlockTimes(MarketNode):
    """Takes a block's time for the time at which it was made."""

    def won(self, attempt: Attempt, claimed_ms: int) -> LeaseClock:
        return LeaseClock.claimed(attempt.sent_ms)

    def renewed(self, lease: LeaseClock, sent_ms: int, behind_ms: int) -> LeaseClock:
        return lease.renewed(sent_ms)


class SlowKill(MarketNode):
    """SIGTERM's grace is a whole lease."""

    def kill_ms(self, lease: LeaseClock) -> float:
        return float(LEASE_MS)


class LeavesWorkloads(MarketNode):
    """Rule 7 left out: what an earlier life started goes on, and nobody guards it."""

    def crashed(self) -> None:
        self.tenures = {}


class ReportsFirst(MarketNode):
    """Says that it has stopped, then stops."""

    def _claim_some(self) -> None:
        for tenure in self.tenures.values():
            if tenure.is_stopping and tenure.ending is not None and tenure.ending.status and not tenure.queue:
                tenure.tell(tenure.ending.status)
        super()._claim_some()

    def kill_ms(self, lease: LeaseClock) -> float:
        return 7_000.0


class ShortLeases(MarketNode):
    """Starts with whatever is left of a lease."""

    def _take_wins(self) -> None:
        super()._take_wins()
        for tenure in self.tenures.values():
            tenure.may_start = lambda: True  # type: ignore[method-assign]


class DeafToTheLedger(MarketNode):
    """Goes on with what the ledger released, as if it still held it."""

    def _take_wins(self) -> None:
        super()._take_wins()
        for tenure in self.tenures.values():
            tenure.look = tenure.pump  # type: ignore[method-assign]

    def proved(self, slot_id: SlotId, work: Workload | None = None, runs: bool = False) -> tuple[str, ...]:
        return ()


class TwoTerms(MarketNode):
    """Runs a term that it only claimed."""

    def _claim(self, slot_id: SlotId, opening: Any) -> None:
        super()._claim(slot_id, opening)
        self.market.started(self, slot_id, opening.term, LeaseClock.claimed(self.lease_ms()))
        self.later(3_000, self.market.stopped, self, slot_id, opening.term)


class ProvesNothing(MarketNode):
    """Believes the ledger."""

    def proved(self, slot_id: SlotId, work: Workload | None = None, runs: bool = False) -> tuple[str, ...]:
        return ()


# ---------------------------------------------------------------------- ledgers


def wrapped(owner: Any, name: str, make: Callable[[Any], Any]) -> Patch:
    """The patch of an attribute with what `make` makes of the real one."""
    return owner, name, make(getattr(owner, name))


def _same_term(real: Any) -> Any:
    def lease(deal: Deal, name: str, node: Node) -> None:
        term = deal.slot(name).term
        real(deal, name, node)
        deal.set_slot(name, term=max(1, term))

    return lease


def _skips_a_term(real: Any) -> Any:
    def lease(deal: Deal, name: str, node: Node) -> None:
        real(deal, name, node)
        deal.set_slot(name, term=deal.slot(name).term + 1)

    return lease


def _twice(real: Any) -> Any:
    def free(deal: Deal, name: str) -> Slot:
        holder = deal.slot(name).holder
        slot: Slot = real(deal, name)
        use_capacity(deal.env, holder, deal.workload(name).needs, -1)
        return slot

    return free


def nothing(real: Any) -> Any:
    """Leaves it out."""
    return lambda *_: None


def frees_at_once(real: Any) -> Any:
    """A slot that is released is free, as if its holder had stopped."""

    def release(deal: Deal, name: str) -> None:
        release_slot(deal, name)
        if deal.slot(name).holder:
            free_slot(deal, name)

    return release


def _keeps_escrow(real: Any) -> Any:
    def refund(deal: Deal) -> None:
        credit(deal.env, deal.record.consumer, deal.record.escrow)

    return refund


def _one_grant_is_enough(real: Any) -> Any:
    def judge(manifest: Any, record: Any, act: str, approvals: Sequence[Any], *rest: Any) -> Decision:
        found: Decision = real(manifest, record, act, approvals, *rest)
        if any(a.decision == "granted" for a in approvals) and not found.satisfied:
            return type(found)(**{**_fields(found), "satisfied": True, "rejected": False})
        return found

    return judge


def _fields(value: Any) -> dict[str, Any]:
    names = getattr(value, "__struct_fields__", None) or value.__dataclass_fields__
    return {name: getattr(value, name) for name in names}


def _unmarked(real: Any) -> Any:
    def record(deal: Deal, *given: Any) -> None:
        real(deal, *given)
        deal.env.state.delete(key_document(deal.id, given[-2].id))

    return record


@dataclass(frozen=True, slots=True)
class MarketMutant:
    """A variant, the checkers of which one must complain, and in how many seeds at most."""

    variant: MarketVariant
    caught_by: tuple[str, ...]
    scenario: Callable[[int], MarketScenario] = make_market
    start: int = 0  # the first seed: one that was enough when this was written; the next ones follow
    seeds: int = 30


def _node(name: str, kind: type[MarketNode], *caught_by: str, **more: Any) -> MarketMutant:
    return MarketMutant(MarketVariant(name, kind), caught_by, **more)


def ledger_mutant(
    name: str,
    caught_by: tuple[str, ...],
    *patches: Patch,
    node: type[MarketNode] = MarketNode,
    scenario: Callable[[int], MarketScenario] = make_market,
    start: int = 0,
) -> MarketMutant:
    """A mutant of the state machine."""
    return MarketMutant(MarketVariant(name, node, patches), caught_by, scenario, start)


MARKET_MUTANTS: Final = (
    _node("runs_on_after_its_lease", NeverStops, "OneHolder"),
    _node("lease_on_the_wall_clock", WallClock, "Leases", "OneHolder", scenario=cut_market),
    _node(
        "renewal_counts_from_arrival", FromArrival, "Leases", "OneHolder", scenario=stalled_market, start=4
    ),
    _node("claim_counts_from_arrival", WonFromArrival, "Leases", "OneHolder", scenario=late_market),
    _node("asking_renews", AskingIsEnough, "Leases", "OneHolder"),
    _node("believes_times_of_blocks", BelievesBlockTimes, "OneHolder", scenario=stalled_market, start=134),
    _node("kill_takes_a_lease", SlowKill, "Leases", "OneHolder"),
    _node("leftovers_run_on", LeavesWorkloads, "OneHolder", "Leases"),
    _node("reports_before_it_stopped", ReportsFirst, "OneHolder", start=5),
    _node("starts_with_a_short_lease", ShortLeases, "Leases", scenario=late_market, start=1),
    _node("deaf_to_withdrawals", DeafToTheLedger, "Approved", start=2),
    _node("runs_what_it_only_claimed", TwoTerms, "OneHolder", "Leases"),
    ledger_mutant(
        "grace_is_not_waited",
        ("OneHolder",),
        (_t.claims, "LEASE_GUARD_MS", 0),
        (_t.leases, "LEASE_GUARD_MS", 0),
        scenario=cut_market,
        start=1,
    ),
    ledger_mutant("leased_for_too_long", ("Leases",), (_t.claims, "LEASE_GUARD_MS", 60_000)),
    ledger_mutant("term_is_used_again", ("Terms", "OneHolder"), wrapped(_t.claims, "_lease", _same_term)),
    ledger_mutant("term_is_left_out", ("Terms",), wrapped(_t.claims, "_lease", _skips_a_term)),
    ledger_mutant("capacity_given_back_twice", ("Books",), wrapped(_t.leases, "free_slot", _twice)),
    ledger_mutant(
        "capacity_given_back_twice_at_a_report", ("Books",), wrapped(_t.reports, "free_slot", _twice)
    ),
    ledger_mutant("capacity_is_not_bound", ("Books",), wrapped(_t.claims, "use_capacity", nothing)),
    ledger_mutant(
        "released_is_free",
        ("OneHolder",),
        wrapped(_t.lifecycle, "release_slot", frees_at_once),
        scenario=withdrawn_market,
    ),
    ledger_mutant(
        "refund_keeps_the_escrow",
        ("Books", "Money"),
        wrapped(_t.lifecycle, "refund", _keeps_escrow),
        start=1,
    ),
    ledger_mutant(
        "one_grant_is_enough",
        ("Approved",),
        wrapped(_t.approvals, "judge_records", _one_grant_is_enough),
        node=ProvesNothing,
    ),
    ledger_mutant("a_document_counts_again", ("Approved",), wrapped(_t.approvals, "_record", _unmarked)),
)
