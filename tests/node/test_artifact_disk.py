"""A disk that is full or fails: nothing is left over, nothing is counted that is not there."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from ledger.limits import ARTIFACT_BYTES_MAX, CHUNK_BYTES
from node.errors import ArtifactBusy, ArtifactFull, ArtifactMissing, ArtifactWrong
from node.files import exchange
from node.files.artifact_wire import CHUNK
from node.files.artifacts import ArtifactStore
from node.files.exchange import Progress, Wanted
from tests.node.api_fixture import AUTH, problem
from tests.node.artifact_fixture import hosts, wanted_of
from tests.node.network_fixture import until
from tests.node.test_artifact_views import api_of
from tests.node.test_artifacts import data_of, name_of

DATA = data_of(3 * CHUNK_BYTES + 5)
NAME = name_of(DATA)


def full(*words: object) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


async def stall(peer_id: str, body: bytes) -> bytes:
    await trio.sleep_forever()
    raise AssertionError


def failing_at(call: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """As `real`, but the disk is full at that call."""
    calls = 0

    def made(*words: Any) -> Any:
        nonlocal calls
        calls += 1
        return full() if calls == call else real(*words)

    return made


@pytest.mark.parametrize(("name", "call"), [("fsync", 1), ("fsync", 2), ("replace", 1), ("replace", 2)])
def test_what_could_not_be_named_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: int
) -> None:
    """Bytes and list are synced, then both have their names: the disk is full at each of these."""
    store = ArtifactStore(tmp_path)
    with monkeypatch.context() as disk:
        disk.setattr(f"node.files.artifact_files.os.{name}", failing_at(call, getattr(os, name)))
        with pytest.raises(OSError, match="No space left"):
            store.add_bytes(DATA, "result")
    assert (store.names(), store.used_bytes) == ((), 0)
    assert not list(tmp_path.glob("*.tmp"))
    again = ArtifactStore(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert again.add_bytes(DATA).sha256 == NAME
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ["", ".chunks"]


def test_lists_and_marks_of_what_is_not_there_go_at_the_start(tmp_path: Path) -> None:
    """A kill between them and the file, on its way in or out."""
    store = ArtifactStore(tmp_path)
    kept, cached = store.add_bytes(DATA).sha256, store.add_bytes(b"cached", "cached").sha256
    (tmp_path / kept).unlink()
    (tmp_path / f"{kept}.result").touch()
    (tmp_path / f"{name_of(b'other')}.cached").touch()
    assert ArtifactStore(tmp_path).names() == (cached,)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [cached, f"{cached}.cached", f"{cached}.chunks"]


def test_only_what_is_here_and_not_in_use_is_freed(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    chunks = store.add_bytes(DATA).chunks
    empty = store.add_bytes(b"").sha256
    with store.pinned([NAME]), pytest.raises(ArtifactBusy):
        store.free(NAME)
    assert (store.free(NAME), store.free(empty)) == (len(DATA), 0)
    for name in (NAME, empty):
        with pytest.raises(ArtifactMissing):
            store.free(name)
    part = store.partial(NAME, len(DATA), chunks)
    with pytest.raises(ArtifactBusy):
        store.free(NAME)
    part.close()
    assert store.free(NAME) == len(DATA)
    assert (list(tmp_path.iterdir()), store.used_bytes) == ([], 0)


def test_a_list_has_a_digest_for_each_chunk(tmp_path: Path) -> None:
    store, digest = ArtifactStore(tmp_path), hashlib.sha256(DATA).digest()
    for count in (0, 3, 5):
        with pytest.raises(ArtifactWrong, match=f"{count} chunk digests"):
            store.partial(NAME, len(DATA), (digest,) * count)
    assert (list(tmp_path.iterdir()), store.used_bytes) == ([], 0)


@pytest.mark.parametrize("call", [1, 2, 3])
async def test_a_disk_that_is_full_at_the_end_loses_no_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """When the bytes are synced, or their list. When their folder is, nobody knows what is on it."""
    async with hosts(tmp_path, 2) as (me, source):
        source.exchange.store.add_bytes(DATA)
        with monkeypatch.context() as disk:
            disk.setattr("node.files.artifact_files.os.fsync", failing_at(call, os.fsync))
            with pytest.raises(ArtifactFull, match="No space left"):
                await me.exchange.fetch(wanted_of(DATA))
        store, asked = me.exchange.store, source.asked[CHUNK]
        assert not store.has(NAME) and not store._cache.under_way
        assert store.used_bytes == (len(DATA) if call < 3 else 0)
        with trio.fail_after(60):
            assert (await me.exchange.fetch(wanted_of(DATA))).read_bytes() == DATA
        assert source.asked[CHUNK] - asked == (0 if call < 3 else 4)
        assert store.used_bytes == len(DATA)
        assert me.exchange.liars == 0


@pytest.mark.parametrize(("name", "call"), [("intake", 1), ("write", 1), ("fsync", 1), ("fsync", 2)])
async def test_an_upload_to_a_full_disk_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: int
) -> None:
    async with hosts(tmp_path, 1) as (me,), api_of(me) as client:
        with monkeypatch.context() as disk:
            if name == "intake":
                disk.setattr(ArtifactStore, "intake", full)
            elif name == "write":
                disk.setattr("node.files.artifact_files.Intake.write", full)
            else:
                disk.setattr("node.files.artifact_files.os.fsync", failing_at(call, os.fsync))
            answer = await client.put(f"/v1/artifacts/{NAME}", headers=AUTH, content=DATA)
        assert "No space left" in problem(answer, 507, "artifact.no_room").detail
        assert list((tmp_path / "0").iterdir()) == []
        assert (await client.put(f"/v1/artifacts/{NAME}", headers=AUTH, content=DATA)).status_code == 201


async def test_a_size_that_cannot_be_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    async with hosts(tmp_path, 2) as (me, source):
        source.exchange.store.add_bytes(DATA)
        for size_bytes in (-1, ARTIFACT_BYTES_MAX + 1):
            with trio.fail_after(60), pytest.raises(ArtifactWrong, match="at most"):
                await me.exchange.fetch(Wanted(NAME, size_bytes, None))
        assert source.asked == {}


async def test_addresses_that_lead_nowhere_hold_no_fetch_up(tmp_path: Path) -> None:
    """They stand on the ledger, as whoever offers there wrote them."""
    async with hosts(tmp_path, 2) as (me, source):
        source.exchange.store.add_bytes(DATA)
        own = f"/memory/0/p2p/{me.network.peer_id}"
        hints = ["", "rubbish", "/ip4/1.2.3.4/tcp/1", own, "/p2p/" + "a" * 5_000]
        with trio.fail_after(60):
            assert (await me.exchange.fetch(wanted_of(DATA), hints=hints)).read_bytes() == DATA


async def test_of_sources_set_aside_the_last_ones_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "_DROPPED_MAX", 3)
    async with hosts(tmp_path, 1) as (me,):
        progress = Progress(0)
        for name in "abcde":
            me.exchange.blame(name, "artifact.chunk", progress)
            me.exchange.blame(name, "artifact.chunk", progress)  # what else was under way to it
        assert list(progress.dropped) == ["c", "d", "e"]
        assert me.exchange.liars == 5


async def test_nothing_of_a_fetch_stays_when_it_is_called_off(tmp_path: Path) -> None:
    async with hosts(tmp_path, 2) as (me, source):
        made = me.exchange
        source.exchange.store.add_bytes(DATA)
        source.methods[CHUNK] = stall
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.fetch, wanted_of(DATA))
            await until(lambda: bool(source.asked), 60)
            nursery.start_soon(made.fetch, wanted_of(DATA))
            await until(lambda: made.taking.held == 1, 60)
            nursery.cancel_scope.cancel()
        assert (made.under_way, made._locks, made._fetches) == ({}, {}, {})
        assert made.asking.held == made.taking.held == 0
