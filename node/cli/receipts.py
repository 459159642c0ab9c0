"""`gridpact deployment receipts`: what nodes signed about a deployment, as files that stock tools check."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ledger.codec import decode
from ledger.documents import Document, open_document
from ledger.errors import Refused
from ledger.limits import RECEIPTS_PER_TERM_MAX
from ledger.predicates import ReceiptPredicate
from ledger.records import ReceiptRecord, key_receipt
from node.api.models import DeploymentDetail
from node.cli.context import EXIT_ERROR, EXIT_REJECTED, Failure, current
from node.cli.output import emit, say
from node.client.sdk import Client


def receipts(deployment: str, /, *, out: Path, slot: str = "") -> int:
    """Write the receipts of a deployment to files, with the commands that check them without us.

    Each is an in-toto statement in a DSSE envelope, signed by the key of the node that held the slot:
    contract, manifest, slot, term, driver and isolation, files, re-checks, exit code and usage.

    Args:
        deployment: Its id, or the first 6 or more digits.
        out: Folder to write them to.
        slot: Of this slot alone, such as web/0.
    """
    from node.client.stock_formats import write_statement

    client = current.client()
    found = client.deployment(deployment)
    if slot and slot not in {each.name for each in found.slots}:
        raise Failure(EXIT_ERROR, f"{found.id[:12]} has no slot {slot}")
    rows, commands = [], []
    for number, envelope in _envelopes(client, found, slot):
        document = _checked(envelope, found.id)
        said = document.predicate
        name = f"{said.slot.replace('/', '-')}-{said.term:03}-{number:03}-{said.status}"
        out.mkdir(parents=True, exist_ok=True)
        commands += write_statement(out, name, envelope)
        (out / f"{name}.dsse").write_bytes(envelope)
        rows.append((name, said.slot, said.term, said.status, said.node))
    if not rows:
        raise Failure(EXIT_ERROR, f"no node has told anything of {slot or found.id[:12]} yet")
    say(f"in {out}, check them with:\n  " + "\n  ".join(commands))
    columns = ("name", "slot", "term", "status", "node")
    emit([dict(zip(columns, row, strict=True)) for row in rows], columns, rows)
    return 0


def _envelopes(client: Client, found: DeploymentDetail, only: str) -> Iterator[tuple[int, bytes]]:
    """Number and envelope of each receipt that the ledger holds, by slot, term and number."""
    id_ = bytes.fromhex(found.id)
    for slot in found.slots:
        for term in range(1, slot.term + 1 if only in ("", slot.name) else 0):
            for number in range(RECEIPTS_PER_TERM_MAX + 1):
                value = client.query(key_receipt(id_, slot.name, term, number), False).value
                if value is None:
                    break
                yield number, decode(ReceiptRecord, value).envelope


def _checked(envelope: bytes, deployment: str) -> Document[ReceiptPredicate]:
    """A receipt of this deployment, signed by the node that it names."""
    try:
        document = open_document(envelope, "receipt")
    except Refused as error:
        raise Failure(EXIT_REJECTED, f"the peer shows a receipt that is none: {error}") from None
    said = document.predicate
    if said.deployment != deployment or said.node != document.signer.hex():
        raise Failure(EXIT_REJECTED, "the peer shows a receipt of another deployment or node")
    return document
