"""`gridpact deployment results`: what jobs wrote, fetched by digest from whoever holds it, and opened."""

from __future__ import annotations

from pathlib import Path

from ledger.errors import Refused
from ledger.keys import Key
from ledger.manifests.check import check_name, check_results
from ledger.predicates import ResultFile
from ledger.records import Slot, key_slot
from ledger.results import accepted, results_of
from node.api.models import DeploymentDetail
from node.cli.artifacts import bring
from node.cli.context import EXIT_ERROR, EXIT_REJECTED, EXIT_USAGE, Failure, current
from node.cli.output import clean, emit, say
from node.cli.query import read_proved
from node.client.amounts import size_text
from node.client.sdk import Client


def results(deployment: str, /, *, out: Path, key: str = "") -> int:
    """Fetch the result files of a deployment's jobs, open them and check them against what the ledger proves.

    Parameters
    ----------
    deployment: Its id, or the first 6 or more digits.
    out: Folder to write them to; one folder a slot when there are several.
    key: Name of the consumer's key, which alone opens them (default: found among the account keys).
    """
    client = current.client()
    found = client.deployment(deployment)
    wanted = wanted_results(found)
    if not wanted:
        raise Failure(EXIT_ERROR, f"no job of {found.id[:12]} has ended with results yet")
    _check_released(found)
    reader = _reader(found, key)
    several = len({slot for slot, _, _ in wanted}) > 1
    rows = []
    files = [_place(out, slot, path, several) for slot, path, _ in wanted]
    _check_recorded(client, found.id, wanted)
    for (slot, path, result), file in zip(wanted, files, strict=True):
        say(f"fetching {path} of {slot} ({size_text(result.size_bytes)})")
        data = _fetched(client, slot, path, result, reader)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        rows.append((slot, path, result.size_bytes, result.sha256, str(file)))
    columns = ("slot", "path", "size_bytes", "sha256", "file")
    emit([dict(zip(columns, row, strict=True)) for row in rows], columns, rows)
    return 0


def _place(out: Path, slot: str, path: str, several: bool) -> Path:
    """Where a result is written, never elsewhere: what it is called is a peer's word. Raises Failure(4)."""

    def refuse(field: str, rule: str, detail: str, suggestion: str = "", /) -> None:
        raise Failure(EXIT_REJECTED, f"the peer tells of a result {clean(path)} of {clean(slot)}: {detail}")

    workload, _, number = slot.partition("/")
    check_name(workload, "slot", refuse)
    if not (number.isascii() and number.isdecimal()):
        refuse("slot", "", "a slot is WORKLOAD/NUMBER")
    check_results("job", (path,), "results", refuse)
    return (out / slot.replace("/", "-") if several else out) / path.removeprefix("/result/")


def _check_released(found: DeploymentDetail) -> None:
    """Raises Failure(4) while they are held back."""
    if not found.policies.release.asked or found.timings.released_ms:
        return
    why = "; ".join(found.policies.release.reasons)
    if not found.results:
        why = "never to be released any more" if found.timings.ended_ms else "not all of them are there"
    raise Failure(EXIT_REJECTED, f"the results of {found.id[:12]} are held back: {why}")


def _check_recorded(client: Client, deployment: str, wanted: list[tuple[str, str, ResultFile]]) -> None:
    """Anybody can seal something to the consumer: raises Failure(4) unless the ledger proves that the nodes
    told these digests, and no others."""
    for name in sorted({slot for slot, _, _ in wanted}):
        key = key_slot(bytes.fromhex(deployment), name)
        record = read_proved(client, Slot, key, f"slot {name}", lambda slot: bool(slot.results))
        shown = {path: result.sha256 for slot, path, result in wanted if slot == name}
        if record is not None and record.results != shown:
            raise Failure(EXIT_REJECTED, f"the ledger proves other results of {name} than the peer shows")


def _reader(found: DeploymentDetail, name: str) -> Key:
    """The consumer's key. Raises Failure(2): no other opens them."""
    consumer = bytes.fromhex(found.consumer)
    if not name:
        name = next((mine for mine, public in current.public_keys() if public == consumer), "")
    if not name or current.public(name) != consumer:
        raise Failure(EXIT_USAGE, f"only {found.consumer} opens them: name that account's key with --key")
    return current.key(name)


def _fetched(client: Client, slot: str, path: str, result: ResultFile, reader: Key) -> bytes:
    """The file, checked against the receipt. Raises Failure(4) for other bytes."""
    from node.sealed.sealed_results import open_result

    bring(client, result.sealed, result.sealed_bytes, "", client.timeout_s)
    try:
        return open_result(reader, result, client.read_artifact(result.sealed))
    except Refused as error:
        raise Failure(EXIT_REJECTED, f"{path} of {slot}: {error}") from None


def wanted_results(found: DeploymentDetail) -> list[tuple[str, str, ResultFile]]:
    """Slot, path and file of each result in the receipts of the terms that succeeded; of replicas that agree,
    of these alone."""
    odd: set[str] = set()
    slots = {slot.name: slot for slot in found.slots}
    for workload in found.manifest.workloads:
        mine = accepted(workload, slots) if workload.agree else ()
        if mine:
            names = {name for name in slots if name.partition("/")[0] == workload.name}
            odd |= {name for name in names if results_of(slots[name]) != results_of(mine[0])}
    return [
        (receipt.slot, path, result)
        for receipt in found.receipts
        if receipt.status == "succeeded" and receipt.slot not in odd
        for path, result in sorted(receipt.receipt.results.items())
    ]
