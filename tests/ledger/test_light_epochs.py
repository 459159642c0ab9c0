"""From genesis to today's validators [P1], in time [P2]; proof files and audits that need nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from ledger.audit import audit
from ledger.audit.file import AuditFile
from ledger.blocks import decode_header
from ledger.codec import decode, encode
from ledger.errors import LocalError, Refused
from ledger.genesis import Genesis
from ledger.proofs.certificate import VoteKind
from ledger.proofs.light import (
    CLOCK_DRIFT_MS_MAX,
    EPOCH_PROOF_BYTES_MAX,
    TRUST_PERIOD_MS,
    EpochProof,
    FinalityProof,
    Trust,
    check_query,
    decode_epoch_proof,
    verify_query,
    walk,
)
from ledger.proofs.proof_file import (
    PROOF_FILE_BYTES_MAX,
    decode_proof_file,
    make_proof_file,
    verify_proof_file,
)
from ledger.records import KEY_SUPPLY, KEY_VALIDATORS, key_account
from tests.ledger.chain_fixture import ChainWorld, above, certify, enough, member
from tests.ledger.world import AUTHOR, contract

FOUR = tuple(member(n) for n in range(4))
SETS = (
    tuple(member(n) for n in range(7)),
    (*(member(n) for n in range(2, 7)), member(8, 3)),
    (member(8, 2), *(member(n) for n in range(9, 12))),
)
NOBODY = key_account(b"nobody".ljust(32))


@pytest.fixture(scope="module")
def world() -> ChainWorld:
    """A chain of four epochs; the first boundary has a tail. Not to be changed."""
    made = ChainWorld()
    for number, members in enumerate(SETS):
        made.turn(members, 2 if number == 0 else 0)
    for _ in range(3):
        made.run()
    return made


def proofs(world: ChainWorld) -> list[EpochProof]:
    return list(world.store.epochs.proofs(0, 100))


def test_a_stranger_walks_from_genesis_to_today(world: ChainWorld) -> None:
    """[P1]"""
    trust = Trust.of(world.genesis)
    query = world.store.prove(KEY_VALIDATORS)
    with pytest.raises(Refused) as refused:
        check_query(trust, query)
    assert refused.value.rule == "light.unknown_epoch"
    for number, proof in enumerate(proofs(world)):
        assert trust.advance(proof).members == SETS[number]
        assert trust.latest.epoch == number + 1
    assert trust.latest == world.validators
    fact = check_query(trust, query)
    assert fact.value == encode(world.validators)
    absent = verify_query(trust, world.store.prove(NOBODY).encode())
    assert absent.value is None and absent.height == fact.height
    heights = [end.height for end in trust.ends]
    for height in range(1, world.store.tip.height + 1):
        finality = world.store.finality(height)
        assert finality is not None
        header = trust.final(finality)
        assert trust.validators_at(height) == trust.validators(header.epoch)
        assert header.epoch == sum(height > end for end in heights)


def changed(proof: EpochProof, **parts: object) -> EpochProof:
    return replace(proof, finality=replace(proof.finality, **parts))


def other_tail(world: ChainWorld, **fields: object) -> EpochProof:
    """The first boundary, made final by a tail that honest validators do not build."""
    first = proofs(world)[0]
    header = decode_header(first.finality.header)
    last = replace(above(header), **fields)
    members = world.genesis.validator_set
    by = certify(VoteKind.FINAL, last, enough(members), header.chain_id, members)
    return changed(first, path=(last.encode(),), certificate=encode(by))


def second_last(world: ChainWorld) -> EpochProof:
    """The first block of the tail, in the boundary's place."""
    first = proofs(world)[0]
    path, parent = first.finality.path, first.finality.header
    finality = FinalityProof(path[0], path[1:], first.finality.certificate)
    return EpochProof(first.next_set, parent, finality)


