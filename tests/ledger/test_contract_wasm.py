"""The contract language for runtime wasm: in sources, in built contracts and in manifests alike."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from ledger.contracts.check import check_contract
from ledger.contracts.language import parse_contract
from ledger.contracts.types import Parameter, ResourcesTemplate, WorkloadTemplate
from ledger.errors import Refused
from ledger.limits import FUEL_DEFAULT, MIB, NUMBER_MAX, WASM_ENGINE_BYTES
from ledger.manifests.expansion import check_manifest, decode_manifest, expand
from ledger.manifests.services import features_needed
from ledger.manifests.types import Artifact, Manifest, Resources
from ledger.manifests.wasm import engine_bytes
from tests.ledger.contract_samples import problems
from tests.ledger.world import AUTHOR, CONSUMER, contract, job, service

DIGEST = "ab" * 32
PROGRAM = Artifact(path="/sum.wasm", kind="file", sha256=DIGEST, size_bytes=9, chunks=DIGEST, executable=True)
TREE = Artifact(path="/data", kind="tree", sha256=DIGEST, size_bytes=9, chunks=DIGEST, executable=False)
ROOM = ResourcesTemplate(
    cpu_millis=500, memory_bytes=engine_bytes(9) + 17 * MIB, disk_bytes=16 * MIB, pids=16
)
SOURCE = """
gridpact: 1
name: sum
version: 1.0.0
title: Sums
parameters:
  fuel: {type: integer, default: 5000}
workloads:
  sum:
    kind: job
    runtime: wasm
    command: [/sum.wasm, /data/one]
    artifacts:
      - {path: /sum.wasm, file: sum.wasm, executable: true}
    resources: {cpu: 500m, memory: 96MiB, disk: 16MiB}
    results: [/result/sum]
