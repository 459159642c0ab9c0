"""The byte budget: history shrinks to it, what stays is served, who asks for less is told where it begins."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from ledger import transactions as t
from ledger.codec import encode
from ledger.errors import Refused
from ledger.proofs.certificate import Ed25519Scheme
from ledger.storage.store import Store
from node.api.block_views import block_detail, block_summaries, tx_view
from node.api.problems import ApiProblem, problem_of
from node.config import load_settings
from node.errors import ConfigError
from node.event_log import EventLog
from node.limits import PRUNE_KEEP_BLOCKS
from node.notary import Notary
from node.seam import Gap, NumberedEvent, PeerSeam
from node.sync.follower import Follower
from node.sync.pruner import Pruner
from node.sync.ranges import answer_batch, answer_range, decode_range, held_from
from node.wire import RangeRequest
from p2p.errors import Refused as RequestRefused
from tests.node.fake_peer import FakePeer
from tests.node.final_chain import batch_of, extend, new_notary, transfer_tx
from tests.node.network_fixture import CHAIN_ID, RICH, genesis, until
from tests.node.scripted_network import ScriptedNetwork

MIB = 1024 * 1024
NOISE = random.Random(9)


def on_disk(path: Path) -> Notary:
    its = genesis(4)
    return Notary.open(its, Store.open(path, CHAIN_ID, its.hash), Ed25519Scheme())


def noise_tx() -> bytes:
    """Bytes that no compression makes smaller."""
    body = t.PutVault("pad", 1, NOISE.randbytes(20_000))
    return t.sign_tx(RICH, t.Tx(CHAIN_ID, RICH.public, 500, NOISE.randbytes(8), body))


def grow(notary: Notary, blocks: int) -> None:
    for _ in range(blocks):
        extend(notary, batch_of(*(noise_tx() for _ in range(5))))


async def never(above: int) -> int:
    await trio.sleep_forever()
    raise AssertionError


def pruned_notary(blocks: int, first: int) -> Notary:
    notary = new_notary()
    for n in range(blocks):
        extend(notary, batch_of(transfer_tx(n)))
    for height in range(1, first):
        notary.store.retention.drop(notary.store.retention.plan(height))
    return notary


async def test_history_shrinks_to_its_budget_and_stays_there(tmp_path: Path) -> None:
    notary = on_disk(tmp_path / "db")
    store = notary.store
    pruner = Pruner(store, 4 * MIB, never, keep_blocks=10)
    assert await pruner.round() == 0
    grow(notary, 120)
    store.compact_history()
    full_bytes = store.history_bytes()
    assert full_bytes > 4 * MIB
    grow(notary, 1)
    dropped = await pruner.round()
    assert 0 < dropped < 111
    assert pruner.size_bytes < 4 * MIB < full_bytes
    assert store.first_height == dropped + 1
    assert store.block(dropped) is None
    assert all(store.block(height) is not None for height in range(dropped + 1, 122))
    assert await pruner.round() == 0
    print(f"{full_bytes} -> {pruner.size_bytes} bytes, longest step {pruner.step_s_max * 1000:.1f} ms")
    store.close()
    again = on_disk(tmp_path / "db")
    assert again.store.first_height == dropped + 1
    grow(again, 40)
    again.store.compact_history()
    assert await Pruner(again.store, 4 * MIB, never, keep_blocks=10).round() > 0
    assert again.store.history_bytes() < 4 * MIB
    again.store.close()


async def test_the_last_blocks_never_go(tmp_path: Path) -> None:
    notary = on_disk(tmp_path / "db")
    grow(notary, 30)
    notary.store.compact_history()
    assert await Pruner(notary.store, 1, never, keep_blocks=25).round() == 5
    assert await Pruner(notary.store, 1, never, keep_blocks=25).round() == 0
    assert await Pruner(notary.store, 1, never).round() == 0  # the replay window alone is longer
    assert notary.store.first_height == 6
    assert PRUNE_KEEP_BLOCKS > 4_000
    notary.store.close()


async def test_blocks_that_somebody_needs_for_a_state_on_offer_stay(tmp_path: Path) -> None:
    notary = on_disk(tmp_path / "db")
    grow(notary, 120)
    notary.store.compact_history()
    needed: list[int | None] = [5]
    pruner = Pruner(notary.store, MIB, never, keep_blocks=10, keep_from=lambda: needed[0])
    assert await pruner.round() == 4
    assert notary.store.first_height == 5
    needed[0] = None
    assert await pruner.round() > 50
    notary.store.close()


async def test_commits_go_on_beside_it(tmp_path: Path) -> None:
    notary = on_disk(tmp_path / "db")
    grow(notary, 60)
    notary.store.compact_history()
    pruner = Pruner(notary.store, MIB, never, keep_blocks=5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pruner.round)
        for _ in range(20):
            grow(notary, 1)
            await trio.lowlevel.checkpoint()
    assert notary.store.tip.height == 80
    assert notary.store.first_height > 30
    assert all(notary.store.block(h) is not None for h in range(notary.store.first_height, 81))
    notary.store.close()


async def test_run_waits_for_blocks_between_rounds(tmp_path: Path) -> None:
    notary = on_disk(tmp_path / "db")
    grow(notary, 30)
    notary.store.compact_history()
    waited: list[int] = []
    send, receive = trio.open_memory_channel[int](0)

    async def next_block(above: int) -> int:
        waited.append(above)
        return await receive.receive()

    pruner = Pruner(notary.store, 1, next_block, keep_blocks=20)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pruner.run)
        await until(lambda: bool(waited))
        assert (notary.store.first_height, waited) == (11, [230])
        grow(notary, 5)
        notary.store.compact_history()
        with trio.fail_after(60):
            await send.send(35)
        await until(lambda: len(waited) == 2)
        assert notary.store.first_height == 16
        nursery.cancel_scope.cancel()
    notary.store.close()


def answers(notary: Notary) -> Callable[[str, bytes], Awaitable[bytes]]:
    async def answer(method: str, body: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        try:
            return (answer_range if method == "blocks" else answer_batch)(notary.store, body)
        except Refused as error:
            raise RequestRefused(f"{error.rule}: {error.detail}") from None

    return answer


async def test_a_follower_asks_others_when_one_has_dropped_what_it_wants() -> None:
    full, short = pruned_notary(30, 1), pruned_notary(30, 20)
    network = ScriptedNetwork(answers={"short": answers(short), "full": answers(full)})
    follower = Follower(new_notary(), network, False, lambda header, certificate: None, {})
    follower.notary.on_commit.append(lambda done: follower.committed())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        follower.came("short", 30)
        await until(lambda: follower.is_too_old)
        asked = len(network.asked)
        assert follower.notary.store.tip.height == 0
        follower.told("short", 31)  # it tells of more: still nothing that helps
        for _ in range(50):
            await trio.lowlevel.checkpoint()
        assert len(network.asked) == asked
        follower.came("full", 30)
        await until(lambda: follower.notary.store.tip.height == 30)
        assert not follower.is_too_old
        nursery.cancel_scope.cancel()
    assert network.penalties == []


def test_ranges_below_are_refused_with_the_first_height() -> None:
    store = pruned_notary(12, 8).store
    with pytest.raises(Refused, match=r"range.pruned.*blocks are held from height 8") as refused:
        answer_range(store, encode(RangeRequest(7, 1000, 0)))
    assert held_from(f"{refused.value.rule}: {refused.value.detail}") == 8
    assert held_from("range.first: heights start at 1") == 0
    assert len(decode_range(answer_range(store, encode(RangeRequest(8, 100_000, 0))))) == 5


async def test_events_of_dropped_blocks_are_a_gap() -> None:
    store = pruned_notary(12, 8).store
    found: list[NumberedEvent | Gap] = []
    with trio.fail_after(60):
        async with aclosing(cast(Any, EventLog(store).follow("2.0"))) as events:
            async for event in events:
                found.append(event)
                if len(found) == 6:
                    break
    assert found[0] == Gap("2.0", "7.1048575")
    assert [cast(NumberedEvent, event).height for event in found[1:]] == [8, 9, 10, 11, 12]


def test_the_api_says_that_blocks_are_gone() -> None:
    fake = FakePeer()
    for _ in range(12):
        fake.world.run()
    for height in range(1, 8):
        fake.store.retention.drop(fake.store.retention.plan(height))
    peer = cast(PeerSeam, fake)
    assert fake.status().first_height == 8
    with pytest.raises(ApiProblem) as found:
        block_detail(peer, 7)
    assert (problem_of(found.value).status, problem_of(found.value).rule) == (410, "store.pruned")
    assert block_detail(peer, 8).height == 8
    page = block_summaries(peer, 10, 20)
    assert ([item.height for item in page.items], page.next) == ([10, 9, 8], "")
    with pytest.raises(ApiProblem, match=r"store.pruned"):
        block_summaries(peer, 5, 20)
    with pytest.raises(ApiProblem, match=r"tx.unknown.*since height 8"):
        tx_view(peer, bytes(32))
    assert problem_of(Refused("audit.pruned", "gone")).status == 410


@pytest.mark.parametrize(("text", "good"), [("0", True), ("16", True), ("15", False), ("-1", False)])
def test_the_setting(text: str, good: bool) -> None:
    if good:
        settings = load_settings(None, {"GRIDPACT_STORE_SIZE_MIB_MAX": text})
        assert settings.store.size_mib_max == int(text)
        return
    with pytest.raises(ConfigError, match=r"GRIDPACT_STORE_SIZE_MIB_MAX: store.size_mib_max: 0, or 16"):
        load_settings(None, {"GRIDPACT_STORE_SIZE_MIB_MAX": text})
