"""What peers say to each other besides consensus: hello, batches, tips, transactions, ranges.

Each message is the canonical msgpack of one struct; docs/spec.md lists them. On the consensus lane
only `consensus.messages` travel.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ledger import keys
from ledger.codec import decode_exact, encode
from ledger.errors import Refused
from ledger.limits import BATCH_BYTES_MAX
from ledger.proofs.certificate import Validator
from p2p.ids import public_key_of

HELLO_DOMAIN: Final = "hello/1"
HELLO_BYTES_MAX: Final = 4_096
BULK_BYTES_MAX: Final = BATCH_BYTES_MAX + 4_096
PROTOCOL: Final = 1


class Hello(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """First words. `proof` is the validator key's signature over both peer ids: it cannot be replayed
    by the peer that receives it. Both are empty for a peer that does not vote."""

    protocol: int
    chain_id: str
    genesis: bytes
    moniker: str
    roles: tuple[str, ...]
    height: int
    validator: bytes
    proof: bytes


def hello_message(speaker: str, hearer: str) -> bytes:
    """What a validator key signs: the speaker's and the hearer's node keys."""
    return public_key_of(speaker) + public_key_of(hearer)


def check_hello(data: bytes, chain_id: str, genesis: bytes, speaker: str, hearer: str) -> Hello:
    """Foreign bytes to a Hello of our chain. Raises Refused("hello.…")."""
    hello = decode_exact(Hello, data, "hello", HELLO_BYTES_MAX)
    if hello.protocol != PROTOCOL:
        raise Refused("hello.protocol", f"protocol {hello.protocol}, here {PROTOCOL}")
    if hello.chain_id != chain_id or hello.genesis != genesis:
        raise Refused("hello.foreign_chain", f"chain {hello.chain_id[:32]!r} or another genesis")
    if len(hello.moniker) > 64 or len(hello.roles) > 8 or any(len(r) > 32 for r in hello.roles):
        raise Refused("hello.shape", "moniker or roles too long")
    if not all(text.isprintable() for text in (hello.moniker, *hello.roles)) or hello.height < 0:
        raise Refused("hello.shape", "moniker or roles not printable, or a height below 0")
    if hello.validator:
        message = hello_message(speaker, hearer)
        if not keys.verify(hello.validator, HELLO_DOMAIN, chain_id, message, hello.proof):
            raise Refused("hello.proof", "not the validator key's signature over both peers")
    return hello


class BatchPush(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag="batch"):
    """A batch for validators: new, or asked for with Fetch."""

    data: bytes


class TipNote(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag="tip"):
    """The sender holds final blocks up to here. A hint: nothing is believed before it is proved."""

    height: int
    time_ms: int


class TxPush(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True, tag="tx"):
    """A signed transaction for a validator's mempool."""

    raw: bytes


Bulk = BatchPush | TipNote | TxPush


def decode_bulk(data: bytes) -> Bulk:
    """Foreign bytes of the bulk lane. Raises Refused("bulk.…")."""
    return decode_exact(Bulk, data, "bulk", BULK_BYTES_MAX)  # type: ignore[arg-type]


class RangeRequest(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Final blocks from a height on: the method "blocks". `blocks_max`: no more than so many, but for a run
    that only a later block's certificate proves; 0: as many as fit."""

    first: int
    size_bytes_max: int
    blocks_max: int


class Announcement(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Gossip of a final block: header and the Final certificate that names it."""

    header: bytes
    certificate: bytes


def topic(chain_id: str, kind: str) -> str:
    """Name of a gossip topic: contracts, approvals, transactions, blocks."""
    return f"/gridpact/{chain_id}/{kind}/1"


GENESIS_PROTOCOL: Final = "/gridpact/genesis/1"  # a public value (p2p.public): canonical JSON, for who joins
TOPIC_KINDS: Final = ("contracts", "approvals", "transactions", "blocks")


def is_member(hello: Hello, members: tuple[Validator, ...]) -> int | None:
    """Index of the validator that this hello proves, or None."""
    return (
        next((i for i, v in enumerate(members) if v.key == hello.validator), None)
        if hello.validator
        else None
    )


__all__ = [
    "GENESIS_PROTOCOL",
    "Announcement",
    "BatchPush",
    "Bulk",
    "Hello",
    "RangeRequest",
    "TipNote",
    "TxPush",
    "check_hello",
    "decode_bulk",
    "encode",
    "hello_message",
    "is_member",
    "topic",
]
