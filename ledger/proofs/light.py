"""Checks by somebody who holds nothing but the genesis file: is this block final, is this record so?

A header is final when a Final certificate names it, or names a descendant to which a chain of
headers leads (Simplex: Final finalizes all ancestors). Which validators sign is known for genesis; an
epoch's boundary block names the next set (rule 12), so one certificate an epoch leads to today's.

[P1] Walk. From genesis a client advances over the boundary of each epoch in turn; none can be left out.
[P2] Time. Keys that voted long ago may have been sold or stolen since. A trust that does not begin at genesis
     goes no further than `period_ms` from the block it rests on; one from genesis walks on, but takes
     a fact only from a block that is younger than that (`fresh`). What neither can see: a quorum of some
     former set that signs a second history from then on, with times of today. Against that only knowledge
     of a later set, from elsewhere, helps.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from ledger.blocks import Header, decode_header, header_hash, validators_hash
from ledger.codec import decode_exact, encode
from ledger.epochs import decode_set, is_ending
from ledger.errors import LocalError, Refused
from ledger.genesis import Genesis
from ledger.limits import VALIDATORS_MAX
from ledger.proofs import tree
from ledger.proofs.certificate import Certificate, Ed25519Scheme, Scheme, ValidatorSet, VoteKind

# Headers between a block and the certificate that finalizes it: views in a row whose Final was lost.
FINALITY_PATH_MAX: Final = 256
CERTIFICATE_BYTES_MAX: Final = 256 + 67 * VALIDATORS_MAX
QUERY_PROOF_BYTES_MAX: Final = 2 * 1024 * 1024
EPOCH_PROOF_BYTES_MAX: Final = 1024 * 1024  # a set, a certificate, FINALITY_PATH_MAX headers
CLOCK_DRIFT_MS_MAX: Final = 60_000  # of a reader; validators keep block time within 2 s of their own
TRUST_PERIOD_MS: Final = 14 * 24 * 3_600_000  # as long as an operator is expected to guard a key that left

_scheme: Final[Scheme] = Ed25519Scheme()


class FinalityProof(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A header, the headers of its descendants (its child first) up to the certified one, and that
    one's Final certificate; `path` is empty when the certificate names `header` itself."""

    header: bytes
    path: tuple[bytes, ...]
    certificate: bytes


