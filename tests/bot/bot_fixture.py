"""A network of whole peers with a market, published examples and a 3bot, in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import trio

from bot.agent import Agent
from ledger.contracts.types import Contract
from ledger.documents import sign_approval, sign_contract, sign_receipt
from ledger.keys import Key
from ledger.limits import MIB
from ledger.manifests.expansion import decode_manifest, workload_of
from ledger.manifests.types import Manifest
from ledger.outcome import Receipt
from ledger.predicates import ApprovalPredicate, ReceiptPredicate
from ledger.records import Deployment, Slot, key_deployment, key_manifest, key_slot
from ledger.state import read
from ledger.transactions import (
    Body,
    Claim,
    Decide,
    PostOffer,
    Price,
    PublishContract,
    RegisterFarm,
    Report,
    Tx,
    sign_tx,
)
from node.api.bot_seam import Deployed, DeployRequest, PlanRequest
from node.client.build import build
from node.peer import Peer
from tests.ledger.world import register_node, result_file, stated
from tests.node.network_fixture import CHAIN_ID, RICH, World, key, until, world

VALIDATORS = ["validator0", "validator1", "validator2", "validator3"]
CONSUMER = RICH
AUTHOR, EXPERT, LEGAL, BUDGET = (key(name) for name in ("author", "it-expert", "legal", "budget"))
ROLES = {
    "it-expert": (EXPERT.public.hex(),),
    "legal": (LEGAL.public.hex(),),
    "budget": (BUDGET.public.hex(),),
}
NODES = {f"n{i}": key(f"3node{i}") for i in range(4)}  # n0 and n1 on alpha, n2 and n3 on beta, all in BE
FARMS = {"n0": "alpha", "n1": "alpha", "n2": "beta", "n3": "beta"}


@lru_cache(maxsize=4)
def example(folder: Path, out: Path) -> Contract:
    """An example of the checkout, built."""
    return build(folder, out).contract


@dataclass
class Market:
    """The network, and who trades on it. All goes through one validator's peer."""

    net: World
    salt: int = 0
    scopes: dict[str, trio.CancelScope] = field(default_factory=dict)

    @property
    def peer(self) -> Peer:
        return self.net.peers["validator0"]

    async def send(self, signer: Key, body: Body) -> Receipt:
        """A final transaction's receipt."""
        self.salt += 1
        tx = Tx(CHAIN_ID, signer.public, self.peer.height + 500, self.salt.to_bytes(8, "big"), body)
        return (await self.peer.wait_final(await self.peer.submit(sign_tx(signer, tx)), 15)).receipt

    async def ok(self, signer: Key, body: Body) -> Receipt:
        receipt = await self.send(signer, body)
        assert receipt.ok, (receipt.rule, receipt.detail)
        return receipt

    async def open(self, *contracts: Contract) -> None:
        """Farms, nodes with offers, contracts."""
        for farm in ("alpha", "beta"):
            await self.ok(key(f"farmer {farm}"), RegisterFarm(farm, "BE"))
        for name, node in NODES.items():
            farmer = key(f"farmer {FARMS[name]}")
            await self.ok(farmer, register_node(node, farmer, FARMS[name], "BE", CHAIN_ID))
            await self.offer(name)
        for contract in contracts:
            await self.ok(AUTHOR, PublishContract(sign_contract(AUTHOR, contract)))

    async def offer(self, name: str, **changes: Any) -> None:
        """A node's offer; each asks a little more than the one before."""
        fields: dict[str, Any] = {
            "cpu_millis": 2_000,
            "memory_bytes": 2_048 * MIB,
            "ssd_bytes": 4_096 * MIB,
            "hdd_bytes": 8_192 * MIB,
            "price": Price(40_000 + int(name[1:]), 10_000, 1_000, 250),
            "runtimes": ("sandbox",),
            "attributes": {},
            "address": "/memory/0",
            "valid_until_ms": self.peer.time_ms + 86_400_000,
        }
        await self.ok(NODES[name], PostOffer(**(fields | changes)))

    async def bot(self, name: str, account: Key = CONSUMER) -> Agent:
        """A peer that is an observer, and a 3bot on it."""
        await self.net.start(name)
        return await self.agent(name, account)

    async def agent(self, name: str, account: Key = CONSUMER) -> Agent:
        """A 3bot on a peer that runs."""
        peer = self.net.peers[name]
        await until(lambda: len(peer.handlers.members) == len(VALIDATORS))
        tip = self.peer.height  # what was told to be final must be there before it is asked for
        await until(lambda: peer.height >= tip)
        agent = Agent(peer, account, Path("no-secrets-here"))
        scope = self.scopes[name] = trio.CancelScope()

        async def run(*, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
            with scope:
                await agent.run(task_status=task_status)

        with trio.fail_after(60):
            await self.net.nursery.start(run)
        return agent

    async def kill(self, name: str) -> None:
        """The bot's process dies, its disk with it. Returns when it is gone."""
        peer_id = self.net.peers[name].network.peer_id
        self.scopes.pop(name).cancel()
        self.net.stop(name)
        self.net.stores.pop(name)
        await until(lambda: self.net.hub.find(peer_id) is None)

    # What is on the ledger.

    def deployment(self, id_: str) -> Deployment:
        record = read(self.peer.state, Deployment, key_deployment(bytes.fromhex(id_)))
        assert record is not None
        return record

    def slot(self, id_: str, name: str) -> Slot:
        record = read(self.peer.state, Slot, key_slot(bytes.fromhex(id_), name))
        assert record is not None
        return record

    def manifest(self, id_: str) -> Manifest:
        data = self.peer.state.get(key_manifest(self.deployment(id_).manifest))
        assert data is not None
        return decode_manifest(data)

    # What people and nodes do.

    async def decide(self, id_: str, signer: Key, role: str, decision: str = "granted") -> None:
        """A signed decision; "signoff" grants a sign-off, the others are about the deploy act."""
        act, decision = ("signoff", "granted") if decision == "signoff" else ("deploy", decision)
        fields: dict[str, Any] = {"act": act, "role": role, "decision": decision}
        predicate = ApprovalPredicate(chain_id=CHAIN_ID, deployment=id_, **fields)
        await self.ok(signer, Decide(sign_approval(signer, predicate, self.deployment(id_).manifest)))

    async def approve(self, id_: str) -> None:
        await self.decide(id_, BUDGET, "budget")
        await self.decide(id_, EXPERT, "it-expert")

    def term_manifest(self, id_: str, name: str) -> Manifest:
        """Of the slot's term: an update may have brought another one for it."""
        data = self.peer.state.get(key_manifest(self.slot(id_, name).manifest))
        assert data is not None
        return decode_manifest(data)

    async def claim(self, id_: str, slot: str, node: Key) -> None:
        """Claim, and wait for the selection."""
        term = self.slot(id_, slot).term + 1
        await self.ok(node, Claim(bytes.fromhex(id_), slot, term))
        await until(lambda: self.slot(id_, slot).term == term)
        assert self.slot(id_, slot).holder == node.public

    async def report(self, id_: str, slot: str, node: Key, *statuses: str) -> None:
        """Receipts in this order."""
        for status in statuses:
            manifest, digest = self.term_manifest(id_, slot), self.slot(id_, slot).manifest
            ports = {"http": "127.0.0.1:8080"} if status == "running" else {}
            workload = workload_of(manifest, slot)
            results = {path: result_file() for path in workload.results}
            fields: dict[str, Any] = {
                "chain_id": CHAIN_ID,
                "deployment": id_,
                "contract": manifest.contract,
                "slot": slot,
                "term": self.slot(id_, slot).term,
                "node": node.public.hex(),
                "status": status,
                "time_ms": self.peer.time_ms,
                "endpoints": ports if slot.startswith("web") else {},
                "results": results if status == "succeeded" else {},
                **stated(workload, status),
            }
            document = sign_receipt(node, ReceiptPredicate(**fields), digest)
            await self.ok(node, Report(document))

    async def run(self, id_: str, slot: str, node: Key) -> None:
        """Claim and report up to running."""
        await self.claim(id_, slot, node)
        await self.report(id_, slot, node, "fetching", "verified", "running")


async def order(agent: Agent, contract: str = "site", **parameters: str | int | bool) -> Deployed:
    """Plan, and order what was planned."""
    asked = PlanRequest(contract=contract, parameters=parameters, roles=ROLES)
    plan = await agent.plan(asked)
    assert plan.missing == []
    wanted = DeployRequest(contract=contract, parameters=parameters, roles=ROLES, manifest=plan.manifest)
    return await agent.deploy(wanted)


def doing(agent: Agent, id_: str) -> str:
    """What the bot says that a deployment does; "" when it does not watch it."""
    watch = agent.memory.watch(bytes.fromhex(id_))
    return "" if watch is None else watch.doing


async def says(agent: Agent, id_: str, text: str) -> None:
    """Wait until the bot's line about a deployment holds this."""
    await until(lambda: text in doing(agent, id_))


async def saved(agent: Agent, holds: Callable[[Any], bool]) -> None:
    """Wait until the record on the notary, opened, holds this."""
    await until(lambda: holds(agent.keeper.vault.load(agent.peer.state)[1]))


@asynccontextmanager
async def market(*contracts: Contract) -> AsyncIterator[Market]:
    """Four validators, farms, offers and contracts."""
    async with world(VALIDATORS) as net:
        await until(lambda: all(len(p.handlers.members) >= 3 for p in net.peers.values()))
        made = Market(net)
        await made.open(*contracts)
        yield made
