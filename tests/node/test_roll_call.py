"""Who votes: a line when one votes again, none for a vote that is sent once more."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from consensus.messages import Certified, Vote
from ledger.proofs.certificate import Certificate, Statement, ValidatorSet, VoteKind
from node.voting.roll_call import RollCall
from tests.node.network_fixture import genesis

SET = genesis(4).validator_set
BLOCK = b"b" * 32


def vote(view: int, kind: VoteKind = VoteKind.NOTAR) -> Vote:
    return Vote(Statement(kind, 0, view, BLOCK), 1, b"s" * 64)


def test_a_line_when_a_validator_votes_again() -> None:
    roll = RollCall()
    roll.heard(1, vote(7), SET)
    with capture_logs() as lines:
        roll.came(1, SET)
        roll.heard(1, vote(7), SET)  # once more: of its former life
        assert lines == []
        roll.heard(1, Certified(Certificate(Statement(VoteKind.FINAL, 0, 9, BLOCK), b"\x01", ())), SET)
        assert lines == []
        roll.heard(1, vote(8), SET)
        roll.heard(1, vote(9), SET)
    assert [(line["event"], line["view"], line["key"]) for line in lines] == [
        ("validator_votes", 8, SET.members[1].key.hex())
    ]
    assert roll.last_views == {SET.members[1].key: 9}


@pytest.mark.parametrize("left", [0, 3])
def test_who_left_the_set_is_forgotten(left: int) -> None:
    roll = RollCall()
    for member in range(4):
        roll.came(member, SET)
        roll.heard(member, vote(member + 1), SET)
    smaller = ValidatorSet(SET.epoch + 1, SET.members[:left] + SET.members[left + 1 :])
    roll.heard(0, vote(50), smaller)
    assert set(roll.last_views) == {member.key for member in smaller.members}
