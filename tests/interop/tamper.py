"""Wrong certificates and approvals, made from good ones. Each breaks the one rule that it is named by."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import replace

from ledger.blocks import decode_header
from ledger.codec import decode, encode
from ledger.documents import sign_approval, sign_payload
from ledger.keys import Key
from ledger.predicates import ApprovalPredicate
from ledger.proofs.certificate import VOTE_DOMAIN, Certificate, Statement, VoteKind, vote_message

STRANGERS: Final = tuple(Key(bytes([n]) * 32) for n in range(1, 5))  # keys that no genesis names


@dataclass(frozen=True, slots=True)
class Proved:
    """A header with the Final certificate that names it, both encoded."""

    header: bytes
    certificate: bytes

    @property
    def opened(self) -> Certificate:
        """The certificate, decoded."""
        return decode(Certificate, self.certificate)


def _signature(good: Proved) -> Proved:
    its = good.opened
    first = bytes([its.signatures[0][0] ^ 1]) + its.signatures[0][1:]
    return Proved(good.header, encode(Certificate(its.statement, its.bitmap, (first, *its.signatures[1:]))))


def _strangers(good: Proved) -> Proved:
    """A quorum of signatures, all true, of keys that are not the validators'."""
    its = good.opened
    chain_id, message = decode_header(good.header).chain_id, vote_message(its.statement)
    made = tuple(key.sign(VOTE_DOMAIN, chain_id, message) for key in STRANGERS)
    return Proved(good.header, encode(Certificate(its.statement, b"\x0f", made)))


def _foreign_domain(good: Proved, keys: tuple[Key, ...]) -> Proved:
    """The validators' own signatures over the statement, but for another chain."""
    its = good.opened
    made = tuple(key.sign(VOTE_DOMAIN, "elsewhere", vote_message(its.statement)) for key in keys)
    return Proved(good.header, encode(Certificate(its.statement, b"\x0f", made)))


def _no_quorum(good: Proved) -> Proved:
    its = good.opened
    signers = [i for i in range(8) if its.bitmap[0] >> i & 1][:2]
    bitmap = bytes([sum(1 << i for i in signers)])
    return Proved(good.header, encode(Certificate(its.statement, bitmap, its.signatures[:2])))


def _twice(good: Proved) -> Proved:
    """One signer's signature three times."""
    its = good.opened
    lowest = its.bitmap[0] & -its.bitmap[0]
    return Proved(good.header, encode(Certificate(its.statement, bytes([lowest]), its.signatures[:1] * 3)))


def _statement(good: Proved, **changes: Any) -> Proved:
    its = good.opened
    fields = {name: getattr(its.statement, name) for name in ("kind", "epoch", "view", "block")}
    return Proved(
        good.header, encode(Certificate(Statement(**(fields | changes)), its.bitmap, its.signatures))
    )


def _header(good: Proved) -> Proved:
    """The certificate stays; one byte of the header's state root changes."""
    root = decode_header(good.header).state_root
    other = bytes([root[0] ^ 1]) + root[1:]
    assert good.header.count(root) == 1
    return Proved(good.header.replace(root, other), good.certificate)


def _long_form(good: Proved) -> Proved:
    """The same value in other bytes: the outer array's length in three bytes where one is enough."""
    return Proved(good.header, b"\xdc\x00\x03" + good.certificate[1:])


def certificates(keys: tuple[Key, ...]) -> dict[str, tuple[str, Callable[[Proved], Proved]]]:
    """Name to rule and how to break it; `keys`: the validators' own."""
    return {
        "a flipped bit": ("certificate.signature", _signature),
        "true signatures of strangers": ("certificate.signature", _strangers),
        "validators for another chain": ("certificate.signature", lambda good: _foreign_domain(good, keys)),
        "two of four": ("certificate.no_quorum", _no_quorum),
        "one voter three times": ("certificate.malformed", _twice),
        "a Notar": ("light.not_final", lambda good: _statement(good, kind=VoteKind.NOTAR)),
        "another view": (
            "light.other_block",
            lambda good: _statement(good, view=good.opened.statement.view + 1),
        ),
        "another header": ("light.other_block", _header),
        "another epoch": ("certificate.epoch", lambda good: _statement(good, epoch=1)),
        "another spelling": ("certificate.not_canonical", _long_form),
        "no certificate": ("certificate.malformed", lambda good: Proved(good.header, b"\xc1")),
    }


CERTIFICATES: Final = tuple(certificates(()))


def _envelope(data: bytes, **changes: Any) -> bytes:
    text = json.dumps(json.loads(data) | changes, sort_keys=True, separators=(",", ":"))
    return text.encode()


def approvals(chain_id: str) -> dict[str, tuple[str, bytes]]:
    """Name to rule and envelope; "" is the rule of the good one."""
    key, other = STRANGERS[:2]
    predicate = ApprovalPredicate(
        chain_id=chain_id,
        deployment="ab" * 32,
        act="deploy",
        role="legal",
        decision="granted",
        comment='übel „quoted" \u2028\\ \t\x7f',  # what encoders of JSON like to spell in their own way
        made_ms=1_700_000_000_000,
    )
    manifest = b"m" * 32
    good = sign_approval(key, predicate, manifest)
    payload = base64.b64decode(json.loads(good)["payload"])
    signature = json.loads(good)["signatures"][0]
    elsewhere = ApprovalPredicate(
        chain_id="elsewhere", deployment="ab" * 32, act="deploy", role="legal", decision="granted"
    )
    more = json.loads(payload)
    more["predicate"]["extra"] = 1
    kind = payload.replace(b"urn:gridpact:approval:v1", b"urn:gridpact:receipt:v1")
    wider = json.dumps(more, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return {
        "a good one": ("", good),
        "a release": ("", sign_approval(key, replace(predicate, act="release", results="cd" * 32), manifest)),
        "a changed word": ("document.signature", _resigned(good, payload.replace(b"granted", b"revoked"))),
        "another signer": (
            "document.signature",
            _envelope(good, signatures=[signature | {"keyid": other.public.hex()}]),
        ),
        "two signatures": ("document.signature", _envelope(good, signatures=[signature, signature])),
        "a space": ("document.not_canonical", good.replace(b'{"payload"', b'{ "payload"')),
        "a space within": ("document.not_canonical", sign_payload(key, payload.replace(b":{", b": {", 1))),
        "an unknown field": ("document.malformed", sign_payload(key, wider)),
        "a receipt": ("document.kind", sign_payload(key, kind)),
        "another chain": ("approval.foreign_chain", sign_approval(key, elsewhere, manifest)),
        "no JSON": ("document.malformed", b"\x92\xc4"),
    }


def _resigned(envelope: bytes, payload: bytes) -> bytes:
    """Another payload under the same signature."""
    return _envelope(envelope, payload=base64.b64encode(payload).decode())


APPROVALS: Final = tuple(approvals("names"))
