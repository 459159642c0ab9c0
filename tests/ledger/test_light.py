"""Light verification: genesis and a proof, nothing else. Each lie is refused by its rule."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from ledger.blocks import Batch, batch_digest, decode_header
from ledger.codec import encode, sha256
from ledger.errors import Refused
from ledger.proofs.certificate import Validator, ValidatorSet, VoteKind
from ledger.proofs.inclusion import Inclusion, prove_inclusion, txs_digest, verify_inclusion
from ledger.proofs.light import FinalityProof, QueryProof, Trust, check_query, verify_final, verify_query
from ledger.storage.store import Store
from tests.ledger.chain_fixture import CHAIN_ID, START_MS, VALIDATORS, SmallChain, certify, trust


@pytest.fixture
def chain() -> SmallChain:
    grown = SmallChain(Store.memory(CHAIN_ID))
    for n in range(4):
        grown.grow({b"k": b"%d" % n, b"other/%d" % n: b"x"})
    return grown


def test_presence_and_absence_from_genesis_alone(chain: SmallChain) -> None:
    fact = verify_query(trust(), chain.store.prove(b"k").encode())
    # the tip is 4; its header proves the state one behind its parent: height 2, where k was "1"
    assert (fact.key, fact.value, fact.height, fact.time_ms) == (b"k", b"1", 2, START_MS + 4_000)
    absent = verify_query(trust(), chain.store.prove(b"other/3").encode())
    assert absent.value is None


def test_every_byte_of_a_query_proof_counts(chain: SmallChain) -> None:
    for key in (b"k", b"none"):
        data = chain.store.prove(key).encode()
        for position in range(len(data)):
            for bit in (0x01, 0x80):
                changed = bytearray(data)
                changed[position] ^= bit
                with pytest.raises(Refused):
                    verify_query(trust(), bytes(changed))


def refused(rule: str, proof: QueryProof, by: Trust | None = None) -> None:
    with pytest.raises(Refused) as caught:
        check_query(by or trust(), proof)
    assert caught.value.rule == rule


def test_lies_about_the_value(chain: SmallChain) -> None:
    proof = chain.store.prove(b"k")
    refused("light.state_proof", replace(proof, value=b"9"))
    refused("light.state_proof", replace(proof, value=None))
    refused("light.state_proof", replace(proof, key=b"other/0"))


def test_too_few_wrong_or_foreign_signers(chain: SmallChain) -> None:
    proof = chain.store.prove(b"k")
    header = decode_header(proof.finality.header)

    def signed(**how: Any) -> QueryProof:
        certificate = encode(certify(how.pop("kind", VoteKind.FINAL), header, **how))
        return replace(proof, finality=replace(proof.finality, certificate=certificate))

    assert check_query(trust(), signed(signers=(0, 1, 2, 3))).value == b"1"
    refused("certificate.no_quorum", signed(signers=(0, 1)))
    refused("certificate.no_quorum", signed(signers=()))
    refused("certificate.signature", signed(chain_id="another"))
    refused("light.not_final", signed(kind=VoteKind.NOTAR))
    stranger = ValidatorSet(0, (*VALIDATORS.members[:3], Validator(sha256(b"x"), 1, "x")))
    refused("light.other_validators", proof, Trust(CHAIN_ID, stranger))
    refused("light.foreign_chain", proof, Trust("another", VALIDATORS))
    refused("light.unknown_epoch", proof, Trust(CHAIN_ID, replace(VALIDATORS, epoch=1)))


def test_finality_by_a_descendant() -> None:
    chain = SmallChain(Store.memory(CHAIN_ID))
    for n in range(6):
        chain.grow({b"k": b"%d" % n}, certified=n in (1, 5))
    finality = chain.store.finality(3)
    assert finality is not None
    assert len(finality.path) == 3
    assert verify_final(CHAIN_ID, VALIDATORS, finality).height == 3

    def refused_path(rule: str, changed: FinalityProof) -> None:
        with pytest.raises(Refused) as caught:
            verify_final(CHAIN_ID, VALIDATORS, changed)
        assert caught.value.rule == rule

    refused_path("light.broken_path", replace(finality, path=finality.path[1:]))
    refused_path("light.broken_path", replace(finality, path=finality.path[::-1]))
    refused_path("light.other_block", replace(finality, path=finality.path[:-1]))
    refused_path("light.path_too_long", replace(finality, path=finality.path * 100))
    # a header that is not an ancestor: another root at the same height
    forged = replace(decode_header(finality.header), state_root=sha256(b"forged"))
    refused_path("light.broken_path", replace(finality, header=forged.encode()))
    other = decode_header(finality.path[-1])
    wrong_view = encode(certify(VoteKind.FINAL, replace(other, view=99)))
    refused_path("light.other_block", replace(finality, certificate=wrong_view))


def test_no_proof_before_the_first_block() -> None:
    chain = SmallChain(Store.memory(CHAIN_ID))
    with pytest.raises(Refused, match=r"proof\.not_yet"):
        chain.store.prove(b"k")


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13])
def test_inclusion_in_a_batch(count: int) -> None:
    txs = tuple(b"tx %d" % n for n in range(count))
    digest = batch_digest(encode(Batch(txs)))
    assert digest == txs_digest(txs)
    for index, tx in enumerate(txs):
        inclusion = prove_inclusion(txs, index)
        assert verify_inclusion(digest, tx, inclusion)
        assert not verify_inclusion(digest, tx + b"x", inclusion)
        assert not verify_inclusion(sha256(digest), tx, inclusion)
        for wrong in range(-1, count + 2):
            if wrong != index:
                assert not verify_inclusion(digest, tx, replace(inclusion, index=wrong))
        for wrong in (0, count - 1, count + 1, 1 << 40):
            assert not verify_inclusion(digest, tx, replace(inclusion, count=wrong))
        assert not verify_inclusion(digest, tx, replace(inclusion, path=(*inclusion.path, bytes(32))))
        assert not verify_inclusion(
            digest, tx, replace(inclusion, path=(bytes(31),) * len(inclusion.path) + (b"",))
        )


def test_a_batch_digest_names_order_and_exact_bytes() -> None:
    assert txs_digest([b"a", b"b"]) != txs_digest([b"b", b"a"])
    assert txs_digest([b"a", b"b", b"b"]) != txs_digest([b"a", b"b"])
    with pytest.raises(Refused):
        batch_digest(encode(Batch((b"a",))) + b"\0")
    long_form = b"\x91\xdc\x00\x01\xc4\x01a"  # the same batch with a 16-bit array length
    assert msgspec.msgpack.decode(long_form, type=Batch) == Batch((b"a",))
    with pytest.raises(Refused, match="not_canonical"):
        batch_digest(long_form)
    assert not verify_inclusion(txs_digest([b"a"]), b"a", Inclusion(0, 1, (bytes(32),)))
