"""Certified nodes, and nodes that leave with notice: rules F5 and F6."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from ledger.certification import Certification, sign_certification
from ledger.contracts.check import check_contract
from ledger.contracts.language import parse_contract
from ledger.errors import Refused
from ledger.fit import certifiers_of
from ledger.keys import Key
from ledger.limits import (
    CERTIFIED_MS_MAX,
    CERTIFIERS_MAX,
    DETAIL_CHARS_MAX,
    DRAIN_NOTICE_MS_MIN,
    OFFER_VALID_MS_MAX,
)
from ledger.manifests.types import Placement
from ledger.records import Node
from ledger.transactions import CertifyNode, Claim, DrainNode, Renew, RenewItem, UncertifyNode, WithdrawOffer
from ledger.transition import standing
from tests.ledger.contract_samples import SOURCE
from tests.ledger.invariants import check
from tests.ledger.world import (
    CHAIN_ID,
    EXPERT,
    FARMERS,
    HOUR_MS,
    LEGAL,
    NODES,
    STRANGER,
    World,
    contract,
    key_of,
    service,
)

YEAR_MS = 365 * 24 * HOUR_MS


def word(world: World, certifier: Key = EXPERT, node: Key = NODES[0], **changes: Any) -> CertifyNode:
    """A certifier's signed word, as of now and for a year."""
    fields: dict[str, Any] = {
        "node": node.public,
        "valid_until_ms": world.now_ms + YEAR_MS,
        "made_ms": world.now_ms,
        "says": "seen at the data centre in Ghent",
    }
    said = Certification(**(fields | changes))
    return CertifyNode(certifier.public, said, sign_certification(certifier, CHAIN_ID, said))


def market() -> World:
    world = World()
    world.add_nodes()
    return world


# --- F5: certification


@pytest.mark.parametrize("carrier", [FARMERS[0], NODES[0]], ids=["farmer", "node"])
def test_a_certifiers_word_stands_until_its_time(carrier: Key) -> None:
    """[F5]"""
    world = market()
    body = word(world, valid_until_ms=world.now_ms + HOUR_MS)
    world.ok(carrier, body)
    node = world.node(NODES[0])
    assert node.certified == {EXPERT.public.hex(): body.certification.valid_until_ms}
    assert certifiers_of(node, world.now_ms) == {EXPERT.public.hex()}
    assert certifiers_of(node, world.now_ms + HOUR_MS) == frozenset()
    assert world.node(NODES[1]).certified == {}


def test_each_certifier_has_one_word_and_the_last_counts() -> None:
    world = market()
    first = word(world, made_ms=1_000)
    world.ok(FARMERS[0], word(world, LEGAL))
    world.ok(FARMERS[0], first)
    assert world.refused(FARMERS[0], first) == "certify.superseded"
    assert world.refused(FARMERS[0], word(world, made_ms=999)) == "certify.superseded"
    later = word(world, made_ms=1_001, valid_until_ms=world.now_ms + HOUR_MS)
    world.ok(FARMERS[0], later)
    assert world.node(NODES[0]).certified[EXPERT.public.hex()] == later.certification.valid_until_ms
    assert len(world.node(NODES[0]).certified) == 2


def test_what_a_certifier_withdrew_nobody_carries_in_again() -> None:
    """[F5]"""
    world = market()
    kept_back = word(world, made_ms=world.now_ms - 5)
    world.ok(FARMERS[0], word(world, made_ms=world.now_ms - 10))
    world.ok(FARMERS[0], word(world, LEGAL))
    world.ok(EXPERT, UncertifyNode(NODES[0].public))
    assert set(world.node(NODES[0]).certified) == {LEGAL.public.hex()}
    assert world.refused(FARMERS[0], kept_back) == "certify.superseded"
    assert world.refused(EXPERT, UncertifyNode(NODES[0].public)) == "certify.none"
    world.ok(FARMERS[0], word(world, made_ms=world.now_ms + 1))


