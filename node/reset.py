"""Empties a stopped home of its chain. Keys, settings, peer book and sign state stay: a validator that
starts over must remember what it promised."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ledger.errors import LocalError
from ledger.storage.store_files import next_path
from node.home import Home, read_run, sync_folder

_GONE = ".gone-"


@contextmanager
def stopped(home: Home) -> Iterator[None]:
    """Nobody has the store open, and nobody opens it meanwhile. Raises LocalError."""
    info = read_run(home)
    if info is not None:
        raise LocalError(f"{home.root}: its peer runs as process {info.pid}. Stop it first.")
    lock = home.store_dir / "LOCK"
    if not lock.exists():
        yield
        return
    with lock.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as LevelDB itself does
        except OSError:
            raise LocalError(f"{home.store_dir}: in use by another process. Stop the peer first.") from None
        yield


def check_memory(home: Home, votes: bool) -> None:
    """Raises LocalError when a validator's sign state is missing: once the chain is gone, too, nothing
    would say that its key has voted."""
    path = home.data_dir / "sign_state"
    if votes and home.store_dir.exists() and not (path / "CURRENT").exists():
        raise LocalError(f"{path}: the sign state is gone; nothing was changed. See docs/operating.md.")


def reset_home(home: Home, *, artifacts: bool) -> list[Path]:
    """Remove the chain, and the artifacts if asked. Returns what was removed. Raises LocalError.

    Each directory goes at once, by a rename; what a crash leaves of it is removed next time.
    """
    removed: list[Path] = []
    # First what would take the store's place at the next start, if it were whole and we were killed here.
    folders = [next_path(home.store_dir), home.store_dir, *([home.artifacts_dir] if artifacts else [])]
    for folder in folders:
        if folder.is_symlink():
            raise LocalError(f"{folder}: a link; empty the directory that it names yourself")
    try:
        with stopped(home):
            for folder in folders:
                if folder.exists():
                    os.rename(folder, folder.with_name(f"{_GONE}{folder.name}.{os.getpid()}"))
                    removed.append(folder)
            if home.data_dir.exists():
                sync_folder(home.data_dir)
                for rest in home.data_dir.glob(f"{_GONE}*"):
                    shutil.rmtree(rest)
    except OSError as error:
        raise LocalError(f"{error.filename or home.data_dir}: cannot be removed: {error.strerror}") from error
    return removed
