"""Whole peers in one process over in-memory network and stores: production code but for wire and disk."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio
import trio.testing

from ledger import transactions as t
from ledger.genesis import ConsensusParameters, Genesis, GenesisValidator
from ledger.keys import Key
from ledger.storage.kv import MemoryKv
from ledger.storage.store import Store
from node.peer import Identity, Peer
from node.voting.safety_store import SafetyStore
from node.wire import TOPIC_KINDS, topic
from p2p.memory import MemoryHub, MemoryNetwork
from p2p.switchboard import Policy

CHAIN_ID = "test"
RICH = Key(b"r" * 32)
POOR = Key(b"p" * 32)
STEP_S_MAX = 0.1  # of a paced clock: as far as it goes at once, however long the machine was busy elsewhere


def key(name: str) -> Key:
    """A key by name."""
    return Key(name.encode().ljust(32, b"."))


def genesis(validators: int, timeout_ms: int = 400, idle_ms: int = 200) -> Genesis:
    """A chain of `validators` with one funded account."""
    members = tuple(
        GenesisValidator(key=key(f"validator{i}").public.hex(), weight=1, moniker=f"validator{i}")
        for i in range(validators)
    )
    return Genesis(
        chain_id=CHAIN_ID,
        time_ms=1_700_000_000_000,
        validators=members,
        accounts={RICH.public.hex(): 1_000_000_000},
        consensus=ConsensusParameters(view_timeout_ms=timeout_ms, idle_ms=idle_ms),
    )


@dataclass
class World:
    """Running peers by name. Stores outlive a peer, as disks do."""

    hub: MemoryHub
    genesis: Genesis
    nursery: trio.Nursery
    peers: dict[str, Peer] = field(default_factory=dict)
    scopes: dict[str, trio.CancelScope] = field(default_factory=dict)
    stores: dict[str, MemoryKv] = field(default_factory=dict)

    async def start(
        self,
        name: str,
        votes_as: str = "",
        policy: Policy | None = None,
        prepare: Callable[[Peer], None] = lambda peer: None,
    ) -> Peer:
        """Start, or restart on what its stores hold. `votes_as`: with the validator key of another. With a
        `policy` it finds others by that alone. `prepare` is called before it runs."""
        validator = name.startswith("validator")
        node_key = key(f"node-{name}")
        topics = tuple(topic(CHAIN_ID, kind) for kind in TOPIC_KINDS)
        network = MemoryNetwork(self.hub, node_key.public, policy or Policy(), topics)
        store = Store(self.stores.setdefault(name, MemoryKv()), CHAIN_ID)
        safety = SafetyStore(self.stores.setdefault(name + "/safety", MemoryKv())) if validator else None
        identity = Identity(name, (), node_key, key(votes_as or name) if validator else None)
        peer = Peer.assemble(Path("."), self.genesis, identity, store, safety, network)
        prepare(peer)
        scope = trio.CancelScope()

        async def run(*, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
            with scope:
                await peer.run(task_status=task_status)

        await self.nursery.start(run)
        for other in self.peers.values():
            if other is not peer and policy is None:
                network.add_peer(f"/memory/0/p2p/{other.network.peer_id}", keep=True)
        self.peers[name], self.scopes[name] = peer, scope
        return peer

    def stop(self, name: str) -> None:
        """Stop a peer as a crash does: nothing is told to anybody."""
        self.scopes.pop(name).cancel()
        self.peers.pop(name)


@asynccontextmanager
async def world(names: list[str], seed: int = 1, **options: float) -> AsyncIterator[World]:
    """Peers by name; those that begin with "validator" vote."""
    validators = sum(name.startswith("validator") for name in names)
    async with trio.open_nursery() as nursery:
        made = World(MemoryHub(seed, **options), genesis(validators), nursery)  # type: ignore[arg-type]
        for name in names:
            await made.start(name)
        yield made
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def paced(clock: trio.testing.MockClock, rate: float) -> AsyncIterator[None]:
    """Inside, a mock clock goes `rate` times as fast as ours at the most, and never before everybody has done
    what was due, threads too: on a busy machine a test takes longer, and nothing in it comes late."""
    threads = trio.to_thread.current_default_thread_limiter()

    async def go_on() -> None:
        before_s = time.monotonic()
        while True:
            await trio.testing.wait_all_tasks_blocked(0.001)
            if not threads.borrowed_tokens:
                now_s = time.monotonic()
                clock.jump(min(STEP_S_MAX, (now_s - before_s) * rate))
                before_s = now_s

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_on)
        yield
        nursery.cancel_scope.cancel()


async def until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait for a condition; fails after the deadline."""
    with trio.fail_after(timeout_s):
        while not holds():
            await trio.sleep(0.005)


def transfer(peer: Peer, amount: int, salt: int, sender: Key = RICH, to: Key = POOR) -> bytes:
    """A signed transfer that expires 500 blocks from the peer's height."""
    body = t.Transfer(to.public, amount)
    tx = t.Tx(CHAIN_ID, sender.public, peer.height + 500, salt.to_bytes(8, "big"), body)
    return t.sign_tx(sender, tx)