BAD_PROOFS: dict[str, Callable[[ChainWorld], EpochProof]] = {
    "light.other_validators": lambda w: proofs(w)[1],
    "light.no_boundary": lambda w: replace(proofs(w)[0], finality=must(w.store.finality(1))),
    "light.next_set": lambda w: replace(proofs(w)[0], next_set=proofs(w)[1].next_set),
    "light.not_first": lambda w: second_last(w),
    "light.broken_path": lambda w: changed(proofs(w)[0], path=proofs(w)[0].finality.path[1:]),
    "light.other_block": lambda w: changed(proofs(w)[0], path=proofs(w)[0].finality.path[:1]),
    "light.path_too_long": lambda w: changed(proofs(w)[0], path=proofs(w)[0].finality.path[:1] * 257),
    "light.tail": lambda w: other_tail(w, batches=(bytes(32),)),
    "certificate.no_quorum": lambda w: by(w, VoteKind.FINAL, range(2)),
    "light.not_final": lambda w: by(w, VoteKind.NOTAR, range(3)),
    "certificate.signature": lambda w: by(w, VoteKind.FINAL, range(3), "another"),
    "validators.malformed": lambda w: replace(proofs(w)[0], next_set=b""),
}


def must(finality: FinalityProof | None) -> FinalityProof:
    assert finality is not None
    return finality


def by(world: ChainWorld, kind: VoteKind, signers: range, chain_id: str | None = None) -> EpochProof:
    """The first boundary with another certificate, that names it."""
    first, members = proofs(world)[0], world.genesis.validator_set
    header = decode_header(first.finality.header)
    certificate = certify(kind, header, signers, chain_id or header.chain_id, members)
    return changed(first, path=(), certificate=encode(certificate))


@pytest.mark.parametrize("rule", BAD_PROOFS)
def test_a_false_way_is_refused_by_name(world: ChainWorld, rule: str) -> None:
    trust = Trust.of(world.genesis)
    with pytest.raises(Refused) as refused:
        trust.advance(BAD_PROOFS[rule](world))
    assert refused.value.rule == rule
    assert (len(trust.sets), trust.ends) == (1, []), "nothing is kept of it"
    with pytest.raises(Refused) as refused:
        trust.advance(replace(proofs(world)[0], parent=must(world.store.finality(1)).header))
    assert refused.value.rule == "light.not_first"
    trust.advance(other_tail(world))  # a tail that is as it should be


def test_a_tail_that_takes_the_change_back_is_refused(world: ChainWorld) -> None:
    header = decode_header(proofs(world)[0].finality.header)
    with pytest.raises(Refused) as refused:
        Trust.of(world.genesis).advance(other_tail(world, next_validators=header.validators))
    assert refused.value.rule == "light.tail"


def test_no_block_above_a_boundary_counts(world: ChainWorld) -> None:
    proof = other_tail(world)
    high = FinalityProof(proof.finality.path[0], (), proof.finality.certificate)
    trust = Trust.of(world.genesis)
    trust.advance(proofs(world)[0])
    with pytest.raises(Refused) as refused:
        trust.final(high)
    assert refused.value.rule == "light.above_boundary"


def test_no_bit_of_an_epoch_proof_is_idle(world: ChainWorld) -> None:
    data = encode(proofs(world)[0])
    chance = random.Random(5)
    for _ in range(400):
        place, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
        broken = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
        with pytest.raises(Refused):
            Trust.of(world.genesis).advance(decode_epoch_proof(broken))


def test_epoch_proofs_have_one_encoding_and_a_bound(world: ChainWorld) -> None:
    data = encode(proofs(world)[0])
    long = b"\x94" + data[1:]
    loose = b"\xdc\x00\x03" + data[1:]
    for wrong, rule in (
        (long, "epoch_proof.malformed"),
        (loose, "epoch_proof.not_canonical"),
        (bytes(EPOCH_PROOF_BYTES_MAX + 1), "epoch_proof.too_long"),
    ):
        with pytest.raises(Refused) as refused:
            decode_epoch_proof(wrong)
        assert refused.value.rule == rule


def test_a_trust_that_does_not_begin_at_genesis_grows_old(world: ChainWorld) -> None:
    """[P2]"""
    first, second, third = proofs(world)
    ended_ms = decode_header(first.finality.header).time_ms
    start = Trust.of(world.genesis)
    checkpoint = start.advance(first)
    trust = Trust(start.chain_id, checkpoint, ended_ms, period_ms=10_000)
    for now_ms in (None, ended_ms + 10_001):
        with pytest.raises(Refused) as refused:
            trust.advance(second, now_ms)
        assert refused.value.rule == "light.trust_expired"
    trust.advance(second, ended_ms + 10_000)
    assert trust.since_ms == decode_header(second.finality.header).time_ms
    trust.advance(third, trust.since_ms + 10_000)
    assert trust.latest == world.validators
    with pytest.raises(Refused) as refused:
        trust.validators(0)
    assert refused.value.rule == "light.unknown_epoch"


