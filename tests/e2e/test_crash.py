"""Death at three of the points at which a validator persists something; `make crash` has all of them."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.crash import FIRST, LATER, SHORT, run


def test_killed_where_it_persists(tmp_path: Path) -> None:
    campaign = run(tmp_path, SHORT)
    assert campaign.covered == [point.name for point in SHORT]
    assert campaign.lives == len(SHORT) + 1
    assert {kind for kind, _ in campaign.votes} >= {"NOTAR", "FINAL"}
    assert len(campaign.load.final) >= 10


def test_the_short_form_is_part_of_the_long_one() -> None:
    names = {point.name for point in (*FIRST, *LATER)}
    assert {point.name for point in SHORT} <= names
    assert all(name.endswith((".before", ".after")) for name in names)
