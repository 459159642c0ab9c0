"""Farms, nodes and offers.

[F1] A farm name is unique and belongs to its first registrant.
[F2] A farm's owner names node keys, each with that key's signed consent; a node key belongs to one farm
     for good.
[F3] A node's offer replaces its former one, never below what its slots use, for at most OFFER_VALID_MS_MAX.
[F4] A withdrawn or expired offer gets no new slot; running slots go on.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from ledger.consent import NodeConsent, consents
from ledger.errors import Refused
from ledger.keys import PUBLIC_KEY_BYTES
from ledger.limits import (
    ADDRESS_CHARS_MAX,
    ATTRIBUTES_MAX,
    CAPACITY_MAX,
    NAME_CHARS_MAX,
    OFFER_VALID_MS_MAX,
    PRICE_MAX,
    RUNTIMES_MAX,
)
from ledger.manifests.types import CAPACITY
from ledger.records import Farm, Node, key_farm, key_node
from ledger.text.template import NAME
from ledger.transactions import PostOffer, Price, RegisterFarm, RegisterNode, WithdrawOffer
from ledger.transition.env import Env
from ledger.transition.notices import end_offer, offer_key
from ledger.transition.standing import stay

_RUNTIME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_COUNTRY: Final = re.compile(r"[A-Z]{2}")
_NO_PRICE: Final = Price(0, 0, 0, 0)


def _check_country(country: str) -> None:
    if not _COUNTRY.fullmatch(country):
        raise Refused("farm.country", "two capital letters wanted (ISO 3166-1 alpha-2)", "country")


def register_farm(env: Env, body: RegisterFarm) -> None:
    """[F1] Raises Refused("farm.…")."""
    if len(body.name) > NAME_CHARS_MAX or not NAME.fullmatch(body.name):  # what a contract can name
        raise Refused("farm.name", f"at most {NAME_CHARS_MAX} of a-z, 0-9, '-' and '_'", "name")
    _check_country(body.country)
    if env.state.get(key_farm(body.name)) is not None:
        raise Refused("farm.exists", f"the name {body.name!r} is taken", "name")
    env.write(key_farm(body.name), Farm(body.name, env.sender, body.country))
    env.emit("farm.registered", body.name, owner=env.sender.hex(), country=body.country)


def register_node(env: Env, body: RegisterNode) -> None:
    """[F2] Raises Refused("node.…" | "farm.country")."""
    farm = env.need(Farm, key_farm(body.farm), "node.unknown_farm", body.farm[:NAME_CHARS_MAX], "farm")
    if farm.owner != env.sender:
        raise Refused("node.not_your_farm", f"farm {body.farm!r} belongs to another key", "farm")
    if len(body.node) != PUBLIC_KEY_BYTES:
        raise Refused("node.key", f"a public key of {PUBLIC_KEY_BYTES} bytes wanted", "node")
    _check_country(body.country)
    if env.state.get(key_node(body.node)) is not None:
        raise Refused("node.exists", "this node key belongs to a farm already", "node")
    wanted = NodeConsent(body.farm, farm.owner, body.country)
    if not consents(body.node, env.chain_id, wanted, body.consent):
        raise Refused("node.consent", "not the node key's signature over farm, owner and country", "consent")
    node = Node(body.node, body.farm, body.country, 0, 0, 0, 0, 0, 0, 0, 0, _NO_PRICE, (), {}, "", 0, 0, 0)
    env.write(key_node(body.node), node)
    env.emit("node.registered", body.node, farm=body.farm, country=body.country)


def post_offer(env: Env, body: PostOffer) -> None:
    """[F3] Raises Refused("offer.…")."""
    key = key_node(env.sender)
    node = env.need(Node, key, "offer.unknown_node", "the sender is no registered node")
    _check_offer(body)
    if not env.time_ms < body.valid_until_ms <= env.time_ms + OFFER_VALID_MS_MAX:
        raise Refused("offer.valid_until", f"within the next {OFFER_VALID_MS_MAX} ms", "valid_until_ms")
    for name in CAPACITY:
        used = getattr(node, f"used_{name}")
        if getattr(body, name) < used:
            raise Refused("offer.below_used", f"slots of this node use {used}", name)
    end_offer(env, node)
    changed = msgspec.structs.replace(
        stay(env, node),
        cpu_millis=body.cpu_millis,
        memory_bytes=body.memory_bytes,
        ssd_bytes=body.ssd_bytes,
        hdd_bytes=body.hdd_bytes,
        price=body.price,
        runtimes=body.runtimes,
        attributes=body.attributes,
        address=body.address,
        valid_until_ms=body.valid_until_ms,
    )
    env.write(key, changed)
    env.state.put(offer_key(changed), b"")
    env.emit("offer.posted", env.sender, farm=node.farm, valid_until_ms=body.valid_until_ms)


def _check_offer(body: PostOffer) -> None:
    for name in CAPACITY:
        if not 0 <= getattr(body, name) <= CAPACITY_MAX:
            raise Refused("offer.capacity", f"0 to {CAPACITY_MAX}", name)
    for name in body.price.__struct_fields__:
        if not 0 <= getattr(body.price, name) <= PRICE_MAX:
            raise Refused("offer.price", f"0 to {PRICE_MAX} micro-credits", f"price.{name}")
    if not 1 <= len(body.runtimes) <= RUNTIMES_MAX or len(set(body.runtimes)) != len(body.runtimes):
        raise Refused("offer.runtimes", f"1 to {RUNTIMES_MAX} different ones", "runtimes")
    if any(not _RUNTIME.fullmatch(runtime) for runtime in body.runtimes):
        raise Refused("offer.runtimes", "1 to 64 of a-z, 0-9 and '-'", "runtimes")
    if len(body.attributes) > ATTRIBUTES_MAX:
        raise Refused("offer.attributes", f"at most {ATTRIBUTES_MAX}", "attributes")
    for name, value in body.attributes.items():
        if not 1 <= len(name) <= NAME_CHARS_MAX or len(value) > ADDRESS_CHARS_MAX:
            raise Refused("offer.attributes", "a name or value is too long", "attributes")
    if not 1 <= len(body.address) <= ADDRESS_CHARS_MAX:
        raise Refused("offer.address", f"1 to {ADDRESS_CHARS_MAX} characters", "address")


def withdraw_offer(env: Env, body: WithdrawOffer) -> None:
    """[F4] Raises Refused("offer.unknown_node" | "offer.none")."""
    key = key_node(env.sender)
    node = env.need(Node, key, "offer.unknown_node", "the sender is no registered node")
    if node.valid_until_ms == 0:
        raise Refused("offer.none", "there is no offer to withdraw")
    end_offer(env, node)
    env.write(key, msgspec.structs.replace(node, valid_until_ms=0))
    env.emit("offer.withdrawn", env.sender, farm=node.farm)
