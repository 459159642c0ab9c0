"""Hostile sources, contracts and takers: none holds a fetch up, costs us much, or has others blamed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import trio
import trio.testing

from ledger.codec import decode, encode
from ledger.limits import CHUNK_BYTES
from node import limits
from node.errors import ArtifactFull, ArtifactWrong
from node.files.artifact_wire import (
    CHUNK,
    HELD,
    INFO,
    ChunkRequest,
    HeldAnswer,
    HeldRequest,
    InfoAnswer,
    InfoRequest,
    read_digests,
    read_held,
)
from node.files.exchange import Progress, Wanted
from node.files.rates import FileRates
from p2p.errors import Refused as RequestRefused
from p2p.errors import RequestError
from tests.node.artifact_fixture import Host, answering, hosts, says, wanted_of
from tests.node.network_fixture import paced, until
from tests.node.test_artifacts import data_of, name_of

DATA = data_of(24 * CHUNK_BYTES + 5)


def scores(host: Host) -> dict[str, int]:
    return {neighbour.peer_id: neighbour.score for neighbour in host.network.neighbours()}


# ---------------------------------------------------------------------- sources


async def test_one_that_stalls_with_chunks_holds_nobody_up(tmp_path: Path) -> None:
    """It gives its list and word, is asked for chunks, and never answers: others take them over."""
    async with hosts(tmp_path, 3) as (me, honest, staller):
        honest.exchange.store.add_bytes(DATA)
        staller.exchange.store.add_bytes(DATA)

        async def stall(peer_id: str, body: bytes) -> bytes:
            await trio.sleep_forever()
            raise AssertionError

        staller.methods[CHUNK] = stall
        with trio.fail_after(limits.ARTIFACT_ASK_S / 2):
            assert (await me.exchange.fetch(wanted_of(DATA))).read_bytes() == DATA
        assert 1 <= staller.asked[CHUNK] <= limits.ARTIFACT_SOURCE_WINDOW
        assert scores(me)[staller.network.peer_id] == 0  # a slow line is no lie


async def test_many_that_stall_do_not_keep_the_honest_one_out(tmp_path: Path) -> None:
    """Places for sources are bounded; who gives nothing leaves its place."""
    async with hosts(tmp_path, limits.ARTIFACT_SOURCES_MAX + 4) as (me, *others):
        honest, *stallers = others

        async def stall(peer_id: str, body: bytes) -> bytes:
            await trio.sleep_forever()
            raise AssertionError

        for staller in stallers:
            staller.methods |= {HELD: says(DATA), INFO: stall, CHUNK: stall}
        progress = Progress(0)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(me.exchange.fetch, wanted_of(DATA), progress)
                full = limits.ARTIFACT_SOURCES_MAX
                await until(lambda: sum(HELD in staller.asked for staller in stallers) >= full)
                honest.exchange.store.add_bytes(DATA)
        assert me.exchange.store.path(name_of(DATA)).read_bytes() == DATA


async def test_crumbs_of_a_list_are_a_lie(tmp_path: Path) -> None:
    """A list digest by digest would take one request a chunk: a part is full, or the end."""
    async with hosts(tmp_path, 3) as (me, honest, miser):
        wanted = wanted_of(DATA)

        async def crumb(peer_id: str, body: bytes) -> bytes:
            await trio.lowlevel.checkpoint()
            at = decode(InfoRequest, body).first * CHUNK_BYTES
            return encode(InfoAnswer(len(DATA), hashlib.sha256(DATA[at : at + CHUNK_BYTES]).digest()))

        miser.methods |= {HELD: says(DATA), INFO: crumb}
        progress = Progress(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(me.exchange.fetch, wanted, progress)
            await until(lambda: miser.network.peer_id in progress.dropped)
            honest.exchange.store.add_bytes(DATA)
        assert progress.dropped == {miser.network.peer_id: "artifact.list"}
        assert miser.asked[INFO] == 1


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        (b"\xc1", "artifact.malformed"),
        (encode(HeldAnswer(-1, bytes(32), b"", 0)), "artifact.held"),
        (encode(HeldAnswer(1 << 60, bytes(32), b"", 0)), "artifact.held"),
        (encode(HeldAnswer(len(DATA), b"short", b"", 0)), "artifact.held"),
        (encode(HeldAnswer(len(DATA), bytes(32), b"", -1)), "artifact.held"),
        (encode(HeldAnswer(len(DATA), bytes(32), bytes(3), 0)), "artifact.held"),
        (encode(HeldAnswer(len(DATA), bytes(32), bytes(3) + b"\x02", 0)), "artifact.held"),
        (encode(HeldAnswer(len(DATA), bytes(32), bytes(1_000), 0)), "artifact.held"),
    ],
)
async def test_a_word_that_makes_no_sense_is_a_fault(tmp_path: Path, answer: bytes, rule: str) -> None:
    async with hosts(tmp_path, 3) as (me, honest, liar):
        liar.methods[HELD] = answering(answer)
        progress = Progress(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(me.exchange.fetch, wanted_of(DATA), progress)
            await until(lambda: progress.dropped == {liar.network.peer_id: rule})
            honest.exchange.store.add_bytes(DATA)
        assert me.exchange.liars == 1
        assert scores(me)[liar.network.peer_id] < 0 == scores(me)[honest.network.peer_id]


def test_words_that_make_sense_are_read_and_others_are_not() -> None:
    whole = read_held(encode(HeldAnswer(9 * CHUNK_BYTES, bytes(32), b"", 0)))
    assert (whole.size_bytes, whole.root, whole.held) == (9 * CHUNK_BYTES, "00" * 32, None)
    assert read_held(encode(HeldAnswer(9 * CHUNK_BYTES, bytes(32), b"\x05\x01", 0))).held == 0b1_0000_0101
    assert read_held(encode(HeldAnswer(0, bytes(32), b"", 0))).held is None
    assert read_digests(encode(InfoAnswer(5, bytes(32))), 5, 0) == bytes(32)
    long = (limits.ARTIFACT_DIGESTS_MAX + 2) * CHUNK_BYTES
    assert len(read_digests(encode(InfoAnswer(long, bytes(64))), long, limits.ARTIFACT_DIGESTS_MAX)) == 64
    with pytest.raises(Exception, match=r"artifact\.list"):
        read_digests(encode(InfoAnswer(long, bytes(64))), long, 0)


async def test_one_that_offers_another_size_is_left_alone_and_not_punished(tmp_path: Path) -> None:
    """The contract may be the one that lies: nobody is banned for what a contract says."""
    async with hosts(tmp_path, 3) as (me, honest, other):
        other.methods[HELD] = says(DATA, size_bytes=len(DATA) + 1)
        progress = Progress(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(me.exchange.fetch, wanted_of(DATA), progress)
            await until(lambda: progress.dropped == {other.network.peer_id: "artifact.other"})
            honest.exchange.store.add_bytes(DATA)
        assert other.asked == {HELD: 1}
        assert me.exchange.liars == 0
        assert set(scores(me).values()) == {0}


async def test_one_that_disappears_midway_costs_only_what_was_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.files.sources.ARTIFACT_RUN_MAX", 1)
    async with hosts(tmp_path, 3) as (me, honest, leaver):
        leaver.exchange.store.add_bytes(DATA)
        give = leaver.methods[CHUNK]

        async def leave(peer_id: str, body: bytes) -> bytes:
            if leaver.asked[CHUNK] > 6:
                leaver.network.operator.remove(me.network.peer_id)
                me.network.operator.remove(leaver.network.peer_id)
            return await give(peer_id, body)

        leaver.methods[CHUNK] = leave
        progress = Progress(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(me.exchange.fetch, wanted_of(DATA), progress)
            await until(lambda: leaver.network.peer_id not in scores(me))
            await until(lambda: leaver.network.peer_id not in progress.sources)
            assert progress.bytes_done >= 3 * CHUNK_BYTES
            honest.exchange.store.add_bytes(DATA)
        assert me.exchange.store.path(name_of(DATA)).read_bytes() == DATA
        assert honest.asked[CHUNK] <= 25 - 3
        assert me.exchange.liars == 0


async def test_one_that_has_it_no_more_or_says_so_is_given_up_for_a_while(tmp_path: Path) -> None:
    async with hosts(tmp_path, 3) as (me, honest, empty):
        empty.methods |= {HELD: says(DATA)}
        progress = Progress(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(me.exchange.fetch, wanted_of(DATA), progress)
            await until(lambda: empty.asked.get(INFO, 0) >= 1)
            honest.exchange.store.add_bytes(DATA)
        assert me.exchange.liars == 0
        assert empty.asked.get(CHUNK, 0) <= limits.ARTIFACT_FAILURES_MAX + limits.ARTIFACT_SOURCE_WINDOW


async def test_an_unsigned_list_whose_source_stalls_gives_way_to_another(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    """Its list comes first and is false, its chunks never: the honest list has its turn all the same."""
    other = data_of(len(DATA), 9)
    async with paced(mock_clock, 20.0), hosts(tmp_path, 3) as (me, honest, staller):
        false = wanted_digests(other)

        async def stall(peer_id: str, body: bytes) -> bytes:
            await trio.sleep_forever()
            raise AssertionError

        root = hashlib.sha256(b"".join(false)).digest()
        staller.methods |= {
            HELD: says(DATA, root=root),
            INFO: answering(encode(InfoAnswer(len(DATA), b"".join(false)))),
            CHUNK: stall,
        }
        async with trio.open_nursery() as nursery:
            nursery.start_soon(me.exchange.fetch, Wanted(name_of(DATA), len(DATA), None))
            await until(lambda: CHUNK in staller.asked, 100)
            honest.exchange.store.add_bytes(DATA)
        assert me.exchange.store.path(name_of(DATA)).read_bytes() == DATA


# ---------------------------------------------------------------------- contracts


async def test_a_contract_with_a_false_root_has_nobody_blamed(tmp_path: Path) -> None:
    """A contract and a helper agree on a false list of a well-known file. Its honest holder is not asked."""
    other = data_of(len(DATA), 9)
    async with hosts(tmp_path, 3) as (me, honest, helper):
        honest.exchange.store.add_bytes(DATA)
        false = helper.exchange.store.add_bytes(other)
        wanted = Wanted(name_of(DATA), len(DATA), false.root)

        async def chunk(peer_id: str, body: bytes) -> bytes:
            await trio.lowlevel.checkpoint()
            request = decode(ChunkRequest, body)
            return helper.exchange.store.read_chunks(false.sha256, request.first, request.count)

        helper.methods |= {
            HELD: says(DATA, root=bytes.fromhex(false.root)),
            INFO: answering(encode(InfoAnswer(len(DATA), b"".join(false.chunks)))),
            CHUNK: chunk,
        }
        progress = Progress(0)
        with pytest.raises(ArtifactWrong, match="the whole has another digest"):
            await me.exchange.fetch(wanted, progress)
        assert scores(me)[honest.network.peer_id] == 0
        assert CHUNK not in honest.asked
        assert me.exchange.store.used_bytes == 0
        assert (await me.exchange.fetch(wanted_of(DATA))).read_bytes() == DATA  # the true one, after it


@pytest.mark.parametrize("gives", [True, False])
async def test_a_false_contract_holds_up_no_other_that_names_the_same_file(
    tmp_path: Path, gives: bool
) -> None:
    """Its helper gives the false list and then stalls, or there is none. The true list is not its hostage."""
    async with hosts(tmp_path, 3) as (me, honest, helper):
        honest.exchange.store.add_bytes(DATA)
        false = helper.exchange.store.add_bytes(data_of(len(DATA), 9))
        asked = trio.Event()

        async def stall(peer_id: str, body: bytes) -> bytes:
            asked.set()
            await trio.sleep_forever()
            return b""

        if gives:
            helper.methods |= {
                HELD: says(DATA, root=bytes.fromhex(false.root)),
                INFO: answering(encode(InfoAnswer(len(DATA), b"".join(false.chunks)))),
                CHUNK: stall,
            }
        async with trio.open_nursery() as nursery:
            nursery.start_soon(me.exchange.fetch, Wanted(name_of(DATA), len(DATA), false.root))
            await until(lambda: len(me.exchange.under_way) == 1)
            if gives:
                await asked.wait()
            with trio.fail_after(60):
                assert (await me.exchange.fetch(wanted_of(DATA))).read_bytes() == DATA
        assert scores(me)[honest.network.peer_id] == 0
        assert me.exchange.store.used_bytes == len(DATA)
        left = sorted(path.suffix for path in me.exchange.store.folder.iterdir())
        assert left == ["", ".cached", ".chunks"]


async def test_what_no_list_is_signed_for_is_taken_of_whole_holders_alone(tmp_path: Path) -> None:
    """Who fetches under a false contract has chunks of a list that nobody proved."""
    async with hosts(tmp_path, 3) as (me, honest, misled):
        false = data_of(len(DATA), 9)
        part = misled.exchange.store.partial(
            name_of(DATA), len(DATA), tuple(wanted_digests(false)), is_signed=True
        )
        part.write(0, false[:CHUNK_BYTES])
        progress = Progress(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(me.exchange.fetch, Wanted(name_of(DATA), len(DATA), None), progress)
            await until(lambda: misled.asked.get(HELD, 0) >= 2)
            honest.exchange.store.add_bytes(DATA)
        assert misled.asked.keys() == {HELD}
        assert scores(me)[misled.network.peer_id] == 0
        part.close()


def wanted_digests(data: bytes) -> list[bytes]:
    return [hashlib.sha256(data[at : at + CHUNK_BYTES]).digest() for at in range(0, len(data), CHUNK_BYTES)]


# ---------------------------------------------------------------------- takers


async def test_a_flood_of_requests_is_bounded_and_starves_nobody(tmp_path: Path) -> None:
    async with hosts(tmp_path, 3, FileRates(upload_peer_bytes_s=40 * CHUNK_BYTES)) as (me, source, flooder):
        source.exchange.store.add_bytes(DATA)
        to, name = source.network.peer_id, bytes.fromhex(name_of(DATA))
        refused: list[str] = []

        async def flood(number: int) -> None:
            while True:
                method, body = [
                    (CHUNK, encode(ChunkRequest(name, number % 24, 1))),
                    (INFO, encode(InfoRequest(name, 0))),
                    (HELD, encode(HeldRequest(name))),
                ][number % 3]
                try:
                    await flooder.network.request(to, method, body, 20)
                except RequestRefused as error:
                    refused.append(error.reason)
                except RequestError:
                    await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(flood, number)
            await until(lambda: len(refused) > 100)
            with trio.fail_after(60):
                assert (await me.exchange.fetch(wanted_of(DATA))).read_bytes() == DATA
            nursery.cancel_scope.cancel()
        assert all(reason.startswith("artifact.busy") for reason in refused)
        assert source.exchange.serving.busy >= len(refused)


async def test_rates_hold_for_each_peer_and_in_all(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    data = data_of(32 * CHUNK_BYTES)
    rates = FileRates(upload_bytes_s=6 * CHUNK_BYTES, upload_peer_bytes_s=4 * CHUNK_BYTES)
    async with paced(mock_clock, 8.0), hosts(tmp_path, 3, rates) as (source, one, two):
        source.exchange.store.add_bytes(data)
        begin_s = trio.current_time()
        await one.exchange.fetch(wanted_of(data))
        assert 32 / 4 * 0.9 <= trio.current_time() - begin_s <= 32 / 4 * 2.5
        one.exchange.store.drop(name_of(data))
        one.methods = {}  # neither gives the other anything
        two.methods = {}
        begin_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.exchange.fetch, wanted_of(data))
            nursery.start_soon(two.exchange.fetch, wanted_of(data))
        assert 64 / 6 * 0.9 <= trio.current_time() - begin_s <= 64 / 6 * 2.5


async def test_a_fetch_keeps_to_its_own_rate(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    data = data_of(32 * CHUNK_BYTES)
    rates = FileRates(download_bytes_s=4 * CHUNK_BYTES)
    async with paced(mock_clock, 8.0), hosts(tmp_path, 3, rates) as (me, one, two):
        for source in (one, two):
            source.exchange.store.add_bytes(data)
        begin_s = trio.current_time()
        await me.exchange.fetch(wanted_of(data))
        assert 32 / 4 * 0.9 <= trio.current_time() - begin_s <= 32 / 4 * 2.5


async def test_questions_that_make_no_sense_are_refused_by_rule(tmp_path: Path) -> None:
    async with hosts(tmp_path, 2) as (me, source):
        source.exchange.store.add_bytes(DATA)
        name = bytes.fromhex(name_of(DATA))
        for method, body, rule in (
            (HELD, b"\xc1", "artifact.malformed"),
            (HELD, encode(HeldRequest(b"../../etc/passwd")), "artifact.unknown"),
            (INFO, encode(InfoRequest(name, -1)), "artifact.range"),
            (INFO, encode(InfoRequest(name, 26)), "artifact.range"),
            (INFO, encode(InfoRequest(bytes(32), 0)), "artifact.unknown"),
            (CHUNK, encode(ChunkRequest(name, -1, 1)), "artifact.unknown"),
            (CHUNK, encode(ChunkRequest(name, 25, 1)), "artifact.unknown"),
            (CHUNK, encode(ChunkRequest(name, 1 << 62, 1)), "artifact.unknown"),
            (CHUNK, encode(ChunkRequest(name, 22, 4)), "artifact.unknown"),
            (CHUNK, encode(ChunkRequest(name, 0, 0)), "artifact.range"),
            (CHUNK, encode(ChunkRequest(name, 4, -1)), "artifact.range"),
            (CHUNK, encode(ChunkRequest(name, 0, 5)), "artifact.range"),
            (CHUNK, encode(ChunkRequest(name, 0, 1 << 62)), "artifact.range"),
        ):
            with pytest.raises(RequestRefused, match=rule.replace(".", r"\.")):
                await me.network.request(source.network.peer_id, method, body, 5)


# ---------------------------------------------------------------------- here


async def test_two_fetches_of_the_same_share_one(tmp_path: Path) -> None:
    async with hosts(tmp_path, 2) as (me, source):
        one, two = Progress(0), Progress(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(me.exchange.fetch, wanted_of(DATA), one)
            await until(lambda: HELD in source.asked)
            nursery.start_soon(me.exchange.fetch, wanted_of(DATA), two)
            await trio.testing.wait_all_tasks_blocked()
            source.exchange.store.add_bytes(DATA)
            await until(lambda: one.bytes_done > 0)
            assert two.bytes_done == one.bytes_done
            assert two.sources is one.sources
        assert source.asked[CHUNK] == 25
        assert len(me.exchange.under_way) == 0
        assert two.bytes_done == len(DATA)


async def test_who_waits_for_a_fetch_that_is_called_off_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.files.sources.ARTIFACT_RUN_MAX", 1)
    async with hosts(tmp_path, 2) as (me, source):
        give, gate = source.methods[CHUNK], trio.Event()

        async def some(peer_id: str, body: bytes) -> bytes:
            if source.asked[CHUNK] > 10:
                await gate.wait()
            return await give(peer_id, body)

        source.methods[CHUNK] = some
        source.exchange.store.add_bytes(DATA)
        one, two, first = Progress(0), Progress(0), trio.CancelScope()

        async def called_off() -> None:
            with first:
                await me.exchange.fetch(wanted_of(DATA), one)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(called_off)
            await until(lambda: one.bytes_done == 10 * CHUNK_BYTES)
            nursery.start_soon(me.exchange.fetch, wanted_of(DATA), two)
            await trio.testing.wait_all_tasks_blocked(0.01)
            first.cancel()
            gate.set()
        assert two.bytes_done == len(DATA)
        asked_in_vain = limits.ARTIFACT_SOURCE_WINDOW
        assert source.asked[CHUNK] <= 25 + asked_in_vain


async def test_a_full_disk_ends_the_fetch_and_gives_the_room_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosts(tmp_path, 2) as (me, source):
        source.exchange.store.add_bytes(DATA)
        monkeypatch.setattr("node.files.cache.ARTIFACT_DISK_RESERVE_BYTES", 1 << 60)
        with pytest.raises(ArtifactFull, match="the disk has"):
            await me.exchange.fetch(wanted_of(DATA))
        monkeypatch.undo()
        monkeypatch.setattr("node.files.artifact_files.os.posix_fallocate", _full)
        with pytest.raises(ArtifactFull, match="No space left"):
            await me.exchange.fetch(wanted_of(DATA))
        assert me.exchange.store.used_bytes == 0
        assert list((tmp_path / "0").iterdir()) == []
        monkeypatch.undo()
        monkeypatch.setattr("node.files.artifact_files.os.pwrite", _full)
        with pytest.raises(ArtifactFull, match="No space left"):
            await me.exchange.fetch(wanted_of(DATA))
        assert list((tmp_path / "0").iterdir()) == []
        monkeypatch.undo()
        assert (await me.exchange.fetch(wanted_of(DATA))).read_bytes() == DATA
        assert me.exchange.liars == 0


def _full(*words: object) -> int:
    raise OSError(28, "No space left on device")
