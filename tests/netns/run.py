"""`make net`: all tests on namespaces in their long form; `--save` keeps the figures in bench/results."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.common import machine, save
from tests.netns.lab import why_not

HERE = Path(__file__).parent


def main() -> int:
    """The exit code: 0 when all tests passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true", help="keep the figures as JSON")
    parser.add_argument("--short", action="store_true", help="as in CI: nobody sleeps a minute")
    parser.add_argument("--only", default="", help="pytest's -k")
    wanted = parser.parse_args()
    if reason := why_not():
        print(f"net: not possible here: {reason}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="gridpact-net-") as folder:
        figures = Path(folder) / "figures.json"
        env = os.environ | {"NET_FIGURES": str(figures), "NET_LONG": "0" if wanted.short else "1"}
        command = [sys.executable, "-m", "pytest", "-s", str(HERE), "--basetemp", f"{folder}/tests"]
        done = subprocess.run(command + (["-k", wanted.only] if wanted.only else []), env=env)
        if done.returncode == 0 and wanted.save:
            found = json.loads(figures.read_text()) | {"long": not wanted.short}
            form = "python -m tests.netns.run --short --save" if wanted.short else "make net SAVE=1"
            print(save("netns", form, machine(), found))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
