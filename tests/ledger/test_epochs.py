"""Changes of the validator set [V3], the end of an epoch [V4]: rules by name, and what the store keeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from ledger import epochs, keys
from ledger.blocks import ZERO_HASH, Header, decode_header
from ledger.codec import encode, sha256
from ledger.errors import LocalError, Refused
from ledger.limits import (
    CHANGE_VALID_MS_MAX,
    EVIDENCE_EPOCHS_MAX,
    VALIDATORS_BYTES_MAX,
    VALIDATORS_MAX,
    WEIGHT_MAX,
)
from ledger.machine import execute
from ledger.outcome import Receipt
from ledger.proofs.certificate import Validator, ValidatorSet
from ledger.proofs.light import Trust
from ledger.records import KEY_NEXT_VALIDATORS, KEY_VALIDATORS, key_past_validators
from ledger.storage.kv import MemoryKv
from ledger.storage.rollback import roll_back
from ledger.storage.store import Store
from ledger.storage.stored import CommitData
from ledger.transactions import ChangeValidators, ReportEvidence, Transfer
from tests.ledger.chain_fixture import MORE_KEYS, ChainWorld, above, member
from tests.ledger.test_evidence import NOTAR, A, B, vote, votes
from tests.ledger.world import AUTHOR, CHAIN_ID, CONSUMER, START_MS, STRANGER

FOUR = tuple(member(n) for n in range(4))
SEVEN = tuple(member(n) for n in range(7))
UNTIL_MS = START_MS + 3_600_000


@pytest.fixture
def world() -> ChainWorld:
    return ChainWorld()


def send(world: ChainWorld, body: ChangeValidators | ReportEvidence) -> Receipt:
    """The receipt of a transaction in a block of its own."""
    (receipt,) = world.run(world.tx(STRANGER, body)).receipts
    return receipt


def test_a_change_waits_for_the_boundary_and_then_counts(world: ChainWorld) -> None:
    """[V3] [V4]"""
    receipt = send(world, world.change(SEVEN))
    assert (receipt.ok, receipt.events[0].kind) == (True, "validators.pending")
    assert receipt.events[0].fields == {"epoch": 1, "members": 7, "signers": 3}
    assert epochs.current(world.state).members == FOUR
    waiting = epochs.pending(world.state)
    assert waiting is not None and waiting.members == SEVEN
    assert epochs.pending_hash(world.state) == waiting.hash
    world.run()  # its state is that of a height before the change
    assert world.validators.epoch == 0
    last = world.run(world.tx(AUTHOR, Transfer(CONSUMER.public, 5)))
    assert last.receipts[0].ok, "the last block of an epoch may carry transactions"
    (event,) = (e for e in last.events if e.kind == "validators.changed")
    assert event.subject == waiting.hash.hex()
    assert event.fields == {"epoch": 1, "joined": 3, "left": 0, "reweighted": 0}
    assert epochs.current(world.state) == waiting
    assert epochs.pending(world.state) is None and epochs.pending_hash(world.state) is None
    data = world.store.header(world.store.tip.height)
    assert data is not None
    header = decode_header(data)
    assert (header.epoch, header.next_validators) == (0, waiting.hash)
    world.run()  # its state height is below the boundary, where the set in force was still pending
    world.run()
    assert world.validators.epoch == 1


def test_members_join_leave_and_weigh_otherwise_at_once(world: ChainWorld) -> None:
    world.turn((*FOUR[1:], replace(FOUR[0], weight=2), member(9)))
    following = (member(9, 3), *FOUR[2:])
    result = []
    world.run(world.tx(STRANGER, world.change(following)))
    while world.validators.epoch == 1:
        result.append(world.run())
    event = result[-1].events[-1]
    assert event.fields == {"epoch": 2, "joined": 0, "left": 2, "reweighted": 1}


BROKEN: dict[str, Callable[[ChainWorld], ChangeValidators]] = {
    "validators.malformed": lambda w: ChangeValidators(b"\xc1", UNTIL_MS, ()),
    "validators.too_long": lambda w: ChangeValidators(bytes(VALIDATORS_BYTES_MAX + 1), UNTIL_MS, ()),
    "validators.not_canonical": lambda w: ChangeValidators(b"\x92\xcc\x01\x90", UNTIL_MS, ()),
    "validators.count": lambda w: w.change(()),
    "validators.duplicate": lambda w: w.change((FOUR[0], FOUR[0])),
    "validators.member": lambda w: w.change((*FOUR, replace(member(5), weight=WEIGHT_MAX + 1))),
    "change.epoch": lambda w: resigned(w, ValidatorSet(2, SEVEN)),
    "change.same": lambda w: w.change(FOUR),
    "change.signers": lambda w: backwards(w.change(SEVEN)),
    "change.no_quorum": lambda w: w.change(SEVEN, (0, 1)),
    "change.signature": lambda w: replace(w.change(SEVEN), next=w.change(SEVEN[:6]).next),
}


def resigned(world: ChainWorld, next_: ValidatorSet) -> ChangeValidators:
    data = encode(next_)
    by = range(3)
    signed = tuple((n, epochs.sign_change(MORE_KEYS[n], CHAIN_ID, data, UNTIL_MS)) for n in by)
    return ChangeValidators(data, UNTIL_MS, signed)


def backwards(change: ChangeValidators) -> ChangeValidators:
    return replace(change, signatures=change.signatures[::-1])


@pytest.mark.parametrize("rule", BROKEN)
def test_a_change_is_refused_by_name(world: ChainWorld, rule: str) -> None:
    """[V3]"""
    before = epochs.current(world.state)
    receipt = send(world, BROKEN[rule](world))
    assert (receipt.ok, receipt.rule, receipt.events) == (False, rule, ())
    assert epochs.current(world.state) == before and epochs.pending(world.state) is None


def test_copies_of_a_change_with_one_false_signature_cost_one_check_each(
    world: ChainWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: who had all signatures but one could make a block of thousands of copies, in each of which
    all of them were checked before the false one: half a minute of execution with 128 validators."""
    checked: list[bytes] = []
    verify = keys.verify

    def counting(key: bytes, domain: str, chain_id: str, message: bytes, signature: bytes) -> bool:
        checked.append(signature)
        return verify(key, domain, chain_id, message, signature)

    monkeypatch.setattr(keys, "verify", counting)
    change = world.change(SEVEN)
    now, (*good, (last, _)) = epochs.current(world.state), change.signatures
    for n in range(50):
        false = (*good, (last, bytes([n]) * 64))
        with pytest.raises(Refused, match=r"change\.signature"):
            epochs.check_change(CHAIN_ID, now, change.next, change.valid_until_ms, false, lambda key: False)
    assert len(checked) <= len(good) + 50


