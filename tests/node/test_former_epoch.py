"""What an epoch that is over still brings: offences told late, blocks that the store had before the core."""

from __future__ import annotations

import trio

from consensus.messages import Certified, Message, Propose, Received, Start, Vote, encode_message
from ledger.codec import encode
from ledger.machine import Context, apply
from ledger.proofs.certificate import PROPOSE_DOMAIN, VOTE_DOMAIN, Statement, VoteKind, vote_message
from ledger.records import key_offence
from ledger.state import Overlay
from ledger.transactions import ReportEvidence, Tx, decode_tx, sign_tx, verified
from node.voting.engine import Engine
from tests.node.epochs_fixture import change_tx
from tests.node.final_chain import batch_of, certificate, extend, next_header
from tests.node.network_fixture import CHAIN_ID, RICH, key, until
from tests.node.test_engine import Rig
from tests.node.test_other_epochs import NEXT, ended

NOTAR = VoteKind.NOTAR
OFFENDER = key("validator2")


def vote(block: bytes, member: int = 2, view: int = 2, epoch: int = 0) -> Message:
    statement = Statement(NOTAR, epoch, view, block)
    signature = key(f"validator{member}").sign(VOTE_DOMAIN, CHAIN_ID, vote_message(statement))
    return Vote(statement, member, signature)


def next_engine() -> Engine:
    """Of epoch 1; epoch 0 ended at height 2."""
    peer, _ = ended()
    assert peer.engine is not None
    return peer.engine


def test_rule_11_two_votes_of_the_epoch_before_are_found_late() -> None:
    """Regression: nobody looked at votes of an ended epoch, so an offence that came late was none."""
    engine = next_engine()
    for block in (b"\1" * 32, b"\1" * 32, b"\2" * 32):
        engine._message(2, encode_message(vote(block)))
    assert list(engine.accuser.cases) == [OFFENDER.public]
    assert (engine.counters.alarms, engine.counters.faults) == ({"equivocation": 1}, {})
    (case,) = engine.accuser.cases.values()
    state, tip = Overlay(engine.notary.store.state), engine.notary.store.tip
    body = ReportEvidence(case.evidence)
    raw = sign_tx(RICH, Tx(CHAIN_ID, RICH.public, tip.height + 9, b"salt0001", body))
    context = Context(CHAIN_ID, tip.height + 1, tip.time_ms, tip.hash)
    receipt = apply(state, verified(decode_tx(raw, CHAIN_ID)), context)
    assert receipt.ok, "the ledger judges it by the set of its own epoch"
    assert state.get(key_offence(OFFENDER.public)) is not None


def test_rule_11_two_proposals_of_the_epoch_before_are_found_late() -> None:
    engine = next_engine()
    old = engine.former
    assert old is not None
    for time_ms in (1_800_000_000_000, 1_800_000_000_001):
        block = next_header(
            engine.notary,
            (),
            view=6,
            time_ms=time_ms,
            validators=old.rules.validators.hash,
            proposer=OFFENDER.public,
        )
        signature = OFFENDER.sign(PROPOSE_DOMAIN, CHAIN_ID, block.hash)
        engine._message(2, encode_message(Propose(block.encode(), signature, None, ())))
    assert list(engine.accuser.cases) == [OFFENDER.public]


def test_rule_11_late_votes_are_checked_and_bounded() -> None:
    """A false one is its sender's fault; far ones, other epochs, who left and honest ones tell nothing."""
    engine = next_engine()
    assert engine.former is not None
    forged = Vote(Statement(NOTAR, 0, 2, b"\3" * 32), 2, bytes(64))
    engine._message(2, encode_message(forged))
    assert engine.counters.faults == {"consensus.vote.signature": 1}
    for other in (vote(b"\1" * 32, view=900), vote(b"\1" * 32, epoch=5), vote(b"\1" * 32, member=3)):
        engine._message(2, encode_message(other))
    assert engine.former.watch.votes.keys() <= {2}
    for block in (b"\1" * 32, b"\2" * 32):  # validator 5 sits in the place of 3, and had no seat then
        engine._message(3, encode_message(vote(block, member=3)))
    assert engine.accuser.cases == {}


async def test_a_halted_engine_takes_not_one_step_more() -> None:
    """Regression: an engine that was awake already when another state took the store's place went on once
    with its old core, over the new store."""
    rig = Rig(validators=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.engine.run)
        await until(lambda: rig.notary.store.tip.height >= 2)
        rig.add(1)  # awake
        steps = rig.engine.counters.steps
        rig.engine.halt()
        await until(lambda: not nursery.child_tasks)
        assert rig.engine.counters.steps == steps


def test_rule_12_a_core_whose_epoch_is_over_in_the_store_votes_no_more() -> None:
    """Regression: range sync brought a change and the boundary at once; the core heard of the change's block
    with no change pending, as the store was past it, and voted for a block that leaves the change out."""
    rig = Rig(me=1)
    engine, notary = rig.engine, rig.notary
    engine.peers = {0: "peer 0"}
    engine._step(Start())
    tip_ms = notary.store.tip.time_ms
    first = extend(notary, batch_of(change_tx(notary.validators, NEXT, [0, 1, 2], 0, tip_ms)))
    named = {"state_height": 1, "state_root": notary.store.root(1)}
    lying = next_header(notary, (), **named)
    boundary = next_header(notary, (), **named, next_validators=NEXT.hash)
    notary.commit(boundary, certificate(boundary), (), {})
    for header in (first, boundary):
        engine.synced(header, certificate(header))
    engine.core.chain.add(first.hash, first)
    engine._step(Received(2, Propose(encode(lying), bytes(64), certificate(first), ()), lying))
    engine._step(Received(2, Certified(certificate(first))))
    assert engine.core.views[2].own_notar is None
    engine._take_synced()
    assert engine.core.ended and engine.core.chain.tip == boundary
    assert [m for m in rig.messages() if isinstance(m, Vote) and m.statement.view == 2] == []
    assert engine.counters.alarms == {}
