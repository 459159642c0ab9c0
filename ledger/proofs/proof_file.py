"""The proof file: one record of the state, present or absent, and all that proves it from genesis alone.

Canonical msgpack, as all that is signed here. It holds how each epoch so far ended, because who signs today
follows from that and from nothing else; a peer's answer to a query leaves them out (`/v1/epochs` has them).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from ledger.codec import decode_exact, encode
from ledger.errors import Refused
from ledger.genesis import Genesis
from ledger.limits import MIB
from ledger.proofs.light import EpochProof, Fact, QueryProof, Trust, check_query, walk

FORMAT: Final = "gridpact-proof/1"
PROOF_FILE_BYTES_MAX: Final = 256 * MIB  # some 20,000 epochs of 128 validators, 140,000 of 16


class ProofFile(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """`genesis`: the hash of the genesis that it begins at. `epochs` in order, from epoch 0 on."""

    format: str
    chain_id: str
    genesis: bytes
    epochs: tuple[EpochProof, ...]
    query: QueryProof


def make_proof_file(
    chain_id: str, genesis_hash: bytes, epochs: Sequence[EpochProof], query: QueryProof
) -> bytes:
    """The file's bytes. `epochs`: those before the epoch of the query's header."""
    return encode(ProofFile(FORMAT, chain_id, genesis_hash, tuple(epochs), query))


def decode_proof_file(data: bytes) -> ProofFile:
    """Foreign bytes to a file of this format. Raises Refused("proof_file.…"). Nothing in it is proved yet."""
    file = decode_exact(ProofFile, data, "proof_file", PROOF_FILE_BYTES_MAX)
    if file.format != FORMAT:
        raise Refused("proof_file.format", f"{file.format[:40]!r}, this program reads {FORMAT!r}", "format")
    return file


def verify_proof_file(data: bytes, genesis: Genesis, now_ms: int | None = None) -> Fact:
    """What a file proves. Pure, offline. With `now_ms` the proving block must be younger than the trusting
    period (ledger.proofs.light, [P2]); without, it says what was so at the fact's own time. Raises
    Refused."""
    file = decode_proof_file(data)
    if file.chain_id != genesis.chain_id or file.genesis != genesis.hash:
        raise Refused("proof_file.foreign_chain", f"of chain {file.chain_id[:40]!r}", "genesis")
    trust = Trust.of(genesis)
    walk(trust, file.epochs, file.query.finality)
    return check_query(trust, file.query, now_ms)
