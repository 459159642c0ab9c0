"""State sync: a peer far behind takes a state from many peers; liars, stallers, kills, peers that go."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import trio
import trio.testing

from ledger.codec import decode, encode
from ledger.storage.snapshot import StateChunk, place_of
from ledger.storage.staging import Staging
from ledger.storage.store import Store
from node import limits as node_limits
from node.sync import snapshots, state_fetch, state_sync
from node.sync.state_fetch import Pace
from node.sync.state_wire import CHUNK, EPOCHS, OFFERS, Offer, decode_chunk_request
from tests.node.final_chain import batch_of, extend, transfer_tx
from tests.node.network_fixture import CHAIN_ID, paced, until
from tests.node.scripted_network import Answer
from tests.node.state_fixture import (
    EVERY,
    Client,
    Server,
    changes,
    client_of,
    grow,
    server_of,
    stalls_at,
    take_blocks,
)


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a few records, so that there are many; waits as short as a test wants them."""
    monkeypatch.setattr(snapshots, "SNAPSHOT_PAIR_BYTES_MAX", 1_000)
    monkeypatch.setattr(state_fetch, "SNAPSHOT_CHUNK_BYTES", 1_000)
    monkeypatch.setattr(state_fetch, "STATE_RATE_BYTES_S", 16)  # chunks are that much smaller
    monkeypatch.setattr(state_fetch, "STATE_PREPARING_S", 0.02)
    monkeypatch.setattr(state_fetch, "STATE_IDLE_S", 0.5)
    monkeypatch.setattr(state_sync, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(state_sync, "STATE_RETRY_S", 60)


def same_state(client: Client, server: Server) -> None:
    """Byte for byte, the replay guard too (which rule refused a transaction is not kept in it)."""
    ours = dict(client.notary.store.state.scan(b""))
    theirs = dict(server.notary.store.state.scan(b""))
    assert ours.keys() == theirs.keys()
    assert all(ours[key] == theirs[key] for key in ours if not key.startswith(b"seen/"))
    assert client.notary.store.tip == server.notary.store.tip


async def test_a_fresh_peer_takes_a_state_and_goes_on_by_blocks() -> None:
    server = server_of(35)
    async with client_of({"one": server.answer, "two": server.answer}, server) as client:
        assert server.snapshots.heights == (20, 30)
        client.came(35)
        assert await client.sync.attempt(0)
        assert client.installed == [30]
        assert client.notary.store.first_height == 31
        await until(lambda: client.notary.store.tip.height == 35)
        same_state(client, server)
        assert client.follower.fetched_blocks == 5
        assert client.asked("one", CHUNK) > 1 and client.asked("two", CHUNK) > 1
        grow(server, 3)
        client.came(38)
        await until(lambda: client.notary.store.tip.height == 38)
        same_state(client, server)


async def test_what_was_executed_before_the_state_is_not_executed_again() -> None:
    """[H3] The replay guard is not under the root: it is made anew from the blocks."""
    server = server_of(25, accounts=3)
    old = transfer_tx(24_000_777)
    extend(server.notary, batch_of(old))
    grow(server, 8)
    async with client_of({"one": server.answer}, server) as client:
        client.came(34)
        assert await client.sync.attempt(0)
        assert client.notary.store.tip.height == 30
        await until(lambda: client.notary.store.tip.height == 34)
        extend(server.notary, batch_of(old))
        client.came(35)
        await until(lambda: client.notary.store.tip.height == 35)
        same_state(client, server)


async def test_it_begins_by_itself_when_it_is_far_behind_and_not_when_it_is_off() -> None:
    server = server_of(35)
    async with client_of({"one": server.answer}, server) as client, trio.open_nursery() as nursery:
        assert not client.sync.is_wanted(), "nobody is ahead"
        client.came(35)
        assert client.sync.is_wanted()
        client.sync.enabled = False
        assert not client.sync.is_wanted()
        client.sync.enabled = True
        nursery.start_soon(client.sync.run)
        await until(lambda: client.installed == [30])
        assert not client.sync.is_wanted()
        nursery.cancel_scope.cancel()


async def test_who_hears_that_it_is_far_behind_looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle peer looks seldom; the follower, which hears of it, says so."""
    monkeypatch.setattr(state_sync, "LOOK_EVERY_S", 3_600)
    server = server_of(35)
    async with client_of({"one": server.answer}, server) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.sync.run)
        await trio.testing.wait_all_tasks_blocked()
        client.came(35)
        assert client.sync.is_due()
        await until(lambda: client.installed == [30])
        assert not client.sync.is_due()
        nursery.cancel_scope.cancel()


async def test_when_nobody_holds_the_next_block_any_more_a_state_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However near it is: blocks cannot bring the peer on."""
    for module in (state_fetch, snapshots):
        monkeypatch.setattr(module, "EXPIRY_BLOCKS_MAX", 8)
    server = server_of(35)
    retention = server.notary.store.retention
    for height in range(1, 20):
        retention.drop(retention.plan(height))
    async with client_of({"one": server.answer}, server) as client, trio.open_nursery() as nursery:
        client.sync.behind_blocks = 2**40
        nursery.start_soon(client.sync.run)
        client.came(35)
        await until(lambda: client.notary.store.tip.height == 35)
        assert client.installed == [30]
        assert client.notary.store.tip == server.notary.store.tip
        assert not client.follower.is_too_old
        nursery.cancel_scope.cancel()


def flipped(data: bytes) -> bytes:
    return data[:-40] + bytes([data[-40] ^ 1]) + data[-39:]


def left_out(data: bytes) -> bytes:
    chunk = decode(StateChunk, data)
    return encode(msgspec.structs.replace(chunk, pairs=chunk.pairs[1:] or chunk.pairs * 2))


def added(data: bytes) -> bytes:
    chunk = decode(StateChunk, data)
    return encode(msgspec.structs.replace(chunk, pairs=(*chunk.pairs, (b"account/evil", b"rich"))))


def of_elsewhere(data: bytes) -> bytes:
    return encode(StateChunk(b"\1", ((b"account/evil", b"rich"),), ()))


@pytest.mark.parametrize(
    "lie", [flipped, left_out, added, of_elsewhere, lambda data: b"", lambda data: b"\xc1"]
)
async def test_who_lies_in_a_chunk_is_dropped_at_the_first_one(lie: object) -> None:
    server = server_of(35)
    answers: dict[str, Answer] = {
        "liar": changes(CHUNK, server, lie),  # type: ignore[arg-type]
        "honest": server.answer,
    }
    async with client_of(answers, server) as client:
        client.came(35)
        assert await client.sync.attempt(0)
        await until(lambda: client.notary.store.tip.height == 35)
        same_state(client, server)
        assert {peer for peer, _ in client.network.penalties} == {"liar"}
        assert client.sync.lies >= 1
        prepared = client.asked("liar", CHUNK) - server.asked[CHUNK]
        assert prepared <= 0
        lies = len(client.network.penalties)
        assert lies <= node_limits.STATE_WINDOW, "not asked after the first lie came back"


async def test_a_chunk_of_another_state_is_a_lie() -> None:
    server, other = server_of(35), server_of(35, accounts=41)

    async def answer(method: str, body: bytes) -> bytes:
        return await (other if method == CHUNK else server).answer(method, body)

    async with client_of({"liar": answer, "honest": server.answer}, server, other) as client:
        client.came(35)
        assert await client.sync.attempt(0)
        await until(lambda: client.notary.store.tip.height == 35)
        same_state(client, server)
        assert ("liar", "snapshot.root") in client.network.penalties


async def test_a_state_that_no_certificate_names_is_not_even_begun() -> None:
    """[H4] A root is believed when a final header names it."""
    server = server_of(35)

    def forged(data: bytes) -> bytes:
        offer = decode(tuple[Offer, ...], data)[0]
        header = offer.anchor.header.replace(server.notary.store.root(30) or b"", bytes(32))
        assert header != offer.anchor.header
        anchor = msgspec.structs.replace(offer.anchor, header=header)
        return encode((msgspec.structs.replace(offer, anchor=anchor),))

    async with client_of({"liar": changes(OFFERS, server, forged)}, server) as client:
        client.came(35)
        assert not await client.sync.attempt(0)
        assert client.asked("liar", CHUNK) == 0
        assert client.network.penalties
        await until(lambda: client.notary.store.tip.height == 35), "by blocks"


async def test_who_stalls_does_not_hold_up_the_others() -> None:
    server = server_of(35)
    answers = {"staller": stalls_at(CHUNK, server), "honest": server.answer}
    async with client_of(answers, server) as client:
        client.came(35)
        with trio.fail_after(60):
            assert await client.sync.attempt(0)
        assert client.asked("staller", CHUNK) <= node_limits.STATE_FAILURES_MAX + node_limits.STATE_WINDOW
        assert not client.network.penalties


def crumbs(server: Server, wait_s: float) -> Answer:
    """Gives one true pair or two at a time, as slowly as it is let."""

    async def answer(asked: str, body: bytes) -> bytes:
        data = await server.answer(asked, body)
        if asked != CHUNK:
            return data
        await trio.sleep(wait_s)
        request = decode_chunk_request(body)
        spool = server.snapshots._snapshots[request.height].spool
        assert spool is not None, "the honest answer came from it"
        return encode(spool.shelf.cut(place_of(request.place), 150))

    return answer


async def test_who_gives_crumbs_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, mock_clock: trio.testing.MockClock
) -> None:
    """Regression: each true pair kept a state sync going, so a few hostile neighbours could make it endless.
    Alone they are given up for another way; beside an honest one they are passed by. No crime: no penalty."""
    for module in (state_fetch, state_sync):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=trio.current_time))
    for name, value in (
        ("RATE_S", 2.0),
        ("SHORT_S", 0.05),
        ("RATE_BYTES_S", 200),
        ("WHOLE_BYTES", 100),
        ("IDLE_S", 5),
    ):
        monkeypatch.setattr(state_fetch, f"STATE_{name}", value)
    server = server_of(35, accounts=80)
    slow = {name: crumbs(server, 1.0) for name in ("slow 1", "slow 2", "slow 3")}
    async with paced(mock_clock, 10.0):
        async with client_of(slow, server, follow=False) as client:
            client.came(35)
            with trio.fail_after(60):
                assert not await client.sync.attempt(0)
            assert 3 < client.asked("slow 1", CHUNK) < 60
            assert client.network.penalties == []
        server = server_of(35, accounts=80)
        slow = {name: crumbs(server, 1.0) for name in slow}
        async with client_of(slow | {"one": server.answer}, server, follow=False) as client:
            client.came(35)
            with trio.fail_after(60):
                assert await client.sync.attempt(0)
            assert client.installed == [30]
            assert client.network.penalties == []


