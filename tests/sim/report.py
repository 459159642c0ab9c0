"""What a run of many seeds prints and saves."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.common import machine, save
from tests.sim.coverage import RULES, Coverage
from tests.sim.result import Result
from tests.sim.scenario import EFFECTS, KINDS

ENOUGH_SEEDS: Final = 200  # after these, a kind of fault that never came is a fault of the scenarios


@dataclass(slots=True)
class Report:
    """The sum of all results. `jobs` processes took `seconds` of wall time."""

    jobs: int
    seconds: float = 0.0
    cpu_s: float = 0.0
    seeds: int = 0
    events: int = 0
    busy_events: int = 0
    messages: int = 0
    blocks: int = 0
    served: int = 0
    expired: int = 0
    simulated_ms: int = 0
    busy_ms: int = 0
    heal_ms_max: int = 0
    violations: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    coverage: Coverage = field(default_factory=Coverage)
    bad: list[Result] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=machine)

    def add(self, result: Result) -> None:
        """One more seed."""
        self.seeds += 1
        self.cpu_s += result.cpu_s
        self.events += result.events
        self.busy_events += result.busy_events or result.events
        self.messages += result.messages
        self.blocks += result.height
        self.served += result.served
        self.expired += result.expired
        self.simulated_ms += result.simulated_ms
        self.busy_ms += result.busy_ms or result.simulated_ms
        self.heal_ms_max = max(self.heal_ms_max, result.heal_ms)
        self.violations += len(result.violations)
        self.faults.update(result.faults)
        self.coverage.add(result.coverage)
        if result.violations:
            self.bad.append(result)

    def unused(self) -> list[str]:
        """Kinds and effects of faults that should have come in so many seeds, and did not."""
        if self.seeds < ENOUGH_SEEDS:
            return []
        return sorted(kind for kind in {*KINDS, *EFFECTS} if not self.faults[kind])

    @property
    def events_per_core(self) -> float:
        """Events per second of processor time."""
        return self.events / max(self.cpu_s, 1e-9)

    @property
    def hours_per_hour(self) -> float:
        """Simulated hours per hour of wall time, of all processes together."""
        return self.simulated_ms / 1_000 / self.seconds

    def table(self) -> str:
        """For people."""
        quiet_ms = self.simulated_ms - self.busy_ms
        quiet_events = self.events - self.busy_events
        rows = [
            ("seeds", f"{self.seeds}"),
            ("events", f"{self.events:,}"),
            ("events/s/core", f"{self.events_per_core:,.0f}"),
            ("messages", f"{self.messages:,}"),
            ("blocks", f"{self.blocks:,}"),
            ("transactions", f"{self.served:,} final, {self.expired:,} expired"),
            ("simulated hours", f"{self.simulated_ms / 3.6e6:.2f}"),
            ("  busy, with faults", f"{self.busy_ms / 3.6e6:.2f} ({self.busy_events:,} events)"),
            ("  quiet", f"{quiet_ms / 3.6e6:.2f} ({quiet_events:,} events)"),
            ("simulated hours/hour", f"{self.hours_per_hour:,.0f} ({self.jobs} processes)"),
            ("wall time", f"{self.seconds:.1f} s ({self.cpu_s:.1f} s of processors)"),
            ("progress after heal", f"at most {self.heal_ms_max} ms"),
            ("violations", f"{self.violations}"),
        ]
        lines = [f"{name:<22} {value}" for name, value in rows]
        lines += [f"fault {kind:<31} {count:>10,}" for kind, count in sorted(self.faults.items())]
        lines.append(self.coverage.table())
        if self.seeds >= ENOUGH_SEEDS:
            lines.append(f"faults that never came: {', '.join(self.unused()) or 'none'}")
        for result in self.bad:
            lines.append(
                f"\nseed {result.seed}: replay with  python -m tests.sim.run --seed {result.seed} --trace"
            )
            lines += [f"  {checker}: {what}" for checker, what in result.violations]
        return "\n".join(lines)

    def save(self, command: str) -> Path:
        """Write the figures under bench/results. Returns the file."""
        skipped = ("coverage", "bad", "machine", "faults", "seconds", "cpu_s")
        figures = {key: value for key, value in asdict(self).items() if key not in skipped}
        figures |= {
            "seconds": round(self.seconds, 1),
            "processor_seconds": round(self.cpu_s, 1),
            "events_per_second_and_core": round(self.events_per_core),
            "simulated_hours": round(self.simulated_ms / 3.6e6, 2),
            "simulated_hours_busy": round(self.busy_ms / 3.6e6, 2),
            "simulated_hours_per_hour": round(self.hours_per_hour),
            "bad_seeds": [result.seed for result in self.bad],
            "faults": dict(sorted(self.faults.items())),
            "faults_that_never_came": self.unused(),
            "rules": {rule: self.coverage.rules[rule] for rule in RULES},
            "refusals": dict(sorted(self.coverage.refusals.items())),
            "alarms": dict(sorted(self.coverage.alarms.items())),
        }
        return save("sim", command, self.machine, figures)