def test_signers_count_once_and_only_members_count(world: ChainWorld) -> None:
    change = world.change(SEVEN)
    first = change.signatures[0]
    twice = replace(change, signatures=(first, first, first))
    assert send(world, twice).rule == "change.signers"
    for index in (4, -1, 1 << 40):
        beyond = replace(change, signatures=tuple(sorted((*change.signatures[:2], (index, first[1])))))
        assert send(world, beyond).rule == "change.signers"


def test_weight_decides_not_heads(world: ChainWorld) -> None:
    world.turn((member(0, 5), member(1), member(2), member(3)))
    assert send(world, world.change(FOUR, (1, 2, 3))).rule == "change.no_quorum"
    assert send(world, world.change(FOUR, (0, 1))).ok  # 6 of 8; a quorum is 6


def test_a_signature_for_another_chain_or_domain_does_not_count(world: ChainWorld) -> None:
    change = world.change(SEVEN)
    message = epochs.change_message(change.next, change.valid_until_ms)
    for domain, chain_id in ((epochs.CHANGE_DOMAIN, "another"), ("vote/1", CHAIN_ID)):
        by = tuple((n, MORE_KEYS[n].sign(domain, chain_id, message)) for n in range(3))
        assert send(world, replace(change, signatures=by)).rule == "change.signature"


def test_a_second_change_waits_for_the_next_epoch(world: ChainWorld) -> None:
    assert send(world, world.change(SEVEN)).ok
    assert send(world, world.change(SEVEN[:5])).rule == "change.pending"
    last = world.run(world.tx(STRANGER, world.change(SEVEN[:6])))  # in the boundary itself
    assert (last.receipts[0].rule, world.validators.members) == ("change.pending", SEVEN)
    old = replace(world.change(FOUR, range(5)), next=encode(ValidatorSet(1, FOUR)))
    assert send(world, old).rule == "change.epoch"
    assert send(world, world.change(FOUR)).ok


