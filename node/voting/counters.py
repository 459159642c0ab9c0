"""What an engine counts, for metrics."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Since the engine began. `faults` and `alarms` by rule."""

    steps: int = 0
    dropped: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    alarms: dict[str, int] = field(default_factory=dict)
    sent: int = 0
    received: int = 0
