"""From an executed block to what the store commits: places of transactions, and whose history they are in."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.blocks import Header, decode_batch
from ledger.errors import LocalError
from ledger.outcome import BlockResult, Receipt
from ledger.storage.stored import CommitData, TxEntry
from ledger.transactions import ActOrganisation, CheckedTx, PublishContract, Renew


def about(tx: CheckedTx, receipt: Receipt) -> tuple[bytes, ...]:
    """Ids of the deployments, or of the published contract, or of the organisation, whose history the
    transaction is part of.

    A refused one is in nobody's history, or strangers could fill it; its id still finds its receipt. Nor is
    a renewal: 8,640 a day and node would hide all else, and what they came to stands in bills and receipts.
    """
    if not receipt.ok or isinstance(tx.tx.body, Renew):
        return ()
    if isinstance(tx.tx.body, PublishContract | ActOrganisation):
        return (bytes.fromhex(receipt.events[0].subject),)
    return receipt.deployments


def commit_data(
    header: Header,
    batches: Sequence[bytes],
    certificate: bytes | None,
    txs: Sequence[CheckedTx],
    result: BlockResult,
    path: tuple[bytes, ...] = (),
) -> CommitData:
    """What the store commits for an executed block. `batches` in the header's order, `txs` as given to
    `machine.execute`, `path` of a boundary alone. Raises LocalError when a receipt is not of one of these
    transactions."""
    places: dict[bytes, tuple[int, int]] = {}
    for position, batch in enumerate(batches):
        for index, raw in enumerate(decode_batch(batch).txs):
            places.setdefault(raw, (position, index))
    executed = iter(txs)
    entries = []
    for receipt in result.receipts:
        tx = next((tx for tx in executed if tx.id == receipt.id), None)
        if tx is None or tx.raw not in places:
            raise LocalError(f"height {header.height}: receipt {receipt.id.hex()} is of no transaction in it")
        entries.append(TxEntry(tx.id, *places[tx.raw], about(tx, receipt)))
    return CommitData(
        header,
        tuple(batches),
        certificate,
        tuple(entries),
        result.receipts,
        result.events,
        result.changes,
        path,
    )
