"""Several chunks in one answer: asked of who is fast, checked one by one, never more than was asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from ledger.codec import decode
from ledger.limits import CHUNK_BYTES
from node.errors import ArtifactMissing, ArtifactWrong
from node.files.artifact_files import chunk_count
from node.files.artifact_wire import CHUNK, ChunkRequest
from node.files.artifacts import ArtifactStore
from node.files.exchange import Progress
from node.files.sources import Source
from node.limits import ARTIFACT_RUN_MAX, ARTIFACT_RUN_S
from tests.node.artifact_fixture import Host, hosts, wanted_of
from tests.node.test_artifacts import data_of, name_of

DATA = data_of(40 * CHUNK_BYTES + 5)


def counts_of(host: Host) -> list[int]:
    """How many chunks each request asks for, from now on."""
    found: list[int] = []
    give = host.methods[CHUNK]

    async def counted(peer_id: str, body: bytes) -> bytes:
        found.append(decode(ChunkRequest, body).count)
        return await give(peer_id, body)

    host.methods[CHUNK] = counted
    return found


async def test_of_one_fast_source_runs_are_asked_and_each_chunk_once(tmp_path: Path) -> None:
    async with hosts(tmp_path, 2) as (me, source):
        source.exchange.store.add_bytes(DATA)
        counts = counts_of(source)
        assert (await me.exchange.fetch(wanted_of(DATA))).read_bytes() == DATA
        assert sum(counts) == 41
        assert max(counts) == ARTIFACT_RUN_MAX and counts[0] == 1 and len(counts) < 25


def test_a_slow_source_is_asked_for_one_at_a_time() -> None:
    source = Source("peer", 0.0)
    assert source.run == 1  # unknown
    source.gave(ARTIFACT_RUN_S / 2)
    assert source.run == ARTIFACT_RUN_MAX
    source.gave(ARTIFACT_RUN_S * 2)
    assert source.run == 1


@pytest.mark.parametrize("spoilt", ["last", "short", "long", "fewer", "none"])
async def test_one_bad_chunk_in_a_run_is_found_and_nothing_of_it_kept(
    tmp_path: Path, spoilt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.files.sources.ARTIFACT_RUN_MAX", 3)
    async with hosts(tmp_path, 3) as (me, honest, liar):
        liar.exchange.store.add_bytes(DATA)
        give = liar.methods[CHUNK]

        async def lie(peer_id: str, body: bytes) -> bytes:
            data = await give(peer_id, body)
            if decode(ChunkRequest, body).count == 1:
                return data
            honest.exchange.store.add_bytes(DATA)
            changed = data[:-1] + bytes([data[-1] ^ 1])
            fewer = data[:CHUNK_BYTES]
            lies = {"last": changed, "short": data[:-1], "long": data + b"x", "fewer": fewer, "none": b""}
            return lies[spoilt]

        liar.methods[CHUNK] = lie
        progress = Progress(0)
        with trio.fail_after(60):
            assert (await me.exchange.fetch(wanted_of(DATA), progress)).read_bytes() == DATA
        assert progress.dropped == {liar.network.peer_id: "artifact.chunk"}


def test_a_run_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    source = ArtifactStore(tmp_path / "source").add_bytes(DATA)
    part = store.partial(source.sha256, source.size_bytes, source.chunks)
    run = DATA[2 * CHUNK_BYTES : 5 * CHUNK_BYTES]
    for wrong in (run[:-1] + b"!", run[:-1], run + b"!", b"!" + run[1:]):
        with pytest.raises(ArtifactWrong):
            part.write(2, wrong)
    with pytest.raises(ArtifactWrong):
        part.write(40, DATA[-5:] + b"more")
    assert part.done_bytes == 0 and len(part.missing()) == 41
    even = ArtifactStore(tmp_path / "source").add_bytes(run[: 2 * CHUNK_BYTES])
    both = store.partial(even.sha256, even.size_bytes, even.chunks)
    with pytest.raises(ArtifactWrong):  # beyond the end, after a good one
        both.write(1, run[CHUNK_BYTES : 2 * CHUNK_BYTES] + b"!")
    both.discard()
    assert part.write(3, DATA[3 * CHUNK_BYTES : 4 * CHUNK_BYTES]) == CHUNK_BYTES
    assert part.write(2, run) == 2 * CHUNK_BYTES  # one was here
    assert part.write(2, run) == 0
    assert part.write(38, DATA[38 * CHUNK_BYTES :]) == 2 * CHUNK_BYTES + 5
    for index in part.missing():
        part.write(index, DATA[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
    assert part.finish().read_bytes() == DATA


def test_what_was_hashed_is_hashed_again_when_its_file_changed(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    name = store.add_bytes(DATA).sha256
    for _ in range(2):
        assert store.read_chunks(name, 0, ARTIFACT_RUN_MAX) == DATA[: ARTIFACT_RUN_MAX * CHUNK_BYTES]
    assert store.read_chunks(name, chunk_count(len(DATA)) - 1) == DATA[-5:]
    with pytest.raises(ArtifactMissing):
        store.read_chunks(name, chunk_count(len(DATA)) - 1, 2)
    before_ns = (tmp_path / name_of(DATA)).stat().st_ctime_ns
    while (tmp_path / name_of(DATA)).stat().st_ctime_ns == before_ns:  # a file system's clock has ticks
        with (tmp_path / name).open("r+b") as file:
            os.pwrite(file.fileno(), b"!", 5)
    with pytest.raises(ArtifactWrong):
        store.read_chunks(name, 0, ARTIFACT_RUN_MAX)
    assert not store.has(name)


def test_a_part_that_the_disk_changed_is_not_given_on(tmp_path: Path) -> None:
    """Else who takes it from us would call us a liar."""
    source = ArtifactStore(tmp_path / "source").add_bytes(DATA)
    part = ArtifactStore(tmp_path).partial(source.sha256, source.size_bytes, source.chunks, is_signed=True)
    part.write(2, DATA[2 * CHUNK_BYTES : 3 * CHUNK_BYTES])
    assert part.read(2) == DATA[2 * CHUNK_BYTES : 3 * CHUNK_BYTES]
    with (tmp_path / f"{source.sha256}.part").open("r+b") as file:
        os.pwrite(file.fileno(), b"!!", 2 * CHUNK_BYTES + 5)
    with pytest.raises(ArtifactMissing, match="changed on disk"):
        part.read(2)
    for index in (-1, 0, 41, 1 << 40):
        with pytest.raises(ArtifactMissing):
            part.read(index)
    part.close()
    with pytest.raises(ArtifactMissing):
        part.read(2)
