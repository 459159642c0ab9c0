"""Hellos: proofs are of one pair of peers, bad shapes are refused; foreign bytes raise Refused only."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.codec import encode
from ledger.errors import Refused
from node.wire import (
    HELLO_DOMAIN,
    PROTOCOL,
    BatchPush,
    Hello,
    TipNote,
    TxPush,
    check_hello,
    decode_bulk,
    hello_message,
    is_member,
)
from p2p.ids import peer_id_of
from tests.node.network_fixture import CHAIN_ID, genesis, key

A, B, C = (peer_id_of(key(name).public) for name in ("a", "b", "c"))
GENESIS = genesis(4)


def hello(speaker: str, hearer: str, **changes: Any) -> bytes:
    voter = key("validator1")
    proof = voter.sign(HELLO_DOMAIN, CHAIN_ID, hello_message(speaker, hearer))
    made = Hello(PROTOCOL, CHAIN_ID, GENESIS.hash, "m", ("validator",), 5, voter.public, proof)
    return encode(msgspec.structs.replace(made, **changes))


def check(data: bytes, speaker: str, hearer: str) -> Hello:
    return check_hello(data, CHAIN_ID, GENESIS.hash, speaker, hearer)


def test_a_proved_validator_is_a_member() -> None:
    assert is_member(check(hello(A, B), A, B), GENESIS.validator_set.members) == 1


@pytest.mark.parametrize(("speaker", "hearer"), [(C, B), (A, C), (B, A), (B, C)])
def test_a_hello_cannot_be_used_by_or_towards_another(speaker: str, hearer: str) -> None:
    with pytest.raises(Refused, match=r"hello\.proof"):
        check(hello(A, B), speaker, hearer)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"protocol": 2}, "hello.protocol"),
        ({"chain_id": "other"}, "hello.foreign_chain"),
        ({"genesis": bytes(32)}, "hello.foreign_chain"),
        ({"moniker": "m" * 65}, "hello.shape"),
        ({"moniker": "\x1b[2Jcleared"}, "hello.shape"),
        ({"roles": ("r",) * 9}, "hello.shape"),
        ({"roles": ("a\nb",)}, "hello.shape"),
        ({"height": -1}, "hello.shape"),
        ({"proof": bytes(64)}, "hello.proof"),
        ({"proof": b""}, "hello.proof"),
        ({"validator": key("validator2").public}, "hello.proof"),
        ({"validator": b"short"}, "hello.proof"),
    ],
)
def test_bad_hellos_are_refused_by_rule(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(Refused) as refusal:
        check(hello(A, B, **changes), A, B)
    assert refusal.value.rule == rule


def test_without_a_key_one_is_no_member() -> None:
    plain = check(hello(A, B, validator=b"", proof=b""), A, B)
    assert is_member(plain, GENESIS.validator_set.members) is None
    stranger = key("stranger")
    proof = stranger.sign(HELLO_DOMAIN, CHAIN_ID, hello_message(A, B))
    known = check(hello(A, B, validator=stranger.public, proof=proof), A, B)
    assert is_member(known, GENESIS.validator_set.members) is None


@given(st.binary(max_size=200))
def test_foreign_bytes_raise_refused_only(data: bytes) -> None:
    for decoder in (decode_bulk, lambda found: check(found, A, B)):
        try:
            decoder(data)
        except Refused as error:
            assert error.rule.startswith(("bulk.", "hello."))


@pytest.mark.parametrize("message", [BatchPush(b"x"), TipNote(2**60, 0), TxPush(b"y")])
def test_bulk_messages_are_taken_in_their_one_encoding_only(message: Any) -> None:
    data = encode(message)
    assert decode_bulk(data) == message
    with pytest.raises(Refused):
        decode_bulk(data + b"\0")
