"""Which node fits which slot, and which of several is the best: rules [C2] to [C6] and [C8] to [C10] of
`ledger.transition.claims`. Pure, so that a planner applies the very rules that the ledger selects by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from ledger.errors import Refused
from ledger.manifests.expansion import cost, slot_rate
from ledger.manifests.services import features_needed
from ledger.manifests.types import CAPACITY, Manifest, Needs, Workload
from ledger.records import Node
from ledger.transactions import Price

# Weighs needs against each other, about as the market prices them: a core, a GiB of memory, SSD, hard disk.
REFERENCE_PRICE: Final = Price(40_000, 10_000, 1_000, 250)

Held = Sequence[tuple[str, Node]]  # slot name and holder, for each held slot of a deployment
Farms = Mapping[str, Mapping[str, int]]  # by farm, who stands for it until when (`Farm.certified`)
NO_FARMS: Final[Farms] = {}


def misfits(
    manifest: Manifest, workload: Workload, node: Node, held: Held, now_ms: int, farms: Farms = NO_FARMS
) -> Iterator[Refused]:
    """Every rule of [C2]–[C5], [C9] and [C10] that keeps this node from such a slot; none: it fits. `farms`:
    at least the node's own, where a workload asks who stands for it."""
    yield from _offer_misfits(workload, node, now_ms)
    yield from _farm_misfits(workload, node, now_ms, farms)
    if short := short_of(node, workload.needs):
        yield Refused("claim.capacity", f"the node has not enough free for this slot: {', '.join(short)}")
    yield from _place_misfits(manifest, workload, node, held)
    yield from _price_misfits(manifest, node)
    share = slot_share(manifest, workload)
    wanted = term_cost(manifest, slot_rate(workload, node.price))
    if wanted > share:
        yield Refused("claim.price", f"{wanted} for the whole term, the slot's share is {share}")


def bound(node: Node, needs: Needs, sign: int = 1) -> Node:
    """The node with so much more of its capacity bound by a slot (`sign` -1: given back)."""
    used = {f"used_{name}": getattr(node, f"used_{name}") + sign * getattr(needs, name) for name in CAPACITY}
    return msgspec.structs.replace(node, **used)


def left_over(node: Node, needs: Needs) -> Needs:
    """What the node would have free beside a slot with these needs; below 0 where they do not fit."""
    left = (getattr(node, name) - getattr(node, f"used_{name}") - getattr(needs, name) for name in CAPACITY)
    return Needs(**dict(zip(CAPACITY, left, strict=True)))


def short_of(node: Node, needs: Needs) -> list[str]:
    """Names of what a node has not enough free of for a slot with these needs."""
    left = left_over(node, needs)
    return [name for name in CAPACITY if getattr(left, name) < 0]


def neighbours(manifest: Manifest, workload: Workload) -> frozenset[str]:
    """Workloads whose slots matter to where a slot of this one may stand, itself among them."""
    apart = workload.placement.apart
    names = {workload.name, *(apart.workloads if apart is not None else ())}
    for other in manifest.workloads:
        if other.placement.apart is not None and workload.name in other.placement.apart.workloads:
            names.add(other.name)
    return frozenset(names)


def waits_for(manifest: Manifest, workload: Workload, statuses: Mapping[str, str]) -> str:
    """[C8] The first slot that must run (a job's: have succeeded) before a slot of this workload is given
    out; "" when there is none. `statuses`: of all slots, by name."""
    for other in manifest.workloads:
        if other.name not in workload.depends_on:
            continue
        wanted = "succeeded" if other.kind == "job" else "running"
        names = [f"{other.name}/{index}" for index in range(other.replicas)]
        late = [name for name in names if statuses.get(name) != wanted]
        # Once enough replicas of a job agree, the others are released or have failed, and never run.
        agreed = 0 < other.agree <= len(names) - len(late)
        if late and not (agreed and all(statuses.get(name) in ("released", "failed") for name in late)):
            return late[0]
    return ""


def _shares(one: Node, other: Node, level: str) -> bool:
    if level == "country":
        return one.country == other.country
    return one.farm == other.farm if level == "farm" else one.key == other.key


