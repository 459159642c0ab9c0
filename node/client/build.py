"""Builds a contract: reads its source and files, and writes what can be signed and handed out.

Output: `OUT/artifacts/SHA256` for each artifact and `OUT/contract.json`, the built contract. The
same source gives the same bytes on every machine: trees become ustar archives, sorted by path, with
no times and no owners. Files are streamed, so memory stays small whatever their size.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from msgspec.structs import replace

from ledger.contracts.check import decode_contract
from ledger.contracts.language import parse_contract
from ledger.contracts.source import ContractSource, SourceArtifact
from ledger.contracts.types import Contract, WorkloadTemplate
from ledger.errors import Refused
from ledger.limits import ARTIFACT_BYTES_MAX, CONTRACT_BYTES_MAX
from ledger.manifests.types import Artifact, ArtifactKind
from node.client.container import BuiltFile, container_of, pack_image
from node.executor.tree import TreeRefused, check_relative, read_tree
from node.files.chunks import chunk_digests, chunks_root, read_chunks

SOURCE_NAME: Final = "contract.yaml"
BUILT_NAME: Final = "contract.json"
ARTIFACTS_NAME: Final = "artifacts"
WAYS_OUT: Final = {
    "build.source": "name what is there, from the contract's folder on",
    "build.outside": "copy it into the contract's folder",
    "build.link": "put the file itself in its place",
    "build.special": "put a plain file in its place",
    "build.setuid": "take the bits off: chmod ug-s",
    "build.too_large": "make it smaller, or several of it",
    "build.tree": "rename it, or leave it out",
    "build.output": "build into another folder: --out",
    "build.image": "look at it: skopeo inspect --config oci:PATH; what the contract says comes first",
}
"""What an author may do about a file that cannot be built, by its rule."""


@dataclass(frozen=True, slots=True)
class Built:
    """A built contract and its artifacts, one for each place where it is used."""

    contract: Contract
    artifacts: tuple[BuiltFile, ...]


def read_source(source_dir: Path) -> ContractSource:
    """`contract.yaml` of a folder, checked. Raises ContractError, or Refused(build.source)."""
    path = source_dir / SOURCE_NAME
    try:
        with path.open("rb") as file:
            data = file.read(CONTRACT_BYTES_MAX + 1)
        text = data.decode()
    except OSError as error:
        raise Refused("build.source", f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Refused("build.source", f"{path} is not UTF-8 text") from None
    return parse_contract(text, str(path))


def build(source_dir: Path, out_dir: Path) -> Built:
    """Builds the contract of `source_dir` into `out_dir`, which is made when missing.

    `contract.json` is replaced last, so a build that fails leaves the former one as it was. Raises
    ContractError naming the place in the source, of its rules and of files (build.*); Refused(build.output).
    """
    source = read_source(source_dir)
    store = out_dir / ARTIFACTS_NAME
    try:
        store.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused("build.output", f"{store}: {error.strerror}") from None
    try:
        contract, built = _built(source, source_dir, store)
    except Refused as error:
        if not error.field:
            raise
        raise source.located(str(source_dir / SOURCE_NAME), error, WAYS_OUT.get(error.rule, "")) from None
    with _new_file(out_dir, out_dir / BUILT_NAME) as file:
        file.write(contract.encode())
    return Built(contract, built)


def _built(source: ContractSource, source_dir: Path, store: Path) -> tuple[Contract, tuple[BuiltFile, ...]]:
    built = tuple(_build_artifact(item, source_dir, store) for item in source.artifacts)
    containers = {
        workload.name: container_of(workload, [item for item in built if item.workload == workload.name])
        for workload in source.contract.workloads
        if workload.runtime == "oci"
    }
    artifacts = {(item.workload, item.artifact.path): item.artifact for item in built}
    return source.built(artifacts, containers), built


def load_built(out_dir: Path) -> Built:
    """What `build` wrote, checked: the contract's rules, and size and digest of every artifact.

    Raises Refused: build.source when a file is missing, build.tampered when its bytes are others.
    """
    try:
        with (out_dir / BUILT_NAME).open("rb") as file:
            contract = decode_contract(file.read(CONTRACT_BYTES_MAX + 1))
    except OSError as error:
        raise Refused(
            "build.source", f"{out_dir / BUILT_NAME}: {error.strerror}; build the contract first"
        ) from None
    built = []
    for workload in contract.workloads:
        for artifact in workload.artifacts:
            path = out_dir / ARTIFACTS_NAME / artifact.sha256
            field = f"workloads.{workload.name}.artifacts {artifact.path}"
            try:
                found = describe(path, artifact.path, artifact.kind, artifact.executable)
            except OSError as error:
                raise Refused("build.source", f"{path}: {error.strerror}", field) from None
            if found != artifact:
                raise Refused("build.tampered", f"{path} does not hold the bytes of the contract", field)
            built.append(BuiltFile(workload.name, artifact, path))
    return Built(contract, tuple(built))


def is_built_from(built: Contract, source: ContractSource) -> bool:
    """Whether a built contract may have come of this source. The files themselves are not looked at; of a
    container, what the source leaves out is its image's."""
    named = {(a.workload, a.path, a.kind, a.executable) for a in source.artifacts}
    found = {(w.name, a.path, a.kind, a.executable) for w in built.workloads for a in w.artifacts}
    by_name = {workload.name: workload for workload in source.contract.workloads}
    workloads = tuple(_unsettled(w, by_name.get(w.name, w)) for w in built.workloads)
    return named == found and bare(replace(built, workloads=workloads)) == bare(source.contract)


