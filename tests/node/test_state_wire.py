"""Requests and answers about states, as strangers may spell them: refused by name, never a peer's end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.codec import decode, encode
from ledger.errors import Refused
from ledger.proofs.light import FinalityProof
from ledger.proofs.tree import path_of
from ledger.storage.snapshot import ROOT, StateChunk
from node.limits import SNAPSHOT_ASKS_MAX
from node.sync.snapshots import named_state
from node.sync.spool import Spool
from node.sync.state_wire import (
    CHUNK,
    EPOCHS,
    OFFERS,
    PREPARING,
    ChunkRequest,
    EpochsRequest,
    Offer,
    decode_chunk_request,
    decode_epochs,
    decode_epochs_request,
    decode_offers,
)
from p2p.limits import PAYLOAD_BYTES_MAX
from tests.node.network_fixture import until
from tests.node.state_fixture import Server, grow, server_of

FINALITY = FinalityProof(b"header", (), b"certificate")


def rule_of(act: Callable[[], Any]) -> str:
    with pytest.raises(Refused) as caught:
        act()
    return caught.value.rule


@pytest.mark.parametrize(
    ("decoder", "good", "rule"),
    [
        (decode_epochs_request, EpochsRequest(3), "epochs_request"),
        (decode_chunk_request, ChunkRequest(3, b"\1", 9), "chunk_request"),
    ],
)
def test_requests_have_one_spelling(decoder: Callable[[bytes], Any], good: Any, rule: str) -> None:
    data = encode(good)
    assert decoder(data) == good
    assert rule_of(lambda: decoder(b"\xc1")) == f"{rule}.malformed"
    assert rule_of(lambda: decoder(data.replace(b"\3", b"\xcd\0\3", 1))) == f"{rule}.not_canonical"
    assert rule_of(lambda: decoder(bytes(1_000))) == f"{rule}.too_long"


def test_answers_are_bounded_and_typed() -> None:
    assert decode_offers(encode((Offer(FINALITY),))) == (Offer(FINALITY),)
    assert rule_of(lambda: decode_offers(b"\xc1")) == "offers.malformed"
    assert rule_of(lambda: decode_offers(encode((Offer(FINALITY),) * 9))) == "offers.malformed"
    assert decode_epochs(encode(())) == ()
    assert rule_of(lambda: decode_epochs(encode((1, 2)))) == "epochs.malformed"


async def ask(server: Server, method: str, body: bytes) -> bytes:
    return await server.snapshots.methods()[method]("stranger", body)


async def test_a_chunk_is_prepared_on_the_first_request_and_fits_a_frame() -> None:
    server = server_of(25)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.snapshots.run)
        request = encode(ChunkRequest(20, path_of(ROOT), 2**62))
        with pytest.raises(Refused) as preparing:
            await ask(server, CHUNK, request)
        assert preparing.value.rule == PREPARING == "snapshot.preparing"
        await until(lambda: server.snapshots.made == 1)
        data = await ask(server, CHUNK, request)
        assert len(data) < PAYLOAD_BYTES_MAX
        assert decode(StateChunk, data).place == path_of(ROOT)
        for place, height, rule in (
            (b"", 20, "snapshot.place"),
            (b"\0\1", 20, "snapshot.place"),
            (b"\1", 19, "snapshot.gone"),
        ):
            with pytest.raises(Refused) as refused:
                await ask(server, CHUNK, encode(ChunkRequest(height, place, 1)))
            assert refused.value.rule == rule
        nursery.cancel_scope.cancel()


async def test_a_peer_that_stops_does_not_finish_sorting() -> None:
    """Of a large state that takes minutes."""
    server = server_of(25)
    frozen = server.snapshots._snapshots[20].state
    read = 0

    def endless() -> Iterator[tuple[bytes, bytes]]:
        nonlocal read
        while True:
            read += 1
            yield read.to_bytes(8, "big"), b""

    frozen.pairs = endless  # type: ignore[method-assign]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.snapshots.run)
            with pytest.raises(Refused):
                await ask(server, CHUNK, encode(ChunkRequest(20, path_of(ROOT), 2**62)))
            await until(lambda: read > 1_000)
            nursery.cancel_scope.cancel()
    assert server.snapshots.heights == ()


async def test_states_are_let_go_of_before_a_store_is_closed() -> None:
    server = server_of(25)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.snapshots.run)
        with pytest.raises(Refused):
            await ask(server, CHUNK, encode(ChunkRequest(20, path_of(ROOT), 2**62)))
        await server.snapshots.close()
        assert server.snapshots.heights == ()
        grow(server, 10)
        assert server.snapshots.heights == (30,)
        with pytest.raises(Refused):
            await ask(server, CHUNK, encode(ChunkRequest(30, path_of(ROOT), 2**62)))
        await until(lambda: server.snapshots.made >= 1)
        nursery.cancel_scope.cancel()


async def test_one_peer_cannot_keep_a_server_busy_for_all() -> None:
    server = prepared()
    request = encode(ChunkRequest(20, path_of(ROOT), 1))
    busy = 0

    async def greedy() -> None:
        nonlocal busy
        try:
            await ask(server, CHUNK, request)
        except Refused as error:
            assert error.rule == "snapshot.busy"
            busy += 1

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(greedy)
    assert busy == 20 - SNAPSHOT_ASKS_MAX
    await greedy()
    assert busy == 20 - SNAPSHOT_ASKS_MAX
    assert not server.snapshots._asking
    await server.snapshots.close()


async def test_an_offer_names_its_state_by_a_final_header() -> None:
    server = server_of(25)
    found = decode_offers(await ask(server, OFFERS, b""))
    assert [named_state(offer.anchor)[0] for offer in found] == [20, 10]
    assert named_state(found[0].anchor)[1] == server.notary.store.root(20)
    assert await ask(server, EPOCHS, encode(EpochsRequest(0))) == encode(())


async def test_a_peer_that_dropped_the_replay_window_offers_nothing() -> None:
    server = server_of(25)
    retention = server.notary.store.retention
    for height in range(1, 4):
        retention.drop(retention.plan(height))
    assert decode_offers(await ask(server, OFFERS, b"")) == ()


@given(
    method=st.sampled_from([OFFERS, EPOCHS, CHUNK]),
    body=st.one_of(
        st.binary(max_size=60),
        st.builds(lambda n: encode(EpochsRequest(n)), st.integers(-(2**63), 2**64 - 1)),
        st.builds(
            lambda h, p, s: encode(ChunkRequest(h, p, s)),
            st.one_of(st.just(20), st.integers(-(2**63), 2**64 - 1)),
            st.binary(max_size=40),
            st.integers(-(2**63), 2**64 - 1),
        ),
    ),
)
@settings(max_examples=150, deadline=None)
def test_no_request_brings_a_server_down(method: str, body: bytes) -> None:
    async def main() -> None:
        try:
            data = await ask(SERVER, method, body)
            assert len(data) <= PAYLOAD_BYTES_MAX
        except Refused as error:
            assert error.rule.startswith(("snapshot.", "epochs_request.", "chunk_request."))

    trio.run(main)


def prepared() -> Server:
    """A server whose state is sorted already."""
    server = server_of(25)
    snapshot = server.snapshots._snapshots[20]
    snapshot.spool = Spool(snapshot.state, None, lambda: False)
    return server


SERVER = prepared()
