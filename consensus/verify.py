"""What must hold of a message before the core sees it. Pure, so that it can run off the loop.

Everything that a peer claims is checked here: signatures, certificates, shapes. The core then
decides by the protocol alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from consensus.leader import leader
from consensus.limits import SKIPS_PER_PROPOSAL_MAX, STATUS_VIEWS_MAX
from consensus.messages import Certified, Fetch, Message, Propose, Received, Reply, Status, Vote
from ledger import keys
from ledger.blocks import ZERO_HASH, Header, batch_digest, decode_header
from ledger.errors import PeerFault, Refused
from ledger.proofs.certificate import (
    PROPOSE_DOMAIN,
    VOTE_DOMAIN,
    Certificate,
    Scheme,
    Statement,
    ValidatorSet,
    VoteKind,
    vote_message,
)


@dataclass(frozen=True, slots=True)
class Rules:
    """What a message is checked against. `known` tells certificates that were verified before."""

    chain_id: str
    validators: ValidatorSet
    scheme: Scheme
    known: Callable[[Statement], bool]


def check(rules: Rules, sender: int, message: Message) -> Received:
    """The event for a message of validator `sender`. Raises PeerFault naming the rule."""
    peer = rules.validators.members[sender].moniker
    try:
        return _check(rules, sender, message)
    except Refused as error:
        raise PeerFault(peer, f"consensus.{error.rule}", error.detail) from None


def _check(rules: Rules, sender: int, message: Message) -> Received:
    match message:
        case Propose():
            return Received(sender, message, _check_proposal(rules, message))
        case Vote():
            if message.voter != sender:
                raise Refused("vote.voter", "a vote is sent by its voter")
            _check_statement(rules, message.statement)
            signed = keys.tagged(VOTE_DOMAIN, rules.chain_id, vote_message(message.statement))
            if not keys.verify_raw(rules.validators.members[sender].key, signed, message.signature):
                raise Refused("vote.signature")
        case Certified():
            _check_certificate(rules, message.certificate)
        case Status():
            if message.epoch != rules.validators.epoch:
                raise Refused("status.epoch", str(message.epoch))
            if message.final is not None:
                if message.final.statement.kind is not VoteKind.FINAL:
                    raise Refused("status.final", "not a Final certificate")
                _check_certificate(rules, message.final)
                if message.base != message.final.statement.view:
                    raise Refused("status.base", "not the view of the Final certificate")
            is_long = max(len(message.notars), len(message.skips)) * 8 > STATUS_VIEWS_MAX
            if is_long or message.frontier < 1 or message.base < 0:
                raise Refused("status.range", f"at most {STATUS_VIEWS_MAX} views")
        case Fetch() | Reply():
            return Received(sender, message, _check_fetch(message))
    return Received(sender, message)


def _check_proposal(rules: Rules, message: Propose) -> Header:
    header = decode_header(message.header)
    if header.chain_id != rules.chain_id:
        raise Refused("propose.foreign_chain", header.chain_id)
    if header.epoch != rules.validators.epoch:
        raise Refused("propose.epoch", str(header.epoch))
    if rules.validators.members[leader(rules.validators, header.view)].key != header.proposer:
        raise Refused("propose.not_leader", f"view {header.view}")
    signed = keys.tagged(PROPOSE_DOMAIN, rules.chain_id, header.hash)
    if not keys.verify_raw(header.proposer, signed, message.signature):
        raise Refused("propose.signature")
    if message.parent is not None:
        statement = message.parent.statement
        named = (statement.view, statement.block) == (header.parent_view, header.parent_hash)
        if statement.kind is VoteKind.SKIP or not named:
            raise Refused("propose.parent", "the certificate is not of the parent")
        _check_certificate(rules, message.parent)
    if len(message.skips) > SKIPS_PER_PROPOSAL_MAX:
        raise Refused("propose.skips", f"at most {SKIPS_PER_PROPOSAL_MAX}")
    for certificate in message.skips:
        statement = certificate.statement
        ends = header.next_validators != header.validators  # [12] then Notar of its tail passes, too
        is_kind = statement.kind is VoteKind.SKIP or (ends and statement.kind is VoteKind.NOTAR)
        if not is_kind or not header.parent_view < statement.view < header.view:
            raise Refused("propose.skips", f"view {statement.view} is not between parent and block")
        _check_certificate(rules, certificate)
    return header


def _check_statement(rules: Rules, statement: Statement) -> None:
    if statement.epoch != rules.validators.epoch:
        raise Refused("vote.epoch", str(statement.epoch))
    if statement.view < 1 or len(statement.block) != 32:
        raise Refused("vote.shape", "view >= 1 and 32 bytes of hash wanted")
    if (statement.kind is VoteKind.SKIP) != (statement.block == ZERO_HASH):
        raise Refused("vote.shape", "Skip names no block, the others do")


def _check_certificate(rules: Rules, certificate: Certificate) -> None:
    if rules.known(certificate.statement):
        return
    _check_statement(rules, certificate.statement)
    rules.scheme.verify(rules.chain_id, rules.validators, certificate)


def _check_fetch(message: Fetch | Reply) -> Header | None:
    if message.kind not in ("header", "batch") or len(message.digest) != 32:
        raise Refused("fetch.shape", "kind header or batch, digest of 32 bytes")
    if isinstance(message, Fetch) or not message.data:
        return None
    if message.kind == "batch":
        if batch_digest(message.data) != message.digest:
            raise Refused("reply.digest", "the bytes are not those asked for")
        return None
    header = decode_header(message.data)
    if header.hash != message.digest:
        raise Refused("reply.digest", "the bytes are not those asked for")
    return header
