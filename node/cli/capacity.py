"""`gridpact farm` and `gridpact node`: who offers what."""

from __future__ import annotations

import os
import time

from ledger.consent import sign_consent
from ledger.transactions import RegisterFarm, RegisterNode, WithdrawOffer
from node.api.models import NodeView
from node.cli.context import EXIT_ERROR, EXIT_USAGE, Failure, current
from node.cli.keys import public_key
from node.cli.output import emit, emit_facts, say
from node.cli.tx import print_result
from node.client.amounts import cpu_text, credits_text, size_text, time_text
from node.config import load_settings
from node.home import read_run


def farm_register(name: str, /, *, country: str, key: str) -> int:
    """Register a farm.

    Args:
        name: A new name; it belongs to you from then on.
        country: ISO 3166-1 alpha-2, such as BE.
        key: Name of the farmer's key.
    """
    return print_result(current.client().send(current.key(key), RegisterFarm(name, country)))


def farm_add_node(farm: str, node: str, /, *, country: str, consent: str, key: str) -> int:
    """Name a node key as one of a farm's nodes, with that node's consent.

    Args:
        farm: Your farm.
        node: The node's public key, 64 hex digits.
        country: Where the node stands, as in its consent.
        consent: What `gridpact node consent` says in the node's home, 128 hex digits.
        key: Name of the farmer's key.
    """
    try:
        signature = bytes.fromhex(consent)
    except ValueError:
        raise Failure(EXIT_USAGE, "--consent: hex digits wanted, as node consent shows them") from None
    body = RegisterNode(farm, public_key(node), country, signature)
    return print_result(current.client().send(current.key(key), body))


def farm_list() -> int:
    """List the farms."""
    found = list(current.client().farms())
    rows = [(f.name, f.country, f.owner, len(f.certified) or "-") for f in found]
    emit(found, ("name", "country", "owner", "certified by"), rows)
    return 0


def node_consent(*, farm: str, owner: str, country: str = "") -> int:
    """Sign, in the node's home, that this node joins a farm; its owner needs that to add it.

    Args:
        farm: The farm's name.
        owner: The farmer's public key, 64 hex digits, or the name of a key here.
        country: Where the node stands (default: the home's node.country).
    """
    home = current.home()
    where = country or load_settings(home.config_file, os.environ).node.country
    if not where:
        raise Failure(EXIT_USAGE, "--country: wanted, because the home's node.country is empty")
    node, farmer = home.node_key(), public_key(owner)
    consent = sign_consent(node, home.read_genesis().chain_id, farm, farmer, where)
    facts = {
        "farm": farm,
        "owner": farmer.hex(),
        "country": where,
        "node": node.public.hex(),
        "consent": consent.hex(),
    }
    emit_facts(facts, list(facts.items()))
    say(
        f"the farm's owner: gridpact farm add-node {farm} NODE --country {where} --consent CONSENT --key NAME"
    )
    return 0


def node_offer() -> int:
    """Post the offer of the home's node: its settings, and what its driver enforces here."""
    from node.offer import make_offer
    from node.testnet_market import sandbox_fingerprint

    home = current.home()
    settings = load_settings(home.config_file, os.environ)
    fingerprint = sandbox_fingerprint()
    if not fingerprint.runtimes:
        raise Failure(EXIT_ERROR, f"this machine cannot isolate workloads: {fingerprint.reason}")
    info = read_run(home)
    if info is None or not info.p2p:
        raise Failure(EXIT_ERROR, "start the node first: its offer names the address where it is reached")
    offer = make_offer(settings.node, fingerprint, info.p2p[0], time.time_ns() // 1_000_000)
    missing = [feature.name for feature in fingerprint.features if not feature.enforced]
    if missing:
        say(f"not enforced here, and said so in the offer: {', '.join(missing)}")
    return print_result(current.client().send(home.node_key(), offer))


def node_withdraw() -> int:
    """Withdraw the offer of the home's node; what runs goes on."""
    return print_result(current.client().send(current.home().node_key(), WithdrawOffer()))


def node_slots() -> int:
    """Show what the 3node that is asked holds: slots, phase, bytes fetched, checks, usage, lease."""
    found = current.client().node_slots()
    rows = []
    for held in found.slots:
        done, total = (sum(getattr(f, name) for f in held.fetch) for name in ("bytes_done", "bytes_total"))
        rows.append(
            (
                held.deployment[:10],
                held.slot,
                held.term,
                held.phase,
                f"{size_text(done)} of {size_text(total)}",
                held.checks,
                held.restarts,
                f"{held.cpu_ms / 1000:.1f} s",
                size_text(held.memory_bytes_max),
                _lease_text(held.lease_left_ms),
                " ".join(f"{name}={where}" for name, where in held.endpoints.items()) or held.detail,
            )
        )
    columns = ("deployment", "slot", "term", "phase", "fetched", "checks", "restarts", "cpu", "memory")
    emit(found, (*columns, "lease left", "where"), rows)
    if current.output == "table":
        say(f"driver {found.driver}: " + ("usable" if found.usable else f"not usable: {found.reason}"))
        say("offers capacity" if found.offering else "offers no capacity")
        for held in found.slots:
            if held.copies:
                say(f"copies of {held.deployment[:10]} {held.slot}: {held.copies}")
        for slot, reason in found.refused.items():
            say(f"does not claim {slot[:10]}…{slot[64:]}: {reason}")
    return 0


def _lease_text(left_ms: int) -> str:
    """Past its end runs what is `available` alone, and what is being stopped."""
    return f"{left_ms / 1000:.0f} s" if left_ms >= 0 else f"over for {-left_ms / 1000:.0f} s"


def _offer_text(node: NodeView) -> str:
    if node.leaves_ms:
        return f"leaves {time_text(node.leaves_ms)}"
    return f"until {time_text(node.valid_until_ms)}" if node.offering else "no offer"


def _disk_text(used_bytes: int, size_bytes: int, price: int) -> str:
    if not size_bytes:
        return "-"
    return f"{size_text(used_bytes)} of {size_text(size_bytes)}, {credits_text(price)}/GiB h"


def node_list() -> int:
    """List the nodes and their offers."""
    found = list(current.client().nodes())
    rows = [
        (
            node.key[:10],
            node.farm,
            node.country,
            f"{cpu_text(node.used_cpu_millis)} of {cpu_text(node.cpu_millis)}",
            f"{size_text(node.used_memory_bytes)} of {size_text(node.memory_bytes)}",
            _disk_text(node.used_ssd_bytes, node.ssd_bytes, node.price.ssd_gib_hour),
            _disk_text(node.used_hdd_bytes, node.hdd_bytes, node.price.hdd_gib_hour),
            f"{credits_text(node.price.cpu_core_hour)}/core h",
            node.slots_held,
            f"{node.reputation / 10:.1f} %",
            len(node.certified) or "-",
            node.broken_leases,
            _offer_text(node),
        )
        for node in found
    ]
    columns = (
        "node",
        "farm",
        "country",
        "cpu",
        "memory",
        "ssd",
        "hdd",
        "price",
        "slots",
        "reputation",
        "certified by",
        "broken leases",
        "offer (UTC)",
    )
    emit(found, columns, rows)
    return 0
