"""Documents: one encoding, one signature, and the same envelopes as the standards' own libraries."""

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer._key import SSlibKey

from ledger.codec import sha256
from ledger.documents import (
    PAYLOAD_TYPE,
    PREDICATE_TYPES,
    document_kind,
    open_document,
    pae,
    payload_of,
    sign_approval,
    sign_contract,
    sign_payload,
    sign_receipt,
)
from ledger.errors import Refused
from ledger.keys import Key
from ledger.limits import (
    ARTIFACTS_MAX,
    ATTRIBUTES_MAX,
    EGRESS_MAX,
    ENVELOPE_BYTES_MAX,
    NAME_CHARS_MAX,
    NUMBER_MAX,
    PORTS_MAX,
    RESULTS_MAX,
    TEXT_CHARS_MAX,
)
from ledger.predicates import ApprovalPredicate, ReceiptPredicate, ResultFile, Usage
from tests.ledger.contract_samples import contract

KEY = Key(b"k" * 32)
MANIFEST = sha256(b"manifest")
APPROVAL = ApprovalPredicate(
    chain_id="test", deployment="00" * 32, act="deploy", role="legal", decision="granted", comment="fine ✓"
)
RECEIPT = ReceiptPredicate(
    chain_id="test",
    deployment="00" * 32,
    contract="11" * 32,
    slot="web/0",
    term=3,
    node=KEY.public.hex(),
    status="succeeded",
    time_ms=5,
    isolation={"seccomp": "enforced"},
    artifacts={"/bin/busybox": "22" * 32},
    approvals=("33" * 32,),
    results={"/result/a": ResultFile(sha256="44" * 32, size_bytes=7, sealed="55" * 32, sealed_bytes=87)},
    usage=Usage(cpu_ms=4),
    exit_code=0,
)


def ours() -> bytes:
    return sign_approval(KEY, APPROVAL, MANIFEST)


def refused(data: bytes, kind: Any = "approval") -> Refused:
    with pytest.raises(Refused) as caught:
        open_document(data, kind)
    return caught.value


def resigned(payload: bytes) -> bytes:
    return sign_payload(KEY, payload)


def sslib_key() -> SSlibKey:
    public = KEY.public.hex()
    return SSlibKey(public, "ed25519", "ed25519", {"public": public})


def test_each_kind_opens_as_signed() -> None:
    approval = open_document(ours(), "approval")
    assert (approval.predicate, approval.subject, approval.signer) == (APPROVAL, MANIFEST, KEY.public)
    assert approval.id == sha256(approval.payload)
    receipt = open_document(sign_receipt(KEY, RECEIPT, MANIFEST), "receipt")
    assert receipt.predicate == RECEIPT
    envelope = sign_contract(KEY, contract())
    published = open_document(envelope, "contract")
    assert published.predicate.contract == contract()
    assert published.subject_name == "site@1.0.0"
    assert document_kind(envelope) == "contract"


def test_a_document_is_one_kind_only() -> None:
    assert refused(ours(), "receipt").rule == "document.kind"
    assert refused(ours(), "contract").rule == "document.kind"


def test_securesystemslib_verifies_ours() -> None:
    envelope = Envelope.from_dict(json.loads(ours()))
    assert envelope.pae() == pae(PAYLOAD_TYPE, envelope.payload)
    assert list(envelope.verify([sslib_key()], 1)) == [KEY.public.hex()]
    envelope.payload += b" "
    with pytest.raises(VerificationError):
        envelope.verify([sslib_key()], 1)


def test_we_verify_what_securesystemslib_made() -> None:
    from securesystemslib.signer._signature import Signature
    from securesystemslib.signer._signer import Signer

    class OurSigner(Signer):
        @classmethod
        def from_priv_key_uri(cls, priv_key_uri: str, public_key: Any, secrets_handler: Any = None) -> Any:
            raise NotImplementedError

        @property
        def public_key(self) -> SSlibKey:
            return sslib_key()

        def sign(self, payload: bytes) -> Signature:
            return Signature(KEY.public.hex(), KEY.sign_raw(payload).hex())

    envelope = Envelope(open_document(ours(), "approval").payload, PAYLOAD_TYPE, {})
    envelope.sign(OurSigner())
    wire = json.dumps(envelope.to_dict(), sort_keys=True, separators=(",", ":")).encode()
    assert wire == ours()
    assert open_document(wire, "approval").predicate == APPROVAL


