"""What jobs leave behind, sealed to the consumer; and what this node holds back until its release.

Sealed results go to the artifact store, which serves whoever asks. Those of a contract with a release policy
lie apart from it until then: a folder for each deployment, a file for each result, named by slot, term and
digest. At each block the node looks whether the ledger says that results
were released; proves it itself, from the signed decisions (`node.executor.verify_release`); and only then
moves them into the store, from where they are fetched by digest as any other. What can never be released
goes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
import trio

from ledger.manifests.expansion import decode_manifest, workload_of
from ledger.predicates import ResultFile
from ledger.records import Deployment, Slot, key_deployment, key_manifest, key_slot
from ledger.state import read
from ledger.transition.deal import ENDED
from node.errors import ArtifactError
from node.executor.drivers.base import Handle
from node.executor.errors import ExecutorError, ResultRefused
from node.executor.limits import HELD_BYTES_MAX, HELD_LOOK_S
from node.executor.reveals import Teller
from node.sealed.sealed_results import salt_for, seal_result

if TYPE_CHECKING:
    from node.executor.workshop import Workshop

log = structlog.get_logger("executor")

_ID_CHARS: Final = 64


@dataclass(frozen=True, slots=True)
class HeldFile:
    """One sealed result on disk."""

    slot: str
    term: int
    sha256: str
    path: Path


class HeldResults:
    """The folder. Blocking; calls may come from several threads, each about files of its own."""

    def __init__(self, folder: Path, size_bytes_max: int = HELD_BYTES_MAX) -> None:
        self._folder = folder
        self.size_bytes_max = size_bytes_max

    def keep(self, deployment: bytes, slot: str, term: int, sha256: str, box: bytes) -> None:
        """On disk, synced, under its name only when it is whole. Raises ResultRefused when there is no room,
        OSError."""
        if self.used_bytes() + len(box) > self.size_bytes_max:
            raise ResultRefused(slot, f"{self.size_bytes_max} bytes of results are held back here already")
        folder = self._folder / deployment.hex()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{slot.replace('/', '.')}.{term}.{sha256}"
        part = folder / f".{name}.part"
        with part.open("wb") as file:
            file.write(box)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, folder / name)
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(at)
        finally:
            os.close(at)

    def deployments(self) -> list[bytes]:
        """Whose results are held."""
        if not self._folder.is_dir():
            return []
        names = [path.name for path in self._folder.iterdir() if len(path.name) == _ID_CHARS]
        return sorted(bytes.fromhex(name) for name in names)

    def files(self, deployment: bytes) -> list[HeldFile]:
        """What is held of a deployment."""
        found = []
        for path in sorted((self._folder / deployment.hex()).glob("[!.]*")):
            workload, index, term, sha256 = path.name.split(".")
            found.append(HeldFile(f"{workload}/{index}", int(term), sha256, path))
        return found

    def used_bytes(self) -> int:
        """Bytes of all that is held."""
        return sum(path.stat().st_size for path in self._folder.glob("*/*"))

    def drop(self, deployment: bytes) -> None:
        """Remove what is left of a deployment's."""
        shutil.rmtree(self._folder / deployment.hex(), ignore_errors=True)


async def collect_results(
    shop: Workshop, handle: Handle, slot: tuple[bytes, str], term: int, digest: bytes
) -> dict[str, ResultFile]:
    """What a job left behind, sealed to the consumer: in the artifact store, from where others fetch it by
    digest; or held back, if the manifest of this `digest`, which the term is of, has it so. Raises
    ExecutorError, ArtifactError, Refused("seal.key"), OSError."""
    data = shop.peer.state.get(key_manifest(digest))
    if data is None:
        raise ExecutorError(f"the state holds no manifest {digest.hex()}")
    manifest = decode_manifest(data)
    workload, consumer = workload_of(manifest, slot[1]), bytes.fromhex(manifest.consumer)
    found: dict[str, ResultFile] = {}
    for file in await shop.driver.collect(handle):
        salt = salt_for(slot[0], workload, file.path)
        told, box = await trio.to_thread.run_sync(seal_result, consumer, salt, file.data)
        if manifest.policies.release is None:
            await trio.to_thread.run_sync(shop.exchange.store.add_bytes, box, "result")
        else:
            await trio.to_thread.run_sync(shop.held.keep, *slot, term, told.sealed, box)
        found[file.path] = told
    return found


async def release_results(shop: Workshop) -> None:
    """Until cancelled: tell what replicas committed to, hand over to the store what was released, remove what
    never will be."""
    async with trio.open_nursery() as nursery:
        await _each_block(shop, Teller(shop, nursery))


async def _each_block(shop: Workshop, teller: Teller) -> None:
    height = -1
    refused: dict[bytes, str] = {}  # told once, until it changes
    while True:
        height = await shop.peer.next_block(height)
        await teller.look()
        for deployment in await trio.to_thread.run_sync(shop.held.deployments):
            record = read(shop.peer.state, Deployment, key_deployment(deployment))
            if record is None:
                continue  # this peer may be behind
            if record.released_ms:
                await _hand_over(shop, record, refused)
            elif record.status in ENDED and not record.results:
                await trio.to_thread.run_sync(shop.held.drop, deployment)
                log.info("results_never_released", deployment=deployment.hex()[:16], status=record.status)
            else:
                await trio.to_thread.run_sync(_drop_stale, shop, record)
        await trio.sleep(HELD_LOOK_S)


async def _hand_over(shop: Workshop, record: Deployment, refused: dict[bytes, str]) -> None:
    short = record.id.hex()[:16]
    verdict = shop.prove_release(record.id)
    if not verdict.ok:
        reason = "; ".join(verdict.reasons)
        if refused.get(record.id) != reason:
            refused[record.id] = reason
            log.warning("release_not_proved", deployment=short, reason=reason)
        return
    refused.pop(record.id, None)
    try:
        await trio.to_thread.run_sync(_move, shop, shop.held.files(record.id))
    except (ArtifactError, OSError) as error:
        log.error("release_failed", deployment=short, error=str(error))
        return
    await trio.to_thread.run_sync(shop.held.drop, record.id)
    log.info("results_released", deployment=short)


def _move(shop: Workshop, files: Iterable[HeldFile]) -> None:
    for file in files:
        with file.path.open("rb") as data:
            shop.exchange.store.add_stream(iter(lambda: data.read(1 << 20), b""), file.sha256, "result")


def _drop_stale(shop: Workshop, record: Deployment) -> None:
    """Of a slot that is at a higher term by now."""
    for file in shop.held.files(record.id):
        slot = read(shop.peer.state, Slot, key_slot(record.id, file.slot))
        if slot is not None and slot.term > file.term:
            file.path.unlink(missing_ok=True)
