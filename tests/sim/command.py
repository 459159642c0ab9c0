"""The command line of a kind of world: so many seeds, or one with every event printed; 1 on a violation."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from tests.sim.report import Report
from tests.sim.world import World


def run_seeds(name: str, about: str | None, world_of: Callable[[int], World], argv: list[str]) -> int:
    """Run the seeds that `argv` asks for of the module `name` and print the table; the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=about)
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds")
    parser.add_argument("--start", type=int, default=0, help="the first one")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--trace", action="store_true", help="print every event (with --seed)")
    arguments = parser.parse_args(argv)
    seeds = range(arguments.start, arguments.start + arguments.seeds)
    if arguments.seed is not None:
        seeds = range(arguments.seed, arguments.seed + 1)
    report = Report(1)
    for seed in seeds:
        world = world_of(seed)
        if arguments.trace:
            world.log = print
        report.add(world.run())
    report.seconds = 1
    print(report.table())
    return 1 if report.bad else 0
