"""Networks with executors: a driver in memory, people, farms, contracts with real signatures."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from msgspec import UNSET

from ledger import transactions as t
from ledger.codec import decode
from ledger.contracts.types import Contract, WorkloadTemplate
from ledger.documents import open_document, sign_approval, sign_contract
from ledger.genesis import ConsensusParameters, Genesis, GenesisValidator
from ledger.keys import Key
from ledger.limits import CHUNK_BYTES
from ledger.manifests.expansion import decode_manifest, expand
from ledger.manifests.types import Artifact, Placement, manifest_digest
from ledger.predicates import Act, ApprovalPredicate, ReceiptPredicate
from ledger.records import Deployment, ReceiptRecord, Slot, key_deployment, key_slot
from ledger.state import read
from ledger.trade_records import UpdateRecord, key_update
from node.config import Node as NodeSettings
from node.executor.drivers.base import (
    Attestation,
    Drift,
    Driver,
    Exit,
    Feature,
    Fingerprint,
    Isolation,
    Liveness,
    ResultFile,
    TaskSpec,
    Usage,
)
from node.executor.drivers.still import copy_sparse
from node.executor.errors import ExecutorError, ResultRefused, VerificationFailed
from node.executor.executor import Executor
from node.executor.volumes.volumes import VolumeShelf
from node.files.artifacts import ArtifactStore
from node.files.chunks import chunks_root
from node.files.exchange import Exchange, Wanted
from node.peer import Peer
from node.sealed.sealed_results import open_result
from p2p.memory import MemoryHub
from tests.ledger import world as people
from tests.node.network_fixture import CHAIN_ID, World, key, until

VALIDATORS = ("validator0", "validator1", "validator2", "validator3")
FARM_OF = {"node1": 0, "node2": 1, "node3": 1}  # which of people.FARMS
PROGRAM = random.Random(7).randbytes(3 * CHUNK_BYTES + 11)


def artifact_of(data: bytes, path: str = "/bin/program", **changes: Any) -> Artifact:
    """The artifact that a contract names for these bytes."""
    digests = [
        hashlib.sha256(data[at : at + CHUNK_BYTES]).digest() for at in range(0, len(data), CHUNK_BYTES)
    ]
    fields: dict[str, Any] = {
        "path": path,
        "kind": "file",
        "sha256": hashlib.sha256(data).hexdigest(),
        "size_bytes": len(data),
        "chunks": chunks_root(digests),
        "executable": True,
    }
    return Artifact(**(fields | changes))


def service(**changes: Any) -> WorkloadTemplate:
    """Two replicas on different farms of the program."""
    fields: dict[str, Any] = {
        "artifacts": (artifact_of(PROGRAM),),
        "command": ("/bin/program", "serve"),
        "health": None,
        "recheck_s": 1,
        "placement": Placement(distinct="farm"),
    }
    return people.service(**(fields | changes))


def job(**changes: Any) -> WorkloadTemplate:
    """One run of the program, with one result."""
    fields = {"name": "mine", "kind": "job", "replicas": 1, "ports": (), "results": ("/result/words.tsv",)}
    return service(**(fields | {"placement": Placement(distinct="none")} | changes))


@dataclass(eq=False)
class FakeTask:
    """A running task of the fake driver. Tests end it, or let it drift."""

    task_id: str
    spec: TaskSpec
    ports: Mapping[str, tuple[str, int]]
    kill_at_ms: int | None = None
    ended: trio.Event = field(default_factory=trio.Event)
    exit: Exit | None = None
    drift: str = ""
    started_s: float = field(default_factory=trio.current_time)
    stopped_s: float | None = None
    results: dict[str, bytes] = field(default_factory=dict)
    used: Usage = field(default_factory=lambda: Usage(100, 1 << 20))

    def end(self, code: int = 0) -> None:
        if self.exit is None:
            self.exit = Exit(code, None, False, f"ended with code {code}")
        self.ended.set()


@dataclass
class FakePrepared:
    spec: TaskSpec

    def close(self) -> None: ...


class FakeDriver:
    """Runs nothing, but keeps the seam's rules: bytes are checked, a task id runs once at a time."""

    name = "sandbox"
    isolation = Isolation.SANDBOX

    def __init__(self) -> None:
        self.tasks: list[FakeTask] = []
        self.recovered = 0
        self.leftovers: list[str] = []
        self.enforces: tuple[str, ...] = ()  # beside what all tests see
        self.calls: list[str] = []
        self.checks: int | None = 0  # how the next health checks end

    @property
    def running(self) -> list[FakeTask]:
        return [task for task in self.tasks if task.stopped_s is None]

    def fingerprint(self) -> Fingerprint:
        features = (Feature("namespaces", True, "all"), Feature("landlock", False, "not tried"))
        features += tuple(Feature(name, True, "fake") for name in self.enforces)
        return Fingerprint("sandbox", Isolation.SANDBOX, True, "", features)

    async def prepare(self, spec: TaskSpec) -> FakePrepared:
        await trio.lowlevel.checkpoint()
        for file in (*spec.files, *spec.trees):
            if hashlib.sha256(file.source.read_bytes()).hexdigest() != file.digest:
                raise VerificationFailed(file.path, "other bytes")
        return FakePrepared(spec)

    async def start(self, prepared: Any, kill_at_ms: int | None = None) -> FakeTask:
        await trio.lowlevel.checkpoint()
        self.calls.append("start")
        spec: TaskSpec = prepared.spec
        assert spec.task_id not in {task.task_id for task in self.running}
        ports = {port.name: (port.listen_host, 40_000 + len(self.tasks)) for port in spec.ports}
        task = FakeTask(spec.task_id, spec, ports, kill_at_ms)
        self.tasks.append(task)
        return task

    def keep(self, handle: Any, kill_at_ms: int) -> None:
        handle.kill_at_ms = kill_at_ms

    async def wait(self, handle: Any) -> Exit:
        await handle.ended.wait()
        assert handle.exit is not None
        return handle.exit

    async def probe(self, handle: Any) -> Liveness:
        await trio.lowlevel.checkpoint()
        return Liveness(handle.exit is None, 1, True, "fake")

    def logs(self, handle: Any, last_bytes: int) -> bytes:
        return b"it speaks"[-last_bytes:]

    async def usage(self, handle: Any) -> Usage:
        await trio.lowlevel.checkpoint()
        return handle.used  # type: ignore[no-any-return]

    async def collect(self, handle: Any) -> tuple[ResultFile, ...]:
        await trio.lowlevel.checkpoint()
        found = []
        for path in handle.spec.results:
            if path not in handle.results:
                raise ResultRefused(path, "missing")
            data = handle.results[path]
            found.append(ResultFile(path, data, len(data), hashlib.sha256(data).hexdigest()))
        return tuple(found)

    async def copy_volumes(self, handle: Any, into: Mapping[str, Path]) -> float:
        await trio.lowlevel.checkpoint()
        if handle.exit is not None:
            raise ExecutorError("not running")
        self.calls.append("copy")
        for volume in handle.spec.volumes:
            if volume.path in into:
                copy_sparse(volume.source, into[volume.path], math.inf)
        return 0.0

    async def check(self, handle: Any, command: tuple[str, ...], timeout_s: float) -> int | None:
        await trio.lowlevel.checkpoint()
        self.calls.append("check " + " ".join(command))
        return self.checks

    async def stop(self, handle: Any, grace_s: float) -> Exit:
        await trio.lowlevel.checkpoint()
        if handle.stopped_s is None:
            handle.stopped_s = trio.current_time()
            self.calls.append("stop")
        handle.end(143)
        assert handle.exit is not None
        return handle.exit

    async def recover(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        self.calls.append("recover")
        killed, self.leftovers = self.leftovers, []
        return killed

    async def attest(self, handle: Any) -> Attestation:
        await trio.lowlevel.checkpoint()
        drifts = (Drift("/bin/program", "a", handle.drift),) if handle.drift else ()
        return Attestation(not drifts, handle.exit is not None, drifts, 1, 1, 1, 1, 0.1)

    async def attest_ended(self, handle: Any) -> Attestation:
        assert handle.exit is not None and handle.stopped_s is None
        return await self.attest(handle)


def node_settings(**changes: Any) -> NodeSettings:
    """What a node of the fleet offers."""
    fields = {"farm": "x", "country": "BE", "cpu": "4", "memory": "4GiB", "ssd": "10GiB", "hdd": "20GiB"}
    return NodeSettings(**(fields | changes))


@dataclass
class Fleet:
    """Peers, and the executors among them."""

    net: World
    folder: Path
    drivers: dict[str, FakeDriver] = field(default_factory=dict)
    executors: dict[str, Executor] = field(default_factory=dict)
    exchanges: dict[str, Exchange] = field(default_factory=dict)
    scopes: dict[str, trio.CancelScope] = field(default_factory=dict)
    gone: dict[str, trio.Event] = field(default_factory=dict)
    salt: int = 0

    @property
    def first(self) -> Peer:
        """A validator, whose word the tests take."""
        return self.net.peers["validator0"]

    def share(self, name: str, *data: bytes) -> Exchange:
        """Let a peer serve these artifacts."""
        peer = self.net.peers[name]
        exchange = Exchange(peer.network, ArtifactStore(self.folder / name))
        for each in data:
            exchange.store.add_bytes(each)
        peer.handlers.methods.update(exchange.methods())
        self.exchanges[name] = exchange
        return exchange

    def execute(
        self,
        name: str,
        driver: Driver | None = None,
        enforces: tuple[str, ...] = (),
        volumes: VolumeShelf | None = None,
        **settings: Any,
    ) -> Executor:
        """Start a node's executor; again after `crash`."""
        peer, exchange = self.net.peers[name], self.share(name)
        peer.home = self.folder / f"home-{name}"
        if driver is None:
            driver = self.drivers.setdefault(name, FakeDriver())
            self.drivers[name].enforces = enforces
        made = Executor(
            peer,
            node_settings(**settings),
            driver,
            exchange,
            boot_clock_ms=lambda: int(trio.current_time() * 1000),
            volumes=volumes,
        )
        peer.handlers.methods.update(made.methods())
        self.executors[name] = made
        scope = self.scopes[name] = trio.CancelScope()

        gone = self.gone[name] = trio.Event()

        async def run() -> None:
            with scope:
                await made.run()
            gone.set()

        self.net.nursery.start_soon(run)
        return made

    async def crash(self, name: str) -> None:
        """The node is gone: its network first, so that nobody hears a word, then all else."""
        peer_id = self.net.peers[name].network.peer_id
        self.net.stop(name)
        await until(lambda: self.net.hub.find(peer_id) is None)
        self.scopes.pop(name).cancel()
        self.executors.pop(name)
        await self.gone[name].wait()

    async def close(self) -> None:
        """End the executors, those that hold slots first, while there is a network that hears it and nodes
        that keep copies. Without, each slot waits for GOODBYE_S and each volume for COPY_LAST_S, until it
        gives up."""
        for name in sorted(self.scopes, key=lambda name: not self.executors[name].status().slots):
            self.scopes[name].cancel()
            await self.gone[name].wait()

    # ------------------------------------------------------------------ the ledger

    async def do(self, sender: Key, body: t.Body) -> bytes:
        """A transaction that must work; its id."""
        self.salt += 1
        peer = self.first
        tx = t.Tx(CHAIN_ID, sender.public, peer.height + 1_000, self.salt.to_bytes(8, "big"), body)
        id_ = await peer.submit(t.sign_tx(sender, tx))
        outcome = await peer.wait_final(id_, 30)
        assert outcome.receipt.ok, (outcome.receipt.rule, outcome.receipt.detail)
        return id_

    async def register(self, *names: str) -> None:
        """Two farms, and these nodes on them."""
        for farmer, (farm, country) in zip(people.FARMERS, people.FARMS, strict=True):
            await self.do(farmer, t.RegisterFarm(farm, country))
        for name in names:
            farm, country = people.FARMS[FARM_OF[name]]
            node, farmer = self.net.peers[name].node_key, people.FARMERS[FARM_OF[name]]
            await self.do(farmer, people.register_node(node, farmer, farm, country, CHAIN_ID))

    async def order(self, source: Contract) -> bytes:
        """Publish and order; the deployment's id."""
        published = await self.do(people.AUTHOR, t.PublishContract(sign_contract(people.AUTHOR, source)))
        stored = self.first.store.tx(published)
        assert stored is not None
        contract = bytes.fromhex(stored.receipt.events[0].subject)
        data = expand(source, contract, people.AUTHOR.public, people.CONSUMER.public, {}, {})
        budget = decode_manifest(data).terms.budget
        body = t.OrderDeployment(contract, {}, {}, manifest_digest(data), budget, people.BOT.public)
        return await self.do(people.CONSUMER, body)

    async def update(self, deployment: bytes, source: Contract) -> None:
        """Publish another version, ask to move to it, and approve that."""
        published = await self.do(people.AUTHOR, t.PublishContract(sign_contract(people.AUTHOR, source)))
        stored = self.first.store.tx(published)
        assert stored is not None
        contract = bytes.fromhex(stored.receipt.events[0].subject)
        data = expand(source, contract, people.AUTHOR.public, people.CONSUMER.public, {}, {})
        former = self.deployment(deployment).manifest
        body = t.UpdateDeployment(deployment, former, contract, {}, {}, manifest_digest(data), 0)
        await self.do(people.CONSUMER, body)
        for who, role in ((people.BUDGET, "budget"), (people.EXPERT, "it-expert")):
            await self.decide(deployment, who, role, act="update")

    def last_update(self, deployment: bytes) -> UpdateRecord:
        number = self.deployment(deployment).updates
        found = read(self.first.state, UpdateRecord, key_update(deployment, number))
        assert found is not None
        return found

    async def decide(
        self, deployment: bytes, who: Key, role: str, decision: str = "granted", act: Act = "deploy"
    ) -> None:
        """A stakeholder's signed decision."""
        self.salt += 1
        record = self.deployment(deployment)
        updates = act == "update"
        predicate = ApprovalPredicate(
            chain_id=CHAIN_ID,
            deployment=deployment.hex(),
            act=act,
            role=role,
            decision=decision,  # type: ignore[arg-type]
            comment=str(self.salt),
            update=record.updates if updates else record.generation,
            results=record.results.hex() if act == "release" else UNSET,
        )
        subject = record.updating if updates else record.manifest
        await self.do(who, t.Decide(sign_approval(who, predicate, subject)))

    async def approve(self, deployment: bytes) -> None:
        """What the usual policy asks for."""
        await self.decide(deployment, people.BUDGET, "budget")
        await self.decide(deployment, people.EXPERT, "it-expert")

    async def approved(self, *workloads: WorkloadTemplate, **changes: Any) -> bytes:
        """Published, ordered and approved; the deployment's id."""
        deployment = await self.order(people.contract(*workloads, budget=50_000_000, **changes))
        await self.approve(deployment)
        return deployment

    def deployment(self, deployment: bytes) -> Deployment:
        found = read(self.first.state, Deployment, key_deployment(deployment))
        assert found is not None
        return found

    def slot(self, deployment: bytes, name: str) -> Slot:
        found = read(self.first.state, Slot, key_slot(deployment, name))
        assert found is not None
        return found

    def slots(self, deployment: bytes) -> list[Slot]:
        return [self.slot(deployment, name) for name in self.deployment(deployment).slots]

    def statuses(self, deployment: bytes) -> list[str]:
        return [slot.status for slot in self.slots(deployment)]

    def name_of(self, node: bytes) -> str:
        """The peer with this node key."""
        return next(name for name in FARM_OF if key(f"node-{name}").public == node)

    async def until_statuses(self, deployment: bytes, *wanted: str, timeout_s: float = 60) -> None:
        try:
            await until(lambda: self.statuses(deployment) == list(wanted), timeout_s)
        except trio.TooSlowError:
            shown = [executor.status() for executor in self.executors.values()]
            raise AssertionError((self.statuses(deployment), self.deployment(deployment), shown)) from None


@asynccontextmanager
async def fleet(
    folder: Path, *nodes: str, timeout_ms: int = 400, idle_ms: int = 200, executors: bool = True
) -> AsyncIterator[Fleet]:
    """Four validators and these nodes, registered, with executors; validator0 serves the program."""
    validators = tuple(
        GenesisValidator(key=key(name).public.hex(), weight=1, moniker=name) for name in VALIDATORS
    )
    genesis = Genesis(
        chain_id=CHAIN_ID,
        time_ms=1_700_000_000_000,
        validators=validators,
        accounts={person.public.hex(): people.RICH for person in people.PEOPLE},
        consensus=ConsensusParameters(view_timeout_ms=timeout_ms, idle_ms=idle_ms),
    )
    async with trio.open_nursery() as nursery:
        made = Fleet(World(MemoryHub(1), genesis, nursery), folder)
        for name in (*VALIDATORS, *nodes):
            await made.net.start(name)
        made.share("validator0", PROGRAM)
        await until(lambda: made.first.height >= 2)
        await made.register(*nodes)
        for name in nodes if executors else ():
            made.execute(name)
        yield made
        await made.close()
        nursery.cancel_scope.cancel()


def receipts_of(net: Fleet, deployment: bytes, slot: str) -> list[ReceiptPredicate]:
    """All that nodes told of a slot, in order."""
    found = net.first.state.scan(b"receipt/" + deployment + b"/" + slot.encode() + b"/")
    records = [decode(ReceiptRecord, data) for _, data in list(found)]
    return [open_document(record.envelope, "receipt").predicate for record in records]


async def read_result(
    net: Fleet, deployment: bytes, slot: str, path: str = "/result/words.tsv", key: Key = people.CONSUMER
) -> bytes:
    """A result of a job that succeeded, fetched from another peer and opened with this key."""
    told = receipts_of(net, deployment, slot)[-1].results[path]
    box = await net.exchanges["validator0"].fetch(Wanted(told.sealed, told.sealed_bytes, None))
    return open_result(key, told, box.read_bytes())
