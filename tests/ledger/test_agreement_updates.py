"""Updates of jobs whose replicas must agree: what one manifest finds is never compared with what another one
finds, and an audit judges each comparison by the manifest of its time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from ledger.audit.audit import export, verify
from ledger.codec import encode
from ledger.contracts.types import Contract
from ledger.limits import REVEAL_MS
from ledger.manifests.types import Placement, UpdateStrategy, Workload
from ledger.records import Bill, Slot, key_bill, key_deployment
from ledger.state import MemoryState, read
from ledger.trade_records import Penalty
from ledger.transactions import Renew, RenewItem
from tests.ledger.chain_fixture import ChainWorld
from tests.ledger.invariants import check
from tests.ledger.test_agreement import BAD, GOOD, WORSE, bind, bound, tell
from tests.ledger.test_updates import ANYWHERE, FAST
from tests.ledger.world import BUDGET, FARMERS, NODES, RICH, contract, job, service

SERVER = NODES[3]


def mining(
    version: str = "1.0.0", replicas: int = 3, agree: int = 2, strategy: UpdateStrategy = FAST, **changes: Any
) -> Contract:
    """A job whose replicas must agree, and a service that keeps its deployment going."""
    fields = {"command": ("/bin/sh", "-c", f"mine {version}"), "placement": Placement(), "update": strategy}
    work = job(**(fields | {"replicas": replicas, "agree": agree} | changes))
    web = service(replicas=1, placement=ANYWHERE)
    return contract(work, web, version=version, budget=200_000_000, fee=0)


def started(source: Contract | None = None) -> tuple[ChainWorld, bytes]:
    """Approved, and the service runs."""
    world = ChainWorld()
    world.add_nodes()
    deployment = world.ordered(source or mining())
    world.approve(deployment)
    world.claimed(deployment, "web/0", [SERVER])
    world.report(deployment, "web/0", SERVER, "fetching", "verified", "running")
    return world, deployment


def compared(world: ChainWorld, deployment: bytes, *found: dict[str, str]) -> None:
    """Each replica commits to what it has found, then each tells it."""
    for index, results in enumerate(found):
        bind(world, deployment, f"mine/{index}", NODES[index], results)
        keep(world, deployment)
    for index, results in enumerate(found):
        tell(world, deployment, index, results)


def keep(world: ChainWorld, deployment: bytes) -> None:
    """The service's lease."""
    world.ok(SERVER, Renew((RenewItem(deployment, "web/0", world.slot(deployment, "web/0").term),)))


def update(world: ChainWorld, deployment: bytes, source: Contract) -> None:
    world.updated(deployment, source)
    world.approve_update(deployment)
    keep(world, deployment)


def audited(world: ChainWorld, deployment: bytes) -> str:
    """The rule by which its audit fails; "" when it holds."""
    world.run()
    world.run()
    check(MemoryState(dict(world.state.scan(b""))), world.now_ms)
    return verify(export(world.store, deployment), world.genesis).rule


def penalties(world: ChainWorld, deployment: bytes) -> list[str]:
    return [f"{found.slot} {found.term}" for found in world.records(b"penalty/" + deployment, Penalty)]


def test_an_update_changes_replicas_that_must_agree_all_at_once() -> None:
    """[Y10] Nobody is blamed for other results than an earlier manifest gave."""
    world, deployment = started()
    compared(world, deployment, GOOD, GOOD, GOOD)
    farmers = [world.balance(farmer) for farmer in FARMERS]
    update(world, deployment, mining("2.0.0"))
    assert [world.slot(deployment, f"mine/{n}").status for n in range(3)] == ["open"] * 3
    compared(world, deployment, BAD, BAD, BAD)
    assert penalties(world, deployment) == []
    assert world.update(deployment).status == "done"
    assert world.slot(deployment, "mine/2").results == BAD
    assert all(world.balance(farmer) > was for farmer, was in zip(FARMERS, farmers, strict=True))
    assert audited(world, deployment) == ""


def test_an_update_in_the_middle_of_a_comparison_begins_it_anew() -> None:
    """[Y10] Who was bound is paid (Y4), what was told binds nobody, and its audit holds."""
    world, deployment = started()
    for index in range(3):
        bind(world, deployment, f"mine/{index}", NODES[index], GOOD)
    tell(world, deployment, 0, GOOD)
    update(world, deployment, mining("2.0.0"))
    assert world.deployment(deployment).withheld == 0
    assert min(world.balance(farmer) for farmer in FARMERS) > RICH
    compared(world, deployment, BAD, BAD, GOOD)
    assert penalties(world, deployment) == ["mine/2 2"]
    assert world.update(deployment).status == "done"
    assert audited(world, deployment) == ""


