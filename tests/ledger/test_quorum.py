"""Quorum arithmetic (ledger.proofs.quorum): for every total weight, not for a few."""

from __future__ import annotations

import pytest

from ledger.proofs.quorum import quorum, tolerated, weight_of


@pytest.mark.parametrize("total", range(1, 400))
def test_quorums_are_safe_and_reachable(total: int) -> None:
    """Two quorums share an honest member; the honest alone reach one; one less would not be safe."""
    most_faulty = tolerated(total)
    assert 3 * most_faulty < total <= 3 * (most_faulty + 1)
    assert 2 * quorum(total) - total > most_faulty
    assert total - most_faulty >= quorum(total)
    if total % 3:  # one less, and all that two of them share may be faulty
        assert 2 * (quorum(total) - 1) - total <= most_faulty


def test_known_sizes() -> None:
    """The sizes that operators know: 3 of 4, 5 of 7, 67 of 100."""
    assert [(n, tolerated(n), quorum(n)) for n in (1, 4, 7, 10, 100)] == [
        (1, 0, 1),
        (4, 1, 3),
        (7, 2, 5),
        (10, 3, 7),
        (100, 33, 67),
    ]


def test_weight_counts_a_member_once() -> None:
    """Naming a member twice adds nothing."""
    assert weight_of((0, 2, 2, 2), (5, 1, 3)) == 8
