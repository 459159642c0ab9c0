"""The seam between the executor and the ways to run a task.

A driver knows no ledger and no network of peers. It is given a specification and files on disk that
somebody fetched; it seals the bytes, verifies them itself, runs them isolated, and can say at any time
whether what runs is still what was verified. Design section 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol


class Isolation(Enum):
    """How far a driver keeps a workload from its host; a manifest may ask for a level by name."""

    SANDBOX = "sandbox"
    CONTAINER = "container"
    WASM = "wasm"


@dataclass(frozen=True)
class FileSpec:
    """One file of the workload's root: absolute `path` inside, sha256 hex `digest`, mode 0o444 or 0o555."""

    path: str
    digest: str
    size_bytes: int
    mode: int
    source: Path


@dataclass(frozen=True)
class TreeSpec:
    """An uncompressed tar, named by the sha256 of the tar; its members appear read-only under `path`."""

    path: str
    digest: str
    size_bytes: int
    source: Path


@dataclass(frozen=True)
class ImageSpec:
    """A container image as one tar, an OCI image layout, named by the sha256 of the tar."""

    digest: str
    size_bytes: int
    source: Path


@dataclass(frozen=True)
class PortSpec:
    """A named TCP port `inside` that is reached on the host at `listen_host`; port 0 takes a free one."""

    name: str
    inside: int
    listen_host: str = "127.0.0.1"
    listen_port: int = 0


@dataclass(frozen=True)
class VolumeSpec:
    """A file with a file system in it, which appears at `path`, writable and never executable."""

    path: str
    source: Path
    size_bytes: int


@dataclass(frozen=True)
class EgressSpec:
    """An address and TCP port that the task may connect to. Without any it reaches nothing but itself."""

    address: str
    port: int


@dataclass(frozen=True)
class Resources:
    """What the task may use at most. `disk_bytes` covers /tmp and /result together."""

    cpu_millis: int
    memory_bytes: int
    disk_bytes: int
    pids: int


@dataclass(frozen=True)
class TaskSpec:
    """All that a driver needs to run one term of one slot. `results` are paths of files under /result;
    `secrets` become read-only files under /secrets, by name; `volumes` outlive the task; `runtime` names the
    driver; `fuel` is what a WebAssembly program may burn. A container
    stands on its `image`, the artifacts on top; `user` is its user and group inside, as in 1:1."""

    task_id: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    files: tuple[FileSpec, ...]
    trees: tuple[TreeSpec, ...]
    ports: tuple[PortSpec, ...]
    resources: Resources
    results: tuple[str, ...] = ()
    log_bytes_max: int = 256 * 1024
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    egress: tuple[EgressSpec, ...] = ()
    volumes: tuple[VolumeSpec, ...] = ()
    runtime: str = "sandbox"
    image: ImageSpec | None = None
    working_dir: str = "/"
    user: str = ""
    fuel: int = 0


@dataclass(frozen=True)
class Feature:
    """One thing that a driver enforces, or does not; `how` names the means or the reason why not."""

    name: str
    enforced: bool
    how: str


@dataclass(frozen=True)
class Fingerprint:
    """What a driver really enforces on this host, found by trying it. `usable` is False with a `reason`.

    `beside`: those of the node's other drivers, where this one stands for all of them.
    """

    driver: str
    isolation: Isolation
    usable: bool
    reason: str
    features: tuple[Feature, ...]
    beside: tuple[Fingerprint, ...] = ()

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The drivers of this node that can be used, by name."""
        return tuple(each.driver for each in (self, *self.beside) if each.usable)

    def of(self, runtime: str) -> Fingerprint:
        """Return that of the driver for `runtime`; this one where there is no such driver."""
        return next((each for each in self.beside if each.driver == runtime), self)

    def enforces(self, name: str) -> bool:
        """Return True when the feature of that name was seen to work here."""
        return any(feature.enforced for feature in self.features if feature.name == name)


@dataclass(frozen=True)
class Exit:
    """How a task ended: `code` 0..255, or the `signal` that ended it; `oom` when the memory limit did."""

    code: int | None
    signal: int | None
    oom: bool
    reason: str

    @property
    def ok(self) -> bool:
        """True when the command ended by itself with code 0."""
        return self.code == 0


@dataclass(frozen=True)
class Liveness:
    """What a look at the task found: is its command alive, how many processes, do its ports serve."""

    alive: bool
    processes: int
    ports_served: bool
    reason: str


@dataclass(frozen=True)
class Usage:
    """CPU time used so far, and the most memory held at one time; 0 where the host cannot tell."""

    cpu_ms: int = 0
    memory_bytes_max: int = 0

    def then(self, later: Usage) -> Usage:
        """Return the usage of two runs, one after the other."""
        return Usage(self.cpu_ms + later.cpu_ms, max(self.memory_bytes_max, later.memory_bytes_max))


@dataclass(frozen=True)
class ResultFile:
    """One collected result: its path inside, its bytes, and their size and sha256 hex digest."""

    path: str
    data: bytes
    size_bytes: int
    digest: str


@dataclass(frozen=True)
class Drift:
    """One difference between what was verified and what is there now."""

    where: str
    expected: str
    found: str


@dataclass(frozen=True)
class Attestation:
    """A recheck of a running task. `ok` means that it runs and nothing drifted; counts say what was seen.

    `ended` means that the task ended before or while it was looked at: no verdict, and no drift, but where
    `attest_ended` made it.
    """

    ok: bool
    ended: bool
    drifts: tuple[Drift, ...]
    files_checked: int
    bytes_checked: int
    processes_checked: int
    mappings_checked: int
    duration_ms: float


class Prepared(Protocol):
    """Sealed and verified bytes, ready to start once; `close` gives them up without starting."""

    @property
    def spec(self) -> TaskSpec: ...

    def close(self) -> None: ...


class Handle(Protocol):
    """A started task. `ports` maps each port's name to the host address and port where it is reached."""

    @property
    def task_id(self) -> str: ...

    @property
    def ports(self) -> Mapping[str, tuple[str, int]]: ...


