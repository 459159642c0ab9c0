"""Artifacts between peers: many sources, liars dropped at their first bad chunk, resume, serving on."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from ledger.codec import decode, encode
from ledger.limits import CHUNK_BYTES
from node.errors import ArtifactFull, ArtifactWrong
from node.files.artifact_wire import CHUNK, HELD, INFO, ChunkRequest, InfoAnswer
from node.files.artifacts import ArtifactStore
from node.files.exchange import Progress, Wanted
from node.limits import ARTIFACT_FAILURES_MAX
from p2p.errors import Refused as RequestRefused
from tests.node.artifact_fixture import answering, hosts, says, wanted_of
from tests.node.network_fixture import paced, until
from tests.node.test_artifacts import data_of, name_of


async def test_many_sources_share_the_work_and_the_fetcher_serves_on(tmp_path: Path) -> None:
    data = data_of(20 * CHUNK_BYTES + 9)
    async with hosts(tmp_path, 4) as (me, one, two, late):
        for source in (one, two):
            source.exchange.store.add_bytes(data)
        progress = Progress(0)
        path = await me.exchange.fetch(wanted_of(data), progress)
        assert path.read_bytes() == data
        assert progress.bytes_done == progress.bytes_total == len(data)
        assert 21 <= one.asked[CHUNK] + two.asked[CHUNK] <= 29  # few are asked twice
        assert min(one.asked[CHUNK], two.asked[CHUNK]) >= 5
        for source in (one, two):
            source.exchange.store.drop(name_of(data))
        assert (await late.exchange.fetch(wanted_of(data))).read_bytes() == data
        assert 21 <= me.asked[CHUNK] <= 25


async def test_a_source_that_lies_is_dropped_at_its_first_bad_chunk(tmp_path: Path) -> None:
    data = data_of(12 * CHUNK_BYTES)
    async with hosts(tmp_path, 3) as (me, honest, liar):
        for source in (honest, liar):
            source.exchange.store.add_bytes(data)
        lies = 0

        async def lie(peer_id: str, body: bytes) -> bytes:
            nonlocal lies
            lies += 1
            await trio.lowlevel.checkpoint()
            return bytes(CHUNK_BYTES)

        liar.methods[CHUNK] = lie
        progress = Progress(0)
        assert (await me.exchange.fetch(wanted_of(data), progress)).read_bytes() == data
        assert progress.dropped == {liar.network.peer_id: "artifact.chunk"}
        assert 1 <= lies <= 2  # those under way when the first one was found out
        assert me.exchange.liars == 1
        scores = {n.peer_id: n.score for n in me.network.neighbours()}
        assert scores[liar.network.peer_id] < 0 == scores[honest.network.peer_id]


@pytest.mark.parametrize(
    "answer",
    [
        InfoAnswer(12 * CHUNK_BYTES, bytes(32) * 12),
        InfoAnswer(12 * CHUNK_BYTES, bytes(32)),
        InfoAnswer(12 * CHUNK_BYTES, b""),
        InfoAnswer(5, bytes(32)),
        InfoAnswer(12 * CHUNK_BYTES, b"x"),
    ],
)
async def test_a_false_list_is_found_before_any_chunk_is_asked(tmp_path: Path, answer: InfoAnswer) -> None:
    data = data_of(12 * CHUNK_BYTES)
    async with hosts(tmp_path, 3) as (me, honest, liar):
        liar.methods |= {HELD: says(data), INFO: answering(encode(answer))}
        progress = Progress(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(me.exchange.fetch, wanted_of(data), progress)
            await until(lambda: progress.dropped == {liar.network.peer_id: "artifact.list"})
            honest.exchange.store.add_bytes(data)
        assert me.exchange.store.path(name_of(data)).read_bytes() == data
        assert CHUNK not in liar.asked
        assert liar.asked[INFO] == 1


async def test_a_fetch_waits_for_a_source_and_resumes_what_was_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.files.sources.ARTIFACT_RUN_MAX", 1)
    data = data_of(10 * CHUNK_BYTES)
    async with hosts(tmp_path, 2) as (me, source):
        stop_after = 4
        honest = source.methods[CHUNK]

        async def stall(peer_id: str, body: bytes) -> bytes:
            if source.asked[CHUNK] > stop_after:
                await trio.sleep_forever()
            return await honest(peer_id, body)

        source.methods[CHUNK] = stall
        progress = Progress(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(me.exchange.fetch, wanted_of(data), progress)
            await until(lambda: source.asked.get(HELD, 0) > 0)
            assert progress.bytes_done == 0  # nobody has it
            source.exchange.store.add_bytes(data)
            await until(lambda: progress.bytes_done == stop_after * CHUNK_BYTES)
            nursery.cancel_scope.cancel()
        source.methods[CHUNK] = honest
        me.exchange.store = ArtifactStore(tmp_path / "0")  # as after a restart
        before = source.asked[CHUNK]
        assert (await me.exchange.fetch(wanted_of(data))).read_bytes() == data
        assert source.asked[CHUNK] - before == 10 - stop_after


async def test_a_result_is_fetched_by_digest_alone_and_a_false_one_is_refused(tmp_path: Path) -> None:
    data, other = data_of(3 * CHUNK_BYTES), data_of(3 * CHUNK_BYTES, 2)
    async with hosts(tmp_path, 3) as (me, honest, liar):
        false = liar.exchange.store.add_bytes(other)
        list_of = encode(InfoAnswer(len(data), b"".join(false.chunks)))

        async def chunk(peer_id: str, body: bytes) -> bytes:
            await trio.lowlevel.checkpoint()
            request = decode(ChunkRequest, body)
            return liar.exchange.store.read_chunks(false.sha256, request.first, request.count)

        word = says(data, root=bytes.fromhex(false.root))
        liar.methods |= {HELD: word, INFO: answering(list_of), CHUNK: chunk}
        progress = Progress(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(me.exchange.fetch, Wanted(name_of(data), len(data), None), progress)
            await until(lambda: progress.dropped == {liar.network.peer_id: "artifact.whole"})
            assert progress.bytes_done == 0
            honest.exchange.store.add_bytes(data)
        assert me.exchange.store.path(name_of(data)).read_bytes() == data


async def test_a_source_that_gets_it_later_joins_a_fetch_under_way(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    data = data_of(30 * CHUNK_BYTES)
    async with paced(mock_clock, 20.0), hosts(tmp_path, 3) as (me, slow, late):
        slow.exchange.store.add_bytes(data)
        honest = slow.methods[CHUNK]

        async def slowly(peer_id: str, body: bytes) -> bytes:
            await trio.sleep(4)
            return await honest(peer_id, body)

        slow.methods[CHUNK] = slowly
        progress = Progress(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(me.exchange.fetch, wanted_of(data), progress)
            await until(lambda: progress.bytes_done > 0, 300)
            late.exchange.store.add_bytes(data)
        assert late.asked[CHUNK] > slow.asked[CHUNK]
        assert me.exchange.store.path(name_of(data)).read_bytes() == data


async def test_what_cannot_be_is_refused_with_the_reason(tmp_path: Path) -> None:
    data = data_of(3 * CHUNK_BYTES)
    async with hosts(tmp_path, 2) as (me, source):
        source.exchange.store.add_bytes(data)
        me.exchange.store.size_bytes_max = CHUNK_BYTES
        with pytest.raises(ArtifactFull):
            await me.exchange.fetch(wanted_of(data))
        me.exchange.store.size_bytes_max = 10 * CHUNK_BYTES
        assert (await me.exchange.fetch(wanted_of(data))).read_bytes() == data
        with pytest.raises(ArtifactWrong, match="another size"):
            await me.exchange.fetch(Wanted(name_of(data), len(data) - 1, None))
        with pytest.raises(RequestRefused, match=r"artifact\.|not here|unknown"):
            await me.network.request(source.network.peer_id, INFO, b"\x93rubbish", 5)


async def test_a_list_that_was_given_up_leaves_nothing_and_its_source_comes_last(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    """It gives one chunk of a false list, and then no more; somebody else has another list."""
    data, other = data_of(3 * CHUNK_BYTES), data_of(3 * CHUNK_BYTES, 2)
    async with paced(mock_clock, 5.0), hosts(tmp_path, 3) as (me, honest, staller):
        false = staller.exchange.store.add_bytes(other)

        async def one(peer_id: str, body: bytes) -> bytes:
            if decode(ChunkRequest, body).first:
                await trio.sleep_forever()
            return staller.exchange.store.read_chunks(false.sha256, 0)

        staller.methods |= {
            HELD: says(data, root=bytes.fromhex(false.root)),
            INFO: answering(encode(InfoAnswer(len(data), b"".join(false.chunks)))),
            CHUNK: one,
        }
        progress = Progress(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(me.exchange.fetch, Wanted(name_of(data), len(data), None), progress)
            await until(lambda: progress.bytes_done == CHUNK_BYTES, 600)
            honest.methods[HELD] = says(data)  # and no list: the other one is given up for its word
            await until(lambda: progress.bytes_done == 0, 600)
            asked = staller.asked[HELD]
            honest.methods |= honest.exchange.methods()
            honest.exchange.store.add_bytes(data)
        assert me.exchange.store.path(name_of(data)).read_bytes() == data
        assert staller.asked[HELD] == asked
        assert list((tmp_path / "0").glob("*.part")) == []


async def test_a_chunk_that_was_refused_once_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no other source that would take it over."""
    monkeypatch.setattr("node.files.sources.ARTIFACT_RUN_MAX", 1)
    data = data_of(6 * CHUNK_BYTES)
    async with hosts(tmp_path, 2) as (me, source):
        source.exchange.store.add_bytes(data)
        give, refused = source.methods[CHUNK], []

        async def once(peer_id: str, body: bytes) -> bytes:
            if decode(ChunkRequest, body).first == 3 and not refused:
                refused.append(True)
                raise RequestRefused("artifact.unknown: for once")
            return await give(peer_id, body)

        source.methods[CHUNK] = once
        with trio.fail_after(60):
            assert (await me.exchange.fetch(wanted_of(data))).read_bytes() == data
        assert refused


