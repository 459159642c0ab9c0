"""`python -m bench.exec`: what running costs. Claim to running per driver, files, and how many a node keeps.

*starts*   each driver that this host enforces: sealing, start until the workload's first word, and with a
           ledger of four validators from the claim to `running`; beside bare bubblewrap and podman, which
           seal, verify and filter nothing.
*files*    fetches beside a bare stream, and eight at once beside one: bench.files.
*density*  idle services, each with processor and memory of its own, on one node: measured at a few numbers,
           and what bounds a node of 24 GiB.

`--short` is a minute for CI: fewer rounds and slots, and no lines of their own.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog
import trio

from bench import files
from bench.common import machine, save, show
from bench.exec_density import density, why_not
from bench.exec_report import density_rows, start_rows
from bench.exec_starts import bare_bwrap, claim_to_running, driver_starts, podman
from bench.exec_tasks import SAMPLES
from bench.files_lines import why_not as no_lines
from node.executor.drivers.embedded import drivers


class Lengths(NamedTuple):
    """How much is measured."""

    starts: int
    claims: int
    slots: tuple[int, ...]
    mib: int
    lines: bool


FULL: Final = Lengths(50, 20, (50, 200, 800), 200, True)
SHORT: Final = Lengths(5, 3, (4, 8), 16, False)


async def starts(folder: Path, lengths: Lengths) -> dict[str, Any]:
    """Each driver beside the bare tools."""
    driver = drivers(folder / "drivers")
    fingerprint = await trio.to_thread.run_sync(driver.fingerprint)
    found: dict[str, Any] = {}
    for each in (fingerprint, *fingerprint.beside):
        name = each.driver
        if not each.usable or name not in SAMPLES:
            found[name] = {"skipped": each.reason or "nothing here to run by it"}
            continue
        sample = SAMPLES[name]()
        place = folder / f"files-{name}"
        place.mkdir()
        found[name] = await driver_starts(driver, sample, place, lengths.starts)
        found[name] |= await claim_to_running(sample, lengths.claims)
    bare = {"bubblewrap alone": bare_bwrap, "podman alone": podman}
    for name, measure in bare.items():
        found[name] = await trio.to_thread.run_sync(measure, lengths.starts)
    return found


def fetches(folder: Path, lengths: Lengths) -> dict[str, Any]:
    """As bench.files measures them."""
    reason = no_lines()
    found: dict[str, Any] = {"loopback": files.speed(folder / "loopback", lengths.mib, 3)}
    if not lengths.lines or reason:
        none = {"skipped": reason or "not in the short form"}
        return found | {"line": none, "swarm": none}
    found["line"] = files.speed(folder / "line", lengths.mib, 3, 1_000)
    found["swarm"] = files.swarm(folder / "swarm", lengths.mib, 50)
    return found


def main() -> int:
    """0 when all that is possible here was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.exec", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a minute")
    parser.add_argument("--part", choices=("all", "starts", "files", "density"), default="all")
    parser.add_argument("--slots", default="", help="numbers of slots for density, such as 50,100,200")
    parser.add_argument("--save", action="store_true", help="write bench/results")
    options = parser.parse_args()
    lengths = SHORT if options.short else FULL
    if options.slots:
        lengths = lengths._replace(slots=tuple(map(int, options.slots.split(","))))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    shape, figures, reason = machine(), {}, why_not()
    with tempfile.TemporaryDirectory(prefix="gridpact-exec-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # a workload's own user reads from below it
        if options.part in ("all", "starts"):
            figures["starts"] = {"skipped": reason} if reason else trio.run(starts, folder, lengths)
        if options.part in ("all", "files"):
            figures["files"] = fetches(folder, lengths)
        if options.part in ("all", "density"):
            figures["density"] = {"skipped": reason} if reason else trio.run(density, folder, lengths.slots)
    if "starts" in figures:
        show("starts: medians", start_rows({"starts": figures["starts"]} if reason else figures["starts"]))
    if "files" in figures:
        show("artifacts between peers", files.rows(figures["files"]))
    if "density" in figures:
        show("density", density_rows(figures["density"]))
    if options.save:
        command = "make bench-exec" + (" SHORT=1" if options.short else "")
        print(f"written: {save('exec', command, shape, figures).name}")
    elif options.part != "all":
        print(json.dumps(figures, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
