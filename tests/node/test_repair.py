"""A peer whose state is wrong: an alarm, no votes, reads marked as stale, and it mends itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from consensus.messages import Ready
from ledger.errors import LocalError
from ledger.storage.kv import MemoryKv
from ledger.storage.store import Store
from node.api.views import not_ready
from node.errors import StateDiffers
from node.peer import Peer
from node.sync import repair as module
from node.sync import state_fetch, state_sync
from node.sync.repair import NO_CHANCE, Repair
from node.sync.state_sync import StateSync
from tests.node.final_chain import batch_of, extend, transfer_tx
from tests.node.network_fixture import CHAIN_ID, POOR, RICH, World, transfer, until, world
from tests.node.state_fixture import Client, client_of, server_of, take_blocks

ACCOUNT = b"saccount/" + RICH.public


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(module, "STATE_RETRY_S", 0.02)
    monkeypatch.setattr(state_sync, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(state_fetch, "STATE_PREPARING_S", 0.02)


def harm(kv: MemoryKv) -> None:
    """Another value at rest than the one that was written: as if the disk had lied."""
    value = kv.get(ACCOUNT)
    assert value is not None
    other = kv.get(b"saccount/" + POOR.public)
    assert other is not None and other != value
    kv.write({ACCOUNT: other})


async def stop(made: World, name: str) -> None:
    """Until its address is free again."""
    peer_id = made.peers[name].network.peer_id
    made.stop(name)
    await until(lambda: made.hub.find(peer_id) is None)


async def pay(made: World, peer: Peer, salt: int) -> None:
    """A transfer from the account, final at that peer."""
    tx = await peer.submit(transfer(peer, 5, salt))
    await peer.wait_final(tx, 15)


NAMES = ["validator0", "validator1", "validator2", "validator3", "observer"]


@pytest.mark.parametrize("name", ["validator3", "observer"])
async def test_a_record_changed_at_rest_is_noticed_and_mended(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mended: list[str] = []
    plain = Repair._mend

    async def slowly(self: Repair) -> bool:
        """What the peer says of itself before it is mended."""
        found = next(p for p in made.peers.values() if p.repair is self)
        status = found.status()
        assert status.stale and status.catching_up and status.sync.startswith("mending")
        assert "state_root_differs" in status.alarms
        assert "not what the validators signed" in not_ready(found)
        assert found.engine is None or not found.seat.stopped
        await until(lambda: found.engine is None)
        height = found.height
        assert found.state.get(b"account/" + POOR.public) is not None, "reads go on"
        await pay(made, made.peers["validator0"], 50)
        assert found.height == height, "nothing is executed"
        mended.append(found.identity.moniker)
        return await plain(self)

    async with world(NAMES) as made:
        await until(lambda: all(len(p.network.neighbours()) == 4 for p in made.peers.values()))
        await pay(made, made.peers["validator0"], 1)
        await until(lambda: made.peers[name].height >= made.peers["validator0"].height)
        await stop(made, name)
        harm(made.stores[name])
        monkeypatch.setattr(Repair, "_mend", slowly)
        peer = await made.start(name)
        await pay(made, made.peers["validator0"], 2)
        await until(lambda: mended == [name] and peer.repair.done == 1)
        await pay(made, made.peers["validator0"], 3)
        best = made.peers["validator0"]
        await until(lambda: peer.height >= best.height and not peer.status().stale)
        assert peer.notary.differs == 0
        assert peer.store.root(best.height) in (best.store.root(best.height), None)
        assert peer.state.get(b"account/" + RICH.public) == best.state.get(b"account/" + RICH.public)
        assert peer.status().alarms == ("state_root_differs",), (
            "people should hear of it, even when it is over"
        )
        assert (peer.engine is not None) == name.startswith("validator")
        if peer.engine is not None:
            engine = peer.engine
            sent = engine.counters.sent
            await until(lambda: engine.counters.sent > sent)


async def test_a_mended_validator_votes_again_and_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of four are a quorum: with one stopped, nothing is final without the mended one."""
    async with world(NAMES[:4]) as made:
        await until(lambda: all(len(p.network.neighbours()) == 3 for p in made.peers.values()))
        await pay(made, made.peers["validator0"], 1)
        paid = b"account/" + POOR.public
        await until(lambda: made.peers["validator3"].state.get(paid) is not None)
        await stop(made, "validator3")
        harm(made.stores["validator3"])
        peer = await made.start("validator3")
        await pay(made, made.peers["validator0"], 2)
        await until(lambda: peer.repair.done == 1 and peer.engine is not None)
        made.stop("validator2")
        await pay(made, made.peers["validator0"], 3)
        assert peer.repair.done == 1


