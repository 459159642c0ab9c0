"""Rule 14: a leader that was skipped and not heard since is waited for only a short while."""

from __future__ import annotations

import pytest

from consensus.limits import SILENT_GRACE_MS
from consensus.messages import Certified, Fetch, Message, Status
from consensus.timers import Timing
from ledger.blocks import ZERO_HASH, Header
from ledger.codec import sha256
from ledger.proofs.certificate import Certificate
from tests.consensus.support import (
    FINAL,
    NOTAR,
    SKIP,
    TIMING,
    Bench,
    certificate,
    header,
    propose,
    vote,
    votes,
)

B1, B2 = b"\x11" * 32, b"\x22" * 32
DEAD, OTHERS = 1, (0, 2, 3)  # member 1 leads the views 1, 5, 9, …; we are member 0


def away(bench: Bench, view: int = 1) -> None:
    """The view of the dead member ends by Skip; the others were heard, it was not."""
    assert bench.core.frontier == view
    bench.certify(certificate(SKIP, view, signers=OTHERS), sender=2)


def final(
    bench: Bench, view: int, parent: Header | None = None, skips: tuple[Certificate, ...] = ()
) -> Header:
    """The view of a living member: its block becomes final, and all others vote."""
    block = header(view, parent)
    above = certificate(NOTAR, parent.view, parent.hash, OTHERS) if parent else None
    bench.receive(view % 4, propose(block, above, skips))
    for member in (2, 3):
        bench.receive(member, vote(member, NOTAR, view, block.hash))
    for member in (2, 3):
        bench.receive(member, vote(member, FINAL, view, block.hash))
    assert bench.core.final_view == view
    return block


def round_of(bench: Bench, view: int, parent: Header | None = None) -> Header:
    """The views from `view` on, which the dead member leads, up to its next: one Skip and two blocks; ours is
    skipped, which tells nothing of anybody else."""
    away(bench, view)
    first = final(bench, view + 1, parent, (certificate(SKIP, view, signers=OTHERS),))
    second = final(bench, view + 2, first)
    bench.certify(certificate(SKIP, view + 3, signers=OTHERS), sender=2)
    assert bench.core.frontier == view + 4
    return second


def test_rule_14_a_silent_leader_is_waited_for_a_short_while_only() -> None:
    """Its first view costs T0; the next one SILENT_GRACE_MS, and not less."""
    bench = Bench()
    bench.hold(B1)
    assert votes(bench.wait(TIMING.view_timeout_ms - 1), SKIP) == []
    assert votes(bench.wait(1), SKIP) == [(SKIP, 1, ZERO_HASH)]
    round_of(bench, 1)
    assert votes(bench.wait(SILENT_GRACE_MS - 1), SKIP) == []
    assert votes(bench.wait(1), SKIP) == [(SKIP, 5, ZERO_HASH)]


def test_rule_14_and_again_in_each_round() -> None:
    """It stays silent for as long as nothing comes."""
    bench = Bench()
    bench.hold(B1)
    parent = None
    for view in (1, 5, 9):
        parent = round_of(bench, view, parent)
    assert votes(bench.wait(SILENT_GRACE_MS), SKIP) == [(SKIP, 13, ZERO_HASH)]


SIGNS: dict[str, Message] = {
    "vote": vote(DEAD, SKIP, 3),
    "old vote": vote(DEAD, SKIP, 1),
    "status": Status(0, None, 0, 1, b"", b""),
    "certificate": Certified(certificate(SKIP, 1, signers=OTHERS)),
    "fetch": Fetch("header", sha256(b"anything")),
}


@pytest.mark.parametrize("sign", SIGNS)
def test_rule_14_whatever_comes_of_it_gives_the_whole_time_back(sign: str) -> None:
    """Before its view begins, or within the grace."""
    for within in (False, True):
        bench = Bench()
        bench.hold(B1)
        away(bench)
        first = final(bench, 2, skips=(certificate(SKIP, 1, signers=OTHERS),))
        if not within:
            bench.receive(DEAD, SIGNS[sign])
        final(bench, 3, first)
        bench.certify(certificate(SKIP, 4, signers=OTHERS), sender=2)
        if within:
            bench.wait(SILENT_GRACE_MS - 1)
            bench.receive(DEAD, SIGNS[sign])
        else:
            bench.wait(SILENT_GRACE_MS - 1)
        whole_ms = TIMING.timeout_ms(5, 3)
        assert votes(bench.wait(whole_ms - SILENT_GRACE_MS), SKIP) == []
        assert votes(bench.wait(1), SKIP) == [(SKIP, 5, ZERO_HASH)]


