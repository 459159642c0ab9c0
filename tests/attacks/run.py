"""`python -m tests.attacks.run`: every attack of the catalogue tried for real, as a table.

Its tests must pass, and so must its controls, which show that the same attempt succeeds where nothing stops
it. What this host cannot try (no root, no bubblewrap) is named, and is not called blocked.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as Tree
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.table import Table

from bench.common import machine, save
from tests.attacks.catalogue import ATTACKS, SELF, Attack

TESTS: Final = Path(__file__).resolve().parent.parent
WIDTH: Final = 160


class Outcome(NamedTuple):
    """Of one test or case: passed, failed or skipped, and why."""

    verdict: str
    reason: str = ""


class Row(NamedTuple):
    """`verdict`: blocked, NOT BLOCKED, CONTROL FAILED or not tried. `cases`: tests and controls that ran."""

    attack: Attack
    verdict: str
    reason: str
    cases: int
    controls: str


def wanted(attacks: Iterable[Attack]) -> list[str]:
    """The tests and controls, each once, in order. Whole tests where all their cases are asked for."""
    found = {test: None for attack in attacks for test in (*attack.tests, *attack.controls) if test != SELF}
    return [test for test in found if test.partition("[")[0] == test or test.partition("[")[0] not in found]


def run(tests: Iterable[str], folder: Path) -> dict[str, Outcome]:
    """The outcome of each case, by file, name and case."""
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}"]
    command += [f"--basetemp={folder / 'tests'}", *(f"tests/{test}" for test in tests)]
    done = subprocess.run(command, cwd=TESTS.parent, env=os.environ, capture_output=True, text=True)
    if done.returncode not in (0, 1) or not report.exists():  # 1: some have failed
        raise SystemExit(f"the tests could not be run:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return outcomes(report.read_text())


def outcomes(report: str) -> dict[str, Outcome]:
    """From pytest's own report (JUnit XML, of our own making: no foreign text is parsed)."""
    found = {}
    for case in Tree.fromstring(report).iter("testcase"):
        path = case.attrib["classname"].removeprefix("tests.").replace(".", "/") + ".py"
        told = {child.tag: child.attrib.get("message", "") for child in case}
        bad = told.get("failure", told.get("error"))
        if bad is not None:
            outcome = Outcome("failed", bad.splitlines()[0] if bad else "")
        elif "skipped" in told:
            outcome = Outcome("skipped", told["skipped"])
        else:
            outcome = Outcome("passed")
        found[f"{path}::{case.attrib['name']}"] = outcome
    return found


def cases(test: str, found: Mapping[str, Outcome]) -> list[Outcome]:
    """All cases of a test, or the one that is named. One that did not run at all has failed."""
    named = [outcome for name, outcome in found.items() if name == test or name.startswith(f"{test}[")]
    return named or [Outcome("failed", f"{test} did not run")]


def judge(attack: Attack, found: Mapping[str, Outcome]) -> Row:
    """The verdict on one attack."""
    tried = [outcome for test in attack.tests for outcome in cases(test, found)]
    controls = [o for test in attack.controls if test != SELF for o in cases(test, found)]
    failed = next((o.reason for o in tried if o.verdict == "failed"), None)
    failed_control = next((o.reason for o in controls if o.verdict == "failed"), None)
    skipped = [o.reason for o in tried if o.verdict == "skipped"]
    passed = sum(o.verdict == "passed" for o in controls)
    told = "itself" if SELF in attack.controls else f"{passed} of {len(controls)}"
    count = len(tried) + len(controls)
    if failed is not None:
        return Row(attack, "NOT BLOCKED", failed, count, told)
    if failed_control is not None:
        return Row(attack, "CONTROL FAILED", failed_control, count, told)
    if skipped:
        return Row(attack, "not tried", f"{len(skipped)} of {len(tried)}: {skipped[0]}", count, told)
    if controls and not passed:
        return Row(attack, "not shown", f"no control here: {controls[0].reason}", count, told)
    return Row(attack, "blocked", "", count, told)


def table(rows: Iterable[Row]) -> Table:
    """For people."""
    made = Table(title="attacks on what 3nodes run", show_lines=False)
    for name, width in (("attack", 40), ("who", 22), ("what stops it", 46), ("verdict", 14), ("controls", 8)):
        made.add_column(name, max_width=width)
    made.add_column("cases", justify="right")
    part = ""
    for row in rows:
        if row.attack.part != part:
            made.add_section()
            part = row.attack.part
        colour = {"blocked": "green", "not tried": "yellow", "not shown": "yellow"}.get(row.verdict, "red")
        shown = f"[{colour}]{row.verdict}[/]"
        about = row.attack
        made.add_row(about.what, about.who, about.stops, shown, row.controls, str(row.cases))
    return made


def figures(rows: Iterable[Row]) -> dict[str, Any]:
    """For a file of results."""
    return {
        "attacks": [
            {
                "part": row.attack.part,
                "what": row.attack.what,
                "verdict": row.verdict,
                "cases": row.cases,
                "controls": row.controls,
                "reason": row.reason,
            }
            for row in rows
        ]
    }


def main() -> int:
    """0 when nothing that was tried got through; with --strict also nothing may be left untried."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.run", description=__doc__)
    parser.add_argument("--only", default="", help="a part, or a word of the attack")
    parser.add_argument("--strict", action="store_true", help="what cannot be tried here is a failure, too")
    parser.add_argument("--save", action="store_true", help="keep the verdicts in bench/results")
    options = parser.parse_args()
    chosen = [a for a in ATTACKS if options.only in (a.part, "") or options.only in a.what]
    if not chosen:
        parser.error(f"no attack has {options.only!r}")
    with tempfile.TemporaryDirectory(prefix="gridpact-attacks-") as folder:
        found = run(wanted(chosen), Path(folder))
    rows = [judge(attack, found) for attack in chosen]
    console = Console(width=WIDTH)
    console.print(table(rows))
    for row in rows:
        if row.verdict != "blocked":
            console.print(f"{row.attack.what}: {row.verdict}: {row.reason}", highlight=False, markup=False)
    blocked = sum(row.verdict == "blocked" for row in rows)
    console.print(f"{blocked} of {len(rows)} blocked; {len(found)} cases", highlight=False)
    if options.save:
        print(f"written: {save('attacks', 'make attacks SAVE=1', machine(), figures(rows)).name}")
    bad = {"NOT BLOCKED", "CONTROL FAILED"} | ({"not tried", "not shown"} if options.strict else set())
    return int(any(row.verdict in bad for row in rows))


if __name__ == "__main__":
    sys.exit(main())
