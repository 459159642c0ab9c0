"""Peers that offer the states of a final chain in chunks, some of which lie, stall or go away; and one that
fetches. The server's and the client's production code, over a network by script."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from ledger.errors import Refused
from ledger.storage.store import Store
from node.notary import Notary
from node.sync.follower import Follower
from node.sync.ranges import answer_batch, answer_range
from node.sync.snapshots import Snapshots
from node.sync.state_sync import StateSync
from p2p.errors import Refused as RequestRefused
from p2p.errors import RequestTimeout
from tests.node.final_chain import batch_of, extend, new_notary, transfer_tx
from tests.node.network_fixture import key
from tests.node.scripted_network import Answer, ScriptedNetwork

EVERY = 10  # blocks between states on offer


@dataclass
class Server:
    """A chain with states on offer. `asked`: how often each method was."""

    notary: Notary
    snapshots: Snapshots
    asked: dict[str, int] = field(default_factory=dict)

    async def answer(self, method: str, body: bytes) -> bytes:
        """As node.handlers does it."""
        self.asked[method] = self.asked.get(method, 0) + 1
        await trio.lowlevel.checkpoint()
        try:
            if method == "blocks":
                return answer_range(self.notary.store, body)
            if method == "batch":
                return answer_batch(self.notary.store, body)
            return await self.snapshots.methods()[method]("client", body)
        except Refused as error:
            raise RequestRefused(f"{error.rule}: {error.detail}") from None


def server_of(blocks: int, accounts: int = 40) -> Server:
    """A chain of `blocks`; each pays new accounts, so that the state has some size."""
    notary = new_notary()
    server = Server(notary, Snapshots(notary.store, every_blocks=EVERY))
    notary.on_commit.append(server.snapshots.committed)
    grow(server, blocks, accounts)
    return server


def grow(server: Server, blocks: int, accounts: int = 40) -> None:
    """More blocks."""
    for _ in range(blocks):
        height = server.notary.store.tip.height
        txs = [
            transfer_tx(height * 1000 + n, to=key(f"account {height} {n}").public)
            for n in range(accounts if height < 4 else 1)
        ]
        extend(server.notary, batch_of(*txs))


def take_blocks(client: Client, server: Server) -> None:
    """All blocks of the server that the client lacks, proved and committed one by one."""
    store = client.notary.store
    for block in server.notary.store.blocks(store.tip.height + 1, 2**20):
        proved = client.notary.check_range([block], store.tip)[0]
        client.notary.commit(proved.header, proved.certificate, block.batches, {})


def stalls_at(method: str, server: Server) -> Answer:
    """Honest, but never answers this method."""

    async def answer(asked: str, body: bytes) -> bytes:
        if asked == method:
            await trio.sleep(0.05)
            raise RequestTimeout("no answer")
        return await server.answer(asked, body)

    return answer


def changes(method: str, server: Server, change: Callable[[bytes], bytes]) -> Answer:
    """Honest, but changes the answers of one method."""

    async def answer(asked: str, body: bytes) -> bytes:
        data = await server.answer(asked, body)
        return change(data) if asked == method else data

    return answer


@dataclass
class Client:
    """A peer at genesis that may fetch a state."""

    notary: Notary
    network: ScriptedNetwork
    follower: Follower
    sync: StateSync
    installed: list[int] = field(default_factory=list)

    def came(self, height: int, *names: str) -> None:
        """Neighbours say that they are at a height."""
        for name in names or tuple(self.network.answers):
            self.follower.came(name, height)

    def asked(self, name: str, method: str) -> int:
        """How often a neighbour was asked for something."""
        return sum(peer == name and asked == method for peer, asked, _ in self.network.asked)


@asynccontextmanager
async def client_of(
    answers: dict[str, Answer], *servers: Server, store: Store | None = None, follow: bool = True
) -> AsyncIterator[Client]:
    """A running client, and the servers' work in the background."""
    network = ScriptedNetwork(answers=answers)
    notary = (
        new_notary() if store is None else Notary.open(servers[0].notary.genesis, store, new_notary().scheme)
    )
    follower = Follower(notary, network, False, lambda header, certificate: None, {})
    snapshots = Snapshots(notary.store, every_blocks=EVERY)
    installed: list[int] = []
    sync = StateSync(
        notary,
        network,
        follower,
        snapshots,
        lambda: installed.append(notary.store.tip.height),
        behind_blocks=EVERY,
    )
    follower.is_deferred = sync.is_due
    async with trio.open_nursery() as nursery:
        for server in servers:
            nursery.start_soon(server.snapshots.run)
        nursery.start_soon(snapshots.run)
        if follow:
            nursery.start_soon(follower.run)
        yield Client(notary, network, follower, sync, installed)
        nursery.cancel_scope.cancel()