approval: {deploy: none, delete: none, signoff: none}
terms: {duration: 1h, budget: 1 credits}
"""


def program(**changes: Any) -> WorkloadTemplate:
    fields: dict[str, Any] = {
        "runtime": "wasm",
        "command": ("/sum.wasm", "x"),
        "artifacts": (PROGRAM, TREE),
        "resources": ROOM,
        "fuel": 1_000,
    }
    return job(**(fields | changes))


def manifest(made: WorkloadTemplate, parameters: tuple[Parameter, ...] = ()) -> Manifest:
    template = contract(made, parameters=parameters)
    return decode_manifest(expand(template, bytes(32), AUTHOR.public, CONSUMER.public, {}, {}))


def test_a_program_is_a_job_with_fuel() -> None:
    check_contract(contract(program()))
    found = manifest(program()).workloads[0]
    assert (found.runtime, found.fuel) == ("wasm", 1_000)


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"fuel": 0}, "contract.fuel", "fuel"),
    ({"fuel": -1}, "contract.range", "fuel"),
    ({"fuel": NUMBER_MAX + 1}, "contract.range", "fuel"),
    ({"egress": ("a.example:80",)}, "contract.wasm_alone", "egress"),
    ({"secrets": ("token",)}, "contract.wasm_alone", "secrets"),
    ({"command": ("/data/sum.wasm",)}, "contract.wasm_program", "command"),
    ({"kind": "service", "results": ()}, "contract.wasm_kind", "kind"),
]


@pytest.mark.parametrize(("changes", "rule", "field"), BAD)
def test_what_a_program_cannot_have_is_refused(changes: dict[str, Any], rule: str, field: str) -> None:
    """[Z6]"""
    with pytest.raises(Refused) as caught:
        check_contract(contract(program(**changes)))
    assert (caught.value.rule, caught.value.field) == (rule, f"workloads.mine.{field}")
    sound = manifest(program())
    with pytest.raises(Refused) as caught:
        check_manifest(replace(sound, workloads=(replace(sound.workloads[0], **changes),)))
    assert (caught.value.rule, caught.value.field) == (rule, f"workloads.mine.{field}")


@pytest.mark.parametrize("memory_bytes", [WASM_ENGINE_BYTES, engine_bytes(9) + 16 * MIB])
def test_memory_must_hold_engine_files_and_program(memory_bytes: int) -> None:
    """[Z7]"""
    short = replace(ROOM, memory_bytes=memory_bytes)
    with pytest.raises(Refused, match=str(engine_bytes(9) + 16 * MIB)) as caught:
        check_contract(contract(program(resources=short)))
    assert caught.value.rule == "contract.wasm_memory"
    check_contract(contract(program(resources=replace(ROOM, memory_bytes=engine_bytes(9) + 16 * MIB + 1))))
    sound = manifest(program())
    resources = Resources(cpu_millis=500, memory_bytes=memory_bytes, disk_bytes=16 * MIB, pids=16)
    with pytest.raises(Refused) as caught:
        check_manifest(replace(sound, workloads=(replace(sound.workloads[0], resources=resources),)))
    assert caught.value.rule == "contract.wasm_memory"


def test_a_larger_program_needs_more() -> None:
    large = replace(PROGRAM, size_bytes=2 * MIB)
    with pytest.raises(Refused) as caught:
        check_contract(contract(program(artifacts=(large, TREE))))
    assert caught.value.rule == "contract.wasm_memory"
    room = replace(ROOM, memory_bytes=(32 + 2 * 16 + 17) * MIB)
    check_contract(contract(program(artifacts=(large, TREE), resources=room)))


def test_a_parameter_is_checked_when_it_is_filled_in() -> None:
    size = (Parameter(name="room", type="size", default=WASM_ENGINE_BYTES),)
    made = program(resources=replace(ROOM, memory_bytes="${room}"))
    check_contract(contract(made, parameters=size))
    with pytest.raises(Refused) as caught:
        manifest(made, size)
    assert caught.value.rule == "contract.wasm_memory"
    fuel = (Parameter(name="fuel", type="integer", default=77),)
    assert manifest(program(fuel="${fuel}"), fuel).workloads[0].fuel == 77
    with pytest.raises(Refused) as caught:
        manifest(program(fuel="${fuel}"), (Parameter(name="fuel", type="integer", default=0),))
    assert caught.value.rule == "contract.fuel"


@pytest.mark.parametrize("made", [job(fuel=1), service(fuel=1)])
def test_nothing_else_has_fuel(made: WorkloadTemplate) -> None:
    with pytest.raises(Refused) as caught:
        check_contract(contract(made))
    assert caught.value.rule == "contract.fuel"


def test_what_it_asks_of_a_node_is_asked_of_this_driver() -> None:
    found = manifest(program(isolation=("landlock",))).workloads[0]
    assert features_needed(found) == ("wasm.landlock",)


def test_a_source_has_fuel_by_default() -> None:
    assert parse_contract(SOURCE, "contract.yaml").contract.workloads[0].fuel == FUEL_DEFAULT
    named = SOURCE.replace("    kind: job", "    kind: job\n    fuel: ${fuel}")
    assert parse_contract(named, "contract.yaml").contract.workloads[0].fuel == "${fuel}"
    plain = SOURCE.replace("    runtime: wasm\n", "")
    assert parse_contract(plain, "contract.yaml").contract.workloads[0].fuel == 0


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("kind: job", "kind: service", "contract.wasm_kind"),
        ("    kind: job", "    fuel: 0\n    kind: job", "contract.fuel"),
        ("96MiB", "48MiB", "contract.wasm_memory"),
        ("    kind: job", "    kind: job\n    secrets: [token]", "contract.wasm_alone"),
        ("runtime: wasm", "fuel: 5", "contract.fuel"),
    ],
)
def test_a_source_that_breaks_a_rule_is_told(old: str, new: str, rule: str) -> None:
    assert rule in [problem.rule for problem in problems(SOURCE.replace(old, new))]