def test_a_trust_does_not_rest_on_a_time_that_lies_ahead(world: ChainWorld) -> None:
    """[P2] Regression: a boundary dated into the future, by keys that were sold, made a trust that never grew
    old."""
    first, second, _ = proofs(world)
    ended_ms = decode_header(second.finality.header).time_ms
    start = Trust.of(world.genesis)
    trust = Trust(start.chain_id, start.advance(first), ended_ms - 5_000)
    with pytest.raises(Refused) as refused:
        trust.advance(second, ended_ms - CLOCK_DRIFT_MS_MAX - 1)
    assert refused.value.rule == "light.from_future"
    assert (trust.since_ms, len(trust.sets)) == (ended_ms - 5_000, 1), "nothing changed"
    trust.advance(second, ended_ms - CLOCK_DRIFT_MS_MAX)
    assert trust.since_ms == ended_ms


def test_a_walk_from_genesis_takes_only_young_facts(world: ChainWorld) -> None:
    """[P2]"""
    trust = Trust.of(world.genesis)
    for proof in proofs(world):
        trust.advance(proof)  # whatever the time is
    query = world.store.prove(KEY_SUPPLY)
    newest_ms = decode_header(query.finality.header).time_ms
    check_query(trust, query, newest_ms + TRUST_PERIOD_MS)
    with pytest.raises(Refused) as refused:
        check_query(trust, query, newest_ms + TRUST_PERIOD_MS + 1)
    assert refused.value.rule == "light.stale"
    check_query(trust, query, newest_ms - CLOCK_DRIFT_MS_MAX)
    with pytest.raises(Refused) as refused:
        check_query(trust, query, newest_ms - CLOCK_DRIFT_MS_MAX - 1)
    assert refused.value.rule == "light.from_future"


def test_our_own_proofs_are_taken_up_again_unless_they_are_damaged(world: ChainWorld) -> None:
    trust = Trust.of(world.genesis)
    trust.resume(proofs(world))
    assert trust.latest == world.validators
    with pytest.raises(LocalError, match="epoch 0 ended"):
        Trust.of(world.genesis).resume(proofs(world)[1:])


# --- proof files ---------------------------------------------------------------------------------


def proof_file(world: ChainWorld, key: bytes = KEY_SUPPLY) -> bytes:
    genesis = world.genesis
    return make_proof_file(genesis.chain_id, genesis.hash, proofs(world), world.store.prove(key))


@pytest.mark.parametrize("key", [KEY_SUPPLY, key_account(AUTHOR.public), NOBODY, b"validators_next"])
def test_a_proof_file_needs_nothing_but_genesis(world: ChainWorld, key: bytes) -> None:
    fact = verify_proof_file(proof_file(world, key), world.genesis)
    assert (fact.key, fact.value) == (key, world.state.get(key))
    newest_ms = world.store.tip.time_ms
    assert verify_proof_file(proof_file(world, key), world.genesis, newest_ms) == fact
    with pytest.raises(Refused) as refused:
        verify_proof_file(proof_file(world, key), world.genesis, newest_ms + TRUST_PERIOD_MS + 1)
    assert refused.value.rule == "light.stale"


def broken_files(world: ChainWorld) -> dict[str, tuple[bytes, Genesis]]:
    data, genesis = proof_file(world), world.genesis
    file = decode_proof_file(data)
    return {
        "proof_file.malformed": (b"\xc1", genesis),
        "proof_file.not_canonical": (b"\xdc\x00\x05" + data[1:], genesis),
        "proof_file.too_long": (bytes(PROOF_FILE_BYTES_MAX + 1), genesis),
        "proof_file.format": (encode(replace(file, format="gridpact-proof/9")), genesis),
        "proof_file.foreign_chain": (data, replace(genesis, time_ms=genesis.time_ms + 1)),
        "light.unknown_epoch": (encode(replace(file, epochs=file.epochs[:-1])), genesis),
        "light.other_validators": (encode(replace(file, epochs=file.epochs[1:])), genesis),
        "light.surplus": (encode(replace(file, query=old_query(world))), genesis),
        "light.state_proof": (encode(replace(file, query=replace(file.query, value=b"9"))), genesis),
    }


