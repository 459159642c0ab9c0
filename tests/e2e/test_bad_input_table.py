"""docs/bad-input.md says what these tests show, no more and no less."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from ledger.rules import RULES

HERE = Path(__file__).resolve().parent
FILES = (
    "test_bad_files.py",
    "test_bad_transactions.py",
    "test_bad_peers.py",
    "test_bad_sources.py",
    "test_withdraw.py",
    "test_kill.py",
)
SOURCES = ("ledger", "consensus", "p2p", "node")


def rows(page: str) -> list[tuple[str, str, str]]:
    """(reason or "", what is said of it, FILE::TEST) of each row that names a test."""
    found = []
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        named = re.fullmatch(r"`(\w+\.py::\w+)`", cells[-1])
        if named:
            reason = re.fullmatch(r"`([\w.]+)`", cells[1])
            found.append((reason[1] if reason else "", cells[-2], named[1]))
    return found


def bodies_of(file: str) -> dict[str, str]:
    """The source of each test, with that of what it is parametrised by: the whole file but other tests."""
    text = (HERE / file).read_text()
    nodes = [n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lines = text.splitlines()
    bodies = {n.name: (n.lineno, n.end_lineno or 0) for n in nodes if n.name.startswith("test_")}

    def without_others(name: str) -> str:
        others = [span for other, span in bodies.items() if other != name]
        kept = (line for at, line in enumerate(lines, 1) if not any(a <= at <= b for a, b in others))
        return "\n".join(kept)

    return {name: without_others(name) for name in bodies}


def is_used(reason: str, code: str) -> bool:
    """Does the code refuse by that name? Names that are put together at run time end in one of its parts."""
    family, _, last = reason.rpartition(".")
    whole = reason in RULES or any(f'"{prefix}{reason}"' in code for prefix in ("", "fault."))
    return whole or (f'"{family}"' in code and last in ("malformed", "not_canonical", "too_long"))


def test_each_row_is_a_test_and_each_test_a_row(checkout: Path) -> None:
    page = (checkout / "docs" / "bad-input.md").read_text()
    listed = rows(page)
    tests = {f"{file}::{name}": text for file in FILES for name, text in bodies_of(file).items()}
    assert {test for _, _, test in listed} == set(tests)
    for reason, _, test in listed:
        assert reason in tests[test], f"{test} does not name {reason}"


def test_each_reason_is_one_of_the_code(checkout: Path) -> None:
    code = "".join(file.read_text() for part in SOURCES for file in sorted((checkout / part).rglob("*.py")))
    reasons = {reason for reason, _, _ in rows((checkout / "docs" / "bad-input.md").read_text())} - {""}
    assert len(reasons) > 40
    # What consensus refuses of a message is told with "consensus." before the codec's name.
    names = {reason: (reason, reason.removeprefix("consensus.")) for reason in reasons}
    assert [
        reason for reason, forms in sorted(names.items()) if not any(is_used(f, code) for f in forms)
    ] == []


def test_each_figure_is_one_of_the_code(checkout: Path) -> None:
    page = (checkout / "docs" / "bad-input.md").read_text()
    code = "".join(file.read_text() for file in sorted((checkout / "node").rglob("*.py")))
    figures = set(re.findall(r"`(?:gridpact_)?(\w+_total)", page))
    assert len(figures) >= 8
    assert [figure for figure in sorted(figures) if f'"{figure}"' not in code] == []
