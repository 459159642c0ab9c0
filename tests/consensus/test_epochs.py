"""Rule 12: a pending set ends the epoch, what stands above the boundary is never committed, and the next
epoch begins on the boundary, its promises apart from the last one's."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from consensus.chain import Chain
from consensus.core import Config, Core
from consensus.leader import leader
from consensus.messages import (
    Certified,
    Executed,
    Fetch,
    Propose,
    Ready,
    Record,
    Reply,
    Start,
    Status,
    Synced,
    Tick,
    Vote,
    epoch_of,
)
from consensus.safety import restore
from consensus.verify import Rules
from ledger.blocks import ZERO_HASH, Header, decode_header
from ledger.codec import encode, sha256
from ledger.proofs.certificate import (
    PROPOSE_DOMAIN,
    VOTE_DOMAIN,
    Certificate,
    Ed25519Scheme,
    Statement,
    Validator,
    ValidatorSet,
    VoteKind,
    vote_message,
)
from ledger.proofs.light import FinalityProof, verify_final
from tests.consensus.support import (
    CHAIN,
    FINAL,
    KEYS,
    NOTAR,
    ROOT,
    SET,
    SKIP,
    TIMING,
    Bench,
    certificate,
    header,
    propose,
    sent,
    votes,
)

NEXT = ValidatorSet(1, (*SET.members[:3], Validator(KEYS[3].public, 2, "v3")))  # v3 weighs more
ROOT_1 = sha256(b"root with a pending change")
B1, B2 = sha256(b"batch 1"), sha256(b"batch 2")


def pending(me: int = 0, timing: object = TIMING) -> tuple[Bench, Header]:
    """A bench that has committed and executed block 1, which made a change of validators pending."""
    bench = Bench(me)
    block = header(1)
    bench.receive(1, propose(block))
    bench.certify(certificate(FINAL, 1, block.hash))
    bench.step(Executed(1, ROOT_1, None, NEXT.hash))
    return bench, block


def boundary(parent: Header, view: int = 2, **changes: object) -> Header:
    """The block that ends epoch 0."""
    named: dict[str, object] = {"state_height": 1, "state_root": ROOT_1, "next_validators": NEXT.hash}
    return header(view, parent, **(named | changes))


def offer(bench: Bench, block: Header, parent: Header) -> Ready:
    """The block's proposal, with the parent's certificate."""
    proof = certificate(NOTAR, parent.view, parent.hash)
    return bench.receive(leader(SET, block.view), propose(block, proof))


# ---------------------------------------------------------------------- the header


def test_rule_12_the_pending_set_stands_in_the_next_header() -> None:
    """A leader that has executed the change says so at once, and its block is the boundary."""
    bench, block = pending(me=2)
    (proposal,) = sent(bench.last, Propose)
    made = decode_header(proposal.header)
    assert (made.next_validators, made.validators, made.state_height) == (NEXT.hash, SET.hash, 1)
    assert made.parent_hash == block.hash


def test_rule_12_a_boundary_is_voted_for_when_its_state_has_the_change() -> None:
    """Its own `state_height` decides, not what is executed here."""
    bench, block = pending()
    made = boundary(block)
    assert votes(offer(bench, made, block), NOTAR) == [(NOTAR, 2, made.hash)]


def test_rule_12_the_change_is_delayed_like_the_root() -> None:
    """Over the state before the change the new set must not be named; the old one may."""
    bench, block = pending()
    early = boundary(block, state_height=0, state_root=ROOT)
    assert votes(offer(bench, early, block), NOTAR) == []
    assert bench.last.alarms == ["block.next_validators"]
    bench, block = pending()
    old = header(2, block)
    assert old.state_height == 0
    assert votes(offer(bench, old, block), NOTAR) == [(NOTAR, 2, old.hash)]


def test_rule_12_a_leader_cannot_leave_the_change_out() -> None:
    """With the state that has it named, the old set is refused, and so is any other."""
    for wrong in (SET.hash, sha256(b"a set of its own")):
        bench, block = pending()
        made = boundary(block, next_validators=wrong)
        assert votes(offer(bench, made, block), NOTAR) == []
        assert bench.last.alarms == ["block.next_validators"]


def test_rule_12_a_change_that_is_not_executed_here_yet_waits() -> None:
    """Nobody can say yet whether it is right."""
    bench = Bench()
    block = header(1)
    bench.receive(1, propose(block))
    bench.certify(certificate(FINAL, 1, block.hash))
    made = boundary(block)
    assert votes(offer(bench, made, block), NOTAR) == []
    assert bench.last.alarms == []
    ready = bench.step(Executed(1, ROOT_1, None, NEXT.hash))
    assert votes(ready, NOTAR) == [(NOTAR, 2, made.hash)]


def test_rule_12_a_header_of_another_epoch_is_refused() -> None:
    """Also when it came by its hash, where no signature is looked at."""
    bench, block = pending()
    made = boundary(block, epoch=1)
    state = bench.core._view(2)
    state.proposal, state.proposal_hash = made, made.hash
    assert bench.core._broken_rule(made, block) == "block.validators"


# ---------------------------------------------------------------------- the tail


def with_boundary(me: int = 0, batches: Iterable[bytes] = ()) -> tuple[Bench, Header]:
    """A bench on which the boundary is notarized, not final. Returns it with the boundary."""
    bench, block = pending(me)
    made = boundary(block, batches=tuple(batches))
    for digest in made.batches:
        bench.hold(digest)
    offer(bench, made, block)
    bench.certify(certificate(NOTAR, 2, made.hash))
    return bench, made


def tail(parent: Header, view: int = 3, **changes: object) -> Header:
    """An honest block above the boundary."""
    return boundary(parent, view, **changes)


def test_rule_12_above_the_boundary_blocks_are_empty_and_in_no_hurry() -> None:
    """The leader of view 3 holds a batch, and lets it wait for the next epoch."""
    bench, made = with_boundary(me=3)
    assert sent(bench.hold(B1), Propose) == []
    ready = bench.wait(TIMING.idle_ms)
    (proposal,) = sent(ready, Propose)
    above = decode_header(proposal.header)
    assert (above.parent_hash, above.batches, above.next_validators) == (made.hash, (), NEXT.hash)


def test_rule_12_a_tail_block_with_batches_is_refused() -> None:
    """It is never committed, so nothing may be in it; nor may it go back to the old set."""
    for changes in ({"batches": (B1,)}, {"next_validators": SET.hash, "state_height": 1}):
        bench, made = with_boundary()
        bench.hold(B1)
        assert votes(offer(bench, tail(made, **changes), made), NOTAR) == []
        assert bench.last.alarms in (["block.tail"], ["block.next_validators"])
    bench, made = with_boundary()
    bench.hold(B1)
    above = tail(made)
    assert votes(offer(bench, above, made), NOTAR) == [(NOTAR, 3, above.hash)]


def test_rule_12_a_tail_never_grows() -> None:
    """300 views above the boundary are notarized, none final: the certificate of the last is one header away
    from the boundary, so that whoever follows takes the proof (ledger.proofs.light.FINALITY_PATH_MAX is
    less)."""
    bench, made = with_boundary(me=0)
    timed = {"time_ms": made.time_ms + 1}
    for view in range(3, 303):
        if leader(SET, view) == 0:
            (proposal,) = sent(bench.last, Propose) or sent(bench.wait(TIMING.idle_ms), Propose)
            above = decode_header(proposal.header)
            assert len(proposal.skips) == min(view - 3, 64)
            assert (above.parent_hash, above.height) == (made.hash, made.height + 1)
        else:
            above = tail(made, view=view, **timed)
            assert votes(offer(bench, above, made), NOTAR) == [(NOTAR, view, above.hash)]
        bench.certify(certificate(NOTAR, view, above.hash))
    (commit,) = bench.certify(certificate(FINAL, 302, above.hash)).commit
    assert (commit.header, commit.path) == (made, (above.encode(),))
    verify_final(CHAIN, SET, FinalityProof(made.encode(), commit.path, encode(commit.certificate)))


def test_rule_12_a_tail_block_on_another_is_refused() -> None:
    """Else the way to what is final could become longer than anybody takes."""
    bench, made = with_boundary(me=1)
    first = tail(made)
    offer(bench, first, made)
    bench.certify(certificate(NOTAR, 3, first.hash))
    assert votes(offer(bench, tail(first, view=4), first), NOTAR) == []
    assert bench.last.alarms == ["block.tail"]


def test_rule_12_in_the_tail_a_notarized_block_beside_is_passed_over() -> None:
    """Once its header is here: the certificate alone does not say that it stands on the same boundary."""
    bench, made = with_boundary(me=1)
    first, second = tail(made), tail(made, view=4)
    bench.certify(certificate(NOTAR, 3, first.hash))
    assert votes(offer(bench, second, made), NOTAR) == []
    assert Fetch("header", first.hash) in sent(bench.last, Fetch)
    ready = bench.receive(3, Reply("header", first.hash, first.encode()))
    assert votes(ready, NOTAR) == [(NOTAR, 4, second.hash)]


def test_rule_12_a_boundary_passes_over_nothing_that_may_be_final() -> None:
    """Views 2 and 3 hold notarized blocks, a boundary and its tail: what would go back behind them must show
    their Skip, whether it ends the epoch or is a tail upon another end."""
    bench, made = with_boundary(me=1)
    first = tail(made)
    offer(bench, first, made)
    bench.certify(certificate(NOTAR, 3, first.hash))
    other = boundary(bench.core.chain.tip, view=4)
    bench.receive(0, propose(other, certificate(FINAL, 1, bench.core.chain.tip_hash)))
    assert votes(bench.last, NOTAR) == []
    bench.certify(certificate(NOTAR, 4, other.hash))  # more than f that lie
    beside = tail(other, view=6)
    bench.certify(certificate(NOTAR, 5, tail(made, view=5).hash))
    bench.receive(2, propose(beside, certificate(NOTAR, 4, other.hash)))
    bench.receive(2, Reply("header", tail(made, view=5).hash, tail(made, view=5).encode()))
    assert votes(bench.last, NOTAR) == []


# ---------------------------------------------------------------------- commit


def test_rule_12_a_final_boundary_ends_the_core() -> None:
    """It is committed; then nothing is voted or proposed, whatever comes."""
    bench, made = with_boundary(me=3)
    ready = bench.certify(certificate(FINAL, 2, made.hash))
    assert [(c.header, c.path) for c in ready.commit] == [(made, ())]
    assert bench.core.ended
    told = {m.certificate.statement for m in sent(ready, Certified) if m.certificate.statement.kind is FINAL}
    assert told == {Statement(FINAL, 0, 2, made.hash)}, "[6] at once, to those that may lack it"
    bench.now += 10 * TIMING.timeout_max_ms
    assert (bench.step(Tick()).send, bench.last.wake_ms) == ([], None)
    above = tail(made)
    assert offer(bench, above, made).records == []
    assert bench.certify(certificate(FINAL, 3, above.hash)).commit == []


def test_rule_12_what_stands_above_the_boundary_is_not_committed() -> None:
    """A Final certificate of the second tail block: one commit, and the header that leads to it."""
    bench, made = with_boundary(batches=[B1])
    first = tail(made)
    offer(bench, first, made)
    bench.certify(certificate(NOTAR, 3, first.hash))
    second = tail(made, view=4)
    bench.receive(0, propose(second, certificate(NOTAR, 2, made.hash)))
    ready = bench.certify(certificate(FINAL, 4, second.hash))
    assert [(c.header, c.path) for c in ready.commit] == [(made, (second.encode(),))]
    assert bench.core.chain.tip == made
    assert bench.core.chain.tip_hash == made.hash


def test_rule_12_the_boundary_waits_for_its_bytes_like_any_block() -> None:
    """The certificate names a tail block; the boundary's batch is not here yet."""
    bench, block = pending()
    made = boundary(block, batches=(B1,))
    offer(bench, made, block)
    first = tail(made)
    offer(bench, first, made)
    assert bench.certify(certificate(FINAL, 3, first.hash)).commit == []
    assert [c.header for c in bench.hold(B1).commit] == [made]


