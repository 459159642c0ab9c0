"""A file that was written stays written: its bytes are synced before its name, its name before we go on."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from node.home import create_key, write_atomic


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced and renamed, in order."""
    seen: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(handle: int) -> None:
        seen.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "bytes")
        fsync(handle)

    def note_replace(source: Any, target: Any) -> None:
        seen.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    return seen


def test_a_replaced_file_is_synced_then_renamed_then_its_folder_synced(
    tmp_path: Path, calls: list[str]
) -> None:
    write_atomic(tmp_path / "book", b"peers")
    assert calls == ["bytes", "rename", "folder"]
    assert [file.name for file in tmp_path.iterdir()] == ["book"]


def test_a_new_key_is_in_its_folder_when_it_is_used(tmp_path: Path, calls: list[str]) -> None:
    """A validator key that votes and is gone after a power cut is a validator lost."""
    create_key(tmp_path / "validator_key")
    assert calls == ["bytes", "folder"]
