"""What a run of one seed found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.sim.coverage import Coverage


@dataclass(slots=True)
class Result:
    """Of one seed. `violations`: (checker, what), the first ones. Times are simulated."""

    seed: int
    violations: list[tuple[str, str]] = field(default_factory=list)
    events: int = 0
    busy_events: int = 0  # of them, before the quiet stretch
    messages: int = 0
    simulated_ms: int = 0
    busy_ms: int = 0  # of it, faults and healing
    heal_ms: int = 0  # from the end of the faults until progress was shown
    height: int = 0
    served: int = 0  # transactions of honest clients that became final …
    expired: int = 0  # … and that did not, before their time was over
    faults: Counter[str] = field(default_factory=Counter)
    coverage: Coverage = field(default_factory=Coverage)
    cpu_s: float = 0.0
    trace: str = ""
