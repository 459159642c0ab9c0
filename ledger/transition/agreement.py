"""Jobs whose replicas must agree (terms of a workload: `agree`).

[R8] A job with `agree: k` is done when k of its replicas succeeded with the same results: the others are
     released and billed to then. When all succeeded and no k of them agree, the deployment has failed. A
     replica with other results than the ones that won is told by an event.
"""

from __future__ import annotations

from collections import Counter

from ledger.manifest_types import Workload
from ledger.transition.deal import Deal, replicas
from ledger.transition.lifecycle import end
from ledger.transition.slots import release_slot


def settle_agreement(deal: Deal, workload: Workload) -> None:
    """[R8] After a replica has succeeded."""
    names = replicas(workload)
    done = [slot for slot in map(deal.slot, names) if slot.status == "succeeded"]
    counts = Counter(tuple(sorted(slot.results.items())) for slot in done)
    results, most = counts.most_common(1)[0]
    if most >= workload.agree:
        for slot in done:
            if tuple(sorted(slot.results.items())) != results:
                deal.emit("slot.disagrees", slot=slot.name, term=slot.term)
        for name in names:
            if deal.slot(name).status != "succeeded":
                release_slot(deal, name)
    elif len(done) == len(names):
        end(deal, "failed", f"{workload.name}: at most {most} of {len(names)} agree, {workload.agree} wanted")
