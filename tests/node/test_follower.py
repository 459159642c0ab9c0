"""Range sync against neighbours that lie, stall, boast or fall silent; and blocks larger than a frame."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from ledger.blocks import decode_header
from ledger.codec import decode, encode
from ledger.storage.kv import MemoryKv
from ledger.storage.store import Store
from ledger.storage.stored import StoredBlock
from node.limits import RANGE_BYTES_MAX
from node.notary import Notary
from node.sync import follower as module
from node.sync import sync_plan
from node.sync.follower import Follower
from node.sync.ranges import answer_batch, answer_range
from node.wire import RangeRequest
from p2p.errors import RequestTimeout
from p2p.limits import PAYLOAD_BYTES_MAX
from tests.node.final_chain import batch_of, extend, new_notary, transfer_tx
from tests.node.network_fixture import CHAIN_ID, key, until
from tests.node.scripted_network import Answer, ScriptedNetwork


def source_of(blocks: int) -> Notary:
    notary = new_notary()
    for n in range(blocks):
        extend(notary, batch_of(transfer_tx(n)))
    return notary


def honest(notary: Notary) -> Answer:
    async def answer(method: str, body: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return (answer_range if method == "blocks" else answer_batch)(notary.store, body)

    return answer


def saying(data: bytes) -> Answer:
    async def answer(method: str, body: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return data

    return answer


async def stalling(method: str, body: bytes) -> bytes:
    await trio.sleep(0.05)
    raise RequestTimeout("no answer")


@asynccontextmanager
async def following(answers: dict[str, Answer], *, patient: bool = False) -> AsyncIterator[Follower]:
    network = ScriptedNetwork(answers=answers)
    found = Follower(new_notary(), network, patient, lambda header, certificate: None, {})
    found.notary.on_commit.append(lambda done: found.committed())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.run)
        yield found
        nursery.cancel_scope.cancel()


def asked(found: Follower, peer_id: str) -> int:
    network = found.network
    assert isinstance(network, ScriptedNetwork)
    return sum(peer == peer_id for peer, _, _ in network.asked)


def changed(source: Notary, change: Callable[[list[StoredBlock]], object]) -> bytes:
    blocks = list(source.store.blocks(1, RANGE_BYTES_MAX))
    change(blocks)
    return encode(tuple(blocks))


def other_batch(blocks: list[StoredBlock]) -> None:
    blocks[1] = msgspec.structs.replace(blocks[1], batches=(batch_of(transfer_tx(99)),))


def no_certificate(blocks: list[StoredBlock]) -> None:
    blocks[-1] = msgspec.structs.replace(blocks[-1], certificate=b"")


def others_certificate(blocks: list[StoredBlock]) -> None:
    blocks[-1] = msgspec.structs.replace(blocks[-1], certificate=blocks[0].certificate)


def broken_signature(blocks: list[StoredBlock]) -> None:
    last = blocks[-1].certificate
    blocks[-1] = msgspec.structs.replace(blocks[-1], certificate=last[:-1] + bytes([last[-1] ^ 1]))


LIES = {
    "range.batches": other_batch,
    "range.certificate": no_certificate,
    "certificate.signature": broken_signature,
    "range.order": lambda blocks: blocks.pop(0),
    "header.malformed": lambda blocks: blocks.insert(0, StoredBlock(b"x", (), b"")),
}


@pytest.mark.parametrize("rule", LIES)
async def test_a_lie_is_penalised_and_nothing_of_its_range_is_used(rule: str) -> None:
    source = source_of(3)
    lie = changed(source, LIES[rule])
    async with following({"liar": saying(lie)}) as found:
        found.came("liar", 3)
        network = found.network
        assert isinstance(network, ScriptedNetwork)
        await until(lambda: bool(network.penalties))
        assert network.penalties[0] == ("liar", rule)
        assert found.notary.store.tip.height == 0
        network.answers["honest"] = honest(source)
        found.came("honest", 3)
        await until(lambda: found.notary.store.tip.height == 3)
        assert found.notary.store.tip.root == source.store.tip.root


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x91\x05", encode((StoredBlock(b"", (b"",), b""),))])
async def test_garbage_is_a_lie_and_never_the_end_of_the_peer(garbage: bytes) -> None:
    async with following({"liar": saying(garbage)}) as found:
        found.came("liar", 2**60)
        await until(lambda: found.lies >= 1)


async def test_another_blocks_certificate_is_a_lie() -> None:
    lie = changed(source_of(3), others_certificate)
    async with following({"liar": saying(lie)}) as found:
        found.came("liar", 3)
        await until(lambda: found.lies >= 1)
        assert found.notary.store.tip.height == 0


async def test_a_boaster_is_found_out_and_no_more_believed() -> None:
    """One neighbour that announces 2**60 must not make a peer look as if it were catching up for ever."""
    source = source_of(3)
    async with following({"boaster": saying(encode(())), "honest": honest(source)}) as found:
        found.came("honest", 3)
        found.came("boaster", 2**60)
        await until(lambda: found.notary.store.tip.height == 3)
        await until(lambda: found.best_height == 3)
        for _ in range(50):
            found.told("boaster", 2**60)
            await trio.lowlevel.checkpoint()
        assert found.best_height == 3
        assert asked(found, "boaster") <= 3


async def test_who_stalls_rests_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_plan, "FOLLOW_BACKOFF_S", 0.02)
    async with following({"staller": stalling}) as found:
        found.came("staller", 5)
        began_s = trio.current_time()
        await until(lambda: asked(found, "staller") >= 4)
        assert trio.current_time() - began_s >= 3 * 0.05 + (1 + 2 + 4) * 0.02
        assert found.best_height == 0


async def test_those_who_deliver_are_asked_before_those_who_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_plan, "PIECE_BLOCKS_MAX", 1)  # a block at a time
    monkeypatch.setattr(sync_plan, "FOLLOW_BACKOFF_S", 30.0)  # however long this machine takes for the blocks
    source = source_of(30)
    async with following({"staller": stalling, "honest": honest(source)}) as found:
        found.came("staller", 30)
        found.came("honest", 30)
        await until(lambda: found.notary.store.tip.height == 30)
        assert asked(found, "staller") <= 2


async def test_a_validator_leaves_blocks_to_consensus_while_it_brings_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FOLLOW_STALLED_S", 0.2)
    source = source_of(3)
    async with following({"peer": honest(source)}, patient=True) as found:
        found.committed()
        began_s = trio.current_time()
        found.came("peer", 3)
        await until(lambda: found.notary.store.tip.height == 3)
        assert trio.current_time() - began_s >= 0.2 - 0.01


async def test_a_validator_far_behind_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOLLOW_STALLED_S", 600.0)
    source = source_of(module._NEAR + 1)
    async with following({"peer": honest(source)}, patient=True) as found:
        found.committed()
        found.came("peer", source.store.tip.height)
        await until(lambda: found.notary.store.tip.height >= 1)


async def test_words_of_strangers_and_of_those_who_left_are_dropped() -> None:
    async with following({}) as found:
        found.told("stranger", 9)
        found.came("guest", 9)
        found.gone("guest")
        found.told("guest", 9)
        assert found.best_height == 0
        assert not found.holds("guest", 1)


async def test_a_told_height_wakes_a_sleeping_follower_each_time() -> None:
    source = source_of(1)
    async with following({"peer": honest(source)}) as found:
        found.came("peer", 0)
        for height in range(1, 20):
            found.told("peer", height)
            await until(lambda height=height: found.notary.store.tip.height == height)
            extend(source, batch_of(transfer_tx(1000 + height)))


async def test_commits_of_a_long_range_let_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP_MS", 0)
    source = source_of(400)
    async with following({"peer": honest(source)}) as found:
        heights = set()
        found.came("peer", 400)
        with trio.fail_after(60):
            while found.notary.store.tip.height < 400:
                heights.add(found.notary.store.tip.height)
                await trio.lowlevel.checkpoint()
        assert len(heights) > 200


async def test_far_behind_several_blocks_are_one_synced_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP_MS", 200)  # as many blocks as usual, on a slow machine
    source = source_of(200)
    async with following({"peer": honest(source)}) as found:
        kv = found.notary.store._kv.base
        writes = []
        plain = kv.write

        def count(puts: object, deletes: object = (), sync: bool = True) -> None:
            writes.append(sync)
            plain(puts, deletes, sync)  # type: ignore[arg-type]

        kv.write = count  # type: ignore[method-assign]
        found.came("peer", 200)
        await until(lambda: found.notary.store.tip.height == 200)
        assert len(writes) < 100
        assert all(writes)
        assert found.notary.store.tip.root == source.store.tip.root
        again = Store(kv, CHAIN_ID)
        assert again.tip == source.store.tip


async def test_many_sources_are_used_at_once_and_one_that_lies_only_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sync_plan, "PIECE_BLOCKS_MAX", 5)
    source = source_of(200)
    lie = changed(source, broken_signature)
    under_way, most = 0, 0

    def slow(answer: Answer) -> Answer:
        async def later(method: str, body: bytes) -> bytes:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await trio.sleep(0.005)
            under_way -= 1
            return await answer(method, body)

        return later

    names = {name: slow(honest(source)) for name in "abc"}
    async with following({**names, "liar": slow(saying(lie))}) as found:
        for name in (*names, "liar"):
            found.came(name, 200)
        await until(lambda: found.notary.store.tip.height == 200)
        assert most > 3
        assert found.lies >= 1
        assert asked(found, "liar") <= sync_plan.PIECES_PER_SOURCE
        assert all(asked(found, name) > 3 for name in names)


async def test_a_staller_holds_up_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_plan, "FOLLOW_HEDGE_S", 0.05)
    monkeypatch.setattr(sync_plan, "PIECE_BLOCKS_MAX", 10)
    source = source_of(100)

    async def never(method: str, body: bytes) -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    async with following({"staller": never, "honest": honest(source)}) as found:
        found.came("staller", 100)
        found.came("honest", 100)
        await until(lambda: found.notary.store.tip.height == 100)
        assert found.plan.hedged >= 1
        assert asked(found, "staller") <= 2 * sync_plan.PIECES_PER_SOURCE


async def test_blocks_of_an_epoch_that_never_came_are_a_lie_at_their_turn() -> None:
    """Nobody can tell before; they take no more room than others."""
    source = source_of(3)

    def later(blocks: list[StoredBlock]) -> None:
        for place, block in enumerate(blocks):
            header = msgspec.structs.replace(decode_header(block.header), epoch=9)
            blocks[place] = msgspec.structs.replace(block, header=header.encode())

    async with following({"liar": saying(changed(source, later))}) as found:
        found.came("liar", 3)
        await until(lambda: found.lies == 1)
        assert found.notary.store.tip.height == 0
        network = found.network
        assert isinstance(network, ScriptedNetwork)
        network.answers["honest"] = honest(source)
        found.came("honest", 3)
        await until(lambda: found.notary.store.tip.height == 3)
        assert [peer for peer, _ in network.penalties] == ["liar"]


async def test_a_peer_that_does_not_deliver_a_batch_is_not_the_only_way() -> None:
    source = big_block_source()
    truth = honest(source)

    async def no_batches(method: str, body: bytes) -> bytes:
        if method == "batch":
            raise RequestTimeout("no answer")
        return await truth(method, body)

    async with following({"lazy": no_batches, "honest": truth}) as found:
        found.came("lazy", 3)
        found.came("honest", 3)
        await until(lambda: found.notary.store.tip.height == 3)
        assert found.lies == 0


async def test_a_paused_follower_drops_what_waits_and_goes_on_later() -> None:
    source = source_of(50)
    async with following({"peer": honest(source)}) as found:
        found.pause(True)
        found.came("peer", 50)
        assert found.is_stopped
        found.pause(False)
        await until(lambda: found.notary.store.tip.height == 50)


async def test_a_certified_block_that_does_not_follow_our_tip_stops_all() -> None:
    """More than f validators signed two chains: nothing here can say which is right."""
    source = source_of(3)
    async with following({"peer": honest(source)}) as found:
        header = extend(found.notary, batch_of(transfer_tx(77)))
        found.came("peer", 3)
        await until(lambda: found.off_chain)
        assert found.notary.store.tip.hash == header.hash
        assert found.lies == 0


def big_block_source() -> Notary:
    """One block of 20 batches of 100 KB: twice a frame."""
    notary = new_notary()
    senders = [key(f"sender{i}") for i in range(20)]
    extend(notary, batch_of(transfer_tx(0)))
    extend(notary, *(batch_of(transfer_tx(1, sender=s, padding=100_000)) for s in senders))
    extend(notary, batch_of(transfer_tx(2)))
    return notary


async def test_a_block_larger_than_a_frame_is_fetched_in_parts() -> None:
    source = big_block_source()
    for first in (1, 2, 3):
        data = answer_range(source.store, encode(RangeRequest(first, RANGE_BYTES_MAX, 0)))
        assert 0 < len(data) < PAYLOAD_BYTES_MAX
    async with following({"peer": honest(source)}) as found:
        found.came("peer", 3)
        await until(lambda: found.notary.store.tip.height == 3)
        assert found.notary.store.tip.root == source.store.tip.root
        assert len(found.notary.store.receipts(2)) == 20


async def test_a_big_blocks_batch_is_checked_against_its_digest() -> None:
    source = big_block_source()
    truth = honest(source)

    async def lie(method: str, body: bytes) -> bytes:
        return batch_of(transfer_tx(7)) if method == "batch" else await truth(method, body)

    async with following({"liar": lie}) as found:
        found.came("liar", 3)
        await until(lambda: found.lies >= 1)
        assert found.notary.store.tip.height == 1


def test_certified_blocks_go_whole_as_many_as_fit() -> None:
    notary = new_notary()
    for n in range(12):
        extend(notary, batch_of(transfer_tx(n, sender=key(f"s{n}"), padding=100_000)))
    blocks = decode(tuple[StoredBlock, ...], answer_range(notary.store, encode(RangeRequest(1, 450_000, 0))))
    assert len(blocks) == 4
    assert all(block.batches and block.certificate for block in blocks)


def test_an_answer_never_cuts_a_run_without_certificates_and_fits_a_frame() -> None:
    notary = new_notary(MemoryKv())
    for n in range(12):
        extend(notary, batch_of(transfer_tx(n, sender=key(f"s{n}"), padding=100_000)))
    kv = notary.store._kv
    for height in range(2, 12):
        kv.write({}, [b"c" + height.to_bytes(8, "big")])
    data = answer_range(notary.store, encode(RangeRequest(2, RANGE_BYTES_MAX, 0)))
    assert len(data) < PAYLOAD_BYTES_MAX
    blocks = decode(tuple[StoredBlock, ...], data)
    assert len(blocks) == 11
    assert blocks[-1].certificate
    assert blocks[0].batches
    assert not blocks[-1].batches


async def test_a_piece_that_is_proved_too_late_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread goes on when its request was given up; what it brings would lie here for ever."""
    begun, go_on = threading.Event(), threading.Event()
    plain = Follower._prove

    def slowly(self: Follower, ask: sync_plan.Ask, blocks: tuple[StoredBlock, ...]) -> module.Piece:
        begun.set()
        assert go_on.wait(60)
        return plain(self, ask, blocks)

    monkeypatch.setattr(Follower, "_prove", slowly)
    async with following({"one": honest(source_of(3))}) as found:
        found.came("one", 3)
        await until(begun.is_set)
        found.pause(True)
        go_on.set()
        await until(lambda: not found._scopes)
        assert not found._pieces
        found.pause(False)
        await until(lambda: found.notary.store.tip.height == 3)
        assert not found._pieces


async def test_a_block_that_was_waited_for_while_the_state_was_mended_is_no_other_chain() -> None:
    """The chain may go on from lower than it was; then the piece begins anew."""
    source = source_of(3)
    asked, go_on = trio.Event(), trio.Event()

    async def answer(method: str, body: bytes) -> bytes:
        if method == "batch":
            asked.set()
            await go_on.wait()
            return answer_batch(source.store, body)
        await trio.lowlevel.checkpoint()
        blocks = list(decode(tuple[StoredBlock, ...], answer_range(source.store, body)))
        for place, block in enumerate(blocks):
            if decode_header(block.header).height == 2:
                blocks[place] = msgspec.structs.replace(block, batches=())
        return encode(tuple(blocks))

    async with following({"one": answer}) as found:
        found.came("one", 3)
        await asked.wait()
        store = found.notary.store
        assert store.tip.height == 1
        Notary.open(found.notary.genesis, Store(store.stage(), CHAIN_ID), found.notary.scheme)
        found.pause(True)
        store.adopt()
        assert store.tip.height == 0
        found.pause(False)
        go_on.set()
        await until(lambda: found.off_chain or store.tip.height == 3)
        assert not found.off_chain
