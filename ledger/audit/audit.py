"""Audit: `export` writes a deployment's whole life into one file, `verify` checks it with genesis alone.

Proved by the file: that each transaction was signed by its sender and is in a final block; that the
records (status, slots, approvals, receipts, bills, nodes, farms) are those of the state at one final
header, and that none was left out; that contracts, order, updates and manifests belong together; and that
approvals, runs, terms and money follow from each other (ledger.audit.checks).
Not proved: that a claim was accepted (it shows what a node asked for; who held a term shows in its receipts
and bill), and that claims are complete. Renewals of leases are in nobody's history, and in no file.
"""

from __future__ import annotations

from collections.abc import Callable

from ledger.audit.checks import check_case
from ledger.audit.file import (
    AUDIT_BYTES_MAX,
    FORMAT,
    AuditBlock,
    AuditFile,
    AuditRecord,
    AuditTx,
    Case,
    Generation,
    Placed,
    Records,
    decode_audit,
    gather,
)
from ledger.audit.report import AuditReport
from ledger.blocks import Header
from ledger.codec import decode, encode
from ledger.documents import Document, open_document
from ledger.errors import LocalError, Refused
from ledger.genesis import Genesis
from ledger.manifests.expansion import decode_manifest, expand
from ledger.manifests.types import Manifest, manifest_digest
from ledger.predicates import ApprovalPredicate, ContractPredicate, ReceiptPredicate
from ledger.proofs import tree
from ledger.proofs.inclusion import verify_inclusion
from ledger.proofs.light import Trust, walk
from ledger.records import Deployment, key_deployment, key_manifest
from ledger.state import read
from ledger.storage.chain import Chain
from ledger.storage.retention import lives
from ledger.storage.stored import StoredTx
from ledger.transactions import (
    Decide,
    OrderDeployment,
    PublishContract,
    Report,
    UpdateDeployment,
    decode_tx,
    verify_tx,
)


def export(store: Chain, deployment: bytes, look: Callable[[], object] = lambda: None) -> bytes:
    """The file's bytes, as of the state that the newest final header proves. `look` is called at each step,
    some thousand times for a long life, and stops it by what it raises.

    Raises Refused("audit.unknown_deployment" | "audit.pruned" | "audit.too_long" | "proof.not_yet"),
    LocalError when the store misses a block.
    """
    anchor, view = store.anchor()
    found = view.get(key_deployment(deployment))
    if found is None:
        raise Refused("audit.unknown_deployment", f"none with this id in the state of height {view.height}")
    record = read(store.state, Deployment, key_deployment(deployment))
    if record is None:
        raise LocalError(f"the store is damaged: no deployment {deployment.hex()}")
    order = store.tx(deployment)
    if order is None or (order.height < store.first_height and not lives(record)):
        # Parts of it may be left, where blocks hold transactions of others that live.
        raise Refused("audit.pruned", f"it has ended, and blocks below {store.first_height} are gone here")
    life = [_stored(store, id_, look) for id_ in store.history(deployment)]
    life = [tx for tx in life if tx.height <= view.height]
    documents, manifests, contracts = [], [], []
    for tx in life:
        body = decode_tx(tx.raw, store.chain_id).tx.body
        if isinstance(body, Decide):
            documents.append(open_document(body.envelope, "approval").id)
        elif isinstance(body, OrderDeployment | UpdateDeployment):
            manifests.append(_manifest(store, body.manifest))
            contracts.append(body.contract)
    firsts = [id_ for one in dict.fromkeys(contracts) for id_ in store.history(one)[:1]]
    published = [_stored(store, id_, look) for id_ in firsts]
    placed = [*published, *life]
    records: list[AuditRecord] = []

    def get(key: bytes) -> bytes | None:
        look()
        value = view.get(key)
        records.append(AuditRecord(value, view.prove(key)))
        return value

    gather(deployment, manifests, documents, get)
    blocks = _blocks(store, placed)
    epochs = store.epochs.upto(decode(Header, anchor.header).epoch)
    file = encode(AuditFile(FORMAT, store.chain_id, deployment, epochs, blocks, anchor, tuple(records)))
    if len(file) > AUDIT_BYTES_MAX:
        raise Refused("audit.too_long", f"{len(file)} bytes, at most {AUDIT_BYTES_MAX}")
    return file


