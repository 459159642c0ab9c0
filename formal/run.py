"""`python -m formal.run`: check the model with TLC, print a table, exit 1 when anything is not as it must be.

`--deep` takes the larger instances too (half an hour), `--only WORD` those whose name holds the word,
`--write` keeps what came out in results.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace

from formal.instances import BROKEN, COUNTED, PROTOCOL, SPARE, Instance
from formal.tlc import ARTIFACT, HERE, Outcome, ToolMissing, check, jar

RESULTS = HERE / "results.json"


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m formal.run", description=__doc__)
    parser.add_argument("--deep", action="store_true")
    parser.add_argument("--only", default="", metavar="WORD")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--timeout", type=float, default=1_800, metavar="SECONDS", help="for one instance")
    return parser.parse_args(argv)


def _chosen(options: argparse.Namespace) -> Iterator[tuple[Instance, bool]]:
    """Instances, and whether like members may be renamed."""
    for group, symmetric in ((PROTOCOL, True), (BROKEN, True), (SPARE, True), (COUNTED, False)):
        for instance in group:
            if options.only in instance.name and (options.deep or not instance.is_deep):
                yield instance, symmetric


def _verdict(instance: Instance, outcome: Outcome) -> str | None:
    """What is wrong with an outcome, or None."""
    if instance.refutes:
        return None if outcome.violated in instance.refutes else "not refuted: the check cannot fail"
    if outcome.violated:
        return f"{outcome.violated} is violated"
    return None if outcome.is_complete else "not finished in time"


def title(instance: Instance) -> str:
    """Name of an outcome in results.json."""
    return instance.name + (f": {', '.join(sorted(instance.refutes))}" if instance.refutes else "")


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for. 0: all as it must be, or skipped because a tool is missing."""
    options = _arguments(argv)
    try:
        jar()
    except ToolMissing as missing:
        print(f"model: skipped: {missing}")
        return 0
    results: dict[str, dict[str, object]] = {}
    if RESULTS.exists():
        results = json.loads(RESULTS.read_text())["instances"]
    failed = 0
    print(f"{'instance':<62} {'states':>9} {'steps':>10} {'s':>6} {'cpu s':>6}")
    for instance, symmetric in _chosen(options):
        if instance.refutes:
            instance = replace(instance, invariants=tuple(sorted(instance.refutes)))
        outcome = check(instance, symmetric, options.timeout)
        wrong = _verdict(instance, outcome)
        failed += wrong is not None
        said = wrong or ("refuted" if instance.refutes else "holds")
        figures = f"{outcome.states:>9,} {outcome.generated:>10,}"
        figures += f" {outcome.seconds:>6} {outcome.cpu_seconds or 0:>6}"
        print(f"{title(instance):<62} {figures} {said}", flush=True)
        if wrong is None and options.write:
            results[title(instance)] = outcome.plain()
            RESULTS.write_text(json.dumps({"tool": ARTIFACT, "instances": results}, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