def test_rule_12_a_synced_boundary_ends_the_core() -> None:
    """Range sync was faster."""
    bench, made = with_boundary()
    bench.step(Synced(made, certificate(FINAL, 2, made.hash)))
    assert bench.core.ended


def test_rule_12_an_ended_core_answers_who_lags() -> None:
    """With its Final certificate, and headers of the tail too."""
    bench, made = with_boundary()
    first = tail(made)
    offer(bench, first, made)
    bench.certify(certificate(FINAL, 3, first.hash))
    ready = bench.receive(2, Status(0, None, 1, 2, b"", b""))
    assert [m.certificate.statement.view for m in sent(ready, Certified)] == [3]
    for wanted in (made, first):
        ready = bench.receive(2, Fetch("header", wanted.hash))
        assert sent(ready, Reply) == [Reply("header", wanted.hash, wanted.encode())]


# ---------------------------------------------------------------------- the next epoch


class NextBench(Bench):
    """The core of epoch 1 at the boundary."""

    def __init__(self, made: Header, me: int = 0, records: Iterable[Record] = ()) -> None:
        self.me, self.timing, self.now = me, TIMING, 0
        scheme = Ed25519Scheme()
        config = Config(CHAIN, NEXT, me, TIMING, scheme, lambda d, m: KEYS[me].sign(d, CHAIN, m))
        self.core = Core(config, Chain(made, made.hash), {1: ROOT_1, 2: ROOT}, None)
        self.rules = Rules(CHAIN, NEXT, scheme, self.core.knows)
        self.core.restore(restore(records, [], 1, made.view))
        self.last = self.step(Start())


