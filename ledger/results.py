"""What the jobs of a deployment left behind, as one digest: what a release is signed for.

[Y5] The digest covers every result of every job of the manifest in force: of a job whose replicas must agree,
     those of the replicas that do; of any other, those of all replicas. There is none before all are there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Protocol, TypeVar

from ledger.codec import encode
from ledger.keys import hash_tagged
from ledger.manifests.types import Manifest, Workload


class Ended(Protocol):
    """What a slot's record, and a view of it, have in common here."""

    @property
    def name(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def term(self) -> int: ...
    @property
    def results(self) -> dict[str, str]: ...


S = TypeVar("S", bound=Ended)
Results = tuple[tuple[str, str], ...]
"""Of one slot: path and sha256 (hex) of each result, by path."""


def results_of(slot: Ended) -> Results:
    """What the slot's newest term left behind."""
    return tuple(sorted(slot.results.items()))


def agreeing(workload: Workload, slots: Mapping[str, S]) -> tuple[S, ...]:
    """The replicas of a job with `agree` that succeeded with the same results, once they are enough; else
    none. `slots`: by name; those of other workloads are passed over."""
    done = [slot for slot in _replicas(workload, slots) if slot.status == "succeeded"]
    counts = Counter(results_of(slot) for slot in done)
    if not workload.agree or not counts:
        return ()
    results, most = counts.most_common(1)[0]
    return tuple(slot for slot in done if results_of(slot) == results) if most >= workload.agree else ()


def accepted(workload: Workload, slots: Mapping[str, S]) -> tuple[S, ...]:
    """[Y5] The replicas of a job whose results count, once nothing is missing; else none."""
    if workload.agree:
        return agreeing(workload, slots)
    found = tuple(_replicas(workload, slots))
    return found if all(slot.status == "succeeded" for slot in found) else ()


def results_digest(deployment: bytes, digest: bytes, manifest: Manifest, slots: Mapping[str, S]) -> bytes:
    """[Y5] 32 bytes; empty while results are missing. `digest`: of the manifest."""
    found = []
    for workload in manifest.workloads:
        if workload.kind == "job" and workload.results:
            mine = accepted(workload, slots)
            if not mine:
                return b""
            found += [(slot.name, slot.term, results_of(slot)) for slot in mine]
    return hash_tagged("results/1", encode((deployment, digest, found))) if found else b""


def _replicas(workload: Workload, slots: Mapping[str, S]) -> Iterator[S]:
    names = (f"{workload.name}/{index}" for index in range(workload.replicas))
    return (slots[name] for name in names if name in slots)
