"""The contract language for runtime oci: in sources, in built contracts and in manifests alike."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from ledger.contracts.check import check_contract
from ledger.contracts.language import parse_contract
from ledger.contracts.source import Container
from ledger.contracts.types import ResourcesTemplate, VolumeTemplate, WorkloadTemplate
from ledger.errors import Refused
from ledger.limits import CONTAINER_MEMORY_BYTES_MIN, MIB
from ledger.manifests.expansion import check_manifest, decode_manifest, expand
from ledger.manifests.services import ASKED_FOR, features_needed
from ledger.manifests.types import Artifact, Health, Manifest, Volume
from tests.ledger.contract_samples import problems
from tests.ledger.world import AUTHOR, CONSUMER, contract, service

DIGEST = "ab" * 32
IMAGE = Artifact(path="/", kind="image", sha256=DIGEST, size_bytes=9, chunks=DIGEST)
FILE = Artifact(path="/etc/site.conf", kind="file", sha256=DIGEST, size_bytes=9, chunks=DIGEST)
SOURCE = """
gridpact: 1
name: web
version: 1.0.0
title: A web server from an image
workloads:
  web:
    kind: service
    runtime: oci
    artifacts:
      - {path: /, image: nginx.oci}
      - {path: /etc/site.conf, file: site.conf}
    resources: {cpu: 500m, memory: 96MiB, disk: 16MiB}
