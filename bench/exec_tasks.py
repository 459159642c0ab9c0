"""What the measurements of starts run: per driver, one small workload that says a word and then rests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ledger.manifest_types import Artifact
from node.executor.drivers.base import Driver, FileSpec, PortSpec, Resources, TaskSpec
from node.executor.drivers.sandbox import SandboxDriver
from tests.node.executor_fixture import artifact_of

BUSYBOX: Final = Path("/bin/busybox")
MIB: Final = 1024 * 1024
RESOURCES: Final = Resources(cpu_millis=500, memory_bytes=64 * MIB, disk_bytes=MIB, pids=16)


@dataclass(frozen=True)
class Sample:
    """`files` are the artifacts' bytes by the path that each stands at; all are executable."""

    command: tuple[str, ...]
    files: Mapping[str, bytes]
    runtime: str
    resources: Resources = RESOURCES
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the workload in a contract

    def spec(self, folder: Path, port: int = 0) -> TaskSpec:
        """For a driver; `port`: one that it listens at, 0 for none. Writes the files into the folder."""
        files = []
        for path, data in self.files.items():
            digest = hashlib.sha256(data).hexdigest()
            (folder / digest).write_bytes(data)
            files.append(FileSpec(path, digest, len(data), 0o555, folder / digest))
        ports = (PortSpec("http", port),) if port else ()
        name = "bench.start.0"
        return TaskSpec(name, self.command, {}, tuple(files), (), ports, self.resources)

    def artifacts(self) -> tuple[Artifact, ...]:
        """For a contract."""
        return tuple(artifact_of(data, path) for path, data in self.files.items())

    def template(self) -> dict[str, Any]:
        """What a workload of a contract says of it."""
        return {
            "command": self.command,
            "artifacts": self.artifacts(),
            "runtime": self.runtime,
            "replicas": 1,
            "ports": (),
            "health": None,
            **self.changes,
        }


@dataclass(frozen=True)
class Way:
    """A driver and what it is measured with."""

    make: Callable[[Path], Driver]
    sample: Callable[[], Sample]


def shell(script: str) -> Sample:
    """A script in Debian's static busybox, in the sandbox."""
    return Sample(("/bin/busybox", "sh", "-c", script), {"/bin/busybox": BUSYBOX.read_bytes()}, "sandbox")


WAYS: Final[dict[str, Way]] = {"sandbox": Way(SandboxDriver, lambda: shell("echo up; sleep 3600"))}
