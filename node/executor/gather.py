"""What a term has beside its artifacts, gathered once when it begins: secrets, volumes, and where it may
connect to.

[C18] Who holds a slot whose volumes another node has written to last never uses what it has of them itself:
      it restores their newest recorded copies, each of which has its digest, opens with its key, fits its
      volume and holds a file system without a fault, or gives the slot back.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog
import trio

from ledger.copy_records import Copies, VolumeCopy, key_copies
from ledger.manifests.services import HOSTS_PATH
from ledger.manifests.types import Volume, Workload
from ledger.records import Deployment, Node, Slot, key_deployment, key_node, key_slot
from ledger.state import read
from ledger.transition.deal import ENDED
from node.errors import ArtifactError
from node.executor.decide import SlotId
from node.executor.doors.egress import Ways, find_ways
from node.executor.drivers.base import FileSpec, VolumeSpec
from node.executor.errors import VolumeRefused
from node.executor.limits import FETCH_STALLED_S, VOLUME_SWEEP_S
from node.executor.secrets import Secrets
from node.executor.task import NOTHING, Given
from node.executor.workshop import Workshop
from node.files.exchange import Progress, Wanted

log = structlog.get_logger("executor")


@dataclass(frozen=True, slots=True)
class Gathered:
    """`given` is what the driver needs; `secrets` and `ways` say it for receipts."""

    secrets: Secrets = field(default_factory=Secrets)
    ways: Ways = field(default_factory=Ways)
    given: Given = NOTHING


async def gather(shop: Workshop, slot_id: SlotId, term: int, workload: Workload) -> Gathered:
    """Pinned for the whole term. Raises Refused (no secrets came), EgressRefused, VolumeRefused."""
    old, copies = to_restore(shop, slot_id, workload)
    secrets = await shop.secrets.get(slot_id, term, workload.secrets, tuple(copies))
    ways = await find_ways(workload.egress)
    files: tuple[FileSpec, ...] = ()
    if ways.hosts:
        store = shop.exchange.store
        info = await trio.to_thread.run_sync(store.add_bytes, ways.hosts, "cached")
        files = (FileSpec(HOSTS_PATH, info.sha256, info.size_bytes, 0o444, store.path(info.sha256)),)
    volumes = []
    ensure = functools.partial(shop.volumes.ensure, *slot_id, were_here=shop.is_home(*slot_id))
    for volume in workload.volumes:
        if volume.name in copies:
            file = await restore(shop, slot_id, volume, copies[volume.name], secrets.keys[volume.name])
        else:
            if old:
                await trio.to_thread.run_sync(shop.volumes.discard, *slot_id, volume)
            file = await trio.to_thread.run_sync(ensure, volume)
        volumes.append(VolumeSpec(volume.path, file, volume.size_bytes))
    return Gathered(secrets, ways, Given(secrets.values, ways.ways, files, tuple(volumes)))


def to_restore(shop: Workshop, slot_id: SlotId, workload: Workload) -> tuple[bool, dict[str, VolumeCopy]]:
    """[C18] Whether another node has written to the slot's volumes since this one did, and what is restored
    from a copy: all that has one when they are old here, else what is missing."""
    state = shop.peer.state
    slot, record = read(state, Slot, key_slot(*slot_id)), read(state, Copies, key_copies(*slot_id))
    old = slot is not None and slot.home not in (b"", shop.sender.key.public)
    copies = {copy.volume: copy for copy in record.copies} if record is not None else {}
    wanted = (v for v in workload.volumes if v.name in copies)
    return old, {v.name: copies[v.name] for v in wanted if old or not shop.volumes.has(*slot_id, v)}


async def restore(shop: Workshop, slot_id: SlotId, volume: Volume, copy: VolumeCopy, key: bytes) -> Path:
    """[C18] A volume's file from its copy, fetched and verified. Raises VolumeRefused."""
    sha256, store, progress = copy.sha256.hex(), shop.exchange.store, Progress(copy.size_bytes)
    nodes = (read(shop.peer.state, Node, key_node(node)) for node in copy.keepers)
    hints = [node.address for node in nodes if node is not None and node.address]

    async def give_up_stalled(scope: trio.CancelScope) -> None:
        last = -1
        while (done := progress.bytes_done) != last:
            last = done
            await trio.sleep(FETCH_STALLED_S)
        scope.cancel()

    with store.pinned((sha256,)):
        path, why = None, f"no node gave its copy for {FETCH_STALLED_S:.0f} s"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up_stalled, nursery.cancel_scope)
            wanted = Wanted(sha256, copy.size_bytes, copy.chunks.hex())
            try:
                path = await shop.exchange.fetch(wanted, progress, hints, owner=slot_id[0].hex())
            except ArtifactError as error:
                why = str(error)
            nursery.cancel_scope.cancel()
        if path is None:
            raise VolumeRefused(f"volume {volume.name}", why)
        file = await trio.to_thread.run_sync(shop.volumes.restore, *slot_id, volume, path, key)
    log.info("volume_restored", slot=slot_id[1], volume=volume.name, bytes=copy.size_bytes)
    with contextlib.suppress(ArtifactError):  # in use: this node keeps it for others, too
        store.free(sha256)
    return file


async def sweep_volumes(shop: Workshop, held: Callable[[], set[bytes]]) -> None:
    """Until cancelled: remove volumes of deployments that have ended, of which no term is `held` any more."""
    while True:
        for deployment in await trio.to_thread.run_sync(shop.volumes.deployments):
            record = read(shop.peer.state, Deployment, key_deployment(deployment))
            if record is not None and record.status in ENDED and deployment not in held():
                count = await trio.to_thread.run_sync(shop.volumes.drop, deployment)
                log.info("volumes_removed", deployment=deployment.hex()[:16], count=count)
        await trio.sleep(VOLUME_SWEEP_S)
