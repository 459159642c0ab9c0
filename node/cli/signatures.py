"""`gridpact deployment signatures`: what stakeholders signed, as files that stock tools check."""

from __future__ import annotations

from pathlib import Path

from ledger.codec import decode
from ledger.documents import open_document
from ledger.records import ApprovalRecord, key_approval
from node.cli.approvals import save_statement
from node.cli.context import EXIT_ERROR, Failure, current
from node.cli.output import emit


def signatures(deployment: str, /, *, out: Path) -> int:
    """Write every standing decision on a deployment to files, with the commands that check them without us.

    Args:
        deployment: Its id, or the first 6 or more digits.
        out: Folder to write them to.
    """
    client = current.client()
    found = client.deployment(deployment)
    if not found.approvals:
        raise Failure(EXIT_ERROR, f"nobody has decided on {found.id[:12]} yet")
    rows = []
    for number, view in enumerate(found.approvals, 1):
        act = "deploy" if view.act == "update" else view.act
        key = key_approval(bytes.fromhex(found.id), act, bytes.fromhex(view.signer), view.update)
        value = client.query(key, False).value
        if value is None:
            raise Failure(EXIT_ERROR, f"the peer no longer holds the decision of {view.signer[:16]}")
        envelope = decode(ApprovalRecord, value).envelope
        open_document(envelope, "approval")
        name = "-".join((f"{number:02}", view.act, view.role or "by-key", view.decision))
        save_statement(out, name, envelope)
        rows.append((name, view.act, view.role, view.decision, view.signer))
    columns = ("name", "act", "role", "decision", "signer")
    emit([dict(zip(columns, row, strict=True)) for row in rows], columns, rows)
    return 0
