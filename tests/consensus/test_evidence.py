"""Rule 11: the core finds two different statements of one member, in any order and from any source, once."""

from __future__ import annotations

import pytest

from consensus.limits import EVIDENCE_VIEWS, VIEW_WINDOW
from consensus.messages import Message, Ready, Start
from consensus.safety import SafetyState
from ledger.blocks import ZERO_HASH
from ledger.codec import sha256
from ledger.evidence import Evidence, TwoProposals, TwoVotes, check_evidence, offence_name
from tests.consensus.support import (
    CHAIN,
    FINAL,
    NOTAR,
    SET,
    SKIP,
    Bench,
    certificate,
    header,
    propose,
    vote,
)

A, B = sha256(b"block a"), sha256(b"block b")


def proved(ready: Ready, member: int, name: str) -> Evidence:
    """The one piece of evidence in a Ready, which holds against this member by itself."""
    (found,) = ready.evidence
    assert check_evidence(CHAIN, SET, found) == member
    assert offence_name(found) == name
    return found


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("two_notars", vote(1, NOTAR, 2, A), vote(1, NOTAR, 2, B)),
        ("two_finals", vote(1, FINAL, 2, A), vote(1, FINAL, 2, B)),
        ("notar_and_final", vote(1, NOTAR, 2, A), vote(1, FINAL, 2, B)),
        ("skip_and_final", vote(1, SKIP, 2), vote(1, FINAL, 2, A)),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_rule_11_finds_two_votes_in_either_order(name: str, first: Message, second: Message) -> None:
    """And only the first evidence against a member is told."""
    for one, other in ((first, second), (second, first)):
        bench = Bench()
        assert bench.receive(1, one).evidence == []
        assert isinstance(proved(bench.receive(1, other), 1, name), TwoVotes)
        assert bench.receive(1, vote(1, NOTAR, 3, A)).evidence == []
        assert bench.receive(1, vote(1, NOTAR, 3, B)).evidence == []


def test_rule_11_finds_two_proposals_of_one_leader() -> None:
    bench = Bench()
    one, other = header(1), header(1, time_ms=header(1).time_ms + 1)
    assert bench.receive(1, propose(one)).evidence == []
    assert bench.receive(1, propose(one)).evidence == []
    found = proved(bench.receive(1, propose(other)), 1, "two_proposals")
    assert isinstance(found, TwoProposals)
    assert bench.receive(1, propose(header(1, time_ms=one.time_ms + 2))).evidence == []


def test_rule_11_honest_votes_and_repetitions_are_no_evidence() -> None:
    bench = Bench()
    for sent in (
        vote(1, NOTAR, 1, A),
        vote(1, NOTAR, 1, A),
        vote(1, SKIP, 1),
        vote(2, NOTAR, 1, B),
        vote(2, FINAL, 1, B),
        vote(3, SKIP, 1),
        vote(1, NOTAR, 2, B),
    ):
        assert bench.receive(sent.voter, sent).evidence == []
    assert bench.core.watch.duplicates == 1


def test_rule_11_finds_a_member_that_tells_each_half_something_else() -> None:
    """To us member 3 said B; the certificate of the others holds its vote for A."""
    bench = Bench()
    bench.receive(3, vote(3, NOTAR, 1, B))
    proved(bench.certify(certificate(NOTAR, 1, A, signers=(1, 2, 3))), 3, "two_notars")
    bench = Bench()
    bench.certify(certificate(SKIP, 1, ZERO_HASH, signers=(1, 2, 3)))
    proved(bench.receive(2, vote(2, FINAL, 1, A)), 2, "skip_and_final")


def test_rule_11_compares_with_views_that_were_committed_already() -> None:
    """The second instance is late: its vote of a final view still proves the offence."""
    bench = Bench()
    block = header(1)
    bench.receive(1, propose(block))
    bench.receive(3, vote(3, NOTAR, 1, block.hash))
    committed = bench.certify(certificate(FINAL, 1, block.hash))
    assert [c.header.height for c in committed.commit] == [1]
    proved(bench.receive(3, vote(3, NOTAR, 1, B)), 3, "two_notars")


def test_rule_11_memory_is_bounded() -> None:
    """Nothing is kept far below the frontier or above it, and views below are let go."""
    bench = Bench()
    first = vote(3, NOTAR, 1, A)
    bench.receive(3, first)
    bench.receive(3, vote(3, NOTAR, 2 + VIEW_WINDOW, A))
    assert set(bench.core.watch.votes) == {1}
    far = 2 * EVIDENCE_VIEWS
    bench.certify(certificate(FINAL, far, A))
    assert bench.core.frontier == far + 1
    assert all(view > far - EVIDENCE_VIEWS for view in bench.core.watch.votes)
    assert bench.receive(3, vote(3, NOTAR, 1, B)).evidence == []
    bench.receive(2, propose(header(1 + far - EVIDENCE_VIEWS - 3)))
    assert bench.core.watch.proposals == {}


def test_rule_11_is_found_again_after_a_restart() -> None:
    """What the last life found, and perhaps never told, this one tells when it sees it."""
    bench = Bench(start=False)
    bench.core.restore(SafetyState(certificates=[certificate(NOTAR, 1, A, signers=(1, 2, 3))]))
    assert bench.step(Start()).evidence == []
    proved(bench.receive(2, vote(2, NOTAR, 1, B)), 2, "two_notars")


def test_rule_11_never_accuses_itself() -> None:
    """Another instance with our key is the operator's fault, and told by an alarm of the shell."""
    bench = Bench()
    bench.certify(certificate(NOTAR, 1, A, signers=(0, 1, 2)))
    assert bench.certify(certificate(FINAL, 1, B, signers=(0, 1, 2))).evidence != []
    assert 0 not in bench.core.watch.accused
