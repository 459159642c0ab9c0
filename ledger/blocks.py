"""Batches, headers and blocks. A block names its batches by digest; bytes travel apart."""

from __future__ import annotations

from typing import Final

import msgspec

from ledger.codec import decode_exact, encode, sha256
from ledger.errors import Refused
from ledger.keys import hash_tagged
from ledger.limits import BATCH_BYTES_MAX, BATCH_TXS_MAX, BLOCK_BATCHES_MAX
from ledger.proofs.inclusion import txs_digest

ZERO_HASH: Final = bytes(32)
HEADER_BYTES_MAX: Final = 1_024 + 34 * BLOCK_BATCHES_MAX


class Header(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What is voted on. `hash` identifies the block.

    `state_height` and `state_root` are delayed: the root after executing `state_height`,
    a height final for the proposer; they never go back along a chain.
    `next_validators` is the hash of the validator set that signs the next epoch (rule 12).
    """

    chain_id: str
    epoch: int
    height: int
    view: int
    parent_view: int
    parent_hash: bytes
    time_ms: int
    proposer: bytes
    state_height: int
    state_root: bytes
    validators: bytes
    next_validators: bytes
    batches: tuple[bytes, ...]

    def encode(self) -> bytes:
        return encode(self)

    @property
    def hash(self) -> bytes:
        """32 bytes: sha256 under the block domain over the exact encoding."""
        return header_hash(encode(self))


def header_hash(data: bytes) -> bytes:
    """Hash of an encoded header."""
    return hash_tagged("block/1", data)


def decode_header(data: bytes) -> Header:
    """Foreign bytes to a Header whose fields have the right shapes. Raises Refused."""
    header = decode_exact(Header, data, "header", HEADER_BYTES_MAX)
    for name in ("parent_hash", "proposer", "state_root", "validators", "next_validators"):
        if len(getattr(header, name)) != 32:
            raise Refused("header.field_length", "32 bytes", name)
    if len(header.batches) > BLOCK_BATCHES_MAX or any(len(b) != 32 for b in header.batches):
        raise Refused("header.batches", f"at most {BLOCK_BATCHES_MAX} digests of 32 bytes", "batches")
    if len(set(header.batches)) != len(header.batches):
        raise Refused("header.batches", "a batch is named twice", "batches")
    if header.height < 1 or header.view < 1 or not 0 <= header.parent_view < header.view:
        raise Refused("header.order", "height and view start at 1, parent_view < view", "view")
    if not 0 <= header.state_height < header.height:
        raise Refused("header.order", "0 <= state_height < height", "state_height")
    return header


class Batch(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Signed transactions (each the encoding of a SignedTx), in the order of arrival."""

    txs: tuple[bytes, ...]


def batch_digest(data: bytes) -> bytes:
    """The name of an encoded batch: a Merkle root over its transactions (ledger.proofs.inclusion).

    Raises Refused unless `data` is the one encoding of a batch, so a digest names exact bytes.
    """
    return txs_digest(decode_batch(data).txs)


def decode_batch(data: bytes) -> Batch:
    """Foreign bytes to a Batch. Raises Refused. Transactions inside are not decoded here."""
    batch = decode_exact(Batch, data, "batch", BATCH_BYTES_MAX)
    if not 0 < len(batch.txs) <= BATCH_TXS_MAX:
        raise Refused("batch.size", f"1 to {BATCH_TXS_MAX} transactions, found {len(batch.txs)}")
    return batch


def validators_hash(encoded_set: bytes) -> bytes:
    """Hash that a header carries for a validator set."""
    return sha256(encoded_set)
