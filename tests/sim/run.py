"""`python -m tests.sim.run --seeds 200`: many seeded networks, a table of what happened; 1 on a violation."""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable

from tests.sim.coverage import Coverage
from tests.sim.world import Result, World, run


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds")
    parser.add_argument("--start", type=int, default=0, help="the first one")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--trace", action="store_true", help="print every event (with --seed)")
    parser.add_argument("--ed25519", action="store_true", help="real signatures everywhere (slower)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    return parser.parse_args(argv)


def _results(seeds: list[int], jobs: int, ed25519: bool) -> Iterable[Result]:
    one = functools.partial(run, ed25519=ed25519)
    if jobs <= 1 or len(seeds) == 1:
        yield from map(one, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(min(jobs, len(seeds))) as pool:
        yield from pool.imap_unordered(one, seeds, chunksize=1)


def _table(results: list[Result], seconds: float) -> str:
    events = sum(r.events for r in results)
    simulated_s = sum(r.simulated_ms for r in results) / 1_000
    faults: Counter[str] = Counter()
    for result in results:
        faults.update(result.faults)
    rows = [
        ("seeds", f"{len(results)}"),
        ("events", f"{events:,} ({events / seconds:,.0f} a second)"),
        ("messages", f"{sum(r.messages for r in results):,}"),
        ("blocks", f"{sum(r.height for r in results):,}"),
        ("simulated time", f"{simulated_s / 3_600:.2f} h ({simulated_s / seconds:,.1f} h an hour)"),
        ("wall time", f"{seconds:.1f} s"),
        ("faults", ", ".join(f"{kind} {count}" for kind, count in sorted(faults.items()))),
        ("progress after heal", f"at most {max(r.heal_ms for r in results)} ms"),
        ("violations", f"{sum(len(r.violations) for r in results)}"),
    ]
    return "\n".join(f"{name:<20} {value}" for name, value in rows)


def _trace(seed: int, ed25519: bool) -> Result:
    result = World(seed, ed25519=ed25519, log=print).run()
    print(f"trace hash {result.trace}")
    return result


def main(argv: list[str]) -> int:
    """Exit code: 0 clean, 1 violations (printed, with the command that replays each)."""
    arguments = _arguments(argv)
    seeds = list(range(arguments.start, arguments.start + arguments.seeds))
    if arguments.seed is not None:
        seeds = [arguments.seed]
    started = time.monotonic()
    if arguments.trace and len(seeds) == 1:
        results = [_trace(seeds[0], arguments.ed25519)]
    else:
        results = list(_results(seeds, arguments.jobs, arguments.ed25519))
    print(_table(results, time.monotonic() - started))
    coverage = Coverage()
    for result in results:
        coverage.add(result.coverage)
    print(coverage.table())
    bad = sorted((r for r in results if r.violations), key=lambda r: r.seed)
    for result in bad:
        print(f"\nseed {result.seed}: replay with  python -m tests.sim.run --seed {result.seed} --trace")
        for checker, what in result.violations:
            print(f"  {checker}: {what}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
