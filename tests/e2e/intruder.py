"""A peer that keeps to no rule: our own network layer, driven by hand."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio

from ledger.codec import encode
from ledger.keys import Key
from node.home import read_genesis
from node.wire import HELLO_DOMAIN, PROTOCOL, Hello, hello_message
from p2p.errors import Refused
from p2p.frames import CONSENSUS_PROTOCOL, Kind, hello_body
from p2p.frames import encode as frame
from p2p.host import Host, HostConfig
from p2p.network import Lane, Neighbour, Verdict
from p2p.transport import Stream
from tests.e2e.net import Net, until

Serve = Callable[[bytes], bytes]


@dataclass
class Intruder:
    """Dials one peer at a time. `answers`: methods that it serves; `height`: what its hello claims."""

    net: Net
    seed: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    chain_id: str = ""
    height: int = 0
    validator: Key | None = None
    topics: tuple[str, ...] = ()
    answers: dict[str, Serve] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    ups: list[str] = field(default_factory=list)
    downs: list[str] = field(default_factory=list)
    host: Host = field(init=False)

    def __post_init__(self) -> None:
        self.host = Host(HostConfig(seed=self.seed, topics=self.topics))

    # ------------------------------------------------------------------ Handlers

    def hello(self, peer_id: str) -> bytes:
        """Words that a peer of the chain says, but for what is set otherwise."""
        genesis = read_genesis(self.net.folder / "genesis.json")
        chain_id = self.chain_id or genesis.chain_id
        key, proof = b"", b""
        if self.validator is not None:
            key = self.validator.public
            proof = self.validator.sign(HELLO_DOMAIN, chain_id, hello_message(self.host.peer_id, peer_id))
        return encode(
            Hello(PROTOCOL, chain_id, genesis.hash, "intruder", ("observer",), self.height, key, proof)
        )

    def check_hello(self, peer_id: str, hello: bytes) -> None:
        """All are welcome."""

    def on_up(self, neighbour: Neighbour) -> None:
        """Noted."""
        self.ups.append(neighbour.peer_id)

    def on_down(self, peer_id: str, reason: str) -> None:
        """Noted."""
        self.downs.append(reason)

    def on_message(self, peer_id: str, lane: Lane, payload: bytes) -> None:
        """Not read."""

    async def serve(self, peer_id: str, method: str, body: bytes) -> bytes:
        """What it was told to answer."""
        self.asked.append(method)
        await trio.lowlevel.checkpoint()
        if method not in self.answers:
            raise Refused("nothing here")
        return self.answers[method](body)

    async def on_gossip(self, topic: str, peer_id: str, payload: bytes) -> Verdict:
        """Not read."""
        return Verdict.IGNORE

    # ------------------------------------------------------------------ what it does

    async def meet(self, name: str) -> str:
        """Become a neighbour of a peer; its id."""
        peer = self.net.peer(name)
        self.host.add_peer(peer.p2p, keep=False)
        with trio.fail_after(60):
            while peer.peer_id not in self.ups:
                await trio.sleep(0.02)
        return peer.peer_id

    async def raw_stream(self, name: str) -> Stream:
        """A consensus stream with nothing but a good hello on it, to write any bytes to."""
        peer = self.net.peer(name)
        connection = await self.host.dial(peer.p2p)
        stream = await connection.stream(CONSENSUS_PROTOCOL)
        await stream.write(frame(Kind.HELLO, hello_body(secrets.token_bytes(16), self.hello(peer.peer_id))))
        return stream


@asynccontextmanager
async def at_work(intruder: Intruder) -> AsyncIterator[Intruder]:
    """Its host runs."""
    async with trio.open_nursery() as nursery:
        await nursery.start(intruder.host.run, intruder)
        try:
            yield intruder
        finally:
            nursery.cancel_scope.cancel()


async def soon(what: str, holds: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Like `until`, while hosts of this process go on."""
    await trio.to_thread.run_sync(partial(until, what, holds, timeout_s))


@asynccontextmanager
async def counted(net: Net, name: str, metric: str, label: str) -> AsyncIterator[None]:
    """What happens inside makes that figure of that peer grow; the peer lives on and follows the chain."""
    pid = net.peer(name).pid
    before = net.figure(name, metric, label)
    yield
    await soon(f"{metric} {label} at {name}", lambda: net.figure(name, metric, label) > before)
    height = net.api(name).status().height
    assert net.peer(name).pid == pid and net.is_up(name)
    await soon(f"{name} goes on", lambda: net.api(name).is_ready() and net.api(name).status().height > height)
