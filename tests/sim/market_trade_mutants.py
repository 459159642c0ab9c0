"""Ledgers that break a rule of trade, each caught by the checker that is there for it; as
`tests.sim.market_mutants`, whose list is the other half."""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

import ledger.fit
import ledger.transition.deployments
import ledger.transition.disputes
import ledger.transition.escrow
import ledger.transition.funds
import ledger.transition.leases
import ledger.transition.standing
import tests.sim.market_trade
from ledger.policies.decision import Decision
from ledger.records import Node
from ledger.trade_records import Dispute
from ledger.transition.deal import Deal
from tests.sim.market_mutants import frees_at_once, ledger_mutant, nothing, wrapped
from tests.sim.market_scenario import leaving_market

_t = ledger.transition


def again(real: Any) -> Any:
    """Does it twice."""

    def twice(*given: Any) -> None:
        real(*given)
        real(*given)

    return twice


def _any_time(node: Node, now_ms: int) -> frozenset[str]:
    return frozenset(node.certified)


def _consents(deal: Deal, act: str) -> Decision:
    return Decision(satisfied=True, rejected=False, reasons=(), used=())


def _stays_open(dispute: Dispute, **changes: Any) -> Dispute:
    return replace(dispute, closing=changes["closing"])


def _for_nothing(terms: Any, by_s: int) -> int:
    return 0


def _any_offer(workload: Any, node: Node, now_ms: int) -> tuple[()]:
    return ()


TRADE_MUTANTS: Final = (
    ledger_mutant("a_penalty_is_made_of_nothing", ("Books",), (_t.escrow, "debit", lambda *_: None)),
    ledger_mutant("a_lost_lease_costs_nothing", ("Penalties",), wrapped(_t.leases, "penalize", nothing)),
    ledger_mutant("a_lost_lease_costs_twice", ("Penalties",), wrapped(_t.leases, "penalize", again)),
    ledger_mutant(
        "who_leaves_keeps_its_slots",
        ("Notice",),
        wrapped(_t.standing, "release_slot", nothing),
        scenario=leaving_market,
    ),
    ledger_mutant(
        "who_leaves_frees_at_once",
        ("Books", "OneHolder"),
        wrapped(_t.standing, "release_slot", frees_at_once),
        scenario=leaving_market,
    ),
    ledger_mutant(
        "an_offer_that_ended_counts", ("Notice",), (ledger.fit, "_offer_misfits", _any_offer), start=2
    ),
    ledger_mutant(
        "a_certificate_never_ends", ("Standing",), (ledger.fit, "certifiers_of", _any_time), start=14
    ),
    ledger_mutant("a_cancel_asks_nobody", ("Consent",), (_t.deployments, "evaluate_act", _consents), start=2),
    ledger_mutant("a_top_up_counts_twice", ("Books", "Funds"), wrapped(_t.funds, "_fund", again)),
    ledger_mutant(
        "more_time_for_nothing",
        ("Funds",),
        (_t.funds, "extension_cost", _for_nothing),
        (tests.sim.market_trade, "extension_cost", _for_nothing),
    ),
    ledger_mutant("more_time_moves_no_end", ("Funds",), wrapped(_t.funds, "set_end", nothing)),
    ledger_mutant("a_dispute_is_never_closed", ("Disputes",), (_t.disputes, "replace", _stays_open), start=2),
)
