"""Chunks of an artifact on its way that are here already, in others: found by digest, never fetched again.

Volume copies are the use: most of a copy is what the one before was. Nothing is believed of where the bytes
come from: a chunk is hashed when it is read, and again when it is kept. Blocking.
"""

from __future__ import annotations

from collections.abc import Iterable

from node.errors import ArtifactMissing, ArtifactWrong
from node.files.artifact_files import ArtifactInfo, Partial
from node.files.artifacts import ArtifactStore


def reuse_chunks(store: ArtifactStore, partial: Partial, names: Iterable[str]) -> int:
    """Fill `partial` with what these artifacts have of it; returns the bytes. One that is gone, or that the
    disk changed, is passed over. Raises OSError."""
    wanted: dict[bytes, list[int]] = {}
    for index in partial.missing():
        wanted.setdefault(partial.chunks[index], []).append(index)
    found_bytes = 0
    for name in names:
        try:
            info = store.info(name)
            for at, digest in enumerate(info.chunks if info is not None else ()):
                if digest not in wanted:
                    continue
                data = store.read_chunks(name, at)
                found_bytes += sum(partial.write(index, data) for index in wanted.pop(digest))
        except (ArtifactMissing, ArtifactWrong, FileNotFoundError):
            continue
    return found_bytes


def open_with(store: ArtifactStore, info: ArtifactInfo, is_signed: bool, like: Iterable[str]) -> Partial:
    """`store.partial` of that artifact, with what those named in `like` have of it. Raises as that does."""
    made = store.partial(info.sha256, info.size_bytes, info.chunks, is_signed=is_signed)
    try:
        reuse_chunks(store, made, like)
    except OSError:
        made.close()
        raise
    return made
