"""Containers at build: the same image gives the same bytes, and the contract says all that will run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest

from ledger.errors import Refused
from ledger.manifests.types import Artifact
from node.client.build import Built, build, load_built
from tests.executor.oci_images import blobs_of, digest, folder, layer, link, member, pack

SOURCE = """
gridpact: 1
name: web
version: 1.0.0
title: A web server from an image
parameters:
  word: {type: string, default: hi}
workloads:
  web:
    kind: service
    runtime: oci
    artifacts:
      - {path: /, image: image}
    resources: {cpu: 500m, memory: 96MiB, disk: 16MiB}
approval: {deploy: none, delete: none, signoff: none}
terms: {duration: 1h, budget: 1 credits}
"""
SYSTEM = layer(
    folder("usr"),
    folder("usr/bin"),
    member("usr/bin/web", b"#!", mode=0o755),
    member("usr/bin/notes", b"text"),
    link("bin", "usr/bin"),
    link("usr/bin/serve", "/bin/web"),
    link("usr/bin/loop", "loop"),
    folder("app"),
    member("app/run", b"#!", mode=0o755),
    folder("etc"),
    member("etc/passwd", b"root:x:0:0::/:/\nweb:x:101:102::/:/\n"),
    member("etc/group", b"root:x:0:\nweb:x:102:\nlog:x:7:\n"),
)
CONFIG = {
    "Entrypoint": ["serve"],
    "Cmd": ["--port", "${PORT}"],
    "Env": ["PATH=/usr/bin:/bin", "MODE=plain=1", "ODD=${word}"],
    "WorkingDir": "/app/",
    "User": "web",
}


def lay_out(at: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_bytes(data)


def built(
    tmp_path: Path, more: str = "", config: Any = CONFIG, files: dict[str, bytes] | None = None
) -> Built:
    source = tmp_path / "source"
    lay_out(source / "image", blobs_of([SYSTEM], config=config) if files is None else files)
    text = SOURCE.replace("    runtime: oci\n", f"    runtime: oci\n{more}")
    (source / "contract.yaml").write_text(text)
    return build(source, tmp_path / "out")


def test_what_the_contract_does_not_say_the_image_does(tmp_path: Path) -> None:
    """[Z2]"""
    made = built(tmp_path)
    web = made.contract.workloads[0]
    assert web.command == ("/usr/bin/serve", "--port", "$${PORT}")
    assert web.environment == {"PATH": "/usr/bin:/bin", "MODE": "plain=1", "ODD": "$${word}"}
    assert (web.working_dir, web.user) == ("/app", "101:102")
    (artifact,) = web.artifacts
    assert (artifact.kind, artifact.path) == ("image", "/")
    assert load_built(tmp_path / "out").contract == made.contract


def test_what_the_contract_says_counts(tmp_path: Path) -> None:
    more = "    command: [./run, '${word}']\n    user: '5:log'\n    environment: {MODE: mine}\n"
    web = built(tmp_path, more).contract.workloads[0]
    assert (web.command, web.user) == (("/app/run", "${word}"), "5:7")
    assert web.environment["MODE"] == "mine" and web.environment["PATH"] == "/usr/bin:/bin"
    more = "    command: [/bin/web]\n    working_dir: /srv\n    user: '101'\n    health: {exec: [/bin/web]}\n"
    web = built(tmp_path / "two", more, config={}).contract.workloads[0]
    assert (web.command, web.working_dir, web.user) == (("/bin/web",), "/srv", "101:102")
    assert web.environment["PATH"].startswith("/usr/local/sbin:")


def test_a_folder_and_a_tar_and_any_wrapping_give_the_same_bytes(tmp_path: Path) -> None:
    """[Z2]"""
    one = built(tmp_path / "one").contract.workloads[0].artifacts
    files = blobs_of([SYSTEM], config=CONFIG)
    (tmp_path / "two/source").mkdir(parents=True)
    (tmp_path / "two/source/image").write_bytes(pack(files | {"repositories": b"{}", "manifest.json": b"[]"}))
    (tmp_path / "two/source/contract.yaml").write_text(SOURCE)
    assert build(tmp_path / "two/source", tmp_path / "two/out").contract.workloads[0].artifacts == one
    # An index in an index, as builders of several platforms write it, with names beside.
    inner = files["index.json"]
    entry = {
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": f"sha256:{digest(inner)}",
        "size": len(inner),
        "annotations": {"org.opencontainers.image.ref.name": "web:1"},
    }
    wrapped = files | {
        f"blobs/sha256/{digest(inner)}": inner,
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
    }
    assert built(tmp_path / "three", files=wrapped).contract.workloads[0].artifacts == one
    with tarfile.open(tmp_path / "two/out/artifacts" / one[0].sha256) as tar:
        assert sorted(tar.getnames())[-2:] == ["index.json", "oci-layout"]


@pytest.mark.parametrize(
    ("more", "config", "field"),
    [
        ("", {}, "workloads.web.command"),
        ("    command: [nothing]\n", CONFIG, "workloads.web.command[0]"),
        ("    command: [/usr/bin/notes]\n", CONFIG, "workloads.web.command[0]"),
        ("    command: [/usr/bin/loop]\n", CONFIG, "workloads.web.command[0]"),
        ("    command: [/usr]\n", CONFIG, "workloads.web.command[0]"),
        ("    health: {exec: [/usr/bin/none]}\n", CONFIG, "workloads.web.health.exec[0]"),
        ("    health: {exec: [/usr/bin/notes]}\n", CONFIG, "workloads.web.health.exec[0]"),
        ("    user: nobody\n", CONFIG, "workloads.web.user"),
        ("    user: '1:nobody'\n", CONFIG, "workloads.web.user"),
        ("", CONFIG | {"Cmd": "text"}, "workloads.web"),
        ("", CONFIG | {"User": 3}, "workloads.web.user"),
    ],
)
def test_what_the_image_has_not_is_refused(tmp_path: Path, more: str, config: Any, field: str) -> None:
    with pytest.raises(Refused) as caught:
        built(tmp_path, more, config)
    assert (caught.value.rule, caught.value.field) == ("build.image", field)


def test_a_parameter_is_no_program_and_a_user_too_high_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        built(tmp_path, "    command: ['${word}']\n")
    assert caught.value.rule == "contract.parameter_in_path"
    with pytest.raises(Refused) as caught:
        built(tmp_path / "two", config=CONFIG | {"User": "99999"})
    assert caught.value.rule == "contract.container"


def test_an_image_that_is_not_what_it_says_is_not_built(tmp_path: Path) -> None:
    files = blobs_of([SYSTEM], config=CONFIG, gzipped=False)
    name = f"blobs/sha256/{digest(SYSTEM)}"
    changed = files[name].replace(b"#!", b"#?")
    evil = layer(link("app", "/etc"), member("app/passwd", b"root::0:0::/:/"))
    for number, bad in enumerate(
        (files | {name: changed}, {k: v for k, v in files.items() if k != name}, blobs_of([evil]), {"x": b""})
    ):
        with pytest.raises(Refused) as caught:
            built(tmp_path / str(number), files=bad)
        assert caught.value.rule == "build.image"
        assert not (tmp_path / str(number) / "out/contract.json").exists()
    (tmp_path / "source").mkdir()
    (tmp_path / "source/contract.yaml").write_text(SOURCE)
    (tmp_path / "source/image").write_bytes(b"no tar")
    with pytest.raises(Refused) as caught:
        build(tmp_path / "source", tmp_path / "out")
    assert caught.value.rule == "build.image"


def test_an_artifact_lies_on_top_and_may_be_the_program(tmp_path: Path) -> None:
    source = tmp_path / "source"
    lay_out(source / "image", blobs_of([SYSTEM], config=CONFIG))
    (source / "tool").write_bytes(b"#!")
    item = "      - {path: /opt/tool, file: tool, executable: true}\n    resources"
    text = SOURCE.replace("    resources", item, 1).replace("oci\n", "oci\n    command: [/opt/tool]\n", 1)
    (source / "contract.yaml").write_text(text)
    web = build(source, tmp_path / "out").contract.workloads[0]
    assert web.command == ("/opt/tool",)
    assert [(a.path, a.kind) for a in web.artifacts] == [("/", "image"), ("/opt/tool", "file")]
    assert isinstance(web.artifacts[0], Artifact)


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("podman") is None, reason="only root with podman here")
def test_what_podman_itself_saves_is_read(tmp_path: Path) -> None:
    """Made from a tar, saved in both forms, and both give the same image; no registry is asked."""
    (tmp_path / "root.tar").write_bytes(SYSTEM)
    with tempfile.TemporaryDirectory(prefix="gp-") as short:  # podman takes no long paths
        _save_and_build(tmp_path, [f"--{name}={short}/{name}" for name in ("root", "runroot", "tmpdir")])


def _save_and_build(tmp_path: Path, places: list[str]) -> None:

    def podman(*words: str) -> None:
        command = ["podman", *places, "--storage-driver=vfs", "--cgroup-manager=cgroupfs", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stderr

    podman("import", "--change", 'CMD ["serve"]', "--change", "WORKDIR /app", "root.tar", "local/web")
    made = []
    for form, at in (("oci-dir", "one"), ("oci-archive", "two")):
        source = tmp_path / at / "source"
        source.mkdir(parents=True)
        podman("save", "--format", form, "--output", str(source / "image"), "local/web")
        (source / "contract.yaml").write_text(SOURCE)
        made.append(build(source, tmp_path / at / "out").contract.workloads[0])
    assert made[0].command == ("/usr/bin/serve",) and made[0].working_dir == "/app"
    assert made[0] == made[1]
