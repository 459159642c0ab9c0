"""Clients of the API: who is one, and turns of those whose requests are ready."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from node.api.clients import Starts, client_name
from node.api.limits import REQUESTS_PER_PASS


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("192.0.2.7", "http:192.0.2.7"),
        ("::ffff:192.0.2.7", "http:192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "http:2001:db8:1:2::/64"),
        ("fe80::1%eth0", "http:fe80::/64"),
        ("a socket", "http:a socket"),
    ],
)
def test_a_client_is_an_address_or_a_64(host: str, name: str) -> None:
    assert client_name({"type": "http", "client": (host, 1)}) == name


def test_who_has_no_address_is_one_client() -> None:
    assert client_name({"type": "http", "client": None}) == "http:"


async def test_clients_take_turns_however_many_requests_one_has() -> None:
    starts, begun = Starts(), list[str]()

    async def one(client: str) -> None:
        await starts.turn(client)
        begun.append(client)

    async with trio.open_nursery() as nursery:
        for _ in range(REQUESTS_PER_PASS):
            await one("loud")
        for _ in range(100):
            nursery.start_soon(one, "loud")
        await trio.lowlevel.checkpoint()
        for _ in range(2):
            nursery.start_soon(one, "quiet")
    assert len(begun) == 102 + REQUESTS_PER_PASS
    last = max(place for place, client in enumerate(begun) if client == "quiet")
    assert last <= 4 * REQUESTS_PER_PASS
    assert not starts._waiting


async def test_who_gives_up_leaves_no_trace() -> None:
    starts = Starts()
    for _ in range(REQUESTS_PER_PASS):
        await starts.turn("loud")
    with trio.CancelScope() as scope:
        scope.cancel()
        await starts.turn("quiet")
    assert scope.cancelled_caught
    assert not starts._waiting
    await trio.testing.wait_all_tasks_blocked()
    await starts.turn("loud")