def next_certificate(kind: VoteKind, view: int, block: bytes, signers: Iterable[int]) -> Certificate:
    """Of epoch 1."""
    statement = Statement(kind, 1, view, block)
    signed = {i: KEYS[i].sign(VOTE_DOMAIN, CHAIN, vote_message(statement)) for i in signers}
    return Ed25519Scheme().assemble(statement, signed, len(KEYS))


def first_of_epoch_1(made: Header, view: int = 3) -> tuple[Header, Propose]:
    """A block on the boundary, and its proposal."""
    block = msgspec.structs.replace(
        header(view, made),
        epoch=1,
        state_height=2,
        state_root=ROOT,
        validators=NEXT.hash,
        next_validators=NEXT.hash,
    )
    signature = KEYS[leader(NEXT, view)].sign(PROPOSE_DOMAIN, CHAIN, block.hash)
    return block, Propose(block.encode(), signature, None, ())


def test_rule_12_the_next_epoch_goes_on_from_the_boundary() -> None:
    """Views count on; the first block needs no certificate of its parent; votes carry the epoch."""
    _, made = with_boundary()
    bench = NextBench(made)
    assert bench.core.frontier == made.view + 1
    block, proposal = first_of_epoch_1(made)
    ready = bench.receive(3, proposal)
    (own,) = sent(ready, Vote)
    assert (own.statement.epoch, own.statement.block) == (1, block.hash)
    assert [r.epoch for r in ready.records] == [1]
    ready = bench.certify(next_certificate(FINAL, 3, block.hash, (1, 2, 3)))
    assert [c.header for c in ready.commit] == [block]


