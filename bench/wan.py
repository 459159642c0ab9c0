"""Finality, messages and bytes of 16, 50 and 100 validators in ten regions of the world, all up
and with a third of them crashed, in the model of bench.wan_model; and how far off the model is, against four
real validators with the same round trips.

    python -m bench.wan [--save] [--short] [--no-real] [--only N]

With --save the figures go to bench/results and the plots to docs/images.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from bench import wan_real
from bench.common import machine, percentile, save, show
from bench.wan_costs import Costs, measure
from bench.wan_model import FRAME_BYTES, HEADER_BYTES, Shape, Wide
from bench.wan_plot import Bars, draw

IMAGES: Final = Path(__file__).resolve().parent.parent / "docs" / "images"
SIZES: Final = (4, 16, 50, 100)
# Seconds of simulated time by size; with crashed members views are long and cheap, and more time is needed.
_ALL_UP_S: Final = {4: 40.0, 16: 20.0, 50: 6.0, 100: 4.0}
_CRASHED_S: Final = {4: 80.0, 16: 60.0, 50: 40.0, 100: 25.0}
_ROUNDS: Final = 3  # of the real network; the one with the least in its way counts, all are shown


def steps_us(shape: Shape, costs: Costs) -> dict[str, float]:
    """What the core's steps cost in a network of this size, by kind of event: from a run of a second."""
    first = Wide(replace(shape, crashed=0, seconds=1.0, warm_s=0.5), costs)
    first.run()
    return first.step_means_us()


def simulate(shape: Shape, costs: Costs, step_us: dict[str, float]) -> dict[str, Any]:
    """The figures of one network."""
    begun = time.perf_counter()
    wide = Wide(shape, costs, step_us)
    found = wide.run()
    views = max(1, wide.view_last - wide.view_first)
    return {
        "validators": shape.validators,
        "crashed": shape.crashed,
        "rate_per_s": shape.rate_per_s,
        "simulated_s": shape.seconds,
        "final": len(found.tx_ms),
        "views": wide.view_last - wide.view_first,
        "blocks": wide.height_last - wide.height_first,
        "tx_p50_ms": _ms(found.tx_ms, 0.5),
        "tx_p99_ms": _ms(found.tx_ms, 0.99),
        "block_p50_ms": _ms(found.block_ms, 0.5),
        "block_p99_ms": _ms(found.block_ms, 0.99),
        "messages_per_view": round(sum(found.messages.values()) / views, 1),
        "bytes_per_view": round(sum(found.size_bytes.values()) / views),
        "messages_by_kind": {k: round(v / views, 1) for k, v in sorted(found.messages.items())},
        "bytes_by_kind": {k: round(v / views) for k, v in sorted(found.size_bytes.items())},
        "egress_kb_per_s": round(sum(found.size_bytes.values()) / len(wide.live) / shape.seconds / 1_000, 1),
        "busy_percent": round(sum(found.busy_us.values()) / len(wide.live) / shape.seconds / 1e4, 1),
        "step_us": step_us,
        "took_s": round(time.perf_counter() - begun, 1),
    }


def _ms(values: list[float], share: float) -> float | None:
    return round(percentile(values, share), 1) if values else None


def compare(costs: Costs, seconds: float, rounds: int = _ROUNDS) -> dict[str, Any]:
    """Four real validators and the model of just these, at 8 transactions a second."""
    runs = [wan_real.measure(8.0, seconds) for _ in range(rounds)]
    real = min(runs, key=lambda run: run["tx_p50_ms"])
    shape = Shape(4, rate_per_s=8.0, seconds=120.0, regions=wan_real.SITES)
    model = simulate(shape, costs, steps_us(shape, costs))
    # As the real ones count theirs: consensus messages without batches, bytes without the layers below.
    below = sum(model["messages_by_kind"].values()) * (FRAME_BYTES - HEADER_BYTES)
    model["bytes_per_view"] = round(model["bytes_per_view"] - below)
    model["messages_per_view"] = round(
        sum(v for k, v in model["messages_by_kind"].items() if k != "Batch"), 1
    )
    names = ("tx_p50_ms", "tx_p99_ms", "messages_per_view", "bytes_per_view")
    return {
        "real": real,
        "real_p50_ms": [run["tx_p50_ms"] for run in runs],
        "model": model,
        "error_percent": {name: round((model[name] / real[name] - 1) * 100, 1) for name in names},
    }


