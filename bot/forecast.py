"""What an order is expected to cost when nothing fails. Pure.

The expected life: all blocks come on time, each slot is claimed with the block that opens it and keeps its
node, what waits for others is claimed as soon as they run, and a job takes exactly its time limit. A job
without a limit is counted to the end of the term, and what waits for it as if it took no time: nobody knows.
`tests/bot/test_plan_is_bill.py` lives such lives on the ledger and compares the bill, to the micro-credit.
"""

from __future__ import annotations

from ledger.limits import CLAIM_WINDOW_MS
from ledger.manifests.types import Manifest, Workload


def held_ms(manifest: Manifest) -> dict[str, tuple[int, int]]:
    """By workload: from when until when its slots are held, in ms since the approval. Both the term's end
    when they are never reached within it."""
    by_name = {workload.name: workload for workload in manifest.workloads}
    term_ms = manifest.terms.duration_s * 1000
    begins: dict[str, int] = {}

    def begin(workload: Workload) -> int:
        if workload.name not in begins:
            others = (by_name[name] for name in workload.depends_on)
            ready = max((begin(o) + o.time_limit_s * 1000 for o in others), default=0)
            begins[workload.name] = min(ready + CLAIM_WINDOW_MS, term_ms)
        return begins[workload.name]

    def end(workload: Workload) -> int:
        limit_ms = workload.time_limit_s * 1000 or term_ms
        return min(begin(workload) + limit_ms, term_ms)

    return {name: (begin(workload), end(workload)) for name, workload in by_name.items()}
