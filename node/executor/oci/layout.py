"""Opens an image artifact: an OCI image layout in one tar, checked digest by digest.

OCI Image Specification 1.1: "Image Layout", "Image Manifest", "Image Configuration". The artifact holds one
image and nothing else. Layers are decompressed into sealed memfds, in bounds, and hashed there: what was
hashed is what is used. No registry is ever asked for anything.

[Z3] An image is used when every part of it is what it is named: its manifest by the index, configuration
     and layers by the manifest, decompressed layers by the configuration; when nothing else is in the
     artifact; and when all layers, decompressed, keep within IMAGE_BYTES_MAX. A node runs images for its
     own machine alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from node.executor.host.seal import Sealed
from node.executor.limits import IMAGE_BYTES_MAX, IMAGE_JSON_BYTES_MAX, IMAGE_LAYERS_MAX
from node.executor.oci.flatten import Plan, flatten
from node.executor.oci.layers import ImageRefused
from node.executor.tree import Member, TreeRefused, chunks, read_tree

INDEX, LAYOUT, BLOBS = "index.json", "oci-layout", "blobs/sha256/"
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_CONFIG_TYPES = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)
_PLAIN = ("application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar")
_GZIP = ("application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_CHUNK_BYTES = 1 << 20
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
MACHINES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "riscv64": "riscv64",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
}
"""What the kernel calls a machine, and what images call it."""


@dataclass
class OpenImage:
    """A verified image: its uncompressed layers, lowest first, what they make, and its configuration.
    `digest`: of its manifest, in hex, by which engines and registries name it."""

    digest: str
    architecture: str
    config: dict[str, Any]
    layers: list[Sealed] = field(default_factory=list)
    plan: Plan = field(default_factory=Plan)

    def close(self) -> None:
        """Give up the layers; again is harmless."""
        for layer in self.layers:
            layer.close()


@dataclass(frozen=True)
class Descriptor:
    """What names a blob: its type, sha256 in hex, and size."""

    kind: str
    digest: str
    size_bytes: int


def open_image(fd: int, size_bytes: int) -> OpenImage:
    """Return the image in the tar behind `fd`, left open. Raises ImageRefused; nothing is kept then."""
    with os.fdopen(os.dup(fd), "rb") as tar:
        try:
            members = {member.path: member for member in read_tree(tar, size_bytes) if not member.is_dir}
        except TreeRefused as error:
            raise ImageRefused(error.member, error.rule) from error
        blobs = _Blobs(tar, members)
        if blobs.json(LAYOUT).get("imageLayoutVersion") != "1.0.0":
            raise ImageRefused(LAYOUT, "imageLayoutVersion 1.0.0")
        named = one_manifest(blobs.json(INDEX))
        manifest = blobs.blob_json(named, "manifest")
        config = blobs.blob_json(
            descriptor(manifest.get("config"), "manifest.config", _CONFIG_TYPES), "config"
        )
        layers = layers_of(manifest)
        ids = _diff_ids(config, len(layers))
        if config.get("os") != "linux":
            raise ImageRefused("config.os", "linux")
        inner = config.get("config")
        found = OpenImage(
            named.digest, str(config.get("architecture")), inner if isinstance(inner, dict) else {}
        )
        try:
            left = IMAGE_BYTES_MAX
            for number, (layer, wanted) in enumerate(zip(layers, ids, strict=True)):
                sealed = _unpack(
                    blobs.read(layer, f"layers[{number}]"), layer.kind in _GZIP, left, wanted, number
                )
                found.layers.append(sealed)
                left -= sealed.size_bytes
            blobs.all_used()
            found.plan = plan_of(found.layers)
        except BaseException:
            found.close()
            raise
    return found


def plan_of(layers: list[Sealed]) -> Plan:
    """What the layers make together. Raises ImageRefused."""
    return plan_of_fds([(layer.fd, layer.size_bytes) for layer in layers])


def plan_of_fds(layers: list[tuple[int, int]]) -> Plan:
    """The same from descriptors and sizes."""
    opened = [(n, os.fdopen(os.dup(fd), "rb"), size) for n, (fd, size) in enumerate(layers)]
    try:
        return flatten(opened)
    finally:
        for _, file, _ in opened:
            file.close()


def one_manifest(index: dict[str, Any]) -> Descriptor:
    """The one image that an index names. Raises ImageRefused."""
    manifests = index.get("manifests")
    if index.get("schemaVersion") != 2 or not isinstance(manifests, list) or len(manifests) != 1:
        raise ImageRefused(INDEX, "names one image, and no more")
    return descriptor(manifests[0], INDEX, MANIFEST_TYPES)


def layers_of(manifest: dict[str, Any]) -> list[Descriptor]:
    """The layers that a manifest names, lowest first. Raises ImageRefused."""
    layers = manifest.get("layers")
    if manifest.get("schemaVersion") != 2 or not isinstance(layers, list):
        raise ImageRefused("manifest", "an image manifest, version 2")
    if not 1 <= len(layers) <= IMAGE_LAYERS_MAX:
        raise ImageRefused("manifest.layers", f"1 to {IMAGE_LAYERS_MAX}")
    return [descriptor(one, f"manifest.layers[{n}]", (*_PLAIN, *_GZIP)) for n, one in enumerate(layers)]


def descriptor(value: object, where: str, kinds: tuple[str, ...]) -> Descriptor:
    """A descriptor of one of these media types. Raises ImageRefused."""
    if not isinstance(value, dict):
        raise ImageRefused(where, "a descriptor wanted")
    kind, digest, size = (value.get(name) for name in ("mediaType", "digest", "size"))
    if kind not in kinds:
        raise ImageRefused(where, f"the media type {str(kind)[:80]!r} is none of: {', '.join(kinds)}")
    match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if match is None:
        raise ImageRefused(where, "a digest of the form sha256:HEX")
    if type(size) is not int or size < 0:
        raise ImageRefused(where, "a size in bytes")
    return Descriptor(kind, match[1], size)


def parse(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object. Raises ImageRefused."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageRefused(where, "is not JSON") from error
    if not isinstance(value, dict):
        raise ImageRefused(where, "is not a JSON object")
    return value


class _Blobs:
    """The members of the artifact, by name; each is counted as used when it is read."""

    def __init__(self, tar: BinaryIO, members: dict[str, Member]) -> None:
        self._tar = tar
        self._members = members
        self._unused = set(members)

    def json(self, path: str) -> dict[str, Any]:
        member = self._members.get(path)
        if member is None:
            raise ImageRefused(path, "is not there: an OCI image layout is wanted")
        if member.size_bytes > IMAGE_JSON_BYTES_MAX:
            raise ImageRefused(path, f"at most {IMAGE_JSON_BYTES_MAX} B")
        self._unused.discard(path)
        return parse(b"".join(chunks(self._tar, member)), path)

    def blob_json(self, named: Descriptor, where: str) -> dict[str, Any]:
        if named.size_bytes > IMAGE_JSON_BYTES_MAX:
            raise ImageRefused(where, f"at most {IMAGE_JSON_BYTES_MAX} B")
        return parse(b"".join(self.read(named, where)), where)

    def read(self, named: Descriptor, where: str) -> Iterator[bytes]:
        """Yield a blob's bytes; at their end they are known to be the named ones, else ImageRefused."""
        path = BLOBS + named.digest
        member = self._members.get(path)
        if member is None:
            raise ImageRefused(where, f"{path} is not there")
        if member.size_bytes != named.size_bytes:
            raise ImageRefused(where, f"has {member.size_bytes} B, {named.size_bytes} are named")
        self._unused.discard(path)
        sha = hashlib.sha256()
        for chunk in chunks(self._tar, member):
            sha.update(chunk)
            yield chunk
        if sha.hexdigest() != named.digest:
            raise ImageRefused(where, f"is named {named.digest}, its bytes have {sha.hexdigest()}")

    def all_used(self) -> None:
        if self._unused:
            raise ImageRefused(min(self._unused), "belongs to no part of the image")


