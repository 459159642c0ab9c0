"""What no ledger would execute, in blocks that a dishonest quorum certified: the audit names each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from ledger.audit.audit import export, verify
from ledger.audit.file import AuditBlock, AuditFile, AuditTx, decode_audit
from ledger.audit.report import AuditReport
from ledger.codec import encode, sha256
from ledger.documents import open_document
from ledger.keys import Key
from ledger.manifests.expansion import decode_manifest, expand
from ledger.manifests.types import Manifest
from ledger.proofs.inclusion import prove_inclusion
from ledger.records import ReceiptRecord, key_deployment, key_document, key_manifest, key_receipt
from ledger.trade_records import UpdateRecord, key_update
from ledger.transactions import (
    Body,
    CancelDeployment,
    CheckedTx,
    Claim,
    Decide,
    ExtendDeployment,
    OpenDispute,
    PublishContract,
    Renew,
    RenewItem,
    Report,
    SteerUpdate,
    TopUp,
    decode_tx,
)
from tests.ledger.chain_fixture import ChainWorld
from tests.ledger.test_audit_lies import NAME, signed_off_job
from tests.ledger.test_audit_updates import updated_life
from tests.ledger.test_updates import running, site
from tests.ledger.world import AUTHOR, BUDGET, CONSUMER, NODES, STRANGER, contract, job

ANOTHER = sha256(b"another")


def report_with(world: ChainWorld, deployment: bytes, raw: bytes, changes: dict[bytes, Any]) -> AuditReport:
    """Commit the bytes as a transaction of the deployment, with these changes, certified; then audit."""
    world.chain.grow(changes, (raw,), about=(deployment,))
    for _ in range(3):
        world.chain.grow({})
    return verify(export(world.store, deployment), world.genesis)


def rule_with(world: ChainWorld, deployment: bytes, raw: bytes, changes: dict[bytes, Any]) -> str:
    """The rule that the report names; "" when the file holds."""
    return report_with(world, deployment, raw, changes).rule


def taken(deployment: bytes, decision: Decide) -> dict[bytes, Any]:
    """The mark of a ledger that took a decision as one on this deployment."""
    return {key_document(deployment, open_document(decision.envelope, "approval").id): b""}


def received(world: ChainWorld, deployment: bytes, node: Key, body: Report, number: int) -> dict[bytes, Any]:
    """What a ledger records that takes a receipt from this node in its next block, as one more of a term."""
    said, tip = open_document(body.envelope, "receipt").predicate, world.store.tip
    key = key_receipt(deployment, said.slot, said.term, number)
    assert world.state.get(key) is None
    assert world.state.get(key_receipt(deployment, said.slot, said.term, number - 1)) is not None
    place = (said.status, body.envelope, tip.height + 1, tip.time_ms + 1_000)
    return {key: encode(ReceiptRecord(deployment, said.slot, said.term, node.public, *place))}


def ordered_job() -> tuple[ChainWorld, bytes]:
    """A job that awaits its approval."""
    world = ChainWorld()
    world.add_nodes(NODES[:2])
    return world, world.ordered(contract(job(), name="mining"))


def test_a_signature_that_is_not_the_senders() -> None:
    world, deployment = ordered_job()
    good = world.tx(CONSUMER, CancelDeployment(deployment, "no"))
    other = world.tx(STRANGER, CancelDeployment(deployment, "no"))
    assert rule_with(world, deployment, encode((good.payload, other.signature)), {}) == "audit.signature"


def test_a_transaction_after_its_expiry() -> None:
    world, deployment = ordered_job()
    late = world.tx(CONSUMER, CancelDeployment(deployment, "no"), expires=world.height)
    assert rule_with(world, deployment, late.raw, {}) == "audit.expired"


@pytest.mark.parametrize(
    ("sender", "body"),
    [
        (STRANGER, lambda deployment: CancelDeployment(deployment, "not mine")),
        (CONSUMER, lambda deployment: CancelDeployment(ANOTHER, "another one")),
        (NODES[0], lambda deployment: Renew((RenewItem(ANOTHER, NAME, 1),))),
        (CONSUMER, lambda deployment: OpenDispute(ANOTHER, "", 0, "another one")),
        (STRANGER, lambda deployment: TopUp(ANOTHER, 5)),
        (STRANGER, lambda deployment: ExtendDeployment(deployment, 0, 60, 5)),
        (CONSUMER, lambda deployment: ExtendDeployment(deployment, 60, 60, 5)),
        (CONSUMER, lambda deployment: ExtendDeployment(ANOTHER, 0, 60, 5)),
    ],
)
def test_parts_of_another_life(sender: Key, body: Callable[[bytes], Body]) -> None:
    world, deployment = ordered_job()
    raw = world.tx(sender, body(deployment)).raw
    assert rule_with(world, deployment, raw, {}) == "audit.foreign"


@pytest.mark.parametrize(("sender", "about"), [(STRANGER, None), (CONSUMER, ANOTHER)])
def test_an_update_that_a_stranger_lets_go_on(sender: Key, about: bytes | None) -> None:
    """[U6] Nothing that is recorded follows from it: it is found for its sender, or for its deployment."""
    world = ChainWorld()
    world.add_nodes()
    deployment = running(world)
    world.updated(deployment, site("1.1.0"))
    raw = world.tx(sender, SteerUpdate(about or deployment, 1, "go_on")).raw
    assert rule_with(world, deployment, raw, {}) == "audit.foreign"


@pytest.mark.parametrize(
    ("body", "changes"),
    [
        (lambda deployment: TopUp(deployment, 5), {"topped_up": 5}),
        (lambda deployment: ExtendDeployment(deployment, 0, 60, 5), {"extended_s": 60}),
    ],
)
def test_what_the_terms_do_not_let_in(body: Callable[[bytes], Body], changes: dict[str, int]) -> None:
    """[D10] [D11] Nobody approved of more, though all that is recorded adds up."""
    world, deployment = ordered_job()
    record = world.deployment(deployment)
    more = {name: getattr(record, name) + 5 for name in ("paid_in", "funded", "escrow")}
    recorded = {key_deployment(deployment): encode(replace(record, **(more | changes)))}
    report = report_with(world, deployment, world.tx(CONSUMER, body(deployment)).raw, recorded)
    assert (report.rule, report.detail) == ("audit.funds", "deployment: more than the terms let it have")


def test_an_order_for_less_than_was_taken_from_its_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    """[D1] Records that would follow from any order of this contract, but for what its consumer signed."""

    def cheaper(data: bytes) -> Manifest:
        found = decode_manifest(data)
        return replace(found, terms=replace(found.terms, budget=found.terms.budget - 1))

    world = ChainWorld()
    source = contract(job(), name="mining")
    body = world.order_body(source, world.publish(source))
    with monkeypatch.context() as patch:
        patch.setattr("ledger.transition.deployments.decode_manifest", cheaper)
        deployment = world.ok(CONSUMER, replace(body, escrow=body.escrow - 1)).id
    whole = {"escrow": body.escrow, "funded": body.escrow, "paid_in": body.escrow}
    record = replace(world.deployment(deployment), **whole)
    world.chain.grow({key_deployment(deployment): encode(record)})
    for _ in range(3):
        world.chain.grow({})
    assert verify(export(world.store, deployment), world.genesis).rule == "audit.escrow"


def test_a_claim_of_another_deployment() -> None:
    world, deployment = signed_off_job()
    raw = world.tx(NODES[0], Claim(ANOTHER, NAME, 1)).raw
    assert rule_with(world, deployment, raw, {}) == "audit.foreign"


def test_a_decision_of_a_stranger_that_the_ledger_took() -> None:
    world, deployment = ordered_job()
    body = world.decide(deployment, STRANGER, "budget")
    raw = world.tx(STRANGER, body).raw
    assert rule_with(world, deployment, raw, taken(deployment, body)) == "audit.not_a_stakeholder"


@pytest.mark.parametrize(
    ("act", "changes", "words"),
    [
        ("deploy", {"deployment": ANOTHER.hex()}, "of another deployment"),
        ("deploy", {"chain_id": "another-chain"}, "of another deployment"),
        ("deploy", {"manifest": ANOTHER}, "of another manifest"),
        ("deploy", {"update": 1}, "of another manifest"),
        ("update", {}, "of what was not to be decided on"),
    ],
)
def test_a_decision_on_something_else_that_the_ledger_took(
    act: str, changes: dict[str, Any], words: str
) -> None:
    """[A1] By who may decide. Another deployment of the same contract has the same manifest."""
    world, deployment = ordered_job()
    body = world.decide(deployment, BUDGET, "budget", "granted", act, **changes)
    report = report_with(world, deployment, world.tx(STRANGER, body).raw, taken(deployment, body))
    assert (report.rule, report.detail) == ("audit.foreign", f"approvals: an approval {words}")


@pytest.mark.parametrize(("act", "number"), [("update", 1), ("update", 3), ("deploy", 2), ("signoff", 0)])
def test_a_decision_on_what_is_over_that_the_ledger_took(act: str, number: int) -> None:
    """[A1] [U3] On updates that were cancelled or done; by a manifest that was reverted, or is not in force
    any more."""
    world, deployment = updated_life()
    updates = world.records(b"update/" + deployment, UpdateRecord)
    manifest = updates[number - 1].manifest if number else updates[0].former
    body = world.decide(deployment, BUDGET, "budget", "granted", act, update=number, manifest=manifest)
    report = report_with(world, deployment, world.tx(STRANGER, body).raw, taken(deployment, body))
    assert report.rule == "audit.foreign"
    assert report.detail == "approvals: an approval of what was not to be decided on"


def test_a_receipt_of_who_did_not_hold_the_term_that_the_ledger_took() -> None:
    """[C7] Who had asked for it, too, and was not selected."""
    world = ChainWorld()
    world.add_nodes(NODES[:2])
    deployment = world.ordered(contract(job(), name="mining"))
    world.approve(deployment)
    holder = world.claimed(deployment, NAME, NODES[:2])
    world.report(deployment, NAME, holder, "fetching")
    (other,) = (node for node in NODES[:2] if node is not holder)
    body = world.receipt(deployment, NAME, other, "failed")
    recorded = received(world, deployment, other, body, 1)
    assert rule_with(world, deployment, world.tx(other, body).raw, recorded) == "audit.two_holders"


@pytest.mark.parametrize(
    ("term", "number", "changes", "rule"),
    [
        (2, 4, {}, ""),  # that there is one more is no lie that a file can show
        (2, 4, {"artifacts": {"/bin/mine": "00" * 32}}, "audit.receipt_incomplete"),
        (2, 4, {"artifacts": {"/never/named": "00" * 32}}, "audit.receipt_incomplete"),
        (2, 4, {"artifacts": {}}, "audit.receipt_incomplete"),
        (2, 4, {"driver": "wasm"}, "audit.receipt_incomplete"),
        (2, 4, {"level": ""}, "audit.receipt_incomplete"),
        (2, 4, {"approvals": ("00" * 32,)}, "audit.receipt_approvals"),
        (2, 4, {"signer": STRANGER}, "audit.receipt_signer"),
        (2, 4, {"node": STRANGER.public.hex()}, "audit.receipt_signer"),
        (2, 4, {"manifest": ANOTHER}, "audit.foreign"),
        (2, 4, {"manifest": ANOTHER, "status": "running"}, "audit.foreign"),
        (2, 4, {"contract": "00" * 32}, "audit.foreign"),
        (1, 2, {"status": "failed"}, "audit.terms"),
    ],
)
def test_a_false_receipt_that_the_ledger_took(
    term: int, number: int, changes: dict[str, Any], rule: str
) -> None:
    world, deployment = signed_off_job()
    node = NODES[0]
    body = world.receipt(deployment, NAME, node, "failed", **({"term": term} | changes))
    raw = world.tx(node, body).raw
    assert rule_with(world, deployment, raw, received(world, deployment, node, body, number)) == rule


def shown_instead(world: ChainWorld, id_: bytes, place: int, block: AuditBlock, **of: Any) -> AuditReport:
    """The report of the deployment's audit with another block at this place; -1: the last."""
    for _ in range(3):
        world.chain.grow({})
    file: AuditFile = decode_audit(export(world.store, id_))
    blocks = list(file.blocks)
    blocks[place] = block
    assert verify(encode(file), world.genesis).ok
    return verify(encode(replace(file, blocks=tuple(blocks), **of)), world.genesis)


