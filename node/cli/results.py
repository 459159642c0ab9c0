"""`gridpact deployment results`: what a deployment's jobs wrote, fetched by digest from whoever holds it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ledger.predicates import ResultFile
from node.amounts import size_text
from node.api.models import DeploymentDetail
from node.cli.artifacts import bring
from node.cli.context import EXIT_ERROR, EXIT_REJECTED, Failure, current
from node.cli.output import emit, say


def results(deployment: str, /, *, out: Path) -> int:
    """Fetch the result files of a deployment's jobs and check them against the signed receipts.

    Parameters
    ----------
    deployment: Its id, or the first 6 or more digits.
    out: Folder to write them to; one folder a slot when there are several.
    """
    client = current.client()
    found = client.deployment(deployment)
    wanted = wanted_results(found)
    if not wanted:
        raise Failure(EXIT_ERROR, f"no job of {found.id[:12]} has ended with results yet")
    several = len({slot for slot, _, _ in wanted}) > 1
    rows = []
    for slot, path, result in wanted:
        say(f"fetching {path} of {slot} ({size_text(result.size_bytes)})")
        bring(client, result.sha256, result.size_bytes, "", client.timeout_s)
        data = client.read_artifact(result.sha256)
        if hashlib.sha256(data).hexdigest() != result.sha256:
            raise Failure(EXIT_REJECTED, f"{path} of {slot}: the peer's bytes are not those of the receipt")
        folder = out / slot.replace("/", "-") if several else out
        file = folder / path.removeprefix("/result/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        rows.append((slot, path, result.size_bytes, result.sha256, str(file)))
    columns = ("slot", "path", "size_bytes", "sha256", "file")
    emit([dict(zip(columns, row, strict=True)) for row in rows], columns, rows)
    return 0


def wanted_results(found: DeploymentDetail) -> list[tuple[str, str, ResultFile]]:
    """Slot, path and file of each result in the receipts of the terms that succeeded."""
    return [
        (receipt.slot, path, result)
        for receipt in found.receipts
        if receipt.status == "succeeded"
        for path, result in sorted(receipt.receipt.results.items())
    ]
