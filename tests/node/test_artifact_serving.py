"""What a peer gives of its files: to questions without end, from a failing disk, and at whose cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from ledger.codec import decode, encode
from ledger.limits import CHUNK_BYTES
from node import limits
from node.errors import ArtifactMissing
from node.files import serving
from node.files.artifact_wire import CHUNK, HELD, INFO, ChunkRequest, HeldAnswer, HeldRequest, InfoRequest
from node.files.rates import FileRates
from p2p.errors import Refused as RequestRefused
from tests.node.artifact_fixture import Host, hosts, wanted_of
from tests.node.network_fixture import until
from tests.node.test_artifacts import data_of, name_of

DATA = data_of(24 * CHUNK_BYTES + 5)
NAME = bytes.fromhex(name_of(DATA))


async def refusal(asker: Host, source: Host, method: str, body: bytes) -> str:
    with pytest.raises(RequestRefused) as caught:
        await asker.network.request(source.network.peer_id, method, body, 60)
    return caught.value.reason.partition(":")[0].partition(" ")[0]  # of "rule at field: words"


@pytest.mark.parametrize("first", [1 << 57, 1 << 58, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
async def test_no_number_is_too_large_to_refuse(tmp_path: Path, first: int) -> None:
    """A part of a list from chunk 2^58 on is at no place that a disk has: it once ended the peer."""
    async with hosts(tmp_path, 2) as (me, source):
        info = source.exchange.store.add_bytes(DATA)
        for is_part in (False, True):
            if is_part:
                source.exchange.store.drop(info.sha256)
                part = source.exchange.store.partial(info.sha256, len(DATA), info.chunks, is_signed=True)
            assert await refusal(me, source, INFO, encode(InfoRequest(NAME, first))) == "artifact.range"
            with pytest.raises(ArtifactMissing):
                source.exchange.store.digests(info.sha256, first, 1)
            chunk = encode(ChunkRequest(NAME, first, 1))
            assert await refusal(me, source, CHUNK, chunk) == "artifact.unknown"
        part.close()


async def test_what_the_disk_cannot_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*words: object) -> bytes:
        raise OSError(5, "Input/output error")

    async with hosts(tmp_path, 2) as (me, source):
        info = source.exchange.store.add_bytes(DATA)
        chunk, piece = encode(ChunkRequest(NAME, 2, 1)), DATA[2 * CHUNK_BYTES : 3 * CHUNK_BYTES]
        to = source.network.peer_id
        assert await me.network.request(to, CHUNK, chunk, 60) == piece
        with monkeypatch.context() as disk:
            disk.setattr("node.files.artifact_files.os.pread", broken)
            for method, body in ((CHUNK, chunk), (INFO, encode(InfoRequest(NAME, 0)))):
                assert await refusal(me, source, method, body) == "artifact.unknown"
        assert await me.network.request(to, CHUNK, chunk, 60) == piece
        source.exchange.store.drop(info.sha256)
        part = source.exchange.store.partial(info.sha256, len(DATA), info.chunks, is_signed=True)
        part.write(2, piece)
        with monkeypatch.context() as disk:
            disk.setattr("node.files.artifact_files.os.pread", broken)
            assert await refusal(me, source, CHUNK, chunk) == "artifact.unknown"
        assert await me.network.request(to, CHUNK, chunk, 60) == piece
        part.close()


@pytest.mark.parametrize("is_part", [False, True])
async def test_who_asks_for_what_is_not_here_takes_nothing_of_the_line(tmp_path: Path, is_part: bool) -> None:
    """Each of its questions has 50 bytes; a run that is given has a mebibyte."""
    rates = FileRates(upload_bytes_s=4 * CHUNK_BYTES)
    async with hosts(tmp_path, 3, rates) as (me, source, hostile):
        info = source.exchange.store.add_bytes(DATA)
        if is_part:
            source.exchange.store.drop(info.sha256)
            part = source.exchange.store.partial(info.sha256, len(DATA), info.chunks, is_signed=True)
            part.write(0, DATA[:CHUNK_BYTES])
        for at in range(40):
            for question in (ChunkRequest(bytes(32), at, 4), ChunkRequest(NAME, 22 + at, 4)):
                assert await refusal(hostile, source, CHUNK, encode(question)) == "artifact.unknown"
        assert source.exchange.serving._line.is_even(trio.current_time())
        body = encode(ChunkRequest(NAME, 0, 1))
        assert await me.network.request(source.network.peer_id, CHUNK, body, 60) == DATA[:CHUNK_BYTES]
        assert source.exchange.serving.served_bytes == CHUNK_BYTES
        if is_part:
            part.close()


async def test_places_of_answers_are_free_again_however_they_end(tmp_path: Path) -> None:
    async with hosts(tmp_path, 2) as (me, source):
        source.exchange.store.add_bytes(DATA)
        for _ in range(2 * limits.ARTIFACT_SERVED_MAX):
            assert await refusal(me, source, CHUNK, encode(ChunkRequest(NAME, 0, 0))) == "artifact.range"
            assert await refusal(me, source, HELD, encode(HeldRequest(bytes(32)))) == "artifact.unknown"
        run = encode(ChunkRequest(NAME, 0, 4))
        assert len(await me.network.request(source.network.peer_id, CHUNK, run, 60)) == 4 * CHUNK_BYTES


async def test_answers_to_each_and_to_all_together_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "ARTIFACT_SERVED_MAX", 3)
    monkeypatch.setattr(serving, "ARTIFACT_SERVED_PEER_MAX", 2)
    async with hosts(tmp_path, 4) as (source, one, two, three):
        source.exchange.store.add_bytes(DATA)
        made, to, body = source.exchange.serving, source.network.peer_id, encode(ChunkRequest(NAME, 0, 1))
        given, gate = [], trio.Event()

        async def held_up(*words: object) -> None:
            await gate.wait()

        async def ask(asker: Host) -> None:
            given.append(await asker.network.request(to, CHUNK, body, 60))

        monkeypatch.setattr(made, "_pay", held_up)
        async with trio.open_nursery() as nursery:
            for asker in (one, one):
                nursery.start_soon(ask, asker)
            await until(lambda: made._at_work == 2, 60)
            assert await refusal(one, source, CHUNK, body) == "artifact.busy"
            nursery.start_soon(ask, two)
            await until(lambda: made._at_work == 3, 60)
            assert await refusal(three, source, CHUNK, body) == "artifact.busy"
            gate.set()
        assert given == [DATA[:CHUNK_BYTES]] * 3
        assert made._at_work == 0


async def test_a_line_that_is_full_says_so(tmp_path: Path) -> None:
    """Lists, too: a list of digests may have half a mebibyte, and is asked for with 50 bytes."""
    async with hosts(tmp_path, 2, FileRates(upload_bytes_s=6)) as (me, source):
        source.exchange.store.add_bytes(DATA)
        to = source.network.peer_id
        await me.network.request(to, INFO, encode(InfoRequest(NAME, 0)), 60)  # two minutes of the line
        for method, body in (
            (INFO, encode(InfoRequest(NAME, 0))),
            (HELD, encode(HeldRequest(NAME))),
            (CHUNK, encode(ChunkRequest(NAME, 0, 1))),
        ):
            assert await refusal(me, source, method, body) == "artifact.busy"
        assert source.exchange.serving.busy == 3


async def test_takers_are_told_and_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hosts(tmp_path, 3) as (source, one, two):
        source.exchange.store.add_bytes(DATA)

        async def takers(asker: Host) -> int:
            raw = await asker.network.request(source.network.peer_id, HELD, encode(HeldRequest(NAME)), 60)
            return decode(HeldAnswer, raw).takers

        assert [await takers(asker) for asker in (one, one, two, one)] == [0, 0, 1, 1]
        monkeypatch.setattr(serving, "ARTIFACT_TAKING_S", 0.0)
        assert await takers(two) == 0


async def test_what_is_remembered_of_takers_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "ARTIFACT_TAKERS_MAX", 2)
    monkeypatch.setattr(serving, "ARTIFACT_READERS_MAX", 2)
    async with hosts(tmp_path, 5) as (source, *askers):
        names = [source.exchange.store.add_bytes(data_of(5, seed)).sha256 for seed in range(4)]
        for asker in askers:
            for name in names:
                body = encode(HeldRequest(bytes.fromhex(name)))
                await asker.network.request(source.network.peer_id, HELD, body, 60)
        made = source.exchange.serving
        assert set(made._asked) == {bytes.fromhex(name) for name in names[-2:]}
        assert all(len(asked) <= 2 for asked in made._asked.values())
        assert len(made._takers) <= 2


async def test_who_has_much_under_way_or_owes_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others come, more than are remembered: neither its places nor its rate begin anew."""
    monkeypatch.setattr(serving, "ARTIFACT_TAKERS_MAX", 1)
    monkeypatch.setattr(serving, "ARTIFACT_SERVED_PEER_MAX", 1)
    async with hosts(tmp_path, 4, FileRates(upload_peer_bytes_s=6)) as (source, one, two, three):
        source.exchange.store.add_bytes(DATA)
        made, to, body = source.exchange.serving, source.network.peer_id, encode(ChunkRequest(NAME, 0, 1))
        gate, pay = trio.Event(), made._pay

        async def held_up(*words: Any) -> None:
            await gate.wait()
            await pay(*words)

        with monkeypatch.context() as slowly:
            slowly.setattr(made, "_pay", held_up)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.network.request, to, CHUNK, body, 60)
                await until(lambda: made._at_work == 1, 60)
                assert await refusal(two, source, CHUNK, encode(ChunkRequest(NAME, 0, 0))) == "artifact.range"
                assert await refusal(one, source, CHUNK, body) == "artifact.busy"
                gate.set()
        assert await refusal(three, source, CHUNK, encode(ChunkRequest(NAME, 0, 0))) == "artifact.range"
        assert await refusal(one, source, CHUNK, body) == "artifact.busy"  # it has still to pay for the first


async def test_what_the_disk_changed_is_counted_and_given_to_nobody(tmp_path: Path) -> None:
    async with hosts(tmp_path, 2) as (me, source):
        source.exchange.store.add_bytes(DATA)
        with (tmp_path / "1" / name_of(DATA)).open("r+b") as file:
            file.write(b"changed")
        assert await refusal(me, source, CHUNK, encode(ChunkRequest(NAME, 0, 1))) == "artifact.unknown"
        assert source.exchange.serving.changed_on_disk == 1
        assert not source.exchange.store.has(name_of(DATA))


async def test_files_kept_open_for_others_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.files.artifacts.ARTIFACT_READERS_MAX", 2)
    async with hosts(tmp_path, 2) as (me, source):
        for seed in range(5):
            data = data_of(5, seed)
            source.exchange.store.add_bytes(data)
            assert (await me.exchange.fetch(wanted_of(data))).read_bytes() == data
        assert len(source.exchange.store._readers) == 2