def certified(world: ChainWorld, tx: CheckedTx) -> AuditBlock:
    """A block with this transaction alone, as a file shows it."""
    header = world.chain.grow({}, (tx.raw,))
    world.height, world.now_ms = header.height, header.time_ms
    finality = world.store.finality(header.height)
    assert finality is not None
    return AuditBlock(finality, (AuditTx(0, prove_inclusion((tx.raw,), 0), tx.raw),))


def test_a_contract_published_by_another_than_its_author() -> None:
    world = ChainWorld()
    world.add_nodes(NODES[:2])
    source = contract(job(), name="mining")
    contract_id = world.publish(source)
    found = world.store.tx(world.store.history(contract_id)[0])
    assert found is not None
    body = decode_tx(found.raw, world.store.chain_id).tx.body
    assert isinstance(body, PublishContract)
    block = certified(world, world.tx(STRANGER, body))
    deployment = world.order(source, contract_id)
    assert shown_instead(world, deployment, 0, block).rule == "audit.contract"


def test_an_order_of_another_manifest_than_it_expands_to() -> None:
    world, deployment = ordered_job()
    source = contract(job(), name="mining")
    body = world.order_body(source, world.deployment(deployment).contract)
    lie = world.tx(CONSUMER, replace(body, manifest=ANOTHER))
    block = certified(world, lie)
    assert shown_instead(world, deployment, 1, block, deployment=lie.id).rule == "audit.manifest"


