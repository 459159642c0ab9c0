"""Hand-broken rules that the property test must catch. A check that has never caught anything is no check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RULE_MARKER, run_state_machine_as_test

from ledger.errors import LocalError
from ledger.manifests.types import Resources
from ledger.records import key_open
from ledger.transition import claims, escrow, funds, grace, leases, lifecycle, slots, standing
from ledger.transition.deal import Deal
from ledger.transition.env import Env
from ledger.transition.money import credit
from tests.ledger.test_machine_properties import Lives

ORIGINAL_LEASE = claims._lease
ORIGINAL_USE = slots.use_capacity
ORIGINAL_EXTEND = leases._extend


def capacity_is_never_given_back(env: Env, node_key: bytes, resources: Resources, sign: int) -> None:
    if sign > 0:
        ORIGINAL_USE(env, node_key, resources, sign)


def capacity_is_given_back_twice(env: Env, node_key: bytes, resources: Resources, sign: int) -> None:
    ORIGINAL_USE(env, node_key, resources, sign)
    if sign < 0:
        ORIGINAL_USE(env, node_key, resources, sign)


def refund_leaves_the_escrow(deal: Deal) -> None:
    credit(deal.env, deal.record.consumer, deal.record.escrow)


def bills_come_from_nowhere(deal: Deal, payee: bytes, amount: int) -> None:
    credit(deal.env, payee, amount)
    deal.set(spent=deal.record.spent + amount)


def the_fee_is_paid_each_time(deal: Deal) -> None:
    escrow._pay(deal, bytes.fromhex(deal.manifest.author), deal.manifest.terms.fee)


def the_term_stays(deal: Deal, name: str, node: Any) -> None:
    ORIGINAL_LEASE(deal, name, node)
    deal.set_slot(name, term=deal.slot(name).term - 1)


def a_held_slot_stays_open(deal: Deal, name: str, node: Any) -> None:
    ORIGINAL_LEASE(deal, name, node)
    deal.env.state.put(key_open(deal.id, name), b"")


def nobody_is_a_neighbour(deal: Deal, workload: Any = None) -> list[Any]:
    return []


def suspended_slots_run_on(deal: Deal, reason: str) -> None:
    deal.set(status="awaiting_approval", reason=reason)


def the_old_lease_still_ends(deal: Deal, slot: Any) -> None:
    keys = [key for key, _ in deal.env.state.scan(b"due/")]
    ORIGINAL_EXTEND(deal, slot)
    for key in keys:
        deal.env.state.put(key, b"")


def windows_leave_their_candidates(deal: Deal, name: str) -> None:
    deal.set_slot(name, window_closes_ms=0)


def ended_deployments_keep_their_approvals_due(env: Env, deployment: bytes) -> None:
    pass


def penalties_come_from_nowhere(deal: Deal, name: str) -> None:
    credit(deal.env, deal.record.consumer, 1_000)


def funds_come_from_nowhere(deal: Deal, amount: int) -> None:
    deal.set(escrow=deal.record.escrow + amount + 1, funded=deal.record.funded + amount + 1)


def paused_slots_run_on(deal: Deal, name: str) -> None:
    pass


def notices_are_never_taken_back(env: Env, node: Any) -> Any:
    return node


MUTANTS: tuple[tuple[tuple[Any, str], Callable[..., Any]], ...] = (
    ((slots, "use_capacity"), capacity_is_never_given_back),
    ((slots, "use_capacity"), capacity_is_given_back_twice),
    ((lifecycle, "refund"), refund_leaves_the_escrow),
    ((escrow, "_pay"), bills_come_from_nowhere),
    ((lifecycle, "pay_fee"), the_fee_is_paid_each_time),
    ((claims, "_lease"), the_term_stays),
    ((claims, "_lease"), a_held_slot_stays_open),
    ((claims, "_held_by"), nobody_is_a_neighbour),
    ((lifecycle, "suspend"), suspended_slots_run_on),
    ((leases, "_extend"), the_old_lease_still_ends),
    ((claims, "close_window"), windows_leave_their_candidates),
    ((leases, "penalize"), penalties_come_from_nowhere),
    ((funds, "_fund"), funds_come_from_nowhere),
    ((grace, "release_slot"), paused_slots_run_on),
    ((standing, "stay"), notices_are_never_taken_back),
    ((lifecycle, "clear_approval_dues"), ended_deployments_keep_their_approvals_due),
)

# What needs several steps of a kind is looked for in lives of these alone; else hundreds of lives go by.
ONLY: dict[Callable[..., Any], tuple[str, ...]] = {
    nobody_is_a_neighbour: ("order", "approve_all", "claim_and_get", "wait"),
    penalties_come_from_nowhere: ("order", "approve_all", "claim_and_get", "progress", "live_on", "wait"),
    notices_are_never_taken_back: ("order", "drain", "offer", "wait"),
}


def lives_of(steps: tuple[str, ...]) -> type[Lives]:
    """Lives in which nothing else is done than these steps."""
    every = {name for name, member in vars(Lives).items() if hasattr(member, RULE_MARKER)}
    assert every >= set(steps)
    return type("LivesOfFewSteps", (Lives,), dict.fromkeys(every - set(steps)))


@pytest.mark.parametrize(("place", "mutant"), MUTANTS, ids=lambda x: getattr(x, "__name__", ""))
def test_caught(place: tuple[Any, str], mutant: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*place, mutant)
    hunt = settings(
        max_examples=3_000,  # hypothesis draws on constants of all that is imported: other tests, other lives
        stateful_step_count=50,
        phases=(Phase.generate,),
        derandomize=True,
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,  # or it looks for a second one for as long as it looked for the first
        suppress_health_check=list(HealthCheck),
    )
    lives = lives_of(ONLY[mutant]) if mutant in ONLY else Lives
    with pytest.raises((AssertionError, LocalError)):
        run_state_machine_as_test(lives, settings=hunt)  # type: ignore[no-untyped-call]