def _manifest(store: Chain, digest: bytes) -> Manifest:
    data = store.state.get(key_manifest(digest))
    if data is None:
        raise LocalError(f"the store is damaged: no manifest {digest.hex()}")
    return decode_manifest(data)


def _stored(store: Chain, id_: bytes, look: Callable[[], object]) -> StoredTx:
    look()
    tx = store.tx(id_)
    if tx is None:
        raise LocalError(
            f"the store is damaged: transaction {id_.hex()} is in the history, but not in a block"
        )
    return tx


def _blocks(store: Chain, placed: list[StoredTx]) -> tuple[AuditBlock, ...]:
    blocks = []
    for height in sorted({tx.height for tx in placed}):
        finality = store.finality(height)
        if finality is None:
            raise LocalError(f"the store holds no certificate for height {height}")
        mine = [AuditTx(tx.position, tx.inclusion, tx.raw) for tx in placed if tx.height == height]
        mine.sort(key=lambda tx: (tx.batch, tx.inclusion.index))
        blocks.append(AuditBlock(finality, tuple(mine)))
    return tuple(blocks)


def verify(data: bytes, genesis: Genesis) -> AuditReport:
    """Check a file. Pure, offline; never raises on foreign bytes: the report names the first broken rule.
    What the report's facts say before a failure is not to be trusted further than its checks."""
    report = AuditReport()
    name = "file"
    try:
        file = decode_audit(data)
        trust = Trust.of(genesis)
        if file.chain_id != trust.chain_id:
            raise Refused("audit.foreign_chain", f"chain {file.chain_id!r}, genesis says {trust.chain_id!r}")
        report.passed(name, f"{len(data)} bytes in their one encoding, of chain {file.chain_id}")
        name = "epochs"
        anchor = walk(trust, file.epochs, file.anchor)
        report.passed(name, f"{len(file.epochs)} validator sets, each signed in by the one before it")
        name = "blocks"
        headers = _check_blocks(file, trust)
        if headers[-1].height > anchor.state_height:
            raise Refused("audit.anchor", "a block is younger than the state that the records are from")
        report.passed(name, f"{len(headers)} blocks and the anchor at {anchor.height} are final")
        name = "transactions"
        placed = _check_transactions(file, headers)
        report.passed(name, f"{len(placed)} are in their blocks, each signed by its sender")
        name = "contract"
        generations = _check_contracts(file, placed)
        manifests = [one.manifest for one in generations]
        names = dict.fromkeys(f"{one.name}@{one.version}" for one in manifests)
        report.passed(name, f"{', '.join(names)}, signed by {manifests[0].author}")
        digests = ", ".join(one.digest.hex() for one in generations)
        report.passed("manifest", f"the order expands to {digests.replace(', ', ', then updates to ', 1)}")
        name = "records"
        records = _check_records(file, anchor, manifests, placed)
        report.passed(name, f"{len(file.records)} proved present or absent at height {anchor.state_height}")
        life = [tx for tx in placed if not isinstance(tx.body, PublishContract)]
        case = Case(file.chain_id, file.deployment, generations, placed, life, records, anchor)
        for name, check in check_case(case, report.facts):
            report.passed(name, check())
    except Refused as error:
        report.failed(name, error)
    return report


def _check_blocks(file: AuditFile, trust: Trust) -> list[Header]:
    headers: list[Header] = []
    for block in file.blocks:
        header = trust.final(block.finality)
        if headers and header.height <= headers[-1].height:
            raise Refused("audit.order", f"height {header.height} after {headers[-1].height}", "blocks")
        if not block.txs:
            raise Refused("audit.order", f"height {header.height} shows no transaction", "blocks")
        headers.append(header)
    if not headers:
        raise Refused("audit.incomplete", "no blocks")
    return headers


