"""What a workload of runtime wasm is: rules that hold for contracts and manifests alike.

[Z6] A program of WebAssembly is a job that has files, words, an environment and fuel, and no ports, egress,
     secrets or volumes; the first word is the program, a file artifact. Nothing else has fuel.
[Z7] Its own memory is what the task's leaves beside the engine (WASM_ENGINE_BYTES, and WASM_COMPILED for each
     byte of the program) and the disk, which is in memory: the same number on every node.
"""

from __future__ import annotations

from collections.abc import Sequence

from ledger.contracts.types import WorkloadTemplate
from ledger.limits import WASM_COMPILED, WASM_ENGINE_BYTES
from ledger.manifests.check import Report
from ledger.manifests.types import Workload


def engine_bytes(program_bytes: int) -> int:
    """[Z7] What the engine takes of the memory of a program of so many bytes."""
    return WASM_ENGINE_BYTES + WASM_COMPILED * program_bytes


def check_runtime(
    workload: Workload | WorkloadTemplate, paths: Sequence[tuple[str, str]], field: str, report: Report
) -> None:
    """[Z6] [Z7]

    `paths`: (path, kind) of its artifacts. Numbers that are still parameters are checked when filled in.
    """
    if workload.runtime != "wasm":
        if workload.fuel != 0:
            report(f"{field}.fuel", "contract.fuel", "a program of runtime wasm alone burns fuel")
        return
    if workload.fuel == 0:
        report(f"{field}.fuel", "contract.fuel", "a program without fuel does nothing: 1 or more wanted")
    if workload.kind != "job":
        report(f"{field}.kind", "contract.wasm_kind", "a program of runtime wasm is a job: it serves nobody")
    for name, given in (
        ("egress", workload.egress),
        ("secrets", workload.secrets),
    ):
        if given:
            detail = (
                "a program of runtime wasm has no network and no secrets: its result is anybody's to repeat"
            )
            report(f"{field}.{name}", "contract.wasm_alone", detail)
    if workload.command and (workload.command[0], "file") not in paths:
        report(
            f"{field}.command", "contract.wasm_program", "the first word is not the path of a file artifact"
        )
    need = workload.resources
    memory, disk = need.memory_bytes, need.disk_bytes
    # Of a source, nothing is known yet but the paths: the size counts when it is built.
    engine = engine_bytes(sum(a.size_bytes for a in workload.artifacts if a.path in workload.command[:1]))
    if isinstance(memory, int) and isinstance(disk, int) and memory <= engine + disk:
        detail = f"more than {engine + disk} B wanted, for the engine, the files (disk) and the program"
        report(f"{field}.resources.memory", "contract.wasm_memory", detail)