def test_rule_12_the_boundary_is_told_after_the_next_epochs_first_block() -> None:
    """Regression: who had the certificate of the end alone got no header to it once the others went on."""
    _, made = with_boundary()
    bench = NextBench(made)
    block, proposal = first_of_epoch_1(made)
    bench.receive(3, proposal)
    bench.certify(next_certificate(FINAL, 3, block.hash, (0, 2, 3)))
    assert bench.core.chain.tip == block
    ready = bench.receive(2, Fetch("header", made.hash))
    assert sent(ready, Reply) == [Reply("header", made.hash, made.encode())]


def test_rule_12_a_leader_of_the_next_epoch_proposes_on_the_boundary() -> None:
    """Its header names the new set, and no change, as the boundary's execution took it."""
    _, made = with_boundary()
    bench = NextBench(made, me=3)
    (proposal,) = sent(bench.hold(B2), Propose)
    block = decode_header(proposal.header)
    assert (block.epoch, block.parent_hash, block.parent_view) == (1, made.hash, made.view)
    assert block.validators == block.next_validators == NEXT.hash
    assert block.batches == (B2,)
    assert proposal.parent is None


def test_rule_12_weights_of_the_new_set_count() -> None:
    """v3 weighs 2 of 5: with it two more are a quorum of 4; without it three of weight 3 are none."""
    _, made = with_boundary()
    bench = NextBench(made)
    for member in (1, 2):
        statement = Statement(SKIP, 1, 3, ZERO_HASH)
        signed = KEYS[member].sign(VOTE_DOMAIN, CHAIN, vote_message(statement))
        bench.receive(member, Vote(statement, member, signed))
    bench.wait(TIMING.idle_ms + TIMING.view_timeout_ms)  # our own Skip: weight 3 of 5
    assert bench.core.frontier == 3
    statement = Statement(SKIP, 1, 3, ZERO_HASH)
    signed = KEYS[3].sign(VOTE_DOMAIN, CHAIN, vote_message(statement))
    bench.receive(3, Vote(statement, 3, signed))
    assert bench.core.frontier == 4