class EpochProof(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """How an epoch ended: its boundary block, final under its own set, and the encoded set that it names.

    `parent`: the header before it, which does not end the epoch, so the boundary is the first that does, and
    not one of the empty blocks above it. (A boundary is never its epoch's first block: what it names was
    decided in the same epoch.)"""

    next_set: bytes
    parent: bytes
    finality: FinalityProof


class QueryProof(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What the state held under `key` (None: nothing) at the final header's `state_height`."""

    key: bytes
    value: bytes | None
    proof: tree.Proof
    finality: FinalityProof

    def encode(self) -> bytes:
        return encode(self)


class Trust:
    """Which validator set signs which epoch: `sets` from the first known one on, `ends` the boundary header
    of each but the last. `since_ms`: the time of the block that a trust rests on which does not begin at
    genesis; None when it does. Grows by one set an epoch."""

    def __init__(
        self,
        chain_id: str,
        validators: ValidatorSet,
        since_ms: int | None = None,
        period_ms: int = TRUST_PERIOD_MS,
    ) -> None:
        self.chain_id = chain_id
        self.sets = [validators]
        self.ends: list[Header] = []
        self.since_ms = since_ms
        self.period_ms = period_ms

    @classmethod
    def of(cls, genesis: Genesis) -> Trust:
        """The trust that a genesis file gives."""
        return cls(genesis.chain_id, genesis.validator_set)

    @property
    def latest(self) -> ValidatorSet:
        """The set of the last known epoch."""
        return self.sets[-1]

    def validators(self, epoch: int) -> ValidatorSet:
        """The set of an epoch. Raises Refused for one that nothing vouches for."""
        place = epoch - self.sets[0].epoch
        if not 0 <= place < len(self.sets):
            raise Refused("light.unknown_epoch", f"epoch {epoch}", "epoch")
        return self.sets[place]

    def validators_at(self, height: int) -> ValidatorSet:
        """The set that signs the block at a height, as far as ended epochs are known."""
        return self.sets[bisect_left(self.ends, height, key=lambda end: end.height)]

    def final(self, finality: FinalityProof) -> Header:
        """The decoded header, when it is final under its epoch's set and, as far as is known, not above its
        epoch's boundary. Raises Refused with the broken rule."""
        epoch = decode_header(finality.header).epoch
        header = verify_final(self.chain_id, self.validators(epoch), finality)
        place = epoch - self.sets[0].epoch
        if place < len(self.ends) and header.height > self.ends[place].height:
            ended = self.ends[place].height
            raise Refused("light.above_boundary", f"epoch {epoch} ended at {ended}", "header")
        return header

    def advance(self, proof: EpochProof, now_ms: int | None = None) -> ValidatorSet:
        """[P1] The set of the next epoch, from the proof that the last known one ended. `now_ms` is needed by
        a trust that does not begin at genesis [P2]: it rests on the boundary's time from then on, so that
        must not lie ahead. Raises Refused with the broken rule; nothing changed."""
        if self.since_ms is not None and (now_ms is None or now_ms - self.since_ms > self.period_ms):
            raise Refused("light.trust_expired", f"it rests on a block of {self.since_ms} ms", "now_ms")
        header = verify_final(self.chain_id, self.latest, proof.finality)
        if now_ms is not None:
            _check_not_ahead(header, now_ms)
        found = self._follow(header, proof)
        if self.since_ms is not None:
            self.since_ms = header.time_ms
        return found

    def resume(self, proofs: Iterable[EpochProof]) -> None:
        """Advance over proofs that were checked before and kept in our own store: hashes are compared again,
        signatures are not. Raises LocalError when they do not fit."""
        try:
            for proof in proofs:
                self._follow(decode_header(proof.finality.header), proof)
        except Refused as error:
            raise LocalError(f"the store is damaged: how epoch {self.latest.epoch} ended: {error}") from None

    def fresh(self, header: Header, now_ms: int) -> None:
        """[P2] Raises Refused("light.stale" | "light.from_future") when the header's block is older than the
        period, or younger than `now_ms` by more than clocks differ."""
        _check_not_ahead(header, now_ms)
        if now_ms - header.time_ms > self.period_ms:
            days = (now_ms - header.time_ms) // 86_400_000
            raise Refused("light.stale", f"the block is {days} days old", "time_ms")

    def _follow(self, header: Header, proof: EpochProof) -> ValidatorSet:
        if header.epoch != self.latest.epoch or header.validators != self.latest.hash:
            raise Refused("light.other_validators", f"height {header.height} names another set", "validators")
        if not is_ending(header):
            raise Refused("light.no_boundary", f"height {header.height} does not end its epoch", "header")
        parent = decode_header(proof.parent)
        is_child = header.parent_hash == header_hash(proof.parent) and header.height == parent.height + 1
        if not is_child or parent.epoch != header.epoch or is_ending(parent):
            raise Refused("light.not_first", f"height {header.height} is not shown to be the first", "parent")
        found = decode_set(proof.next_set)
        if validators_hash(proof.next_set) != header.next_validators or found.epoch != header.epoch + 1:
            raise Refused("light.next_set", f"not the set that height {header.height} names", "next_set")
        self.sets.append(found)
        self.ends.append(header)
        return found


def _check_not_ahead(header: Header, now_ms: int) -> None:
    if header.time_ms > now_ms + CLOCK_DRIFT_MS_MAX:
        raise Refused("light.from_future", f"block time {header.time_ms}, here it is {now_ms}", "time_ms")


def decode_certificate(data: bytes) -> Certificate:
    """Foreign bytes to a Certificate. Raises Refused."""
    return decode_exact(Certificate, data, "certificate", CERTIFICATE_BYTES_MAX)


def decode_epoch_proof(data: bytes) -> EpochProof:
    """Foreign bytes to an EpochProof. Raises Refused("epoch_proof.…"). Nothing in it is proved yet."""
    return decode_exact(EpochProof, data, "epoch_proof", EPOCH_PROOF_BYTES_MAX)


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
        if is_ending(last) and (child.batches or child.next_validators != last.next_validators):
            raise Refused("light.tail", f"height {child.height} above an epoch's end, and not empty", "path")
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
    header = decode_header(data)
    if header.chain_id != chain_id:
        raise Refused("light.foreign_chain", f"chain {header.chain_id!r}, wanted {chain_id!r}", "chain_id")
    if header.epoch != validators.epoch or header.validators != validators.hash:
        raise Refused("light.other_validators", f"height {header.height} names another set", "validators")
    return header


def walk(trust: Trust, epochs: Sequence[EpochProof], finality: FinalityProof) -> Header:
    """[P1] The decoded final header, once `trust` has advanced over `epochs`: exactly those that lead from
    its last known epoch to the header's. Raises Refused with the broken rule."""
    for proof in epochs:
        trust.advance(proof)
    header = trust.final(finality)
    if epochs and header.epoch != trust.latest.epoch:
        raise Refused("light.surplus", f"epochs up to {trust.latest.epoch}, wanted {header.epoch}", "epochs")
    return header


class Fact(msgspec.Struct, frozen=True):
    """A proved record: `value` is None when the key was absent at `height`, executed by `time_ms`
    (the block time of the header that proves it, a little later)."""

    key: bytes
    value: bytes | None
    height: int
    time_ms: int


def verify_query(trust: Trust, data: bytes, now_ms: int | None = None) -> Fact:
    """What an encoded QueryProof proves. Raises Refused with the broken rule. With `now_ms` the proving
    block must be younger than the trust's period [P2]."""
    proof = decode_exact(QueryProof, data, "query_proof", QUERY_PROOF_BYTES_MAX)
    return check_query(trust, proof, now_ms)


def check_query(trust: Trust, proof: QueryProof, now_ms: int | None = None) -> Fact:
    """As verify_query, for a decoded proof."""
    header = trust.final(proof.finality)
    if now_ms is not None:
        trust.fresh(header, now_ms)
    if not tree.verify(header.state_root, proof.key, proof.value, proof.proof):
        raise Refused("light.state_proof", f"height {header.state_height}: not what the state holds", "proof")
    return Fact(proof.key, proof.value, header.state_height, header.time_ms)