def test_the_pace_of_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of it is little: a slow line that fills its chunks, or brings small remainders, is not
    slow; crumbs are, however fast they come."""
    monkeypatch.setattr(state_fetch, "STATE_RATE_BYTES_S", node_limits.STATE_RATE_BYTES_S)
    chunk, kib = node_limits.SNAPSHOT_CHUNK_BYTES, 1024
    for size_bytes, took_s, is_whole, is_slow in (
        (chunk // 2, 4.9, False, False),
        (16 * kib, 1.9, False, False),
        (100, 0.001, False, True),
        (100, 4.9, False, True),
        (100, 0.4, True, False),
        (100, 4.9, True, True),
        (chunk, 4.9, True, False),
    ):
        pace = Pace()
        for _ in range(40):
            pace.gave(size_bytes, took_s, is_whole)
        assert pace.is_slow == is_slow, (size_bytes, took_s, is_whole)
    begins = Pace()
    begins.gave(1, node_limits.STATE_RATE_S - 0.1, False)
    assert not begins.is_slow, "not before it had time"


async def test_what_one_takes_long_to_give_is_asked_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last parts are with a source that does not answer: another gives them, before the time is up."""
    monkeypatch.setattr(state_fetch, "STATE_HEDGE_S", 0.1)
    server = server_of(35)

    async def mute(asked: str, body: bytes) -> bytes:
        if asked == CHUNK:
            await trio.sleep_forever()
        return await server.answer(asked, body)

    async with client_of({"mute": mute, "one": server.answer}, server, follow=False) as client:
        client.came(35)
        with trio.fail_after(4):  # STATE_ASK_S is 5
            assert await client.sync.attempt(0)
        assert client.asked("mute", CHUNK) > 0