def test_in_toto_reads_ours_and_we_read_theirs() -> None:
    value = json.loads(open_document(ours(), "approval").payload)
    descriptor = ResourceDescriptor(name="manifest", digest={"sha256": MANIFEST.hex()})
    theirs = Statement([descriptor.pb], PREDICATE_TYPES["approval"], value["predicate"])
    theirs.validate()
    from google.protobuf.json_format import MessageToDict, ParseDict

    assert MessageToDict(theirs.pb) == value
    again = Statement.copy_from_pb(ParseDict(value, type(theirs.pb)()))
    again.validate()
    made = MessageToDict(again.pb)
    for field in ("expires_ms", "made_ms", "update"):
        made["predicate"][field] = int(made["predicate"][field])  # protobuf knows doubles only
    payload = json.dumps(made, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert open_document(resigned(payload), "approval").predicate == APPROVAL


def test_every_changed_byte_is_refused() -> None:
    data = ours()
    for at in range(len(data)):
        for value in {data[at] ^ 1, data[at] ^ 0x20, 0x20, 0} - {data[at]}:
            refused(data[:at] + bytes([value]) + data[at + 1 :])


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda d: d + b" ", "document.not_canonical"),
        (lambda d: b" " + d, "document.not_canonical"),
        (lambda d: d[:-1] + b',"x":1}', "document.malformed"),
        (lambda d: b'{"payload":"AA==",' + d[1:], "document.not_canonical"),
        (lambda d: d[:-1], "document.malformed"),
        (lambda d: b"", "document.malformed"),
        (lambda d: b"x" * (ENVELOPE_BYTES_MAX + 1), "document.too_long"),
        (lambda d: b"[" * 50_000, "document.malformed"),
        (lambda d: d.replace(b"in-toto+json", b"in-toto+yaml"), "document.kind"),
    ],
)
def test_other_envelope_bytes(change: Any, rule: str) -> None:
    assert refused(change(ours())).rule == rule


def envelope(**changes: Any) -> bytes:
    value = json.loads(ours())
    value.update(changes)
    return json.dumps(value, separators=(",", ":")).encode()


def test_signatures_must_be_one() -> None:
    signature = json.loads(ours())["signatures"][0]
    assert refused(envelope(signatures=[])).rule == "document.signature"
    assert refused(envelope(signatures=[signature, signature])).rule == "document.signature"
    other = Key(b"o" * 32).public.hex()
    assert refused(envelope(signatures=[{**signature, "keyid": other}])).rule == "document.signature"
    assert refused(envelope(signatures=[{**signature, "keyid": other.upper()}])).rule == "key.malformed"
    assert refused(envelope(signatures=[{**signature, "sig": "AA=="}])).rule == "document.signature"


def test_base64_has_one_form() -> None:
    signature = json.loads(ours())["signatures"][0]
    assert signature["sig"].endswith("==")
    slack = signature["sig"][:-3] + chr(ord(signature["sig"][-3]) + 1) + "=="
    assert refused(envelope(signatures=[{**signature, "sig": slack}])).rule == "document.not_canonical"
    bare = signature["sig"].rstrip("=")
    assert refused(envelope(signatures=[{**signature, "sig": bare}])).rule == "document.malformed"
    payload = json.loads(ours())["payload"]
    assert refused(envelope(payload=payload[:8] + "\n" + payload[8:])).rule == "document.malformed"


