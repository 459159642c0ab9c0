"""SIGKILL in the middle of a fetch: what was verified is not fetched again, and nothing else is believed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

from ledger.limits import CHUNK_BYTES
from node.files.artifacts import ArtifactStore
from node.files.chunks import chunk_digests
from tests.node.test_artifacts import data_of, name_of

COUNT = 40
MORE = 3  # chunks beyond those that the test waits for: it dies while it writes one of them, or when it has


def start(folder: Path, sha256: str, source: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tests.node.artifact_taker", str(folder), sha256, str(source)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_killed_fetch_goes_on_where_it_was(tmp_path: Path) -> None:
    data = data_of(COUNT * CHUNK_BYTES - 7)
    source, folder, sha256 = tmp_path / "source", tmp_path / "store", name_of(data)
    source.write_bytes(data)
    written = 0
    for stop_after in (5, 9, 13):
        process = start(folder, sha256, source)
        assert process.stdin is not None and process.stdout is not None
        found = re.fullmatch(r"missing (\d+)\n", process.stdout.readline())
        assert found is not None
        assert COUNT - written - MORE <= int(found[1]) <= COUNT - written  # a few more than were told of
        written = COUNT - int(found[1])
        process.stdin.write("\n" * (stop_after + MORE))
        process.stdin.flush()
        for _ in range(stop_after):
            assert process.stdout.readline().startswith("wrote ")
        process.send_signal(signal.SIGKILL)
        written += stop_after
        written += sum(line.startswith("wrote ") for line in process.stdout)
        process.stdin.close()
        process.stdout.close()
        assert process.wait(60) == -signal.SIGKILL
    assert not ArtifactStore(folder).has(sha256)
    part = ArtifactStore(folder).partial(sha256, len(data), chunk_digests(source), is_signed=True)
    assert len(part.missing()) <= COUNT - written
    for index in part.missing():
        part.write(index, data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
    assert part.finish().read_bytes() == data
    assert sorted(file.suffix for file in folder.iterdir()) == ["", ".cached", ".chunks"]
