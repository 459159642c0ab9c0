"""What no ledger would execute, in blocks that a dishonest quorum certified: the audit names each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from ledger.audit.audit import export, verify
from ledger.audit.file import AuditBlock, AuditFile, AuditTx, decode_audit
from ledger.codec import encode, sha256
from ledger.documents import open_document
from ledger.keys import Key
from ledger.proofs.inclusion import prove_inclusion
from ledger.records import ReceiptRecord, key_document, key_receipt
from ledger.transactions import (
    Body,
    CancelDeployment,
    CheckedTx,
    Claim,
    PublishContract,
    Renew,
    RenewItem,
    decode_tx,
)
from tests.ledger.chain_fixture import ChainWorld
from tests.ledger.test_audit_lies import NAME, signed_off_job
from tests.ledger.world import CONSUMER, NODES, STRANGER, contract, job


def rule_with(world: ChainWorld, deployment: bytes, raw: bytes, changes: dict[bytes, Any]) -> str:
    """Commit the bytes as a transaction of the deployment, with these changes, certified; then audit."""
    world.chain.grow(changes, (raw,), about=(deployment,))
    for _ in range(3):
        world.chain.grow({})
    return verify(export(world.store, deployment), world.genesis).rule


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
        (CONSUMER, lambda deployment: CancelDeployment(sha256(deployment), "another one")),
        (NODES[0], lambda deployment: Renew((RenewItem(sha256(deployment), NAME, 1),))),
    ],
)
def test_parts_of_another_life(sender: Key, body: Callable[[bytes], Body]) -> None:
    world, deployment = ordered_job()
    raw = world.tx(sender, body(deployment)).raw
    assert rule_with(world, deployment, raw, {}) == "audit.foreign"


def test_a_claim_of_another_deployment() -> None:
    world, deployment = signed_off_job()
    raw = world.tx(NODES[0], Claim(sha256(deployment), NAME, 1)).raw
    assert rule_with(world, deployment, raw, {}) == "audit.foreign"


def test_a_decision_of_a_stranger_that_the_ledger_took() -> None:
    world, deployment = ordered_job()
    body = world.decide(deployment, STRANGER, "budget")
    marked = {key_document(deployment, open_document(body.envelope, "approval").id): b""}
    raw = world.tx(STRANGER, body).raw
    assert rule_with(world, deployment, raw, marked) == "audit.not_a_stakeholder"


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
        (2, 4, {"manifest": sha256(b"another")}, "audit.foreign"),
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
    tip = world.store.tip
    record = ReceiptRecord(
        deployment, NAME, term, node.public, "failed", body.envelope, tip.height + 1, tip.time_ms + 1_000
    )
    taken = {key_receipt(deployment, NAME, term, number): encode(record)}
    assert world.state.get(key_receipt(deployment, NAME, term, number)) is None
    assert world.state.get(key_receipt(deployment, NAME, term, number - 1)) is not None
    assert rule_with(world, deployment, world.tx(node, body).raw, taken) == rule


def shown_instead(world: ChainWorld, id_: bytes, place: int, block: AuditBlock, **of: Any) -> str:
    """The rule for the deployment's audit with another block at this place."""
    for _ in range(3):
        world.chain.grow({})
    file: AuditFile = decode_audit(export(world.store, id_))
    blocks = (*file.blocks[:place], block, *file.blocks[place + 1 :])
    assert verify(encode(file), world.genesis).ok
    return verify(encode(replace(file, blocks=blocks, **of)), world.genesis).rule


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
    assert shown_instead(world, deployment, 0, block) == "audit.contract"


def test_an_order_of_another_manifest_than_it_expands_to() -> None:
    world, deployment = ordered_job()
    source = contract(job(), name="mining")
    body = world.order_body(source, world.deployment(deployment).contract)
    lie = world.tx(CONSUMER, replace(body, manifest=sha256(b"another")))
    block = certified(world, lie)
    assert shown_instead(world, deployment, 1, block, deployment=lie.id) == "audit.manifest"
