"""`python -m tests.mutants.run`: breaks the product in every way of the catalogue, in a copy of its own,
runs the tests that must notice, and prints who killed what. A survivor is named, and fails."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Final

from bench.common import machine, save
from tests.mutants.catalogue import MUTANTS, Mutant

ROOT: Final = Path(__file__).resolve().parent.parent.parent
COPIED: Final = (
    "ledger",
    "consensus",
    "p2p",
    "node",
    "bot",
    "tests",
    "examples",
    "docs",
    "pyproject.toml",
)
TESTS_S_MAX: Final = 300
WHOLE_S_MAX: Final = 1800  # all tests that judge, unbroken; and the variants that are classes
# Variants that are classes, not source: each is a parameter of these tests.
IN_PROCESS: Final = (
    "tests/sim/test_mutants.py",
    "tests/sim/test_epochs.py",
    "tests/sim/test_twins.py",
    "tests/sim/test_market_mutants.py",
    "tests/ledger/test_machine_mutants.py",
)
_FAILED: Final = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one mutant. `killed_by` "": it survived; `problem`: it could not be judged."""

    name: str
    killed_by: str
    seconds: float
    problem: str = ""


def copy_tree(to: Path) -> Path:
    """A copy of the product and its tests."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".hypothesis")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=ignored, symlinks=True)
        elif source.exists():
            shutil.copy2(source, to / name)
    return to


def run_tests(
    tree: Path, tests: Sequence[str], *more: str, within_s: int = TESTS_S_MAX
) -> subprocess.CompletedProcess[str]:
    """pytest in a copy; what it imports is the copy. Raises TimeoutExpired."""
    command = [sys.executable, "-B", "-m", "pytest", "-q", "--no-header", *more]
    env = os.environ | {"CI": "true", "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [*command, *tests], cwd=tree, env=env, capture_output=True, text=True, timeout=within_s
    )


def judge(mutant: Mutant, tree: Path) -> Outcome:
    """Break the copy, test, mend it."""
    began_s = time.monotonic()
    file = tree / mutant.file
    source = file.read_text()
    if source.count(mutant.old) != 1:
        found = source.count(mutant.old)
        return Outcome(mutant.name, "", 0.0, f"out of date: its piece stands {found} times in {mutant.file}")
    broken = source.replace(mutant.old, mutant.new)
    try:
        compile(broken, mutant.file, "exec")
        file.write_text(broken)
        done = run_tests(tree, mutant.tests, "-x", "-o", "timeout=60")
        killer = _FAILED.search(done.stdout)
        killed_by = killer.group(1) if killer else ""
        problem = ""
        if done.returncode not in (0, 1) and "Timeout" in done.stdout + done.stderr:
            killed_by = killed_by or "a test's timeout"
        elif done.returncode not in (0, 1) or (killed_by and "::" not in killed_by):
            said = " ".join((done.stdout + done.stderr).split())[-300:]
            problem = f"pytest ended with {done.returncode}: {said}"
    except SyntaxError as error:
        killed_by, problem = "", f"no Python: {error}"
    except subprocess.TimeoutExpired:
        killed_by, problem = f"no end within {TESTS_S_MAX} s", ""
    finally:
        file.write_text(source)
    return Outcome(mutant.name, "" if problem else killed_by, time.monotonic() - began_s, problem)


def _work(todo: Queue[Mutant], done: list[Outcome], tree: Path) -> None:
    while True:
        try:
            mutant = todo.get_nowait()
        except Empty:
            return
        outcome = judge(mutant, tree)
        done.append(outcome)
        print(f"{_line(outcome)}", flush=True)


def _line(outcome: Outcome) -> str:
    verdict = outcome.problem or outcome.killed_by or "SURVIVED"
    return f"{outcome.name:<40} {outcome.seconds:6.1f} s  {verdict}"


def judge_all(mutants: Sequence[Mutant], jobs: int) -> list[Outcome]:
    """Each mutant in a copy; the copies are removed."""
    todo: Queue[Mutant] = Queue()
    for mutant in mutants:
        todo.put(mutant)
    done: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="gridpact-mutants-") as folder:
        trees = [copy_tree(Path(folder) / str(number)) for number in range(jobs)]
        workers = [threading.Thread(target=_work, args=(todo, done, tree)) for tree in trees]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return done


def unbroken(mutants: Sequence[Mutant]) -> str:
    """The first test that fails though nothing is broken, "" when none does: it would "kill" anything."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    with tempfile.TemporaryDirectory(prefix="gridpact-mutants-") as folder:
        done = run_tests(copy_tree(Path(folder)), tests, "-x", within_s=WHOLE_S_MAX) if tests else None
    if done is None or done.returncode == 0:
        return ""
    failed = _FAILED.search(done.stdout)
    return failed.group(1) if failed else " ".join((done.stdout + done.stderr).split())[-300:]


def in_process() -> tuple[int, list[str]]:
    """The variants that are classes: how many were killed, and which survived."""
    with tempfile.TemporaryDirectory(prefix="gridpact-mutants-") as folder:
        tree = copy_tree(Path(folder))
        wanted = ("-vv", "-k", "mutant or caught")
        done = run_tests(tree, IN_PROCESS, *wanted, within_s=WHOLE_S_MAX)
    passed = re.findall(r"^(\S+\[\S+\]) PASSED", done.stdout, re.MULTILINE)
    assert passed, f"nothing was run: {done.stdout[-500:]}{done.stderr[-500:]}"
    for name in passed:
        print(f"{name.partition('[')[2].rstrip(']'):<40}           {name.partition('[')[0]}")
    return len(passed), _FAILED.findall(done.stdout)


def main(argv: list[str]) -> int:
    """Exit code: 0 when all are killed, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.run", description=__doc__)
    parser.add_argument("--only", default="", help="names that hold this text")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--save", action="store_true", help="write the result to bench/results")
    asked = parser.parse_args(argv)
    shape = machine()
    chosen = [mutant for mutant in MUTANTS if asked.only in mutant.name]
    began_s = time.monotonic()
    if failed := unbroken(chosen):
        print(f"nothing is judged: without any mutant this fails: {failed}")
        return 1
    outcomes = judge_all(chosen, asked.jobs)
    killed, survivors = (0, []) if asked.only else in_process()
    bad = [outcome for outcome in outcomes if not outcome.killed_by]
    total = len(outcomes) + killed + len(survivors)
    passed_s = round(time.monotonic() - began_s)
    print(f"\nmutants {total}, killed {total - len(bad) - len(survivors)}, {passed_s} s")
    for outcome in bad:
        print(f"NOT KILLED: {_line(outcome)}")
    for name in survivors:
        print(f"NOT KILLED: {name}")
    if asked.save:
        names = [outcome.name for outcome in bad] + survivors
        figures = {"mutants": total, "killed": total - len(names), "survivors": names, "wall_s": passed_s}
        command = "python -m tests.mutants.run" + (f" --only {asked.only}" if asked.only else "")
        print(f"written: {save('mutants', command, shape, figures).name}")
    return 1 if bad or survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
