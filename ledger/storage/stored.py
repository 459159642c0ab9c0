"""What goes into and comes out of the chain's store."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ledger.blocks import Header
from ledger.outcome import Event, Receipt
from ledger.proofs.inclusion import Inclusion


class Tip(msgspec.Struct, array_like=True, frozen=True):
    """The last committed block. At height 0 `hash` is the genesis hash."""

    height: int
    hash: bytes
    view: int
    time_ms: int
    root: bytes  # of the state after executing it
    state_height: int  # the header's; 0 at height 0


class TxEntry(msgspec.Struct, array_like=True, frozen=True):
    """An executed transaction: which batch of the header, where in it, and whose history it is part of:
    ids of deployments, or the id of the contract that it publishes."""

    id: bytes
    batch: int
    index: int
    about: tuple[bytes, ...]


class CommitData(msgspec.Struct, frozen=True):
    """One finalized, executed block. `batches` in the header's order; `receipts` one for each of `txs`."""

    header: Header
    batches: tuple[bytes, ...]
    certificate: bytes | None  # a Final certificate that names this header, if there is one
    txs: tuple[TxEntry, ...]
    receipts: tuple[Receipt, ...]
    events: tuple[Event, ...]
    changes: Mapping[bytes, bytes | None]
    path: tuple[bytes, ...] = ()  # of a boundary: the headers above it up to the certified one


class StoredBlock(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A block as peers exchange it. `certificate`: Final for this block; b"" when a later one covers it.

    `path`, of an epoch's last block alone: the headers above it up to the one that the certificate names, all
    empty and in no chain (docs/adr/0018); () when it names the block itself."""

    header: bytes
    batches: tuple[bytes, ...]
    certificate: bytes
    path: tuple[bytes, ...] = ()


class StoredTx(msgspec.Struct, frozen=True):
    """A transaction in the chain: its bytes, its receipt, and its inclusion in the named batch."""

    height: int
    raw: bytes
    receipt: Receipt
    batch: bytes
    position: int  # of the batch in the header
    inclusion: Inclusion


class TxPlace(msgspec.Struct, array_like=True, frozen=True):
    """Where a transaction stands."""

    height: int
    batch: int
    index: int
    number: int  # of its receipt
