"""A small world for tests of the state machine: people, farms, nodes, contracts, and blocks in memory.

`World.run` executes a block with the real machine and commits it; helpers build real, signed
transactions and documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import UNSET

from ledger.blocks import Header
from ledger.codec import sha256
from ledger.commitments import commitment_of
from ledger.consent import sign_consent
from ledger.contracts.types import (
    Contract,
    ContractRole,
    Parameter,
    ResourcesTemplate,
    TermsTemplate,
    WorkloadTemplate,
)
from ledger.documents import document_id, sign_approval, sign_contract, sign_receipt
from ledger.epochs import current, pending_hash
from ledger.genesis import Genesis, GenesisValidator, genesis_state
from ledger.keys import Key
from ledger.limits import MIB, RESULT_SEAL_BYTES
from ledger.machine import execute
from ledger.manifests.expansion import decode_manifest, expand, workload_of
from ledger.manifests.types import (
    Artifact,
    Health,
    Manifest,
    Placement,
    Policies,
    Port,
    Restart,
    Rule,
    Workload,
    manifest_digest,
)
from ledger.outcome import BlockResult, Event, Receipt
from ledger.predicates import ApprovalPredicate, ReceiptPredicate, ResultFile
from ledger.records import (
    Account,
    Bill,
    Deployment,
    Node,
    Slot,
    key_account,
    key_deployment,
    key_node,
    key_slot,
)
from ledger.state import MemoryState, read
from ledger.trade_records import UpdateRecord, key_update
from ledger.transactions import (
    Body,
    CheckedTx,
    Claim,
    Decide,
    OrderDeployment,
    PostOffer,
    Price,
    PublishContract,
    RegisterFarm,
    RegisterNode,
    Report,
    Tx,
    UpdateDeployment,
    decode_tx,
    sign_tx,
)
from ledger.transition.deal import funds_under

CHAIN_ID = "machine-test"
START_MS = 1_800_000_000_000
HOUR_MS = 3_600_000
RICH = 10_000_000_000
PRICE = Price(40_000, 10_000, 1_000, 250)


def key_of(name: str) -> Key:
    """A key that the name alone decides."""
    return Key(sha256(name.encode()))


AUTHOR, CONSUMER, BOT, STRANGER = (key_of(name) for name in ("author", "consumer", "bot", "stranger"))
EXPERT, LEGAL, BUDGET = (key_of(name) for name in ("it-expert", "legal", "budget"))
FARMERS = (key_of("farmer a"), key_of("farmer b"))
FARMS = (("farm-a", "BE"), ("farm-b", "NL"))
NODES = tuple(key_of(f"node {n}") for n in range(4))  # 0 and 1 on farm a, 2 and 3 on farm b
PEOPLE = (AUTHOR, CONSUMER, BOT, STRANGER, EXPERT, LEGAL, BUDGET, *FARMERS, *NODES)

DEPLOY = Rule(all=(Rule(role="budget"), Rule(any=(Rule(role="it-expert"), Rule(role="legal")))))
SIGNOFF = Rule(any=(Rule(role="it-expert"), Rule(role="budget")))
POLICIES = Policies(deploy=DEPLOY, signoff=SIGNOFF)

NONCE = sha256(b"a nonce")

SHELL = Artifact(
    path="/bin/sh", kind="file", sha256="11" * 32, size_bytes=4096, chunks="22" * 32, executable=True
)


def register_node(node: Key, farmer: Key, farm: str, country: str, chain_id: str = CHAIN_ID) -> RegisterNode:
    """A node joins a farm, and has signed that it does."""
    consent = sign_consent(node, chain_id, farm, farmer.public, country)
    return RegisterNode(farm, node.public, country, consent)


def service(**changes: Any) -> WorkloadTemplate:
    """A web server with two replicas on different farms."""
    fields: dict[str, Any] = {
        "name": "web",
        "kind": "service",
        "runtime": "sandbox",
        "replicas": 2,
        "command": ("/bin/sh", "-c", "serve"),
        "environment": {},
        "artifacts": (SHELL,),
        "resources": ResourcesTemplate(cpu_millis=500, memory_bytes=64 * MIB, disk_bytes=16 * MIB, pids=16),
        "ports": (Port(name="http", port=8080),),
        "health": Health(port="http", http_path="/"),
        "restart": Restart(attempts=1),
        "placement": Placement(distinct="farm"),
        "results": (),
        "recheck_s": 30,
    }
    return WorkloadTemplate(**(fields | changes))


def job(**changes: Any) -> WorkloadTemplate:
    """A job with one result."""
    fields: dict[str, Any] = {
        "name": "mine",
        "kind": "job",
        "replicas": 1,
        "ports": (),
        "health": None,
        "results": ("/result/words.tsv",),
        "placement": Placement(distinct="none"),
    }
    return service(**(fields | changes))


def result_file(sha256: str = "33" * 32, size_bytes: int = 10) -> ResultFile:
    """A sealed result as a receipt tells of it."""
    return ResultFile(
        sha256=sha256,
        size_bytes=size_bytes,
        sealed="55" * 32,
        sealed_bytes=size_bytes + RESULT_SEAL_BYTES,
    )


def stated(workload: Workload, status: str) -> dict[str, Any]:
    """What a receipt of this status states of its workload ([R9])."""
    return {
        "driver": workload.runtime,
        "level": "sandbox",
        "artifacts": {} if status == "fetching" else {a.path: a.sha256 for a in workload.artifacts},
        "exit_code": 0 if status in ("committed", "succeeded") else None,
    }


def contract(
    *workloads: WorkloadTemplate,
    version: str = "1.0.0",
    name: str = "site",
    policies: Policies = POLICIES,
    duration_s: int = 24 * 3600,
    budget: int = 2_000_000,
    fee: int = 100_000,
    parameters: tuple[Parameter, ...] = (),
    grace_s: int = 0,
    extension_s: int = 0,
    top_up: int = 0,
) -> Contract:
    """A valid contract; without workloads, the web server."""
    return Contract(
        gridpact=1,
        name=name,
        version=version,
        title="A site",
        summary="",
        tags=(),
        parameters=parameters,
        roles=tuple(
            ContractRole(name=role, bind="author", keys=(key.public.hex(),))
            for role, key in (("it-expert", EXPERT), ("legal", LEGAL), ("budget", BUDGET))
        ),
        workloads=workloads or (service(),),
        policies=policies,
        terms=TermsTemplate(
            duration_s=duration_s,
            budget=budget,
            fee=fee,
            grace_s=grace_s,
            extension_s=extension_s,
            top_up=top_up,
        ),
    )


def update_body(record: Deployment, source: Contract, contract_id: bytes) -> UpdateDeployment:
    """The wish to move a deployment to this contract, for exactly what it costs more."""
    data = expand(source, contract_id, AUTHOR.public, record.consumer, {}, {})
    more = max(0, funds_under(decode_manifest(data).terms, record) - record.funded)
    return UpdateDeployment(record.id, record.manifest, contract_id, {}, {}, manifest_digest(data), more)


class World:
    """One chain in memory. `now_ms` is the time of the last block; each block moves it on."""

    def __init__(self) -> None:
        self.genesis = Genesis(
            chain_id=CHAIN_ID,
            time_ms=START_MS,
            validators=(GenesisValidator(key=key_of("validator").public.hex(), weight=1, moniker="v"),),
            accounts={key.public.hex(): RICH for key in PEOPLE},
        )
        self.state = MemoryState(genesis_state(self.genesis))
        self.height = 0
        self.now_ms = START_MS
        self.salt = 0
        self.events: list[Event] = []

    def tx(self, key: Key, body: Body, *, expires: int | None = None) -> CheckedTx:
        """A signed transaction, never the same twice."""
        self.salt += 1
        tx = Tx(
            CHAIN_ID,
            key.public,
            self.height + 1_000 if expires is None else expires,
            self.salt.to_bytes(8, "big"),
            body,
        )
        return decode_tx(sign_tx(key, tx), CHAIN_ID)

    def header(self, step_ms: int) -> Header:
        """The next block's header, as far as execution reads it. Ends the epoch if a change is pending."""
        height = self.height + 1
        parent = sha256(b"block %d" % self.height)
        validator, zero = key_of("validator").public, bytes(32)
        now_ms, members = self.now_ms + step_ms, current(self.state)
        now, then = members.hash, pending_hash(self.state) or members.hash
        place = (CHAIN_ID, members.epoch, height, height, height - 1)
        return Header(*place, parent, now_ms, validator, 0, zero, now, then, ())

    def run(self, *txs: CheckedTx, step_ms: int = 1_000, outage: bool = False) -> BlockResult:
        """Execute one block and commit it. As if blocks had come meanwhile, unless there was an outage."""
        header = self.header(step_ms)
        result = execute(self.state, header, txs, self.now_ms if outage else header.time_ms)
        self.state.update(result.changes)
        self.height, self.now_ms = header.height, header.time_ms
        self.events.extend(result.events)
        return result

    def do(self, key: Key, body: Body, step_ms: int = 1_000) -> Receipt:
        """One transaction in a block of its own."""
        return self.run(self.tx(key, body), step_ms=step_ms).receipts[0]

    def ok(self, key: Key, body: Body, step_ms: int = 1_000) -> Receipt:
        """As `do`, for what must work."""
        receipt = self.do(key, body, step_ms)
        assert receipt.ok, (receipt.rule, receipt.detail)
        return receipt

    def refused(self, key: Key, body: Body) -> str:
        """As `do`, for what must not work; the rule. Checks that nothing but `seen/` changed."""
        before = self.live_entries()
        receipt = self.do(key, body, step_ms=0)
        assert not receipt.ok
        assert receipt.events == ()
        assert self.live_entries() == before
        return receipt.rule

    def live_entries(self) -> dict[bytes, bytes]:
        """The state without the replay guard."""
        return {k: v for k, v in self.state.entries().items() if not k.startswith(b"seen/")}

    def wait(self, ms: int, step_ms: int = 1_000) -> None:
        """Empty blocks until this much time has passed."""
        until_ms = self.now_ms + ms
        while self.now_ms < until_ms:
            self.run(step_ms=min(step_ms, until_ms - self.now_ms))

    # What the state says.

    def balance(self, key: Key) -> int:
        account = read(self.state, Account, key_account(key.public))
        return 0 if account is None else account.balance

    def deployment(self, deployment: bytes) -> Deployment:
        record = read(self.state, Deployment, key_deployment(deployment))
        assert record is not None
        return record

    def slot(self, deployment: bytes, name: str) -> Slot:
        record = read(self.state, Slot, key_slot(deployment, name))
        assert record is not None
        return record

    def node(self, key: Key) -> Node:
        record = read(self.state, Node, key_node(key.public))
        assert record is not None
        return record

    def records(self, prefix: bytes, kind: type[Any]) -> list[Any]:
        return [read(self.state, kind, key) for key, _ in self.state.scan(prefix)]

    def bills(self, deployment: bytes) -> list[Bill]:
        return self.records(b"bill/" + deployment, Bill)

    def kinds(self) -> list[str]:
        """Kinds of all events so far."""
        return [event.kind for event in self.events]

    # What people do.

    def add_nodes(self, nodes: Sequence[Key] = NODES, price: Price = PRICE) -> None:
        """Two farms; offers of 4 cores, 4 GiB, 10 GiB of SSD, 20 of hard disk, valid for a week."""
        for farmer, (farm, country) in zip(FARMERS, FARMS, strict=True):
            self.ok(farmer, RegisterFarm(farm, country))
        for node in nodes:
            which = NODES.index(node) // 2
            self.ok(FARMERS[which], register_node(node, FARMERS[which], *FARMS[which]))
            self.ok(node, self.offer(price=price))

    def offer(self, **changes: Any) -> PostOffer:
        fields: dict[str, Any] = {
            "cpu_millis": 4_000,
            "memory_bytes": 4096 * MIB,
            "ssd_bytes": 10240 * MIB,
            "hdd_bytes": 20480 * MIB,
            "price": PRICE,
            "runtimes": ("sandbox",),
            "attributes": {"userns": "yes"},
            "address": "/ip4/127.0.0.1/tcp/1/p2p/x",
            "valid_until_ms": self.now_ms + 7 * 24 * HOUR_MS,
        }
        return PostOffer(**(fields | changes))

    def publish(self, source: Contract, author: Key = AUTHOR) -> bytes:
        """Publish, and return the contract's id."""
        receipt = self.ok(author, PublishContract(sign_contract(author, source)))
        return bytes.fromhex(receipt.events[0].subject)

    def order(self, source: Contract, contract_id: bytes, bot: Key = BOT) -> bytes:
        """Order, and return the deployment's id."""
        return self.ok(CONSUMER, self.order_body(source, contract_id, bot)).id

    def order_body(
        self, source: Contract, contract_id: bytes, bot: Key = BOT, consumer: Key = CONSUMER
    ) -> OrderDeployment:
        data = expand(source, contract_id, AUTHOR.public, consumer.public, {}, {})
        budget = decode_manifest(data).terms.budget
        return OrderDeployment(contract_id, {}, {}, manifest_digest(data), budget, bot.public)

    def ordered(self, source: Contract) -> bytes:
        """Publish and order in one go; the deployment's id."""
        return self.order(source, self.publish(source))

    def decide(
        self,
        deployment: bytes,
        key: Key,
        role: str,
        decision: str = "granted",
        act: str = "deploy",
        /,
        **changes: Any,
    ) -> Decide:
        """A signed decision; the comment makes each a document of its own."""
        self.salt += 1
        fields: dict[str, Any] = {
            "chain_id": CHAIN_ID,
            "deployment": deployment.hex(),
            "act": act,
            "role": role,
            "decision": decision,
            "comment": str(self.salt),
        }
        record = self.deployment(deployment)
        fields["update"] = record.updates if act == "update" else record.generation
        if act == "release":
            fields["results"] = record.results.hex() or UNSET
        manifest = changes.pop("manifest", None) or (
            record.updating if act == "update" and record.updating else record.manifest
        )
        return Decide(sign_approval(key, ApprovalPredicate(**(fields | changes)), manifest))

    def approve(self, deployment: bytes) -> None:
        """What the usual policy asks for."""
        self.ok(STRANGER, self.decide(deployment, BUDGET, "budget"))
        self.ok(EXPERT, self.decide(deployment, EXPERT, "it-expert"))

    def update_body(self, deployment: bytes, source: Contract, contract_id: bytes) -> UpdateDeployment:
        """The wish to move to this contract, for exactly what it costs more."""
        return update_body(self.deployment(deployment), source, contract_id)

    def updated(self, deployment: bytes, source: Contract) -> UpdateRecord:
        """Publish another version and ask for it; the update's record."""
        self.ok(CONSUMER, self.update_body(deployment, source, self.publish(source)))
        return self.update(deployment)

    def update(self, deployment: bytes) -> UpdateRecord:
        """The last update that was asked for."""
        record = read(self.state, UpdateRecord, key_update(deployment, self.deployment(deployment).updates))
        assert record is not None
        return record

    def approve_update(self, deployment: bytes) -> None:
        """What the usual policy asks for."""
        self.ok(STRANGER, self.decide(deployment, BUDGET, "budget", "granted", "update"))
        self.ok(EXPERT, self.decide(deployment, EXPERT, "it-expert", "granted", "update"))

    def receipt(self, deployment: bytes, name: str, node: Key, status: str, /, **changes: Any) -> Report:
        """A node's signed receipt for its term, with endpoints and results as they are asked for."""
        record, slot = self.deployment(deployment), self.slot(deployment, name)
        fields: dict[str, Any] = {
            "chain_id": CHAIN_ID,
            "deployment": deployment.hex(),
            "contract": self.contract_of(slot.manifest or record.manifest),
            "slot": name,
            "term": slot.term,
            "node": node.public.hex(),
            "status": status,
            "time_ms": self.now_ms,
            **stated(self.workload(slot.manifest or record.manifest, name), status),
        }
        if status == "running" and name.startswith("web"):
            fields["endpoints"] = {"http": "127.0.0.1:8080"}
        if status == "succeeded":
            fields["results"] = {"/result/words.tsv": result_file()}
        signer = changes.pop("signer", node)
        manifest = changes.pop("manifest", slot.manifest or record.manifest)
        return Report(sign_receipt(signer, ReceiptPredicate(**(fields | changes)), manifest))

    def commit(
        self, deployment: bytes, name: str, node: Key, results: dict[str, str], **changes: Any
    ) -> Report:
        """The receipt of a replica that commits to results; `told` makes the one that opens it."""
        term = self.slot(deployment, name).term
        bound = commitment_of(CHAIN_ID, deployment, name, term, node.public, NONCE, results)
        return self.receipt(deployment, name, node, "committed", **{"commitment": bound.hex()} | changes)

    def told(
        self, deployment: bytes, name: str, node: Key, results: dict[str, str], **changes: Any
    ) -> Report:
        """The receipt by which a replica tells its results."""
        files = {path: result_file(digest) for path, digest in results.items()}
        fields = {"results": files, "nonce": NONCE.hex()} | changes
        return self.receipt(deployment, name, node, "succeeded", **fields)

    def claimed(self, deployment: bytes, name: str, nodes: Iterable[Key]) -> Key:
        """Let these nodes claim in one block; wait for the window; return who holds the slot."""
        term = self.slot(deployment, name).term + 1
        result = self.run(*(self.tx(node, Claim(deployment, name, term)) for node in nodes))
        assert all(receipt.ok for receipt in result.receipts), result.receipts
        self.run()
        slot = self.slot(deployment, name)
        assert slot.term == term
        return next(node for node in NODES if node.public == slot.holder)

    def report(self, deployment: bytes, name: str, node: Key, *statuses: str) -> None:
        """Receipts in this order, each in a block of its own."""
        for status in statuses:
            self.ok(node, self.receipt(deployment, name, node, status))

    def running(self, source: Contract) -> bytes:
        """An approved deployment whose slots all run, on the nodes 0, 2, 1, 3 in the order of slots."""
        deployment = self.ordered(source)
        self.approve(deployment)
        for name, node in zip(
            self.deployment(deployment).slots, (NODES[0], NODES[2], NODES[1], NODES[3]), strict=False
        ):
            assert self.claimed(deployment, name, [node]) is node
            self.report(deployment, name, node, "fetching", "verified", "running")
        return deployment

    def contract_of(self, manifest: bytes) -> str:
        """Id, in hex, of the contract that a manifest is made of."""
        return self._manifest(manifest).contract

    def workload(self, manifest: bytes, slot: str) -> Workload:
        """Of this slot, in a manifest."""
        return workload_of(self._manifest(manifest), slot)

    def _manifest(self, digest: bytes) -> Manifest:
        data = self.state.get(b"manifest/" + digest)
        assert data is not None
        return decode_manifest(data)

    def manifest(self, deployment: bytes) -> Manifest:
        data = self.state.get(b"manifest/" + self.deployment(deployment).manifest)
        assert data is not None
        return decode_manifest(data)


def contract_id_of(payload: bytes) -> bytes:
    """The id under which a contract document is known."""
    return document_id(payload)
