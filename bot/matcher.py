"""Where slots would go as the market stands: the ledger's own filters and order, tried out. Pure.

A slot is really given to the best of those who claim it, so a plan names the likely node, no promise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from ledger.fit import NO_FARMS, Farms, bound, misfits, rank, short_of, term_cost
from ledger.manifests.expansion import slot_rate, slots, workload_of
from ledger.manifests.types import Manifest, Workload
from ledger.records import Node


class Match(Struct, frozen=True):
    """A slot and its likely node. `rate_hour` and `cost` (for the whole term) in micro-credits."""

    slot: str
    node: Node
    rate_hour: int
    cost: int


class Misfit(Struct, frozen=True):
    """A node that can't take any slot of a workload; `reasons`: each rule with what was found."""

    node: Node
    workload: str
    reasons: tuple[str, ...]


class Candidate(Struct, frozen=True):
    """A node that can take a slot of a workload, at `rate_hour` micro-credits."""

    node: Node
    workload: str
    rate_hour: int


class Unplaced(Struct, frozen=True):
    """A slot without a node; `reasons`: "3 nodes: claim.country" for each rule, most frequent first; that of
    capacity with what is short, "2 nodes: claim.capacity: hdd_bytes"."""

    slot: str
    reasons: tuple[str, ...]


class Matching(Struct, frozen=True):
    """Every slot is in `matches` or in `unplaced`, in the manifest's order; each node is, for each workload,
    in `candidates`, the likeliest first, or in `misfits`."""

    matches: tuple[Match, ...]
    unplaced: tuple[Unplaced, ...]
    misfits: tuple[Misfit, ...]
    candidates: tuple[Candidate, ...]


def match(manifest: Manifest, nodes: Iterable[Node], now_ms: int, farms: Farms = NO_FARMS) -> Matching:
    """Give each slot of a new deployment the node that the ledger would rank first, one after the other."""
    market = {node.key: node for node in sorted(nodes, key=lambda node: node.key)}
    fitting: dict[str, list[bytes]] = {}
    unfit: list[Misfit] = []
    able: list[Candidate] = []
    for workload in manifest.workloads:
        fitting[workload.name] = []
        for node in market.values():
            reasons = tuple(str(misfit) for misfit in misfits(manifest, workload, node, (), now_ms, farms))
            if reasons:
                unfit.append(Misfit(node, workload.name, reasons))
            else:
                fitting[workload.name].append(node.key)
        ranked = sorted(fitting[workload.name], key=lambda key: rank(workload, market[key], (), key))
        for key in ranked:
            able.append(Candidate(market[key], workload.name, slot_rate(workload, market[key].price)))
    matches: list[Match] = []
    unplaced: list[Unplaced] = []
    held: list[tuple[str, Node]] = []
    for slot in slots(manifest):
        workload = workload_of(manifest, slot)
        candidates = [market[key] for key in fitting[workload.name]]
        best = best_node(manifest, workload, candidates, held, now_ms, farms)
        if best is None:
            why = why_none(manifest, workload, market.values(), held, now_ms, farms)
            unplaced.append(Unplaced(slot, why))
            continue
        rate = slot_rate(workload, best.price)
        matches.append(Match(slot, best, rate, term_cost(manifest, rate)))
        market[best.key] = bound(best, workload.needs)
        held.append((slot, best))
    return Matching(tuple(matches), tuple(unplaced), tuple(unfit), tuple(able))


def best_node(
    manifest: Manifest,
    workload: Workload,
    nodes: Iterable[Node],
    held: Sequence[tuple[str, Node]],
    now_ms: int,
    farms: Farms = NO_FARMS,
) -> Node | None:
    """The node that would get a slot if all that fit claimed it now; None when none fits."""
    fit = [n for n in nodes if next(misfits(manifest, workload, n, held, now_ms, farms), None) is None]
    return min(fit, key=lambda node: rank(workload, node, held, node.key), default=None)


def why_none(
    manifest: Manifest,
    workload: Workload,
    nodes: Iterable[Node],
    held: Sequence[tuple[str, Node]],
    now_ms: int,
    farms: Farms = NO_FARMS,
) -> tuple[str, ...]:
    """What keeps nodes from a slot, counted by rule, and by what is short; ("no node offers capacity",) for
    an empty market."""
    counts: dict[str, int] = {}
    for node in nodes:
        for misfit in misfits(manifest, workload, node, held, now_ms, farms):
            what = misfit.rule
            if what == "claim.capacity":
                what += f": {', '.join(short_of(node, workload.needs))}"
            counts[what] = counts.get(what, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    told = tuple(f"{count} node{'s' if count > 1 else ''}: {what}" for what, count in ordered)
    return told or ("no node offers capacity",)
