"""Audit files: a real life exports and verifies; any changed byte, left-out or foreign part fails."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from ledger.audit.audit import export, verify
from ledger.audit.file import AuditBlock, AuditFile, decode_audit
from ledger.audit.report import AuditReport
from ledger.codec import encode, sha256
from ledger.errors import Refused
from ledger.genesis import GenesisValidator
from ledger.policies.decision import Decision
from ledger.transactions import CancelDeployment, Renew, RenewItem
from tests.ledger.chain_fixture import ChainWorld
from tests.ledger.world import (
    BUDGET,
    CONSUMER,
    EXPERT,
    LEGAL,
    NODES,
    STRANGER,
    contract,
    job,
    service,
)


def site_life() -> tuple[ChainWorld, bytes]:
    """A site: approved by two of three, two replicas, one node lost and replaced, signed off, cancelled."""
    world = ChainWorld()
    world.add_nodes()
    deployment = world.ordered(contract())
    refused = world.do(STRANGER, world.decide(deployment, STRANGER, "budget"))
    assert refused.rule == "approval.not_a_stakeholder"
    world.ok(LEGAL, world.decide(deployment, LEGAL, "legal", "rejected"))
    world.approve(deployment)
    for name, node in (("web/0", NODES[0]), ("web/1", NODES[2])):
        world.claimed(deployment, name, [node])
        world.report(deployment, name, node, "fetching", "verified", "running")
    for _ in range(8):
        world.ok(NODES[2], Renew((RenewItem(deployment, "web/1", 1),)), step_ms=10_000)
    assert world.slot(deployment, "web/0").status == "open"
    world.claimed(deployment, "web/0", [NODES[1]])
    world.report(deployment, "web/0", NODES[1], "fetching", "verified", "running")
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", act="signoff"))
    world.ok(CONSUMER, CancelDeployment(deployment, "done"))
    world.run()
    world.run()
    return world, deployment


@pytest.fixture(scope="module")
def site() -> tuple[ChainWorld, bytes, bytes]:
    world, deployment = site_life()
    return world, deployment, export(world.store, deployment)


def broken(world: ChainWorld, data: bytes) -> str:
    """The rule by which a file fails; "" when it does not."""
    return verify(data, world.genesis).rule


def test_a_whole_life_verifies(site: tuple[ChainWorld, bytes, bytes]) -> None:
    world, deployment, data = site
    report = verify(data, world.genesis)
    assert report.ok, (report.rule, report.detail)
    report.require()
    assert [c.name for c in report.checks] == [
        "file", "epochs", "blocks", "transactions", "contract", "manifest", "records",
        "order", "updates", "organisations", "approvals", "receipts", "terms", "bills", "agreement",
        "penalties", "disputes", "sign-off", "release",
    ]  # fmt: skip
    facts, record = report.facts, world.deployment(deployment)
    assert (facts.contract, facts.status) == ("site@1.0.0", "cancelled")
    assert facts.deployment == deployment.hex()
    assert (facts.approved_ms, facts.signed_off_ms) == (record.approved_ms, record.signed_off_ms)
    assert facts.signed_off_ms > facts.approved_ms > 0
    assert facts.spent == record.spent > 100_000
    assert facts.spent + facts.refunded == facts.escrow == 2_000_000
    assert facts.left == 0
    held = [(h.slot, h.term, h.node, h.farm, h.status) for h in facts.holdings]
    assert held == [
        ("web/0", 1, NODES[0].public.hex(), "farm-a", "running"),
        ("web/0", 2, NODES[1].public.hex(), "farm-a", "running"),
        ("web/1", 1, NODES[2].public.hex(), "farm-b", "running"),
    ]
    assert sum(h.amount for h in facts.holdings) + 100_000 == facts.spent
    assert isinstance(facts.decisions["deploy"], Decision)
    assert {signer for _, signer in facts.decisions["deploy"].used} == {BUDGET.public, EXPERT.public}
    what = [row.what for row in facts.timeline]
    assert what[:5] == [
        "contract published",
        "ordered",
        "approval rejected",
        "approval granted",
        "approval granted",
    ]
    assert what.count("running") == 3
    assert what[-2:] == ["sign-off granted", "cancelled"]
    assert [row.height for row in facts.timeline] == sorted(row.height for row in facts.timeline)


def test_any_changed_byte_fails(site: tuple[ChainWorld, bytes, bytes]) -> None:
    """Of a long file: the first and last 150, a block, every 101st. (Each byte was tried, too: minutes.)"""
    world, _, data = site
    file = decode_audit(data)
    block = encode(file.blocks[3])
    at = data.index(block)
    flip(world, data, {*range(150), *range(len(data) - 150, len(data)), *range(at, at + len(block), 3)})
    flip(world, data, set(range(0, len(data), 101)))


def test_any_changed_byte_of_a_short_life_fails() -> None:
    world = ChainWorld()
    deployment = world.ordered(contract(job(), name="mining"))
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "rejected"))
    world.run()
    world.run()
    data = export(world.store, deployment)
    assert len(data) < 12_000
    flip(world, data, set(range(0, len(data), 3)))


def test_renewals_make_no_file_longer() -> None:
    """One each ten seconds: within a month no file would hold them, and no page show anything else."""
    world = ChainWorld()
    world.add_nodes()
    deployment = world.running(contract(service(replicas=1)))
    for _ in range(3):
        world.run()  # a file is of the state that a later header names
    life, before = world.store.history(deployment), export(world.store, deployment)
    for _ in range(20):
        world.ok(NODES[0], Renew((RenewItem(deployment, "web/0", 1),)), step_ms=10_000)
    assert world.store.history(deployment) == life
    after = export(world.store, deployment)
    assert verify(after, world.genesis).ok
    assert len(decode_audit(after).blocks) == len(decode_audit(before).blocks)


def flip(world: ChainWorld, data: bytes, positions: set[int]) -> None:
    """Each of these bytes matters."""
    assert verify(data, world.genesis).ok
    rng = random.Random(1)
    for position in sorted(positions):
        changed = bytearray(data)
        changed[position] ^= rng.randrange(1, 256)
        assert broken(world, bytes(changed)), f"byte {position} of {len(data)} does not matter"


def test_longer_shorter_or_foreign_bytes_fail(site: tuple[ChainWorld, bytes, bytes]) -> None:
    world, _, data = site
    for bad in (b"", b"x", data + b"\0", data[:-1], data[1:], data * 2, b"\xc1" * 50):
        assert broken(world, bad).startswith("audit.")
    with pytest.raises(Refused, match=r"audit\.malformed"):
        verify(b"x", world.genesis).require()


def edits(file: AuditFile) -> dict[str, tuple[str, AuditFile]]:
    """Files that are well formed, but lie: name to rule and file."""

    def without(index: int) -> tuple[AuditBlock, ...]:
        return file.blocks[:index] + file.blocks[index + 1 :]

    lines = [tx.raw for block in file.blocks for tx in block.txs]
    report = next(n for n, raw in enumerate(lines) if b"slot.report" in raw)
    claim = next(n for n, raw in enumerate(lines) if b"slot.claim" in raw)
    decide = next(n for n, raw in enumerate(lines) if b"approval.decide" in raw)
    signoff = max(n for n, raw in enumerate(lines) if b"approval.decide" in raw)
    other = file.blocks[5]
    moved = replace(file.blocks[4], txs=other.txs)
    return {
        "no publication": ("audit.incomplete", replace(file, blocks=without(0))),
        "no order": ("audit.incomplete", replace(file, blocks=without(1))),
        "no rejection": ("audit.record", replace(file, blocks=without(decide))),
        "no sign-off": ("audit.record", replace(file, blocks=without(signoff))),
        "no receipt": ("audit.receipt_record", replace(file, blocks=without(report))),
        "no claim": ("audit.unclaimed", replace(file, blocks=without(claim))),
        "a block twice": ("audit.order", replace(file, blocks=(file.blocks[0], *file.blocks))),
        "blocks turned round": ("audit.order", replace(file, blocks=file.blocks[::-1])),
        "a block without transactions": (
            "audit.order",
            replace(file, blocks=(*file.blocks[:-1], replace(file.blocks[-1], txs=()))),
        ),
        "a transaction in another block": (
            "audit.inclusion",
            replace(file, blocks=(*file.blocks[:4], moved, *file.blocks[6:])),
        ),
        "nothing": ("audit.incomplete", replace(file, blocks=())),
        "an older anchor": ("audit.anchor", replace(file, anchor=file.blocks[3].finality)),
        "another anchor": ("audit.anchor", replace(file, anchor=file.blocks[-1].finality)),
        "no records": ("audit.incomplete", replace(file, records=())),
        "a record less": ("audit.incomplete", replace(file, records=file.records[:-1])),
        "a record more": ("audit.surplus", replace(file, records=(*file.records, file.records[0]))),
        "records exchanged": ("audit.record", replace(file, records=file.records[::-1])),
        "another deployment": ("audit.incomplete", replace(file, deployment=sha256(b"x"))),
        "another format": ("audit.format", replace(file, format="gridpact-audit/9")),
        "another chain": ("audit.foreign_chain", replace(file, chain_id="other")),
    }


def test_well_formed_lies_are_named(site: tuple[ChainWorld, bytes, bytes]) -> None:
    world, _, data = site
    for name, (rule, file) in edits(decode_audit(data)).items():
        assert broken(world, encode(file)) == rule, name


def test_another_genesis_does_not_vouch(site: tuple[ChainWorld, bytes, bytes]) -> None:
    world, _, data = site
    validators = tuple(
        GenesisValidator(key=sha256(b"other %d" % n).hex(), weight=1, moniker="x") for n in range(4)
    )
    report = verify(data, replace(world.genesis, validators=validators))
    assert report.rule == "light.other_validators"
    assert [c.ok for c in report.checks] == [True, False]
    assert verify(data, replace(world.genesis, chain_id="else")).rule == "audit.foreign_chain"


def life(*steps: Callable[[ChainWorld, bytes], Any], **terms: Any) -> tuple[ChainWorld, AuditReport]:
    """A world in which these steps happened to a job, and the report of its audit."""
    world = ChainWorld()
    world.add_nodes(NODES[:2])
    deployment = world.ordered(contract(job(), name="mining", **terms))
    for step in steps:
        step(world, deployment)
    world.run()
    world.run()
    return world, verify(export(world.store, deployment), world.genesis)


def work(world: ChainWorld, deployment: bytes) -> None:
    node = world.claimed(deployment, "mine/0", NODES[:2])
    world.report(deployment, "mine/0", node, "fetching", "verified", "running", "succeeded")


def test_each_stage_of_a_life_verifies() -> None:
    _, report = life()
    assert report.ok, report.detail
    assert report.facts.status == "awaiting_approval"
    assert "budget" in report.checks[10].detail
    _, report = life(ChainWorld.approve)
    assert (report.ok, report.facts.status) == (True, "approved")
    _, report = life(ChainWorld.approve, work)
    assert (report.ok, report.facts.status, report.facts.signed_off_ms) == (True, "completed", 0)
    assert report.facts.left > 0
    signed = lambda w, d: w.ok(EXPERT, w.decide(d, EXPERT, "it-expert", act="signoff"))  # noqa: E731
    world, report = life(ChainWorld.approve, work, signed)
    assert report.ok, report.detail
    assert report.facts.left == 0
    assert report.facts.refunded == report.facts.escrow - report.facts.spent > 0
    assert report.facts.signed_off_ms == world.now_ms - 2_000


def test_a_withdrawn_and_renewed_approval_verifies() -> None:
    def withdraw(world: ChainWorld, deployment: bytes) -> None:
        node = world.claimed(deployment, "mine/0", NODES[:1])
        world.report(deployment, "mine/0", node, "fetching", "verified", "running")
        world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "revoked"))
        world.report(deployment, "mine/0", node, "released")
        world.ok(BUDGET, world.decide(deployment, BUDGET, "budget"))

    _, report = life(ChainWorld.approve, withdraw, work)
    assert report.ok, report.detail
    assert "approval revoked" in [row.what for row in report.facts.timeline]
    assert "term 2" in report.checks[12].detail


def test_a_rejected_order_verifies() -> None:
    def reject(world: ChainWorld, deployment: bytes) -> None:
        world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", "rejected"))

    _, report = life(reject)
    assert report.ok, report.detail
    assert report.facts.status == "rejected"
    assert report.facts.refunded == report.facts.escrow


def test_unknown_deployments_and_fresh_chains_are_refused() -> None:
    world = ChainWorld()
    with pytest.raises(Refused, match=r"proof\.not_yet"):
        export(world.store, sha256(b"none"))
    world.run()
    world.run()
    with pytest.raises(Refused, match=r"audit\.unknown_deployment"):
        export(world.store, sha256(b"none"))