def test_a_signed_change_ends_by_itself(world: ChainWorld) -> None:
    """[V3] Signatures cannot be taken back; after its time a change that nobody carried in is void, and who
    signed it may sign another. The time is signed, too, and bounded."""
    change = world.change(SEVEN)
    world.chain.submit((), step_ms=3_600_001)
    assert send(world, change).rule == "change.expired"
    now_ms = world.store.tip.time_ms
    assert send(world, replace(change, valid_until_ms=now_ms + 60_000)).rule == "change.signature"
    late = replace(change, valid_until_ms=now_ms + CHANGE_VALID_MS_MAX + 60_000)
    assert send(world, late).rule == "change.valid_until"
    assert epochs.pending(world.state) is None
    assert send(world, world.change(SEVEN[:5])).ok
    assert epochs.pending(world.state) is not None, "once accepted it stays, however long it takes"
    world.chain.submit((), step_ms=7_200_000)
    world.run()
    assert world.validators.members == SEVEN[:5]


def test_the_largest_set_fits_its_bounds() -> None:
    names = (Validator(sha256(b"%d" % n), WEIGHT_MAX, "\N{SNOWMAN}" * 64) for n in range(VALIDATORS_MAX))
    data = encode(ValidatorSet(1 << 40, tuple(names)))
    assert epochs.decode_set(data).quorum > 0
    assert len(data) <= VALIDATORS_BYTES_MAX


def equivocation(key: int, epoch: int) -> ReportEvidence:
    """Two Notars of one validator in one view of an epoch."""
    first, second = (vote(NOTAR, block, MORE_KEYS[key], epoch=epoch) for block in (A, B))
    return ReportEvidence(votes(first, second, MORE_KEYS[key]))


def test_a_suspended_validator_leaves_at_the_next_change(world: ChainWorld) -> None:
    assert send(world, equivocation(2, 0)).ok
    assert send(world, world.change(SEVEN)).rule == "change.suspended"
    assert send(world, world.change((member(2), member(7)))).rule == "change.suspended"
    world.turn((FOUR[0], FOUR[1], FOUR[3], member(7)))
    assert send(world, world.change((*FOUR, member(7)))).rule == "change.suspended", "never again"


def test_a_pending_change_stays_when_one_in_it_is_suspended(world: ChainWorld) -> None:
    """[V2] Headers may name it already, so it comes into force; the change after it must leave them out."""
    assert send(world, world.change((*FOUR[1:], member(7)))).ok
    assert send(world, equivocation(3, 0)).ok
    world.run()
    assert (world.validators.epoch, world.validators.index(MORE_KEYS[3].public)) == (1, 2)
    assert send(world, world.change((*FOUR[1:], member(8)))).rule == "change.suspended"
    assert send(world, world.change((*FOUR[1:3], member(7)))).ok


def test_evidence_is_judged_by_the_set_of_its_epoch(world: ChainWorld) -> None:
    """[V2]"""
    world.turn(SEVEN[1:5])
    assert send(world, equivocation(1, 2)).rule == "evidence.epoch", "an epoch that has not begun"
    assert send(world, equivocation(0, 1)).rule == "evidence.not_a_validator"
    assert send(world, equivocation(5, 0)).rule == "evidence.not_a_validator"
    assert send(world, equivocation(0, 0)).ok, "it left, but it voted twice when it was in"
    for epoch in range(1, EVIDENCE_EPOCHS_MAX):
        world.turn((*SEVEN[1:5], member(8 + epoch % 2)))
    assert world.validators.epoch == EVIDENCE_EPOCHS_MAX
    assert send(world, equivocation(3, 0)).ok
    world.turn((SEVEN[1], SEVEN[2], SEVEN[4], member(12)))
    assert send(world, equivocation(2, 0)).rule == "evidence.too_old"
    assert world.state.get(key_past_validators(0)) is None
    assert world.state.get(key_past_validators(1)) is not None


def boundary(world: ChainWorld) -> Header:
    """A header that ends the epoch; the change is pending."""
    assert send(world, world.change(SEVEN)).ok
    world.run()
    header = world.chain.header()
    assert epochs.is_ending(header)
    return header


