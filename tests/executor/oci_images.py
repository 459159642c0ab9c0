"""Makes small container images for tests: layers as tars, and the layout that holds them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from node.executor.oci.layout import MACHINES

BUSYBOX = Path("/bin/busybox")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Member(tarfile.TarInfo):
    """A member, with its bytes."""

    data: bytes = b""


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **fields: Any) -> Member:
    """A member of a layer, as it stands; `fields` of its header."""
    info = Member(name)
    info.type, info.data, info.size = kind, data, len(data)
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def layer(*members: Member, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A layer's tar of these members, as they stand."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for info in members:
            tar.addfile(info, io.BytesIO(info.data))
    return buffer.getvalue()


def folder(name: str, **fields: Any) -> Member:
    return member(name, kind=tarfile.DIRTYPE, **fields)


def link(name: str, target: str) -> Member:
    return member(name, kind=tarfile.SYMTYPE, linkname=target)


def hard(name: str, target: str) -> Member:
    return member(name, kind=tarfile.LNKTYPE, linkname=target)


def blobs_of(
    layers: Sequence[bytes],
    config: Mapping[str, Any] | None = None,
    gzipped: bool = True,
    **changes: Any,
) -> dict[str, bytes]:
    """The files of a layout by name. `changes` of the image's configuration, such as its architecture."""
    files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}

    def add(data: bytes, kind: str) -> dict[str, Any]:
        files[f"blobs/sha256/{digest(data)}"] = data
        return {"mediaType": kind, "digest": f"sha256:{digest(data)}", "size": len(data)}

    whole = {
        "os": "linux",
        "architecture": MACHINES.get(os.uname().machine, os.uname().machine),
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(one)}" for one in layers]},
    } | changes
    named = [
        add(gzip.compress(one, mtime=0), LAYER + "+gzip") if gzipped else add(one, LAYER) for one in layers
    ]
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "layers": named}
    manifest["config"] = add(json.dumps(whole).encode(), CONFIG)
    index = {"schemaVersion": 2, "manifests": [add(json.dumps(manifest).encode(), MANIFEST)]}
    files["index.json"] = json.dumps(index).encode()
    return files


def pack(files: Mapping[str, bytes]) -> bytes:
    """The artifact: one plain tar of a layout's files."""
    return layer(*(member(name, files[name]) for name in sorted(files)), form=tarfile.USTAR_FORMAT)


def image(*layers: bytes, **options: Any) -> bytes:
    """An image of these layers, as an artifact."""
    return pack(blobs_of(layers, **options))


def site_image(checkout: Path, folder: Path) -> Path:
    """A copy of the example with an image, in `folder`, its image made by its own program."""
    source = folder / "site-image"
    shutil.copytree(checkout / "examples/site-image", source, ignore=shutil.ignore_patterns("image"))
    command = [sys.executable, str(checkout / "examples/site-image/make_image.py"), str(source / "image")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return source


def busybox_layer() -> bytes:
    """A small system: busybox, a link to it by each of a few names, two users."""
    return layer(
        folder("bin"),
        member("bin/busybox", BUSYBOX.read_bytes(), mode=0o755),
        *(link(f"bin/{name}", "busybox") for name in ("sh", "ls", "cat", "sleep", "id", "touch", "head")),
        folder("etc"),
        member("etc/passwd", b"root:x:0:0:root:/:/bin/sh\nweb:x:1000:1000:web:/:/bin/sh\n"),
        member("etc/group", b"root:x:0:\nweb:x:1000:\n"),
        folder("srv"),
        member("srv/private", b"for one user alone\n", mode=0o600, uid=1000, gid=1000),
    )
