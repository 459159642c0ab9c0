"""Whoever held a slot once writes nothing to it any more; the holder writes the very same."""

import pytest

from ledger.transactions import Claim, Renew, RenewItem
from tests.ledger.world import NODES, World, contract, job, result_file

OUR, THEIR = (result_file(digits * 32) for digits in ("11", "22"))


def taken_over() -> tuple[World, bytes, str]:
    """A job whose first holder lost its lease; the second runs it."""
    world = World()
    world.add_nodes()
    deployment = world.ordered(contract(job()))
    world.approve(deployment)
    (name,) = world.deployment(deployment).slots
    world.claimed(deployment, name, [NODES[0]])
    world.report(deployment, name, NODES[0], "fetching", "verified", "running")
    world.wait(world.slot(deployment, name).lease_until_ms - world.now_ms + 1)
    assert world.claimed(deployment, name, [NODES[2]]) is NODES[2]
    world.report(deployment, name, NODES[2], "fetching", "verified", "running")
    return world, deployment, name


@pytest.mark.parametrize("status", ["running", "succeeded", "failed", "quarantined", "released"])
@pytest.mark.parametrize(("term", "rule"), [(1, "report.stale_term"), (2, "report.not_holder")])
def test_a_former_holder_writes_no_result(status: str, term: int, rule: str) -> None:
    """[R1] In its old term, or as if it held the new one; `refused` sees that nothing changed."""
    world, deployment, name = taken_over()
    results = {"/result/words.tsv": THEIR} if status == "succeeded" else {}
    body = world.receipt(deployment, name, NODES[0], status, term=term, results=results)
    assert world.refused(NODES[0], body) == rule


def test_the_holder_writes_it_and_it_stays() -> None:
    """The control: what is refused above is taken from who holds the slot, and then stands."""
    world, deployment, name = taken_over()
    results = {"/result/words.tsv": OUR}
    world.ok(NODES[2], world.receipt(deployment, name, NODES[2], "succeeded", results=results))
    assert world.slot(deployment, name).results == {"/result/words.tsv": OUR.sha256}
    late = world.receipt(
        deployment, name, NODES[0], "succeeded", term=1, results={"/result/words.tsv": THEIR}
    )
    assert world.refused(NODES[0], late) in ("report.stale_term", "report.not_holder")
    assert world.slot(deployment, name).results == {"/result/words.tsv": OUR.sha256}


def test_a_former_holder_renews_nothing() -> None:
    """[L3]"""
    world, deployment, name = taken_over()
    for term, rule in ((1, "renew.stale_term"), (2, "renew.not_holder")):
        assert world.refused(NODES[0], Renew((RenewItem(deployment, name, term),))) == rule
    world.ok(NODES[2], Renew((RenewItem(deployment, name, 2),)))


def test_nobody_claims_what_was_not_approved() -> None:
    world = World()
    world.add_nodes()
    deployment = world.ordered(contract(job()))
    (name,) = world.deployment(deployment).slots
    assert world.refused(NODES[0], Claim(deployment, name, 1)) == "claim.not_open"
    world.approve(deployment)
    world.ok(NODES[0], Claim(deployment, name, 1))