async def test_when_nobody_gives_the_state_blocks_are_the_way() -> None:
    server = server_of(35)
    async with client_of({"staller": stalls_at(CHUNK, server)}, server) as client:
        client.came(35)
        assert not await client.sync.attempt(0)
        assert client.installed == []
        assert not client.follower.paused
        await until(lambda: client.notary.store.tip.height == 35)
        same_state(client, server)
        assert client.notary.store.first_height == 1


async def test_who_stalls_with_offers_does_not_keep_us_from_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_sync, "STATE_DECIDE_S", 0.05)
    server = server_of(35)

    async def boaster(method: str, body: bytes) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async with (
        client_of({"boaster": boaster, "honest": server.answer}, server) as client,
        trio.open_nursery() as nursery,
    ):
        client.sync.behind_blocks = 2**40
        client.came(35, "honest")
        client.came(2**60, "boaster")
        nursery.start_soon(client.sync.run)
        await until(lambda: client.notary.store.tip.height == 35)
        assert client.asked("boaster", EPOCHS) >= 1
        nursery.cancel_scope.cancel()


async def test_a_boaster_does_not_make_us_give_up_our_blocks() -> None:
    """A neighbour's word is not proved: what counts is how far the state on offer is ahead."""
    server = server_of(35)
    async with client_of({"boaster": server.answer}, server) as client, trio.open_nursery() as nursery:
        client.sync.behind_blocks = 30
        client.came(2**60)
        assert client.sync.is_wanted()
        nursery.start_soon(client.sync.run)
        await until(lambda: client.notary.store.tip.height == 35)
        assert client.asked("boaster", OFFERS) > 0
        assert client.installed == [] and client.notary.store.first_height == 1
        nursery.cancel_scope.cancel()


