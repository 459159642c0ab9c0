"""Receipts of holders: rules R1-R6."""

from typing import Any

import pytest
from msgspec.structs import replace

from ledger.keys import Key
from ledger.limits import RECEIPTS_PER_TERM_MAX
from ledger.manifests.types import Restart
from ledger.predicates import ResultFile
from ledger.records import ReceiptRecord, key_receipt, key_slot
from ledger.state import read, write
from ledger.transactions import CancelDeployment
from tests.ledger.invariants import check
from tests.ledger.world import CONSUMER, NODES, STRANGER, World, contract, job, result_file, service

RESULT = result_file()


def claimed(source: Any = None) -> tuple[World, bytes, str]:
    world = World()
    world.add_nodes()
    deployment = world.ordered(source or contract())
    world.approve(deployment)
    name = world.deployment(deployment).slots[0]
    assert world.claimed(deployment, name, [NODES[0]]) is NODES[0]
    return world, deployment, name


def test_the_way_of_a_service() -> None:
    world, deployment, name = claimed()
    for status in ("fetching", "verified", "running", "running"):
        world.report(deployment, name, NODES[0], status)
        assert world.slot(deployment, name).status == status
    assert world.slot(deployment, name).endpoints == {"http": "127.0.0.1:8080"}
    record = world.deployment(deployment)
    assert record.status == "active"
    assert record.running_ms == world.now_ms - 1_000
    receipts = [
        read(world.state, ReceiptRecord, key_receipt(deployment, name, 1, number)) for number in range(4)
    ]
    assert [r.status for r in receipts if r is not None] == ["fetching", "verified", "running", "running"]


@pytest.mark.parametrize(
    ("done", "status"),
    [
        ((), "verified"),
        ((), "running"),
        ((), "succeeded"),
        (("fetching",), "fetching"),
        (("fetching",), "running"),
        (("fetching", "verified"), "fetching"),
        (("fetching", "verified", "running"), "verified"),
        (("fetching", "verified", "running"), "succeeded"),  # a service never succeeds
    ],
)
def test_no_step_is_left_out(done: tuple[str, ...], status: str) -> None:
    """[R2]"""
    world, deployment, name = claimed()
    world.report(deployment, name, NODES[0], *done)
    assert world.refused(NODES[0], world.receipt(deployment, name, NODES[0], status)) == "report.transition"


@pytest.mark.parametrize(
    ("key", "changes", "rule"),
    [
        (NODES[0], {"chain_id": "other"}, "report.foreign_chain"),
        (NODES[0], {"deployment": "00" * 32}, "report.unknown_deployment"),
        (NODES[0], {"contract": "00" * 32}, "report.contract_mismatch"),
        (NODES[0], {"manifest": bytes(32)}, "report.manifest_mismatch"),
        (NODES[0], {"slot": "web/9"}, "report.unknown_slot"),
        (NODES[0], {"term": 0}, "report.stale_term"),
        (NODES[0], {"term": 2}, "report.stale_term"),
        (NODES[0], {"signer": STRANGER}, "report.signer"),
        (NODES[0], {"node": NODES[1].public.hex()}, "report.signer"),
        (NODES[1], {}, "report.not_holder"),
    ],
)
def test_a_receipt_names_what_it_is_about(key: Key, changes: dict[str, Any], rule: str) -> None:
    """[R1]"""
    world, deployment, name = claimed()
    assert world.refused(key, world.receipt(deployment, name, key, "fetching", **changes)) == rule


def test_nobody_carries_anothers_receipt() -> None:
    """[R1]"""
    world, deployment, name = claimed()
    body = world.receipt(deployment, name, NODES[0], "fetching")
    assert world.refused(NODES[1], body) == "report.signer"


@pytest.mark.parametrize(
    "endpoints", [{}, {"http": ""}, {"other": "a:1"}, {"http": "a:1", "more": "b:2"}, {"http": "a" * 257}]
)
def test_running_names_each_port(endpoints: dict[str, str]) -> None:
    """[R3]"""
    world, deployment, name = claimed()
    world.report(deployment, name, NODES[0], "fetching", "verified")
    body = world.receipt(deployment, name, NODES[0], "running", endpoints=endpoints)
    assert world.refused(NODES[0], body) == "report.endpoints"


@pytest.mark.parametrize(
    "results", [{}, {"/result/other": RESULT}, {"/result/words.tsv": RESULT, "/result/other": RESULT}]
)
def test_succeeded_names_each_result(results: dict[str, ResultFile]) -> None:
    """[R3]"""
    world, deployment, name = claimed(contract(job()))
    world.report(deployment, name, NODES[0], "fetching", "verified", "running")
    body = world.receipt(deployment, name, NODES[0], "succeeded", results=results)
    assert world.refused(NODES[0], body) == "report.results"


RUNNING = ("fetching", "verified", "running")
OTHERS = {"/bin/sh": "11" * 32, "/bin/more": "22" * 32}


