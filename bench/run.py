"""`make bench`: ours, etcd and CometBFT in turn on this machine; one table, and JSON with --save."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, Final

from bench.common import file_system, machine, save, sync_ms
from bench.rivals.cometbft import CometBft
from bench.rivals.etcd import Etcd
from bench.rivals.gridpact import Gridpact
from bench.rivals.system import System
from bench.rounds import FULL, SHORT, run_round
from bench.table import print_table, ratios

SYSTEMS: Final = {
    "gridpact": Gridpact,
    "etcd": Etcd,
    "cometbft": lambda: CometBft(tuned=True),
    "cometbft-defaults": lambda: CometBft(tuned=False),
}

# Not the system's temporary folder, which may be in memory.
FOLDER: Final = Path(__file__).resolve().parent.parent / ".cache" / "bench"


def main() -> int:
    """0 when all that is here was measured; 1 when one of them lost requests."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a minute: fewer and shorter parts")
    parser.add_argument("--save", action="store_true", help="write bench/results")
    parser.add_argument("--only", default=",".join(SYSTEMS), help=f"of {', '.join(SYSTEMS)}")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where data folders are made: on a disk")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    shape = machine()
    shape["sync_ms"] = sync_ms(options.folder)
    shape["file_system"] = file_system(options.folder)
    figures: dict[str, Any] = {}
    for name in options.only.split(","):
        if name == "cometbft-defaults" and options.short:
            continue
        system: System = SYSTEMS[name]()
        lengths = SHORT if options.short else FULL
        figures[name] = run_round(system, lengths, options.folder, lambda text: print(text, flush=True))
        figures[name]["name"] = system.name
    figures["ratios"] = ratios(figures)
    figures["took_s"] = round(time.monotonic() - begin)
    print_table(figures, shape)
    if options.save:
        command = "make bench" + (" SHORT=1" if options.short else "")
        print(f"written: {save('compare', command, shape, figures).name}")
    return int(any(lost(found) for found in figures.values() if isinstance(found, dict)))


def lost(found: dict[str, Any]) -> bool:
    """True when a system broke, or refused, lost or did not answer a request that counted."""
    parts = [part for part in found.values() if isinstance(part, dict) and "failed" in part]
    return "broke" in found or any(
        part["failed"] or part["unanswered"] for part in [*parts, *found.get("closed", [])]
    )


if __name__ == "__main__":
    sys.exit(main())
