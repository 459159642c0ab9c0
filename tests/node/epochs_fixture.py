"""A network whose validator set changes: peers with validator keys, some of them members, and clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from ledger import transactions as t
from ledger.blocks import Header
from ledger.codec import decode, encode
from ledger.epochs import sign_change
from ledger.proofs.certificate import Validator, ValidatorSet
from ledger.proofs.light import Trust
from node.clock import wall_ms
from node.peer import Peer
from node.seam import NotFinal, Overloaded
from p2p.memory import MemoryHub
from tests.node.network_fixture import CHAIN_ID, RICH, World, genesis, key, transfer, until


def name(number: int) -> str:
    """Of a validator's peer."""
    return f"validator{number}"


def set_of(epoch: int, numbers: Iterable[int], weights: Mapping[int, int] | None = None) -> ValidatorSet:
    """The set of an epoch by the validators' numbers."""
    members = (Validator(key(name(i)).public, (weights or {}).get(i, 1), name(i)) for i in numbers)
    return ValidatorSet(epoch, tuple(members))


def change_tx(
    now: ValidatorSet, next_: ValidatorSet, signers: Sequence[int], height: int, time_ms: int | None = None
) -> bytes:
    """A transaction that changes the set, signed by these members of the current one, carried in by RICH.
    `time_ms`: of a chain made by hand, whose blocks have times of their own."""
    data, until_ms = encode(next_), (wall_ms() if time_ms is None else time_ms) + 3_600_000
    keys = ((i, key(now.members[i].moniker)) for i in signers)
    signatures = tuple((i, sign_change(key_, CHAIN_ID, data, until_ms)) for i, key_ in keys)
    body = t.ChangeValidators(data, until_ms, signatures)
    salt = b"epoch%03d" % next_.epoch
    return t.sign_tx(RICH, t.Tx(CHAIN_ID, RICH.public, height + 500, salt, body))


@asynccontextmanager
async def network(members: int, others: Iterable[str], seed: int = 1) -> AsyncIterator[World]:
    """Validators 0 to `members` - 1, and peers that are no members yet or never. All are linked."""
    async with trio.open_nursery() as nursery:
        made = World(MemoryHub(seed), genesis(members), nursery)
        for peer in (*map(name, range(members)), *others):
            await made.start(peer)
        await until(lambda: all(len(p.handlers.hellos) == len(made.peers) - 1 for p in made.peers.values()))
        yield made
        nursery.cancel_scope.cancel()


async def change(net: World, next_: ValidatorSet, via: str, timeout_s: float = 15.0) -> int:
    """Change the set by a transaction that a quorum signs; returns the boundary's height when all peers that
    run are in the next epoch."""
    peer = net.peers[via]
    now = peer.validators
    signers = range(2 * len(now.members) // 3 + 1)
    id_ = await peer.submit(change_tx(now, next_, signers, peer.height))
    outcome = await peer.wait_final(id_, timeout_s)
    assert outcome.receipt.ok, outcome.receipt
    await until(lambda: all(p.validators == next_ for p in net.peers.values()), timeout_s)
    return boundary_height(peer, now.epoch)


def boundary_height(peer: Peer, epoch: int) -> int:
    """Of the block that ended an epoch."""
    proof = peer.store.epochs.proof(epoch)
    assert proof is not None
    return decode(Header, proof.finality.header).height


@dataclass
class Writer:
    """A client of one peer that submits one transfer after the other, and remembers what became of each."""

    peer: Peer
    salt: int
    submitted: list[bytes] = field(default_factory=list)
    final: dict[bytes, int] = field(default_factory=dict)
    longest_s: float = 0.0
    is_done: bool = False

    async def run(self) -> None:
        """Until `is_done`; the last one becomes final too."""
        while not self.is_done:
            self.salt += 1
            raw = transfer(self.peer, 1, self.salt)
            try:
                id_ = await self.peer.submit(raw)
            except Overloaded:
                await trio.sleep(0.01)
                continue
            self.submitted.append(id_)
            before = trio.current_time()
            while True:
                try:
                    outcome = await self.peer.wait_final(id_, 60)
                    break
                except NotFinal:
                    raise AssertionError(
                        f"lost: {id_.hex()}, submitted to {self.peer.identity.moniker}"
                    ) from None
            self.longest_s = max(self.longest_s, trio.current_time() - before)
            assert outcome.receipt.ok, outcome.receipt
            self.final[id_] = outcome.height


def walk(net: World, peer: Peer) -> Trust:
    """The trust of somebody who holds the genesis file and asks this peer for the ended epochs."""
    trust = Trust.of(net.genesis)
    for proof in peer.store.epochs.proofs(0, 1_000):
        trust.advance(proof)
    return trust


def same_chains(net: World, height: int) -> None:
    """All peers hold the same blocks and states up to a height."""
    for at in range(1, height + 1):
        assert len({p.store.header(at) for p in net.peers.values()}) == 1, f"height {at}"
    assert len({p.store.root(height) for p in net.peers.values()}) == 1
