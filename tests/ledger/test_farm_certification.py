"""Certified farms: rule F5, and the placement that asks for them."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from bot.matcher import match
from bot.view import farms_of, market
from ledger.certification import FarmCertification, sign_certification, sign_farm_certification
from ledger.keys import Key
from ledger.limits import CERTIFIED_MS_MAX, CERTIFIERS_MAX, DETAIL_CHARS_MAX
from ledger.manifests.expansion import decode_manifest, expand
from ledger.manifests.types import Placement
from ledger.records import Farm, key_farm
from ledger.state import read
from ledger.transactions import CertifyFarm, Claim, UncertifyFarm
from tests.ledger.invariants import check
from tests.ledger.test_standing import word as node_word
from tests.ledger.world import (
    AUTHOR,
    CHAIN_ID,
    CONSUMER,
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


def word(world: World, certifier: Key = EXPERT, farm: str = "farm-a", **changes: Any) -> CertifyFarm:
    """A certifier's signed word, as of now and for a year."""
    fields: dict[str, Any] = {
        "farm": farm,
        "valid_until_ms": world.now_ms + YEAR_MS,
        "made_ms": world.now_ms,
        "says": "audited",
    }
    said = FarmCertification(**(fields | changes))
    return CertifyFarm(certifier.public, said, sign_farm_certification(certifier, CHAIN_ID, said))


def farm(world: World, name: str = "farm-a") -> Farm:
    found = read(world.state, Farm, key_farm(name))
    assert found is not None
    return found


def test_who_stands_for_a_farm() -> None:
    """[F5]"""
    world = World()
    world.add_nodes()
    first = word(world, made_ms=1_000)
    world.ok(FARMERS[0], word(world, LEGAL))
    world.ok(FARMERS[0], first)
    assert world.refused(FARMERS[0], first) == "certify.superseded"
    assert set(farm(world).certified) == {EXPERT.public.hex(), LEGAL.public.hex()}
    assert farm(world, "farm-b").certified == {}
    kept_back = word(world, made_ms=world.now_ms - 5)
    world.ok(EXPERT, UncertifyFarm("farm-a"))
    assert set(farm(world).certified) == {LEGAL.public.hex()}
    assert world.refused(FARMERS[0], kept_back) == "certify.superseded", "what was withdrawn stays so"
    assert world.refused(EXPERT, UncertifyFarm("farm-a")) == "certify.none"
    world.ok(FARMERS[0], word(world, made_ms=world.now_ms + 1))
    check(world.state, world.now_ms)


def test_bad_words_about_a_farm() -> None:
    """[F5]"""
    world = World()
    world.add_nodes()
    good = word(world)
    said = good.certification
    of_a_node = sign_certification(EXPERT, CHAIN_ID, node_word(world).certification)
    cases: list[tuple[Key, CertifyFarm, str]] = [
        (STRANGER, good, "certify.not_yours"),
        (FARMERS[1], good, "certify.not_yours"),
        (NODES[0], good, "certify.not_yours"),
        (FARMERS[0], replace(good, certifier=LEGAL.public), "certify.signature"),
        (FARMERS[0], replace(good, certification=replace(said, says="more")), "certify.signature"),
        (FARMERS[0], replace(good, signature=of_a_node), "certify.signature"),
        (FARMERS[0], replace(good, signature=b""), "certify.signature"),
        (FARMERS[0], replace(good, certifier=b"short"), "certify.key"),
        (FARMERS[0], word(world, says="x" * (DETAIL_CHARS_MAX + 1)), "certify.says"),
        (FARMERS[0], word(world, valid_until_ms=world.now_ms), "certify.valid_until"),
        (FARMERS[0], word(world, valid_until_ms=world.now_ms + CERTIFIED_MS_MAX + 1), "certify.valid_until"),
        (FARMERS[0], word(world, farm="nowhere"), "certify.unknown_farm"),
    ]
    for sender, body, rule in cases:
        assert world.refused(sender, body) == rule
    assert world.refused(EXPERT, UncertifyFarm("nowhere")) == "certify.unknown_farm"
    assert world.refused(EXPERT, UncertifyFarm("farm-a")) == "certify.none"
    for n in range(CERTIFIERS_MAX):
        world.ok(FARMERS[0], word(world, key_of(f"certifier {n}")))
    assert world.refused(FARMERS[0], word(world)) == "certify.too_many"


def test_a_contract_asks_for_certified_farms() -> None:
    """[C2] A word about a node is none about its farm, and ends in time."""
    world = World()
    world.add_nodes()
    placement = Placement(farm_certified_by=(EXPERT.public.hex(), LEGAL.public.hex()))
    source = contract(service(replicas=1, placement=placement), name="safe")
    deployment = world.ordered(source)
    world.approve(deployment)
    world.ok(FARMERS[0], node_word(world))
    assert world.refused(NODES[0], Claim(deployment, "web/0", 1)) == "claim.farm_certified"
    world.ok(FARMERS[0], word(world, STRANGER))
    assert world.refused(NODES[0], Claim(deployment, "web/0", 1)) == "claim.farm_certified"
    world.ok(FARMERS[0], word(world, valid_until_ms=world.now_ms + HOUR_MS))
    assert world.refused(NODES[2], Claim(deployment, "web/0", 1)) == "claim.farm_certified"
    world.run(step_ms=HOUR_MS)
    assert world.refused(NODES[1], Claim(deployment, "web/0", 1)) == "claim.farm_certified"
    world.ok(FARMERS[0], word(world))
    assert world.claimed(deployment, "web/0", [NODES[1]]) is NODES[1]


def test_taken_back_before_the_selection() -> None:
    """[C6]"""
    world = World()
    world.add_nodes()
    placement = Placement(farm_certified_by=(EXPERT.public.hex(),))
    deployment = world.ordered(contract(service(replicas=1, placement=placement), name="safe"))
    world.approve(deployment)
    world.ok(FARMERS[0], word(world))
    world.run(world.tx(NODES[0], Claim(deployment, "web/0", 1)), step_ms=1)
    world.run(world.tx(EXPERT, UncertifyFarm("farm-a")), step_ms=1)
    world.run()
    assert world.slot(deployment, "web/0").status == "open"


def test_the_plan_sees_what_the_ledger_sees() -> None:
    """[F5]"""
    world = World()
    world.add_nodes()
    world.ok(FARMERS[1], word(world, farm="farm-b"))
    placement = Placement(farm_certified_by=(EXPERT.public.hex(),), distinct="node")
    source = contract(service(replicas=1, placement=placement), name="safe")
    data = expand(source, world.publish(source), AUTHOR.public, CONSUMER.public, {}, {})
    nodes = market(world.state)
    found = match(decode_manifest(data), nodes, world.now_ms, farms_of(world.state, nodes))
    assert [m.node.farm for m in found.matches] == ["farm-b"]
    reasons = {misfit.node.farm: misfit.reasons for misfit in found.misfits}
    assert list(reasons) == ["farm-a"]
    assert "claim.farm_certified" in reasons["farm-a"][0]
    blind = match(decode_manifest(data), nodes, world.now_ms)
    assert blind.unplaced[0].reasons == ("4 nodes: claim.farm_certified",)
