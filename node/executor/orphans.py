"""Terms that an earlier run of this node won: nothing of them runs, and they are given back (rule 7)."""

from __future__ import annotations

from collections.abc import Callable

from ledger.manifest import decode_manifest, workload_of
from ledger.records import Deployment, Slot, key_manifest, key_slot
from ledger.state import Reader, read
from node.executor.reporter import Reporter
from node.executor.sender import Sender


def _runtime(state: Reader, record: Deployment, slot: Slot) -> str:
    data = state.get(key_manifest(record.manifest))
    return workload_of(decode_manifest(data), slot.name).runtime if data is not None else ""


def orphan_reporter(sender: Sender, wall_ms: Callable[[], int], record: Deployment, slot: Slot) -> Reporter:
    """A reporter that says so, while the ledger still names this node as the term's holder."""
    peer, me = sender.peer, sender.key.public

    def held() -> bool:
        found = read(peer.state, Slot, key_slot(slot.deployment, slot.name))
        return found is not None and (found.holder, found.term) == (me, slot.term)

    facts = {
        "chain_id": peer.chain_id,
        "deployment": record.id.hex(),
        "contract": record.contract.hex(),
        "slot": slot.name,
        "term": slot.term,
        "node": me.hex(),
        "driver": _runtime(peer.state, record, slot),
    }
    reporter = Reporter(sender, record.manifest, facts, wall_ms, held)
    reporter.tell("released", detail="the node was restarted; nothing of this term runs")
    return reporter
