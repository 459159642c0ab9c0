"""`gridpact deployment results`: what jobs wrote, fetched by digest from whoever holds it, and opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

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
from node.client.sdk import ApiError, Client


class Told(NamedTuple):
    """One result, as the receipt of a term that succeeded tells of it."""

    slot: str
    term: int
    path: str
    result: ResultFile


def results(deployment: str, /, *, out: Path, key: str = "") -> int:
    """Fetch the result files of a deployment's jobs, open them and check them against what the ledger proves.
    Of replicas that agree one is enough: the next is asked where one's box is bad or nobody has it.

    Args:
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
    groups = _same(found, wanted)
    several = len({group[0].slot for group in groups}) > 1
    places = [[_place(out, told.slot, told.path, several) for told in group] for group in groups]
    _check_recorded(client, found.id, wanted)
    rows: list[tuple[object, ...]] = []
    lost: list[Failure] = []
    for group, (file, *_) in zip(groups, places, strict=True):
        try:
            told, data = _first_good(client, group, reader)
        except Failure as error:
            lost.append(error)
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        rows.append((told.slot, told.path, told.result.size_bytes, told.result.sha256, str(file)))
    columns = ("slot", "path", "size_bytes", "sha256", "file")
    if rows:
        emit([dict(zip(columns, row, strict=True)) for row in rows], columns, rows)
    if lost:
        raise Failure(lost[0].code, "; ".join(map(str, lost)))
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


def _check_recorded(client: Client, deployment: str, wanted: Sequence[Told]) -> None:
    """Anybody can seal something to the consumer: raises Failure(4) unless the ledger proves that the nodes
    told these digests, and no others."""
    for name in sorted({told.slot for told in wanted}):
        key = key_slot(bytes.fromhex(deployment), name)
        record = read_proved(client, Slot, key, f"slot {name}", lambda slot: bool(slot.results))
        shown = {told.path: told.result.sha256 for told in wanted if told.slot == name}
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


def _same(found: DeploymentDetail, wanted: Sequence[Told]) -> list[list[Told]]:
    """Those that are one and the same file together, so that one of them is enough: what replicas that agree
    told of it."""
    agree = {workload.name for workload in found.manifest.workloads if workload.agree}
    groups: dict[tuple[str, str, str], list[Told]] = {}
    for told in wanted:
        workload = told.slot.partition("/")[0]
        owner = workload if workload in agree else told.slot
        groups.setdefault((owner, told.path, told.result.sha256), []).append(told)
    return list(groups.values())


def _first_good(client: Client, group: Sequence[Told], reader: Key) -> tuple[Told, bytes]:
    """The file from the first whose box holds it, and who that was; the others' faults are told. Raises
    Failure when there is none."""
    for told in group:
        say(f"fetching {told.path} of {told.slot} ({size_text(told.result.size_bytes)})")
        try:
            return told, _opened(client, told.result, reader)
        except (ApiError, Refused) as error:
            code = error.exit_code if isinstance(error, ApiError) else EXIT_REJECTED
            fault = f"{told.path} by the receipt of {told.slot}, term {told.term}: {error}"
            if len(group) > 1:
                say(f"not good: {fault}")
    if len(group) > 1:
        fault = f"none of {len(group)} receipts leads to {group[0].path}; the last: {fault}"
    raise Failure(code, fault)


def _opened(client: Client, result: ResultFile, reader: Key) -> bytes:
    """The file, checked against the receipt. Raises Refused for other bytes, ApiError where nobody has it."""
    from node.sealed.sealed_results import open_result

    bring(client, result.sealed, result.sealed_bytes, "", client.timeout_s)
    return open_result(reader, result, client.read_artifact(result.sealed))


def wanted_results(found: DeploymentDetail) -> list[Told]:
    """Each result in the receipts of the terms that succeeded; of replicas that agree, of these alone."""
    odd: set[str] = set()
    slots = {slot.name: slot for slot in found.slots}
    for workload in found.manifest.workloads:
        mine = accepted(workload, slots) if workload.agree else ()
        if mine:
            names = {name for name in slots if name.partition("/")[0] == workload.name}
            odd |= {name for name in names if results_of(slots[name]) != results_of(mine[0])}
    return [
        Told(receipt.slot, receipt.term, path, result)
        for receipt in found.receipts
        if receipt.status == "succeeded" and receipt.slot not in odd
        for path, result in sorted(receipt.receipt.results.items())
    ]
