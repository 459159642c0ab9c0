"""The rules of the protocol, one by one, on a bench: docs/spec.md, section Consensus."""

from __future__ import annotations

from typing import Any

from consensus.messages import Executed, Propose, Status, Synced
from consensus.timers import Timing
from ledger.blocks import ZERO_HASH, decode_header
from ledger.codec import sha256
from ledger.limits import BLOCK_TXS_MAX, TIME_AHEAD_MS_MAX
from tests.consensus.support import (
    FINAL,
    GENESIS_HASH,
    NOTAR,
    ROOT,
    SKIP,
    TIMING,
    WALL,
    Bench,
    certificate,
    header,
    propose,
    sent,
    vote,
    votes,
)

B1, B2 = sha256(b"batch 1"), sha256(b"batch 2")


def notarized(bench: Bench, view: int = 1) -> bytes:
    """The bench has voted Notar for the first block and holds its certificate: returns its hash."""
    block = header(view)
    bench.receive(1, propose(block))
    bench.certify(certificate(NOTAR, view, block.hash))
    return block.hash


# [1] frontier


def test_rule_1_enters_the_smallest_uncleared_view() -> None:
    """Notar, Skip and Final clear; a gap holds the frontier back until it is filled."""
    bench = Bench()
    assert bench.core.frontier == 1
    bench.certify(certificate(SKIP, 2))
    assert bench.core.frontier == 1
    bench.certify(certificate(NOTAR, 1, header(1).hash))
    assert bench.core.frontier == 3
    bench.certify(certificate(FINAL, 9, sha256(b"far")))
    assert bench.core.frontier == 10


def test_rule_1_quorum_of_votes_makes_the_certificate() -> None:
    """Two of four are no quorum, the third vote completes it."""
    bench = Bench()
    for member in (1, 2):
        bench.receive(member, vote(member, SKIP, 1))
    assert bench.core.frontier == 1
    ready = bench.receive(3, vote(3, SKIP, 1))
    assert bench.core.frontier == 2
    assert [c.statement.kind for c in ready.certificates] == [SKIP]


def test_rule_1_same_vote_twice_counts_once() -> None:
    """Repeating a vote adds no weight."""
    bench = Bench()
    for _ in range(3):
        bench.receive(1, vote(1, SKIP, 1))
    bench.receive(2, vote(2, SKIP, 1))
    assert bench.core.frontier == 1


# [2] propose


def test_rule_2_leader_embeds_parent_and_skips() -> None:
    """Member 3 leads view 3: parent Notar[1], Skip[2]."""
    bench = Bench(me=3)
    bench.hold(B1)
    block = header(1)
    bench.receive(1, propose(block))
    bench.certify(certificate(NOTAR, 1, block.hash))
    ready = bench.certify(certificate(SKIP, 2))
    (proposal,) = sent(ready, Propose)
    made = decode_header(proposal.header)
    assert (made.parent_view, made.parent_hash, made.height, made.batches) == (1, block.hash, 2, (B1,))
    assert proposal.parent.statement.block == block.hash
    assert [c.statement.view for c in proposal.skips] == [2]


def test_rule_2_batch_of_the_parent_is_not_named_again() -> None:
    """What the chain above the tip names already stays out of the next block."""
    bench = Bench(me=2)
    bench.hold(B1)
    bench.hold(B2)
    block = header(1, batches=[B1])
    bench.receive(1, propose(block))
    ready = bench.certify(certificate(NOTAR, 1, block.hash))
    (proposal,) = sent(ready, Propose)
    assert decode_header(proposal.header).batches == (B2,)


def test_rule_2_restarted_leader_sends_the_same_block() -> None:
    """Regression: a leader that restarts beyond views cleared by certificates repeats its kept proposal."""
    from consensus import safety

    bench = Bench(me=3)
    skips = [certificate(SKIP, v) for v in (1, 2)]
    for made in skips:
        bench.certify(made)
    ready = bench.hold(B1)
    (proposal,) = sent(ready, Propose)
    again = Bench(me=3, start=False)
    again.core.restore(safety.restore(ready.records, skips, 0, 0))
    again.hold(B1)
    from consensus.messages import Start

    (repeated,) = sent(again.step(Start()), Propose)
    assert repeated.header == proposal.header


def test_rule_2_base_is_a_final_block_not_yet_committed() -> None:
    """Regression: after a restart or sync below a known Final block, the leader waits for that block
    and never votes for a block whose skips it cannot prove."""
    from consensus.chain import Chain
    from consensus.core import Core
    from consensus.messages import Start
    from tests.consensus.support import GENESIS

    bench = Bench(me=3)
    far = certificate(FINAL, 2, sha256(b"unknown block"))
    core = Core(bench.core.config, Chain(GENESIS, GENESIS_HASH), {0: ROOT}, far)
    core.batches[B1] = 1
    ready = core.step(Start(), 0, WALL)
    assert core.frontier == 3
    assert not sent(ready, Propose)
    assert ready.records == []