@pytest.mark.parametrize(
    ("done", "status", "changes", "lack"),
    [
        ((), "fetching", {"driver": ""}, "the driver is ''"),
        ((), "fetching", {"driver": "oci"}, "the driver is 'oci'"),
        ((), "fetching", {"level": ""}, "no isolation level"),
        ((), "failed", {"artifacts": {"/bin/sh": "00" * 32}}, "/bin/sh is not"),
        ((), "failed", {"artifacts": OTHERS}, "/bin/more is not"),
        (RUNNING[:1], "verified", {"artifacts": {}}, "not all artifacts"),
        (RUNNING[:2], "running", {"artifacts": {}}, "not all artifacts"),
        (RUNNING[:2], "released", {"artifacts": {}}, "not all artifacts"),
        (RUNNING, "failed", {"artifacts": {}}, "not all artifacts"),
        (RUNNING, "quarantined", {"artifacts": {}}, "not all artifacts"),
        (RUNNING, "quarantined", {"driver": ""}, "the driver is ''"),
        (RUNNING, "succeeded", {"artifacts": {}}, "not all artifacts"),
        (RUNNING, "succeeded", {"exit_code": None}, "no exit code"),
    ],
)
def test_a_receipt_states_what_was_verified_and_how(
    done: tuple[str, ...], status: str, changes: dict[str, Any], lack: str
) -> None:
    """[R9]"""
    world, deployment, name = claimed(contract(job()))
    world.report(deployment, name, NODES[0], *done)
    tx = world.tx(NODES[0], world.receipt(deployment, name, NODES[0], status, **changes))
    (refused,) = world.run(tx).receipts
    assert (refused.rule, lack in refused.detail) == ("report.incomplete", True), refused
    world.report(deployment, name, NODES[0], status)


@pytest.mark.parametrize("done", [(), RUNNING[:1], RUNNING[:2], RUNNING])
def test_of_a_slot_that_the_ledger_released_the_stop_states_it_too(done: tuple[str, ...]) -> None:
    """[R6] [R9] What was told before counts, not that the slot is released."""
    world, deployment, name = claimed()
    world.report(deployment, name, NODES[0], *done)
    world.ok(CONSUMER, CancelDeployment(deployment, "enough"))
    assert world.slot(deployment, name).status == "released"
    bare = world.receipt(deployment, name, NODES[0], "released", artifacts={})
    if "verified" in done:
        assert world.refused(NODES[0], bare) == "report.incomplete"
        world.report(deployment, name, NODES[0], "released")
    else:
        world.ok(NODES[0], bare)


@pytest.mark.parametrize("status", ["failed", "quarantined", "released"])
@pytest.mark.parametrize("done", [(), ("fetching",), RUNNING])
def test_a_holder_may_stop_at_any_time(status: str, done: tuple[str, ...]) -> None:
    """[R4] [R5]"""
    world, deployment, name = claimed()
    world.report(deployment, name, NODES[0], *done, status)
    slot = world.slot(deployment, name)
    assert (slot.status, slot.holder, slot.term) == ("open", b"", 1)
    assert slot.attempts == (0 if status == "released" else 1)
    assert world.node(NODES[0]).slots_held == 0
    assert world.node(NODES[0]).broken_leases == 0
    (bill,) = [bill for bill in world.bills(deployment) if bill.slot]
    assert bill.to_ms == world.now_ms
    check(world.state, world.now_ms)


def test_too_many_failures_fail_the_deployment() -> None:
    """[R5]"""
    world = World()
    world.add_nodes()
    deployment = world.ordered(contract(service(restart=Restart(attempts=2))))
    world.approve(deployment)
    for attempt, status in enumerate(("failed", "quarantined", "failed"), 1):
        assert world.deployment(deployment).status == "approved"
        assert world.claimed(deployment, "web/0", [NODES[0]]) is NODES[0]
        world.report(deployment, "web/0", NODES[0], status)
        assert world.slot(deployment, "web/0").attempts == attempt
    record = world.deployment(deployment)
    assert (record.status, record.escrow) == ("failed", 0)
    assert "web/0 failed 3 times" in record.reason
    assert not list(world.state.scan(b"open/"))


def test_of_a_released_slot_only_the_stop_is_told() -> None:
    """[R6]"""
    world, deployment, name = claimed()
    world.report(deployment, name, NODES[0], "fetching", "verified", "running")
    world.ok(CONSUMER, CancelDeployment(deployment, ""))
    spent = world.deployment(deployment).spent
    running = world.receipt(deployment, name, NODES[0], "running")
    assert world.refused(NODES[0], running) == "report.transition"
    world.run(step_ms=9_000)
    world.report(deployment, name, NODES[0], "released")
    slot = world.slot(deployment, name)
    assert (slot.status, slot.holder) == ("released", b"")
    assert world.node(NODES[0]).slots_held == 0
    assert world.deployment(deployment).spent == spent
    again = world.receipt(deployment, name, NODES[0], "released")
    assert world.refused(NODES[0], again) == "report.not_holder"


def test_receipts_are_bounded_but_a_stop_is_always_heard() -> None:
    world, deployment, name = claimed()
    world.report(deployment, name, NODES[0], "fetching", "verified", "running")
    slot = world.slot(deployment, name)
    write(world.state, key_slot(deployment, name), replace(slot, receipts=RECEIPTS_PER_TERM_MAX))
    more = world.receipt(deployment, name, NODES[0], "running")
    assert world.refused(NODES[0], more) == "report.too_many"
    world.report(deployment, name, NODES[0], "failed")


def test_a_deployment_of_jobs_completes_with_the_last_one() -> None:
    world = World()
    world.add_nodes()
    deployment = world.ordered(contract(job(replicas=2), job(name="mine-more")))
    world.approve(deployment)
    for name in world.deployment(deployment).slots:
        assert world.deployment(deployment).status != "completed"
        node = world.claimed(deployment, name, [NODES[0]])
        world.report(deployment, name, node, "fetching", "verified", "running", "succeeded")
    assert world.deployment(deployment).status == "completed"


def test_jobs_beside_a_service_do_not_complete_it() -> None:
    world, deployment, name = claimed(contract(job(), service()))
    world.report(deployment, name, NODES[0], "fetching", "verified", "running", "succeeded")
    record = world.deployment(deployment)
    assert record.status == "active"
    assert world.slot(deployment, name).status == "succeeded"
    check(world.state, world.now_ms)
