"""A trace in words: what travels, so that a person can follow a run."""

from __future__ import annotations

from consensus.messages import Certified, Fetch, Message, Propose, Reply, Status, Vote, decode_message
from ledger.blocks import decode_batch, decode_header
from ledger.errors import PeerFault, Refused
from ledger.proofs.certificate import Certificate, Statement


def words(data: bytes) -> str:
    """Bytes of a link, whoever made them."""
    try:
        if data[:1] == b"B":
            return f"batch of {len(decode_batch(data[1:]).txs)} transactions"
        if data[:1] == b"R":
            return f"range {'request' if data[1:2] == b'?' else 'answer'}, {len(data)} B"
        return message_words(decode_message("", data))
    except (Refused, PeerFault) as error:
        return f"{len(data)} B that are no message: {error}"


def message_words(message: Message) -> str:
    """One of the six messages."""
    match message:
        case Propose():
            place = f"on {_certificate(message.parent)}, {len(message.skips)} skips"
            return f"Propose {_header(message.header)} {place}"
        case Vote():
            return f"Vote {_statement(message.statement)} of {message.voter}"
        case Certified():
            return f"Certificate {_certificate(message.certificate)}"
        case Status():
            return f"Status at view {message.frontier}, final {_certificate(message.final)}"
        case Fetch():
            return f"Fetch {message.kind} {message.digest.hex()[:8]}"
        case Reply():
            return f"Reply {message.kind} {message.digest.hex()[:8]}, {len(message.data)} B"


def _statement(statement: Statement) -> str:
    return f"{statement.kind.name} view {statement.view} {statement.block.hex()[:8]}"


def _certificate(certificate: Certificate | None) -> str:
    if certificate is None:
        return "nothing"
    return f"{_statement(certificate.statement)} by {len(certificate.signatures)}"


def _header(data: bytes) -> str:
    try:
        header = decode_header(data)
    except Refused as error:
        return f"a header that is none ({error.rule})"
    block = header.hash.hex()[:8]
    return f"view {header.view} height {header.height} {block} with {len(header.batches)} batches"