def old_query(world: ChainWorld) -> object:
    """A query proof under the header of an earlier epoch. Its state proof would not hold either."""
    return replace(world.store.prove(KEY_SUPPLY), finality=must(world.store.finality(1)))


@pytest.mark.parametrize(
    "rule",
    [
        "proof_file.malformed",
        "proof_file.not_canonical",
        "proof_file.too_long",
        "proof_file.format",
        "proof_file.foreign_chain",
        "light.unknown_epoch",
        "light.other_validators",
        "light.surplus",
        "light.state_proof",
    ],
)
def test_a_false_proof_file_is_refused_by_name(world: ChainWorld, rule: str) -> None:
    data, genesis = broken_files(world)[rule]
    with pytest.raises(Refused) as refused:
        verify_proof_file(data, genesis)
    assert refused.value.rule == rule


def test_no_bit_of_a_proof_file_is_idle(world: ChainWorld) -> None:
    data = proof_file(world, NOBODY)
    chance = random.Random(6)
    for _ in range(400):
        place, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
        broken = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
        if key_in(broken) not in (None, NOBODY):
            continue  # another absent key: true as well, where the same path is empty
        with pytest.raises(Refused):
            verify_proof_file(broken, world.genesis)


def key_in(data: bytes) -> bytes | None:
    """The key that a file is about; None when it cannot be read."""
    try:
        return decode_proof_file(data).query.key
    except Refused:
        return None


def test_a_walk_ends_where_the_header_is(world: ChainWorld) -> None:
    first, second, _ = proofs(world)
    finality = must(world.store.finality(decode_header(second.finality.header).height))
    assert walk(Trust.of(world.genesis), (first,), finality).epoch == 1
    with pytest.raises(Refused) as refused:
        walk(Trust.of(world.genesis), (first, second), finality)
    assert refused.value.rule == "light.surplus"


# --- audits over an epoch's end ------------------------------------------------------------------


@pytest.fixture(scope="module")
def audited() -> tuple[ChainWorld, bytes]:
    """A deployment's life with the validators changed twice in the middle of it, and its audit file."""
    made = ChainWorld()
    deployment = made.ordered(contract())
    made.turn(SETS[0], 1)
    made.approve(deployment)
    made.turn(SETS[1])
    for _ in range(3):
        made.run()
    return made, audit.export(made.store, deployment)


def test_an_audit_over_an_epochs_end_verifies_from_genesis_alone(audited: tuple[ChainWorld, bytes]) -> None:
    world, data = audited
    report = audit.verify(data, world.genesis)
    assert report.ok, (report.rule, report.detail)
    assert report.facts.status == "approved"
    file = decode(AuditFile, data)
    assert len(file.epochs) == 2
    epochs = {decode_header(block.finality.header).epoch for block in file.blocks}
    assert epochs == {0, 1}


@pytest.mark.parametrize(
    ("cut", "rule"), [(slice(0, 1), "light.unknown_epoch"), (slice(1, 2), "light.other_validators")]
)
def test_an_audit_without_an_epoch_is_refused(
    audited: tuple[ChainWorld, bytes], cut: slice, rule: str
) -> None:
    world, data = audited
    file = decode(AuditFile, data)
    assert audit.verify(encode(replace(file, epochs=file.epochs[cut])), world.genesis).rule == rule


def test_nobody_who_left_can_sign_an_audits_anchor(audited: tuple[ChainWorld, bytes]) -> None:
    world, data = audited
    file = decode(AuditFile, data)
    header = replace(decode_header(file.anchor.header), state_root=bytes(32))
    forged = certify(VoteKind.FINAL, header, range(3), header.chain_id, world.genesis.validator_set)
    anchor = FinalityProof(header.encode(), (), encode(forged))
    assert audit.verify(encode(replace(file, anchor=anchor)), world.genesis).rule.startswith("certificate.")