def _place_misfits(manifest: Manifest, workload: Workload, node: Node, held: Held) -> Iterator[Refused]:
    """[C4]"""
    place = workload.placement
    own = [(name, holder) for name, holder in held if name.partition("/")[0] == workload.name]
    if place.distinct != "none":
        # A farm is in one place, but a node's country is its own: what is apart by country is so by node.
        levels = {place.distinct, "node"}
        for name, holder in own:
            if any(_shares(holder, node, level) for level in levels):
                yield Refused("claim.distinct", f"its {place.distinct} holds {name} already")
                break
    if place.spread is not None:
        there = sum(1 for _, holder in own if _shares(holder, node, place.spread.by))
        if there >= place.spread.most:
            yield Refused("claim.spread", f"its {place.spread.by} holds {there} already")
    farms = {holder.farm for _, holder in own}
    left = workload.replicas - len(own) - 1
    if len(farms | {node.farm}) + left < place.min_farms:
        yield Refused("claim.min_farms", f"another farm wanted: {len(farms)} of {place.min_farms}")
    beside = {w.name: w for w in manifest.workloads if w.name in neighbours(manifest, workload)}
    for name, holder in held:
        other = beside.get(name.partition("/")[0])
        for one, two in ((workload, other), (other, workload)):
            apart = one.placement.apart if one is not None else None
            if apart is None or two is None or two.name not in apart.workloads:
                continue
            if _shares(holder, node, apart.by):
                yield Refused("claim.apart", f"its {apart.by} holds {name}")
                return


def _price_misfits(manifest: Manifest, node: Node) -> Iterator[Refused]:
    """[C9]"""
    for name in node.price.__struct_fields__:
        cap, asked = getattr(manifest.terms.price, name), getattr(node.price, name)
        if cap is not None and asked > cap:
            yield Refused("claim.price_cap", f"{name} {asked}, at most {cap}")


def _offer_misfits(workload: Workload, node: Node, now_ms: int) -> Iterator[Refused]:
    """[C2] [C10]"""
    if node.valid_until_ms <= now_ms:
        yield Refused("claim.offer", "the node has no valid offer")
    if workload.runtime not in node.runtimes:
        yield Refused("claim.runtime", f"the node does not offer {workload.runtime}")
    placement = workload.placement
    if placement.countries and node.country not in placement.countries:
        yield Refused("claim.country", f"{node.country}, wanted {', '.join(placement.countries)}")
    if placement.farms and node.farm not in placement.farms:
        yield Refused("claim.farm", f"{node.farm}, wanted {', '.join(placement.farms)}")
    if placement.certified_by and certifiers_of(node, now_ms).isdisjoint(placement.certified_by):
        wanted = ", ".join(key[:10] for key in placement.certified_by)
        yield Refused("claim.certified", f"certified by {wanted} wanted")
    for name, value in placement.attributes.items():
        found = node.attributes.get(name)
        if found != value:
            shown = "nothing" if found is None else repr(found[:80])
            yield Refused("claim.attribute", f"{name} {value!r} wanted, found {shown}")
    for feature in features_needed(workload):
        if node.attributes.get(feature) != "enforced":
            yield Refused("claim.feature", f"the workload needs {feature}, which the node does not enforce")


def _farm_misfits(workload: Workload, node: Node, now_ms: int, farms: Farms) -> Iterator[Refused]:
    """[C2] [F5]"""
    wanted = workload.placement.farm_certified_by
    standing = {key for key, until_ms in farms.get(node.farm, {}).items() if until_ms > now_ms}
    if wanted and standing.isdisjoint(wanted):
        by = ", ".join(key[:10] for key in wanted)
        yield Refused("claim.farm_certified", f"farm {node.farm}: certified by {by} wanted")


def certifiers_of(node: Node, now_ms: int) -> frozenset[str]:
    """[F5] Hex keys of those who stand for a node now."""
    return frozenset(key for key, until_ms in node.certified.items() if until_ms > now_ms)


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
    return (
        sum(1 for _, holder in held if holder.farm == node.farm),
        sum(1 for _, holder in held if holder.key == node.key),
        slot_rate(workload, node.price),
        *msgspec.structs.astuple(left_over(node, workload.needs)),
        tie,
    )
