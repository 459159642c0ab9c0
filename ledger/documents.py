"""Signed documents: DSSE envelopes (JSON) over in-toto Statement v1, signed by Ed25519 keys.

Sources: DSSE protocol v1.0 (secure-systems-lab/dsse), in-toto Attestation Framework v1. A document's
id is the sha256 of its payload bytes. A value has one encoding here: envelope and payload are
refused unless they re-encode to themselves, which also refuses duplicate keys, spaces, long
base64 forms and unknown fields. The three lines of DSSE that we need are our own (ADR: envelopes):
they stand on the hot path of the state machine; tests check them against securesystemslib and
in-toto-attestation in both directions.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar, overload

import msgspec

from ledger import keys, sshsig
from ledger.codec import decode_exact_json, encode_json, sha256
from ledger.contracts.types import Contract
from ledger.errors import Refused
from ledger.limits import ENVELOPE_BYTES_MAX
from ledger.predicates import ApprovalPredicate, ContractPredicate, ReceiptPredicate

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPES: Final = {
    "contract": "urn:gridpact:contract:v1",
    "approval": "urn:gridpact:approval:v1",
    "receipt": "urn:gridpact:receipt:v1",
}

Kind = Literal["contract", "approval", "receipt"]
P = TypeVar("P", ContractPredicate, ApprovalPredicate, ReceiptPredicate)


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`keyid` is the hex public key, `sig` base64."""

    keyid: str
    sig: str


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A DSSE envelope with exactly one signature; `payload` is base64."""

    payload: str
    payloadType: str  # the standard's name
    signatures: tuple[Signature, ...]


class Digest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sha256: str


class Subject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a statement is about: a name for people and the digest that binds."""

    name: str
    digest: Digest


class Statement(msgspec.Struct, Generic[P], frozen=True, forbid_unknown_fields=True):
    """An in-toto Statement v1 with one of our predicates."""

    type_: str = msgspec.field(name="_type")
    subject: tuple[Subject, ...]
    predicateType: str  # the standard's name
    predicate: P


@dataclass(frozen=True, slots=True)
class Document(Generic[P]):
    """A document whose form and signature were checked. `subject` is the sha256 it is about."""

    id: bytes
    signer: bytes
    predicate: P
    subject: bytes
    subject_name: str
    payload: bytes


_STATEMENTS: Final[dict[str, Any]] = {
    "contract": Statement[ContractPredicate],
    "approval": Statement[ApprovalPredicate],
    "receipt": Statement[ReceiptPredicate],
}


def document_id(payload: bytes) -> bytes:
    """32 bytes: sha256 of the payload."""
    return sha256(payload)


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE Pre-Authentication Encoding: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_payload(key: keys.Key, payload: bytes) -> bytes:
    """An envelope's bytes over exactly `payload`."""
    return seal_payload(payload, key.public, key.sign_raw(pae(PAYLOAD_TYPE, payload)))


def seal_payload(payload: bytes, signer: bytes, signature: bytes) -> bytes:
    """An envelope around a signature that was made elsewhere: plain, or an SSHSIG ([X1]). Not checked."""
    encoded = base64.b64encode(signature).decode()
    return encode_json(
        Envelope(base64.b64encode(payload).decode(), PAYLOAD_TYPE, (Signature(signer.hex(), encoded),))
    )


def is_signed(signer: bytes, payload: bytes, signature: bytes) -> bool:
    """[X1] True when `signature` is `signer`'s over this payload, plain or as an SSHSIG."""
    return signs(signer, pae(PAYLOAD_TYPE, payload), signature)


def signs(signer: bytes, message: bytes, signature: bytes) -> bool:
    """[X1] True when `signature` is `signer`'s over exactly `message`, plain or as an SSHSIG."""
    if len(signature) == keys.SIGNATURE_BYTES:
        return keys.verify_raw(signer, message, signature)
    return sshsig.verify(signer, message, signature)


