"""The measurements of running run real workloads, and say what bounds a node."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from bench import exec_density
from bench.exec import SHORT, starts
from bench.exec_density import bounds, density
from bench.exec_report import density_rows, running, start_rows
from bench.exec_starts import told
from tests.executor.conftest import Bench, bench, needs_sandbox

__all__ = ("Bench", "bench")  # fixtures
ROW = {
    "slots": 100,
    "memory_per_slot_mib": 12.288,
    "idle_cpu_percent_of_a_core": 1.0,
    "recheck_all_cpu_s": 0.15,
    "descriptors_per_slot": 9.0,
}


@pytest.mark.parametrize(
    ("changes", "descriptors", "stopped_s", "slots", "bound_by"),
    [
        ({}, 20_000, 0.5, 1_024, "TENURES_MAX"),
        ({"memory_per_slot_mib": 245.76}, 20_000, 0.5, 90, "memory"),
        ({}, 1_024, 0.5, 99, "open files"),
        ({"idle_cpu_percent_of_a_core": 100.0}, 20_000, 0.5, 99, "cores"),
        ({}, 20_000, 4.0, 250, "K"),
    ],
)
def test_what_runs_out_first_is_the_bound(
    changes: dict[str, float], descriptors: int, stopped_s: float, slots: int, bound_by: str
) -> None:
    found = bounds({**ROW, **changes}, descriptors, 2, stopped_s)
    assert found["slots"] == slots == min(found["allowed"].values())
    assert bound_by in found["bound_by"]


@pytest.mark.timeout(400)
async def test_idle_services_are_started_measured_and_stopped(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exec_density, "IDLE_S", 0.2)
    with trio.fail_after(300):
        found = await density(tmp_path, (1, 3))
    one, three = found["measured"]
    assert (one["slots"], three["slots"]) == (1, 3)
    assert 1 < three["of_it_processes_mib"] < 200
    assert three["descriptors_per_slot"] > 0
    assert three["processes_per_slot"] >= 4  # launcher, bubblewrap, its first process, server, portal
    said = dict(density_rows(found))
    assert said["slots of one node, and what bounds it"].startswith(str(found["bounds"]["slots"]))


@pytest.mark.timeout(400)
async def test_a_start_is_measured_for_each_runtime_that_is_enforced(tmp_path: Path) -> None:
    needs_sandbox()
    await trio.Path(tmp_path).chmod(0o755)
    with trio.fail_after(300):
        found = await starts(tmp_path, SHORT._replace(starts=1, claims=1))
    sandbox = found["sandbox"]
    if "skipped" not in sandbox:
        assert 0 < sandbox["start_to_word"]["p50_ms"] < 60_000
        assert sandbox["claimed_to_running"]["p50_ms"] <= sandbox["open_to_running"]["p50_ms"]
    assert {"bubblewrap alone", "podman alone"} < set(found)
    assert len(start_rows(found)) >= len(found)


def test_the_report(tmp_path: Path) -> None:
    assert "Nothing is saved yet" in running(tmp_path)
    figures = {
        "starts": {"sandbox": {"skipped": "no | bubblewrap"}, "bubblewrap alone": told([0.005, 0.006])},
        "density": {"skipped": "no root"},
    }
    machine = {"cores": 2, "processor": "x", "memory_gib": 24, "load_before": 0.1}
    content = {"date": "2026-01-02", "command": "make bench-exec", "machine": machine, "figures": figures}
    (tmp_path / "2026-01-02-exec.json").write_text(json.dumps(content))
    text = running(tmp_path)
    assert "| sandbox | skipped: no \\| bubblewrap |" in text
    assert "| bubblewrap alone: start to first word | 5.5 ms |" in text
    assert "| density | skipped: no root |" in text
