"""Seals and verifies what a container is made of, and works out what its root will hold. Blocking."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import Any

from node.executor.drivers.artifacts import SealedTask
from node.executor.drivers.base import TaskSpec
from node.executor.drivers.bwrap import pages
from node.executor.errors import VerificationFailed
from node.executor.host.seal import seal_file
from node.executor.integrity import Expected
from node.executor.oci import launcher
from node.executor.oci.flatten import HIDDEN, Piece, Plan, data_of
from node.executor.oci.layers import ImageRefused
from node.executor.oci.layout import MACHINES, OpenImage, open_image
from node.executor.tree import TreeRefused


@dataclass
class SealedContainer(SealedTask):
    """A task's verified bytes: the `Prepared` of the oci driver. `root`: what the launcher makes of them."""

    image: OpenImage | None = None
    root: dict[str, Any] = field(default_factory=dict)

    def close(self) -> None:
        """Give up the sealed bytes; again is harmless."""
        super().close()
        if self.image is not None:
            self.image.close()


def seal_container(spec: TaskSpec) -> SealedContainer:
    """Return all artifacts sealed and verified, the image taken apart. Raises VerificationFailed, with
    nothing kept open."""
    task = SealedContainer(spec)
    try:
        if spec.image is not None:
            given = spec.image
            sealed = seal_file(given.source, given.digest, given.size_bytes, "image")
            try:
                task.image = open_image(sealed.fd, sealed.size_bytes)
            finally:
                sealed.close()  # its layers have been copied out of it
            machine = MACHINES.get(os.uname().machine, os.uname().machine)
            if task.image.architecture != machine:
                rule = f"an image for {machine}, this one is for {task.image.architecture}"
                raise VerificationFailed("image.architecture", rule)
        for index, file in enumerate(spec.files):
            task.files.append(seal_file(file.source, file.digest, file.size_bytes, f"files[{index}]"))
        for index, tree in enumerate(spec.trees):
            task.trees.append(seal_file(tree.source, tree.digest, tree.size_bytes, f"trees[{index}]"))
        layers = [layer.fd for layer in task.image.layers] if task.image is not None else []
        task.root = task.words() | {
            "layers": layers,
            "points": sorted({spec.working_dir, *(v.path for v in spec.volumes)} - {"/"}),
            "sources": [*layers, *(sealed.fd for sealed in (*task.trees, *task.files))],
        }
        _expect(task, launcher.plan_of(task.root))
    except BaseException as error:
        task.close()
        if isinstance(error, ImageRefused):
            raise VerificationFailed(f"image: {error.where}", error.rule) from error
        if isinstance(error, TreeRefused):
            raise VerificationFailed(f"trees: {error.member}", error.rule) from error
        raise
    return task


def _expect(task: SealedContainer, plan: Plan) -> None:
    known: dict[Piece, Expected] = {}
    sources = task.root["sources"]
    for path, piece in plan.pieces.items():
        task.inodes += 1
        if piece.kind == "folder":
            continue
        if piece.kind == "link":
            task.size_bytes += pages(len(piece.target.encode()) + 1)
            task.expected["/" + path] = Expected("", 0, 0o777, piece.target)
            continue
        if piece not in known:
            sha = hashlib.sha256()
            for chunk in data_of(piece, sources):
                sha.update(chunk)
            known[piece] = Expected(sha.hexdigest(), piece.size_bytes, piece.mode)
            task.size_bytes += pages(piece.size_bytes)
        task.expected["/" + path] = known[piece]


def hidden() -> frozenset[str]:
    """Return the paths at which other mounts than the sealed root begin, whatever the task."""
    return frozenset("/" + name for name in HIDDEN)
