"""The executor's figures for /metrics. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from node.executor.tenure import Tenure

Metric = tuple[str, dict[str, str], float, str]


def figures(
    tenures: Sequence[Tenure], counts: Mapping[tuple[str, str], int], gauges: Mapping[str, float], now_ms: int
) -> list[Metric]:
    """Rows as PeerSeam.metrics gives them. `counts` by what and result; `now_ms` of the boot clock."""
    phases: dict[str, int] = {}
    for tenure in tenures:
        phases[tenure.phase] = phases.get(tenure.phase, 0) + 1
    left = min((t.lease.left_ms(now_ms) for t in tenures if t.holds), default=0)
    checks = sum(t.watched.checks for t in tenures)
    rows: list[Metric] = [
        ("executor_slots", {"phase": phase}, count, "gauge") for phase, count in sorted(phases.items())
    ]
    rows += [
        (f"executor_{what}_total", {"result": result}, count, "counter")
        for (what, result), count in sorted(counts.items())
    ]
    ages = [t.copier.age_s for t in tenures if t.copier.volumes]
    rows += [("executor_copy_age_seconds", {}, max(ages), "gauge")] if ages else []
    rows += [
        ("executor_lease_left_seconds", {}, left / 1000, "gauge"),
        ("executor_checks", {}, checks, "gauge"),
    ]
    return rows + [(f"executor_{name}", {}, value, "gauge") for name, value in gauges.items()]