async def test_a_damaged_state_votes_no_more_also_when_nothing_is_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def not_now(self: Repair) -> bool:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(Repair, "_mend", not_now)
    async with world(NAMES[:4]) as made:
        await until(lambda: all(len(p.network.neighbours()) == 3 for p in made.peers.values()))
        await pay(made, made.peers["validator0"], 1)
        made.stop("validator1")
        made.stop("validator2")
        peer = made.peers["validator3"]
        peer._damaged(1)
        await until(lambda: peer.engine is None)
        assert peer.seat.stopped


@asynccontextmanager
async def mending(client: Client) -> AsyncIterator[Repair]:
    repair = Repair(client.notary, client.sync)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(repair.run)
        yield repair
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("place", ["memory", "disk"])
async def test_with_all_blocks_here_the_state_is_made_anew_from_them(place: str, tmp_path: Path) -> None:
    source = server_of(30)
    genesis = source.notary.genesis
    disk = Store.open(tmp_path / "store", CHAIN_ID, genesis.hash) if place == "disk" else None
    async with client_of({}, source, store=disk) as client:
        store = client.notary.store
        take_blocks(client, source)
        store._kv.base.write({ACCOUNT: store._kv.base.get(b"saccount/" + POOR.public) or b""})
        client.notary.differs = 30
        async with mending(client) as repair:
            await until(lambda: repair.done == 1)
        assert client.notary.store.state.get(ACCOUNT[1:]) == source.notary.store.state.get(ACCOUNT[1:])
        assert store.tip == source.notary.store.tip
        assert store.first_height == 1
        assert client.installed == [30]
        assert store.block(17) == source.notary.store.block(17)
    if disk is not None:
        disk.close()


async def test_a_store_that_cannot_be_replaced_stops_the_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: the disk failed after the old store was closed; the peer said "not mended" and went on with
    a store that answers nothing."""
    source = server_of(30)
    disk = Store.open(tmp_path / "store", CHAIN_ID, source.notary.genesis.hash)

    def fails(path: Path) -> None:
        raise LocalError(f"{path}: the new store cannot take its place: No space left on device")

    async def mends() -> None:
        async with client_of({}, source, store=disk) as client:
            take_blocks(client, source)
            monkeypatch.setattr("ledger.storage.store.adopt_next", fails)
            client.notary.differs = 30
            async with mending(client):
                await trio.sleep_forever()

    with trio.fail_after(60), pytest.raises(ExceptionGroup) as stopped:
        await mends()
    assert stopped.group_contains(LocalError, match="No space left on device")
    monkeypatch.undo()
    again = Store.open(tmp_path / "store", CHAIN_ID, source.notary.genesis.hash)
    assert again.tip.height == 30, "nothing is lost: the next start finds the old store"
    again.close()


async def test_a_state_from_others_is_taken_first_also_a_lower_one() -> None:
    source = server_of(35)
    async with client_of({"one": source.answer}, source) as client:
        client.sync.behind_blocks = 1_000
        client.came(35)
        await until(lambda: client.notary.store.tip.height == 35)
        client.notary.differs = 33
        async with mending(client) as repair:
            await until(lambda: repair.done == 1)
        assert client.installed == [30]
        await until(lambda: client.notary.store.tip.height == 35)
        assert client.notary.store.tip == source.notary.store.tip


async def test_who_is_behind_and_mends_does_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both fill the one store that is to take the place of ours."""
    at_once, most = 0, 0
    plain = StateSync._round

    async def counted(self: StateSync, above: int) -> bool:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            return await plain(self, above)
        finally:
            at_once -= 1

    monkeypatch.setattr(StateSync, "_round", counted)
    source = server_of(35)
    async with client_of({"one": source.answer}, source) as client:
        client.follower.off_chain = True  # nothing by blocks
        client.notary.differs = 1
        client.came(35)
        assert client.sync.is_wanted()
        async with mending(client) as repair, trio.open_nursery() as nursery:
            nursery.start_soon(client.sync.run)
            await until(lambda: client.notary.differs == 0 and not client.sync.phase)
            assert client.installed == [30]
            assert most == 1
            assert not repair.gave_up
            nursery.cancel_scope.cancel()


