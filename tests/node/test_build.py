"""Building: the same bytes on every machine, links and special files refused, nothing half done."""

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from ledger.contracts.check import decode_contract
from ledger.errors import Refused
from ledger.limits import CHUNK_BYTES
from ledger.text.yaml_tree import ContractError
from node.client.build import build, chunk_digests, chunks_root, load_built, read_source
from node.executor.tree import read_tree
from node.files.chunks import read_chunks

SOURCE = """\
gridpact: 1
name: tiny
version: 1.0.0
title: Tiny
workloads:
  run:
    kind: job
    command: [/bin/tool]
    artifacts:
      - {path: /bin/tool, file: tool, executable: true}
      - {path: /data, tree: data}
    resources: {cpu: 100m, memory: 16MiB}
approval: {deploy: none, signoff: none, delete: none}
terms: {duration: 1h, budget: 1 credits}
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "data/deep").mkdir(parents=True)
    (folder / "contract.yaml").write_text(SOURCE)
    (folder / "tool").write_bytes(b"#!tool")
    (folder / "data/b.txt").write_text("b")
    (folder / "data/a.sh").write_text("a")
    (folder / "data/a.sh").chmod(0o755)
    (folder / "data/deep/c.txt").write_text("c" * 1_000)
    return folder


def refused(source: Path, tmp_path: Path) -> Refused:
    with pytest.raises(Refused) as caught:
        build(source, tmp_path / "out")
    return caught.value


def test_what_is_written(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    built = build(source, out)
    assert decode_contract((out / "contract.json").read_bytes()) == built.contract
    names = {path.name for path in (out / "artifacts").iterdir()}
    assert names == {item.artifact.sha256 for item in built.artifacts}
    for item in built.artifacts:
        data = item.file.read_bytes()
        assert hashlib.sha256(data).hexdigest() == item.artifact.sha256 == item.file.name
        assert len(data) == item.artifact.size_bytes
        assert chunks_root(chunk_digests(item.file)) == item.artifact.chunks
    assert load_built(out) == built


def test_a_tree_is_sorted_plain_and_without_owner_or_time(source: Path, tmp_path: Path) -> None:
    (source / "data/link.txt").symlink_to("deep/c.txt")
    tree = build(source, tmp_path / "out").artifacts[1]
    with tarfile.open(tree.file) as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == ["a.sh", "b.txt", "deep", "deep/c.txt", "link.txt"]
    assert [m.mode for m in members] == [0o555, 0o444, 0o555, 0o444, 0o444]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
    assert members[4].isfile()
    assert members[4].size == 1_000
    with tree.file.open("rb") as file:
        assert len(read_tree(file, tree.artifact.size_bytes)) == 5


def test_same_source_same_bytes(source: Path, tmp_path: Path) -> None:
    first = build(source, tmp_path / "out")
    other = tmp_path / "elsewhere"
    (other / "data/deep").mkdir(parents=True)
    for name in (
        "data/deep/c.txt",
        "data/b.txt",
        "data/a.sh",
        "tool",
        "contract.yaml",
    ):  # another order of creation
        shutil.copy(source / name, other / name)
        os.utime(other / name, (1, 1))
    (other / "tool").chmod(0o600)
    again = build(other, tmp_path / "out2")
    assert again.contract == first.contract
    assert [a.file.read_bytes() for a in again.artifacts] == [a.file.read_bytes() for a in first.artifacts]


def test_a_changed_byte_changes_the_contract(source: Path, tmp_path: Path) -> None:
    first = build(source, tmp_path / "out").contract
    (source / "data/deep/c.txt").write_text("d" + "c" * 999)
    assert build(source, tmp_path / "out").contract != first


def link_out(source: Path) -> None:
    (source / "data/out").symlink_to("../tool")


def link_broken(source: Path) -> None:
    (source / "data/gone").symlink_to("nothing")


def link_folder(source: Path) -> None:
    (source / "data/again").symlink_to(".")


def link_loop(source: Path) -> None:
    (source / "data/loop").symlink_to("loop")


def fifo(source: Path) -> None:
    os.mkfifo(source / "data/pipe")


def setuid(source: Path) -> None:
    (source / "data/b.txt").chmod(0o4755)


def setuid_file(source: Path) -> None:
    (source / "tool").chmod(0o2755)


def control_name(source: Path) -> None:
    (source / "data/a\nb").write_text("x")


def not_utf8_name(source: Path) -> None:
    (Path(os.fsdecode(os.fsencode(source) + b"/data/\xff"))).write_text("x")


def long_name(source: Path) -> None:
    (source / "data" / ("n" * 150)).write_text("x")


def too_deep(source: Path) -> None:
    (source / "data" / "/".join("d" * 40)).mkdir(parents=True)


def missing_file(source: Path) -> None:
    (source / "tool").unlink()


def folder_for_file(source: Path) -> None:
    (source / "tool").unlink()
    (source / "tool").mkdir()


def file_for_tree(source: Path) -> None:
    shutil.rmtree(source / "data")
    (source / "data").write_text("x")


def link_leaves_folder(source: Path) -> None:
    (source / "tool").unlink()
    (source.parent / "secret").write_text("s")
    (source / "tool").symlink_to("../secret")


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (link_out, "build.link"),
        (link_broken, "build.link"),
        (link_folder, "build.link"),
        (link_loop, "build.link"),
        (fifo, "build.special"),
        (setuid, "build.setuid"),
        (setuid_file, "build.setuid"),
        (control_name, "build.tree"),
        (not_utf8_name, "build.tree"),
        (long_name, "build.tree"),
        (too_deep, "build.tree"),
        (missing_file, "build.source"),
        (folder_for_file, "build.source"),
        (file_for_tree, "build.source"),
        (link_leaves_folder, "build.outside"),
    ],
)
def test_what_is_refused_and_nothing_half_done(
    spoil: Callable[[Path], None], rule: str, source: Path, tmp_path: Path
) -> None:
    before = build(source, tmp_path / "out")
    spoil(source)
    error = refused(source, tmp_path)
    assert (error.rule, error.field.startswith("workloads.run.artifacts[")) == (rule, True), error
    assert isinstance(error, ContractError)
    (problem,) = error.problems
    lines = SOURCE.splitlines()
    assert "{path: /" in lines[problem.mark.line - 1] and problem.suggestion, str(error)
    assert load_built(tmp_path / "out") == before
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.startswith(".building")]


def test_the_output_may_not_lie_in_a_tree(source: Path) -> None:
    with pytest.raises(Refused, match=r"build\.output"):
        build(source, source / "data/out")


def test_an_output_that_cannot_be_made(source: Path) -> None:
    with pytest.raises(Refused, match=r"build\.output"):
        build(source, source / "tool/out")


def test_sources_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"build\.source"):
        read_source(tmp_path)
    (tmp_path / "contract.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(Refused, match="not UTF-8"):
        read_source(tmp_path)
    (tmp_path / "contract.yaml").write_text("name: x\n")
    with pytest.raises(ContractError, match=r"contract\.yaml:1:1: gridpact: contract\.missing_field"):
        read_source(tmp_path)


def test_tampered_output_is_found(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = build(source, out).artifacts[0].file
    file.chmod(0o644)
    file.write_bytes(b"#!toal")
    with pytest.raises(Refused, match=r"build\.tampered"):
        load_built(out)
    file.unlink()
    with pytest.raises(Refused, match=r"build\.source"):
        load_built(out)
    (out / "contract.json").unlink()
    with pytest.raises(Refused, match="build the contract first"):
        load_built(out)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_chunks(size: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(data)
    with path.open("rb", buffering=0) as file:
        assert b"".join(read_chunks(file)) == data
    wanted = [hashlib.sha256(data[at : at + CHUNK_BYTES]).digest() for at in range(0, size, CHUNK_BYTES)]
    assert list(chunk_digests(path)) == wanted
    assert chunks_root(wanted) == hashlib.sha256(b"".join(wanted)).hexdigest()


def test_memory_stays_small(source: Path, tmp_path: Path) -> None:
    with (source / "tool").open("wb") as file:
        file.truncate(96 * 2**20)
    shutil.copy(source / "tool", source / "data/big")
    tracemalloc.start()
    try:
        build(source, tmp_path / "out")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2**20


needs_busybox = pytest.mark.skipif(not Path("/bin/busybox").exists(), reason="needs Debian's busybox-static")


@needs_busybox
def test_the_mining_job_finds_what_is_there(checkout: Path, tmp_path: Path) -> None:
    """The built artifacts, unpacked and run as they would be; results against Python's own count."""
    built = build(checkout / "examples/mining", tmp_path / "out")
    by_path = {item.artifact.path: item.file for item in built.artifacts}
    corpus = tmp_path / "corpus"
    with tarfile.open(by_path["/corpus"]) as tar:
        corpus.mkdir()
        for member in tar.getmembers():
            data = tar.extractfile(member)
            assert data is not None, "the licence texts are plain files"
            (corpus / member.name).write_bytes(data.read())
    app = tmp_path / "app"
    app.mkdir()
    for name in ("mine.sh", "mine.awk"):
        shutil.copy(by_path[f"/app/{name}"], app / name)
    results = []
    for attempt in ("one", "two"):
        result = tmp_path / attempt
        result.mkdir()
        environment = {"TOP": "5", "CORPUS": str(corpus), "RESULT": str(result), "APP": str(app)}
        scratch = result / "scratch"
        scratch.mkdir()
        subprocess.run(
            ["/bin/busybox", "sh", str(app / "mine.sh")],
            env={**environment, "TMP": str(scratch)},
            check=True,
            timeout=60,
            capture_output=True,
        )
        results.append([(result / name).read_bytes() for name in ("words.tsv", "summary.json")])
    assert results[0] == results[1]
    rows = [line.split("\t") for line in results[0][0].decode().splitlines()]
    assert rows[0] == ["word", "count", "texts"]
    assert len(rows) == 6
    assert [int(row[1]) for row in rows[1:]] == sorted((int(row[1]) for row in rows[1:]), reverse=True)
    summary = json.loads(results[0][1])
    texts = {item["name"]: item for item in summary["texts"]}
    distinct = {path.read_bytes() for path in corpus.iterdir()}
    assert len(texts) == len(distinct) == summary["total"]["texts"]
    apache = (corpus / "Apache-2.0").read_text().lower()
    words = "".join(char if char.isalpha() or char == "'" else " " for char in apache).split()
    words = [word for word in (word.strip("'") for word in words) if word]
    assert texts["Apache-2.0"]["words"] == len(words)
    assert texts["Apache-2.0"]["distinct"] == len(set(words))
    assert texts["Apache-2.0"]["lines"] == apache.count("\n")
    said = texts["Apache-2.0"]["obligations"]
    for duty in ("shall", "must", "may"):
        negated = sum(pair == (duty, "not") for pair in itertools.pairwise(words))
        assert (said[duty], said[f"{duty}_not"]) == (words.count(duty) - negated, negated)


@needs_busybox
def test_the_site_has_whole_pages(checkout: Path, tmp_path: Path) -> None:
    built = build(checkout / "examples/site", tmp_path / "out")
    tree = next(item.file for item in built.artifacts if item.artifact.path == "/www")
    with tarfile.open(tree) as tar:
        names = set(tar.getnames())
        pages = {
            n: (tar.extractfile(n) or pytest.fail(n)).read().decode() for n in names if n.endswith(".html")
        }
    assert {"index.html", "approval.html", "about.html", "style.css"} <= names
    for page in pages.values():
        for quoted in page.split('href="')[1:]:
            assert quoted.split('"')[0] in names, "every link leads to a file of the site"
    health = built.contract.workloads[0].health
    assert health is not None
    assert (health.http_path or "").removeprefix("/") in names
