"""Files and folders of LevelDB stores that nobody has open: torn logs, and one store in another's place."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path
from typing import Final

from ledger.errors import LocalError
from ledger.storage.store_log import examine

DAMAGED: Final = "{}: the store is damaged. Move it away and sync anew. ({})"


def check_logs(path: Path) -> None:
    """Raises LocalError for what LevelDB would pass over in silence: [J2] of ledger.storage.store_log."""
    for file in path.glob("*.log"):
        with contextlib.suppress(FileNotFoundError):  # of a running peer, which has just removed it
            data = file.read_bytes()
            found = examine(data, sums=False)
            if found.state == "damaged":
                found = examine(data)  # of a header that was written in part, length and type are false
            if found.state == "damaged":
                why = f"{file.name}, byte {found.at}: {found.why}"
                raise LocalError(DAMAGED.format(path, why))


def cut_torn_logs(path: Path) -> str:
    """Cut each torn log [J1] where its last whole write ends. Returns what was cut; "": nothing, and no file
    was touched. No other process has the store open meanwhile. Raises OSError."""
    with (path / "LOCK").open("ab") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as LevelDB does; let go of when the file is closed
        files = sorted(path.glob("*.log"))
        found = [(file, examine(file.read_bytes())) for file in files]
        if any(log.state == "damaged" for _, log in found):
            return ""
        said = []
        for file, log in found:
            if log.state == "torn":
                with file.open("r+b") as stream:
                    size = stream.seek(0, os.SEEK_END)
                    said.append(f"{file.name} cut from {size} to {log.at} B: {log.why}")
                    stream.truncate(log.at)
                    os.fsync(stream.fileno())
        return "; ".join(said)


def next_path(path: Path) -> Path:
    """Where the store is prepared that takes the place of the one at `path`."""
    return path.with_name(path.name + ".next")


def former_path(path: Path) -> Path:
    """Where it stands until the one that took its place is there."""
    return path.with_name(path.name + ".former")


def adopt_next(path: Path) -> None:
    """The closed next store takes the place of the closed one at `path`. Raises LocalError."""
    former = former_path(path)
    try:
        remove_folder(former)
        if path.exists():
            os.rename(path, former)
        os.rename(next_path(path), path)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise LocalError(f"{path}: the new store cannot take its place: {error.strerror}") from error
    remove_folder(former)


def remove_folder(path: Path) -> None:
    """Remove a store that nobody has open, if it is there. Raises LocalError."""
    try:
        if path.exists():
            shutil.rmtree(path)
    except OSError as error:
        raise LocalError(f"{path}: cannot be removed: {error.strerror}") from error
