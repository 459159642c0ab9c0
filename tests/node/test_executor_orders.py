"""A 3node that began from a state: its chain holds no old orders; it fetches and proves them one by one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ledger import transactions as t
from ledger.codec import encode
from ledger.errors import Refused
from ledger.transactions import SignedTx
from node.executor import executor, orders
from node.executor.orders import METHOD, Orders, check_order
from node.peer import Peer
from node.sync.ranges import answer_order
from tests.ledger import world as people
from tests.node.executor_fixture import VALIDATORS, Fleet, fleet, job
from tests.node.network_fixture import CHAIN_ID, transfer, until

Answer = Callable[[str, bytes], Awaitable[bytes]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "COOL_S", 0.1)


def takes_states(peer: Peer) -> None:
    peer.state_sync.behind_blocks = 2


def raw_order(net: Fleet, deployment: bytes) -> bytes:
    return answer_order(net.first.store, deployment)


@asynccontextmanager
async def joined_by_state(folder: Path) -> AsyncIterator[tuple[Fleet, bytes]]:
    """An approved deployment that nobody executes, and node1, which came after it and took a state."""
    async with fleet(folder, "node1", executors=False) as net:
        for peer in net.net.peers.values():
            peer.snapshots.every_blocks = 4
        deployment = await net.approved(job())
        ordered = net.first.height
        await until(
            lambda: all(max(net.net.peers[n].snapshots.heights, default=0) > ordered for n in VALIDATORS)
        )
        gone = net.net.peers["node1"].network.peer_id
        net.net.stop("node1")
        net.net.stores.pop("node1")
        await until(lambda: net.net.hub.find(gone) is None)
        peer = await net.net.start("node1", prepare=takes_states)
        await until(lambda: peer.state_sync.installed == 1 and not peer.status().catching_up)
        assert peer.store.first_height > ordered and peer.store.tx(deployment) is None
        yield net, deployment


def answering(net: Fleet, names: tuple[str, ...], answer: Answer) -> None:
    for name in names:
        net.net.peers[name].handlers.methods[METHOD] = answer


async def silent(peer_id: str, body: bytes) -> bytes:
    raise Refused("order.unknown", "it is not here")


async def test_a_node_that_took_a_state_claims_and_runs(tmp_path: Path) -> None:
    async with joined_by_state(tmp_path) as (net, deployment):
        made = net.execute("node1")
        await net.until_statuses(deployment, "running")
        assert (made.orders.fetched, made.orders.lied) == (1, 0)
        assert made.orders.get(deployment) == raw_order(net, deployment)
        # It gives on what it fetched, though its chain does not hold it.
        assert await made.orders.serve("another", deployment) == raw_order(net, deployment)
        net.drivers["node1"].running[0].results["/result/words.tsv"] = b"w"
        net.drivers["node1"].running[0].end()
        await net.until_statuses(deployment, "succeeded")


async def test_nothing_is_claimed_while_nobody_has_the_order(tmp_path: Path) -> None:
    async with joined_by_state(tmp_path) as (net, deployment):
        answering(net, VALIDATORS, silent)
        made = net.execute("node1")
        await until(lambda: any("verify.order" in why for why in made.status().refused.values()))
        height = net.first.height
        await until(lambda: net.first.height > height + 3)
        assert net.statuses(deployment) == ["open"]
        for name in VALIDATORS:
            del net.net.peers[name].handlers.methods[METHOD]
        await net.until_statuses(deployment, "running")


async def test_false_orders_are_their_bringers_fault_and_an_honest_one_is_found(tmp_path: Path) -> None:
    """Another's order, the right one with another signature, a transaction that is no order, noise."""
    async with joined_by_state(tmp_path) as (net, deployment):
        other = await net.order(people.contract(job(), budget=50_000_000, name="other"))
        signed = t.decode_tx(raw_order(net, deployment), CHAIN_ID)
        forged = encode(SignedTx(signed.payload, bytes(64)))
        lies = [raw_order(net, other), forged, transfer(net.first, 1, 1), b"noise"]
        for name, lie in zip(VALIDATORS, lies, strict=True):

            async def tell(peer_id: str, body: bytes, lie: bytes = lie) -> bytes:
                return lie

            answering(net, (name,), tell)
        peer, made = net.net.peers["node1"], net.execute("node1")
        await until(lambda: made.orders.lied >= 4)
        assert {n.fault for n in peer.network.neighbours()} >= {"order.other", "tx.signature"}
        assert net.statuses(deployment) == ["open"] and made.orders.fetched == 0
        del net.first.handlers.methods[METHOD]
        await net.until_statuses(deployment, "running")


async def test_only_the_signed_order_of_that_id_passes(tmp_path: Path) -> None:
    async with fleet(tmp_path, executors=False) as net:
        deployment = await net.order(people.contract(job(), budget=50_000_000))
        raw = raw_order(net, deployment)
        assert check_order(deployment, raw, CHAIN_ID) == raw
        for wrong, rule in ((bytes(32), "order.unknown"), (b"short", "order.unknown")):
            with pytest.raises(Refused, match=rule):
                answer_order(net.first.store, wrong)
        with pytest.raises(Refused, match=r"order\.other"):
            check_order(bytes(32), raw, CHAIN_ID)


async def test_what_was_fetched_is_bounded_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "ORDERS_BYTES_MAX", 1_000)
    kept = Orders(None)  # type: ignore[arg-type]
    for number in range(5):
        kept._keep(bytes([number]) * 32, bytes(400))
    assert list(kept._held) == [bytes([3]) * 32, bytes([4]) * 32]
    assert kept._held_bytes == 800
