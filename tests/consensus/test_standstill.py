"""Rule 7 and rule 10: what is exchanged when nothing is finalized, how much of it, and what is kept."""

from __future__ import annotations

from consensus.limits import (
    ANSWER_EVERY_MS,
    CERTIFICATES_PER_ANSWER_MAX,
    STATUS_VIEWS_MAX,
    VIEW_WINDOW,
    VOTES_PER_ANSWER_MAX,
)
from consensus.messages import Certified, Fetch, Propose, Reply, Status
from consensus.standstill import answer, status
from consensus.votes import ViewState
from ledger.blocks import ZERO_HASH, Header
from ledger.codec import sha256
from tests.consensus.support import (
    FINAL,
    NOTAR,
    SKIP,
    TIMING,
    Bench,
    certificate,
    header,
    propose,
    sent,
    vote,
    votes,
)


def views_with(kind: object, numbers: range) -> dict[int, ViewState]:
    """Views that hold a certificate of one kind."""
    made = {}
    for number in numbers:
        made[number] = ViewState(number)
        made[number].hold(certificate(kind, number, ZERO_HASH if kind is SKIP else sha256(b"%d" % number)))  # type: ignore[arg-type]
    return made


def test_rule_7_status_after_standstill_and_again() -> None:
    """Nothing final for standstill_ms: a Status to all; then again after as long."""
    bench = Bench()
    first = bench.wait(TIMING.standstill_ms - 1)
    assert sent(first, Status) == []
    assert len(sent(bench.wait(1), Status)) == 1
    assert len(sent(bench.wait(3 * TIMING.standstill_ms), Status)) == 3


def test_rule_7_finalization_puts_standstill_off() -> None:
    """A Final certificate starts the wait over."""
    bench = Bench()
    block = header(1)
    bench.receive(1, propose(block))
    bench.wait(TIMING.standstill_ms - 1)
    bench.certify(certificate(FINAL, 1, block.hash))
    assert sent(bench.wait(TIMING.standstill_ms - 1), Status) == []
    assert len(sent(bench.wait(1), Status)) == 1


def test_rule_7_have_map_says_what_is_held() -> None:
    """Bits count from the view above the last Final; views beyond the map are left out."""
    views = views_with(SKIP, range(5, 8)) | views_with(NOTAR, range(9, 10))
    views |= views_with(SKIP, range(STATUS_VIEWS_MAX + 5, STATUS_VIEWS_MAX + 6))
    final = certificate(FINAL, 4, sha256(b"4"))
    made = status(0, views, final, 4, 8)
    assert made == Status(0, final, 4, 8, bytes([0b10000]), bytes([0b111]))


def test_rule_7_answer_holds_what_the_other_lacks() -> None:
    """Certificates it has are left out, by its map; our newer Final comes first."""
    views = views_with(SKIP, range(1, 4))
    asked = Status(0, None, 0, 2, b"", bytes([0b101]))
    assert answer(views, None, asked, []) == [Certified(views[2].skip)]  # type: ignore[arg-type]
    final = certificate(FINAL, 2, sha256(b"2"))
    assert answer(views, final, asked, [])[0] == Certified(final)


def test_rule_7_no_answer_without_something_new() -> None:
    """Two that hold the same stay silent: no storm."""
    bench = Bench()
    assert bench.receive(1, Status(0, None, 0, 1, b"", b"")).send == []


def test_rule_7_answers_are_bounded_in_size_and_rate() -> None:
    """However much is held, and however often one asks."""
    views = views_with(SKIP, range(1, 200))
    many = [vote(0, SKIP, view) for view in range(200, 400)]
    found = answer(views, None, Status(0, None, 0, 1, b"", b""), many)
    assert len(found) <= CERTIFICATES_PER_ANSWER_MAX + 1 + VOTES_PER_ANSWER_MAX
    bench = Bench()
    bench.wait(TIMING.idle_ms + TIMING.view_timeout_ms)
    asked = Status(0, None, 0, 1, b"", b"")
    assert len(bench.receive(1, asked).send) == 1
    assert bench.receive(1, asked).send == []
    assert len(bench.receive(2, asked).send) == 1
    bench.now += ANSWER_EVERY_MS
    assert len(bench.receive(1, asked).send) == 1


def test_rule_7_votes_for_the_stuck_view_come_first() -> None:
    """Regression: with more open views than fit, the vote that clears the asker's frontier was never sent."""
    own = [vote(0, SKIP, view) for view in range(1, 200)]
    found = answer({}, None, Status(0, None, 0, 150, b"", b""), own)
    assert found[0] == own[149]
    assert len(found) == VOTES_PER_ANSWER_MAX
    assert own[148] in found, "then the older ones, newest first"


def test_rule_7_answers_let_a_stuck_network_go_on() -> None:
    """All votes of a view were lost; one Status each, answered, clears it everywhere."""
    benches = [Bench(me) for me in range(4)]
    for bench in benches:
        bench.wait(TIMING.idle_ms + TIMING.view_timeout_ms)
        assert bench.core.frontier == 1
    for bench in benches:
        asked = Status(0, None, 0, 1, b"", b"")
        for other in benches:
            if other is not bench:
                other.now = bench.now
                for reply in other.receive(bench.me, asked).send:
                    if reply.to == bench.me:
                        bench.receive(other.me, reply.message)
        assert bench.core.frontier == 2


