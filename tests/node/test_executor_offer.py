"""The executor keeps the node's offer on the ledger as it should be, whoever posted it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from ledger import transactions as t
from ledger.keys import Key
from ledger.records import Node, key_node
from ledger.state import MemoryState, read, write
from node.executor.limits import TX_BLOCKS
from node.executor.offering import Offering
from node.executor.sender import Sender
from node.executor.task import best_address
from node.offer import OFFER_VALID_MS, make_offer
from node.peer import Peer
from node.seam import NotFinal, Overloaded, PeerStatus
from tests.node.executor_fixture import FakeDriver, Fleet, fleet, node_settings
from tests.node.network_fixture import until


def node(net: Fleet) -> Node:
    """The record of node1."""
    found = read(net.first.state, Node, key_node(net.net.peers["node1"].node_key.public))
    assert found is not None
    return found


async def post(net: Fleet, valid_ms: int = OFFER_VALID_MS, **settings: Any) -> t.PostOffer:
    """An offer by hand, as `testnet up` and `node offer` post it."""
    peer = net.net.peers["node1"]
    address = best_address(peer.network.addresses())
    made = make_offer(node_settings(**settings), FakeDriver().fingerprint(), address, net.first.time_ms)
    offer = replace(made, valid_until_ms=net.first.time_ms + valid_ms)
    await net.do(peer.node_key, offer)
    tip = net.first.height
    await until(lambda: peer.height >= tip)  # a node that is a block behind would post one, too
    return offer


async def offers(net: Fleet) -> int:
    """How many were posted, all looked at that are on their way: some blocks later."""
    height = net.net.peers["node1"].height
    await until(lambda: net.executors["node1"].status().offering)
    await until(lambda: net.net.peers["node1"].height >= height + 4)
    return sum(event.kind == "offer.posted" for _, event in net.first.store.events(0, 1_000))


async def test_an_offer_that_holds_is_posted_once_at_a_start(tmp_path: Path) -> None:
    """By the block that holds it the node knows which blocks are of its own life."""
    async with fleet(tmp_path, "node1", executors=False) as net:
        await post(net)
        net.execute("node1")
        clock = net.executors["node1"]._clock
        await until(lambda: clock.is_sure)
        assert await offers(net) == 2
        assert not clock.wants_own


async def test_an_offer_by_hand_is_renewed_before_it_ends(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1", executors=False) as net:
        offer = await post(net, valid_ms=OFFER_VALID_MS // 2 - 1)
        net.execute("node1")
        await until(lambda: node(net).valid_until_ms > offer.valid_until_ms)
        assert node(net).valid_until_ms >= offer.valid_until_ms + OFFER_VALID_MS // 2
        assert await offers(net) == 2


async def test_an_offer_that_ended_while_the_node_was_away_is_posted_anew(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1", executors=False) as net:
        offer = await post(net, valid_ms=1_000)
        await until(lambda: net.first.time_ms > offer.valid_until_ms)
        net.execute("node1")
        await until(lambda: node(net).valid_until_ms > net.first.time_ms)


async def test_changed_settings_are_offered_after_a_restart(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1") as net:
        await until(lambda: node(net).valid_until_ms > 0)
        before = node(net)
        net.scopes["node1"].cancel()
        await net.gone["node1"].wait()
        net.execute("node1", price_cpu="0.02", cpu="3")
        await until(lambda: node(net).cpu_millis == 3_000)
        assert node(net).price.cpu_core_hour == 20_000 != before.price.cpu_core_hour
        assert await offers(net) == 2


class Behind:
    """A peer that is catching up, until it is told otherwise."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.behind = True
        self.asked = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._peer, name)

    def status(self) -> PeerStatus:
        self.asked += 1
        return dataclasses.replace(self._peer.status(), catching_up=self.behind)


async def test_nothing_is_offered_while_the_record_may_be_an_old_one(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1", executors=False) as net:
        behind = Behind(net.net.peers["node1"])
        net.net.peers["node1"] = behind  # type: ignore[assignment]
        net.execute("node1")
        await until(lambda: behind.asked >= 5)
        assert node(net).valid_until_ms == 0
        behind.behind = False
        await until(lambda: node(net).valid_until_ms > 0)


async def test_a_withdrawal_holds_whoever_posted_and_after_a_restart(tmp_path: Path) -> None:
    async with fleet(tmp_path, "node1", executors=False) as net:
        await post(net)
        net.execute("node1")
        clock = net.executors["node1"]._clock
        await until(lambda: clock.is_sure)  # its own offer is final, too
        assert await offers(net) == 2
        await net.do(net.net.peers["node1"].node_key, t.WithdrawOffer())
        await until(lambda: not net.executors["node1"].status().offering)
        net.scopes["node1"].cancel()
        await net.gone["node1"].wait()
        net.execute("node1", price_cpu="0.02")
        height = net.first.height
        await until(lambda: net.first.height >= height + 5)
        assert node(net).valid_until_ms == 0
        await post(net, price_cpu="0.03")  # by hand: the owner wants it again, and the settings count
        await until(lambda: node(net).price.cpu_core_hour == 20_000)


class CutOff:
    """A peer whose offer nobody hears of, and what happens to it meanwhile."""

    chain_id, height, time_ms = "cut-off", 10, 1_000
    network = SimpleNamespace(addresses=lambda: ("/ip4/127.0.0.1/tcp/1/p2p/x",))

    def __init__(self, meanwhile: Callable[[CutOff], None]) -> None:
        self.key, self.state, self.submitted = Key(b"\1" * 32), MemoryState(), 0
        self.meanwhile = meanwhile
        self.record(OFFER_VALID_MS)

    def record(self, valid_until_ms: int) -> None:
        """An offer, or a withdrawn one."""
        price, offers = t.Price(1, 1, 1, 1), ("sandbox",)
        fields = (1, 1, 1, 1, 0, 0, 0, 0, price, offers, {}, "", valid_until_ms, 0, 0)
        write(self.state, key_node(self.key.public), Node(self.key.public, "x", "BE", *fields))

    async def submit(self, raw: bytes) -> None:
        self.submitted += 1
        assert self.submitted == 1, "signed anew"
        self.meanwhile(self)

    async def wait_final(self, tx_id: bytes, wait_s: float) -> None:
        self.height += TX_BLOCKS + 1
        raise NotFinal


def _is_busy(peer: CutOff) -> None:
    peer.record(0)
    raise Overloaded(0.001)


@pytest.mark.parametrize("meanwhile", [lambda peer: None, _is_busy], ids=["expires", "withdrawn"])
async def test_an_offer_on_its_way_undoes_no_withdrawal(meanwhile: Callable[[CutOff], None]) -> None:
    """What nobody heard of before it expired is not sent again by itself: a withdrawal may be in blocks that
    are still missing. Nor is what has been withdrawn while the peer was busy."""
    peer: Any = CutOff(meanwhile)
    made = FakeDriver().fingerprint()
    offering = Offering(peer, Sender(peer, peer.key), node_settings(), made, lambda: 0)
    assert await offering.post() == 0
    assert peer.submitted == 1