def test_bad_certifications() -> None:
    world = market()
    good = word(world)
    said = good.certification
    cases: list[tuple[Key, CertifyNode, str]] = [
        (STRANGER, good, "certify.not_yours"),
        (FARMERS[1], good, "certify.not_yours"),
        (EXPERT, good, "certify.not_yours"),
        (FARMERS[0], replace(good, certifier=LEGAL.public), "certify.signature"),
        (FARMERS[0], replace(good, certification=replace(said, says="more")), "certify.signature"),
        (FARMERS[0], replace(good, certification=replace(said, node=NODES[1].public)), "certify.signature"),
        (FARMERS[0], replace(good, signature=bytes(64)), "certify.signature"),
        (FARMERS[0], replace(good, certifier=b"short"), "certify.key"),
        (FARMERS[0], replace(good, certification=replace(said, node=b"x")), "certify.key"),
        (FARMERS[0], word(world, says="x" * (DETAIL_CHARS_MAX + 1)), "certify.says"),
        (FARMERS[0], word(world, valid_until_ms=world.now_ms), "certify.valid_until"),
        (FARMERS[0], word(world, valid_until_ms=world.now_ms + CERTIFIED_MS_MAX + 1), "certify.valid_until"),
        (FARMERS[0], word(world, node=STRANGER), "certify.unknown_node"),
    ]
    for sender, body, rule in cases:
        assert world.refused(sender, body) == rule
    other = sign_certification(EXPERT, "another-chain", said)
    assert world.refused(FARMERS[0], replace(good, signature=other)) == "certify.signature"
    assert world.refused(EXPERT, UncertifyNode(NODES[0].public)) == "certify.none"
    assert world.refused(EXPERT, UncertifyNode(STRANGER.public)) == "certify.unknown_node"


def test_only_so_many_stand_for_a_node_and_who_is_over_makes_room() -> None:
    world = market()
    many = [key_of(f"certifier {n}") for n in range(CERTIFIERS_MAX + 1)]
    for n, certifier in enumerate(many[:-1]):
        until_ms = world.now_ms + (HOUR_MS if n == 0 else YEAR_MS)
        world.ok(FARMERS[0], word(world, certifier, valid_until_ms=until_ms))
    assert world.refused(FARMERS[0], word(world, many[-1])) == "certify.too_many"
    world.ok(FARMERS[0], word(world, many[1], made_ms=world.now_ms + 1))  # a new word of one of them
    world.run(step_ms=HOUR_MS)
    world.ok(FARMERS[0], word(world, many[-1]))
    assert many[0].public.hex() not in world.node(NODES[0]).certified


def test_a_contract_names_the_certifiers_that_it_believes() -> None:
    """[C2]"""
    world = market()
    placement = Placement(certified_by=(EXPERT.public.hex(), LEGAL.public.hex()))
    deployment = world.ordered(contract(service(replicas=1, placement=placement), name="safe"))
    world.approve(deployment)
    assert world.refused(NODES[0], Claim(deployment, "web/0", 1)) == "claim.certified"
    world.ok(FARMERS[0], word(world, STRANGER))
    assert world.refused(NODES[0], Claim(deployment, "web/0", 1)) == "claim.certified"
    world.ok(FARMERS[0], word(world, LEGAL, valid_until_ms=world.now_ms + HOUR_MS))
    world.claimed(deployment, "web/0", [NODES[0]])
    world.report(deployment, "web/0", NODES[0], "fetching", "failed")
    world.ok(LEGAL, UncertifyNode(NODES[0].public))
    assert world.refused(NODES[0], Claim(deployment, "web/0", 2)) == "claim.certified"


def test_certifiers_in_a_contract_are_keys() -> None:
    for keys, rule in (
        (("no key",), "contract.role_keys"),
        ((EXPERT.public.hex(),) * 2, "contract.duplicate"),
    ):
        with pytest.raises(Refused, match=rule.replace(".", r"\.")):
            check_contract(contract(service(placement=Placement(certified_by=keys))))
    key = EXPERT.public.hex()
    changed = SOURCE.replace("placement: {", f"placement: {{certified_by: [{key}], ")
    assert changed != SOURCE
    found = parse_contract(changed, "contract.yaml").contract.workloads
    assert any(w.placement.certified_by == (key,) for w in found)


# --- F6: drain


def running(world: World) -> bytes:
    """One replica on the first node."""
    source = contract(service(replicas=1, placement=Placement(distinct="none")), name="alone")
    return world.running(source)


def drained(world: World, notice_ms: int = HOUR_MS) -> int:
    leaves_ms = world.now_ms + notice_ms
    world.ok(NODES[0], DrainNode(leaves_ms), step_ms=0)
    return leaves_ms


def live_to(world: World, deployment: bytes, time_ms: int) -> None:
    """Blocks up to this time, the holder renewing."""
    while world.now_ms < time_ms:
        world.run(step_ms=min(10_000, time_ms - world.now_ms))
        slot = world.slot(deployment, "web/0")
        if slot.holder and slot.status != "released":
            holder = next(node for node in NODES if node.public == slot.holder)
            world.ok(holder, Renew((RenewItem(deployment, "web/0", slot.term),)), step_ms=0)


