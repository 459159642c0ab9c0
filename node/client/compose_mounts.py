"""Volumes of a compose file: what is kept becomes a volume, what is only read an artifact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from ledger.limits import VOLUMES_MAX
from ledger.manifests.check import RESERVED_PATHS, under
from ledger.text.yaml_tree import Mapping, Mark, Node, Sequence
from node.client.compose_variables import Tell, Variables, name_of

SIZE: Final = "1GiB"  # compose files name none
_HOST: Final = ("/proc", "/sys", "/dev", "/run", "/var/run", "/var/lib/docker", "/var/log", "/etc")
_LONG: Final = ("type", "source", "target", "read_only")
_NO_HOST: Final = "write a volume with a size for what is kept, an artifact for what is read"


@dataclass(frozen=True, slots=True)
class _Mount:
    mark: Mark
    source: str
    target: str
    read_only: bool
    bind: bool  # a place of the host; else a volume by name, or without one


@dataclass(frozen=True, slots=True)
class Mounts:
    """Takes over the volumes of a service."""

    variables: Variables
    tell: Tell

    def take(self, node: Node | None, where: str, job: bool) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Its artifacts and volumes."""
        artifacts: list[dict[str, Any]] = []
        volumes: dict[str, dict[str, Any]] = {}
        for item in node.items if isinstance(node, Sequence) else ():
            mount = self._read(item, where)
            if mount is None:
                continue
            if mount.bind:
                artifacts += self._bound(mount, where)
            elif why := _no_volume(mount, job, len(volumes)):
                self.tell(mount.mark, where, "refused", f"{mount.target}: {why}")
            else:
                name = name_of(mount.source or mount.target)
                volumes[name if name not in volumes else name_of(mount.target)] = {
                    "path": mount.target,
                    "size": SIZE,
                }
                why = (
                    f"{mount.target}: a draft's size, {SIZE}; each replica has its own, no service shares it"
                )
                self.tell(mount.mark, where, "to do", why)
        return artifacts, volumes

    def _read(self, item: Node, where: str) -> _Mount | None:
        if isinstance(item, Mapping):
            return self._long(item, where)
        text = self.variables.fixed(item, where)
        parts = text.split(":")
        if not text or len(parts) > 3:
            self.tell(item.mark, where, "refused", f"{text[:80]!r}: SOURCE:TARGET:MODE wanted")
            return None
        source, target, mode = ("", parts[0], "") if len(parts) == 1 else (*parts, "")[:3]
        bind = source.startswith(("/", ".", "~"))
        return _Mount(item.mark, source, target.rstrip("/") or "/", "ro" in mode.split(","), bind)

    def _long(self, item: Mapping, where: str) -> _Mount | None:
        said = {key: self.variables.fixed(item.entries.get(key), where) for key in _LONG}
        kind = said["type"]
        for key, mark in item.marks.items():
            if key not in _LONG:
                why = "a volume has a path, a size, a class and an rpo"
                self.tell(mark, f"{where}.{key}", "dropped", why)
        if kind == "tmpfs":
            self.tell(item.mark, where, "dropped", "/tmp is there, within resources.disk")
            return None
        if kind not in ("bind", "volume"):
            self.tell(item.mark, where, "refused", f"{kind!r}: {_NO_HOST}")
            return None
        target = said["target"].rstrip("/") or "/"
        return _Mount(item.mark, said["source"], target, said["read_only"] == "true", kind == "bind")

    def _bound(self, mount: _Mount, where: str) -> list[dict[str, Any]]:
        source = mount.source.removeprefix("./") or "."
        outside = ".." in source.split("/") or source.startswith("~")
        of_host = source == "/" or any(under(source, folder) for folder in _HOST)
        taken = mount.target == "/" or any(under(mount.target, folder) for folder in RESERVED_PATHS)
        if outside or of_host or taken or not mount.read_only:
            why = "that is the host's" if outside or of_host or taken else "no workload writes to a host"
            self.tell(mount.mark, where, "refused", f"{mount.source}: {why}; {_NO_HOST}")
            return []
        kind = "file" if PurePosixPath(source).suffix else "tree"
        self.tell(mount.mark, where, "to do", f"{mount.source} became a {kind}; is it one?")
        return [{"path": mount.target, kind: source}]


def _no_volume(mount: _Mount, job: bool, volumes: int) -> str:
    if job:
        return "a job has no volumes: it begins with nothing and leaves results"
    if mount.read_only:
        return "no other service fills a volume: write what is only read as an artifact"
    return f"a workload has {VOLUMES_MAX} volumes at most" if volumes >= VOLUMES_MAX else ""