def test_rule_2_synced_below_the_final_certificate() -> None:
    """Regression: the same after `Synced` with the certificate of a descendant."""
    bench = Bench(me=0)
    first = header(1)
    bench.hold(B1)
    ready = bench.step(Synced(first, certificate(FINAL, 3, sha256(b"descendant"))))
    assert bench.core.chain.tip_hash == first.hash
    assert bench.core.frontier == 4
    assert not sent(ready, Propose)


# [3] notar


def test_rule_3_votes_once_for_the_first_proposal() -> None:
    """An equivocating leader gets one vote, for what came first."""
    bench = Bench()
    first, second = header(1), header(1, time_ms=WALL + 7)
    assert votes(bench.receive(1, propose(first))) == [(NOTAR, 1, first.hash)]
    assert votes(bench.receive(1, propose(second))) == []


def test_rule_3_waits_for_the_batches() -> None:
    """No Notar until every batch is held; after a grace it is asked for."""
    bench = Bench()
    block = header(1, batches=[B1, B2])
    bench.hold(B1)
    assert votes(bench.receive(1, propose(block))) == []
    from consensus.messages import Fetch

    assert [f.digest for f in sent(bench.wait(150), Fetch)] == [B2]
    ready = bench.hold(B2)
    assert votes(ready) == [(NOTAR, 1, block.hash)]
    assert [r.block for r in ready.records] == [block.hash]


def test_rule_3_parent_must_be_proved() -> None:
    """A block on an unknown parent waits for the parent's certificate."""
    bench = Bench()
    first = header(1)
    second = header(2, parent=first)
    bench.receive(1, propose(first))
    assert votes(bench.receive(2, propose(second))) == []
    assert votes(bench.certify(certificate(NOTAR, 1, first.hash)), NOTAR) == [(NOTAR, 2, second.hash)]


def test_rule_3_skips_between_must_be_proved() -> None:
    """A block over a view that is not skipped gets no vote, until Skip is shown."""
    bench = Bench()
    block = header(2)
    assert votes(bench.receive(2, propose(block)), NOTAR) == []
    assert votes(bench.certify(certificate(SKIP, 1)), NOTAR) == [(NOTAR, 2, block.hash)]


def test_rule_3_whole_way_to_the_tip_is_wanted() -> None:
    """Regression: with a header missing on the way, a repeated batch could not be seen."""
    from consensus.messages import Fetch, Reply

    bench = Bench()
    first = header(1, batches=[B1])
    second = header(2, parent=first)
    third = header(3, parent=second, batches=[B1])
    bench.hold(B1)
    bench.certify(certificate(NOTAR, 1, first.hash))
    bench.receive(2, propose(second, certificate(NOTAR, 1, first.hash)))
    ready = bench.receive(3, propose(third, certificate(NOTAR, 2, second.hash)))
    assert votes(ready, NOTAR) == []
    assert first.hash in bench.core.wants.wants
    assert {f.digest for f in sent(ready, Fetch)} | set(bench.core.wants.wants) == {first.hash}
    ready = bench.receive(1, Reply("header", first.hash, first.encode()))
    assert "block.batch_twice" in ready.alarms
    assert (SKIP, 4 - 1, ZERO_HASH) in votes(ready)


def test_rule_3_broken_blocks_are_refused_by_name() -> None:
    """Each of these can never become right: alarm, Skip at once, no Notar."""
    broken: dict[str, dict[str, Any]] = {
        "block.height": {"height": 2},
        "block.time": {"time_ms": WALL - 1},
        "block.validators": {"validators": sha256(b"others")},
        "block.state_root": {"state_root": sha256(b"other root")},
    }
    for rule, changes in broken.items():
        bench = Bench()
        ready = bench.receive(1, propose(header(1, **changes)))
        assert ready.alarms == [rule]
        assert votes(ready) == [(SKIP, 1, ZERO_HASH)]


def test_rule_3_too_many_transactions_are_refused() -> None:
    """Regression: the machine cannot execute more than BLOCK_TXS_MAX, so no such block is notarized."""
    bench = Bench()
    bench.hold(B1, BLOCK_TXS_MAX)
    bench.hold(B2, 1)
    ready = bench.receive(1, propose(header(1, batches=[B1, B2])))
    assert ready.alarms == ["block.txs"]
    assert votes(ready) == [(SKIP, 1, ZERO_HASH)]


