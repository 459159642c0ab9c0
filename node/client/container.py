"""Containers at build: packs an image from where its author has it, and settles what it runs.

A manifest says all that is approved, so nothing is left to the image but its bytes: what the contract does
not name of command, environment, folder and user, the image's own configuration says, and it is written down
here. Formats as image tools save them: an OCI image layout, as a folder or in a tar (`podman save --format
oci-archive`, `skopeo copy … oci:FOLDER`, `docker save` from 25 on). No registry is asked for anything.

[Z2] What a container runs stands in its contract, all of it: where the source is silent, the build takes
     command, environment, folder and user from the image's configuration, users as numbers. The same image
     in any wrapping gives the same artifact.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final

from ledger.contracts.source import Container
from ledger.contracts.types import WorkloadTemplate
from ledger.errors import Refused
from ledger.manifests.types import Artifact
from ledger.text.template import has_template
from node.executor.limits import IMAGE_JSON_BYTES_MAX
from node.executor.oci.flatten import Piece, Plan
from node.executor.oci.layers import ImageRefused
from node.executor.oci.layout import (
    BLOBS,
    INDEX,
    LAYOUT,
    OpenImage,
    descriptor,
    layers_of,
    one_manifest,
    open_image,
    parse,
)

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What container engines set where an image sets none."""

_LINKS_MAX: Final = 40  # as the kernel follows
_INDEX_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_COPY_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class BuiltFile:
    """An artifact and the file that holds its bytes."""

    workload: str
    artifact: Artifact
    file: Path


# --- packing ----------------------------------------------------------------------------------------------


def pack_image(source: Path, out: BinaryIO, field: str) -> None:
    """Write the image at `source`, a layout's folder or tar, as one tar that holds it and nothing else: the
    same image gives the same bytes. Raises Refused(build.image), and OSError."""
    with _opened(source, field) as files:
        try:
            _pack(files, out)
        except ImageRefused as error:
            raise Refused("build.image", f"{source}: {error}", field) from None


class _Files:
    """The files of a layout, by name."""

    def __init__(self, root: Path | None, tar: tarfile.TarFile | None) -> None:
        self._root = root
        self._tar = tar
        members = {} if tar is None else {member.name.removeprefix("./"): member for member in tar}
        self._members = {name: member for name, member in members.items() if member.isreg()}

    @contextmanager
    def open(self, name: str) -> Iterator[tuple[BinaryIO, int]]:
        """A file and its size. Raises ImageRefused when it is not there, OSError."""
        if self._root is not None:
            path = self._root / name
            if not path.is_file() or path.is_symlink():
                raise ImageRefused(name, "is not there: an OCI image layout is wanted")
            with path.open("rb") as file:
                yield file, os.fstat(file.fileno()).st_size
            return
        member = self._members.get(name)
        found = self._tar.extractfile(member) if self._tar is not None and member is not None else None
        if found is None or member is None:
            raise ImageRefused(name, "is not there: an OCI image layout is wanted")
        with found:
            yield found, member.size  # type: ignore[misc]  # a reader of bytes

    def json(self, name: str) -> dict[str, Any]:
        with self.open(name) as (file, size):
            if size > IMAGE_JSON_BYTES_MAX:
                raise ImageRefused(name, f"at most {IMAGE_JSON_BYTES_MAX} B")
            return parse(file.read(IMAGE_JSON_BYTES_MAX), name)


@contextmanager
def _opened(source: Path, field: str) -> Iterator[_Files]:
    if source.is_dir():
        yield _Files(source, None)
        return
    try:
        with tarfile.open(source, "r:") as tar:
            yield _Files(None, tar)
    except tarfile.TarError as error:
        raise Refused("build.image", f"{source}: no tar of an OCI image layout: {error}", field) from None


def _pack(files: _Files, out: BinaryIO) -> None:
    files.json(LAYOUT)
    index = files.json(INDEX)
    entries = index.get("manifests")
    while isinstance(entries, list) and len(entries) == 1 and _is_index(entries[0]):
        inner = descriptor(entries[0], INDEX, _INDEX_TYPES)
        index = files.json(BLOBS + inner.digest)
        if index.get("manifests") == entries:
            break
        entries = index.get("manifests")
    named = one_manifest(index)
    manifest = files.json(BLOBS + named.digest)
    config = manifest.get("config")
    kind = config.get("mediaType") if isinstance(config, dict) else None
    inner = descriptor(config, "manifest.config", (str(kind),))
    blobs = {named.digest, inner.digest, *(layer.digest for layer in layers_of(manifest))}
    entry = {"digest": f"sha256:{named.digest}", "mediaType": named.kind, "size": named.size_bytes}
    made = {
        INDEX: _json({"manifests": [entry], "schemaVersion": 2}),
        LAYOUT: _json({"imageLayoutVersion": "1.0.0"}),
    }
    with tarfile.TarFile(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT, encoding="utf-8") as tar:
        for name in sorted({*made, *(BLOBS + digest for digest in blobs)}):
            info = tarfile.TarInfo(name)
            info.mtime = info.uid = info.gid = 0
            info.mode = 0o444
            if name in made:
                info.size = len(made[name])
                tar.addfile(info, BytesIO(made[name]))
                continue
            with files.open(name) as (file, size):
                info.size = size
                tar.addfile(info, file)


def _is_index(entry: object) -> bool:
    return isinstance(entry, dict) and entry.get("mediaType") in _INDEX_TYPES


def _json(value: Any) -> bytes:

    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