async def test_one_that_is_busy_is_asked_again_and_has_not_failed(tmp_path: Path) -> None:
    data = data_of(6 * CHUNK_BYTES)
    async with hosts(tmp_path, 2) as (me, source):
        source.exchange.store.add_bytes(data)
        give, busy = source.methods[CHUNK], 2 * ARTIFACT_FAILURES_MAX

        async def later(peer_id: str, body: bytes) -> bytes:
            if source.asked[CHUNK] <= busy:
                raise RequestRefused("artifact.busy: the line is full")
            return await give(peer_id, body)

        source.methods[CHUNK] = later
        with trio.fail_after(60):
            assert (await me.exchange.fetch(wanted_of(data))).read_bytes() == data
        assert source.asked[HELD] == 1  # in one turn, without a rest


async def test_one_that_says_that_it_is_fetching_and_gives_nothing_is_left(tmp_path: Path) -> None:
    data = data_of(6 * CHUNK_BYTES)
    async with hosts(tmp_path, 2) as (me, source), trio.open_nursery() as nursery:
        info = source.exchange.store.add_bytes(data)
        source.exchange.store.drop(info.sha256)
        part = source.exchange.store.partial(info.sha256, len(data), info.chunks, is_signed=True)
        for index in range(5):
            part.write(index, data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])

        async def nothing(peer_id: str, body: bytes) -> bytes:
            raise RequestRefused("artifact.unknown: not here")

        source.methods[CHUNK] = nothing
        progress = Progress(0)
        nursery.start_soon(me.exchange.fetch, wanted_of(data), progress)
        await until(lambda: source.asked.get(CHUNK, 0) >= ARTIFACT_FAILURES_MAX, 60)
        await until(lambda: not progress.sources, 30)
        part.close()
        nursery.cancel_scope.cancel()
