"""Catching up over ends of epochs: by blocks, and by a state whose certificate a later set signed."""

from __future__ import annotations

import pytest

from node.limits import SNAPSHOT_EVERY_BLOCKS
from node.sync import repair, state_fetch, state_sync
from tests.node.epochs_fixture import change, name, network, set_of
from tests.node.network_fixture import World, transfer, until

EVERY = 4


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_sync, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(state_sync, "STATE_RETRY_S", 0.2)
    monkeypatch.setattr(state_fetch, "STATE_PREPARING_S", 0.02)
    monkeypatch.setattr(repair, "LOOK_EVERY_S", 0.02)


def offer_states(net: World) -> None:
    """From now on, often."""
    for peer in net.peers.values():
        assert peer.snapshots.every_blocks == SNAPSHOT_EVERY_BLOCKS
        peer.snapshots.every_blocks = EVERY


async def pay(net: World, count: int, first: int) -> None:
    peer = net.peers["observer"]
    for salt in range(first, first + count):
        await peer.wait_final(await peer.submit(transfer(peer, 1, salt)), 15)


async def two_changes(net: World) -> None:
    await pay(net, 2, 100)
    await change(net, set_of(1, range(5)), "observer")
    await pay(net, 4, 200)
    await change(net, set_of(2, range(1, 5)), "observer")
    await pay(net, 2 * EVERY + 2, 300)


async def test_a_stranger_comes_by_blocks_over_two_ends_of_epochs() -> None:
    async with network(4, [name(4), "observer"]) as net:
        await two_changes(net)
        best = net.peers["observer"]
        late = await net.start("late")
        await until(lambda: late.height >= best.height)
        assert late.validators == set_of(2, range(1, 5))
        assert late.store.first_height == 1
        assert late.follower.lies == 0


async def test_a_stranger_takes_a_state_of_the_third_epoch_and_can_prove_it() -> None:
    async with network(4, [name(4), "observer"]) as net:
        offer_states(net)
        await two_changes(net)
        best = net.peers["observer"]
        await until(lambda: any(peer.snapshots.heights for peer in net.peers.values()))
        late = await net.start("late")
        late.state_sync.behind_blocks = 3
        await until(lambda: late.state_sync.installed >= 1 and late.height >= best.height)
        assert late.store.first_height > 1
        assert late.validators == set_of(2, range(1, 5))
        ours, theirs = late.store.epochs.proofs(0, 9), best.store.epochs.proofs(0, 9)
        assert len(ours) == len(theirs) == 2
        assert [proof.next_set for proof in ours] == [proof.next_set for proof in theirs]
        assert late.state_sync.lies == late.follower.lies == 0
        height = late.height
        await change(net, set_of(3, range(5)), "observer")
        await until(lambda: late.validators == set_of(3, range(5)))
        assert late.height > height


async def test_a_validator_of_a_later_epoch_begins_with_a_state_and_votes() -> None:
    """Its key entered the set while it was not there; it never held a block."""
    async with network(4, ["observer"]) as net:
        offer_states(net)
        await change(net, set_of(1, range(5)), "observer")
        await pay(net, 2 * EVERY + 2, 300)
        late = await net.start(name(4))
        late.state_sync.behind_blocks = 3
        await until(lambda: late.state_sync.installed >= 1 and late.engine is not None)
        assert late.store.first_height > 1
        net.stop(name(3))
        await pay(net, 3, 400)
        engine = late.engine
        assert engine is not None
        await until(lambda: engine.counters.sent > 0)