async def test_blocks_that_are_pruned_while_mending_waits_are_not_all_blocks() -> None:
    """Else the chain would begin anew at genesis."""
    source = server_of(12)
    async with client_of({}, source) as client, trio.open_nursery() as nursery:
        store = client.notary.store
        take_blocks(client, source)
        client.sync.enabled = False
        client.notary.differs = 12
        mended: list[bool] = []

        async def mend() -> None:
            mended.append(await Repair(client.notary, client.sync)._mend())

        async with client.sync.store_use:  # as the pruner
            nursery.start_soon(mend)
            await until(lambda: client.sync.store_use.statistics().tasks_waiting == 1)
            store.retention.drop(store.retention.plan(1))
        await until(lambda: bool(mended))
        assert mended == [False] and client.installed == []
        assert store.tip.height == 12


async def test_without_blocks_or_a_state_it_waits_and_stays_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0
    plain = Repair._mend

    async def counted(self: Repair) -> bool:
        nonlocal tries
        tries += 1
        return await plain(self)

    monkeypatch.setattr(Repair, "_mend", counted)
    source = server_of(35)
    async with client_of({"one": source.answer}, source) as client:
        client.came(35)
        assert await client.sync.attempt(0)
        await until(lambda: client.notary.store.tip.height == 35)
        client.follower.gone("one")
        client.notary.differs = 33
        async with mending(client) as repair:
            await until(lambda: tries > 2)
            assert (repair.done, repair.gave_up, client.notary.differs) == (0, False, 33)
            client.came(35)
            await until(lambda: repair.done == 1)
        assert client.notary.differs == 0


async def test_when_our_own_execution_leads_there_again_people_must_look() -> None:
    """A quorum signed another root than this program computes: no repair helps, and none is tried twice."""
    async with client_of({}) as client:
        notary = client.notary
        extend(notary, batch_of(transfer_tx(1)))
        extend(notary)
        with pytest.raises(StateDiffers):
            extend(notary, state_height=1, state_root=bytes(32))
        async with mending(client) as repair:
            await until(lambda: repair.done == 1)
            for _ in range(module.REPAIRS_MAX):
                with pytest.raises(StateDiffers):
                    extend(notary, state_height=1, state_root=bytes(32))
                done = repair.done
                await until(lambda done=done: repair.gave_up or repair.done > done)
            assert repair.gave_up
            assert notary.differs == 1
            assert NO_CHANCE == "state_root_differs_again"


async def test_two_final_chains_stop_a_validator_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(NAMES[:4]) as made:
        await until(lambda: all(len(p.network.neighbours()) == 3 for p in made.peers.values()))
        peer = made.peers["validator3"]
        engine = peer.engine
        assert engine is not None
        monkeypatch.setattr(type(engine.core), "step", _two_chains(engine.core))
        await until(lambda: peer.engine is None)
        status = peer.status()
        assert status.stale and status.catching_up and status.sync == "stopped"
        assert "final_off_chain" in status.alarms
        height = peer.height
        await pay(made, made.peers["validator0"], 1)
        assert peer.height == height
        assert peer.state.get(b"account/" + RICH.public) is not None


def _two_chains(victim: object) -> object:
    plain = type(victim).step  # type: ignore[attr-defined]

    def step(self: object, *args: object) -> Ready:
        if self is victim:
            return Ready(alarms=["final_off_chain"])
        found: Ready = plain(self, *args)
        return found

    return step
