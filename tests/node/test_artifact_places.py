"""Places of fetches: what cannot be had, or comes slowly on purpose, keeps nobody else from his files."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from ledger.limits import CHUNK_BYTES
from node import limits
from node.errors import ArtifactFull, ArtifactWrong
from node.files.artifact_wire import CHUNK
from node.files.exchange import Progress, Wanted, fetch_all
from node.files.turns import Turns
from tests.node.artifact_fixture import hosts, wanted_of
from tests.node.network_fixture import until
from tests.node.test_artifacts import data_of, name_of

DATA = data_of(24 * CHUNK_BYTES + 5)


def nowhere(count: int, first: int = 0) -> list[tuple[Wanted, Progress]]:
    return [(Wanted(f"{n:064x}", 5, None), Progress(5)) for n in range(first, first + count)]


async def test_one_order_looks_for_few_at_once(tmp_path: Path) -> None:
    async with hosts(tmp_path, 2) as (me, _), trio.open_nursery() as nursery:
        nursery.start_soon(fetch_all, me.exchange, nowhere(100), (), "one")
        await until(lambda: len(me.exchange.under_way) == limits.ARTIFACT_OF_ORDER_MAX)
        await trio.testing.wait_all_tasks_blocked()
        assert len(me.exchange.under_way) == limits.ARTIFACT_OF_ORDER_MAX
        nursery.cancel_scope.cancel()


async def test_many_orders_for_what_nobody_has_keep_no_other_waiting(tmp_path: Path) -> None:
    """Of one deployment, or of several: together they have all places to ask from, and more."""
    orders = 2 * limits.ARTIFACT_ASKING_MAX // limits.ARTIFACT_OF_ORDER_MAX
    for owners in (1, orders):
        async with hosts(tmp_path / str(owners), 2) as (me, source), trio.open_nursery() as nursery:
            source.exchange.store.add_bytes(DATA)
            for number in range(orders):
                missing = nowhere(limits.ARTIFACT_OF_ORDER_MAX, 1000 * number)
                nursery.start_soon(fetch_all, me.exchange, missing, (), f"deployment {number % owners}")
            await until(lambda me=me: me.exchange.asking.held == limits.ARTIFACT_ASKING_MAX)  # type: ignore[misc]
            with trio.fail_after(60):
                await fetch_all(me.exchange, [(wanted_of(DATA), Progress(0))], (), "another")
            assert me.exchange.store.has(name_of(DATA))
            nursery.cancel_scope.cancel()


async def test_sources_that_stall_on_purpose_hold_no_place_for_good(tmp_path: Path) -> None:
    """One deployment's files all come of a source that gives lists and no chunk: they hold all places to take
    chunks, until another deployment wants one; and its own other files have theirs in turn."""
    false = [data_of(CHUNK_BYTES, seed) for seed in range(2, 3 + limits.ARTIFACT_FETCHES_MAX)]
    async with hosts(tmp_path, 3) as (me, honest, slow), trio.open_nursery() as nursery:
        for data in false:
            slow.exchange.store.add_bytes(data)

        async def stall(peer_id: str, body: bytes) -> bytes:
            await trio.sleep_forever()
            return b""

        slow.methods[CHUNK] = stall
        for data in false:
            nursery.start_soon(fetch_all, me.exchange, [(wanted_of(data), Progress(0))], (), "slow")
        await until(lambda: me.exchange.taking.held == limits.ARTIFACT_FETCHES_MAX)
        await until(lambda: all(fetch._takes for fetch in me.exchange._fetches.values()))
        honest.exchange.store.add_bytes(DATA)
        with trio.fail_after(60):
            await fetch_all(me.exchange, [(wanted_of(DATA), Progress(0))], (), "other")
        own = data_of(3 * CHUNK_BYTES, 99)
        honest.exchange.store.add_bytes(own)
        with trio.fail_after(60):
            await fetch_all(me.exchange, [(wanted_of(own), Progress(0))], (), "slow")
        nursery.cancel_scope.cancel()


async def test_a_file_that_another_wants_too_is_no_hostage_of_the_first(tmp_path: Path) -> None:
    """It waits behind many of the first one's; with the second one it has a place at once."""
    async with hosts(tmp_path, 2) as (me, source), trio.open_nursery() as nursery:
        me.exchange.asking = Turns(limits.ARTIFACT_ASKING_MAX, turn_s=1e9)  # the first one's own never end
        for number in range(limits.ARTIFACT_ASKING_MAX // limits.ARTIFACT_OF_ORDER_MAX):
            missing = nowhere(limits.ARTIFACT_OF_ORDER_MAX, 1000 * number)
            nursery.start_soon(fetch_all, me.exchange, missing, (), "first")
        await until(lambda: me.exchange.asking.held == limits.ARTIFACT_ASKING_MAX)
        nursery.start_soon(fetch_all, me.exchange, [(wanted_of(DATA), Progress(0))], (), "first")
        await until(lambda: wanted_of(DATA) in me.exchange.under_way)
        source.exchange.store.add_bytes(DATA)
        with trio.fail_after(60):
            await fetch_all(me.exchange, [(wanted_of(DATA), Progress(0))], (), "second")
        nursery.cancel_scope.cancel()


async def test_one_file_that_cannot_be_had_ends_its_order(tmp_path: Path) -> None:
    async with hosts(tmp_path, 2) as (me, _):
        files = [*nowhere(limits.ARTIFACT_OF_ORDER_MAX - 1), (Wanted(name_of(DATA), -1, None), Progress(0))]
        with trio.fail_after(60), pytest.raises(ArtifactWrong, match="-1 bytes"):
            await fetch_all(me.exchange, files, (), "one")
        assert me.exchange.under_way == {}


async def test_there_is_an_end_to_what_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.files.exchange.ARTIFACT_WANTED_MAX", 4)
    async with hosts(tmp_path, 1) as (me,), trio.open_nursery() as nursery:
        for wanted, progress in nowhere(4):
            nursery.start_soon(me.exchange.fetch, wanted, progress)
        await until(lambda: len(me.exchange.under_way) == 4)
        with pytest.raises(ArtifactFull, match="4 artifacts are wanted already"):
            await me.exchange.fetch(Wanted("ee" * 32, 5, None))
        nursery.cancel_scope.cancel()


async def test_what_comes_by_a_signed_list_is_not_fetched_beside_it_by_the_same_unsigned(
    tmp_path: Path,
) -> None:
    async with hosts(tmp_path, 2) as (me, source):
        source.exchange.store.add_bytes(DATA)
        signed = wanted_of(DATA)
        unsigned = Wanted(signed.sha256, signed.size_bytes, None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(me.exchange.fetch, signed)
            await until(lambda: signed in me.exchange.under_way)
            nursery.start_soon(me.exchange.fetch, unsigned)
        assert source.asked[CHUNK] == 25
        assert me.exchange.store.used_bytes == len(DATA)


async def test_sources_that_have_a_little_for_ever_do_not_keep_another_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They say that they are fetching, give a chunk, and never have another."""
    monkeypatch.setattr("node.files.sources.ARTIFACT_ASKED_MAX", 2)
    monkeypatch.setattr("node.files.fetching.ARTIFACT_IDLE_S", 1.0)
    data = data_of(3 * CHUNK_BYTES)
    async with hosts(tmp_path, 4) as (me, honest, *misers):
        parts = []
        for miser in misers:
            info = miser.exchange.store.add_bytes(data)
            miser.exchange.store.drop(info.sha256)
            part = miser.exchange.store.partial(info.sha256, len(data), info.chunks, is_signed=True)
            part.write(0, data[:CHUNK_BYTES])
            parts.append(part)
        progress = Progress(0)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(me.exchange.fetch, wanted_of(data), progress)
                await until(lambda: len(progress.sources) == 2, 60)
                honest.exchange.store.add_bytes(data)
        assert me.exchange.store.path(info.sha256).read_bytes() == data
        assert me.exchange.liars == 0
        for part in parts:
            part.close()
