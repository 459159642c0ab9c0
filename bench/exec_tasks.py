"""What the measurements of starts run: per driver, one small workload that says a word and then rests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ledger.contracts.types import ResourcesTemplate
from ledger.limits import WASM_ENGINE_BYTES
from ledger.manifests.types import Artifact
from node.executor.drivers.base import FileSpec, ImageSpec, PortSpec, Resources, TaskSpec
from tests.executor.oci_images import busybox_layer, image
from tests.executor.wasm_programs import start
from tests.node.executor_fixture import artifact_of

BUSYBOX: Final = Path("/bin/busybox")
MIB: Final = 1024 * 1024
IMAGE: Final = "/"  # where an image stands in a contract
FUEL: Final = 10**12  # more than it burns until it is stopped
RESOURCES: Final = Resources(cpu_millis=500, memory_bytes=64 * MIB, disk_bytes=MIB, pids=16)


@dataclass(frozen=True)
class Sample:
    """`files` are the artifacts' bytes by the path that each stands at: programs, or at IMAGE an image."""

    command: tuple[str, ...]
    files: Mapping[str, bytes]
    runtime: str = "sandbox"
    resources: Resources = RESOURCES
    fuel: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the workload in a contract

    def spec(self, folder: Path, port: int = 0) -> TaskSpec:
        """For a driver; `port`: one that it listens at, 0 for none. Writes the files into the folder."""
        files, root = [], None
        for path, data in self.files.items():
            digest = hashlib.sha256(data).hexdigest()
            (folder / digest).write_bytes(data)
            if path == IMAGE:
                root = ImageSpec(digest, len(data), folder / digest)
            else:
                files.append(FileSpec(path, digest, len(data), 0o555, folder / digest))
        ports = (PortSpec("http", port),) if port else ()
        name = "bench.start.0"
        made = TaskSpec(name, self.command, {}, tuple(files), (), ports, self.resources)
        return replace(made, runtime=self.runtime, fuel=self.fuel, image=root)

    def artifacts(self) -> tuple[Artifact, ...]:
        """For a contract."""
        return tuple(
            artifact_of(data, path, kind="image" if path == IMAGE else "file", executable=path != IMAGE)
            for path, data in self.files.items()
        )

    def template(self) -> dict[str, Any]:
        """What a workload of a contract says of it."""
        return {
            "command": self.command,
            "artifacts": self.artifacts(),
            "runtime": self.runtime,
            "replicas": 1,
            "ports": (),
            "health": None,
            "resources": ResourcesTemplate(**asdict(self.resources)),
            **self.changes,
        }


def shell(script: str) -> Sample:
    """A script in Debian's static busybox, in the sandbox."""
    return Sample(("/bin/busybox", "sh", "-c", script), {"/bin/busybox": BUSYBOX.read_bytes()})


def wasm() -> Sample:
    """A program that says the word and goes round and round."""
    said = r'(data (i32.const 0) "\10\00\00\00\03\00\00\00") (data (i32.const 16) "up\n")'
    body = (
        "(drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (loop $on (br $on))"
    )
    need = replace(RESOURCES, memory_bytes=WASM_ENGINE_BYTES + 9 * MIB)
    changes = {"kind": "job", "fuel": FUEL, "results": ()}
    return Sample(("/program",), {"/program": start(body, said)}, "wasm", need, FUEL, changes)


def oci() -> Sample:
    """The same shell, in an image."""
    need = replace(RESOURCES, memory_bytes=128 * MIB, disk_bytes=4 * MIB)
    command = ("/bin/busybox", "sh", "-c", "echo up; sleep 3600")
    changes = {"user": "1000:1000"}
    return Sample(command, {IMAGE: image(busybox_layer())}, "oci", need, changes=changes)


SAMPLES: Final[dict[str, Callable[[], Sample]]] = {
    "sandbox": lambda: shell("echo up; sleep 3600"),
    "wasm": wasm,
    "oci": oci,
}
"""By runtime; what a host does not advertise is not measured."""
