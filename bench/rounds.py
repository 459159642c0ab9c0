"""One system's round: a fixed rate, more and more under way at once, half of the most, one server dead."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bench.load.run import ClientFailed, Load, measure
from bench.rivals.system import NotHere, System

RATE_PER_S: Final = 100
GUESS_FACTOR: Final = 2.0  # so many more transactions are made beforehand than the last figure would need

GUESS_MAX_PER_S: Final = 10_000.0  # some seconds of signing
RETRIES_MAX: Final = 3

Say = Callable[[str], None]


@dataclass(frozen=True)
class Lengths:
    """Seconds of each part, and how many requests are under way in the closed loop."""

    rate_s: float
    closed_s: float
    dead_s: float  # long beside the time-outs that a dead leader costs: seconds with CometBFT
    dead_rate_s: float  # 0: left out
    warm_up_s: float
    outstanding: tuple[int, ...]


FULL: Final = Lengths(10, 7, 15, 15, 2, outstanding=(16, 128, 512, 2048))
SHORT: Final = Lengths(3, 3, 4, 0, 1, outstanding=(64,))


def run_round(system: System, lengths: Lengths, root: Path, say: Say) -> dict[str, Any]:
    """All figures of one system; `{"skipped": why}` when this machine has not what it needs, and
    `{"broke": why}` when it failed: the others are measured all the same."""
    folder = Path(tempfile.mkdtemp(prefix="round-", dir=root))
    try:
        system.start(folder)
        return _figures(system, lengths, say)
    except NotHere as reason:
        say(f"{system.name}: skipped: {reason}")
        return {"skipped": str(reason)}
    except (RuntimeError, ClientFailed) as error:
        say(f"{system.name}: BROKE: {error}")
        return {"broke": str(error)}
    finally:
        system.stop()
        shutil.rmtree(folder)


def _figures(system: System, lengths: Lengths, say: Say) -> dict[str, Any]:
    def one(what: str, load: Load, *, signs: bool = False) -> dict[str, Any]:
        found = measure(load, replace(system.job(), signs=signs), system.pids)
        for _ in range(RETRIES_MAX):
            if not found["ran_out"]:
                break
            # Faster than thought: what was found is too low.
            load = replace(load, guess_per_s=2 * load.guess_per_s)
            found = measure(load, replace(system.job(), signs=signs), system.pids)
        say(f"{system.name}: {what}: {line(found)}")
        return found

    def closed(seconds: float, outstanding: int, guess_per_s: float) -> Load:
        return Load(seconds, lengths.warm_up_s, outstanding=outstanding, guess_per_s=guess_per_s)

    def rate(seconds: float, per_s: float) -> Load:
        return Load(seconds, lengths.warm_up_s, rate_per_s=per_s)

    figures: dict[str, Any] = {"settings": system.settings, "signatures": system.signatures}
    figures["rate_100"] = one(f"{RATE_PER_S}/s", rate(lengths.rate_s, RATE_PER_S))
    former = lengths.outstanding[0]
    guess = one("warm-up", Load(2.0, 0.5, outstanding=former, guess_per_s=4_000))["per_s"]
    runs = []
    for outstanding in lengths.outstanding:
        # Up to a point twice as many under way bring twice as much.
        likely = min(GUESS_MAX_PER_S, guess * max(GUESS_FACTOR, outstanding / former) + 500)
        found = one(f"{outstanding} under way", closed(lengths.closed_s, outstanding, likely))
        former = outstanding
        guess = max(guess, found["per_s"])
        runs.append(found)
    figures["closed"] = runs
    best = figures["saturation"] = max(runs, key=lambda run: run["per_s"])
    figures["half"] = one("half of that", rate(lengths.rate_s, max(1.0, round(best["per_s"] / 2, 1))))
    if system.client_may_sign:
        load = closed(lengths.closed_s, best["outstanding"], GUESS_FACTOR * guess)
        figures["client_signs"] = one("clients sign and verify", load, signs=True)
    if system.kills_one:
        system.kill_one()
        dead = one("one dead, saturation", closed(lengths.dead_s, best["outstanding"], GUESS_FACTOR * guess))
        figures["one_dead"] = dead
        if lengths.dead_rate_s:
            figures["one_dead_rate_100"] = one(
                f"one dead, {RATE_PER_S}/s", rate(lengths.dead_rate_s, RATE_PER_S)
            )
        figures["one_dead_share"] = round(dead["per_s"] / best["per_s"], 3) if best["per_s"] else None
    return figures


def line(found: dict[str, Any]) -> str:
    """Figures of one measurement in a line."""
    text = f"{found['per_s']}/s, p50 {found['p50_ms']} ms, p99 {found['p99_ms']} ms, "
    text += f"CPU {found['server_cpu_us_per_tx']} + {found['client_cpu_us_per_tx']} us"
    for name in ("failed", "unanswered", "connections_lost", "ran_out"):
        text += f", {name} {found[name]}" if found[name] else ""
    return text + (f" {found['errors']}" if found["errors"] else "")
