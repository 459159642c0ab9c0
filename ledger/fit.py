"""Which node fits which slot, and which of several is the best: rules [C2] to [C6] of
`ledger.transition.claims`. Pure, so that a planner applies the very rules that the ledger selects by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from ledger.errors import Refused
from ledger.manifest import cost, slot_rate
from ledger.manifest_types import Manifest, Workload
from ledger.records import Node
from ledger.transactions import Price

# Weighs needs against each other, about as the market prices them: a core, a GiB of memory, a GiB of disk.
REFERENCE_PRICE: Final = Price(40_000, 10_000, 1_000)

Held = Sequence[tuple[str, Node]]  # slot name and holder, for each held slot of a deployment


def misfits(manifest: Manifest, workload: Workload, node: Node, held: Held, now_ms: int) -> Iterator[Refused]:
    """Every rule of [C2]–[C5] that keeps this node from a slot of this workload; none: it fits."""
    yield from _offer_misfits(workload, node, now_ms)
    needs = workload.resources
    if (
        needs.cpu_millis > node.cpu_millis - node.used_cpu_millis
        or needs.memory_bytes > node.memory_bytes - node.used_memory_bytes
        or needs.disk_bytes > node.disk_bytes - node.used_disk_bytes
    ):
        yield Refused("claim.capacity", "the node has not enough free for this slot")
    distinct = workload.placement.distinct
    if distinct != "none":
        for other, holder in held:
            if other.partition("/")[0] == workload.name and (
                holder.key == node.key or (distinct == "farm" and holder.farm == node.farm)
            ):
                yield Refused("claim.distinct", f"its {distinct} holds {other} already")
                break
    share = slot_share(manifest, workload)
    wanted = term_cost(manifest, slot_rate(workload, node.price))
    if wanted > share:
        yield Refused("claim.price", f"{wanted} for the whole term, the slot's share is {share}")


def _offer_misfits(workload: Workload, node: Node, now_ms: int) -> Iterator[Refused]:
    """[C2]"""
    if node.valid_until_ms <= now_ms:
        yield Refused("claim.offer", "the node has no valid offer")
    if workload.runtime not in node.runtimes:
        yield Refused("claim.runtime", f"the node does not offer {workload.runtime}")
    placement = workload.placement
    if placement.countries and node.country not in placement.countries:
        yield Refused("claim.country", f"{node.country}, wanted {', '.join(placement.countries)}")
    if placement.farms and node.farm not in placement.farms:
        yield Refused("claim.farm", f"{node.farm}, wanted {', '.join(placement.farms)}")


def term_cost(manifest: Manifest, rate_hour: int) -> int:
    """Micro-credits that a slot at this rate costs over the whole term."""
    return cost(rate_hour, 0, manifest.terms.duration_s * 1000)


def slot_share(manifest: Manifest, workload: Workload) -> int:
    """[C5] Micro-credits that one slot of this workload may cost over the whole term."""
    weights = {w.name: slot_rate(w, REFERENCE_PRICE) for w in manifest.workloads}
    total = sum(weights[w.name] * w.replicas for w in manifest.workloads)
    if total == 0:
        return 0
    return (manifest.terms.budget - manifest.terms.fee) * weights[workload.name] // total


def rank(workload: Workload, node: Node, held: Held, tie: bytes) -> tuple[int | bytes, ...]:
    """[C6] Smallest first. `tie`, different for each node, makes it a total order."""
    needs = workload.resources
    return (
        sum(1 for _, holder in held if holder.farm == node.farm),
        sum(1 for _, holder in held if holder.key == node.key),
        slot_rate(workload, node.price),
        node.cpu_millis - node.used_cpu_millis - needs.cpu_millis,
        node.memory_bytes - node.used_memory_bytes - needs.memory_bytes,
        node.disk_bytes - node.used_disk_bytes - needs.disk_bytes,
        tie,
    )
