"""A final chain made by hand: blocks with given transactions, signed by three of four validators."""

from __future__ import annotations

from collections.abc import Sequence

from ledger import transactions as t
from ledger.blocks import Batch, Header, batch_digest
from ledger.codec import encode
from ledger.keys import Key
from ledger.proofs.certificate import (
    VOTE_DOMAIN,
    Certificate,
    Ed25519Scheme,
    Statement,
    VoteKind,
    vote_message,
)
from ledger.storage.kv import MemoryKv
from ledger.storage.store import Store
from node.notary import Notary
from tests.node.network_fixture import CHAIN_ID, POOR, RICH, genesis, key


def transfer_tx(
    salt: int, *, sender: Key = RICH, expires: int = 500, padding: int = 0, to: bytes = POOR.public
) -> bytes:
    """A signed transfer; with padding, a vault record of that many bytes instead."""
    body: t.Body = t.PutVault("pad", 1, bytes(padding)) if padding else t.Transfer(to, 1)
    return t.sign_tx(sender, t.Tx(CHAIN_ID, sender.public, expires, salt.to_bytes(8, "big"), body))


def batch_of(*raws: bytes) -> bytes:
    """An encoded batch."""
    return encode(Batch(raws))


def certificate(header: Header, view: int | None = None) -> Certificate:
    """Final for a header, by validators 0 to 2 of four."""
    statement = Statement(VoteKind.FINAL, 0, view or header.view, header.hash)
    message = vote_message(statement)
    votes = {i: key(f"validator{i}").sign(VOTE_DOMAIN, CHAIN_ID, message) for i in range(3)}
    return Ed25519Scheme().assemble(statement, votes, 4)


def next_header(notary: Notary, batches: Sequence[bytes], **changes: object) -> Header:
    """A child of the tip that names these batches."""
    tip, members = notary.store.tip, notary.validators
    state_height = max(0, tip.height - 1)
    root = notary.store.root(state_height)
    assert root is not None
    fields: dict[str, object] = {
        "chain_id": CHAIN_ID,
        "epoch": 0,
        "height": tip.height + 1,
        "view": tip.view + 1,
        "parent_view": tip.view,
        "parent_hash": tip.hash,
        "time_ms": tip.time_ms + 1,
        "proposer": members.members[0].key,
        "state_height": state_height,
        "state_root": root,
        "validators": members.hash,
        "next_validators": members.hash,
        "batches": tuple(batch_digest(data) for data in batches),
    }
    return Header(**{**fields, **changes})  # type: ignore[arg-type]


def new_notary(kv: MemoryKv | None = None) -> Notary:
    """At genesis, or where the store stands."""
    return Notary.open(genesis(4), Store(kv or MemoryKv(), CHAIN_ID), Ed25519Scheme())


def extend(notary: Notary, *batches: bytes, **changes: object) -> Header:
    """Commit one final block."""
    header = next_header(notary, batches, **changes)
    notary.commit(header, certificate(header), batches, {})
    return header