def test_a_node_leaves_with_notice_and_its_slots_move() -> None:
    """[F6] [S2]"""
    world = market()
    deployment = running(world)
    leaves_ms = drained(world)
    node = world.node(NODES[0])
    assert (node.leaves_ms, node.valid_until_ms, node.slots_held) == (leaves_ms, 0, 1)
    live_to(world, deployment, leaves_ms - 1)
    assert world.slot(deployment, "web/0").status == "running"
    world.run(step_ms=1)
    slot = world.slot(deployment, "web/0")
    assert (slot.status, slot.holder) == ("released", NODES[0].public), "it may still run until it says so"
    assert world.refused(NODES[0], Renew((RenewItem(deployment, "web/0", 1),))) == "renew.released"
    world.report(deployment, "web/0", NODES[0], "released")
    node = world.node(NODES[0])
    assert (node.slots_held, node.used_cpu_millis, node.leaves_ms) == (0, 0, 0)
    assert (node.broken_leases, node.terms_given_up, node.terms_kept) == (0, 0, 1)
    assert world.refused(NODES[0], Claim(deployment, "web/0", 2)) == "claim.offer"
    assert world.claimed(deployment, "web/0", [NODES[2]]) is NODES[2]
    assert [k for k in world.kinds() if k.startswith("node.") and k != "node.registered"] == [
        "node.draining",
        "node.left",
    ]
    check(world.state, world.now_ms)


def test_a_draining_node_claims_nothing() -> None:
    world = market()
    deployment = world.ordered(contract(service(replicas=1), name="alone"))
    world.approve(deployment)
    drained(world)
    assert world.refused(NODES[0], Claim(deployment, "web/0", 1)) == "claim.offer"


def test_a_new_offer_takes_the_notice_back() -> None:
    world = market()
    deployment = running(world)
    leaves_ms = drained(world)
    world.ok(NODES[0], world.offer())
    assert world.node(NODES[0]).leaves_ms == 0
    live_to(world, deployment, leaves_ms + 1)
    assert world.slot(deployment, "web/0").status == "running"
    check(world.state, world.now_ms)


def test_the_last_notice_counts() -> None:
    world = market()
    deployment = running(world)
    drained(world)
    leaves_ms = drained(world, 2 * HOUR_MS)
    live_to(world, deployment, leaves_ms - HOUR_MS + 1)
    assert world.slot(deployment, "web/0").status == "running"
    live_to(world, deployment, leaves_ms)
    assert world.slot(deployment, "web/0").status == "released"
    check(world.state, world.now_ms)


@pytest.mark.parametrize("notice_ms", [0, DRAIN_NOTICE_MS_MIN - 1, OFFER_VALID_MS_MAX + 1, -1])
def test_a_notice_is_neither_too_short_nor_too_long(notice_ms: int) -> None:
    world = market()
    assert world.refused(NODES[0], DrainNode(world.now_ms + notice_ms)) == "drain.notice"
    assert world.refused(STRANGER, DrainNode(world.now_ms + HOUR_MS)) == "drain.unknown_node"


def test_a_node_without_an_offer_may_leave_too() -> None:
    world = market()
    deployment = running(world)
    world.ok(NODES[0], WithdrawOffer())
    live_to(world, deployment, drained(world))
    assert world.slot(deployment, "web/0").status == "released"


def test_what_a_node_holds_is_released_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "DRAIN_SLOTS_PER_STEP_MAX", 2)
    world = market()
    placement = Placement(distinct="none")
    source = contract(service(replicas=5, placement=placement), name="many", budget=20_000_000)
    deployment = world.ordered(source)
    world.approve(deployment)
    names = world.deployment(deployment).slots
    for name in names:
        world.claimed(deployment, name, [NODES[0]])
    leaves_ms = drained(world, DRAIN_NOTICE_MS_MIN)
    while world.now_ms < leaves_ms - 1:
        world.run(step_ms=min(10_000, leaves_ms - 1 - world.now_ms))
        items = tuple(RenewItem(deployment, name, 1) for name in names)
        world.ok(NODES[0], Renew(items), step_ms=0)
    counts = []
    for _ in range(3):
        world.run(step_ms=1)
        counts.append(sum(world.slot(deployment, name).status == "released" for name in names))
    assert counts == [2, 4, 5]
    node: Node = world.node(NODES[0])
    assert node.slots_held == 5
    for name in names:
        world.report(deployment, name, NODES[0], "released")
    assert world.node(NODES[0]).slots_held == 0
    check(world.state, world.now_ms)
