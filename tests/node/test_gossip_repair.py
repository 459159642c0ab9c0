"""Gossip may lose: contracts and approvals arrive everywhere in the end, by the chain and range requests.

Whole peers in one process; a network that drops a fifth of what is sent, a peer that dies without a word and
comes back with its key while its old links linger, and bursts above every queue. How long repair takes is
printed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from ledger import transactions as t
from ledger.documents import ApprovalPredicate, sign_approval, sign_contract
from ledger.keys import Key
from ledger.manifests.expansion import decode_manifest, expand
from ledger.manifests.types import manifest_digest
from ledger.records import key_approval, key_contract_name
from node import outbox as outbox_module
from node.peer import Peer
from node.seam import Overloaded
from p2p import memory
from tests.ledger.contract_samples import BUDGET, LEGAL, ROLES, contract
from tests.node.network_fixture import CHAIN_ID, RICH, World, until, world

VALIDATORS = [f"validator{number}" for number in range(4)]
REPAIR_S = 60.0


class Author:
    """Signs contracts, orders and approvals, and knows where each must be found."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []  # of the state, of what was accepted
        self._salt = 0

    def signed(self, peer: Peer, body: t.Body, key: Key = RICH) -> bytes:
        self._salt += 1
        salt = self._salt.to_bytes(8, "big")
        return t.sign_tx(key, t.Tx(CHAIN_ID, key.public, peer.height + 500, salt, body))

    async def publish(self, peer: Peer, count: int) -> None:
        """Contracts, as fast as the peer takes them."""
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                name = f"site-{self._salt}"
                raw = self.signed(peer, t.PublishContract(sign_contract(RICH, contract(name=name))))
                self.keys.append(key_contract_name(name, "1.0.0"))
                nursery.start_soon(submit, peer, raw)

    async def approved(self, peer: Peer, count: int) -> None:
        """Contracts that are ordered and approved, each by two stakeholders."""
        for _ in range(count):
            source = contract(name=f"ordered-{self._salt}")
            published = await final(peer, self.signed(peer, t.PublishContract(sign_contract(RICH, source))))
            contract_id = bytes.fromhex(published)
            data = expand(source, contract_id, RICH.public, RICH.public, {}, ROLES)
            digest = manifest_digest(data)
            budget = decode_manifest(data).terms.budget
            order = t.OrderDeployment(contract_id, {}, ROLES, digest, budget, RICH.public)
            deployment = bytes.fromhex(await final(peer, self.signed(peer, order)))
            for key, role in ((BUDGET, "budget"), (LEGAL, "legal")):
                said = ApprovalPredicate(
                    chain_id=CHAIN_ID,
                    deployment=deployment.hex(),
                    act="deploy",
                    role=role,
                    decision="granted",
                )
                await submit(peer, self.signed(peer, t.Decide(sign_approval(key, said, digest))))
                self.keys.append(key_approval(deployment, "deploy", key.public))

    def are_at(self, peer: Peer) -> bool:
        return all(peer.state.get(key) is not None for key in self.keys)


async def submit(peer: Peer, raw: bytes) -> bytes:
    """As a patient client does."""
    while True:
        try:
            return await peer.submit(raw)
        except Overloaded as refusal:
            await trio.sleep(refusal.retry_s)


async def final(peer: Peer, raw: bytes) -> str:
    """The subject of the first event of a transaction, once it is final."""
    outcome = await peer.wait_final(await submit(peer, raw), 60)
    assert outcome.receipt.ok, outcome.receipt
    return outcome.receipt.events[0].subject


async def everywhere(w: World, author: Author, what: str) -> float:
    """Waits until all peers hold all; how long it took from now, in seconds."""
    began = trio.current_time()
    await until(lambda: all(author.are_at(peer) for peer in w.peers.values()), REPAIR_S)
    took = trio.current_time() - began
    print(f"{what}: {len(author.keys)} documents at {len(w.peers)} peers {took:.2f} s later")
    return took


async def kill_and_return(w: World, name: str, meanwhile: Callable[[], Awaitable[None]]) -> None:
    """Power off: nothing is told to anybody, its links linger at the others. `meanwhile` is done; then the
    same key is back before they noticed."""
    peer_id = w.peers[name].network.peer_id
    others = [other for key, other in w.peers.items() if key != name]
    w.hub.partition([peer_id])
    w.stop(name)
    await meanwhile()
    lingers = [any(n.peer_id == peer_id for n in other.network.neighbours()) for other in others]
    assert any(lingers), "an old link lingers"
    w.hub.heal()
    await w.start(name)


async def test_a_peer_that_is_killed_and_returns_while_its_old_links_linger_gets_all() -> None:
    author = Author()
    async with world([*VALIDATORS, "observer"]) as w:
        await author.publish(w.peers["observer"], 5)
        await author.approved(w.peers["validator0"], 1)
        await everywhere(w, author, "before")

        async def more() -> None:
            await author.publish(w.peers["validator1"], 10)
            await author.approved(w.peers["validator2"], 1)

        await kill_and_return(w, "observer", more)
        await everywhere(w, author, "an observer is back")
        await kill_and_return(w, "validator3", more)
        await everywhere(w, author, "a validator is back")


async def test_a_network_that_loses_a_fifth_of_all_brings_all() -> None:
    author = Author()
    async with world([*VALIDATORS, "observer", "other"], loss=0.2) as w:
        await author.publish(w.peers["observer"], 20)
        await author.approved(w.peers["other"], 1)
        await everywhere(w, author, "a fifth is lost")


async def test_bursts_above_the_queues_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gossip sheds most of the burst, and says so; the chain brings it all."""
    monkeypatch.setattr(memory, "GOSSIP_QUEUE_MAX", 8)
    monkeypatch.setattr(outbox_module, "OUTBOX_RESEND_S", 0.3)
    author = Author()
    async with world([*VALIDATORS, "observer", "other"]) as w:
        async with trio.open_nursery() as nursery:
            for name in ("observer", "validator0"):
                nursery.start_soon(author.publish, w.peers[name], 40)
        await everywhere(w, author, "a burst")
        assert sum(peer.network.stats().get("shed.gossip", 0) for peer in w.peers.values()) > 20
        assert not any(peer.outbox.entries for peer in w.peers.values())


async def test_what_was_accepted_is_final_though_its_validator_dies() -> None:
    """An observer keeps what it accepted, and tells another validator when the first has swallowed it."""
    author = Author()
    async with world([*VALIDATORS, "observer"]) as w:
        await author.publish(w.peers["observer"], 3)
        await everywhere(w, author, "before")
        gone = w.peers["validator0"].network.peer_id
        w.hub.partition([gone])  # what it took reaches nobody
        await author.publish(w.peers["observer"], 20)
        w.stop("validator0")
        w.hub.heal()
        await everywhere(w, author, "a validator swallowed some")