class Driver(Protocol):
    """One way to run tasks. For one task: `prepare`, `start`, anything but these, and always `stop`.

    A driver takes back only the `Prepared` and `Handle` objects that it made itself.
    """

    @property
    def name(self) -> str:
        """The word by which manifests and fingerprints name this driver."""
        ...

    @property
    def isolation(self) -> Isolation:
        """The level that this driver gives when its fingerprint is usable."""
        ...

    def fingerprint(self) -> Fingerprint:
        """Return what is enforced here. Tries it the first time (blocks, some 100 ms), then remembers."""
        ...

    async def prepare(self, spec: TaskSpec) -> Prepared:
        """Copy every artifact into sealed memory and verify it there.

        Raises SpecRefused for a bad field and VerificationFailed for bytes that do not match.
        """
        ...

    async def start(self, prepared: Prepared, kill_at_ms: int | None = None) -> Handle:
        """Run the sealed bytes, isolated. Raises DriverUnavailable or StartFailed, with nothing left over.

        At `kill_at_ms` of the boot clock the task is killed also when this process is frozen or hung.
        """
        ...

    def keep(self, handle: Handle, kill_at_ms: int) -> None:
        """Move the time at which the task is killed. Harmless when it has ended."""
        ...

    async def wait(self, handle: Handle) -> Exit:
        """Return how the command ended, as soon as it did. May be called often and by many."""
        ...

    async def probe(self, handle: Handle) -> Liveness:
        """Return a look at the processes; it says nothing about the service's health."""
        ...

    def logs(self, handle: Handle, last_bytes: int) -> bytes:
        """Return the newest `last_bytes` of stdout and stderr; after `stop`, of the last LOG_KEPT_BYTES."""
        ...

    async def usage(self, handle: Handle) -> Usage:
        """Return what the task used since its start; after `stop`, what it used in all."""
        ...

    async def collect(self, handle: Handle) -> tuple[ResultFile, ...]:
        """Return the result files that the specification names; between `start` and `stop` only.

        Raises ResultRefused when one is missing, too large, or not a plain file.
        """
        ...

    async def copy_volumes(self, handle: Handle, into: Mapping[str, Path]) -> float:
        """Copy volumes, by their paths inside, into these files, all of one moment; the task stands still
        meanwhile. Return for how many seconds it did.

        Raises ExecutorError where `volume-copies` is not enforced, or the task is not running.
        """
        ...

    async def check(self, handle: Handle, command: tuple[str, ...], timeout_s: float) -> int | None:
        """Run a command of the contract inside the task, as confined as it is. Return its exit status, 128
        and its number for a signal, None when it took longer than `timeout_s` and was killed.

        Raises ExecutorError where `health-exec` is not enforced, or it could not be run.
        """
        ...

    async def stop(self, handle: Handle, grace_s: float) -> Exit:
        """End the task: SIGTERM, then after `grace_s` freeze and SIGKILL; all gone 2 s later.

        Gives everything back, so results and attestations are gone too. May be repeated.
        """
        ...

    async def recover(self) -> list[str]:
        """Kill what an earlier run of this node left over; return the task ids. Call before any start."""
        ...

    async def attest(self, handle: Handle) -> Attestation:
        """Recheck the running bytes, mappings, mounts and privileges against those at the start."""
        ...

    async def attest_ended(self, handle: Handle) -> Attestation:
        """Recheck the bytes alone, after the command has ended and before `stop`: are they what ran?

        `ended` is True, `ok` means no drift. Raises ExecutorError when it was stopped or never ended.
        """
        ...