def bare(contract: Contract) -> Contract:
    """The contract without its artifacts."""
    workloads = tuple(
        replace(w, artifacts=(), working_dir=w.working_dir if w.runtime == "oci" else "/")
        for w in contract.workloads
    )
    return replace(contract, workloads=workloads)


def _unsettled(built: WorkloadTemplate, source: WorkloadTemplate) -> WorkloadTemplate:
    if built.runtime != "oci":
        return built
    names = source.environment
    return replace(
        built,
        command=built.command if source.command else (),
        environment={name: value for name, value in built.environment.items() if name in names},
        working_dir=source.working_dir and built.working_dir,
        user=source.user and built.user,
    )


def describe(file: Path, path: str, kind: ArtifactKind, executable: bool) -> Artifact:
    """The artifact that a file's bytes are, read in one pass. Raises OSError."""
    whole = hashlib.sha256()
    digests = []
    size_bytes = 0
    with file.open("rb") as opened:
        for chunk in read_chunks(opened):
            whole.update(chunk)
            digests.append(hashlib.sha256(chunk).digest())
            size_bytes += len(chunk)
    return Artifact(
        path=path,
        kind=kind,
        sha256=whole.hexdigest(),
        size_bytes=size_bytes,
        chunks=chunks_root(digests),
        executable=executable,
    )


def _build_artifact(item: SourceArtifact, source_dir: Path, store: Path) -> BuiltFile:
    field = item.field
    source = _resolve(item, source_dir, field)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=store) as folder:
        draft = Path(folder) / "draft"
        try:
            with draft.open("wb") as out:
                if item.kind == "tree":
                    _write_tree(source, store, out, field)
                elif item.kind == "image":
                    pack_image(source, out, field)
                else:
                    _copy_file(source, out, field)
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            raise Refused("build.source", f"{error.filename or source}: {error.strerror}", field) from None
        # Described from the copy: the source may change meanwhile, the copy does not.
        artifact = describe(draft, item.path, item.kind, item.executable)
        if artifact.size_bytes > ARTIFACT_BYTES_MAX:
            raise Refused(
                "build.too_large", f"{artifact.size_bytes} bytes, at most {ARTIFACT_BYTES_MAX}", field
            )
        if item.kind == "tree":
            with draft.open("rb") as tar:
                _check_tree(tar, artifact.size_bytes, field)
        draft.chmod(0o444)
        final = store / artifact.sha256
        os.replace(draft, final)
    return BuiltFile(item.workload, artifact, final)


