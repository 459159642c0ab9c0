"""Ledgers and 3nodes that break a rule of updates, results, copies or organisations, each caught by the
checker that is there for it; as `tests.sim.market_mutants`, whose list is the first part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec.structs import replace

import ledger.organisations.organisation
import ledger.policies.people
import ledger.transition.agreement
import ledger.transition.approvals
import ledger.transition.organisations
import ledger.transition.reports
import ledger.transition.results
import ledger.transition.rollout
import ledger.transition.switch
import ledger.transition.updates
from ledger.manifests.types import Workload
from ledger.policies.decision import Decision
from ledger.transition.deal import Deal
from ledger.transition.results import release
from ledger.transition.withheld import pay_out
from node.executor.decide import SlotId
from tests.sim.market import MarketVariant, Patch
from tests.sim.market_copies import MarketCopier
from tests.sim.market_mutants import MarketMutant, ProvesNothing, nothing, wrapped
from tests.sim.market_node import MarketNode
from tests.sim.market_results import Desk
from tests.sim.market_scenario import changing_market
from tests.sim.market_trade_mutants import again

_t = ledger.transition


# ---------------------------------------------------------------------- 3nodes


class CountsWhenSent(MarketCopier):
    """A copy is recorded as soon as its record is sent."""

    def sent(self, taken_ms: int, holds_us: int) -> None:
        self.newest_ms, self.saved_us = taken_ms, holds_us


class CopiesNothing(MarketCopier):
    """Says that all is well."""

    @property
    def is_late(self) -> bool:
        return False

    def run(self) -> None:
        return


class RestoresNothing(MarketCopier):
    """Goes on with what it has of a volume, or with nothing."""

    def gather(self) -> bool:
        if self.volumes:
            self.node.volumes.setdefault(self.tenure.id, 0)
        return True


class EagerDesk(Desk):
    """Hands results out as soon as they are on record."""

    def look(self) -> None:
        super().look()
        for slot_id in self.held:
            record = self.record(slot_id[0])
            if record.results:
                self.node.market.handed_out(self.node, record.id, record.results)


class HastyDesk(Desk):
    """Tells its results as soon as it has committed to them."""

    def _standing(self, slot_id: SlotId, term: int) -> str:
        found = super()._standing(slot_id, term)
        return "now" if found == "wait" and self.is_committed(slot_id) else found


def _node(name: str, **changes: Any) -> type[MarketNode]:
    return type(name, (MarketNode,), changes)


class WritesAtOnce(MarketCopier):
    """Starts before the ledger knows where the volume is."""

    def may_write(self) -> bool:
        return True


# ---------------------------------------------------------------------- ledgers


def _consents(*_: Any) -> Decision:
    return Decision(satisfied=True, rejected=False, reasons=(), used=())


def _releases(deal: Deal) -> None:
    release(deal)


def _any_result(workload: Workload, slots: Mapping[str, Any]) -> tuple[Any, ...]:
    """The first one wins."""
    return tuple(slot for slot in slots.values() if slot.status == "succeeded")[:1]


def _true(*_: Any) -> bool:
    return True


def _keeps(real: Any) -> Any:
    def seat(member: Any, version: int, index: int, lost: tuple[bytes, ...] = ()) -> Any:
        return replace(real(member, version, index), earlier=lost)

    return seat


def _mutant(
    name: str,
    caught_by: tuple[str, ...],
    *patches: Patch,
    node: type[MarketNode] = MarketNode,
    start: int = 0,
) -> MarketMutant:
    return MarketMutant(MarketVariant(name, node, patches), caught_by, changing_market, start)


CHANGE_MUTANTS: Final = (
    _mutant(
        "counts_a_copy_when_sent", ("Volumes",), node=_node("CountsWhenSent", copier=CountsWhenSent), start=6
    ),
    _mutant("copies_nothing", ("Volumes",), node=_node("CopiesNothing", copier=CopiesNothing), start=1),
    _mutant(
        "writes_before_it_is_home", ("Volumes",), node=_node("WritesAtOnce", copier=WritesAtOnce), start=37
    ),
    _mutant("restores_nothing", ("Volumes",), node=_node("RestoresNothing", copier=RestoresNothing), start=8),
    _mutant("hands_out_what_is_held", ("Releases",), node=_node("Eager", desk_kind=EagerDesk)),
    _mutant(
        "told_before_all_have_committed",
        ("Agreements",),
        wrapped(_t.reports, "_check_commitment", nothing),
        node=_node("Hasty", desk_kind=HastyDesk),
        start=1,
    ),
    _mutant(
        "an_update_asks_nobody",
        ("Approved",),
        (_t.approvals, "judge_change", _consents),
        node=ProvesNothing,
    ),
    _mutant("an_update_locks_nothing", ("Books",), (_t.updates, "debit", lambda *_: None), start=11),
    _mutant("an_update_is_done_at_once", ("Versions",), (_t.rollout._Step, "_is_healthy", _true), start=3),
    _mutant(
        "what_an_update_locked_stays", ("Funds", "Books"), wrapped(_t.switch, "give_back", nothing), start=11
    ),
    _mutant("what_changes_over_runs_on", ("Books",), wrapped(_t.switch, "release_slot", nothing), start=2),
    _mutant("nothing_is_put_back", ("Books",), wrapped(_t.switch, "_put_back", nothing), start=2),
    _mutant(
        "an_update_keeps_its_results", ("Releases",), wrapped(_t.rollout, "forget_results", nothing), start=13
    ),
    _mutant("one_signs_for_a_release", ("Releases",), (_t.approvals, "_judge_release", _releases)),
    _mutant("who_is_wrong_is_paid", ("Agreements",), (_t.agreement, "take_back", pay_out)),
    _mutant("who_is_wrong_pays_nothing", ("Agreements",), wrapped(_t.agreement, "_blame", nothing), start=64),
    _mutant("who_is_wrong_pays_twice", ("Agreements", "Penalties"), wrapped(_t.agreement, "_blame", again)),
    _mutant("the_first_result_wins", ("Agreements",), (_t.agreement, "agreeing", _any_result)),
    _mutant(
        "what_a_lost_key_signed_counts",
        ("Approved",),
        (ledger.policies.people.Roll, "counts", _true),
        (ledger.policies.people.Roll, "belongs", _true),
        wrapped(ledger.organisations.organisation, "_new_seat", _keeps),
        start=4,
    ),
    _mutant(
        "new_members_judge_nothing",
        ("Approved", "Books"),
        wrapped(_t.organisations, "judge_members", nothing),
        start=4,
    ),
)