approval: {deploy: none, delete: none, signoff: none}
terms: {duration: 1h, budget: 1 credits}
"""


def container(**changes: Any) -> WorkloadTemplate:
    fields: dict[str, Any] = {
        "runtime": "oci",
        "command": ("/usr/sbin/nginx", "-g", "daemon off;"),
        "artifacts": (IMAGE, FILE),
        "user": "101:101",
    }
    return service(**(fields | changes))


def manifest(made: WorkloadTemplate) -> Manifest:
    return decode_manifest(expand(contract(made), bytes(32), AUTHOR.public, CONSUMER.public, {}, {}))


def test_a_container_stands_on_one_image() -> None:
    """[Z1]"""
    check_contract(contract(container()))
    found = manifest(container(working_dir="/srv")).workloads[0]
    assert (found.runtime, found.working_dir, found.user) == ("oci", "/srv", "101:101")
    assert features_needed(replace(found, isolation=("sealed-image",))) == ("oci.sealed-image",)


def test_copies_and_checks_of_a_container_are_its_own_drivers() -> None:
    """[C10] [C12] [E8] What the sandbox of the same node enforces says nothing of its containers."""
    kept = VolumeTemplate(name="data", path="/data", size_bytes=16 * MIB, rpo_s=60)
    made = container(volumes=(kept,), health=Health(command=("/usr/sbin/nginx", "-t")))
    check_contract(contract(made))
    needed = ("oci.volumes", "oci.volume-copies", "oci.health-exec")
    assert features_needed(manifest(made).workloads[0]) == needed
    assert {name.removeprefix("oci.") for name in needed} <= set(ASKED_FOR)


def test_what_the_source_leaves_out_its_image_says() -> None:
    source = parse_contract(SOURCE, "contract.yaml")
    assert source.contract.workloads[0].command == ()
    made = Container(("/bin/web",), {"PATH": "/bin"}, "/srv", "7:8")
    built = source.built({("web", "/"): IMAGE, ("web", "/etc/site.conf"): FILE}, {"web": made})
    web = built.workloads[0]
    assert (web.command, web.environment, web.working_dir, web.user) == tuple(made)


def small(memory_bytes: int) -> ResourcesTemplate:
    return ResourcesTemplate(cpu_millis=500, memory_bytes=memory_bytes, disk_bytes=16 * MIB, pids=16)


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"artifacts": (FILE,)}, "contract.image", "artifacts"),
    ({"artifacts": (IMAGE, IMAGE)}, "contract.image", "artifacts"),
    ({"artifacts": (replace(IMAGE, path="/srv"),)}, "contract.image", "artifacts"),
    ({"artifacts": (replace(IMAGE, executable=True),)}, "contract.executable", "artifacts[0].executable"),
    ({"artifacts": (IMAGE, replace(FILE, path="/"))}, "contract.path", "artifacts[1].path"),
    ({"artifacts": (IMAGE, replace(FILE, path="/proc/x"))}, "contract.path_reserved", "artifacts[1].path"),
    (
        {"artifacts": (IMAGE, replace(FILE, path="/etc/passwd"))},
        "contract.path_reserved",
        "artifacts[1].path",
    ),
    ({"artifacts": (IMAGE, FILE, FILE)}, "contract.path_overlap", "artifacts[2].path"),
    ({"command": ()}, "contract.command", "command"),
    ({"command": ("nginx",)}, "contract.path", "command[0]"),
    ({"user": ""}, "contract.container", "user"),
    ({"user": "root"}, "contract.container", "user"),
    ({"user": "1:70000"}, "contract.container", "user"),
    ({"user": "01:1"}, "contract.container", "user"),
    ({"working_dir": ""}, "contract.path", "working_dir"),
    ({"working_dir": "/srv/../etc"}, "contract.path", "working_dir"),
    ({"resources": small(CONTAINER_MEMORY_BYTES_MIN - 1)}, "contract.container", "resources.memory"),
    ({"runtime": "sandbox"}, "contract.image", "artifacts"),
]


@pytest.mark.parametrize(("changes", "rule", "field"), BAD)
def test_what_no_container_is_made_of_is_refused(changes: dict[str, Any], rule: str, field: str) -> None:
    """[Z1]"""
    with pytest.raises(Refused) as caught:
        check_contract(contract(container(**changes)))
    assert (caught.value.rule, caught.value.field) == (rule, f"workloads.web.{field}")
    sound = manifest(container())
    given = changes
    if "resources" in changes:
        need = changes["resources"]
        given = {"resources": replace(sound.workloads[0].resources, memory_bytes=need.memory_bytes)}
    with pytest.raises(Refused) as caught:
        check_manifest(replace(sound, workloads=(replace(sound.workloads[0], **given),)))
    assert (caught.value.rule, caught.value.field) == (rule, f"workloads.web.{field}")


def test_nothing_else_has_a_user_or_a_folder() -> None:
    check_contract(contract(service()))
    for changes in ({"user": "1:1"}, {"working_dir": "/srv"}, {"working_dir": ""}):
        with pytest.raises(Refused) as caught:
            check_contract(contract(service(**changes)))
        assert caught.value.rule == "contract.container"


def test_a_volume_with_a_comma_in_its_path_is_refused() -> None:
    template = VolumeTemplate(name="data", path="/a,b", size_bytes=64 * MIB)
    with pytest.raises(Refused) as caught:
        check_contract(contract(container(volumes=(template,))))
    assert caught.value.rule == "contract.container"
    sound = manifest(container())
    volume = Volume(name="data", path="/a,ro", size_bytes=64 * MIB)
    with pytest.raises(Refused) as caught:
        check_manifest(replace(sound, workloads=(replace(sound.workloads[0], volumes=(volume,)),)))
    assert caught.value.rule == "contract.container"


@pytest.mark.parametrize(
    ("old", "new", "rule", "field"),
    [
        (
            "runtime: oci",
            "runtime: sandbox\n    command: [/bin/x]",
            "contract.image",
            "workloads.web.artifacts",
        ),
        ("runtime: oci\n", "runtime: sandbox\n", "contract.command", "workloads.web.command"),
        ("      - {path: /, image: nginx.oci}\n", "", "contract.image", "workloads.web.artifacts"),
        ("path: /, image", "path: /x, image", "contract.image", "workloads.web.artifacts"),
        (
            "image: nginx.oci",
            "image: ../nginx.oci",
            "contract.source_path",
            "workloads.web.artifacts[0].image",
        ),
        ("image: nginx.oci", "image: a, tree: b", "contract.artifact", "workloads.web.artifacts[0]"),
        ("runtime: oci", "runtime: oci\n    user: 'a b'", "contract.container", "workloads.web.user"),
        ("runtime: oci", "runtime: oci\n    user: '${u}'", "contract.container", "workloads.web.user"),
        ("runtime: oci", "runtime: oci\n    working_dir: srv", "contract.path", "workloads.web.working_dir"),
        ("memory: 96MiB", "memory: 16MiB", "contract.container", "workloads.web.resources.memory"),
    ],
)
def test_a_source_that_breaks_a_rule_is_told(old: str, new: str, rule: str, field: str) -> None:
    found = problems(SOURCE.replace(old, new, 1))
    assert (rule, field) in [(problem.rule, problem.field) for problem in found]
