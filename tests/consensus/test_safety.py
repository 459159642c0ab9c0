"""Own votes survive a restart: nothing is promised twice, and a store that contradicts itself is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import SafetyError
from consensus.messages import Ready, Record, Start, Status
from consensus.safety import restore
from ledger.blocks import ZERO_HASH
from ledger.codec import sha256
from tests.consensus.support import (
    FINAL,
    NOTAR,
    SKIP,
    TIMING,
    WALL,
    Bench,
    certificate,
    header,
    propose,
    vote,
    votes,
)

BLOCK = header(1)
OTHER = header(1, time_ms=WALL + 9)


def again(ready: list[Record], tip_view: int = 0) -> Bench:
    """A started bench with what an earlier life kept."""
    bench = Bench(start=False)
    bench.core.restore(restore(ready, [], 0, tip_view))
    bench.step(Start())
    return bench


def test_records_come_with_the_votes_they_promise() -> None:
    """Every vote to send has its record in the same Ready; a Notar's record holds the header."""
    bench = Bench()
    ready: Ready = bench.receive(1, propose(BLOCK))
    assert [(r.kind, r.view, r.block) for r in ready.records] == votes(ready) == [(NOTAR, 1, BLOCK.hash)]
    assert ready.records[0].header == BLOCK.encode()


def test_restored_notar_is_not_given_to_another_block() -> None:
    """The leader equivocates across our crash."""
    kept = Bench().receive(1, propose(BLOCK)).records
    bench = again(kept)
    assert votes(bench.receive(1, propose(OTHER))) == []
    assert votes(bench.certify(certificate(NOTAR, 1, OTHER.hash)), FINAL) == []


def test_restored_notar_leads_to_final() -> None:
    """The vote still counts: with the others' it makes the certificate, and Final follows."""
    bench = again(Bench().receive(1, propose(BLOCK)).records)
    bench.receive(1, vote(1, NOTAR, 1, BLOCK.hash))
    ready = bench.receive(2, vote(2, NOTAR, 1, BLOCK.hash))
    assert votes(ready, FINAL) == [(FINAL, 1, BLOCK.hash)]


def test_restored_votes_of_the_open_view_are_sent_at_start() -> None:
    """The crash may have come after they were kept and before they were sent."""
    bench = again(Bench().receive(1, propose(BLOCK)).records)
    assert votes(bench.last) == [(NOTAR, 1, BLOCK.hash)]
    assert bench.last.records == []


def test_restored_skip_excludes_final() -> None:
    """Skip was kept, the certificate for our Notar comes after the restart."""
    bench = Bench()
    records = (
        bench.receive(1, propose(BLOCK)).records + bench.wait(TIMING.idle_ms + TIMING.view_timeout_ms).records
    )
    assert [r.kind for r in records] == [NOTAR, SKIP]
    bench = again(records)
    assert votes(bench.certify(certificate(NOTAR, 1, BLOCK.hash)), FINAL) == []


def test_restored_votes_are_told_to_who_asks() -> None:
    """The same signatures as before the crash."""
    before = Bench()
    records = before.receive(1, propose(BLOCK)).records
    first = before.receive(2, Status(0, None, 0, 1, b"", b"")).send
    assert again(records).receive(2, Status(0, None, 0, 1, b"", b"")).send == first
    assert votes(before.last) == [(NOTAR, 1, BLOCK.hash)]


def test_records_up_to_the_tip_are_left_out() -> None:
    """What is committed needs no promises any more."""
    kept = [Record(SKIP, 4, ZERO_HASH, b""), Record(SKIP, 5, ZERO_HASH, b"")]
    state = restore(kept, [certificate(SKIP, 4), certificate(SKIP, 5)], epoch=0, tip_view=4)
    assert state.skip == {5}
    assert [c.statement.view for c in state.certificates] == [5]


@pytest.mark.parametrize(
    ("records", "text"),
    [
        (
            [Record(NOTAR, 1, BLOCK.hash, BLOCK.encode()), Record(NOTAR, 1, OTHER.hash, OTHER.encode())],
            "two NOTAR",
        ),
        ([Record(FINAL, 1, BLOCK.hash, b""), Record(FINAL, 1, OTHER.hash, b"")], "two FINAL"),
        ([Record(FINAL, 1, BLOCK.hash, b""), Record(SKIP, 1, ZERO_HASH, b"")], "Skip and Final"),
        ([Record(NOTAR, 1, BLOCK.hash, OTHER.encode())], "not the one voted for"),
    ],
)
def test_a_store_that_contradicts_itself_is_refused(records: list[Record], text: str) -> None:
    """Two lives with one key, or damage: never vote with such a store."""
    with pytest.raises(SafetyError, match=text):
        restore(records, [], 0, 0)


def test_a_damaged_header_is_refused() -> None:
    """Its hash fits, but it is no header."""
    from ledger.blocks import header_hash

    junk = b"\x93junk"
    with pytest.raises(SafetyError, match="damaged"):
        restore([Record(NOTAR, 1, header_hash(junk), junk)], [], 0, 0)


EVENTS = st.lists(
    st.sampled_from(("first", "second", "notar", "notar2", "skip", "final", "wait", "crash", "vote")),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(EVENTS)
def test_no_order_of_events_and_crashes_breaks_a_promise(events: list[str]) -> None:
    """In one view: one Notar, one Final, never Skip and Final, over any number of lives."""
    bench = Bench()
    kept: list[Record] = []
    promised: list[tuple[object, int, bytes]] = []
    for event in events:
        ready = Ready()
        match event:
            case "first" | "second":
                ready = bench.receive(1, propose(BLOCK if event == "first" else OTHER))
            case "notar" | "notar2":
                ready = bench.certify(certificate(NOTAR, 1, (BLOCK if event == "notar" else OTHER).hash))
            case "skip":
                ready = bench.certify(certificate(SKIP, 1))
            case "final":
                ready = bench.certify(certificate(FINAL, 1, sha256(b"unknown")))
            case "vote":
                ready = bench.receive(2, vote(2, NOTAR, 1, BLOCK.hash))
            case "wait":
                ready = bench.wait(3_000)
            case "crash":
                now, bench = bench.now, again(kept)
                bench.now = now
        kept += ready.records
        promised += [p for p in votes(ready) if p[1] == 1]
    assert len({block for kind, _, block in promised if kind is NOTAR}) <= 1
    assert len({block for kind, _, block in promised if kind is FINAL}) <= 1
    kinds = {kind for kind, _, _ in promised}
    assert not {SKIP, FINAL} <= kinds
