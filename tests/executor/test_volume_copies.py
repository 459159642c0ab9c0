"""Copies of volumes in the real sandbox: of one moment, whole, readable with their key alone."""

from __future__ import annotations

import io
import math
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from ledger.copy_records import COPY_BLOCK_BYTES, copy_bytes_max
from ledger.limits import CHUNK_BYTES
from ledger.manifests.types import Volume
from node.executor.drivers import still
from node.executor.drivers.base import TaskSpec, VolumeSpec
from node.executor.errors import ExecutorError, VolumeRefused
from node.executor.volumes.rooms import Room
from node.executor.volumes.volume_copy import encode_copy, restore_copy
from node.executor.volumes.volumes import VolumeShelf

from .conftest import Bench

MIB = 1 << 20
ONE = b"1" * 32
KEY, OTHER = b"k" * 32, b"o" * 32
DATA = Volume(name="data", path="/data", size_bytes=16 * MIB, rpo_s=10)
MORE = Volume(name="more", path="/more", size_bytes=16 * MIB, rpo_s=10)


@pytest.fixture
def shelf(either: Bench, tmp_path: Path) -> VolumeShelf:
    if not either.driver.fingerprint().enforces("volume-copies"):
        pytest.skip("the driver cannot copy volumes here")
    return VolumeShelf({"ssd": Room(tmp_path / "volumes", 128 * MIB)})


def with_volumes(either: Bench, shelf: VolumeShelf, script: str, *volumes: Volume) -> TaskSpec:
    specs = [VolumeSpec(v.path, shelf.ensure(ONE, "db/0", v), v.size_bytes) for v in volumes or (DATA,)]
    return replace(either.shell(script), volumes=tuple(specs))


