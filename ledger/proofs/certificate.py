"""Validator sets, votes and certificates, and how an auditor checks them with nothing else.

A certificate is a bitmap of voters and their signatures. `Scheme` is the seam for another
aggregate (BLS): it builds and checks, callers never look inside.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from ledger import keys
from ledger.blocks import validators_hash
from ledger.codec import encode
from ledger.errors import Refused
from ledger.limits import NAME_CHARS_MAX, VALIDATORS_MAX, WEIGHT_MAX
from ledger.proofs.quorum import quorum, weight_of


class VoteKind(enum.IntEnum):
    """The three statements of Simplex (design section 6)."""

    NOTAR = 1
    SKIP = 2
    FINAL = 3


class Validator(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A voter: its 32-byte validator key, weight >= 1, and a name for people."""

    key: bytes
    weight: int
    moniker: str


class ValidatorSet(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The voters of one epoch, in the order of the bitmap."""

    epoch: int
    members: tuple[Validator, ...]

    @property
    def total(self) -> int:
        return sum(v.weight for v in self.members)

    @property
    def quorum(self) -> int:
        """Smallest weight that is a BFT quorum (ledger.proofs.quorum)."""
        return quorum(self.total)

    def reached(self, members: Iterable[int]) -> bool:
        """True when these members, by index, together are a BFT quorum."""
        return weight_of(members, [v.weight for v in self.members]) >= self.quorum

    @property
    def hash(self) -> bytes:
        return validators_hash(encode(self))

    def index(self, key: bytes) -> int | None:
        """Position of a key, or None."""
        return next((i for i, v in enumerate(self.members) if v.key == key), None)

    def check(self) -> None:
        """Raises Refused unless 1..VALIDATORS_MAX distinct keys with weights of 1 to WEIGHT_MAX and names."""
        if not 1 <= len(self.members) <= VALIDATORS_MAX:
            raise Refused("validators.count", f"1 to {VALIDATORS_MAX}")
        if len({v.key for v in self.members}) != len(self.members):
            raise Refused("validators.duplicate", "a key appears twice")
        for v in self.members:
            if len(v.key) != 32 or not 1 <= v.weight <= WEIGHT_MAX:
                raise Refused("validators.member", "key of 32 bytes, weight of 1 to 2^32", v.moniker[:64])
            if not 1 <= len(v.moniker) <= NAME_CHARS_MAX:
                raise Refused("validators.member", f"a name of 1 to {NAME_CHARS_MAX} characters", "moniker")


class Statement(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What a vote certifies. `block` is the header hash; 32 zero bytes for SKIP."""

    kind: VoteKind
    epoch: int
    view: int
    block: bytes


class Certificate(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Votes of a quorum for one statement: bit i of `bitmap` (little-endian bits) is member i."""

    statement: Statement
    bitmap: bytes
    signatures: tuple[bytes, ...]


VOTE_DOMAIN: Final = "vote/1"
PROPOSE_DOMAIN: Final = "propose/1"  # over the hash of a proposed header


def vote_message(statement: Statement) -> bytes:
    """The bytes a validator signs for a statement (under VOTE_DOMAIN and the chain id)."""
    return encode(statement)


class Scheme(Protocol):
    """How votes become certificates. Implementations are stateless."""

    def assemble(self, statement: Statement, votes: Mapping[int, bytes], size: int) -> Certificate:
        """A certificate from signatures by member index, for a set of `size` members."""

    def verify(self, chain_id: str, validators: ValidatorSet, certificate: Certificate) -> None:
        """Raises Refused unless a quorum of `validators` signed the statement."""


class Ed25519Scheme:
    """Certificates as plain lists of Ed25519 signatures, in member order."""

    def assemble(self, statement: Statement, votes: Mapping[int, bytes], size: int) -> Certificate:
        bitmap = bytearray((size + 7) // 8)
        for index in votes:
            bitmap[index // 8] |= 1 << (index % 8)
        return Certificate(statement, bytes(bitmap), tuple(votes[i] for i in sorted(votes)))

    def verify(self, chain_id: str, validators: ValidatorSet, certificate: Certificate) -> None:
        statement = certificate.statement
        if statement.epoch != validators.epoch:
            raise Refused("certificate.epoch", f"{statement.epoch}, the set is of {validators.epoch}")
        signers = certificate_signers(certificate, len(validators.members))
        if not validators.reached(signers):
            raise Refused("certificate.no_quorum", f"{len(signers)} signers")
        message = keys.tagged(VOTE_DOMAIN, chain_id, vote_message(statement))
        for index, signature in zip(signers, certificate.signatures, strict=True):
            if not keys.verify_raw(validators.members[index].key, message, signature):
                raise Refused("certificate.signature", f"member {index}")


def certificate_signers(certificate: Certificate, size: int) -> Sequence[int]:
    """Member indexes named by the bitmap. Raises Refused when it does not fit the set or signatures."""
    if len(certificate.bitmap) != (size + 7) // 8 or len(certificate.statement.block) != 32:
        raise Refused("certificate.malformed", "bitmap or block of a wrong length")
    signers = [i for i in range(len(certificate.bitmap) * 8) if certificate.bitmap[i // 8] >> (i % 8) & 1]
    if len(signers) != len(certificate.signatures) or (signers and signers[-1] >= size):
        raise Refused("certificate.malformed", "bitmap and signatures do not match")
    return signers


def single_signatures(certificate: Certificate, size: int) -> dict[int, bytes]:
    """The voters' own signatures by member index, of a verified certificate for a set of `size` members;
    empty when its scheme has aggregated them."""
    try:
        signers = certificate_signers(certificate, size)
    except Refused:
        return {}
    return dict(zip(signers, certificate.signatures, strict=True))
