"""From a slot of a manifest to what a driver runs, and what a receipt says of it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ledger.limits import ATTRIBUTES_MAX, NAME_CHARS_MAX
from ledger.manifests.types import Artifact, Workload
from node.executor.drivers.base import (
    EgressSpec,
    FileSpec,
    Fingerprint,
    ImageSpec,
    PortSpec,
    Resources,
    TaskSpec,
    TreeSpec,
    VolumeSpec,
)
from node.files.exchange import Wanted

_ID_CHARS: Final = 32  # of the deployment's hex id: no two deployments of one node share so many
_WILDCARDS: Final = ("0.0.0.0", "::")


@dataclass(frozen=True)
class Given:
    """What a term has beside its artifacts. `files` are made by the node itself, such as /etc/hosts."""

    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    egress: tuple[EgressSpec, ...] = ()
    files: tuple[FileSpec, ...] = ()
    volumes: tuple[VolumeSpec, ...] = ()


NOTHING: Final = Given()


def task_spec(
    deployment: bytes,
    slot: str,
    term: int,
    workload: Workload,
    listen_host: str,
    source: Callable[[str], Path],
    given: Given = NOTHING,
) -> TaskSpec:
    """The driver's specification; `source` gives an artifact's file by its sha256."""
    files = tuple(
        FileSpec(a.path, a.sha256, a.size_bytes, 0o555 if a.executable else 0o444, source(a.sha256))
        for a in workload.artifacts
        if a.kind == "file"
    )
    trees = tuple(
        TreeSpec(a.path, a.sha256, a.size_bytes, source(a.sha256))
        for a in workload.artifacts
        if a.kind == "tree"
    )
    image = next((a for a in workload.artifacts if a.kind == "image"), None)
    need = workload.resources
    return TaskSpec(
        task_id=f"{deployment.hex()[:_ID_CHARS]}.{slot.replace('/', '.')}.{term}",
        command=workload.command,
        env=workload.environment,
        files=(*files, *given.files),
        trees=trees,
        ports=tuple(PortSpec(port.name, port.port, listen_host, 0) for port in workload.ports),
        resources=Resources(need.cpu_millis, need.memory_bytes, need.disk_bytes, need.pids),
        results=workload.results,
        secrets=given.secrets,
        egress=given.egress,
        volumes=given.volumes,
        runtime=workload.runtime,
        fuel=workload.fuel,
        image=None if image is None else ImageSpec(image.sha256, image.size_bytes, source(image.sha256)),
        working_dir=workload.working_dir,
        user=workload.user,
    )


def wanted(artifact: Artifact) -> Wanted:
    """What the exchange fetches for an artifact of a manifest."""
    return Wanted(artifact.sha256, artifact.size_bytes, artifact.chunks)


def features(fingerprint: Fingerprint) -> dict[str, str]:
    """Feature to "enforced", or why not, as receipts and the status show it."""
    found = {
        f.name[:NAME_CHARS_MAX]: "enforced" if f.enforced else f.how[:200] or "not enforced"
        for f in fingerprint.features[:ATTRIBUTES_MAX]
    }
    return dict(sorted(found.items()))


def endpoint(host: str, port: int, public_host: str) -> str:
    """host:port for a receipt; a service that listens on all addresses is named by a reachable one."""
    if host in _WILDCARDS:
        host = public_host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable_host(host: str) -> str:
    """Where this node itself reaches a service that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def host_of_address(address: str) -> str:
    """The IP of a multiaddr such as /ip4/1.2.3.4/tcp/1/p2p/ID; 127.0.0.1 when it names none."""
    parts = address.split("/")
    if len(parts) > 2 and parts[1] in ("ip4", "ip6") and parts[2] not in _WILDCARDS:
        return parts[2]
    return "127.0.0.1"


def best_address(addresses: tuple[str, ...]) -> str:
    """The listen address that others can use: the first that is no wildcard and, if possible, no loopback."""

    def rank(address: str) -> int:
        host = [*address.split("/"), "", "", ""][2]
        return 2 if host in _WILDCARDS else 1 if host.startswith("127.") or host == "::1" else 0

    return min(addresses, key=rank, default="")
