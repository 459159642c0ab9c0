"""Farms, nodes, offers and vault records: rules F1-F4, V1."""

from typing import Any

import pytest
from msgspec.structs import replace

from ledger.keys import Key
from ledger.limits import (
    ATTRIBUTES_MAX,
    CAPACITY_MAX,
    OFFER_VALID_MS_MAX,
    PRICE_MAX,
    VAULT_NAMES_MAX,
    VAULT_RECORD_BYTES_MAX,
)
from ledger.records import Farm, Node, VaultRecord, key_farm, key_node, key_vault
from ledger.state import read
from ledger.transactions import Price, PutVault, RegisterFarm, WithdrawOffer
from tests.ledger.world import BOT, FARMERS, NODES, STRANGER, World, contract, register_node


def test_a_farm_belongs_to_its_first_registrant() -> None:
    world = World()
    world.ok(FARMERS[0], RegisterFarm("farm-a", "BE"))
    assert read(world.state, Farm, key_farm("farm-a")) == Farm("farm-a", FARMERS[0].public, "BE")
    assert world.refused(FARMERS[1], RegisterFarm("farm-a", "NL")) == "farm.exists"
    assert world.refused(FARMERS[0], RegisterFarm("farm-a", "BE")) == "farm.exists"


@pytest.mark.parametrize("name", ["", "A", "a/b", "a b", "-a", "x" * 65, "é", "a\0"])
def test_farm_names(name: str) -> None:
    assert World().refused(FARMERS[0], RegisterFarm(name, "BE")) == "farm.name"


@pytest.mark.parametrize("country", ["", "be", "BEL", "B", "É1"])
def test_countries(country: str) -> None:
    world = World()
    assert world.refused(FARMERS[0], RegisterFarm("farm-a", country)) == "farm.country"
    world.ok(FARMERS[0], RegisterFarm("farm-a", "BE"))
    asked = register_node(NODES[0], FARMERS[0], "farm-a", country)
    assert world.refused(FARMERS[0], asked) == "farm.country"


def test_a_node_key_belongs_to_one_farm() -> None:
    world = World()
    for farmer, name in zip(FARMERS, ("farm-a", "farm-b"), strict=True):
        world.ok(farmer, RegisterFarm(name, "BE"))
    node, good = NODES[0], register_node(NODES[0], FARMERS[0], "farm-a", "FR")
    assert world.refused(FARMERS[1], good) == "node.not_your_farm"
    unknown = register_node(node, FARMERS[0], "farm-c", "FR")
    assert world.refused(FARMERS[0], unknown) == "node.unknown_farm"
    assert world.refused(FARMERS[0], replace(good, node=b"short")) == "node.key"
    world.ok(FARMERS[0], good)
    assert world.node(node).country == "FR"
    assert world.refused(FARMERS[0], good) == "node.exists"
    other = register_node(node, FARMERS[1], "farm-b", "FR")
    assert world.refused(FARMERS[1], other) == "node.exists"


@pytest.mark.parametrize(
    "lie",
    [
        {"consent": b""},
        {"consent": bytes(64)},
        {"country": "NL"},
        {"node": NODES[1].public},
        {"consent": register_node(STRANGER, FARMERS[0], "farm-a", "BE").consent},
        {"consent": register_node(NODES[0], FARMERS[1], "farm-a", "BE").consent},
        {"consent": register_node(NODES[0], FARMERS[0], "farm-b", "BE").consent},
        {"consent": register_node(NODES[0], FARMERS[0], "farm-a", "BE", "other-chain").consent},
    ],
    ids=["none", "zeros", "country", "node", "signer", "owner", "farm", "chain"],
)
def test_nobody_takes_a_node_without_its_word(lie: dict[str, Any]) -> None:
    """A farmer who saw a node key can't lock its owner out by naming it first."""
    world = World()
    for farmer, name in zip(FARMERS, ("farm-a", "farm-b"), strict=True):
        world.ok(farmer, RegisterFarm(name, "BE"))
    good = register_node(NODES[0], FARMERS[0], "farm-a", "BE")
    assert world.refused(FARMERS[0], replace(good, **lie)) == "node.consent"
    assert read(world.state, Node, key_node(NODES[0].public)) is None
    world.ok(FARMERS[0], good)


