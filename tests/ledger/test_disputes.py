"""Disputes: rule D12."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from ledger.audit.audit import export, verify
from ledger.codec import decode, encode
from ledger.keys import Key
from ledger.limits import DISPUTE_MS_MAX, DISPUTES_MAX, DISPUTES_PER_PARTY_MAX, TEXT_CHARS_MAX
from ledger.trade_records import Dispute, key_dispute
from ledger.transactions import CancelDeployment, CloseDispute, OpenDispute
from ledger.transition import disputes
from tests.ledger.chain_fixture import ChainWorld
from tests.ledger.invariants import check
from tests.ledger.test_audit_forgeries import rule_with
from tests.ledger.test_audit_lies import edit, rule_after
from tests.ledger.world import (
    AUTHOR,
    BOT,
    CONSUMER,
    EXPERT,
    FARMERS,
    NODES,
    STRANGER,
    World,
    contract,
    service,
)


def running(world: World) -> bytes:
    world.add_nodes()
    return world.running(contract(service(replicas=1), name="alone"))


def said(world: World, deployment: bytes) -> list[Dispute]:
    return world.records(b"dispute/" + deployment, Dispute)


def test_a_dispute_stays_on_record_and_moves_no_money() -> None:
    """[D12]"""
    world = World()
    deployment = running(world)
    before = {key: value for key, value in world.live_entries().items() if key.startswith(b"account/")}
    world.ok(CONSUMER, OpenDispute(deployment, "web/0", 1, "it answers slowly"))
    opened_ms = world.now_ms
    world.ok(AUTHOR, OpenDispute(deployment, "", 0, "my name is missing"))
    world.ok(CONSUMER, CloseDispute(deployment, 0, "mended"))
    first, second = said(world, deployment)
    assert first == Dispute(
        0, CONSUMER.public, "web/0", 1, "it answers slowly", opened_ms, world.now_ms, "mended"
    )
    assert (second.opener, second.closed_ms) == (AUTHOR.public, 0)
    assert world.deployment(deployment).disputes == 2
    after = {key: value for key, value in world.live_entries().items() if key.startswith(b"account/")}
    assert after == before
    check(world.state, world.now_ms)


@pytest.mark.parametrize("key", [CONSUMER, BOT, AUTHOR, EXPERT, NODES[0], FARMERS[0]])
def test_parties_of_a_term(key: Key) -> None:
    world = World()
    deployment = running(world)
    world.ok(key, OpenDispute(deployment, "web/0", 1, "x"))


@pytest.mark.parametrize("key", [STRANGER, NODES[1], FARMERS[1]])
def test_strangers_are_no_party(key: Key) -> None:
    world = World()
    deployment = running(world)
    assert world.refused(key, OpenDispute(deployment, "web/0", 1, "x")) == "dispute.not_a_party"


def test_who_held_a_former_term_is_a_party_of_that_term_alone() -> None:
    world = World()
    deployment = running(world)
    world.report(deployment, "web/0", NODES[0], "failed")
    world.claimed(deployment, "web/0", [NODES[2]])
    world.ok(NODES[0], OpenDispute(deployment, "web/0", 1, "the power was cut"))
    assert world.refused(NODES[0], OpenDispute(deployment, "web/0", 2, "x")) == "dispute.not_a_party"
    assert world.refused(NODES[0], OpenDispute(deployment, "", 0, "x")) == "dispute.not_a_party"
    world.ok(FARMERS[1], OpenDispute(deployment, "web/0", 2, "x"))


def test_bad_disputes() -> None:
    world = World()
    deployment = running(world)
    for body, rule in (
        (OpenDispute(bytes(32), "", 0, ""), "dispute.unknown_deployment"),
        (OpenDispute(deployment, "web/9", 1, ""), "dispute.unknown_term"),
        (OpenDispute(deployment, "web/0", 2, ""), "dispute.unknown_term"),
        (OpenDispute(deployment, "web/0", 0, ""), "dispute.unknown_term"),
        (OpenDispute(deployment, "", 1, ""), "dispute.unknown_term"),
        (OpenDispute(deployment, "", 0, "x" * (TEXT_CHARS_MAX + 1)), "dispute.says"),
    ):
        assert world.refused(CONSUMER, body) == rule
    assert world.refused(CONSUMER, CloseDispute(bytes(32), 0, "")) == "dispute.unknown_deployment"
    assert world.refused(CONSUMER, CloseDispute(deployment, 0, "")) == "dispute.unknown"
    assert world.refused(CONSUMER, CloseDispute(deployment, -1, "")) == "dispute.unknown"
    world.ok(CONSUMER, OpenDispute(deployment, "", 0, "x"))
    assert world.refused(BOT, CloseDispute(deployment, 0, "")) == "dispute.not_yours"
    world.ok(CONSUMER, CloseDispute(deployment, 0, ""))
    assert world.refused(CONSUMER, CloseDispute(deployment, 0, "")) == "dispute.closed"


def test_disputes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    deployment = running(world)
    for number in range(DISPUTES_PER_PARTY_MAX):
        world.ok(AUTHOR, OpenDispute(deployment, "", 0, str(number)))
    assert world.refused(AUTHOR, OpenDispute(deployment, "", 0, "one more")) == "dispute.too_many"
    world.ok(CONSUMER, OpenDispute(deployment, "", 0, "another party"))
    assert DISPUTES_MAX > DISPUTES_PER_PARTY_MAX
    monkeypatch.setattr(disputes, "DISPUTES_MAX", DISPUTES_PER_PARTY_MAX + 1)
    assert world.refused(CONSUMER, OpenDispute(deployment, "", 0, "full")) == "dispute.too_many"


def test_after_the_end_there_is_time_to_complain_but_not_for_ever() -> None:
    """[D12]"""
    world = World()
    deployment = running(world)
    world.ok(CONSUMER, CancelDeployment(deployment, ""))
    world.run(step_ms=DISPUTE_MS_MAX - 1_000)
    world.ok(CONSUMER, OpenDispute(deployment, "", 0, "late"))
    world.run(step_ms=1_000)
    assert world.refused(CONSUMER, OpenDispute(deployment, "", 0, "too late")) == "dispute.too_late"


def complained() -> tuple[ChainWorld, bytes]:
    world = ChainWorld()
    deployment = running(world)
    world.ok(CONSUMER, OpenDispute(deployment, "web/0", 1, "it answers slowly"))
    world.ok(NODES[0], OpenDispute(deployment, "web/0", 1, "it is overloaded"))
    world.ok(CONSUMER, CloseDispute(deployment, 0, "mended"))
    return world, deployment


def test_an_audit_shows_disputes() -> None:
    world, deployment = complained()
    world.run()
    world.run()
    report = verify(export(world.store, deployment), world.genesis)
    assert report.ok, (report.rule, report.detail)
    first, second = report.facts.disputes
    assert (first.about, first.says, first.closing) == ("web/0 term 1", "it answers slowly", "mended")
    assert (second.opener, second.closed_ms) == (NODES[0].public.hex(), 0)
    assert next(c.detail for c in report.checks if c.name == "disputes") == "2 disputes, 1 open"


@pytest.mark.parametrize(
    "changes", [{"says": "it is fine"}, {"opener": AUTHOR.public}, {"closed_ms": 0}, {"closing": ""}]
)
def test_a_lie_about_a_dispute_is_found(changes: dict[str, object]) -> None:
    world, deployment = complained()
    lie = edit(Dispute, lambda id_: key_dispute(id_, 0), **changes)
    assert rule_after(world, deployment, lie) == "audit.disputes"


def test_a_dispute_that_nobody_signed_is_found() -> None:
    world, deployment = complained()
    record = world.deployment(deployment)
    invented = decode(Dispute, world.state.get(key_dispute(deployment, 0)) or b"")

    def lie(_: ChainWorld, id_: bytes) -> dict[bytes, bytes | None]:
        return {
            b"deployment/" + id_: encode(replace(record, disputes=3)),
            key_dispute(id_, 2): encode(replace(invented, number=2)),
        }

    assert rule_after(world, deployment, lie) == "audit.disputes"


@pytest.mark.parametrize(
    ("number", "closed", "sender"), [(1, 1, CONSUMER), (-1, 1, NODES[0]), (2, None, CONSUMER)]
)
def test_a_dispute_that_another_than_its_opener_closed_is_found(
    number: int, closed: int | None, sender: Key
) -> None:
    """[D12] Or that is named otherwise than by its number, or never was; recorded as it was signed."""
    world, deployment = complained()
    raw = world.tx(sender, CloseDispute(deployment, number, "settled")).raw
    recorded: dict[bytes, Any] = {}
    if closed is not None:
        key, at_ms = key_dispute(deployment, closed), world.store.tip.time_ms + 1_000
        found = decode(Dispute, world.state.get(key) or b"")
        recorded[key] = encode(replace(found, closed_ms=at_ms, closing="settled"))
    assert rule_with(world, deployment, raw, recorded) == "audit.disputes"