def check_filesystem(file: Path) -> None:
    """No program had to repair it, and none would have to."""
    fsck = shutil.which("e2fsck", path=f"{os.defpath}:/usr/sbin:/sbin")
    assert fsck is not None
    done = subprocess.run([fsck, "-fn", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


async def test_a_copy_has_all_that_was_written_up_to_one_moment(
    either: Bench, shelf: VolumeShelf, tmp_path: Path
) -> None:
    """Also what the workload never synced, and no line of one volume without that of the other."""
    script = (
        "i=0; while true; do i=$((i+1)); echo $i >> /data/log; echo $i >> /more/log; "
        "if [ $i = 4 ]; then echo wrote; fi; done"
    )
    spec = with_volumes(either, shelf, script, DATA, MORE)
    copies = {"/data": tmp_path / "data", "/more": tmp_path / "more"}
    async with either.running(spec) as handle:
        await either.until_logged(handle, "wrote")
        for _ in range(3):
            await either.driver.copy_volumes(handle, copies)
            for file in copies.values():
                check_filesystem(file)
        assert (await either.driver.attest(handle)).ok
        assert (await either.driver.probe(handle)).alive
        size = copies["/data"].stat()
        assert size.st_size == 16 * MIB and size.st_blocks * 512 < 16 * MIB  # what is empty takes no room
    found = replace(
        either.shell("wc -l < /data/log; tail -n 1 /data/log; wc -l < /more/log; tail -n 1 /more/log"),
        volumes=tuple(VolumeSpec(path, file, 16 * MIB) for path, file in copies.items()),
    )
    data, data_last, more, more_last = map(int, (await either.output(found)).split())
    assert data == data_last and more == more_last, "a line is missing or torn"
    assert data > 3 and more <= data <= more + 1, "two moments"


async def test_the_task_stands_still_only_for_the_copy(
    either: Bench, shelf: VolumeShelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on, whatever becomes of the copy."""
    script = "echo up; while true; do echo more >> /data/log; done"
    async with either.running(with_volumes(either, shelf, script)) as handle:
        await either.until_logged(handle, "up")
        with pytest.raises(ExecutorError, match="cannot be copied"):
            await either.driver.copy_volumes(handle, {"/data": tmp_path / "none" / "file"})
        with pytest.raises(ExecutorError, match="cannot be copied"):
            await either.driver.copy_volumes(handle, {"/other": tmp_path / "file"})
        monkeypatch.setattr(still, "STILL_S_MAX", -1.0)
        with pytest.raises(ExecutorError, match="may stand still"):
            await either.driver.copy_volumes(handle, {"/data": tmp_path / "file"})
        monkeypatch.undo()
        before = await either.driver.usage(handle)
        with trio.fail_after(60):
            while (await either.driver.usage(handle)).cpu_ms <= before.cpu_ms:
                await trio.sleep(0.05)
    with pytest.raises(ExecutorError, match="not running"):
        await either.driver.copy_volumes(handle, {"/data": tmp_path / "file"})


def test_what_is_empty_takes_no_room_in_a_copy_though_somebody_read_it(tmp_path: Path) -> None:
    """Pages of allocated, unwritten bytes that are in the cache are data to the kernel."""
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 16 * MIB)
        os.pwrite(file.fileno(), b"word", 5 * MIB + 7)
    assert source.read_bytes()[5 * MIB + 7 :].startswith(b"word")
    still.copy_sparse(source, target, math.inf)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks * 512 <= MIB
    with pytest.raises(OSError, match="not done"):
        still.copy_sparse(source, target, -1.0)


async def test_a_task_that_is_stopped_meanwhile_ends_and_leaves_no_copy(
    either: Bench, shelf: VolumeShelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop never waits for a copy, and a copy that was under way then does not count."""
    began, go_on = trio.Event(), trio.Event()
    real = still.copy_sparse

    def slow(source: Path, target: Path, until_s: float) -> None:
        trio.from_thread.run_sync(began.set)
        trio.from_thread.run(go_on.wait)
        real(source, target, until_s)

    monkeypatch.setattr(still, "copy_sparse", slow)
    async with either.running(with_volumes(either, shelf, "echo up; sleep 60")) as handle:
        await either.until_logged(handle, "up")
        async with trio.open_nursery() as nursery:

            async def copy() -> None:
                with pytest.raises(ExecutorError, match="stand still to the end"):
                    await either.driver.copy_volumes(handle, {"/data": tmp_path / "file"})

            nursery.start_soon(copy)
            await began.wait()
            with trio.fail_after(60):
                await either.driver.stop(handle, 0.1)
            go_on.set()


async def test_what_was_restored_from_a_copy_runs_elsewhere(
    either: Bench, shelf: VolumeShelf, tmp_path: Path
) -> None:
    await either.output(
        with_volumes(either, shelf, "echo kept > /data/file; head -c 3000000 /bin/busybox > /data/b")
    )
    source = shelf.ensure(ONE, "db/0", DATA)
    data = b"".join(encoded(source))
    assert b"kept" in source.read_bytes() and b"kept" not in data
    assert len(data) < 8 * MIB and len(data) <= copy_bytes_max(16 * MIB)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch()
    os.truncate(elsewhere, 16 * MIB)
    with elsewhere.open("r+b") as file:
        restore_copy(io.BytesIO(data), KEY, file.fileno(), 16 * MIB)
    assert elsewhere.read_bytes() == source.read_bytes()
    check_filesystem(elsewhere)
    spec = replace(either.shell("cat /data/file"), volumes=(VolumeSpec("/data", elsewhere, 16 * MIB),))
    assert await either.output(spec) == "kept\n"


def encoded(file: Path, key: bytes = KEY) -> list[bytes]:
    with file.open("rb") as opened:
        return list(encode_copy(opened.fileno(), key))


def sample(tmp_path: Path, *blocks: int) -> tuple[list[bytes], Path]:
    """A copy of a file with data in these blocks of four, the last one shorter."""
    file = tmp_path / "sample"
    file.touch()
    os.truncate(file, 3 * COPY_BLOCK_BYTES + 100)
    with file.open("r+b") as opened:
        for number in blocks:
            os.pwrite(opened.fileno(), b"data%d" % number, number * COPY_BLOCK_BYTES)
    return encoded(file), file


def restored(tmp_path: Path, pieces: list[bytes], key: bytes = KEY, size_bytes: int = 0) -> bytes:
    target = tmp_path / "restored"
    target.write_bytes(b"")
    os.truncate(target, size_bytes or 3 * COPY_BLOCK_BYTES + 100)
    with target.open("r+b") as opened:
        restore_copy(io.BytesIO(b"".join(pieces)), key, opened.fileno(), target.stat().st_size)
    return target.read_bytes()


@pytest.mark.parametrize("blocks", [(), (0,), (3,), (0, 2, 3), (0, 1, 2, 3)])
def test_any_volume_comes_back_as_it_was(tmp_path: Path, blocks: tuple[int, ...]) -> None:
    pieces, file = sample(tmp_path, *blocks)
    assert len(pieces) == len(blocks) + 1
    assert restored(tmp_path, pieces) == file.read_bytes()


def test_a_copy_that_is_not_whole_unchanged_and_its_own_is_refused(tmp_path: Path) -> None:
    pieces, file = sample(tmp_path, 0, 2, 3)
    zero, two, three, end = pieces
    with file.open("r+b") as opened:
        os.pwrite(opened.fileno(), b"later", 2 * COPY_BLOCK_BYTES)
    later = encoded(file)
    assert later[0] == zero and later[1] != two and later[2] == three
    flipped = two[:100] + bytes([two[100] ^ 1]) + two[101:]
    wrong = {
        "cut|changed": [
            [],
            [b"x" * 16],
            [zero],
            [zero, two, three],
            [zero, two, three, end[:-8]],
            [zero, three, end],
        ],
        "does not open": [
            [zero, two, three, end[:60] + bytes([end[60] ^ 1]) + end[61:]],
            [zero, flipped, three, end],
            [two, zero, three, end],
            [zero, zero, three, end],
            [zero, zero, two, three, end],
            [zero, later[1], three, end],  # its own place, of another time
            [zero, two, three, later[3]],
        ],
        "end where they should": [[zero, two, three, b"x", end], [zero, two, three, zero, end]],
    }
    for said, copies in wrong.items():
        for number, copy in enumerate(copies):
            with pytest.raises(VolumeRefused) as caught:
                restored(tmp_path, copy)
            assert re.search(said, str(caught.value)), (said, number)
    with pytest.raises(VolumeRefused, match="does not open with its key"):
        restored(tmp_path, pieces, OTHER)
    for size in (COPY_BLOCK_BYTES, 3 * COPY_BLOCK_BYTES, 3 * COPY_BLOCK_BYTES + 99):
        with pytest.raises(VolumeRefused, match=r"does not belong|does not open"):
            restored(tmp_path, pieces, size_bytes=size)


def test_blocks_that_did_not_change_are_the_same_chunks_and_nothing_else_is(tmp_path: Path) -> None:
    """[C19] Wherever they come to stand; but not under another key, nor at another place of the volume."""
    blocks = range(8)
    file = tmp_path / "volume"
    file.touch()
    os.truncate(file, 8 * COPY_BLOCK_BYTES)
    same = b"the same everywhere"
    with file.open("r+b") as opened:
        for number in blocks[1:]:
            os.pwrite(opened.fileno(), same, number * COPY_BLOCK_BYTES)
        first = encoded(file)
        assert len(set(first)) == len(first) == 8
        os.pwrite(opened.fileno(), b"new", 0)  # the others stand one further on now
        os.pwrite(opened.fileno(), b"!", 5 * COPY_BLOCK_BYTES + 7)
        second, other = encoded(file), encoded(file, OTHER)
    joined = [CHUNK_BYTES * n for n in blocks]
    chunks = [{b"".join(pieces)[at : at + CHUNK_BYTES] for at in joined} for pieces in (first, second, other)]
    assert len(chunks[0] & chunks[1]) == 6
    assert not chunks[1] & chunks[2]
    # One byte of block 5 changed: under the same nonce no more than that would look different.
    was, now = first[4], second[5]
    assert sum(x == y for x, y in zip(was, now, strict=True)) < len(was) // 100
    assert first[-1] != second[-1] and encoded(file)[-1] != second[-1]  # a nonce of its own
