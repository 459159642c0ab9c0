"""Where a node keeps volumes: a room for each kind of disk, with a folder and a size of its own."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from ledger.manifests.types import DISKS, Disk
from ledger.text.quantities import parse_size
from node.config import Node
from node.errors import ConfigError

_KEY_CHARS = 16  # enough to tell nodes apart that keep volumes on one disk


@dataclass(slots=True)
class Room:
    """`size_bytes_max`: of all volumes in it together. `is_named`: it is in a folder that the settings name,
    which may be on a disk that is not always there."""

    folder: Path
    size_bytes_max: int
    is_named: bool = False

    def is_gone(self) -> bool:
        """It was there when the node started (node.executor.volumes.marks), and is not any more."""
        return self.is_named and not self.folder.is_dir()


def rooms_of(settings: Node, data_dir: Path, node_key: bytes) -> dict[Disk, Room]:
    """By the settings, without making anything. A folder that is named must be there, for one that is not
    may lie on a disk that is not mounted, and what we made in its place would lie on another. Raises
    ConfigError naming the setting."""
    found: dict[Disk, Room] = {}
    for disk in DISKS:
        name = getattr(settings, f"{disk}_folder")
        folder = data_dir / "volumes" / disk
        if name:
            if not Path(name).is_dir():
                raise ConfigError(f"node.{disk}_folder: {name} is no folder: mount its disk, or make it")
            if Path(name).stat().st_mode & stat.S_IWOTH:
                raise ConfigError(f"node.{disk}_folder: {name} can be written to by anybody")
            folder = Path(name) / f"gridpact-{node_key.hex()[:_KEY_CHARS]}-{disk}"
        found[disk] = Room(folder, parse_size(getattr(settings, disk)), bool(name))
    return found


def existing(folder: Path) -> Path:
    """It, or the folder above it in which it will be made."""
    while not folder.exists():
        folder = folder.parent
    return folder
