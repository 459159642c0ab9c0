"""The artifact store: names are earned, budgets hold, what a disk changes is not served, fetches resume."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest

from ledger.limits import CHUNK_BYTES
from node.errors import ArtifactFull, ArtifactMissing, ArtifactWrong
from node.files.artifacts import ArtifactStore
from node.files.chunks import chunk_digests, chunks_root
from node.limits import ARTIFACT_RESULT_KEPT_S


def data_of(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def name_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_what_comes_in_comes_out_again_also_after_reopening(tmp_path: Path, size: int) -> None:
    data = data_of(size)
    source = tmp_path / "source"
    source.write_bytes(data)
    info = ArtifactStore(tmp_path / "store").add_file(source)
    store = ArtifactStore(tmp_path / "store")
    assert info.sha256 == name_of(data)
    assert store.info(info.sha256) == info
    assert info.chunks == chunk_digests(source)
    assert info.root == chunks_root(info.chunks)
    assert store.path(info.sha256).read_bytes() == data
    assert b"".join(store.read_chunks(info.sha256, i) for i in range(len(info.chunks))) == data
    with pytest.raises(ArtifactMissing):
        store.read_chunks(info.sha256, len(info.chunks))


def test_pieces_of_any_size_make_the_same_artifact(tmp_path: Path) -> None:
    data = data_of(2 * CHUNK_BYTES + 77)
    store = ArtifactStore(tmp_path)
    whole = store.add_bytes(data)
    store.drop(whole.sha256)
    rng = random.Random(5)
    pieces, at = [], 0
    while at < len(data):
        step = rng.randint(1, CHUNK_BYTES)
        pieces.append(data[at : at + step])
        at += step
    assert store.add_stream(pieces, whole.sha256) == whole


def test_bytes_under_a_false_name_leave_nothing_behind(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    with pytest.raises(ArtifactWrong):
        store.add_stream([b"other bytes"], name_of(b"these bytes"))
    assert store.names() == ()
    assert list(tmp_path.iterdir()) == []


def test_what_the_disk_changed_is_never_served(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    name = store.add_bytes(data_of(CHUNK_BYTES + 5)).sha256
    with (tmp_path / name).open("r+b") as file:
        file.seek(CHUNK_BYTES + 1)
        file.write(b"\x00\x01")
    assert len(store.read_chunks(name, 0)) == CHUNK_BYTES
    with pytest.raises(ArtifactWrong):
        store.read_chunks(name, 1)
    assert not store.has(name)


def test_the_budget_holds_and_only_fetched_unpinned_artifacts_make_room(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path, size_bytes_max=3 * CHUNK_BYTES)
    own = store.add_bytes(data_of(CHUNK_BYTES, 1)).sha256
    fetched = []
    for seed in (2, 3):
        data = data_of(CHUNK_BYTES, seed)
        part = store.partial(name_of(data), len(data), (hashlib.sha256(data).digest(),))
        part.write(0, data)
        part.finish()
        fetched.append(name_of(data))
    with store.pinned([fetched[0]]):
        assert store.fits(CHUNK_BYTES)
        assert not store.fits(2 * CHUNK_BYTES)
        with pytest.raises(ArtifactFull):
            store.make_room(2 * CHUNK_BYTES)
        assert store.has(own) and store.has(fetched[0])
    store.add_bytes(data_of(CHUNK_BYTES, 9))
    assert store.used_bytes <= store.size_bytes_max
    assert store.has(own)
    with pytest.raises(ArtifactFull):
        store.add_bytes(data_of(4 * CHUNK_BYTES, 10))
    assert not list(tmp_path.glob("*.tmp"))


def test_a_broken_fetch_goes_on_where_it_stopped_and_believes_no_torn_chunk(tmp_path: Path) -> None:
    data = data_of(4 * CHUNK_BYTES + 1)
    pieces = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
    chunks = tuple(hashlib.sha256(piece).digest() for piece in pieces)
    first = ArtifactStore(tmp_path).partial(name_of(data), len(data), chunks)
    for index in (0, 2, 4):
        first.write(index, pieces[index])
    with pytest.raises(ArtifactWrong):
        first.write(1, pieces[2])
    with (tmp_path / f"{name_of(data)}.part").open("r+b") as file:  # a write that the crash tore
        file.seek(2 * CHUNK_BYTES)
        file.write(b"torn")
    first.close()
    store = ArtifactStore(tmp_path)
    again = store.partial(name_of(data), len(data), chunks)
    assert again.missing() == [1, 2, 3]
    assert again.done_bytes == CHUNK_BYTES + 1
    for index in again.missing():
        again.write(index, pieces[index])
    assert again.finish().read_bytes() == data
    assert store.has(name_of(data))
    assert sorted(p.suffix for p in tmp_path.iterdir()) == ["", ".cached", ".chunks"]


def test_two_lists_of_one_file_have_a_part_each_and_the_second_leaves_nothing(tmp_path: Path) -> None:
    data, other = data_of(2 * CHUNK_BYTES), data_of(2 * CHUNK_BYTES, 1)
    pieces = {text: [text[:CHUNK_BYTES], text[CHUNK_BYTES:]] for text in (data, other)}
    lists = {text: tuple(hashlib.sha256(piece).digest() for piece in pieces[text]) for text in pieces}
    store, name = ArtifactStore(tmp_path), name_of(data)
    false = store.partial(name, len(data), lists[other], is_signed=True)
    true = store.partial(name, len(data), lists[data], is_signed=True)
    false.write(0, pieces[other][0])
    true.write(1, pieces[data][1])
    assert store.used_bytes == 2 * len(data)
    assert store.holding(name).root == false.root  # one list at a time is served
    half = tmp_path / f"{name}-{'0' * 16}.part"
    half.write_bytes(b"left by a crash")
    true.close()
    assert store.used_bytes == len(data)
    again = store.partial(name, len(data), lists[data])
    assert again.missing() == [0, 1]  # of a second one nothing is left for the next time
    again.write_all(list(enumerate(pieces[data])))
    assert again.finish().read_bytes() == data
    false.discard()
    assert store.used_bytes == len(data)
    assert ArtifactStore(tmp_path).names() == (name,)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ["", ".cached", ".chunks"]


def test_a_list_that_contradicts_the_whole_is_found_out(tmp_path: Path) -> None:
    data = data_of(10)
    store = ArtifactStore(tmp_path)
    part = store.partial(name_of(b"something else"), len(data), (hashlib.sha256(data).digest(),))
    part.write(0, data)
    with pytest.raises(ArtifactWrong):
        part.finish()
    assert store.names() == ()
    assert store.used_bytes == 0


def kept(store: ArtifactStore) -> dict[str, bool]:
    return {entry.sha256: entry.kept for entry in store.entries()}


def test_results_of_jobs_never_fill_a_store(tmp_path: Path) -> None:
    """A node whose store only fills up takes no slot any more, whoever ordered the jobs."""
    store = ArtifactStore(tmp_path, size_bytes_max=8 * CHUNK_BYTES)
    given = store.add_bytes(data_of(CHUNK_BYTES, 1)).sha256
    results = [store.add_bytes(data_of(CHUNK_BYTES, seed), "result").sha256 for seed in range(2, 20)]
    assert kept(store)[given]
    assert sum(kept(store).get(name, False) for name in results) == 2  # a quarter of eight
    assert store.fits(5 * CHUNK_BYTES) and not store.fits(6 * CHUNK_BYTES)
    again = ArtifactStore(tmp_path, size_bytes_max=8 * CHUNK_BYTES)
    assert kept(again) == kept(store)


def test_a_result_is_kept_for_its_time_and_then_goes_as_what_was_fetched(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    name = store.add_bytes(b"result", "result").sha256
    assert kept(ArtifactStore(tmp_path)) == {name: True}
    mark = tmp_path / f"{name}.result"
    came_s = mark.stat().st_mtime
    os.utime(mark, (came_s, came_s - ARTIFACT_RESULT_KEPT_S - 1))
    assert kept(ArtifactStore(tmp_path)) == {name: False}
    assert kept(ArtifactStore(tmp_path)) == {name: False}
    again = ArtifactStore(tmp_path)
    again.add_bytes(b"result", "result")  # another job wrote the same
    assert kept(again) == kept(ArtifactStore(tmp_path)) == {name: True}


def test_what_somebody_gave_stays_whatever_a_job_or_a_fetch_makes_of_it(tmp_path: Path) -> None:
    for first, second in (("kept", "result"), ("result", "kept"), ("cached", "kept"), ("kept", "cached")):
        folder = tmp_path / f"{first}-{second}"
        store = ArtifactStore(folder)
        name = store.add_bytes(b"bytes", first).sha256  # type: ignore[arg-type]
        store.add_bytes(b"bytes", second)  # type: ignore[arg-type]
        assert sorted(path.suffix for path in folder.iterdir()) == ["", ".chunks"]
        assert kept(store) == kept(ArtifactStore(folder)) == {name: True}
        store.drop(name)
        assert not list(folder.iterdir())