def test_rule_12_promises_of_two_epochs_stand_apart() -> None:
    """A Final for the tail in view 3 of epoch 0 does not keep from voting in view 3 of epoch 1."""
    _, made = with_boundary()
    above = tail(made)
    old = [Record(NOTAR, 3, above.hash, above.encode(), 0), Record(FINAL, 3, above.hash, b"", 0)]
    bench = NextBench(made, records=old)
    block, proposal = first_of_epoch_1(made)
    assert votes(bench.receive(3, proposal), NOTAR) == [(NOTAR, 3, block.hash)]
    kept = NextBench(made).receive(3, proposal).records
    again = NextBench(made, records=[*old, *kept])
    assert votes(again.last, NOTAR) == [(NOTAR, 3, block.hash)], "told again at the start"
    other, second = first_of_epoch_1(msgspec.structs.replace(made, time_ms=made.time_ms + 5))
    assert votes(again.receive(3, second), NOTAR) == [], "never another"


def test_rule_12_a_leader_repeats_its_proposal_to_who_comes_later() -> None:
    """Who was still in the old epoch dropped it; its first Status brings proposal and vote."""
    _, made = with_boundary()
    bench = NextBench(made, me=3)
    (proposal,) = sent(bench.hold(B2), Propose)
    ready = bench.receive(1, Status(1, None, made.view, 3, b"", b""))
    assert sent(ready, Propose) == [proposal]
    assert len(sent(ready, Vote)) == 1
    ahead = bench.receive(2, Status(1, None, made.view, 4, b"", b""))
    assert sent(ahead, Propose) == [], "who is past the view needs it no more"


def test_rule_12_have_maps_count_from_the_boundary() -> None:
    """With views in the thousands and nothing final in the epoch, the map begins where it matters."""
    _, made = with_boundary()
    far = msgspec.structs.replace(made, view=5_000, parent_view=4_999)
    bench = NextBench(far)
    bench.certify(next_certificate(SKIP, 5_001, ZERO_HASH, (1, 2, 3)))
    told = bench.core._status()
    assert (told.epoch, told.final, told.base, told.skips) == (1, None, 5_000, b"\x01")
    assert bench.receive(1, Status(1, None, 5_000, 5_002, b"", b"\x01")).send == []
    ready = bench.receive(2, Status(1, None, 5_000, 5_001, b"", b""))
    assert [m.certificate.statement.view for m in sent(ready, Certified)] == [5_001]


def test_the_epoch_of_each_message() -> None:
    """The shell sorts by it before anything is checked."""
    _, made = with_boundary()
    _, proposal = first_of_epoch_1(made)
    statement = Statement(SKIP, 7, 3, ZERO_HASH)
    assert epoch_of(proposal) == 1
    assert epoch_of(Vote(statement, 0, b"")) == epoch_of(Certified(Certificate(statement, b"", ()))) == 7
    assert epoch_of(Status(2, None, 0, 1, b"", b"")) == 2
    assert epoch_of(Fetch("header", ZERO_HASH)) is None
    assert epoch_of(Reply("header", ZERO_HASH, encode(b""))) is None