def test_a_boundary_that_names_another_set_stops_the_peer(world: ChainWorld) -> None:
    """[V4]"""
    header = boundary(world)
    for wrong in (replace(header, next_validators=ZERO_HASH), replace(header, validators=ZERO_HASH)):
        with pytest.raises(LocalError):
            execute(world.state, wrong, [], wrong.time_ms)
    assert execute(world.state, header, [], header.time_ms).events[-1].kind == "validators.changed"


def test_the_store_takes_a_boundary_only_with_what_makes_it_final(world: ChainWorld) -> None:
    header = boundary(world)
    changes = execute(world.state, header, [], header.time_ms).changes
    path, certificate = world.chain.finality(header)
    good = CommitData(header, (), certificate, (), (), (), changes, path)
    plain = replace(header, next_validators=header.validators)
    wrong = (
        replace(good, certificate=None),
        replace(good, changes={}),
        replace(good, changes={**changes, KEY_VALIDATORS: b"another"}),
        replace(good, header=plain),
        replace(good, header=plain, changes={}, path=(above(header).encode(),)),
        replace(good, path=(above(header).encode(),) * 257),
    )
    tip = world.store.tip
    for bad in wrong:
        with pytest.raises(LocalError):
            world.store.commit(bad)
        assert world.store.tip == tip and world.store.epochs.proof(0) is None
    world.store.commit(good)
    assert world.store.epochs.proof(0) is not None


@pytest.mark.parametrize("tail", [0, 1, 3])
def test_a_boundary_is_kept_with_the_headers_that_made_it_final(world: ChainWorld, tail: int) -> None:
    header = world.turn(SEVEN, tail)
    height = header.height
    world.run()
    block, proof = world.store.block(height), world.store.epochs.proof(0)
    assert block is not None and proof is not None
    assert len(block.path) == tail and block.path == proof.finality.path
    assert world.store.block(height - 1).path == () and world.store.block(height + 1).path == ()  # type: ignore[union-attr]
    assert [b.path for b in world.store.blocks(height, 1 << 20)] == [block.path, ()]
    trust = Trust.of(world.genesis)
    assert trust.advance(proof).members == SEVEN
    for above_genesis in range(1, world.store.tip.height + 1):
        finality = world.store.finality(above_genesis)
        assert finality is not None
        assert trust.final(finality).height == above_genesis
    assert world.store.epochs.upto(1) == (proof,) and world.store.epochs.upto(0) == ()
    with pytest.raises(LocalError):
        world.store.epochs.upto(2)


def test_blocks_below_a_boundary_are_final_by_its_tail(world: ChainWorld) -> None:
    assert send(world, world.change(SEVEN)).ok
    world.chain.submit([], certified=False)
    world.chain.tail = 2
    world.chain.submit([])
    assert world.validators.epoch == 1
    low = world.store.tip.height - 1
    finality = world.store.finality(low)
    assert finality is not None and len(finality.path) == 3
    assert Trust.of(world.genesis).final(finality).height == low


def test_ended_epochs_outlive_their_blocks(world: ChainWorld) -> None:
    world.turn(SEVEN, 2)
    world.turn(FOUR)
    world.run()
    retention = world.store.retention
    for height in range(1, world.store.tip.height):
        retention.drop(retention.plan(height))
    assert world.store.block(3) is None
    trust = Trust.of(world.genesis)
    for proof in world.store.epochs.proofs(0, 10):
        trust.advance(proof)
    assert trust.latest == world.validators and trust.latest.epoch == 2
    assert len(world.store.epochs.proofs(1, 10)) == len(world.store.epochs.proofs(0, 1)) == 1


def test_a_rollback_over_a_boundary_brings_the_old_set_back() -> None:
    kv = MemoryKv()
    world = ChainWorld(Store(kv, CHAIN_ID))
    world.turn(SEVEN)
    ended, first = world.store.tip.height, world.store.epochs.proof(0)
    world.turn(FOUR)
    world.store.close()
    tip = roll_back(kv, world.store.tip.height - ended, world.genesis.time_ms)
    again = Store(kv, CHAIN_ID)
    assert (tip.height, epochs.current(again.state).epoch) == (ended, 1)
    assert again.epochs.proofs(0, 9) == (first,)
    again.close()
    roll_back(kv, 1, world.genesis.time_ms)
    last = Store(kv, CHAIN_ID)
    assert epochs.current(last.state).epoch == 0 and last.epochs.proofs(0, 9) == ()
    assert last.state.get(KEY_NEXT_VALIDATORS) is not None, "the change is pending again"
