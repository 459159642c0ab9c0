"""Blocks, transactions and events as the API shows them."""

from __future__ import annotations

from ledger.blocks import Header, decode_batch, decode_header, header_hash
from ledger.errors import LocalError
from ledger.outcome import Event
from ledger.proofs.certificate import certificate_signers
from ledger.proofs.light import decode_certificate
from ledger.transactions import decode_tx
from node.api import models as m
from node.api.epoch_views import validators_of
from node.api.problems import ApiProblem, not_found
from node.api.show import body_kind, show
from node.seam import NumberedEvent, PeerSeam


def _moniker(peer: PeerSeam, header: Header) -> str:
    members = validators_of(peer, header.epoch).members
    return next((v.moniker for v in members if v.key == header.proposer), "")


def _header(peer: PeerSeam, height: int) -> tuple[Header, bytes]:
    first = peer.store.first_height
    if 0 < height < first:
        raise ApiProblem(410, "store.pruned", f"blocks are held from height {first} on", "height")
    data = peer.store.header(height) if height <= peer.height else None
    if data is None:
        raise not_found(f"no block at height {height}; the last is {peer.height}", "block.unknown")
    return decode_header(data), data


def block_summaries(peer: PeerSeam, highest: int, limit: int) -> m.Page[m.BlockSummary]:
    """Blocks from `highest` down; the cursor is a height."""
    items: list[m.BlockSummary] = []
    height = min(highest, peer.height)
    first = peer.store.first_height
    if 1 <= height < first:
        raise ApiProblem(410, "store.pruned", f"blocks are held from height {first} on", "cursor")
    while height >= first and len(items) < limit:
        header, data = _header(peer, height)
        items.append(
            m.BlockSummary(
                height=height,
                hash=header_hash(data).hex(),
                time_ms=header.time_ms,
                view=header.view,
                proposer=header.proposer.hex(),
                moniker=_moniker(peer, header),
                txs=len(peer.store.receipts(height)),
                certified=peer.store.certificate(height) is not None,
            )
        )
        height -= 1
    return m.Page(items=items, next=str(height) if height >= first else "")


def block_detail(peer: PeerSeam, height: int) -> m.BlockDetail:
    """A block with its transactions. Raises ApiProblem 404."""
    header, data = _header(peer, height)
    block = peer.store.block(height)
    if block is None:
        raise LocalError(f"the store holds a header at {height}, but no block")
    signers = []
    if block.certificate:
        members = validators_of(peer, header.epoch).members
        indexes = certificate_signers(decode_certificate(block.certificate), len(members))
        signers = [members[index].moniker for index in indexes]
    receipts = {receipt.id: receipt for receipt in peer.store.receipts(height)}
    txs: dict[bytes, m.BlockTx] = {}
    for batch in block.batches:
        for raw in decode_batch(batch).txs:
            tx = decode_tx(raw, peer.chain_id)
            receipt = receipts.get(tx.id)
            txs[tx.id] = m.BlockTx(
                id=tx.id.hex(),
                kind=body_kind(tx.tx.body),
                sender=tx.tx.sender.hex(),
                ok=receipt is not None and receipt.ok,
                rule="tx.skipped" if receipt is None else receipt.rule,
            )
    return m.BlockDetail(
        height=height,
        hash=header_hash(data).hex(),
        time_ms=header.time_ms,
        epoch=header.epoch,
        view=header.view,
        parent_hash=header.parent_hash.hex(),
        proposer=header.proposer.hex(),
        moniker=_moniker(peer, header),
        state_height=header.state_height,
        state_root=header.state_root.hex(),
        batches=[digest.hex() for digest in header.batches],
        signers=signers,
        size_bytes=len(data) + len(block.certificate) + sum(map(len, block.batches)),
        txs=list(txs.values()),
    )


def tx_view(peer: PeerSeam, id_: bytes) -> m.TxView:
    """A final transaction. Raises ApiProblem 404."""
    stored = peer.store.tx(id_)
    if stored is None:
        first = peer.store.first_height
        since = f" since height {first}; older blocks are not held here" if first > 1 else ""
        raise not_found(f"no final transaction with this id{since}", "tx.unknown")
    data = peer.store.header(stored.height)
    if data is None:
        raise LocalError(f"the store holds a transaction of height {stored.height}, but no header")
    header = decode_header(data)
    tx = decode_tx(stored.raw, peer.chain_id).tx
    receipt = stored.receipt
    return m.TxView(
        id=id_.hex(),
        height=stored.height,
        time_ms=header.time_ms,
        ok=receipt.ok,
        rule=receipt.rule,
        detail=receipt.detail,
        sender=tx.sender.hex(),
        kind=body_kind(tx.body),
        body=show(tx.body),
        events=[_event("", stored.height, header.time_ms, event) for event in receipt.events],
        raw=stored.raw,
    )


def event_view(numbered: NumberedEvent) -> m.EventView:
    """An event as data."""
    return _event(numbered.id, numbered.height, numbered.time_ms, numbered.event)


def _event(id_: str, height: int, time_ms: int, event: Event) -> m.EventView:
    return m.EventView(
        id=id_, height=height, time_ms=time_ms, kind=event.kind, subject=event.subject, fields=event.fields
    )