def _check_transactions(file: AuditFile, headers: list[Header]) -> list[Placed]:
    placed: list[Placed] = []
    for header, block in zip(headers, file.blocks, strict=True):
        former = (-1, -1)
        for item in block.txs:
            place = (item.batch, item.inclusion.index)
            if place <= former or not 0 <= item.batch < len(header.batches):
                raise Refused(
                    "audit.order", f"a transaction of height {header.height} is out of order", "txs"
                )
            former = place
            if not verify_inclusion(header.batches[item.batch], item.raw, item.inclusion):
                raise Refused("audit.inclusion", f"not in the block at height {header.height}", "txs")
            tx = decode_tx(item.raw, file.chain_id)
            if not verify_tx(tx):
                raise Refused("audit.signature", f"transaction {tx.id.hex()}", "txs")
            if tx.tx.expires < header.height:
                raise Refused("audit.expired", f"transaction {tx.id.hex()} at height {header.height}", "txs")
            placed.append(Placed(header.height, header.time_ms, tx, _document(tx.tx.body)))
    if len({tx.id for tx in placed}) != len(placed):
        raise Refused("audit.order", "a transaction appears twice", "txs")
    return placed


def _document(
    body: object,
) -> Document[ContractPredicate] | Document[ApprovalPredicate] | Document[ReceiptPredicate] | None:
    """The signed document that a transaction carries, opened and its signature checked."""
    if isinstance(body, PublishContract):
        return open_document(body.envelope, "contract")
    if isinstance(body, Decide):
        return open_document(body.envelope, "approval")
    if isinstance(body, Report):
        return open_document(body.envelope, "receipt")
    return None


def _check_contracts(file: AuditFile, placed: list[Placed]) -> tuple[Generation, ...]:
    """The order and each update, their contracts' publications and the manifests that they make."""
    published: dict[bytes, Placed] = {}
    generations: list[Generation] = []
    used: set[bytes] = set()
    if not any(tx.id == file.deployment for tx in placed):
        raise Refused("audit.incomplete", "the order is missing", "txs")
    for tx in placed:
        body = tx.body
        if isinstance(body, PublishContract) and tx.document is not None:
            published[tx.document.id] = tx
            continue
        if not generations and tx.id != file.deployment:
            raise Refused("audit.order", "something comes before the order", "txs")
        if isinstance(body, OrderDeployment | UpdateDeployment):
            if isinstance(body, OrderDeployment) == bool(generations):
                raise Refused("audit.order", "it does not begin with one order", "txs")
            if isinstance(body, UpdateDeployment) and body.deployment != file.deployment:
                raise Refused("audit.foreign", "an update of another deployment", "txs")
            consumer = generations[0].asked.sender if generations else tx.sender
            found = _expanded(published.get(body.contract), len(generations), tx, body, consumer)
            used.add(body.contract)
            generations.append(found)
    if len(used) != len(published):
        raise Refused("audit.order", "a contract that nobody ordered", "txs")
    return tuple(generations)


def _expanded(
    published: Placed | None,
    number: int,
    asked: Placed,
    body: OrderDeployment | UpdateDeployment,
    consumer: bytes,
) -> Generation:
    if published is None or (document := published.document) is None:
        raise Refused("audit.incomplete", "the ordered contract is missing", "txs")
    predicate = document.predicate
    if document.signer != published.sender or not isinstance(predicate, ContractPredicate):
        raise Refused("audit.contract", "published by another than its author", "txs")
    data = expand(predicate.contract, document.id, document.signer, consumer, body.parameters, body.roles)
    digest = manifest_digest(data)
    if digest != body.manifest:
        raise Refused("audit.manifest", f"it expands to {digest.hex()}", "manifest")
    return Generation(number, asked, published, decode_manifest(data), digest)


def _check_records(
    file: AuditFile, anchor: Header, manifests: list[Manifest], placed: list[Placed]
) -> Records:
    """Each record that `gather` asks for, proved by the anchor's state root; no more, no fewer."""
    rest = iter(file.records)

    def get(key: bytes) -> bytes | None:
        record = next(rest, None)
        if record is None:
            raise Refused("audit.incomplete", f"no proof for {key[:40]!r}", "records")
        if not tree.verify(anchor.state_root, key, record.value, record.proof):
            raise Refused("audit.record", f"{key[:40]!r} is not what the state holds", "records")
        return record.value

    documents = [tx.document.id for tx in placed if tx.document and isinstance(tx.body, Decide)]
    records = gather(file.deployment, manifests, documents, get)
    if next(rest, None) is not None:
        raise Refused("audit.surplus", "more records than the deployment has", "records")
    return records
