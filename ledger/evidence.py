"""Evidence of equivocation: two statements of one validator that no honest one makes, as it signed them.

It proves itself: whoever knows the validator set needs nothing else. Offences, always by one validator in one
view of one epoch (rule 11 of docs/spec.md, section 10):
  two Notars, two Finals, or Notar and Final, of different blocks (an honest Final follows the own Notar);
  Skip and Final;
  two proposals.
Not an offence: Notar and Final of one block, and Notar and Skip (a timeout may follow the own Notar).
"""

from __future__ import annotations

from typing import Final

import msgspec

from ledger import keys
from ledger.blocks import ZERO_HASH, Header, decode_header
from ledger.errors import Refused
from ledger.proofs.certificate import (
    PROPOSE_DOMAIN,
    VOTE_DOMAIN,
    Statement,
    ValidatorSet,
    VoteKind,
    vote_message,
)


class _Part(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Base of the parts of evidence."""


class SignedVote(_Part, frozen=True):
    """A vote and its voter's signature."""

    statement: Statement
    signature: bytes


class SignedHeader(_Part, frozen=True):
    """A proposal: the exact bytes of the header, and the proposer's signature over its hash."""

    header: bytes
    signature: bytes


class TwoVotes(_Part, frozen=True, tag="votes"):
    """Two votes that no honest validator both casts. `validator`: the key that signed both."""

    validator: bytes
    first: SignedVote
    second: SignedVote


class TwoProposals(_Part, frozen=True, tag="proposals"):
    """Two blocks that one leader proposed in one view."""

    first: SignedHeader
    second: SignedHeader


Evidence = TwoVotes | TwoProposals

_NAMES: Final = {
    frozenset((VoteKind.NOTAR,)): "two_notars",
    frozenset((VoteKind.FINAL,)): "two_finals",
    frozenset((VoteKind.NOTAR, VoteKind.FINAL)): "notar_and_final",
    frozenset((VoteKind.SKIP, VoteKind.FINAL)): "skip_and_final",
}


def conflict(first: Statement, second: Statement) -> bool:
    """True when no honest validator signs both; they are of the same epoch and view."""
    kinds = {first.kind, second.kind}
    if VoteKind.SKIP in kinds:
        return VoteKind.FINAL in kinds
    return first.block != second.block


def offence_name(evidence: Evidence) -> str:
    """What was done, in a word: two_notars, two_finals, notar_and_final, skip_and_final, two_proposals."""
    if isinstance(evidence, TwoProposals):
        return "two_proposals"
    return _NAMES.get(frozenset((evidence.first.statement.kind, evidence.second.statement.kind)), "none")


def accused(evidence: Evidence) -> bytes:
    """The key of the validator that it is against. Raises Refused for a malformed header."""
    if isinstance(evidence, TwoVotes):
        return evidence.validator
    return decode_header(evidence.first.header).proposer


def offence_epoch(evidence: Evidence) -> int:
    """The epoch that the first statement names: the evidence is to be checked against that epoch's set.
    Raises Refused for a malformed header."""
    if isinstance(evidence, TwoVotes):
        return evidence.first.statement.epoch
    return decode_header(evidence.first.header).epoch


def check_evidence(chain_id: str, validators: ValidatorSet, evidence: Evidence) -> int:
    """The offender's index in `validators`. Raises Refused("evidence.…", or "header.…") unless it proves."""
    if isinstance(evidence, TwoProposals):
        return _check_proposals(chain_id, validators, evidence)
    return _check_votes(chain_id, validators, evidence)


def _check_votes(chain_id: str, validators: ValidatorSet, evidence: TwoVotes) -> int:
    first, second = evidence.first.statement, evidence.second.statement
    index = _member(validators, evidence.validator)
    for name, statement in (("first", first), ("second", second)):
        is_skip = statement.kind is VoteKind.SKIP
        if len(statement.block) != 32 or is_skip != (statement.block == ZERO_HASH) or statement.view < 1:
            raise Refused("evidence.vote", "view >= 1; 32 bytes of hash, zero for Skip alone", name)
    _check_place(validators, (first.epoch, first.view), (second.epoch, second.view))
    if first == second:
        raise Refused("evidence.same", "one vote twice")
    if not conflict(first, second):
        raise Refused("evidence.compatible", f"{first.kind.name} and {second.kind.name}")
    for name, vote in (("first", evidence.first), ("second", evidence.second)):
        _check_signature(
            chain_id, VOTE_DOMAIN, evidence.validator, vote_message(vote.statement), vote.signature, name
        )
    return index


def _check_proposals(chain_id: str, validators: ValidatorSet, evidence: TwoProposals) -> int:
    first, second = decode_header(evidence.first.header), decode_header(evidence.second.header)
    if first.chain_id != chain_id or second.chain_id != chain_id:
        raise Refused("evidence.foreign_chain", f"here {chain_id!r}")
    index = _member(validators, first.proposer)
    if first.proposer != second.proposer:
        raise Refused("evidence.signers", "two proposers")
    _check_place(validators, _place(first), _place(second))
    if evidence.first.header == evidence.second.header:
        raise Refused("evidence.same", "one proposal twice")
    for name, header, signature in (
        ("first", first, evidence.first.signature),
        ("second", second, evidence.second.signature),
    ):
        _check_signature(chain_id, PROPOSE_DOMAIN, header.proposer, header.hash, signature, name)
    return index


def _place(header: Header) -> tuple[int, int]:
    return header.epoch, header.view


def _member(validators: ValidatorSet, key: bytes) -> int:
    index = validators.index(key)
    if index is None:
        raise Refused("evidence.not_a_validator", f"{keys.short(key)} is not in the set")
    return index


def _check_place(validators: ValidatorSet, first: tuple[int, int], second: tuple[int, int]) -> None:
    if first[0] != validators.epoch or second[0] != validators.epoch:
        detail = f"epochs {first[0]} and {second[0]}, the set is of {validators.epoch}"
        raise Refused("evidence.epoch", detail)
    if first[1] != second[1]:
        raise Refused("evidence.views", f"views {first[1]} and {second[1]}")


def _check_signature(
    chain_id: str, domain: str, key: bytes, message: bytes, signature: bytes, name: str
) -> None:
    if not keys.verify(key, domain, chain_id, message, signature):
        raise Refused("evidence.signature", "not the validator's", name)