def test_rule_3_time_ahead_waits() -> None:
    """A block too far in the future is voted for when its time has come near, within the view."""
    bench = Bench()
    block = header(1, time_ms=WALL + TIME_AHEAD_MS_MAX + 300)
    assert votes(bench.receive(1, propose(block))) == []
    assert votes(bench.wait(299)) == []
    assert votes(bench.wait(1), NOTAR) == [(NOTAR, 1, block.hash)]


def test_rule_3_state_not_executed_yet_waits() -> None:
    """A proposer ahead in execution is not refused; the vote comes with our own execution."""
    bench = Bench()
    first = header(1)
    bench.receive(1, propose(first))
    bench.certify(certificate(NOTAR, 1, first.hash))
    root = sha256(b"root 1")
    second = header(2, parent=first, state_height=1, state_root=root)
    assert votes(bench.receive(2, propose(second)), NOTAR) == []
    bench.certify(certificate(FINAL, 1, first.hash))
    assert votes(bench.step(Executed(1, root)), NOTAR) == [(NOTAR, 2, second.hash)]


# [4] final


def test_rule_4_final_needs_own_notar_and_its_certificate() -> None:
    """The certificate for our block brings Final; one for another block does not."""
    bench = Bench()
    block = header(1)
    bench.receive(1, propose(block))
    other = Bench()
    other.receive(1, propose(block))
    assert votes(bench.certify(certificate(NOTAR, 1, block.hash)), FINAL) == [(FINAL, 1, block.hash)]
    assert votes(other.certify(certificate(NOTAR, 1, sha256(b"another"))), FINAL) == []
    assert votes(Bench().certify(certificate(NOTAR, 1, block.hash)), FINAL) == []


def test_rule_4_never_final_after_own_skip() -> None:
    """Skip was promised on timeout: the late certificate brings no Final."""
    bench = Bench()
    block = header(1)
    bench.receive(1, propose(block))
    assert (SKIP, 1, ZERO_HASH) in votes(bench.wait(TIMING.view_timeout_ms + TIMING.idle_ms))
    assert votes(bench.certify(certificate(NOTAR, 1, block.hash)), FINAL) == []


# [5] skip


def test_rule_5_never_skip_after_own_final() -> None:
    """Whatever time passes: a view with our Final never gets our Skip."""
    bench = Bench()
    notarized(bench)
    assert bench.core.views[1].own_final is not None
    assert all(view != 1 for _, view, _ in votes(bench.wait(60_000), SKIP))


def test_rule_5_final_and_timeout_in_one_step() -> None:
    """The late proposal completes Notar with our own vote after the timeout passed unnoticed (the process
    was paused): Final is cast in that step, so no Skip."""
    bench = Bench()
    block = header(1)
    for member in (1, 2):
        bench.receive(member, vote(member, NOTAR, 1, block.hash))
    bench.now = 5_000
    ready = bench.receive(1, propose(block))
    assert votes(ready) == [(NOTAR, 1, block.hash), (FINAL, 1, block.hash)]


def test_rule_5_final_of_an_earlier_life_excludes_skip() -> None:
    """Restored with Final in a view whose certificates were lost: the view stays without Skip."""
    from consensus import safety
    from consensus.messages import Record, Start

    block = header(1)
    kept = [Record(NOTAR, 1, block.hash, block.encode()), Record(FINAL, 1, block.hash, b"")]
    bench = Bench(start=False)
    bench.core.restore(safety.restore(kept, [], 0, 0))
    bench.step(Start())
    assert bench.core.frontier == 1
    assert votes(bench.wait(60_000), SKIP) == []


def test_rule_5_skip_is_told_again_to_who_asks() -> None:
    """A lost Skip vote comes back with the answer to a Status."""
    bench = Bench()
    bench.wait(TIMING.view_timeout_ms + TIMING.idle_ms)
    ready = bench.receive(2, Status(0, None, 0, 1, b"", b""))
    assert votes(ready) == [(SKIP, 1, ZERO_HASH)]
    assert [s.to for s in ready.send] == [2]


# [8] timers


def test_rule_8_timeouts_grow_with_views_since_the_last_final() -> None:
    """T0 · α^k, capped; a Final starts over, a Skip or Notar does not."""
    timing = Timing(view_timeout_ms=1_000, alpha_percent=150, timeout_max_ms=4_000)
    assert [timing.timeout_ms(v, 0) for v in (1, 2, 3, 4, 5, 50)] == [
        1_000,
        1_500,
        2_250,
        3_375,
        4_000,
        4_000,
    ]
    assert timing.timeout_ms(8, 7) == 1_000
    assert timing.timeout_ms(3, 7) == 1_000


