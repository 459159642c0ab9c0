"""Audit: `export` writes a deployment's whole life into one file, `verify` checks it with genesis alone.

Proved by the file: that each transaction was signed by its sender and is in a final block; that the
records (status, slots, approvals, receipts, bills, nodes, farms) are those of the state at one final
header, and that none was left out; that contract, order and manifest belong together; and that
approvals, runs, terms and money follow from each other (ledger.audit_checks).
Not proved: that a claim or renewal was accepted (a claim shows what a node asked for; who held a term
shows in its receipts and bill), and that claims and renewals are complete.
"""

from __future__ import annotations

from ledger import tree
from ledger.audit_checks import check_case
from ledger.audit_file import (
    AUDIT_BYTES_MAX,
    FORMAT,
    AuditBlock,
    AuditFile,
    AuditRecord,
    AuditTx,
    Case,
    Placed,
    Records,
    decode_audit,
    gather,
)
from ledger.audit_report import AuditReport
from ledger.blocks import Header
from ledger.chain import Chain
from ledger.codec import decode, encode
from ledger.documents import Document, open_document
from ledger.errors import LocalError, Refused
from ledger.genesis import Genesis
from ledger.inclusion import verify_inclusion
from ledger.light import Trust, walk
from ledger.manifest import decode_manifest, expand
from ledger.manifest_types import Manifest, manifest_digest
from ledger.predicates import ApprovalPredicate, ContractPredicate, ReceiptPredicate
from ledger.records import Deployment, key_deployment, key_manifest
from ledger.retention import lives
from ledger.state import read
from ledger.stored import StoredTx
from ledger.transactions import Decide, OrderDeployment, PublishContract, Report, decode_tx, verify_tx


def export(store: Chain, deployment: bytes) -> bytes:
    """The file's bytes, as of the state that the newest final header proves.

    Raises Refused("audit.unknown_deployment" | "audit.updated" | "audit.pruned" | "audit.too_long" |
    "proof.not_yet"), LocalError when the store misses a block.
    """
    anchor, view = store.anchor()
    found = view.get(key_deployment(deployment))
    if found is None:
        raise Refused("audit.unknown_deployment", f"none with this id in the state of height {view.height}")
    record = read(store.state, Deployment, key_deployment(deployment))
    data = store.state.get(key_manifest(record.manifest)) if record else None
    if record is None or data is None:
        raise LocalError(f"the store is damaged: deployment {deployment.hex()} has no manifest")
    if record.updates:
        raise Refused("audit.updated", f"{record.updates} updates were asked for")
    order = store.tx(deployment)
    if order is None or (order.height < store.first_height and not lives(record)):
        # Parts of it may be left, where blocks hold transactions of others that live.
        raise Refused("audit.pruned", f"it has ended, and blocks below {store.first_height} are gone here")
    ids = [*store.history(record.contract)[:1], *store.history(deployment)]
    placed = [tx for tx in (_stored(store, id_) for id_ in ids) if tx.height <= view.height]
    documents = []
    for tx in placed:
        body = decode_tx(tx.raw, store.chain_id).tx.body
        if isinstance(body, Decide):
            documents.append(open_document(body.envelope, "approval").id)
    records: list[AuditRecord] = []

    def get(key: bytes) -> bytes | None:
        value = view.get(key)
        records.append(AuditRecord(value, view.prove(key)))
        return value

    gather(deployment, decode_manifest(data), documents, get)
    blocks = _blocks(store, placed)
    epochs = store.epochs.upto(decode(Header, anchor.header).epoch)
    file = encode(AuditFile(FORMAT, store.chain_id, deployment, epochs, blocks, anchor, tuple(records)))
    if len(file) > AUDIT_BYTES_MAX:
        raise Refused("audit.too_long", f"{len(file)} bytes, at most {AUDIT_BYTES_MAX}")
    return file


def _stored(store: Chain, id_: bytes) -> StoredTx:
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
        order, contract, manifest = _check_contract(file, placed)
        report.passed(name, f"{manifest.name}@{manifest.version}, signed by {manifest.author}")
        report.passed("manifest", f"the order expands to {manifest_digest(manifest.encode()).hex()}")
        name = "records"
        records = _check_records(file, anchor, manifest, placed)
        report.passed(name, f"{len(file.records)} proved present or absent at height {anchor.state_height}")
        case = Case(file.chain_id, file.deployment, order, contract, manifest, placed, records, anchor)
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


def _check_contract(file: AuditFile, placed: list[Placed]) -> tuple[Placed, Placed, Manifest]:
    """The order, the contract's publication and the manifest that they make."""
    published = placed[0]
    document = published.document
    order = next((tx for tx in placed if tx.id == file.deployment), None)
    if order is None or not isinstance(body := order.body, OrderDeployment):
        raise Refused("audit.incomplete", "the order is missing", "txs")
    if not isinstance(published.body, PublishContract) or document is None or document.id != body.contract:
        raise Refused("audit.incomplete", "the ordered contract is missing", "txs")
    predicate = document.predicate
    if document.signer != published.sender or not isinstance(predicate, ContractPredicate):
        raise Refused("audit.contract", "published by another than its author", "txs")
    data = expand(predicate.contract, document.id, document.signer, order.sender, body.parameters, body.roles)
    if manifest_digest(data) != body.manifest:
        raise Refused("audit.manifest", f"it expands to {manifest_digest(data).hex()}", "manifest")
    return order, published, decode_manifest(data)


def _check_records(file: AuditFile, anchor: Header, manifest: Manifest, placed: list[Placed]) -> Records:
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
    records = gather(file.deployment, manifest, documents, get)
    if next(rest, None) is not None:
        raise Refused("audit.surplus", "more records than the deployment has", "records")
    return records