def _resolve(item: SourceArtifact, source_dir: Path, field: str) -> Path:
    """The real file or folder. A relative source stays inside the contract's folder, links included."""
    root = source_dir.resolve()
    try:
        real = (root / item.source).resolve(strict=True)
    except (OSError, RuntimeError):
        raise Refused("build.source", f"{item.source} is not there", field) from None
    if not Path(item.source).is_absolute() and not real.is_relative_to(root):
        raise Refused("build.outside", f"{item.source} leads out of the contract's folder", field)
    wanted, found = ("folder", real.is_dir()) if item.kind == "tree" else ("file", real.is_file())
    if item.kind == "image":
        wanted, found = "file or folder", real.is_file() or real.is_dir()
    if not found:
        raise Refused("build.source", f"{item.source} is no {wanted}", field)
    return real


def _copy_file(source: Path, out: BinaryIO, field: str) -> None:
    with _open_regular(source, field) as file:
        for chunk in read_chunks(file):
            out.write(chunk)


@contextlib.contextmanager
def _open_regular(path: Path, field: str) -> Iterator[BinaryIO]:
    """A plain file, opened without following a link and without waiting on a fifo."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise Refused("build.special", f"{path} is no plain file", field)
        if mode & (stat.S_ISUID | stat.S_ISGID):
            raise Refused("build.setuid", f"{path} is setuid or setgid", field)
        yield file


def _write_tree(root: Path, store: Path, out: BinaryIO, field: str) -> None:
    if store.resolve().is_relative_to(root):
        raise Refused("build.output", f"the output folder lies inside the tree {root}", field)
    with tarfile.TarFile(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT, encoding="utf-8") as tar:
        for path, real in _members(root, field):
            info = tarfile.TarInfo(path)
            info.mtime = info.uid = info.gid = 0
            try:
                if real.is_dir():
                    info.type, info.mode = tarfile.DIRTYPE, 0o555
                    tar.addfile(info)
                    continue
                with _open_regular(real, field) as file:
                    status = os.fstat(file.fileno())
                    info.size = status.st_size
                    info.mode = 0o555 if status.st_mode & stat.S_IXUSR else 0o444
                    tar.addfile(info, file)
            except (ValueError, UnicodeError) as error:
                raise Refused("build.tree", f"{path}: {error}", field) from None


def _members(root: Path, field: str) -> list[tuple[str, Path]]:
    """(path in the tree, real path) of every folder and file, sorted by the bytes of the path.

    A link to a file inside the tree becomes a copy of it; any other link is refused.
    """
    found: list[tuple[str, Path]] = []
    pending = [root]
    while pending:
        folder = pending.pop()
        with os.scandir(folder) as listing:
            entries = list(listing)
        for entry in entries:
            at = Path(entry.path)
            path = at.relative_to(root).as_posix()
            broken = check_relative(path) if path.isprintable() else "a path has printable characters only"
            if broken is not None:
                raise Refused("build.tree", f"{path!r}: {broken}", field)
            real = _inside(root, at, path, field) if entry.is_symlink() else at
            found.append((path, real))
            if entry.is_dir(follow_symlinks=False):
                pending.append(at)
    return sorted(found, key=lambda member: member[0].encode())


def _inside(root: Path, link: Path, path: str, field: str) -> Path:
    try:
        real = link.resolve(strict=True)
    except (OSError, RuntimeError):
        raise Refused("build.link", f"{path} is a broken link", field) from None
    if not real.is_relative_to(root) or not real.is_file():
        raise Refused("build.link", f"{path} links to something other than a file of the tree", field)
    return real


def _check_tree(tar: BinaryIO, size_bytes: int, field: str) -> None:
    """What a node would refuse is refused here."""
    try:
        read_tree(tar, size_bytes)
    except TreeRefused as refused:
        raise Refused("build.tree", str(refused), field) from None


@contextlib.contextmanager
def _new_file(folder: Path, final: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `final` at once when it is complete, or never."""
    fd, name = tempfile.mkstemp(prefix=".building-", dir=folder)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(fd)
        os.chmod(name, 0o644)
        os.replace(name, final)
    except BaseException:
        os.unlink(name)
        raise


__all__ = [
    "Built",
    "BuiltFile",
    "build",
    "chunk_digests",
    "chunks_root",
    "describe",
    "load_built",
    "read_source",
]
