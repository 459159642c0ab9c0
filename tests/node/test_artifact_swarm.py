"""Those who fetch the same at once give each other what they verified already."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from ledger.limits import CHUNK_BYTES
from node.files.artifact_wire import CHUNK, HELD
from node.files.exchange import Progress, Wanted
from node.files.rates import FileRates
from tests.node.artifact_fixture import hosts, wanted_of
from tests.node.network_fixture import paced, until
from tests.node.test_artifacts import data_of, name_of


async def test_eight_at_once_take_no_eight_times_as_long_as_one(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    """Every peer gives at most three chunks a second in all: the line is the limit, not this machine.

    So few chunks are not enough to share them well; `bench.files` measures the real thing.
    """
    data = data_of(48 * CHUNK_BYTES)
    wanted, rates = wanted_of(data), FileRates(upload_bytes_s=3 * CHUNK_BYTES)
    async with paced(mock_clock, 8.0), hosts(tmp_path, 9, rates) as (source, *takers):
        source.exchange.store.add_bytes(data)
        begin_s = trio.current_time()
        await takers[0].exchange.fetch(wanted)
        one_s = trio.current_time() - begin_s
        takers[0].exchange.store.drop(wanted.sha256)
        before, begin_s = source.exchange.serving.served_bytes, trio.current_time()
        async with trio.open_nursery() as nursery:
            for taker in takers:
                nursery.start_soon(taker.exchange.fetch, wanted)
        assert trio.current_time() - begin_s <= 5 * one_s
        assert all(taker.exchange.store.path(wanted.sha256).read_bytes() == data for taker in takers)
        given = source.exchange.serving.served_bytes - before
        assert given < 3 * len(data)  # alone it would have given eight times the file


async def test_one_that_is_fetching_gives_what_it_has_and_nothing_else(tmp_path: Path) -> None:
    data = data_of(9 * CHUNK_BYTES + 1)
    async with hosts(tmp_path, 3) as (me, half, honest):
        wanted = wanted_of(data)
        pieces = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
        info = honest.exchange.store.add_bytes(data)
        honest.exchange.store.drop(wanted.sha256)
        part = half.exchange.store.partial(wanted.sha256, len(data), info.chunks, is_signed=True)
        for index in (1, 2, 9):
            part.write(index, pieces[index])
        progress = Progress(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(me.exchange.fetch, wanted, progress)
            await until(lambda: progress.bytes_done == 2 * CHUNK_BYTES + 1)
            part.write(4, pieces[4])  # told when asked again
            await until(lambda: progress.bytes_done == 3 * CHUNK_BYTES + 1)
            assert half.asked[CHUNK] == 4
            honest.exchange.store.add_bytes(data)
        assert me.exchange.store.path(wanted.sha256).read_bytes() == data
        assert half.asked[CHUNK] == 4
        part.close()
        assert half.exchange.store.names() == ()


async def test_what_the_disk_changed_of_a_part_is_not_given(tmp_path: Path) -> None:
    data = data_of(3 * CHUNK_BYTES)
    async with hosts(tmp_path, 3) as (me, half, honest):
        info = honest.exchange.store.add_bytes(data)
        honest.exchange.store.drop(info.sha256)
        part = half.exchange.store.partial(info.sha256, len(data), info.chunks, is_signed=True)
        for index in (0, 1):
            part.write(index, data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
        with (tmp_path / "1" / f"{info.sha256}.part").open("r+b") as file:
            file.write(b"torn")
        progress = Progress(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(me.exchange.fetch, wanted_of(data), progress)
            await until(lambda: progress.bytes_done == CHUNK_BYTES)
            honest.exchange.store.add_bytes(data)
        assert me.exchange.store.path(info.sha256).read_bytes() == data
        assert me.exchange.liars == 0
        part.close()


async def test_a_part_of_an_unsigned_list_is_nobodys_to_take(tmp_path: Path) -> None:
    data = data_of(3 * CHUNK_BYTES)
    async with hosts(tmp_path, 2) as (me, half):
        info = me.exchange.store.add_bytes(data)
        me.exchange.store.drop(info.sha256)
        part = half.exchange.store.partial(info.sha256, len(data), info.chunks)
        part.write(0, data[:CHUNK_BYTES])
        with trio.move_on_after(2) as waited:
            await me.exchange.fetch(wanted_of(data))
        assert waited.cancelled_caught
        assert half.asked.keys() == {HELD}
        part.close()


@pytest.mark.parametrize("signed", [True, False])
async def test_an_empty_artifact_needs_no_chunk(tmp_path: Path, signed: bool) -> None:
    async with hosts(tmp_path, 2) as (me, source):
        source.exchange.store.add_bytes(b"")
        wanted = wanted_of(b"") if signed else Wanted(name_of(b""), 0, None)
        assert (await me.exchange.fetch(wanted)).read_bytes() == b""
        assert CHUNK not in source.asked
