"""The first proposal, the first vote, what a restart still knows: each found by a mutant that survived."""

from __future__ import annotations

from consensus.messages import Start, Status
from consensus.safety import SafetyState
from ledger.codec import sha256
from tests.consensus.support import FINAL, NOTAR, SKIP, Bench, certificate, header, propose, sent, vote, votes


def test_rule_3_a_second_proposal_does_not_take_the_place_of_the_first() -> None:
    """Also while the first one still waits for its batches."""
    bench = Bench(me=0)
    batch = sha256(b"a batch")
    first, second = header(1, batches=[batch]), header(1)
    bench.receive(1, propose(first))
    bench.receive(1, propose(second))
    assert votes(bench.last, NOTAR) == []
    bench.hold(batch)
    assert votes(bench.last, NOTAR) == [(NOTAR, 1, first.hash)]


def test_rule_1_a_voters_second_block_does_not_count() -> None:
    """Its vote is in the first block's count; two others and it are no quorum for the second one."""
    bench = Bench(me=0)
    first, second = header(1), header(1, time_ms=header(1).time_ms + 1)
    bench.receive(1, vote(1, NOTAR, 1, first.hash))
    for member in (1, 2, 3):
        bench.receive(member, vote(member, NOTAR, 1, second.hash))
    assert bench.core.frontier == 1
    assert bench.core.views[1].notar is None


def test_restored_certificates_clear_their_views() -> None:
    """After a restart nobody waits again for a view that is skipped (as Radix once did)."""
    bench = Bench(me=0, start=False)
    bench.core.restore(SafetyState(certificates=[certificate(SKIP, 1), certificate(SKIP, 2)]))
    ready = bench.step(Start())
    assert bench.core.frontier == 3
    (told,) = sent(ready, Status)
    assert (told.frontier, told.skips) == (3, b"\x03")


def test_a_restored_final_certificate_is_told() -> None:
    bench = Bench(me=0, start=False)
    final = certificate(FINAL, 1, header(1).hash)
    bench.core.restore(SafetyState(certificates=[final]))
    (told,) = sent(bench.step(Start()), Status)
    assert told.final == final and told.frontier == 2
