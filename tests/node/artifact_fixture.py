"""Peers that do nothing but give and take artifacts, on the in-memory network."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import trio

from ledger.codec import decode, encode
from ledger.keys import Key
from ledger.limits import CHUNK_BYTES
from node.files.artifact_wire import CHUNK, ChunkRequest, HeldAnswer, HeldRequest
from node.files.artifacts import ArtifactStore
from node.files.chunks import chunks_root
from node.files.exchange import Exchange, Wanted
from node.files.rates import FileRates
from p2p.errors import Refused as RequestRefused
from p2p.memory import MemoryHub, MemoryNetwork
from p2p.network import Lane, Neighbour, Verdict
from p2p.switchboard import Policy
from tests.node.network_fixture import until
from tests.node.test_artifacts import name_of

Serve = Callable[[str, bytes], Awaitable[bytes]]


@dataclass
class Host:
    """A peer that does nothing but serve its methods. `asked` counts requests by method, and chunks."""

    network: MemoryNetwork
    exchange: Exchange
    methods: dict[str, Serve] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)

    def hello(self, peer_id: str) -> bytes:
        return b"hello"

    def check_hello(self, peer_id: str, hello: bytes) -> None:
        assert hello == b"hello"

    def on_up(self, neighbour: Neighbour) -> None: ...

    def on_down(self, peer_id: str, reason: str) -> None: ...

    def on_message(self, peer_id: str, lane: Lane, payload: bytes) -> None: ...

    async def on_gossip(self, topic: str, peer_id: str, payload: bytes) -> Verdict:
        return Verdict.IGNORE

    async def serve(self, peer_id: str, method: str, body: bytes) -> bytes:
        count = decode(ChunkRequest, body).count if method == CHUNK else 1
        self.asked[method] = self.asked.get(method, 0) + count
        try:
            return await self.methods[method](peer_id, body)
        except Exception as error:  # noqa: BLE001 - the fixture refuses as PeerHandlers does
            raise RequestRefused(str(error)[:200]) from None


@asynccontextmanager
async def hosts(folder: Path, count: int, rates: FileRates | None = None) -> AsyncIterator[list[Host]]:
    """Connected peers, the first of which will fetch; all have these rates."""
    hub, made = MemoryHub(3), []
    async with trio.open_nursery() as nursery:
        for number in range(count):
            network = MemoryNetwork(hub, Key(bytes([number + 1]) * 32).public, Policy(), ())
            store = ArtifactStore(folder / str(number))
            host = Host(network, Exchange(network, store, rates or FileRates()))
            host.methods.update(host.exchange.methods())
            await nursery.start(network.run, host)
            for other in made:
                network.add_peer(f"/memory/0/p2p/{other.network.peer_id}", keep=True)
            made.append(host)
        await until(lambda: all(len(host.network.neighbours()) == count - 1 for host in made), 60)
        yield made
        nursery.cancel_scope.cancel()


def wanted_of(data: bytes) -> Wanted:
    digests = [
        hashlib.sha256(data[at : at + CHUNK_BYTES]).digest() for at in range(0, len(data), CHUNK_BYTES)
    ]
    return Wanted(name_of(data), len(data), chunks_root(digests))


def says(data: bytes, **changes: object) -> Serve:
    """A source's word that it has all of `data`."""
    wanted = wanted_of(data)
    assert wanted.chunks is not None
    said = HeldAnswer(len(data), bytes.fromhex(wanted.chunks), b"", 0)

    async def held(peer_id: str, body: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        assert decode(HeldRequest, body).sha256.hex() == wanted.sha256
        return encode(msgspec.structs.replace(said, **changes))

    return held


def answering(answer: bytes) -> Serve:
    """Always the same answer."""

    async def serve(peer_id: str, body: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        return answer

    return serve
