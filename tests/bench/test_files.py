"""The measurement of files moves real bytes between real processes."""

from __future__ import annotations

from pathlib import Path

from bench.files import rows, speed


def test_a_small_round_is_measured_and_told(tmp_path: Path) -> None:
    found = speed(tmp_path, 3, 1)
    assert found["raw"]["mib_per_s"] > 0
    assert found["fetch"]["mib_per_s"] > 0
    assert len(found["shares"]) == 1
    assert not list((tmp_path / "to").iterdir())  # fetched, verified, dropped
    told = dict(rows({"loopback": found, "swarm": {"skipped": "no root"}}))
    assert told["swarm"] == "skipped: no root"
    assert any(text.endswith(("met", "missed")) for text in told.values())
