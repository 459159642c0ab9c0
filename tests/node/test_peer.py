"""Whole peers: transactions become final, crashed validators come back, observers follow and verify."""

from __future__ import annotations

import pytest
import trio.testing

from ledger.errors import Refused
from ledger.proofs.light import Trust, verify_query
from ledger.records import Account, key_account
from ledger.state import read
from node.limits import BEHIND_BLOCKS_MAX
from node.seam import NotFinal
from tests.node.network_fixture import POOR, transfer, until, world

FOUR = ["validator0", "validator1", "validator2", "validator3"]


async def test_a_transaction_becomes_final_on_all_peers_with_one_root() -> None:
    async with world([*FOUR, "observer"]) as net:
        peer = net.peers["validator1"]
        await until(lambda: all(len(p.handlers.members) >= 3 for p in net.peers.values()))
        tx = await peer.submit(transfer(peer, 7, 1))
        outcome = await peer.wait_final(tx, 10)
        assert outcome.receipt.ok
        await until(lambda: all(p.store.tx(tx) is not None for p in net.peers.values()))
        for p in net.peers.values():
            account = read(p.state, Account, key_account(POOR.public))
            assert account is not None
            assert account.balance == 7
        height = outcome.height
        roots = {p.store.root(height) for p in net.peers.values()}
        assert len(roots) == 1


async def test_an_observer_submits_and_proves_with_genesis_alone() -> None:
    async with world([*FOUR, "observer"]) as net:
        peer = net.peers["observer"]
        await until(lambda: len(peer.handlers.members) == 4)
        tx = await peer.submit(transfer(peer, 9, 1))
        outcome = await peer.wait_final(tx, 10)
        await peer.next_block(outcome.height + 1)
        key = key_account(POOR.public)
        trust = Trust(net.genesis.chain_id, net.genesis.validator_set)
        fact = verify_query(trust, peer.store.prove(key).encode())
        assert fact.value == peer.state.get(key)
        assert fact.height >= outcome.height


async def test_refusals_are_named_and_change_nothing() -> None:
    async with world([*FOUR, "observer"]) as net:
        for name in ("validator0", "observer"):
            peer = net.peers[name]
            await until(lambda peer=peer: len(peer.handlers.members) >= 3)
            raw = transfer(peer, 1, 5)
            broken = raw[:-1] + bytes([raw[-1] ^ 1])
            with pytest.raises(Refused, match=r"tx\.signature"):
                await peer.submit(broken)
            with pytest.raises(Refused, match=r"tx\."):
                await peer.submit(raw[:-5])
        peer = net.peers["observer"]
        tx = await peer.submit(transfer(peer, 10**15, 6))
        outcome = await peer.wait_final(tx, 10)
        assert not outcome.receipt.ok
        assert outcome.receipt.rule
        with pytest.raises(NotFinal):
            await peer.wait_final(bytes(32), 0.01)


async def test_commits_go_on_without_one_validator_which_catches_up_when_it_returns() -> None:
    async with world(FOUR) as net:
        first = net.peers["validator0"]
        await first.next_block(1)
        net.stop("validator3")
        tx = await first.submit(transfer(first, 3, 1))
        assert (await first.wait_final(tx, 15)).receipt.ok
        await first.next_block(first.height + 2)
        back = await net.start("validator3")
        await until(lambda: back.store.tx(tx) is not None)
        await until(lambda: back.height >= first.height - 1)
        target = back.height
        await first.next_block(target)
        assert back.store.root(target) == first.store.root(target)


async def test_all_validators_stop_and_go_on_from_their_disks() -> None:
    async with world(FOUR) as net:
        first = net.peers["validator0"]
        tx = await first.submit(transfer(first, 3, 1))
        await first.wait_final(tx, 15)
        for name in FOUR:
            net.stop(name)
        await trio.testing.wait_all_tasks_blocked()
        for name in FOUR:
            await net.start(name)
        again = net.peers["validator0"]
        height = again.height
        assert height >= 1
        await until(lambda: again.height > height + 1)
        assert again.store.tx(tx) is not None


async def test_a_new_observer_fetches_and_proves_the_whole_chain() -> None:
    async with world(FOUR) as net:
        first = net.peers["validator0"]
        for salt in range(5):
            await first.wait_final(await first.submit(transfer(first, 1, salt)), 10)
        late = await net.start("late")
        await until(lambda: late.height >= 5)
        assert late.follower.fetched_blocks >= 5
        assert late.follower.lies == 0


async def test_a_replaced_link_of_a_crossed_dial_is_told_up_down_up() -> None:
    """Both dial at once: the new link's hello is checked, then the old link ends, then the new one is up."""
    async with world([*FOUR]) as net:
        peer = net.peers["validator0"]
        await until(lambda: len(peer.handlers.members) == 3)
        neighbour = peer.network.neighbours()[0]
        peer.handlers.check_hello(neighbour.peer_id, neighbour.hello)
        peer.handlers.on_down(neighbour.peer_id, "replaced")
        peer.handlers.on_up(neighbour)
        assert len(peer.handlers.members) == 3
        height = peer.height
        assert await peer.next_block(height + 1) > height


async def test_a_few_paces_behind_is_not_catching_up() -> None:
    """Blocks come to a follower a pace at a time: what one or two of them bring is no gap (bugs.md)."""
    async with world([*FOUR, "observer"]) as net:
        peer = net.peers["observer"]
        await peer.next_block(1)
        for name in list(net.peers):
            if name != "observer":
                net.stop(name)
        await until(lambda: not peer.network.neighbours())
        tip = peer.store.tip.height
        peer.follower.plan.came("ahead", tip + BEHIND_BLOCKS_MAX)
        assert not peer.status().catching_up
        peer.follower.plan.told("ahead", tip + BEHIND_BLOCKS_MAX + 1)
        assert peer.status().catching_up
