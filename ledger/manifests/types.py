"""Shapes of a contract's expansion: the manifest, which stakeholders approve and nodes execute.

A manifest is canonical JSON (msgspec, sorted keys); its digest is the sha256 of those bytes.
Units: cpu in thousandths of a core, memory and disk in bytes, money in micro-credits, times in ms
unless the name says seconds.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import msgspec

from ledger.codec import encode_json, sha256
from ledger.policies.types import Policies as Policies
from ledger.policies.types import Role as Role
from ledger.policies.types import Rule as Rule

ArtifactKind = Literal["file", "tree", "image"]
"""tree: a deterministic uncompressed tar, unpacked at `path`. image: a container image, an OCI image layout
in one tar of that kind; it stands at "/", below all other artifacts."""


class Artifact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An input named by digest. `chunks` is the sha256 over the list of its 256 KiB chunk digests."""

    path: str  # absolute, inside the workload
    kind: ArtifactKind
    sha256: str
    size_bytes: int
    chunks: str
    executable: bool = False


class Resources(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one slot needs, enforced as limits."""

    cpu_millis: int
    memory_bytes: int
    disk_bytes: int
    pids: int


class Port(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A named TCP port that the workload listens on, inside its own network namespace."""

    name: str
    port: int


class Health(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """HTTP GET (2xx and 3xx are healthy) or TCP connect, from outside through the named port; or a command,
    run inside as confined as the workload, which ends with 0."""

    port: str = ""  # none where a command is run
    http_path: str | None = None  # None: TCP connect
    command: tuple[str, ...] = ()
    interval_s: int = 5
    timeout_s: int = 2
    failures: int = 3  # in a row, until the slot is restarted


class Restart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Restarts on the same node before the slot fails; back-off doubles from 1 s to 30 s."""

    attempts: int = 3


class UpdateStrategy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the replicas of a workload change over to another manifest. A replica is healthy when it has run
    for `min_healthy_s` without a break (a job: has succeeded)."""

    max_parallel: int = 1  # that are not healthy yet
    canary: int = 0  # the first so many change over first, and must be healthy before any other
    min_healthy_s: int = 10
    deadline_s: int = 600  # the longest time between two steps forward
    on_failure: Literal["revert", "hold"] = "revert"


Level = Literal["node", "farm", "country"]


class Spread(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """At most so many replicas of a workload share one node, farm or country."""

    by: Level
    most: int


class Apart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """No replica shares a node, farm or country with one of these workloads, whichever comes first."""

    by: Level
    workloads: tuple[str, ...]


class Placement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Filters, then anti-affinity. An empty tuple does not filter."""

    countries: tuple[str, ...] = ()  # ISO 3166-1 alpha-2
    farms: tuple[str, ...] = ()
    distinct: Literal["none", "node", "farm", "country"] = "node"  # replicas never share one of these
    attributes: dict[str, str] = {}  # of the node's offer, each with exactly this value
    certified_by: tuple[str, ...] = ()  # keys in hex: one of them stands for the node
    farm_certified_by: tuple[str, ...] = ()  # keys in hex: one of them stands for its farm
    spread: Spread | None = None
    apart: Apart | None = None
    min_farms: int = 1  # the replicas stand on at least so many farms


class PriceCaps(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The most that an offer may ask in micro-credits per hour and core, GiB of memory, of SSD, of hard disk.
    None: no cap."""

    cpu_core_hour: int | None = None
    memory_gib_hour: int | None = None
    ssd_gib_hour: int | None = None
    hdd_gib_hour: int | None = None


Disk = Literal["ssd", "hdd"]
"""SSD and hard disk: an offer counts and prices each for itself."""
DISKS: Final[tuple[Disk, ...]] = get_args(Disk)


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What one slot takes of a node's offer."""

    cpu_millis: int
    memory_bytes: int
    ssd_bytes: int
    hdd_bytes: int


CAPACITY: Final = Needs.__struct_fields__


class Volume(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Disk of a slot that outlives its terms. `rpo_s`: so much of what was written may be lost with the node
    that has it, since copies are kept elsewhere; 0: there are none. `if_lost`: whether, without a copy, the
    slot waits for that node, or may begin with an empty one elsewhere."""

    name: str
    path: str
    size_bytes: int
    storage: Disk = "ssd"
    if_lost: Literal["wait", "empty"] = "wait"
    rpo_s: int = 0


Runtime = Literal["sandbox", "oci", "wasm"]
"""What runs a workload: those that a 3node of this release has a driver for."""


class Workload(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One unit of work; each replica is one slot."""

    name: str
    kind: Literal["service", "job"]
    runtime: Runtime
    replicas: int
    command: tuple[str, ...]
    environment: dict[str, str]
    artifacts: tuple[Artifact, ...]
    resources: Resources
    ports: tuple[Port, ...]
    health: Health | None
    restart: Restart
    placement: Placement
    results: tuple[str, ...]  # files under /result, collected when a job ends with 0
    recheck_s: int  # bytes are verified again while running, at this interval
    depends_on: tuple[str, ...] = ()  # workloads: a slot is given out when services run and jobs succeeded
    time_limit_s: int = 0  # a job: not billed for longer in one term, and stopped then; 0: none
    agree: int = 0  # a job is done when so many replicas have the same results; 0: when all succeeded
    isolation: tuple[str, ...] = ()  # features that the node must have been seen to enforce
    secrets: tuple[str, ...] = ()  # names; the consumer gives each holder their values, at /secrets/NAME
    egress: tuple[str, ...] = ()  # host:port that it may connect to by TCP; nothing else is there
    volumes: tuple[Volume, ...] = ()
    update: UpdateStrategy = UpdateStrategy()
    fuel: int = 0  # runtime wasm: about how many instructions it may carry out; else 0
    working_dir: str = "/"  # runtime oci: where the command begins
    user: str = ""  # runtime oci: UID:GID inside; else ""
    available_s: int = 0  # without the notary it runs on so long past its lease; 0: it stops when that ends

    @property
    def needs(self) -> Needs:
        """What one slot takes of a node: its scratch (`resources.disk_bytes`) of SSD, its volumes of the kind
        of disk that each is on."""
        kept = {kind: sum(v.size_bytes for v in self.volumes if v.storage == kind) for kind in DISKS}
        return Needs(
            cpu_millis=self.resources.cpu_millis,
            memory_bytes=self.resources.memory_bytes,
            ssd_bytes=self.resources.disk_bytes + kept["ssd"],
            hdd_bytes=kept["hdd"],
        )


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The commercial side."""

    duration_s: int
    budget: int  # most micro-credits that may be spent, and the escrow asked for
    fee: int  # the author's, micro-credits, once, when the deployment first runs
    price: PriceCaps = PriceCaps()
    grace_s: int = 0  # how long it waits, paused, for money or an extension before it ends; 0: not at all
    extension_s: int = 0  # by how much the consumer may extend the term in all; 0: not at all
    top_up: int = 0  # the most micro-credits that may be put on top of the budget


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The fully expanded deployment. Same contract and parameters, same bytes, everywhere."""

    gridpact: Literal[1]
    contract: str  # id: sha256 hex of the contract document's payload
    name: str
    version: str
    author: str
    consumer: str
    parameters: dict[str, str | int | bool]
    workloads: tuple[Workload, ...]
    roles: tuple[Role, ...]
    policies: Policies
    terms: Terms

    def encode(self) -> bytes:
        """Canonical JSON."""
        return encode_json(self)


def manifest_digest(data: bytes) -> bytes:
    """32 bytes; what approvals are bound to."""
    return sha256(data)
