"""Seals and verifies a task's artifacts, and works out what its root will hold. Blocking."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import Any

from node.executor.drivers.base import TaskSpec
from node.executor.drivers.bwrap import pages
from node.executor.errors import VerificationFailed
from node.executor.host import elf
from node.executor.host.seal import Sealed, seal_file
from node.executor.integrity import Expected
from node.executor.tree import TreeRefused, chunks, read_tree


@dataclass
class SealedTask:
    """A task's verified bytes: the `Prepared` of the sandbox driver."""

    spec: TaskSpec
    files: list[Sealed] = field(default_factory=list)
    trees: list[Sealed] = field(default_factory=list)
    expected: dict[str, Expected] = field(default_factory=dict)
    size_bytes: int = 0
    inodes: int = 0
    started: bool = False

    def words(self) -> dict[str, Any]:
        """Return the words by which a launcher finds files and trees, and where they belong."""
        files = zip(self.files, self.spec.files, strict=True)
        trees = zip(self.trees, self.spec.trees, strict=True)
        return {
            "files": [{"fd": sealed.fd, "path": file.path, "mode": file.mode} for sealed, file in files],
            "trees": [{"fd": sealed.fd, "path": tree.path} for sealed, tree in trees],
        }

    def close(self) -> None:
        """Give up the sealed bytes; again is harmless."""
        for sealed in (*self.files, *self.trees):
            sealed.close()


def seal_task(spec: TaskSpec) -> SealedTask:
    """Return all artifacts sealed and verified. Raises VerificationFailed, with nothing kept open."""
    task = SealedTask(spec)
    try:
        for index, file in enumerate(spec.files):
            task.files.append(seal_file(file.source, file.digest, file.size_bytes, f"files[{index}]"))
            if file.mode & 0o111:
                _check_program(task.files[-1], 0, file.size_bytes, f"files[{index}]", file.path)
            _expect(task, file.path, Expected(file.digest, file.size_bytes, file.mode))
        for index, tree in enumerate(spec.trees):
            sealed = seal_file(tree.source, tree.digest, tree.size_bytes, f"trees[{index}]")
            task.trees.append(sealed)
            task.inodes += tree.path.count("/")
            try:
                _expect_tree(task, tree.path, sealed, f"trees[{index}]")
            except TreeRefused as error:
                raise VerificationFailed(f"trees[{index}]: {error.member}", error.rule) from error
    except BaseException:
        task.close()
        raise
    return task


def _expect(task: SealedTask, path: str, expected: Expected) -> None:
    task.expected[path] = expected
    task.size_bytes += pages(expected.size_bytes)
    # A file, and at most one directory per part of its path.
    task.inodes += path.count("/")


def _check_program(sealed: Sealed, first: int, size_bytes: int, field: str, path: str) -> None:
    """Of `size_bytes` from `first` on. Raises VerificationFailed for a program that would write its code."""

    def read(count: int, at: int) -> bytes:
        return os.pread(sealed.fd, max(0, min(count, size_bytes - at)), first + at)

    if why := elf.fault(read):
        raise VerificationFailed(field, f"{path}: {why}")


def _expect_tree(task: SealedTask, top: str, sealed: Sealed, field: str) -> None:
    with os.fdopen(os.dup(sealed.fd), "rb") as tar:
        for member in read_tree(tar, sealed.size_bytes):
            path = f"{top}/{member.path}"
            if member.is_dir:
                task.inodes += path.count("/")
                continue
            if member.mode & 0o111:
                _check_program(sealed, member.offset, member.size_bytes, field, path)
            sha = hashlib.sha256()
            for chunk in chunks(tar, member):
                sha.update(chunk)
            _expect(task, path, Expected(sha.hexdigest(), member.size_bytes, member.mode))
