"""What `verify.check` and `decode_message` refuse, each under its own rule; nothing else escapes."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.limits import MESSAGE_BYTES_MAX, SKIPS_PER_PROPOSAL_MAX
from consensus.messages import (
    Certified,
    Fetch,
    Message,
    Propose,
    Reply,
    Status,
    Vote,
    decode_message,
    encode_message,
)
from consensus.verify import Rules, check
from ledger.blocks import ZERO_HASH, Batch, batch_digest
from ledger.codec import encode, sha256
from ledger.errors import PeerFault
from ledger.proofs.certificate import Certificate, Ed25519Scheme, Statement
from tests.consensus.support import (
    CHAIN,
    FINAL,
    KEYS,
    NOTAR,
    SET,
    SKIP,
    certificate,
    header,
    propose,
    vote,
)

RULES = Rules(CHAIN, SET, Ed25519Scheme(), lambda statement: False)
BLOCK = header(1)
HASH = BLOCK.hash


def refusal(message: Message, sender: int = 1, rules: Rules = RULES) -> str:
    """The rule that refuses a message."""
    with pytest.raises(PeerFault) as caught:
        check(rules, sender, message)
    assert caught.value.peer == f"v{sender}"
    return caught.value.rule


def change(struct: msgspec.Struct, **changes: object) -> msgspec.Struct:
    return msgspec.structs.replace(struct, **changes)


def test_good_messages_pass() -> None:
    """The honest forms of all messages, so that the refusals below are not for another reason."""
    second = header(3, parent=BLOCK)
    batch = encode(Batch((b"tx",)))
    good: list[Message] = [
        propose(BLOCK),
        propose(second, certificate(NOTAR, 1, HASH), [certificate(SKIP, 2)]),
        propose(second, certificate(FINAL, 1, HASH), [certificate(SKIP, 2)]),
        vote(1, NOTAR, 1, HASH),
        vote(1, SKIP, 1),
        Certified(certificate(SKIP, 4)),
        Status(0, certificate(FINAL, 1, HASH), 1, 2, b"\x01", b""),
        Fetch("header", HASH),
        Reply("header", HASH, BLOCK.encode()),
        Reply("header", HASH, b""),
        Reply("batch", batch_digest(batch), batch),
    ]
    for message in good:
        assert check(RULES, 1, decode_message("v1", encode_message(message))).message == message


CASES: dict[str, tuple[Message, str]] = {
    "foreign chain": (propose(header(1, chain_id="other")), "propose.foreign_chain"),
    "foreign epoch": (propose(header(1, epoch=1)), "propose.epoch"),
    "not the leader": (propose(header(1, proposer=KEYS[2].public)), "propose.not_leader"),
    "signature of a proposal": (change(propose(BLOCK), signature=bytes(64)), "propose.signature"),  # type: ignore[dict-item]
    "short signature": (change(propose(BLOCK), signature=b""), "propose.signature"),  # type: ignore[dict-item]
    "parent of another block": (
        propose(header(2, parent=BLOCK), certificate(NOTAR, 1, sha256(b"x"))),
        "propose.parent",
    ),
    "skip as parent": (propose(header(2), certificate(SKIP, 1)), "propose.parent"),
    "notar among the skips": (propose(header(2), None, [certificate(NOTAR, 1, HASH)]), "propose.skips"),
    "skip not between": (propose(header(2), None, [certificate(SKIP, 2)]), "propose.skips"),
    "skip without quorum": (
        propose(header(2), None, [certificate(SKIP, 1, signers=(1, 2))]),
        "certificate.no_quorum",
    ),
    "too many skips": (
        propose(header(99), None, [certificate(SKIP, 1)] * (SKIPS_PER_PROPOSAL_MAX + 1)),
        "propose.skips",
    ),
    "another's vote": (vote(2, SKIP, 1), "vote.voter"),
    "vote index out of range": (change(vote(1, SKIP, 1), voter=9), "vote.voter"),  # type: ignore[dict-item]
    "vote signature": (change(vote(1, SKIP, 1), signature=vote(2, SKIP, 1).signature), "vote.signature"),  # type: ignore[dict-item]
    "vote of another view's signature": (
        change(vote(1, SKIP, 1), signature=vote(1, SKIP, 2).signature),
        "vote.signature",  # type: ignore[dict-item]
    ),
    "vote epoch": (vote(1, SKIP, 1, epoch=3), "vote.epoch"),
    "vote view 0": (vote(1, SKIP, 0), "vote.shape"),
    "skip that names a block": (vote(1, SKIP, 1, HASH), "vote.shape"),
    "notar of nothing": (vote(1, NOTAR, 1), "vote.shape"),
    "short hash": (vote(1, NOTAR, 1, b"short"), "vote.shape"),
    "certificate without quorum": (
        Certified(certificate(FINAL, 1, HASH, signers=(1, 2))),
        "certificate.no_quorum",
    ),
    "status that is not Final": (Status(0, certificate(NOTAR, 1, HASH), 0, 1, b"", b""), "status.final"),
    "status without quorum": (
        Status(0, certificate(FINAL, 1, HASH, (0, 3)), 1, 1, b"", b""),
        "certificate.no_quorum",
    ),
    "status of another epoch": (Status(1, None, 0, 1, b"", b""), "status.epoch"),
    "status whose map begins elsewhere": (
        Status(0, certificate(FINAL, 1, HASH), 0, 2, b"", b""),
        "status.base",
    ),
    "status below genesis": (Status(0, None, -1, 1, b"", b""), "status.range"),
    "status too long": (Status(0, None, 0, 1, bytes(129), b""), "status.range"),
    "status at view 0": (Status(0, None, 0, 0, b"", b""), "status.range"),
    "fetch of a strange kind": (Fetch("secret", HASH), "fetch.shape"),
    "fetch of a short digest": (Fetch("batch", b"x"), "fetch.shape"),
    "reply with other bytes": (Reply("header", HASH, header(2).encode()), "reply.digest"),
    "reply with another batch": (Reply("batch", HASH, encode(Batch((b"tx",)))), "reply.digest"),
    "reply with no batch": (Reply("batch", HASH, b"junk"), "batch.malformed"),
    "reply with no header": (Reply("header", HASH, b"junk"), "header.malformed"),
}


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str) -> None:
    """Each is refused under its own rule."""
    message, rule = CASES[name]
    assert refusal(message) == f"consensus.{rule}"


def test_certificate_with_one_bad_signature_is_refused() -> None:
    """Every signature is checked, not the first ones."""
    made = certificate(FINAL, 1, HASH)
    for place in range(3):
        signatures = list(made.signatures)
        signatures[place] = bytes(64)
        bad = Certificate(made.statement, made.bitmap, tuple(signatures))
        assert refusal(Certified(bad)) == "consensus.certificate.signature"


@pytest.mark.parametrize("bitmap", [b"", b"\x0e\x00", b"\x1e", b"\x1c", b"\xff"])
def test_certificate_with_a_wrong_bitmap_is_refused(bitmap: bytes) -> None:
    """Wrong length, members that do not exist, more or other signers than signatures."""
    made = certificate(FINAL, 1, HASH)
    rule = refusal(Certified(Certificate(made.statement, bitmap, made.signatures)))
    assert rule in ("consensus.certificate.malformed", "consensus.certificate.signature")


def test_signature_of_another_chain_is_refused() -> None:
    """The chain id is under every signature."""
    other = replace(RULES, chain_id="other")
    assert refusal(vote(1, SKIP, 1), rules=other) == "consensus.vote.signature"
    assert refusal(Certified(certificate(SKIP, 1)), rules=other) == "consensus.certificate.signature"


def test_known_certificates_are_not_verified_again() -> None:
    """What the core holds already costs nothing: that is the point of `known`."""
    known = replace(RULES, known=lambda statement: True)
    empty = Certificate(Statement(SKIP, 0, 1, ZERO_HASH), b"", ())
    assert check(known, 1, Certified(empty)).message == Certified(empty)


def decoding_rule(data: bytes) -> str:
    with pytest.raises(PeerFault) as caught:
        decode_message("v1", data)
    return caught.value.rule


def test_too_long_messages_are_refused() -> None:
    """Before anything is decoded."""
    assert decoding_rule(bytes(MESSAGE_BYTES_MAX + 1)) == "consensus.message.too_long"


def test_other_encodings_are_refused() -> None:
    """Trailing bytes, long integer forms, missing and additional fields."""
    data = encode_message(Fetch("batch", HASH))
    assert decoding_rule(data + b"\xc0") == "consensus.message.malformed"
    assert decoding_rule(b"") == "consensus.message.malformed"
    assert (
        decoding_rule(b"\xdc\x00\x03" + data[1:]) == "consensus.message.not_canonical"
    )  # array16 for a fixarray
    assert decoding_rule(b"\x94" + data[1:] + b"\xc0") == "consensus.message.malformed"
    assert decoding_rule(encode(["gossip", 1])) == "consensus.message.malformed"
    status = encode_message(Status(0, None, 0, 5, b"", b""))
    assert decoding_rule(status.replace(b"\x05", b"\xcc\x05", 1)) == "consensus.message.not_canonical"


SAMPLES = [
    encode_message(message)
    for message in (
        propose(header(3, parent=BLOCK), certificate(NOTAR, 1, HASH), [certificate(SKIP, 2)]),
        vote(1, NOTAR, 1, HASH),
        Certified(certificate(FINAL, 1, HASH)),
        Status(0, certificate(FINAL, 1, HASH), 1, 2, b"\x01", b""),
        Fetch("batch", HASH),
        Reply("header", HASH, BLOCK.encode()),
    )
]


def refuse_or_pass(data: bytes) -> None:
    """Decode and check: PeerFault is the only exception that may escape."""
    try:
        message = decode_message("v1", data)
        check(RULES, 1, message)
    except PeerFault:
        return
    assert encode_message(message) == data


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_raise_peer_fault_only(data: bytes) -> None:
    """Whatever comes."""
    refuse_or_pass(data)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SAMPLES), st.data())
def test_damaged_messages_raise_peer_fault_only(sample: bytes, data: st.DataObject) -> None:
    """Good messages with a few bytes changed, removed or put in: these come further than random ones."""
    damaged = bytearray(sample)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        match data.draw(st.sampled_from(("set", "insert", "remove"))):
            case "set":
                damaged[place] = data.draw(st.integers(0, 255))
            case "insert":
                damaged.insert(place, data.draw(st.integers(0, 255)))
            case _:
                if len(damaged) > 1:
                    del damaged[place]
    refuse_or_pass(bytes(damaged))


U64 = st.integers(0, 2**64 - 1)
HASHES = st.one_of(st.just(ZERO_HASH), st.just(HASH), st.binary(max_size=40))
STATEMENTS = st.builds(Statement, st.sampled_from((NOTAR, SKIP, FINAL)), U64, U64, HASHES)
CERTIFICATES = st.builds(
    Certificate, STATEMENTS, st.binary(max_size=3), st.lists(st.binary(max_size=70), max_size=4).map(tuple)
)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.builds(Vote, STATEMENTS, U64, st.binary(max_size=70)),
        st.builds(Certified, CERTIFICATES),
        st.builds(Status, st.none() | CERTIFICATES, U64, st.binary(max_size=200), st.binary(max_size=200)),
        st.builds(Fetch, st.text(max_size=8), HASHES),
        st.builds(Reply, st.sampled_from(("header", "batch", "")), HASHES, st.binary(max_size=60)),
        st.builds(
            Propose,
            st.just(BLOCK.encode()) | st.binary(max_size=60),
            st.binary(max_size=70),
            st.none() | CERTIFICATES,
            st.lists(CERTIFICATES, max_size=3).map(tuple),
        ),
    )
)
def test_well_formed_nonsense_raises_peer_fault_only(message: Message) -> None:
    """Messages of the right types with wild values."""
    refuse_or_pass(encode_message(message))