def test_rule_14_a_leader_that_is_back_proposes_within_the_grace() -> None:
    """Its proposal is voted for, like any other."""
    bench = Bench()
    bench.hold(B1)
    parent = round_of(bench, 1)
    bench.wait(SILENT_GRACE_MS - 1)
    skipped = certificate(SKIP, 4, signers=OTHERS)
    block = header(5, parent, batches=(B1,))
    ready = bench.receive(DEAD, propose(block, certificate(NOTAR, 3, parent.hash, OTHERS), (skipped,)))
    assert votes(ready, NOTAR) == [(NOTAR, 5, block.hash)]
    assert votes(bench.wait(SILENT_GRACE_MS), SKIP) == []


def test_rule_14_unheard_alone_is_not_silent() -> None:
    """Its view was notarized by the others' votes: it must have proposed, though nothing came here."""
    bench = Bench()
    bench.hold(B1)
    block = header(1)
    bench.certify(certificate(NOTAR, 1, block.hash), sender=2)
    for view in (2, 3, 4):
        bench.certify(certificate(SKIP, view, signers=OTHERS), sender=2)
    assert bench.core.frontier == 5
    assert votes(bench.wait(SILENT_GRACE_MS), SKIP) == []
    assert DEAD not in bench.core.silence.silent


def test_rule_14_a_view_that_a_later_final_cleared_tells_nothing() -> None:
    """Whether it was skipped, or its block is below that one, is not known here."""
    bench = Bench()
    bench.hold(B1)
    bench.certify(certificate(FINAL, 2, header(2).hash), sender=2)
    assert bench.core.frontier == 3
    assert bench.core.silence.unheard >= {DEAD}
    assert bench.core.silence.silent == set()


def test_rule_14_skipped_but_heard_is_not_silent() -> None:
    """A slow leader votes in its own view: it gets its whole time again."""
    bench = Bench()
    bench.hold(B1)
    bench.receive(DEAD, vote(DEAD, SKIP, 1))
    round_of(bench, 1)
    assert votes(bench.wait(TIMING.view_timeout_ms - 1), SKIP) == []


def test_rule_14_a_notarized_view_of_its_own_ends_the_silence() -> None:
    """The others heard it: our link to it is what is broken."""
    bench = Bench()
    bench.hold(B1)
    parent = round_of(bench, 1)
    assert bench.core.silence.silent == {DEAD}
    block = header(5, parent)
    bench.certify(certificate(NOTAR, 5, block.hash, (1, 2, 3)), sender=2)
    assert bench.core.silence.silent == set()


def test_rule_14_far_from_the_last_final_all_timers_are_whole_and_grow() -> None:
    """Five views without a Final: T0 · α^8 for view 9, though its leader is silent."""
    bench = Bench()
    bench.hold(B1)
    for view in range(1, 9):
        bench.certify(certificate(SKIP, view, signers=OTHERS), sender=2)
    assert bench.core.silence.silent == {DEAD, 3}
    whole_ms = TIMING.timeout_ms(9, 0)
    assert votes(bench.wait(whole_ms - 1), SKIP) == []
    assert votes(bench.wait(1), SKIP) == [(SKIP, 9, ZERO_HASH)]


def test_rule_14_an_idle_network_keeps_its_pace() -> None:
    """With nothing to propose a silent leader's view lasts as long as an idle leader's, and the grace; work
    that comes meanwhile waits for the grace alone."""
    for work_comes in (False, True):
        bench = Bench()
        round_of(bench, 1)
        assert votes(bench.wait(TIMING.idle_ms // 2), SKIP) == []
        if work_comes:
            bench.hold(B1)
            assert votes(bench.wait(SILENT_GRACE_MS - 1), SKIP) == []
        else:
            assert votes(bench.wait(TIMING.idle_ms // 2 + SILENT_GRACE_MS - 1), SKIP) == []
        assert votes(bench.wait(1), SKIP) == [(SKIP, 5, ZERO_HASH)]


def test_rule_14_never_skip_after_own_final() -> None:
    """[5] stands above it."""
    bench = Bench()
    bench.hold(B1)
    parent = round_of(bench, 1)
    block = header(5, parent)
    skipped = certificate(SKIP, 4, signers=OTHERS)
    bench.receive(DEAD, propose(block, certificate(NOTAR, 3, parent.hash, OTHERS), (skipped,)))
    for member in (DEAD, 2):
        bench.receive(member, vote(member, NOTAR, 5, block.hash))
    skips = votes(bench.wait(3 * TIMING.view_timeout_ms), SKIP)
    assert bench.core.views[5].own_final == block.hash
    assert skips == [(SKIP, 6, ZERO_HASH)]


def test_rule_14_the_own_view_is_never_silent() -> None:
    """Nobody hears himself: a leader waits its whole time for what it may still be able to propose."""
    bench = Bench(me=1)
    bench.certify(certificate(SKIP, 1, signers=OTHERS), sender=2)
    assert bench.core.frontier == 2
    assert bench.core.silence.silent == set()


def test_rule_14_grace_is_a_share_of_a_short_timeout() -> None:
    """A fifth of the timeout where that is less."""
    assert Timing().silent_ms(1_000) == SILENT_GRACE_MS
    assert Timing().silent_ms(100) == 20
