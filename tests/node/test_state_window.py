"""The blocks of the replay window, as a peer that takes a state fetches them."""

from __future__ import annotations

import msgspec
import pytest

from ledger.codec import decode, encode
from ledger.storage.staging import Staging
from node import limits as node_limits
from node.sync import state_fetch
from node.wire import RangeRequest
from p2p.errors import RequestTimeout
from tests.node.state_fixture import client_of, server_of


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_fetch, "STATE_PREPARING_S", 0.02)


async def test_a_peer_that_fails_now_and_then_still_gives_the_replay_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Failures count in a row, for blocks as for chunks."""
    monkeypatch.setattr(state_fetch, "PIECE_BLOCKS_MAX", 2)
    server = server_of(35)
    count = 0

    async def answer(method: str, body: bytes) -> bytes:
        nonlocal count
        count += method == "blocks"
        if method == "blocks" and count % 2:
            raise RequestTimeout("no answer")
        return await server.answer(method, body)

    async with client_of({"one": answer}, server, follow=False) as client:
        client.came(35)
        assert await client.sync.attempt(0)
        assert count > 2 * node_limits.STATE_FAILURES_MAX


async def test_who_gives_block_after_block_does_not_hold_up_the_replay_window() -> None:
    """True, but as slow as it likes: the others are asked in turn."""
    server = server_of(35)

    async def drip(method: str, body: bytes) -> bytes:
        if method == "blocks":
            body = encode(msgspec.structs.replace(decode(RangeRequest, body), blocks_max=1))
        return await server.answer(method, body)

    async with client_of({"drip": drip, "honest": server.answer}, server, follow=False) as client:
        client.came(35)
        assert await client.sync.attempt(0)
        assert client.asked("drip", "blocks") <= 2 and client.asked("honest", "blocks") <= 2


async def test_blocks_fetched_for_a_later_header_of_the_same_state_do_not_spoil_it() -> None:
    """Several headers may name one state, and who offered the later one may be gone."""
    server = server_of(35)
    async with client_of({"one": server.answer}, server, follow=False) as client:
        begun = Staging(client.notary.store.stage())
        begun.begin(30, server.notary.store.root(30) or b"")
        begun.remember((), 34, server.notary.store.tip.hash)
        client.came(35)
        assert await client.sync.attempt(0)
        assert client.installed == [30]