def main() -> int:
    """0 when all was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.wan", description=__doc__)
    parser.add_argument("--save", action="store_true", help="keep figures and plots")
    parser.add_argument("--short", action="store_true", help="4 and 16 validators, a few seconds")
    parser.add_argument("--no-real", action="store_true", help="without the four real validators")
    parser.add_argument("--only", type=int, default=0, help="this many validators alone")
    options = parser.parse_args()
    shape, costs = machine(), measure()
    figures: dict[str, Any] = {"costs": asdict(costs), "networks": []}
    for size in (options.only,) if options.only else SIZES[:2] if options.short else SIZES:
        step_us = steps_us(Shape(size), costs)
        for crashed in (0, (size - 1) // 3):
            seconds = (_CRASHED_S if crashed else _ALL_UP_S).get(size, 20.0) / (4 if options.short else 1)
            warm_s = 8.0 if crashed else 1.5
            found = simulate(Shape(size, crashed, seconds=seconds, warm_s=warm_s), costs, step_us)
            figures["networks"].append(found)
            print(_line(found), file=sys.stderr, flush=True)
    if options.save:
        save(
            "wan", "python -m bench.wan --save", shape, figures
        )  # what is there stays, whatever the real ones do
    reason = "asked not to" if options.no_real else wan_real.why_not()
    if reason:
        print(f"no comparison with real validators: {reason}", file=sys.stderr)
    else:
        figures["comparison"] = compare(costs, 10.0, 1) if options.short else compare(costs, 20.0)
    _print(figures)
    if options.save:
        figures["load_after"] = os.getloadavg()[0]
        print(save("wan", "python -m bench.wan --save", shape, figures).name)
        for file in plots(figures["networks"], IMAGES):
            print(file.name)
    return 0


def plots(networks: list[dict[str, Any]], folder: Path) -> list[Path]:
    """The plots of some figures, as files in a folder."""
    up = [one for one in networks if not one["crashed"]]
    down = [one for one in networks if one["crashed"]]
    sizes = [str(one["validators"]) for one in up]
    wanted = {
        "wan-finality.svg": Bars(
            "Time to final, all validators up",
            "ms",
            sizes,
            {"p50": [one["tx_p50_ms"] or 0 for one in up], "p99": [one["tx_p99_ms"] or 0 for one in up]},
        ),
        "wan-finality-crashed.svg": Bars(
            "Time to final, a third of the validators crashed",
            "ms",
            sizes,
            {"p50": [one["tx_p50_ms"] or 0 for one in down], "p99": [one["tx_p99_ms"] or 0 for one in down]},
        ),
        "wan-messages.svg": Bars(
            "Messages a view, whole network",
            "messages",
            sizes,
            {
                "all up": [one["messages_per_view"] for one in up],
                "a third crashed": [one["messages_per_view"] for one in down],
            },
        ),
        "wan-bytes.svg": Bars(
            "Bytes a view and validator",
            "kB",
            sizes,
            {
                "all up": [one["bytes_per_view"] / one["validators"] / 1_000 for one in up],
                "a third crashed": [
                    one["bytes_per_view"] / (one["validators"] - one["crashed"]) / 1_000 for one in down
                ],
            },
        ),
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, bars in wanted.items():
        files.append(folder / name)
        files[-1].write_text(draw(bars))
    return files


def _line(one: dict[str, Any]) -> str:
    return (
        f"{one['validators']} validators, {one['crashed']} crashed: final after {one['tx_p50_ms']} / "
        f"{one['tx_p99_ms']} ms (p50/p99), {one['views']} views, {one['messages_per_view']:.0f} messages and "
        f"{one['bytes_per_view'] / 1e3:.0f} kB a view ({one['took_s']} s)"
    )


def _print(figures: dict[str, Any]) -> None:
    rows = []
    for one in figures["networks"]:
        name = f"{one['validators']} validators, {one['crashed']} crashed"
        rows.append((f"{name}: final p50, p99", f"{one['tx_p50_ms']}, {one['tx_p99_ms']} ms"))
        rows.append((f"{name}: a view", f"{one['messages_per_view']:.0f} msgs, {one['bytes_per_view']} B"))
    if "comparison" in figures:
        for name, error in figures["comparison"]["error_percent"].items():
            pair = (figures["comparison"][who][name] for who in ("real", "model"))
            rows.append((f"4 real ones, model: {name}", " / ".join(map(str, pair)) + f" ({error:+} %)"))
    show("validators in ten regions, 50 tx/s", rows)


if __name__ == "__main__":
    sys.exit(main())
