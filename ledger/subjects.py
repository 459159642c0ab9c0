"""Which deployments and contracts a transaction is about: for the history index, nothing is checked here."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import msgspec

from ledger import transactions as t
from ledger.blocks import Header, decode_batch
from ledger.codec import sha256
from ledger.errors import LocalError
from ledger.outcome import BlockResult
from ledger.stored import CommitData, TxEntry
from ledger.transactions import CheckedTx


class _Payload(msgspec.Struct):
    payload: str


class _About(msgspec.Struct):
    deployment: str


class _Statement(msgspec.Struct):
    predicate: _About


def _payload(envelope: bytes) -> bytes:
    return base64.b64decode(msgspec.json.decode(envelope, type=_Payload).payload)


def about(tx: CheckedTx) -> tuple[bytes, ...]:
    """Ids (32 bytes) of deployments, or of the published contract, that an *accepted* transaction concerns."""
    body = tx.tx.body
    if isinstance(body, t.OrderDeployment):
        return (tx.id,)
    if isinstance(body, t.Claim | t.CancelDeployment):
        return (body.deployment,)
    if isinstance(body, t.Renew):
        return tuple(dict.fromkeys(item.deployment for item in body.items if len(item.deployment) == 32))
    if isinstance(body, t.PublishContract):
        return (sha256(_payload(body.envelope)),)
    if isinstance(body, t.Decide | t.Report):
        statement = msgspec.json.decode(_payload(body.envelope), type=_Statement)
        return (bytes.fromhex(statement.predicate.deployment),)
    return ()


def commit_data(
    header: Header,
    batches: Sequence[bytes],
    certificate: bytes | None,
    txs: Sequence[CheckedTx],
    result: BlockResult,
) -> CommitData:
    """What the store commits for an executed block. `batches` in the header's order, `txs` as given to
    `machine.execute`. Raises LocalError when the result is not one of these transactions."""
    places: dict[bytes, tuple[int, int]] = {}
    for position, batch in enumerate(batches):
        for index, raw in enumerate(decode_batch(batch).txs):
            places.setdefault(raw, (position, index))
    executed = iter(txs)
    entries = []
    for receipt in result.receipts:
        tx = next((tx for tx in executed if tx.id == receipt.id), None)
        if tx is None or tx.raw not in places:
            raise LocalError(
                f"height {header.height}: a receipt of {receipt.id.hex()}, which is not in the block"
            )
        entries.append(TxEntry(tx.id, *places[tx.raw], about(tx) if receipt.ok else ()))
    return CommitData(
        header, tuple(batches), certificate, tuple(entries), result.receipts, result.events, result.changes
    )
