"""Checks by somebody who holds nothing but the genesis file: is this block final, is this record so?

A header is final when a Final certificate names it, or names a descendant to which a chain of
headers leads (Simplex: Final finalizes all ancestors).
"""

from __future__ import annotations

from typing import Final

import msgspec

from ledger import tree
from ledger.blocks import HEADER_BYTES_MAX, Header, decode_header, header_hash
from ledger.certificate import Certificate, Ed25519Scheme, Scheme, ValidatorSet, VoteKind
from ledger.codec import decode_exact, encode
from ledger.errors import Refused
from ledger.genesis import Genesis
from ledger.limits import VALIDATORS_MAX

# Headers between a block and the certificate that finalizes it: views in a row whose Final was lost.
FINALITY_PATH_MAX: Final = 256
CERTIFICATE_BYTES_MAX: Final = 256 + 67 * VALIDATORS_MAX
QUERY_PROOF_BYTES_MAX: Final = 2 * 1024 * 1024

_scheme: Final[Scheme] = Ed25519Scheme()


class FinalityProof(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A header, the headers of its descendants (its child first) up to the certified one, and that
    one's Final certificate; `path` is empty when the certificate names `header` itself."""

    header: bytes
    path: tuple[bytes, ...]
    certificate: bytes


class QueryProof(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What the state held under `key` (None: nothing) at the final header's `state_height`."""

    key: bytes
    value: bytes | None
    proof: tree.Proof
    finality: FinalityProof

    def encode(self) -> bytes:
        return encode(self)


class Trust:
    """Which validator set signs which epoch, starting from genesis.

    Epoch changes come with a later issue: each transition will be a final header whose
    `next_validators` names the next set; `sets` then grows by them.
    """

    def __init__(self, chain_id: str, validators: ValidatorSet) -> None:
        self.chain_id = chain_id
        self.sets = [validators]

    @classmethod
    def of(cls, genesis: Genesis) -> Trust:
        """The trust that a genesis file gives."""
        return cls(genesis.chain_id, genesis.validator_set)

    def validators(self, epoch: int) -> ValidatorSet:
        """The set of an epoch. Raises Refused for one that nothing vouches for."""
        for known in self.sets:
            if known.epoch == epoch:
                return known
        raise Refused("light.unknown_epoch", f"epoch {epoch}", "epoch")

    def final(self, finality: FinalityProof) -> Header:
        """The decoded header, when it is final under its epoch's set. Raises Refused with the broken rule."""
        epoch = decode_header(finality.header).epoch
        return verify_final(self.chain_id, self.validators(epoch), finality)


def decode_certificate(data: bytes) -> Certificate:
    """Foreign bytes to a Certificate. Raises Refused."""
    return decode_exact(Certificate, data, "certificate", CERTIFICATE_BYTES_MAX)


def verify_final(chain_id: str, validators: ValidatorSet, finality: FinalityProof) -> Header:
    """The decoded header, when it is final under `validators`. Raises Refused with the broken rule."""
    header = _chained_header(chain_id, validators, finality.header)
    if len(finality.path) > FINALITY_PATH_MAX:
        raise Refused("light.path_too_long", f"at most {FINALITY_PATH_MAX} headers", "path")
    last, last_hash = header, header_hash(finality.header)
    for data in finality.path:
        child = _chained_header(chain_id, validators, data)
        if child.parent_hash != last_hash or child.height != last.height + 1:
            raise Refused("light.broken_path", f"height {child.height} does not follow {last.height}", "path")
        last, last_hash = child, header_hash(data)
    certificate = decode_certificate(finality.certificate)
    statement = certificate.statement
    if statement.kind is not VoteKind.FINAL:
        raise Refused("light.not_final", f"a {statement.kind.name} certificate", "certificate")
    if statement.block != last_hash or statement.view != last.view:
        raise Refused("light.other_block", "the certificate names another block", "certificate")
    _scheme.verify(chain_id, validators, certificate)
    return header


def _chained_header(chain_id: str, validators: ValidatorSet, data: bytes) -> Header:
    if len(data) > HEADER_BYTES_MAX:
        raise Refused("header.too_long", f"at most {HEADER_BYTES_MAX} bytes")
    header = decode_header(data)
    if header.chain_id != chain_id:
        raise Refused("light.foreign_chain", f"chain {header.chain_id!r}, wanted {chain_id!r}", "chain_id")
    if header.epoch != validators.epoch or header.validators != validators.hash:
        raise Refused("light.other_validators", f"height {header.height} names another set", "validators")
    return header


class Fact(msgspec.Struct, frozen=True):
    """A proved record: `value` is None when the key was absent at `height`, executed by `time_ms`
    (the block time of the header that proves it, a little later)."""

    key: bytes
    value: bytes | None
    height: int
    time_ms: int


def verify_query(trust: Trust, data: bytes) -> Fact:
    """What an encoded QueryProof proves. Raises Refused with the broken rule."""
    proof = decode_exact(QueryProof, data, "query_proof", QUERY_PROOF_BYTES_MAX)
    return check_query(trust, proof)


def check_query(trust: Trust, proof: QueryProof) -> Fact:
    """As verify_query, for a decoded proof."""
    header = trust.final(proof.finality)
    if not tree.verify(header.state_root, proof.key, proof.value, proof.proof):
        raise Refused("light.state_proof", f"height {header.state_height}: not what the state holds", "proof")
    return Fact(proof.key, proof.value, header.state_height, header.time_ms)