def test_rule_10_votes_and_proposals_beyond_the_window_are_dropped() -> None:
    """Certificates of any view are taken; votes and proposals only near the frontier."""
    bench = Bench()
    bench.receive(1, vote(1, SKIP, VIEW_WINDOW + 2))
    far = header(4 * VIEW_WINDOW + 1)
    bench.receive(1, propose(far))
    assert set(bench.core.views) == {1}
    assert bench.core.chain.headers == {}
    bench.receive(1, vote(1, SKIP, VIEW_WINDOW + 1))
    bench.certify(certificate(SKIP, 10**9))
    assert set(bench.core.views) == {1, VIEW_WINDOW + 1, 10**9}


def test_unasked_replies_are_dropped() -> None:
    """Regression: a peer could fill the chain with headers that nobody asked for, and push out good ones."""
    bench = Bench()
    junk = header(77)
    bench.receive(1, Reply("header", junk.hash, junk.encode()))
    assert bench.core.chain.headers == {}


def test_fetches_go_from_peer_to_peer_and_slow_down() -> None:
    """One request at a time, another member each time, longer waits after each round."""
    bench = Bench()
    bench.certify(certificate(FINAL, 1, header(1).hash))
    assert [(s.to, type(s.message)) for s in bench.last.send if isinstance(s.message, Fetch)] == [(1, Fetch)]
    asked = [s.to for s in bench.wait(2_000).send if isinstance(s.message, Fetch)]
    assert asked[:3] == [2, 3, 1]
    assert len(asked) <= 8


def test_useless_reply_does_not_speed_up_the_fetch() -> None:
    """Regression (seed 4 with a mutant): a header below the tip was asked for again with every reply."""
    bench = Bench()
    stale = header(1)
    block = header(2)
    bench.receive(2, propose(block))
    bench.certify(certificate(FINAL, 2, block.hash))
    assert bench.core.chain.tip.view == 2
    bench.certify(certificate(FINAL, 3, header(3, parent=stale).hash))
    bench.receive(3, Reply("header", header(3, parent=stale).hash, header(3, parent=stale).encode()))
    total = 0
    for _ in range(10):
        total += len(sent(bench.receive(3, Reply("header", stale.hash, stale.encode())), Fetch))
    assert total == 0


def test_want_outlives_a_commit() -> None:
    """Regression: each commit forgot all wants, so that under steady commits a batch's grace never ended."""
    bench = Bench()
    missing = sha256(b"missing")
    first = header(1)
    second = header(2, parent=first, batches=[missing])
    bench.receive(1, propose(first))
    bench.receive(2, propose(second, certificate(NOTAR, 1, first.hash)))
    bench.now = 90
    assert bench.certify(certificate(FINAL, 1, first.hash)).commit
    bench.now = 100
    assert [f.digest for f in sent(bench.certify(certificate(SKIP, 9)), Fetch)] == [missing]


def test_what_is_not_wanted_any_more_is_not_asked_for() -> None:
    """The view was finalized with another block: the batch of the lost proposal is forgotten."""
    bench = Bench()
    bench.receive(1, propose(header(1, batches=[sha256(b"lost")])))
    assert len(bench.core.wants.wants) == 1
    block = header(2)
    bench.receive(2, propose(block, None, [certificate(SKIP, 1)]))
    bench.certify(certificate(FINAL, 2, block.hash))
    assert bench.core.wants.wants == {}
    assert sent(bench.wait(2_000), Fetch) == []


def test_memory_is_freed_by_commits() -> None:
    """Views, headers and batches below the tip go."""
    bench = Bench()
    parent: Header | None = None
    for view in range(1, 40):
        block = header(view, parent=parent)
        proof = certificate(NOTAR, view - 1, parent.hash) if parent else None
        bench.receive(view % 4 or 1, propose(block, proof))
        bench.certify(certificate(FINAL, view, block.hash))
        parent = block
    assert bench.core.chain.tip.height == 39
    assert len(bench.core.views) <= 2
    assert bench.core.chain.headers == {}


def test_header_of_the_tip_is_told_after_a_restart() -> None:
    """Regression: with nothing recent in memory the tip can still be fetched; genesis has no header."""
    from consensus.chain import Chain
    from tests.consensus.support import GENESIS, GENESIS_HASH

    block = header(1)
    bench = Bench()
    bench.core.chain = Chain(block, block.hash)
    assert sent(bench.receive(2, Fetch("header", block.hash)), Reply) == [
        Reply("header", block.hash, block.encode())
    ]
    bench.core.chain = Chain(GENESIS, GENESIS_HASH)
    assert sent(bench.receive(2, Fetch("header", GENESIS_HASH)), Reply) == []


def test_refused_view_does_not_end_the_run() -> None:
    """A broken proposal costs its view only: Skip, then the next leader's block is voted for."""
    bench = Bench()
    bench.receive(1, propose(header(1, height=2)))
    bench.certify(certificate(SKIP, 1))
    block = header(2)
    assert votes(bench.receive(2, propose(block)), NOTAR) == [(NOTAR, 2, block.hash)]
    assert sent(bench.last, Propose) == []