def test_rule_8_skip_comes_at_the_timeout_and_not_before() -> None:
    """With work at hand the leader has T0; in the next view T0 · α."""
    bench = Bench(timing=TIMING)
    bench.hold(B1)
    assert votes(bench.wait(999)) == []
    assert votes(bench.wait(1)) == [(SKIP, 1, ZERO_HASH)]
    bench.certify(certificate(SKIP, 1))
    assert votes(bench.wait(1_199)) == []
    assert votes(bench.wait(1)) == [(SKIP, 2, ZERO_HASH)]


# [9] commit


def test_rule_9_final_commits_all_ancestors_in_order() -> None:
    """Final of view 3 commits blocks 1 to 3 once, each with that certificate."""
    bench = Bench()
    first = header(1)
    second = header(2, parent=first)
    third = header(3, parent=second)
    bench.receive(1, propose(first))
    bench.receive(2, propose(second, certificate(NOTAR, 1, first.hash)))
    bench.receive(3, propose(third, certificate(NOTAR, 2, second.hash)))
    ready = bench.certify(certificate(FINAL, 3, third.hash))
    assert [c.header.hash for c in ready.commit] == [first.hash, second.hash, third.hash]
    assert {c.certificate.statement.view for c in ready.commit} == {3}
    assert ready.prune_view == 3
    assert bench.certify(certificate(FINAL, 3, third.hash)).commit == []


def test_rule_9_commit_waits_for_bytes_and_fetches_headers() -> None:
    """A Final certificate of an unknown block: headers and batches are asked for, then all commit."""
    from consensus.messages import Fetch, Reply

    bench = Bench()
    first = header(1, batches=[B1])
    second = header(2, parent=first)
    ready = bench.certify(certificate(FINAL, 2, second.hash))
    assert [f.digest for f in sent(ready, Fetch)] == [second.hash]
    ready = bench.receive(1, Reply("header", second.hash, second.encode()))
    assert [f.digest for f in sent(ready, Fetch)] == [first.hash]
    assert bench.receive(1, Reply("header", first.hash, first.encode())).commit == []
    assert [c.header.height for c in bench.hold(B1).commit] == [1, 2]
    assert bench.core.batches == {}


# [13] idle


def test_rule_13_idle_leader_waits_then_proposes_an_empty_block() -> None:
    """Nothing to do: an empty block after idle_ms, and no Skip from others before idle_ms + T0."""
    bench = Bench(me=1)
    assert not sent(bench.wait(TIMING.idle_ms - 1), Propose)
    (proposal,) = sent(bench.wait(1), Propose)
    assert decode_header(proposal.header).batches == ()
    follower = Bench()
    assert votes(follower.wait(TIMING.idle_ms + TIMING.view_timeout_ms - 1)) == []
    assert votes(follower.wait(1)) == [(SKIP, 1, ZERO_HASH)]


def test_rule_13_a_view_that_others_skipped_was_wait_enough() -> None:
    """The leader after a dead one does not wait anew: idle_ms after the parent's block time it proposes."""
    bench = Bench(me=2)
    bench.wait(TIMING.idle_ms - 1)
    assert not sent(bench.certify(certificate(SKIP, 1)), Propose)
    assert bench.last.wake_ms == TIMING.idle_ms
    assert len(sent(bench.wait(1), Propose)) == 1
    late = Bench(me=2)
    late.now = 3 * TIMING.idle_ms
    assert len(sent(late.certify(certificate(SKIP, 1)), Propose)) == 1


def test_rule_13_a_parent_from_the_future_delays_nobody() -> None:
    """A parent whose clock was ahead, or an own one that went back: idle_ms after the entry is the most."""
    assert TIMING.idle_left_ms(0, -10_000) == TIMING.idle_ms
    assert TIMING.idle_left_ms(TIMING.idle_ms, -10_000) == 0


def test_rule_13_work_ends_the_wait_at_once() -> None:
    """A batch that arrives in the wait is proposed in the same step."""
    bench = Bench(me=1)
    bench.wait(100)
    (proposal,) = sent(bench.hold(B1), Propose)
    assert decode_header(proposal.header).batches == (B1,)


def test_rule_13_timed_work_of_the_ledger_ends_the_wait_when_it_is_due() -> None:
    """A claim window that closes in 120 ms is not kept waiting for the idle block; once only."""
    bench = Bench(me=1)
    bench.step(Executed(0, ROOT, WALL + bench.now + 120))
    due = bench.now + 120
    ready = bench.wait(119)
    assert not sent(ready, Propose)
    assert bench.last.wake_ms == due
    (proposal,) = sent(bench.wait(1), Propose)
    found = decode_header(proposal.header)
    assert found.batches == ()
    assert found.time_ms == WALL + due