@pytest.mark.parametrize(
    ("sender", "changes", "words"),
    [
        (CONSUMER, {"deployment": ANOTHER}, "an update of another deployment"),
        (STRANGER, {}, "update 1 by a stranger, or out of order"),
        (CONSUMER, {"former": ANOTHER}, "update 1 by a stranger, or out of order"),
    ],
)
def test_an_update_that_nobody_asked_for_so(sender: Key, changes: dict[str, bytes], words: str) -> None:
    """[U1] To the same manifest, for the same money."""
    world = ChainWorld()
    world.add_nodes()
    deployment = running(world)
    source = site("1.1.0")
    body = world.update_body(deployment, source, world.publish(source))
    block = certified(world, world.tx(sender, replace(body, **changes)))
    world.ok(CONSUMER, body)
    report = shown_instead(world, deployment, -1, block)
    assert (report.rule, report.detail) == ("audit.foreign", f"txs: {words}")


def test_an_update_that_was_done_before_it_was_asked_for() -> None:
    """[U9] In one block, so that no time tells: a decision by the new manifest, then the wish for it."""
    world = ChainWorld()
    world.add_nodes()
    deployment = running(world)
    source = site("1.1.0")
    contract_id = world.publish(source)
    body, before = world.update_body(deployment, source, contract_id), world.deployment(deployment)
    wish = world.tx(CONSUMER, body)
    early = world.decide(deployment, BUDGET, "budget", update=1, manifest=body.manifest)
    now_ms = world.store.tip.time_ms + 1_000
    place = (body.former, body.manifest, contract_id, "done", body.amount, "update", now_ms, 0, now_ms, 0)
    done = UpdateRecord(1, wish.id, CONSUMER.public, *place, approved_ms=now_ms, ended_ms=now_ms)
    brought = {"updates": 1, "generation": 1, "ground": "update", "asked_ms": now_ms}
    after = replace(before, manifest=body.manifest, contract=contract_id, **brought)
    made = expand(source, contract_id, AUTHOR.public, CONSUMER.public, {}, {})
    recorded = {
        key_manifest(body.manifest): made,
        key_update(deployment, 1): encode(done),
        key_deployment(deployment): encode(after),
        **taken(deployment, early),
    }
    world.chain.grow(recorded, (world.tx(BUDGET, early).raw, wish.raw), about=(deployment,))
    for _ in range(3):
        world.chain.grow({})
    report = verify(export(world.store, deployment), world.genesis)
    assert (report.rule, report.detail.partition(": ")[2]) == (
        "audit.order",
        "update 1 was done before it was asked for",
    )


def test_a_transaction_in_two_blocks() -> None:
    """A claim: it is in nobody's records how often there was one."""
    world, deployment = ordered_job()
    world.approve(deployment)
    claim = world.tx(NODES[0], Claim(deployment, NAME, 1))
    world.run(claim)
    for _ in range(3):
        world.chain.grow({})
    once = decode_audit(export(world.store, deployment))
    again = certified(world, claim)
    for _ in range(3):
        world.chain.grow({})
    file = replace(decode_audit(export(world.store, deployment)), blocks=(*once.blocks, again))
    report = verify(encode(file), world.genesis)
    assert (report.rule, report.detail) == ("audit.order", "txs: a transaction appears twice")