def statement(**changes: Any) -> bytes:
    value = json.loads(open_document(ours(), "approval").payload)
    value.update(changes)
    return resigned(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def test_a_correctly_signed_wrong_statement_is_refused() -> None:
    predicate = msgspec.to_builtins(APPROVAL)
    subject = {"name": "manifest", "digest": {"sha256": MANIFEST.hex()}}
    assert open_document(statement(), "approval").predicate == APPROVAL
    cases: list[tuple[dict[str, Any], str]] = [
        ({"_type": "https://in-toto.io/Statement/v0.1"}, "document.kind"),
        ({"predicateType": "urn:other"}, "document.kind"),
        ({"subject": []}, "document.subject"),
        ({"subject": [subject, subject]}, "document.subject"),
        ({"subject": [{**subject, "name": "else"}]}, "document.subject"),
        ({"subject": [{"name": "manifest", "digest": {"sha256": "AB" * 32}}]}, "document.subject"),
        ({"subject": [{"name": "manifest", "digest": {"sha1": "00"}}]}, "document.malformed"),
        ({"predicate": {**predicate, "extra": 1}}, "document.malformed"),
        ({"predicate": {**predicate, "act": "destroy"}}, "document.malformed"),
        ({"predicate": {**predicate, "deployment": "zz" * 32}}, "document.field"),
        ({"predicate": {**predicate, "expires_ms": -1}}, "document.field"),
        ({"predicate": {**predicate, "expires_ms": 2**70}}, "document.field"),
        ({"predicate": {**predicate, "comment": "x" * 2_001}}, "document.field"),
    ]
    for change, rule in cases:
        assert refused(statement(**change)).rule == rule, change


def numbered(count: int) -> dict[str, str]:
    return {f"n{number}": "" for number in range(count)}


def files(count: int) -> dict[str, str]:
    return dict.fromkeys(numbered(count), "22" * 32)


def results(count: int) -> dict[str, ResultFile]:
    return dict.fromkeys(numbered(count), RECEIPT.results["/result/a"])


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("chain_id", "x" * NAME_CHARS_MAX, "x" * (NAME_CHARS_MAX + 1)),
        ("contract", "ab" * 32, "AB" * 32),
        ("slot", "x" * 72, "x" * 73),
        ("term", NUMBER_MAX, NUMBER_MAX + 1),
        ("checks", 0, -1),
        ("usage.cpu_ms", Usage(), Usage(cpu_ms=-1)),
        ("usage.memory_bytes_max", Usage(), Usage(memory_bytes_max=-1)),
        ("exit_code", 1_024, 1_025),
        ("exit_code", -1_024, -1_025),
        ("driver", "x" * NAME_CHARS_MAX, "x" * (NAME_CHARS_MAX + 1)),
        ("level", "x" * NAME_CHARS_MAX, "x" * (NAME_CHARS_MAX + 1)),
        ("detail", "x" * TEXT_CHARS_MAX, "x" * (TEXT_CHARS_MAX + 1)),
        ("secrets", "", "ab"),
        ("commitment", "", "ab"),
        ("nonce", "", "ab"),
        ("isolation", numbered(ATTRIBUTES_MAX), numbered(ATTRIBUTES_MAX + 1)),
        ("isolation", {"x" * NAME_CHARS_MAX: ""}, {"x" * (NAME_CHARS_MAX + 1): ""}),
        ("isolation", {"x": "y" * TEXT_CHARS_MAX}, {"x": "y" * (TEXT_CHARS_MAX + 1)}),
        ("endpoints", numbered(PORTS_MAX), numbered(PORTS_MAX + 1)),
        ("egress", numbered(EGRESS_MAX), numbered(EGRESS_MAX + 1)),
        ("artifacts", files(ARTIFACTS_MAX), files(ARTIFACTS_MAX + 1)),
        ("artifacts", files(1), {"/bin/busybox": "22"}),
        ("results", results(RESULTS_MAX), results(RESULTS_MAX + 1)),
        ("approvals", ("33" * 32,) * 512, ("33" * 32,) * 513),
        ("approvals", ("33" * 32,), ("33",)),
    ],
)
def test_each_value_of_a_receipt_is_bounded(field: str, good: Any, bad: Any) -> None:
    name = field.partition(".")[0]
    for value in (good, bad):
        receipt = msgspec.structs.replace(RECEIPT, **{name: value})
        signed = resigned(payload_of("receipt", "manifest", MANIFEST, receipt))
        if value is good:
            assert open_document(signed, "receipt").predicate == receipt
        else:
            error = refused(signed, "receipt")
            assert (error.rule, error.field) == ("document.field", field)


def test_a_payload_has_one_encoding() -> None:
    payload = open_document(ours(), "approval").payload
    assert refused(resigned(payload + b"\n")).rule == "document.not_canonical"
    twice = payload.replace(b'"role":', b'"role":"budget","role":')
    assert refused(resigned(twice)).rule == "document.not_canonical"
    assert refused(resigned(b"\xff" + payload)).rule == "document.malformed"


def test_a_contract_is_its_own_subject() -> None:
    payload = open_document(sign_contract(KEY, contract()), "contract").payload
    other = payload.replace(b'"title":"A site"', b'"title":"B site"')
    assert refused(resigned(other), "contract").rule == "document.subject"


def test_we_never_sign_what_others_would_refuse() -> None:
    with pytest.raises(Refused, match=r"document\.field"):
        sign_approval(KEY, msgspec.structs.replace(APPROVAL, comment="x" * 2_001), MANIFEST)
    with pytest.raises(Refused, match=r"document\.too_long"):
        sign_contract(KEY, contract(summary="x" * ENVELOPE_BYTES_MAX))


@given(st.binary(max_size=400))
def test_garbage_is_refused(data: bytes) -> None:
    refused(data)
    refused(resigned(data))


@given(st.text(alphabet="AQ=+/ab-_ \n", max_size=12))
def test_base64_is_accepted_only_in_its_canonical_form(text: str) -> None:
    error = refused(envelope(payload=text))
    try:
        canonical = base64.b64encode(base64.b64decode(text, validate=True)).decode() == text
    except ValueError:
        canonical = False
    assert canonical or error.field == "payload"
