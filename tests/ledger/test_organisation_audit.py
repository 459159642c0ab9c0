"""Audits and executing nodes follow the deeds of organisations themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from ledger.audit.audit import export, verify
from ledger.audit.file import decode_audit
from ledger.audit.report import AuditReport
from ledger.codec import decode, encode
from ledger.manifests.types import Rule
from ledger.organisations.records import (
    DeedRecord,
    key_deed,
    key_organisation,
)
from ledger.records import ApprovalRecord, key_approval, key_deployment
from node.executor.verify import Case, Verdict
from node.executor.verify import verify as prove
from node.web.audit_page import audit_page
from tests.ledger.chain_fixture import ChainWorld
from tests.ledger.organisation_fixture import (
    ANNA,
    BEN,
    CARL,
    DORA,
    EVE,
    THREE,
    Office,
    held_contract,
    member,
    signed,
)
from tests.ledger.test_audit_lies import rule_after
from tests.ledger.world import CHAIN_ID, CONSUMER, NODES, STRANGER, World

Lie = Callable[[ChainWorld, bytes, Office], dict[bytes, bytes | None]]
FOUR = (*THREE, member("Dora", DORA, "board"))


def life(world: World) -> tuple[bytes, Office]:
    """Approved by two of the board, run, a key rotated, a member gone, approved again, a key lost, ended."""
    world.add_nodes()
    office = Office(world, *FOUR)
    world.run()
    source = held_contract(office.role("board", "board"), deploy=Rule(role="board", count=2))
    deployment = world.order(source, world.publish(source))
    for key in (ANNA, BEN):
        world.ok(STRANGER, world.decide(deployment, key, "board"))
    node = world.claimed(deployment, "web/0", [NODES[0]])
    world.report(deployment, "web/0", node, "fetching", "verified", "running")
    assert office.rotate("Anna", ANNA, EVE) == ""
    assert world.deployment(deployment).status == "active"
    anna = member("Anna", EVE, "board")
    assert office.change(anna, *FOUR[2:], by=(EVE, CARL)) == ""
    assert world.deployment(deployment).status == "awaiting_approval"
    world.ok(STRANGER, world.decide(deployment, CARL, "board"))
    assert world.deployment(deployment).status == "approved"
    return deployment, office


def audited(world: ChainWorld, deployment: bytes) -> AuditReport:
    world.run()
    world.run()
    return verify(export(world.store, deployment), world.genesis)


def test_an_audit_shows_who_signed_as_whom() -> None:
    world = ChainWorld()
    deployment, office = life(world)
    report = audited(world, deployment)
    assert report.ok, (report.rule, report.detail)
    facts = report.facts
    assert facts.roles["board"] == (f"board of organisation {office.id.hex()}",)
    assert [(d.version, d.act, d.signers) for d in facts.deeds] == [
        (1, "found", ("Anna", "Ben")) if ANNA.public < BEN.public else (1, "found", ("Ben", "Anna")),
        (2, "rotate", ("Anna", "Anna")),
        (3, "change", ("Anna", "Carl")) if EVE.public < CARL.public else (3, "change", ("Carl", "Anna")),
    ]
    assert [(m.member, m.key, m.organisation, m.version) for m in facts.members] == [
        ("Anna", ANNA.public.hex(), "City of Ghent", 1),
        ("Ben", BEN.public.hex(), "City of Ghent", 1),
        ("Carl", CARL.public.hex(), "City of Ghent", 3),
    ]
    assert {signer for _, signer in facts.decisions["deploy"].used} == {ANNA.public, CARL.public}
    page = audit_page(report, "00" * 32)
    assert "City of Ghent" in page
    assert "Ben (" in page


def test_any_changed_byte_of_the_deeds_fails() -> None:
    world = ChainWorld()
    deployment, office = life(world)
    world.run()
    world.run()
    data = export(world.store, deployment)
    record = world.state.get(key_deed(office.id, 2))
    assert record is not None
    at = data.index(record)
    for position in range(at, at + len(record), 7):
        changed = bytearray(data)
        changed[position] ^= 1
        assert not verify(bytes(changed), world.genesis).ok
    file = decode_audit(data)
    without = [found for found in file.records if found.value != record]
    assert not verify(encode(replace(file, records=tuple(without))), world.genesis).ok


def edit_organisation(**changes: object) -> Lie:
    def lie(world: ChainWorld, deployment: bytes, office: Office) -> dict[bytes, bytes | None]:
        return {key_organisation(office.id): encode(replace(office.now, **changes))}

    return lie


def _eve_slipped_in(world: ChainWorld, deployment: bytes, office: Office) -> dict[bytes, bytes | None]:
    seat = replace(office.now.seats[0], name="Mallory", key=STRANGER.public)
    return {key_organisation(office.id): encode(replace(office.now, seats=(*office.now.seats, seat)))}


def _deed(version: int, **changes: object) -> Lie:
    def lie(world: ChainWorld, deployment: bytes, office: Office) -> dict[bytes, bytes | None]:
        key = key_deed(office.id, version)
        data = world.state.get(key)
        assert data is not None
        return {key: encode(replace(decode(DeedRecord, data), **changes))}

    return lie


def _no_deed(world: ChainWorld, deployment: bytes, office: Office) -> dict[bytes, bytes | None]:
    return {key_deed(office.id, 2): None}


def _approval(**changes: object) -> Lie:
    def lie(world: ChainWorld, deployment: bytes, office: Office) -> dict[bytes, bytes | None]:
        key = key_approval(deployment, "deploy", BEN.public)
        data = world.state.get(key)
        assert data is not None
        return {key: encode(replace(decode(ApprovalRecord, data), **changes))}

    return lie


LIES: dict[str, tuple[str, Lie]] = {
    "a_member_slipped_in": ("audit.organisation", _eve_slipped_in),
    "another_quorum": ("audit.organisation", edit_organisation(quorum=1)),
    "an_earlier_change": ("audit.organisation", edit_organisation(height=3)),
    "a_deed_by_nobody": ("audit.organisation", _deed(3, signatures=())),
    "a_deed_at_another_height": ("audit.organisation", _deed(3, height=4)),
    "a_deed_of_another_time": ("audit.organisation", _deed(1, time_ms=1)),
    "a_deed_is_missing": ("audit.incomplete", _no_deed),
    "another_seat": ("audit.approval_record", _approval(seat=(3, 3))),
    "another_number": ("audit.approval_record", _approval(number=7)),
}


@pytest.mark.parametrize("name", LIES)
def test_a_ledger_that_lies_about_members_is_found_out(name: str) -> None:
    rule, lie = LIES[name]
    world = ChainWorld()
    deployment, office = life(world)
    assert rule_after(world, deployment, lambda world, deployment: lie(world, deployment, office)) == rule


def test_work_by_approval_of_who_has_left_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """[G9] A ledger that let who has left count on."""
    monkeypatch.setattr("ledger.transition.organisations.judge_members", lambda deal: None)
    world = ChainWorld()
    world.add_nodes()
    office = Office(world, *FOUR)
    world.run()
    source = held_contract(office.role("board", "board"), deploy=Rule(role="board", count=2))
    deployment = world.order(source, world.publish(source))
    for key in (ANNA, BEN):
        world.ok(STRANGER, world.decide(deployment, key, "board"))
    assert office.change(FOUR[0], *FOUR[2:], by=(ANNA, CARL)) == ""
    world.run(step_ms=61_000)
    node = world.claimed(deployment, "web/0", [NODES[0]])
    world.report(deployment, "web/0", node, "fetching", "verified")
    assert audited(world, deployment).rule == "audit.not_approved"


# --- a node's own proof


def proof(world: World, deployment: bytes, order: bytes) -> Verdict:
    return prove(Case(world.state, CHAIN_ID, deployment, order, world.now_ms))


def ordered() -> tuple[World, bytes, bytes, Office]:
    world = World()
    world.add_nodes()
    office = Office(world, *FOUR)
    world.run()
    source = held_contract(office.role("board", "board"), deploy=Rule(role="board", count=2))
    order = world.tx(CONSUMER, world.order_body(source, world.publish(source)))
    assert world.run(order).receipts[0].ok
    return world, order.id, order.raw, office


def test_a_node_counts_members_of_now_for_itself() -> None:
    """[G9] Also when the state says that it is approved."""
    world, deployment, order, office = ordered()
    for key in (ANNA, BEN):
        world.ok(STRANGER, world.decide(deployment, key, "board"))
    assert proof(world, deployment, order).ok
    office.rotate("Anna", ANNA, EVE)
    assert proof(world, deployment, order).ok
    world.ok(STRANGER, signed(office.charter(member("Anna", EVE, "board"), *FOUR[2:]), EVE, CARL))
    assert world.deployment(deployment).status == "approved", "the ledger judges with the next block"
    found = proof(world, deployment, order)
    assert not found.ok
    assert found.reasons == ("needs 1 more of role board",)
    world.run()
    record = replace(world.deployment(deployment), status="approved")
    world.state.put(key_deployment(deployment), encode(record))
    assert not proof(world, deployment, order).ok


def test_a_node_believes_deeds_and_no_record() -> None:
    world, deployment, order, office = ordered()
    seat = replace(office.now.seats[0], name="Mallory", key=STRANGER.public)
    forged = replace(office.now, seats=(*office.now.seats, seat))
    world.state.put(key_organisation(office.id), encode(forged))
    for key in (ANNA, STRANGER):
        world.ok(STRANGER, world.decide(deployment, key, "board"))
    assert world.deployment(deployment).status == "approved", "this state machine believed its state"
    found = proof(world, deployment, order)
    assert not found.ok
    assert found.reasons[0].startswith("organisation.unknown")