@pytest.mark.parametrize(("replicas", "agree"), [(4, 3), (3, 3), (2, 2)])
def test_another_number_that_must_agree_begins_it_anew(replicas: int, agree: int) -> None:
    """[Y10] Else who came late could copy what the others have told."""
    world, deployment = started()
    compared(world, deployment, GOOD, GOOD, BAD)
    assert penalties(world, deployment) == ["mine/2 1"]
    source = replace(mining("2.0.0", replicas, agree), workloads=())
    work = replace(mining().workloads[0], replicas=replicas, agree=agree)
    update(world, deployment, replace(source, workloads=(work, mining().workloads[1])))
    assert [world.slot(deployment, f"mine/{n}").status for n in range(replicas)] == ["open"] * replicas
    compared(world, deployment, *[GOOD] * replicas)
    assert world.update(deployment).status == "done"
    assert penalties(world, deployment) == ["mine/2 1"]
    assert audited(world, deployment) == ""


def test_an_update_does_not_wait_for_who_is_silent() -> None:
    """[U9] [R8] Enough agree: that is all that was wanted of the job."""
    world, deployment = started()
    update(world, deployment, mining("2.0.0", strategy=replace(FAST, deadline_s=600)))
    for index in range(3):
        bind(world, deployment, f"mine/{index}", NODES[index], GOOD)
        keep(world, deployment)
    for index in range(2):
        tell(world, deployment, index, GOOD)
    for _ in range(REVEAL_MS // 10_000 + 1):
        world.wait(10_000, step_ms=10_000)
        keep(world, deployment)
    assert penalties(world, deployment) == ["mine/2 1"]
    assert world.update(deployment).status == "done"
    assert audited(world, deployment) == ""


def test_a_job_that_stays_as_it_is_is_not_done_again() -> None:
    """[U7] [Y10]"""
    world, deployment = started()
    compared(world, deployment, GOOD, GOOD, BAD)
    same = mining().workloads[0]
    web = replace(mining().workloads[1], command=("/bin/sh", "-c", "another"))
    world.updated(deployment, replace(mining("2.0.0"), workloads=(same, web)))
    world.approve_update(deployment)
    assert [world.slot(deployment, f"mine/{n}").term for n in range(3)] == [1, 1, 1]
    world.ok(SERVER, world.receipt(deployment, "web/0", SERVER, "released"))
    world.claimed(deployment, "web/0", [SERVER])
    world.report(deployment, "web/0", SERVER, "fetching", "verified", "running")
    world.wait(11_000)
    assert world.update(deployment).status == "done"
    assert audited(world, deployment) == ""


def test_what_is_reverted_is_compared_anew() -> None:
    """[U8] [Y10]"""
    world, deployment = started()
    compared(world, deployment, GOOD, GOOD, BAD)
    update(world, deployment, mining("2.0.0", strategy=replace(FAST, deadline_s=30)))
    for _ in range(4):
        world.wait(10_000, step_ms=10_000)
        keep(world, deployment)
    assert world.update(deployment).status == "reverted"
    compared(world, deployment, GOOD, GOOD, GOOD)
    assert penalties(world, deployment) == ["mine/2 1"]
    assert audited(world, deployment) == ""


@pytest.mark.parametrize("deadline_s", [30, 600])
def test_a_replica_that_is_not_wanted_any_more_tells_nothing(deadline_s: int) -> None:
    """[Y10] Neither to the others by the new manifest nor, when it comes to nothing, to those by its own."""
    world, deployment = started()
    for index in (0, 2):
        bind(world, deployment, f"mine/{index}", NODES[index], GOOD)
    strategy = replace(FAST, deadline_s=deadline_s)
    update(world, deployment, mining("2.0.0", replicas=2, strategy=strategy))
    assert world.slot(deployment, "mine/2").status == "released"
    for index in range(2):
        bind(world, deployment, f"mine/{index}", NODES[index], BAD)
    tell(world, deployment, 0, BAD)
    assert world.refused(NODES[2], world.told(deployment, "mine/2", NODES[2], GOOD))
    if deadline_s == 30:
        for _ in range(4):
            world.wait(10_000, step_ms=10_000)
            keep(world, deployment)
        assert world.update(deployment).status == "reverted"
        assert [world.slot(deployment, f"mine/{n}").status for n in range(3)] == ["open"] * 3
        compared(world, deployment, GOOD, GOOD, GOOD)
    else:
        tell(world, deployment, 1, BAD)
        assert world.update(deployment).status == "done"
    assert penalties(world, deployment) == []
    assert audited(world, deployment) == ""


def test_results_may_be_told_while_the_approval_is_withdrawn() -> None:
    """[Y2] To tell is no work, and an audit takes it."""
    world, deployment = started()
    for index, results in enumerate((GOOD, GOOD, BAD)):
        bind(world, deployment, f"mine/{index}", NODES[index], results)
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "revoked"))
    for index, results in enumerate((GOOD, GOOD, BAD)):
        tell(world, deployment, index, results)
    assert audited(world, deployment) == "", "they are told, and not compared yet"
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget"))
    world.wait(REVEAL_MS, step_ms=10_000)
    assert penalties(world, deployment) == ["mine/2 1"]
    assert audited(world, deployment) == ""


