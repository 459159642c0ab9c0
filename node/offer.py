"""The offer that a 3node posts: its settings, and what its driver really enforces here."""

from __future__ import annotations

from typing import Final

from ledger.limits import ADDRESS_CHARS_MAX, ATTRIBUTES_MAX
from ledger.manifests.services import ASKED_FOR
from ledger.text.quantities import parse_cpu, parse_size
from ledger.transactions import PostOffer
from node.config import Node, node_price
from node.executor.drivers.base import Fingerprint

_SWITCHED_OFF: Final = "switched off in the node's settings"
OFFER_VALID_MS: Final = 30 * 86_400_000  # a month; a node that runs posts anew long before


def enforced(settings: Node, fingerprint: Fingerprint) -> dict[str, str]:
    """What this node offers by name: "enforced", or why not, be that its settings.

    Features of other drivers than the embedded one stand under `RUNTIME.`, as contracts ask for them: those
    alone that a contract may ask for, and that are enforced.
    """
    features = {
        feature.name: "enforced" if feature.enforced else feature.how[:200]
        for feature in fingerprint.features[:ATTRIBUTES_MAX]
    }
    if "egress" in features and not settings.egress:
        features["egress"] = _SWITCHED_OFF
    for each in (fingerprint, *fingerprint.beside):
        for feature in each.features if each is not fingerprint and each.usable else ():
            if feature.name in ASKED_FOR and feature.enforced:
                shut = feature.name == "egress" and not settings.egress
                features[f"{each.driver}.{feature.name}"] = _SWITCHED_OFF if shut else "enforced"
    return dict(sorted(features.items()))


def make_offer(settings: Node, fingerprint: Fingerprint, address: str, now_ms: int) -> PostOffer:
    """The offer of a node that is reached at `address` (a multiaddr with /p2p/ID)."""
    return PostOffer(
        cpu_millis=parse_cpu(settings.cpu),
        memory_bytes=parse_size(settings.memory),
        ssd_bytes=parse_size(settings.ssd),
        hdd_bytes=parse_size(settings.hdd),
        price=node_price(settings),
        runtimes=fingerprint.runtimes,
        attributes=enforced(settings, fingerprint),
        address=address[:ADDRESS_CHARS_MAX],
        valid_until_ms=now_ms + OFFER_VALID_MS,
    )
