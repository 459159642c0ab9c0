"""`python -m tests.sim.run --seeds 200`: many seeded networks, a table of what happened; 1 on a violation, or
when so many seeds never saw a kind of fault."""

from __future__ import annotations

import argparse
import functools
import gc
import logging
import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import structlog

from tests.sim.epochs import EpochWorld
from tests.sim.pruned import PrunedWorld
from tests.sim.report import Report
from tests.sim.result import Result
from tests.sim.scenario import make, with_quiet
from tests.sim.world import World

EXCERPT_LINES: Final = 40
EXCERPTS_MAX: Final = 3
EPOCHS_EVERY: Final = 5
PRUNED_EVERY: Final = 10
REAL_EVERY: Final = 50  # each fiftieth seed signs with Ed25519, the others with a stand-in


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds")
    parser.add_argument("--start", type=int, default=0, help="the first one")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--trace", action="store_true", help="print every event (with --seed)")
    parser.add_argument("--ed25519", action="store_true", help="real signatures everywhere (slower)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--save", action="store_true", help="write the result to bench/results")
    return parser.parse_args(argv)


def world(seed: int, ed25519: bool = False) -> World:
    """The world of a seed, as this command runs it: in each fifth the validator set changes, too; in each
    tenth blocks are dropped, and who comes too late takes a state."""
    if seed % EPOCHS_EVERY == 2:
        return EpochWorld(seed, ed25519=ed25519)
    if seed % PRUNED_EVERY == 9:
        return PrunedWorld(seed, ed25519=ed25519)
    return World(seed, scenario=with_quiet(make(seed), seed), ed25519=ed25519 or seed % REAL_EVERY == 0)


def one(seed: int, ed25519: bool = False) -> Result:
    """Run a seed. Its objects are many and live as long as it does: they are looked at for garbage once."""
    logs = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    started = time.process_time()
    gc.disable()
    try:
        result = world(seed, ed25519).run()
        result.cpu_s = time.process_time() - started
        return result
    finally:
        gc.enable()
        gc.collect()
        structlog.configure(**logs)  # tests run seeds in their own process


def _results(seeds: list[int], jobs: int, ed25519: bool) -> Iterable[Result]:
    """In the order of the seeds, whichever process ran which."""
    call = functools.partial(one, ed25519=ed25519)
    if jobs <= 1 or len(seeds) == 1:
        yield from map(call, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(min(jobs, len(seeds))) as pool:
        yield from pool.imap(call, seeds, chunksize=1)


def _trace(seed: int, ed25519: bool) -> Result:
    traced = world(seed, ed25519)
    traced.log = print
    result = traced.run()
    print(f"trace hash {result.trace}")
    return result


class _Seen(BaseException):
    """The violation that was looked for."""


def excerpt(seed: int, ed25519: bool) -> list[str]:
    """What happened just before a seed's first violation: it is run again up to there."""
    lines: deque[str] = deque(maxlen=EXCERPT_LINES)

    def log(line: str) -> None:
        lines.append(line)
        if " VIOLATION " in line:
            raise _Seen

    again = world(seed, ed25519)
    again.log = log
    with suppress(_Seen):
        again.run()
    return list(lines)


def main(argv: list[str]) -> int:
    """Exit code: 0 clean, 1 violations (printed, with the command that replays each)."""
    arguments = _arguments(argv)
    seeds = list(range(arguments.start, arguments.start + arguments.seeds))
    if arguments.seed is not None:
        seeds = [arguments.seed]
    started = time.monotonic()
    report = Report(min(arguments.jobs, len(seeds)))
    if arguments.trace and len(seeds) == 1:
        report.add(_trace(seeds[0], arguments.ed25519))
    else:
        for result in _results(seeds, arguments.jobs, arguments.ed25519):
            report.add(result)
            for checker, what in result.violations[:1]:  # a long run may be stopped before its end
                print(f"seed {result.seed}: {checker}: {what}", file=sys.stderr, flush=True)
    report.seconds = time.monotonic() - started
    print(report.table())
    for result in report.bad[:EXCERPTS_MAX]:
        if not arguments.trace:
            print(f"\nseed {result.seed}, just before its first violation:")
            print("\n".join(excerpt(result.seed, arguments.ed25519)))
    if arguments.save:
        print(f"saved {report.save(' '.join(['python -m tests.sim.run', *argv])).name}")
    return 1 if report.bad or report.unused() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
