"""What the ledger decodes from strangers: its one encoding passes, all else is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from ledger.audit import audit
from ledger.audit.file import decode_audit
from ledger.blocks import HEADER_BYTES_MAX, Header, batch_digest, decode_batch, decode_header
from ledger.codec import encode, sha256
from ledger.contracts.check import decode_contract
from ledger.epochs import decode_set
from ledger.errors import Refused
from ledger.genesis import decode_genesis
from ledger.keys import Key, public_key_from_hex
from ledger.limits import (
    ACCOUNTS_GENESIS_MAX,
    BLOCK_BATCHES_MAX,
    CONTRACT_BYTES_MAX,
    TX_BYTES_MAX,
    VALIDATORS_BYTES_MAX,
)
from ledger.proofs.certificate import Certificate, Ed25519Scheme, Validator, ValidatorSet, VoteKind
from ledger.proofs.light import (
    CERTIFICATE_BYTES_MAX,
    EPOCH_PROOF_BYTES_MAX,
    QUERY_PROOF_BYTES_MAX,
    FinalityProof,
    Trust,
    decode_certificate,
    decode_epoch_proof,
    verify_final,
    verify_query,
)
from ledger.proofs.proof_file import make_proof_file, verify_proof_file
from ledger.storage.store import Store
from ledger.transactions import CancelDeployment, Transfer, decode_tx, sign_tx
from tests.ledger import contract_samples
from tests.ledger.chain_fixture import (
    CHAIN_ID,
    VALIDATORS,
    ChainWorld,
    SmallChain,
    certify,
    member,
    trust,
)
from tests.ledger.test_genesis import load
from tests.ledger.world import CONSUMER, STRANGER, World, contract, job


def rule_of(act: Callable[[], Any]) -> str:
    """The rule by which it is refused."""
    with pytest.raises(Refused) as caught:
        act()
    return caught.value.rule


class Kind(NamedTuple):
    """A decoder, good bytes for it, and the rules for bytes that are none, badly spelt, too long."""

    decode: Callable[[bytes], Any]
    good: bytes
    malformed: str
    not_canonical: str
    too_long: tuple[str, int] | None


def kinds() -> dict[str, Kind]:
    chain = SmallChain(Store.memory(CHAIN_ID))
    world = World()
    transfer = world.tx(CONSUMER, Transfer(STRANGER.public, 5)).raw
    for n in range(4):
        header = chain.grow({b"k": b"%d" % n}, (transfer,))
    query = chain.store.prove(b"k")
    bulk = (bytes(TX_BYTES_MAX),) * 5
    changed = ChainWorld()
    changed.turn(tuple(member(n) for n in range(2, 7)), 1)
    changed.run()

    def audited(data: bytes) -> None:
        audit.verify(data, ChainWorld().genesis).require()

    def in_a_proof(data: bytes) -> Header:
        return verify_final(CHAIN_ID, VALIDATORS, FinalityProof(data, (), query.finality.certificate))

    return {
        "batch": Kind(
            batch_digest,
            chain.store.block(4).batches[0],  # type: ignore[union-attr]
            "batch.malformed",
            "batch.not_canonical",
            ("batch.too_long", len(encode((bulk,)))),
        ),
        "header": Kind(
            in_a_proof,
            query.finality.header,
            "header.malformed",
            "header.not_canonical",
            ("header.too_long", HEADER_BYTES_MAX + 1),
        ),
        "certificate": Kind(
            decode_certificate,
            encode(certify(VoteKind.FINAL, header)),
            "certificate.malformed",
            "certificate.not_canonical",
            ("certificate.too_long", CERTIFICATE_BYTES_MAX + 1),
        ),
        "query proof": Kind(
            lambda data: verify_query(trust(), data),
            query.encode(),
            "query_proof.malformed",
            "query_proof.not_canonical",
            ("query_proof.too_long", QUERY_PROOF_BYTES_MAX + 1),
        ),
        "transaction": Kind(
            lambda data: decode_tx(data, world.header(0).chain_id),
            transfer,
            "tx.malformed",
            "tx.not_canonical",
            ("tx.too_long", TX_BYTES_MAX + 1),
        ),
        "audit file": Kind(audited, an_audit_file()[1], "audit.malformed", "audit.not_canonical", None),
        "validator set": Kind(
            decode_set,
            encode(VALIDATORS),
            "validators.malformed",
            "validators.not_canonical",
            ("validators.too_long", VALIDATORS_BYTES_MAX + 1),
        ),
        "epoch proof": Kind(
            lambda data: Trust.of(changed.genesis).advance(decode_epoch_proof(data)),
            encode(changed.store.epochs.proof(0)),
            "epoch_proof.malformed",
            "epoch_proof.not_canonical",
            ("epoch_proof.too_long", EPOCH_PROOF_BYTES_MAX + 1),
        ),
        "proof file": Kind(
            lambda data: verify_proof_file(data, changed.genesis),
            a_proof_file(changed),
            "proof_file.malformed",
            "proof_file.not_canonical",
            None,
        ),
        "contract": Kind(
            decode_contract,
            contract_samples.contract().encode(),
            "contract.malformed",
            "contract.not_canonical",
            ("contract.too_long", CONTRACT_BYTES_MAX + 1),
        ),
    }


def an_audit_file() -> tuple[ChainWorld, bytes]:
    world = ChainWorld()
    deployment = world.ordered(contract(job(), name="mining"))
    world.ok(CONSUMER, CancelDeployment(deployment, "no"))
    world.run()
    world.run()
    return world, audit.export(world.store, deployment)


def a_proof_file(world: ChainWorld) -> bytes:
    genesis, proofs = world.genesis, world.store.epochs.proofs(0, 9)
    return make_proof_file(genesis.chain_id, genesis.hash, proofs, world.store.prove(b"supply"))


def spelt_differently(data: bytes) -> bytes:
    """The same value in other bytes: a longer array header, or a space in JSON."""
    if data[:1] == b"{":
        return data[:1] + b" " + data[1:]
    assert 0x90 <= data[0] <= 0x9F, "a short array"
    return b"\xdc\x00" + bytes([data[0] & 0x0F]) + data[1:]


@pytest.mark.parametrize("name", kinds())
def test_one_value_has_one_encoding(name: str) -> None:
    kind = kinds()[name]
    kind.decode(kind.good)
    assert rule_of(lambda: kind.decode(spelt_differently(kind.good))) == kind.not_canonical
    for bad in (b"", b"\xc1", b"x" * 40, kind.good[:-1], kind.good + b"\x00", b"\x91" * 2_000):
        assert rule_of(lambda bad=bad: kind.decode(bad)) == kind.malformed  # type: ignore[misc]
    if kind.too_long is not None:
        rule, size_bytes = kind.too_long
        assert rule_of(lambda: kind.decode(bytes(size_bytes))) == rule


def test_an_audit_that_is_too_long_is_not_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    world, data = an_audit_file()
    deployment = decode_audit(data).deployment
    monkeypatch.setattr(audit, "AUDIT_BYTES_MAX", len(data))
    assert audit.export(world.store, deployment) == data
    monkeypatch.setattr(audit, "AUDIT_BYTES_MAX", len(data) - 1)
    assert rule_of(lambda: audit.export(world.store, deployment)) == "audit.too_long"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"batches": tuple(sha256(bytes([n])) for n in range(BLOCK_BATCHES_MAX + 1))}, "header.batches"),
        ({"batches": (sha256(b"1"), sha256(b"1"))}, "header.batches"),
        ({"batches": (b"short",)}, "header.batches"),
        ({"height": 0}, "header.order"),
        ({"view": 0}, "header.order"),
        ({"parent_view": 9}, "header.order"),
        ({"parent_view": -1}, "header.order"),
        ({"state_height": 1}, "header.order"),
        ({"state_height": -1}, "header.order"),
        ({"state_root": bytes(31)}, "header.field_length"),
        ({"proposer": bytes(33)}, "header.field_length"),
    ],
)
def test_headers_have_their_shape(changes: dict[str, Any], rule: str) -> None:
    good = SmallChain(Store.memory(CHAIN_ID)).header()
    assert decode_header(good.encode()) == good
    assert rule_of(lambda: decode_header(replace(good, **changes).encode())) == rule


def test_certificates_fit_their_set() -> None:
    good = certify(VoteKind.FINAL, SmallChain(Store.memory(CHAIN_ID)).header())

    def rule(certificate: Certificate, members: ValidatorSet = VALIDATORS) -> str:
        return rule_of(lambda: Ed25519Scheme().verify(CHAIN_ID, members, certificate))

    Ed25519Scheme().verify(CHAIN_ID, VALIDATORS, good)
    assert rule(good, replace(VALIDATORS, epoch=1)) == "certificate.epoch"
    for changes in (
        {"bitmap": b""},
        {"bitmap": good.bitmap + b"\0"},
        {"bitmap": b"\x17"},  # a member beyond the set
        {"bitmap": b"\x0f"},  # one more signer than signatures
        {"signatures": good.signatures[:2]},
        {"statement": replace(good.statement, block=bytes(31))},
    ):
        assert rule(replace(good, **changes)) == "certificate.malformed", changes


def test_validator_sets_hold_real_members() -> None:
    VALIDATORS.check()
    for bad in (Validator(bytes(31), 1, "short"), Validator(bytes(32), 0, "weightless")):
        assert rule_of(ValidatorSet(0, (*VALIDATORS.members, bad)).check) == "validators.member"


def test_seeds_senders_and_accounts() -> None:
    for size_bytes in (0, 31, 33):
        assert rule_of(lambda size=size_bytes: Key(bytes(size))) == "key.seed_length"  # type: ignore[misc]
    for text in ("", "ab" * 31, "ab" * 33, "AB" * 32, "zz" * 32):
        assert rule_of(lambda text=text: public_key_from_hex(text, "key")) == "key.malformed"  # type: ignore[misc]
    tx = World().tx(CONSUMER, Transfer(STRANGER.public, 5)).tx
    assert rule_of(lambda: sign_tx(STRANGER, tx)) == "tx.sender"
    payload = encode(replace(tx, sender=b"short"))
    assert rule_of(lambda: decode_tx(encode((payload, bytes(64))), tx.chain_id)) == "tx.sender"
    many = {sha256(b"%d" % n).hex(): 1 for n in range(ACCOUNTS_GENESIS_MAX)}
    assert len(decode_genesis(load(accounts=many)).accounts) == ACCOUNTS_GENESIS_MAX
    assert rule_of(lambda: decode_genesis(load(accounts=many | {"00" * 32: 1}))) == "genesis.accounts"


def test_a_batch_holds_something() -> None:
    assert rule_of(lambda: decode_batch(encode(((),)))) == "batch.size"


def test_states_are_those_of_recent_heights_only() -> None:
    chain = SmallChain(Store.memory(CHAIN_ID))
    for n in range(30):
        chain.grow({b"k": b"%d" % n})
    assert chain.store.at(30).get(b"k") == b"29"
    assert chain.store.at(20).get(b"k") == b"19"
    assert rule_of(lambda: chain.store.at(31)) == "state.future"
    assert rule_of(lambda: chain.store.at(5)) == "state.pruned"
