"""A short run of the leases' own simulation; `make leases` has the long one, with a million partitions."""

from __future__ import annotations

import pytest

from tests.sim.market_leases import Rules, main, run

SEEDS = range(12_000)
BROKEN = {
    "no_guard": Rules(guard_ms=0),
    "guard_of_the_kill_alone": Rules(guard_ms=10_000),
    "counts_from_arrival": Rules(from_arrival=True),
    "asking_is_enough": Rules(asking_is_enough=True),
    "kill_takes_longer": Rules(extends_kill_ms=8_000),
    "clocks_worse_than_allowed": Rules(rate_percent=10),
    "believes_times_of_blocks": Rules(behind=False),
}


def test_no_slot_has_two_holders() -> None:
    """Clock rates of one percent, partitions, stalls, lying leaders: the workload is gone in time."""
    found = run(SEEDS)
    assert found["two holders"] == 0
    assert found["ran"] > len(SEEDS) // 2
    assert found["renewals"] > found["ran"]
    assert found["least gap ms"] > 0


@pytest.mark.parametrize("name", BROKEN)
def test_each_rule_is_needed(name: str) -> None:
    """Any rule left out gives two holders, within the same seeds."""
    for start in range(0, 20 * 1_000, 1_000):
        if run(range(start, start + 1_000), BROKEN[name])["two holders"]:
            return
    pytest.fail(f"{name}: no seed has two holders")


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "200", "--jobs", "1"]) == 0
    assert "two holders at once   0" in capsys.readouterr().out