# Lies about what was compared under a manifest that is not in force any more.


def pay_the_odd_one(world: ChainWorld, deployment: bytes) -> dict[bytes, bytes]:
    place = key_bill(deployment, "mine/2", 1, 0)
    bill, record = read(world.state, Bill, place), world.deployment(deployment)
    assert bill is not None
    assert bill.amount == 0
    return {
        place: encode(replace(bill, amount=1)),
        key_deployment(deployment): encode(replace(record, spent=record.spent + 1, escrow=record.escrow - 1)),
    }


def updated(world: ChainWorld, deployment: bytes, agree: int) -> None:
    """Another manifest is in force, by which the job was done again."""
    update(world, deployment, mining("2.0.0", agree=agree))
    if agree:
        compared(world, deployment, BAD, BAD, BAD)
    for index in range(0 if agree else 3):
        node = world.claimed(deployment, f"mine/{index}", [NODES[index]])
        world.report(deployment, f"mine/{index}", node, "fetching", "verified", "running", "succeeded")
        keep(world, deployment)
    assert world.update(deployment).status == "done"


@pytest.mark.parametrize("agree", [0, 2])
def test_who_was_paid_for_other_results_is_found_after_an_update(agree: int) -> None:
    """[R8] [Y4] Also when nobody must agree any more."""
    world, deployment = started()
    compared(world, deployment, GOOD, GOOD, BAD)
    updated(world, deployment, agree)
    assert audited(world, deployment) == ""
    world.chain.grow(pay_the_odd_one(world, deployment))
    for _ in range(3):
        world.chain.grow({})
    assert verify(export(world.store, deployment), world.genesis).rule == "audit.agreement"


def test_copied_results_are_found_after_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """[Y1] A ledger that took what nobody had committed to, of a manifest without agreement by now."""
    monkeypatch.setattr("ledger.transition.reports._check_commitment", lambda *_: None)
    world, deployment = started()
    for index, results in enumerate((GOOD, BAD, GOOD)):
        bind(world, deployment, f"mine/{index}", NODES[index], results)
    for index in range(3):
        tell(world, deployment, index, GOOD)
    updated(world, deployment, agree=0)
    assert audited(world, deployment) == "audit.agreement"


def counts_alone(workload: Workload, slots: Mapping[str, Slot]) -> tuple[Slot, ...]:
    """What a ledger takes for agreement that does not look at what was found."""
    done = tuple(slot for slot in slots.values() if slot.status == "succeeded")
    return done if len(done) >= workload.agree else ()


def pays_for_any(patch: pytest.MonkeyPatch) -> None:
    for place in ("agreement", "slots"):
        patch.setattr(f"ledger.transition.{place}.agreeing", counts_alone)


def test_a_job_that_was_done_though_none_agree_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """[R8] A ledger that pays all of them and says that the deployment has completed."""
    pays_for_any(monkeypatch)
    world, deployment = bound(GOOD, BAD, world=ChainWorld())
    for index, results in enumerate((GOOD, BAD)):
        tell(world, deployment, index, results)
    assert world.deployment(deployment).status == "completed"
    assert audited(world, deployment) == "audit.agreement"


def test_work_that_went_on_though_none_agreed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """[R8] [Y4] Also when the replicas agree in what came after it."""
    world, deployment = started()
    with monkeypatch.context() as patch:
        pays_for_any(patch)
        compared(world, deployment, GOOD, BAD, WORSE)
    assert world.deployment(deployment).status == "active"
    updated(world, deployment, agree=2)
    assert audited(world, deployment) == "audit.agreement"


def test_who_committed_after_others_had_told_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """[Y1] A ledger that let the last replica wait for what the others found."""
    monkeypatch.setattr("ledger.transition.reports._check_commitment", lambda *_: None)
    world, deployment = started()
    for index in range(2):
        bind(world, deployment, f"mine/{index}", NODES[index], GOOD)
    tell(world, deployment, 0, GOOD)
    bind(world, deployment, "mine/2", NODES[2], GOOD)
    for index in (1, 2):
        tell(world, deployment, index, GOOD)
    assert audited(world, deployment) == "audit.agreement"
