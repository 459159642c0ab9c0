"""What the project set itself, beside what a round of `make bench` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Goal:
    """`path`: where the figure stands in a round. Met when it is at least, or at most, the bound."""

    text: str
    path: tuple[str, ...]
    at_least: float | None = None
    at_most: float | None = None

    def told(self, figures: dict[str, Any]) -> tuple[str, str, str] | None:
        """Text, figure, and met or missed; None when it was not measured."""
        found: Any = figures
        for step in self.path:
            found = found.get(step) if isinstance(found, dict) else None
        if found is None:
            return None
        met = (self.at_least is None or found >= self.at_least) and (
            self.at_most is None or found <= self.at_most
        )
        return self.text, f"{found:g}", "met" if met else "missed"


GOALS: Final = (
    Goal("writes at saturation, of etcd's: at least 1.5", ("ratios", "etcd", "throughput"), at_least=1.5),
    Goal("the same, of CometBFT's, tuned: at least 2", ("ratios", "cometbft", "throughput"), at_least=2),
    Goal("signed transactions a second, stretch: 6,000", ("gridpact", "saturation", "per_s"), at_least=6_000),
    Goal("p50 at 100/s: at most 15 ms", ("gridpact", "rate_100", "p50_ms"), at_most=15),
    Goal("p99 at 100/s: at most 60 ms", ("gridpact", "rate_100", "p99_ms"), at_most=60),
    Goal("one of four dead leaves at least 0.75 of it", ("gridpact", "one_dead_share"), at_least=0.75),
)


def judged(figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Each goal that was measured: text, figure, met or missed."""
    return [told for goal in GOALS if (told := goal.told(figures)) is not None]
