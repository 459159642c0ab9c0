"""What the comparison of the core with its sources found (docs/model.md). W: Simplex.md of simplex-docs."""

from __future__ import annotations

from consensus.messages import Reply, Start, Vote
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
    votes,
)

B1 = b"\x11" * 32


def test_rule_8_timeout_of_a_view_is_fixed_when_it_is_entered() -> None:
    """W Rule 6: the last Final counts *at the moment the window becomes active*. After four skips the
    timeout of view 6 is T0 * 1.2^5; the Final of view 5, come late, must not cut it to T0."""
    bench = Bench()
    bench.hold(B1)
    for view in range(1, 5):
        bench.certify(certificate(SKIP, view))
    bench.certify(certificate(NOTAR, 5, header(5).hash))
    bench.wait(1_500)
    assert TIMING.timeout_ms(6, 0) > 1_500 > TIMING.timeout_ms(6, 5)
    ready = bench.certify(certificate(FINAL, 5, header(5).hash))
    assert votes(ready, SKIP) == []


def test_a_notar_vote_may_be_cast_above_the_frontier() -> None:
    """A Notar vote of view 5 does not show that all views before are cleared for its voter: it needs the
    parent's certificate and header, not the Skips below the parent. `Relay.heard` takes it for such a sign
    and leaves the voter out of the relay of those Skips; standstill, or the next Final, covers it."""
    bench = Bench(start=False)
    bench.step(Start())
    fourth = header(4)
    fifth = header(5, parent=fourth)
    bench.receive(1, propose(fifth, certificate(NOTAR, 4, fourth.hash)))
    ready = bench.receive(1, Reply("header", fourth.hash, fourth.encode()))
    assert [v.statement.view for v in sent(ready, Vote)] == [5]
    assert bench.core.frontier == 1
