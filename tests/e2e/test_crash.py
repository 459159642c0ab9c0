"""Death at three of the points at which a validator persists something; `make crash` has all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.crash import die_in_init, run
from tests.e2e.crash_points import FIRST, INIT, LATER, SHORT, table
from tests.e2e.net import ROOT


def test_killed_where_it_persists(tmp_path: Path) -> None:
    campaign = run(tmp_path, SHORT)
    assert campaign.covered == [point.name for point in SHORT]
    assert campaign.lives == len(SHORT) + 1
    assert {kind for _, kind, _ in campaign.votes} >= {"NOTAR", "FINAL"}
    assert len(campaign.load.final) >= 10


def test_the_short_form_is_part_of_the_long_one() -> None:
    names = {point.name for point in (*FIRST, *LATER)}
    assert {point.name for point in SHORT} <= names
    assert table() in (ROOT / "docs/crash-points.md").read_text(), "the table is made by crash_points.table()"
    assert all(name.endswith((".before", ".after")) for name in names)


@pytest.mark.parametrize("number", [1, 6, len(INIT) - 1])
def test_an_init_that_died_is_said_again(number: int, tmp_path: Path) -> None:
    die_in_init(tmp_path / "home", INIT[number])