# --- what it runs -----------------------------------------------------------------------------------------


def container_of(workload: WorkloadTemplate, built: Sequence[BuiltFile]) -> Container:
    """What the workload runs: as its source says, and where that is silent, its image. Raises
    Refused(build.image), naming the field."""
    field = f"workloads.{workload.name}"
    file = next(item.file for item in built if item.artifact.kind == "image")
    with file.open("rb") as opened:
        try:
            image = open_image(opened.fileno(), os.fstat(opened.fileno()).st_size)
        except ImageRefused as error:
            raise Refused("build.image", str(error), f"{field}.artifacts /") from None
    try:
        others = {item.artifact.path for item in built if item.artifact.executable}
        return _settle(workload, image, others, field)
    finally:
        image.close()


def _settle(workload: WorkloadTemplate, image: OpenImage, others: set[str], field: str) -> Container:
    config, plan = image.config, image.plan
    environment = _environment(config.get("Env"), field) | workload.environment
    environment.setdefault("PATH", PATH)
    folder = workload.working_dir or _string(config.get("WorkingDir"), f"{field}.working_dir") or "/"
    folder = folder.rstrip("/") or "/"
    command = workload.command
    if not command:
        words = [*_strings(config.get("Entrypoint"), field), *_strings(config.get("Cmd"), field)]
        command = tuple(_plain(word) for word in words)
    if not command:
        raise Refused("build.image", "neither the contract nor the image names a command", f"{field}.command")
    first = _program(command[0], environment["PATH"], folder, plan, others, f"{field}.command[0]")
    if workload.health is not None and workload.health.command:
        _program(workload.health.command[0], "", "/", plan, others, f"{field}.health.exec[0]")
    user = workload.user or _string(config.get("User"), f"{field}.user")
    return Container((first, *command[1:]), environment, folder, _user(user, image, f"{field}.user"))


def _plain(text: str) -> str:
    """An image knows no parameters: what looks like a reference is plain text."""
    return text.replace("${", "$${")


def _environment(entries: object, field: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in _strings(entries, f"{field}.environment"):
        name, _, value = entry.partition("=")
        found[name] = _plain(value)
    return found


def _strings(value: object, field: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise Refused("build.image", "the image's configuration holds no list of texts here", field)
    return [str(one) for one in value]


def _string(value: object, field: str) -> str:
    if value is not None and not isinstance(value, str):
        raise Refused("build.image", "the image's configuration holds no text here", field)
    return value or ""


def _program(word: str, path: str, folder: str, plan: Plan, others: set[str], field: str) -> str:
    """The absolute path of the program that the first word of a command names, looked up as a shell would."""
    if has_template(word):
        raise Refused("contract.parameter_in_path", "a path never holds a parameter", field)
    if "/" in word:
        tried = [word if word.startswith("/") else f"{folder.rstrip('/')}/{word.removeprefix('./')}"]
    else:
        tried = [f"{part.rstrip('/')}/{word}" for part in path.split(":") if part.startswith("/")]
    for each in tried:
        piece = lookup(plan, each)
        if each in others or (piece is not None and piece.kind == "file" and piece.mode & 0o111):
            return each
    raise Refused("build.image", f"{word!r} is no program of the image ({', '.join(tried)[:200]})", field)


def lookup(plan: Plan, path: str) -> Piece | None:
    """What stands at a path of an image, links followed as the kernel does; None when nothing does."""
    parts, at, links = [part for part in path.split("/") if part][::-1], "", 0
    piece: Piece | None = Piece("folder", 0o755)
    while parts:
        part = parts.pop()
        if part in (".", ".."):
            at = at.rpartition("/")[0] if part == ".." else at
            continue
        here = f"{at}/{part}" if at else part
        piece = plan.pieces.get(here)
        if piece is None:
            return None
        if piece.kind == "link":
            links += 1
            if links > _LINKS_MAX:
                return None
            at = "" if piece.target.startswith("/") else at
            parts += [one for one in piece.target.split("/") if one][::-1]
        else:
            at = here
    return plan.pieces.get(at, Piece("folder", 0o755)) if piece is not None else None


def _user(text: str, image: OpenImage, field: str) -> str:
    """UID:GID of what an image or a contract calls its user: numbers, or names of the image's own files."""
    name, _, group = text.partition(":")
    users, groups = _table(image, "/etc/passwd"), _table(image, "/etc/group")
    if not name:
        uid, gid = "0", "0"
    elif name.isdecimal():
        uid = name
        gid = next((row[3] for row in users.values() if len(row) > 3 and row[2] == name), "0")
    elif name in users and len(users[name]) > 3:
        uid, gid = users[name][2], users[name][3]
    else:
        raise Refused("build.image", f"the image has no user {name!r}", field)
    if group and not group.isdecimal():
        if group not in groups or len(groups[group]) < 3:
            raise Refused("build.image", f"the image has no group {group!r}", field)
        group = groups[group][2]
    return f"{uid}:{group or gid}"


def _table(image: OpenImage, path: str) -> Mapping[str, list[str]]:
    """The rows of a file such as passwd(5), by name."""
    piece = lookup(image.plan, path)
    if piece is None or piece.kind != "file" or piece.size_bytes > _COPY_BYTES:
        return {}
    data = os.pread(image.layers[piece.source].fd, piece.size_bytes, piece.offset)
    rows = [line.split(":") for line in data.decode(errors="replace").splitlines() if ":" in line]
    return {row[0]: row for row in reversed(rows)}