async def test_a_state_that_consensus_overtook_is_not_installed() -> None:
    server = server_of(35)

    async with client_of({"one": server.answer}, server, follow=False) as client:

        async def answer(method: str, body: bytes) -> bytes:
            if method == "blocks":
                take_blocks(client, server)
            return await server.answer(method, body)

        client.network.answers["one"] = answer
        client.came(35)
        assert not await client.sync.attempt(0)
        assert client.installed == [] and client.notary.store.tip.height == 35
        assert client.notary.store.first_height == 1


async def test_an_older_state_serves_when_the_newest_is_gone() -> None:
    server = server_of(35)
    gone = server.snapshots._snapshots[30]

    async def answer(method: str, body: bytes) -> bytes:
        if method == CHUNK:
            server.snapshots._snapshots.pop(30, None)
        return await server.answer(method, body)

    async with client_of({"one": answer}, server) as client:
        client.came(35)
        assert await client.sync.attempt(0)
        assert client.installed == [20]
        await until(lambda: client.notary.store.tip.height == 35)
        same_state(client, server)
    gone.close()


@pytest.mark.parametrize("during", ["chunks", "blocks"])
async def test_a_kill_in_the_middle_costs_only_what_was_on_its_way(
    during: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_fetch, "PIECE_BLOCKS_MAX", 5)
    server = server_of(35)
    genesis = server.notary.genesis
    count = 0

    async def answer(method: str, body: bytes) -> bytes:
        nonlocal count
        count += method == ("blocks" if during == "blocks" else CHUNK)
        if count > 5:
            await trio.sleep_forever()
        return await server.answer(method, body)

    store = Store.open(tmp_path / "store", CHAIN_ID, genesis.hash)
    async with client_of({"one": answer}, server, store=store, follow=False) as client:
        client.came(35)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.sync.attempt, 0)
            await until(lambda: count > 5)
            nursery.cancel_scope.cancel()
        status = Staging(store.stage()).now
        assert status.pairs > 0
        assert (status.blocks > 0) == (during == "blocks")
    store.close()
    store = Store.open(tmp_path / "store", CHAIN_ID, genesis.hash)
    assert store.tip.height == 0
    again = server_of(35)
    async with client_of({"one": again.answer}, again, store=store) as client:
        resumed = Staging(store.stage())
        assert resumed.now == status
        client.came(35)
        assert await client.sync.attempt(0)
        if during == "blocks":
            assert again.asked.get(CHUNK, 0) == 0
        await until(lambda: client.notary.store.tip.height == 35)
        same_state(client, again)
        assert client.notary.store.first_height == 31
    store.close()


async def test_a_peer_whose_own_state_is_damaged_offers_it_to_nobody() -> None:
    server = server_of(35)
    damaged: list[int] = []
    server.snapshots.on_damaged = damaged.append
    for snapshot in server.snapshots._snapshots.values():
        snapshot.state._frozen.write({b"saccount/evil": b"rich"})  # type: ignore[attr-defined]
    async with client_of({"one": server.answer}, server) as client:
        client.came(35)
        assert not await client.sync.attempt(0)
        assert sorted(damaged) == [20, 30]
        assert client.sync.lies == 0


async def test_states_on_offer_are_few_and_those_in_use_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    server = server_of(85)
    assert server.snapshots.heights == (70, 80)
    assert server.snapshots.keep_from() == 70 - 4_000 + 1
    async with client_of({"one": server.answer}, server) as client:
        client.came(85)
        assert await client.sync.attempt(0)
        assert client.installed == [80]
        grow(server, 40)
        assert server.snapshots.heights == (80, 110, 120)
        server.snapshots._snapshots[80].used_s = -1e9
        grow(server, 10)
        assert server.snapshots.heights == (120, 130)
    assert server.snapshots.heights == ()
    assert EVERY == 10
