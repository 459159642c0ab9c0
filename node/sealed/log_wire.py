"""What a consumer and the holder of a slot say to each other about logs.

The consumer signs what it asks; any peer may carry the question. The answer is sealed to the consumer's
account key, so that whoever carries it cannot read it, and signed by the node that gave it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ledger.codec import decode, decode_exact, encode
from ledger.errors import Refused
from ledger.keys import Key, verify
from node.limits import LOG_TAIL_BYTES_MAX
from node.sealed.sealing import seal, unseal

LOGS: Final = "logs"
_ASK_DOMAIN: Final = "logs-ask/1"
_ANSWER_DOMAIN: Final = "logs-answer/1"
NONCE_BYTES: Final = 16
ASK_BYTES_MAX: Final = 1_024
ANSWER_BYTES_MAX: Final = LOG_TAIL_BYTES_MAX + 4_096


class _Wire(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Base of what is sent."""


class Question(_Wire, frozen=True):
    """`height` is of a block that the asker knows: a question is good for some minutes. `nonce` tells its
    answer from those to others."""

    chain_id: str
    deployment: bytes
    slot: str
    node: bytes
    account: bytes
    last_bytes: int
    height: int
    nonce: bytes


class SignedQuestion(_Wire, frozen=True):
    question: Question
    signature: bytes


class Tail(_Wire, frozen=True):
    """The newest bytes that a slot's workload wrote in a term. `runs`: more may come."""

    term: int
    runs: bool
    data: bytes


class Answer(_Wire, frozen=True):
    sealed: bytes
    signature: bytes  # the node's, over question and box


def make_question(key: Key, question: Question) -> bytes:
    """Bytes to send."""
    signature = key.sign(_ASK_DOMAIN, question.chain_id, encode(question))
    return encode(SignedQuestion(question, signature))


def read_question(data: bytes) -> SignedQuestion:
    """Foreign bytes; not judged yet. Raises Refused: logs.malformed, logs.too_long, logs.not_canonical."""
    return decode_exact(SignedQuestion, data, "logs", ASK_BYTES_MAX)


def is_signed(signed: SignedQuestion) -> bool:
    """Whether the account that it names has asked this."""
    question = signed.question
    return verify(question.account, _ASK_DOMAIN, question.chain_id, encode(question), signed.signature)


def make_answer(key: Key, question: Question, tail: Tail) -> bytes:
    """Bytes to send, which the account that asked opens, and nobody else. Raises Refused("seal.key")."""
    sealed = seal(question.account, encode(tail))
    signature = key.sign(_ANSWER_DOMAIN, question.chain_id, encode(question) + sealed)
    return encode(Answer(sealed, signature))


def open_answer(key: Key, question: Question, data: bytes) -> Tail:
    """What the node answered to exactly this. Raises Refused: logs.malformed, logs.signature (not of this
    node, or an answer to another question), seal.not_ours."""
    answer = decode_exact(Answer, data, "logs", ANSWER_BYTES_MAX)
    signed = encode(question) + answer.sealed
    if not verify(question.node, _ANSWER_DOMAIN, question.chain_id, signed, answer.signature):
        raise Refused("logs.signature", "not this node's answer to this question")
    try:
        return decode(Tail, unseal(key, answer.sealed))
    except (msgspec.MsgspecError, ValueError):
        raise Refused("logs.malformed", "what was sealed is no log") from None