def test_offer_replaces_and_withdraws() -> None:
    world = World()
    world.add_nodes()
    world.ok(NODES[0], world.offer(cpu_millis=1_000, price=Price(1, 2, 3, 4)))
    node = world.node(NODES[0])
    assert (node.cpu_millis, node.price, node.farm) == (1_000, Price(1, 2, 3, 4), "farm-a")
    world.ok(NODES[0], WithdrawOffer())
    assert world.node(NODES[0]).valid_until_ms == 0
    assert world.refused(NODES[0], WithdrawOffer()) == "offer.none"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"cpu_millis": -1}, "offer.capacity"),
        ({"memory_bytes": CAPACITY_MAX + 1}, "offer.capacity"),
        ({"price": Price(0, -1, 0, 0)}, "offer.price"),
        ({"price": Price(0, 0, 0, PRICE_MAX + 1)}, "offer.price"),
        ({"runtimes": ()}, "offer.runtimes"),
        ({"runtimes": ("sandbox", "sandbox")}, "offer.runtimes"),
        ({"runtimes": ("San box",)}, "offer.runtimes"),
        ({"attributes": {str(n): "" for n in range(ATTRIBUTES_MAX + 1)}}, "offer.attributes"),
        ({"attributes": {"a": "x" * 257}}, "offer.attributes"),
        ({"attributes": {"": "x"}}, "offer.attributes"),
        ({"address": ""}, "offer.address"),
        ({"address": "x" * 257}, "offer.address"),
        ({"valid_until_ms": 0}, "offer.valid_until"),
        ({"valid_until_ms": 2**63}, "offer.valid_until"),
    ],
)
def test_bad_offers(changes: dict[str, Any], rule: str) -> None:
    world = World()
    world.add_nodes(NODES[:1])
    assert world.refused(NODES[0], world.offer(**changes)) == rule


def test_offer_ends() -> None:
    world = World()
    world.add_nodes(NODES[:1])
    assert world.refused(NODES[0], world.offer(valid_until_ms=world.now_ms)) == "offer.valid_until"
    latest = world.now_ms + OFFER_VALID_MS_MAX
    assert world.refused(NODES[0], world.offer(valid_until_ms=latest + 1)) == "offer.valid_until"
    world.ok(NODES[0], world.offer(valid_until_ms=latest), step_ms=0)


@pytest.mark.parametrize("key", [STRANGER, FARMERS[0]])
def test_only_nodes_offer(key: Key) -> None:
    world = World()
    world.add_nodes()
    assert world.refused(key, world.offer()) == "offer.unknown_node"
    assert world.refused(key, WithdrawOffer()) == "offer.unknown_node"


def test_an_offer_keeps_what_is_used() -> None:
    world = World()
    world.add_nodes()
    world.running(contract())
    assert world.node(NODES[0]).used_cpu_millis == 500
    assert world.refused(NODES[0], world.offer(cpu_millis=499)) == "offer.below_used"
    world.ok(NODES[0], world.offer(cpu_millis=500))
    assert world.node(NODES[0]).used_cpu_millis == 500


def test_vault_versions() -> None:
    world = World()
    world.ok(BOT, PutVault("state", 1, b"one"))
    assert world.refused(BOT, PutVault("state", 1, b"two")) == "vault.version"
    assert world.refused(BOT, PutVault("state", 3, b"two")) == "vault.version"
    world.ok(BOT, PutVault("state", 2, b"two"))
    assert read(world.state, VaultRecord, key_vault(BOT.public, "state")) == VaultRecord(2, b"two")
    world.ok(STRANGER, PutVault("state", 1, b"mine"))
    assert read(world.state, VaultRecord, key_vault(BOT.public, "state")) == VaultRecord(2, b"two")


def test_vault_bounds() -> None:
    world = World()
    assert world.refused(BOT, PutVault("a/b", 1, b"")) == "vault.name"
    assert world.refused(BOT, PutVault("state", 1, bytes(VAULT_RECORD_BYTES_MAX + 1))) == "vault.too_long"
    world.run(*(world.tx(BOT, PutVault(f"r{n}", 1, b"")) for n in range(VAULT_NAMES_MAX)))
    assert world.refused(BOT, PutVault("more", 1, b"")) == "vault.too_many"
    world.ok(BOT, PutVault("r0", 2, b""))
