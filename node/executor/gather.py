"""What a term has beside its artifacts, gathered once when it begins: secrets, volumes, and where it may
connect to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
import trio

from ledger.manifest_services import HOSTS_PATH
from ledger.manifest_types import Workload
from ledger.records import Deployment, key_deployment
from ledger.state import read
from ledger.transition.deal import ENDED
from node.executor.decide import SlotId
from node.executor.drivers.base import FileSpec, VolumeSpec
from node.executor.egress import Ways, find_ways
from node.executor.limits import VOLUME_SWEEP_S
from node.executor.secrets import Secrets
from node.executor.task import NOTHING, Given
from node.executor.workshop import Workshop

log = structlog.get_logger("executor")


@dataclass(frozen=True, slots=True)
class Gathered:
    """`given` is what the driver needs; `secrets` and `ways` say it for receipts."""

    secrets: Secrets = field(default_factory=Secrets)
    ways: Ways = field(default_factory=Ways)
    given: Given = NOTHING


async def gather(shop: Workshop, slot_id: SlotId, term: int, workload: Workload) -> Gathered:
    """Pinned for the whole term. Raises Refused (no secrets came), EgressRefused, VolumeRefused."""
    secrets = await shop.secrets.get(slot_id, term, workload.secrets)
    ways = await find_ways(workload.egress)
    files: tuple[FileSpec, ...] = ()
    if ways.hosts:
        store = shop.exchange.store
        info = await trio.to_thread.run_sync(store.add_bytes, ways.hosts, "cached")
        files = (FileSpec(HOSTS_PATH, info.sha256, info.size_bytes, 0o444, store.path(info.sha256)),)
    volumes = []
    ensure = functools.partial(shop.volumes.ensure, *slot_id, were_here=shop.is_home(*slot_id))
    for volume in workload.volumes:
        file = await trio.to_thread.run_sync(ensure, volume)
        volumes.append(VolumeSpec(volume.path, file, volume.size_bytes))
    return Gathered(secrets, ways, Given(secrets.values, ways.ways, files, tuple(volumes)))


async def sweep_volumes(shop: Workshop, held: Callable[[], set[bytes]]) -> None:
    """Until cancelled: remove volumes of deployments that have ended, of which no term is `held` any more."""
    while True:
        for deployment in await trio.to_thread.run_sync(shop.volumes.deployments):
            record = read(shop.peer.state, Deployment, key_deployment(deployment))
            if record is not None and record.status in ENDED and deployment not in held():
                count = await trio.to_thread.run_sync(shop.volumes.drop, deployment)
                log.info("volumes_removed", deployment=deployment.hex()[:16], count=count)
        await trio.sleep(VOLUME_SWEEP_S)
