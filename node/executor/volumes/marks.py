"""Marks: a node knows its own folders of volumes again, and with them the disks that they are on.

After a restart of the machine the folder that names a disk may be there, and empty, because the disk is not
mounted. A node that went on would make new volumes on another disk, and say that the old ones are lost. So at
the first start with a folder of the node's own a mark is left in it, and the same one in the home; from then
on the node starts only where it finds both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from secrets import token_hex
from typing import Final

import msgspec

from ledger.manifests.types import Disk
from node.errors import ConfigError
from node.executor.volumes.rooms import Room
from node.home import sync_folder, write_atomic

_NAME: Final = "gridpact.mark"
_ID_BYTES: Final = 16
_BYTES_MAX: Final = 1024


class _Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`node`: whose volumes these are, its public key. `id`: of this folder, by chance."""

    node: str
    id: str


def check_marks(rooms: Mapping[Disk, Room], data_dir: Path, node_key: bytes) -> None:
    """Raises ConfigError naming the setting of a folder that is not the one that this node has used. Makes
    nothing."""
    for disk, room in rooms.items():
        _missing(disk, room, data_dir, node_key)


def leave_marks(rooms: Mapping[Disk, Room], data_dir: Path, node_key: bytes) -> None:
    """The same, and then each folder of the node's own has its mark, on disk. Raises ConfigError; then no
    mark was left anywhere, unless it is the disk that failed."""
    wanted = {disk: _missing(disk, room, data_dir, node_key) for disk, room in rooms.items()}
    for disk, files in wanted.items():
        found = _read(disk, rooms[disk].folder / _NAME)
        mark = found or _Mark(node_key.hex(), token_hex(_ID_BYTES))
        for file in files:
            _write(disk, file, mark)


def _missing(disk: Disk, room: Room, data_dir: Path, node_key: bytes) -> tuple[Path, ...]:
    """Where a mark is to be left, in this order: what is in the home was in the folder before, so that after
    a crash between the two the folder's is taken. Raises ConfigError."""
    kept, remembered = room.folder / _NAME, data_dir / "volumes" / f"{disk}.mark"
    found, known = _read(disk, kept), _read(disk, remembered)
    if known is not None:
        if found != known:
            what = "has no mark of it" if found is None else "has the mark of other volumes"
            raise ConfigError(
                f"node.{disk}_folder: this node has volumes elsewhere, {room.folder} {what}: mount the disk, "
                f"or remove {remembered} when its volumes are gone for good"
            )
        return ()
    if not room.is_named:
        return ()
    if found is None:
        return (kept, remembered)
    if found.node != node_key.hex():
        raise ConfigError(
            f"node.{disk}_folder: {kept} is of node {found.node[:16]}, not of this one: name another folder, "
            f"or remove {room.folder} when its volumes are gone for good"
        )
    return (remembered,)


def _read(disk: Disk, file: Path) -> _Mark | None:
    """None: none is there. Raises ConfigError."""
    try:
        with file.open("rb") as stream:
            return msgspec.json.decode(stream.read(_BYTES_MAX), type=_Mark)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"node.{disk}_folder: {file} cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise ConfigError(f"node.{disk}_folder: {file} is no mark ({error}): look at this disk") from error


def _write(disk: Disk, file: Path, mark: _Mark) -> None:
    try:
        if not file.parent.exists():
            file.parent.mkdir(mode=0o700)
            sync_folder(file.parent.parent)
    except OSError as error:
        raise ConfigError(f"node.{disk}_folder: {file.parent} cannot be made: {error.strerror}") from error
    write_atomic(file, msgspec.json.encode(mark) + b"\n")
