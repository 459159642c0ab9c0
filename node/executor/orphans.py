"""Terms that an earlier run of this node won: nothing of them runs, and they are given back (rule 7)."""

from __future__ import annotations

from typing import Any, Final

from ledger.documents import open_document
from ledger.manifests.types import Workload
from ledger.records import Deployment, ReceiptRecord, Slot, key_receipt, key_slot
from ledger.state import Reader, read
from node.executor.reporter import Reporter
from node.executor.workshop import Workshop

_TOLD_AGAIN: Final = ("artifacts", "checks", "usage")


def orphan_reporter(shop: Workshop, record: Deployment, workload: Workload, slot: Slot) -> Reporter:
    """A reporter that says so, while the ledger still names this node as the term's holder. What the earlier
    run had verified, checked and used by then is told again ([R9])."""
    state, me = shop.peer.state, shop.sender.key.public

    def held() -> bool:
        found = read(shop.peer.state, Slot, key_slot(slot.deployment, slot.name))
        return found is not None and (found.holder, found.term) == (me, slot.term)

    facts = shop.facts(record, workload, slot.name, slot.term)
    reporter = Reporter(shop.sender, record.manifest, facts, shop.wall_ms, held)
    reporter.tell(
        "released", detail="the node was restarted; nothing of this term runs", **_last_told(state, slot)
    )
    return reporter


def _last_told(state: Reader, slot: Slot) -> dict[str, Any]:
    """From the newest receipt of the term; nothing where there is none."""
    if not slot.receipts:
        return {}
    key = key_receipt(slot.deployment, slot.name, slot.term, slot.receipts - 1)
    record = read(state, ReceiptRecord, key)
    if record is None:
        return {}
    said = open_document(record.envelope, "receipt").predicate
    return {name: getattr(said, name) for name in _TOLD_AGAIN}