def signature_of(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Payload, signer and signature of an envelope; its form is checked, the signature is not. Raises
    Refused(document.…)."""
    return _open_envelope(data)


def sign_document(key: keys.Key, kind: Kind, subject_name: str, subject: bytes, predicate: Any) -> bytes:
    """Envelope bytes for a predicate about `subject` (32 bytes). Raises Refused when the result would be."""
    data = sign_payload(key, payload_of(kind, subject_name, subject, predicate))
    open_document(data, kind)  # what others would refuse never leaves here
    return data


def payload_of(kind: Kind, subject_name: str, subject: bytes, predicate: Any) -> bytes:
    """The bytes of a statement about `subject` (32 bytes), for whoever signs them."""
    statement: Statement[Any] = Statement(
        STATEMENT_TYPE, (Subject(subject_name, Digest(subject.hex())),), PREDICATE_TYPES[kind], predicate
    )
    return encode_json(statement)


def sign_contract(key: keys.Key, contract: Contract) -> bytes:
    """The author's envelope for a built contract."""
    return sign_document(
        key, "contract", contract_label(contract), contract_digest(contract), ContractPredicate(contract)
    )


def sign_approval(key: keys.Key, predicate: ApprovalPredicate, manifest: bytes) -> bytes:
    """A stakeholder's envelope; `manifest` is the digest that it decides on."""
    return sign_document(key, "approval", "manifest", manifest, predicate)


def sign_receipt(key: keys.Key, predicate: ReceiptPredicate, manifest: bytes) -> bytes:
    """A node's envelope; `manifest` is the digest that it executes."""
    return sign_document(key, "receipt", "manifest", manifest, predicate)


def contract_label(contract: Contract) -> str:
    """NAME@VERSION."""
    return f"{contract.name}@{contract.version}"


def contract_digest(contract: Contract) -> bytes:
    """sha256 of the canonical JSON of a contract: the subject of its document."""
    return sha256(contract.encode())


@overload
def open_document(data: bytes, kind: Literal["contract"]) -> Document[ContractPredicate]: ...
@overload
def open_document(data: bytes, kind: Literal["approval"]) -> Document[ApprovalPredicate]: ...
@overload
def open_document(data: bytes, kind: Literal["receipt"]) -> Document[ReceiptPredicate]: ...
@overload
def open_document(data: bytes, kind: Kind) -> Document[Any]: ...
def open_document(data: bytes, kind: Kind) -> Document[Any]:
    """Foreign bytes to a checked document of this kind. Raises Refused:

    document.too_long, document.malformed, document.not_canonical, document.kind (another payload or
    predicate type), document.subject, document.field, document.signature. That the signer may say
    what it says is for the caller to check.
    """
    payload, signer, signature = _open_envelope(data)
    predicate_type = _peek_kind(payload)
    if predicate_type != PREDICATE_TYPES[kind]:
        raise Refused(
            "document.kind", f"{predicate_type[:80]!r}, wanted {PREDICATE_TYPES[kind]!r}", "predicateType"
        )
    statement = decode_exact_json(_STATEMENTS[kind], payload, "document", ENVELOPE_BYTES_MAX, "payload")
    if statement.type_ != STATEMENT_TYPE:
        raise Refused("document.kind", f"an in-toto Statement v1 wanted ({STATEMENT_TYPE})", "_type")
    if len(statement.subject) != 1:
        raise Refused(
            "document.subject", f"exactly one subject wanted, found {len(statement.subject)}", "subject"
        )
    name, digest = statement.subject[0].name, statement.subject[0].digest.sha256
    subject = _subject_bytes(digest)
    statement.predicate.check()
    if kind == "contract":
        contract = statement.predicate.contract
        if name != contract_label(contract) or subject != contract_digest(contract):
            raise Refused("document.subject", "name or digest is not that of the contract inside", "subject")
    elif name != "manifest":
        raise Refused("document.subject", "the subject of this kind is named 'manifest'", "subject[0].name")
    if not is_signed(signer, payload, signature):
        raise Refused(
            "document.signature", "not the signature of this key over this payload", "signatures[0].sig"
        )
    return Document(sha256(payload), signer, statement.predicate, subject, name, payload)


class _Peek(msgspec.Struct):
    predicateType: str  # the standard's name


_peek_decoder: Final = msgspec.json.Decoder(_Peek)


def document_kind(data: bytes) -> str:
    """The kind that an envelope claims to be, nothing else checked. Raises Refused."""
    payload, _, _ = _open_envelope(data)
    found = _peek_kind(payload)
    for kind, predicate_type in PREDICATE_TYPES.items():
        if predicate_type == found:
            return kind
    raise Refused("document.kind", f"unknown predicate type {found[:80]!r}", "predicateType")


def _peek_kind(payload: bytes) -> str:
    try:
        return _peek_decoder.decode(payload).predicateType
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refused("document.malformed", str(error), "payload") from None


def _open_envelope(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Payload, signer and signature (not verified)."""
    envelope = decode_exact_json(Envelope, data, "document", ENVELOPE_BYTES_MAX, "envelope")
    if envelope.payloadType != PAYLOAD_TYPE:
        raise Refused("document.kind", f"payload type {PAYLOAD_TYPE!r} wanted", "payloadType")
    if len(envelope.signatures) != 1:
        raise Refused(
            "document.signature", f"exactly one wanted, found {len(envelope.signatures)}", "signatures"
        )
    signature = envelope.signatures[0]
    signer = keys.public_key_from_hex(signature.keyid, "signatures[0].keyid")
    return (
        _base64_bytes(envelope.payload, "payload"),
        signer,
        _base64_bytes(signature.sig, "signatures[0].sig"),
    )


def _base64_bytes(text: str, field: str) -> bytes:
    """Standard base64 in its one form: padding present, unused bits zero."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("document.malformed", "standard base64 wanted", field) from None
    if base64.b64encode(data).decode() != text:
        raise Refused("document.not_canonical", "base64 with other padding or unused bits", field)
    return data


def _subject_bytes(digest: str) -> bytes:
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise Refused("document.subject", "64 lower-case hex digits wanted", "subject[0].digest.sha256")
    return bytes.fromhex(digest)
