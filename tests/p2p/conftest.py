"""Two worlds for the same tests: hosts on libp2p over loopback, and networks in one process's memory."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from nacl.signing import SigningKey

from p2p.errors import PeerFault, Refused
from p2p.host import Host, HostConfig
from p2p.link import Pace
from p2p.memory import MemoryNetwork
from p2p.memory_hub import MemoryHub
from p2p.network import Lane, Neighbour, Network, Verdict
from p2p.switchboard import Policy

FAST = Pace(heartbeat_s=0.2, handshake_s=4.0, backoff_scale=0.2)
CALM = Pace(heartbeat_s=2.0, backoff_scale=0.2)  # who answers no pings is there for a while
TOPICS = ("approvals", "transactions")


async def until(condition: Callable[[], object], deadline_s: float = 60.0) -> None:
    """Returns when the condition holds; fails after the deadline."""
    with trio.fail_after(deadline_s):
        while not condition():
            await trio.sleep(0.005)


@dataclass
class Recorder:
    """Handlers that note everything and answer a few methods."""

    text: bytes = b"chain-1"
    ups: list[Neighbour] = field(default_factory=list)
    downs: list[tuple[str, str]] = field(default_factory=list)
    messages: list[tuple[str, Lane, bytes]] = field(default_factory=list)
    gossip: list[tuple[str, str, bytes]] = field(default_factory=list)
    verdict: Verdict = Verdict.ACCEPT
    on_data: Callable[[str, Lane, bytes], None] | None = None
    release: trio.Event = field(default_factory=trio.Event)

    def hello(self, peer_id: str) -> bytes:
        return self.text

    def check_hello(self, peer_id: str, hello: bytes) -> None:
        if hello != self.text:
            raise PeerFault(peer_id, "hello.chain", f"is on {hello!r}")

    def on_up(self, neighbour: Neighbour) -> None:
        self.ups.append(neighbour)

    def on_down(self, peer_id: str, reason: str) -> None:
        self.downs.append((peer_id, reason))

    def on_message(self, peer_id: str, lane: Lane, payload: bytes) -> None:
        if payload == b"bad":
            raise PeerFault(peer_id, "test.bad")
        if self.on_data is not None:
            self.on_data(peer_id, lane, payload)
        else:
            self.messages.append((peer_id, lane, payload))

    async def serve(self, peer_id: str, method: str, body: bytes) -> bytes:
        if method == "echo":
            return body
        if method == "wait":
            await self.release.wait()
            return b"released"
        raise Refused(f"no such method: {method}")

    async def on_gossip(self, topic: str, peer_id: str, payload: bytes) -> Verdict:
        await trio.lowlevel.checkpoint()
        self.gossip.append((topic, peer_id, payload))
        return self.verdict


@dataclass
class Peer:
    """One running network with its recorder."""

    net: Network
    seen: Recorder
    scope: trio.CancelScope
    stopped: trio.Event

    @property
    def id(self) -> str:
        return self.net.peer_id

    @property
    def address(self) -> str:
        return self.net.addresses()[0]

    def knows(self, *others: "Peer") -> bool:
        """True when all others are its neighbours."""
        ids = {neighbour.peer_id for neighbour in self.net.neighbours()}
        return ids.issuperset(other.id for other in others)

    async def stop(self) -> None:
        self.scope.cancel()
        await self.stopped.wait()


class World:
    """Starts peers by number; the same number has the same key."""

    def __init__(self, kind: str, nursery: trio.Nursery) -> None:
        self.kind = kind
        self.hub = MemoryHub(seed=7)
        self._nursery = nursery

    async def start(self, number: int, **options: Any) -> Peer:
        """Options: bootstrap, text, pace, neighbours_max, book_path, listen, handlers."""
        pace = options.pop("pace", FAST)
        seen = options.pop("handlers", None) or Recorder(text=options.pop("text", b"chain-1"))
        seed = hashlib.sha256(b"peer %d" % number).digest()
        net: Network
        if self.kind == "memory":
            options.pop("listen", None)
            key = SigningKey(seed).verify_key.encode()
            net = MemoryNetwork(self.hub, key, Policy(pace=pace, **options), topics=TOPICS)
        else:
            net = Host(HostConfig(seed=seed, topics=TOPICS, pace=pace, **options))
        peer = Peer(net, seen, trio.CancelScope(), trio.Event())
        await self._nursery.start(self._run, peer)
        return peer

    async def _run(self, peer: Peer, *, task_status: Any) -> None:
        try:
            with peer.scope:
                await peer.net.run(peer.seen, task_status=task_status)
        finally:
            peer.stopped.set()

    async def pair(self, **options: Any) -> tuple[Peer, Peer]:
        """Two connected peers with these options; the second dialled the first."""
        one = await self.start(1, **options)
        other = await self.start(2, bootstrap=(one.address,), **options)
        await until(lambda: one.knows(other) and other.knows(one))
        return one, other


@pytest.fixture(params=["memory", "libp2p"])
async def world(request: pytest.FixtureRequest, nursery: trio.Nursery) -> AsyncIterator[World]:
    yield World(request.param, nursery)
    nursery.cancel_scope.cancel()


@pytest.fixture
async def hosts(nursery: trio.Nursery) -> AsyncIterator[World]:
    yield World("libp2p", nursery)
    nursery.cancel_scope.cancel()


@pytest.fixture
def wait_until() -> Callable[..., Awaitable[None]]:
    return until


@pytest.fixture
def world_parts() -> Any:
    """The helpers of this file, for tests that build their own world."""
    return SimpleNamespace(Recorder=Recorder, FAST=FAST, TOPICS=TOPICS, World=World)