def _diff_ids(config: dict[str, Any], count: int) -> list[str]:
    rootfs = config.get("rootfs")
    ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) and rootfs.get("type") == "layers" else None
    if not isinstance(ids, list) or len(ids) != count:
        raise ImageRefused("config.rootfs.diff_ids", f"one for each of {count} layers")
    found = [_DIGEST.fullmatch(one) if isinstance(one, str) else None for one in ids]
    if None in found:
        raise ImageRefused("config.rootfs.diff_ids", "digests of the form sha256:HEX")
    return [match[1] for match in found if match is not None]


def _unpack(data: Iterator[bytes], is_gzip: bool, bytes_max: int, wanted: str, number: int) -> Sealed:
    """Put a layer, decompressed, into a sealed memfd, and check that it is what the configuration names."""
    where = f"layers[{number}]"
    fd = os.memfd_create("layer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        size, sha = 0, hashlib.sha256()
        for chunk in _inflate(data, where) if is_gzip else data:
            size += len(chunk)
            if size > bytes_max:
                raise ImageRefused(where, f"all layers, decompressed, have at most {IMAGE_BYTES_MAX} B")
            sha.update(chunk)
            view = memoryview(chunk)
            while view:
                view = view[os.write(fd, view) :]
        if sha.hexdigest() != wanted:
            raise ImageRefused(where, f"is {wanted} when decompressed, the bytes have {sha.hexdigest()}")
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return Sealed(fd, wanted, size)


def _inflate(data: Iterator[bytes], where: str) -> Iterator[bytes]:
    """Yield decompressed pieces of at most 1 MiB, however small the input that makes them; RFC 1952."""
    inflater = zlib.decompressobj(_GZIP_WINDOW)
    begun = False
    try:
        for chunk in data:
            rest = chunk
            while rest:
                if inflater.eof:  # a gzip file may have several members
                    inflater = zlib.decompressobj(_GZIP_WINDOW)
                begun = True
                yield inflater.decompress(rest, _CHUNK_BYTES)
                rest = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
            while not inflater.eof and (more := inflater.decompress(b"", _CHUNK_BYTES)):
                yield more
    except zlib.error as error:
        raise ImageRefused(where, f"is not gzip: {error}") from error
    if not begun or not inflater.eof:
        raise ImageRefused(where, "the gzip data ends too early")
