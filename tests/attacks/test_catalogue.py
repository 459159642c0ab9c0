"""The catalogue of attacks is whole, names tests that exist, and its runner tells what got through."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.attacks.catalogue import ATTACKS, SELF, Attack
from tests.attacks.run import Outcome, cases, judge, outcomes, wanted

TESTS = Path(__file__).resolve().parent.parent

# What must be tried, each by a word that an attack must have.
MUST = {
    "files": ("chunk with other bytes", "under another's name", "at rest", "root edits", "foreign program"),
    "images": ("links", "paths that leave", "bombs", "device nodes", "set-user-id"),
    "floods": ("fork bomb", "memory", "scratch", "disk", "logs"),
    "escape": ("mounts", "ptrace", "namespaces", "keyrings", "bpf", "io_uring", "raw", "`/proc`", "cgroup"),
    "network": ("API", "neighbour", "metadata", "host's network"),
    "holders": ("writes results", "volume", "secrets", "claims what was not approved"),
    "parameters": ("argument", "variable", "path"),
}


@cache
def functions(file: str) -> frozenset[str]:
    body = ast.parse((TESTS / file).read_text(encoding="utf-8")).body
    return frozenset(n.name for n in body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_attack_that_must_be_tried_is_there() -> None:
    for part, words in MUST.items():
        for word in words:
            assert any(word in a.what for a in ATTACKS if a.part == part), (part, word)
    assert len({a.what for a in ATTACKS}) == len(ATTACKS)
    assert {a.part for a in ATTACKS} == set(MUST)


@pytest.mark.parametrize("attack", ATTACKS, ids=[a.what for a in ATTACKS])
def test_its_tests_and_controls_exist(attack: Attack) -> None:
    assert attack.tests and attack.controls, "without a control nothing is shown"
    for test in (*attack.tests, *attack.controls):
        if test != SELF:
            file, _, name = test.partition("::")
            assert name.partition("[")[0] in functions(file), test


REPORT = """<testsuites><testsuite>
<testcase classname="tests.a.test_x" name="test_good"/>
<testcase classname="tests.a.test_x" name="test_many[1]"/>
<testcase classname="tests.a.test_x" name="test_many[2]"><failure message="got out&#10;more"/></testcase>
<testcase classname="tests.a.test_x" name="test_not"><skipped message="no root"/></testcase>
<testcase classname="tests.a.test_x" name="test_broken"><error message="fixture"/></testcase>
</testsuite></testsuites>"""


@pytest.mark.parametrize(
    ("tests", "controls", "verdict", "reason"),
    [
        (("test_good",), (SELF,), "blocked", ""),
        (("test_good", "test_many[1]"), ("test_good",), "blocked", ""),
        (("test_many",), (SELF,), "NOT BLOCKED", "got out"),
        (("test_good", "test_many[2]"), (SELF,), "NOT BLOCKED", "got out"),
        (("test_broken",), (SELF,), "NOT BLOCKED", "fixture"),
        (("test_gone",), (SELF,), "NOT BLOCKED", "did not run"),
        (("test_good",), ("test_many[2]",), "CONTROL FAILED", "got out"),
        (("test_good", "test_not"), (SELF,), "not tried", "no root"),
        (("test_good",), ("test_not",), "not shown", "no root"),
        (("test_good",), ("test_not", "test_good"), "blocked", ""),
    ],
)
def test_the_verdict(tests: tuple[str, ...], controls: tuple[str, ...], verdict: str, reason: str) -> None:
    def full(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name if name == SELF else f"a/test_x.py::{name}" for name in names)

    attack = Attack("part", "what", "who", "stops", full(tests), full(controls))
    row = judge(attack, outcomes(REPORT))
    assert row.verdict == verdict
    assert reason in row.reason


def test_what_is_run() -> None:
    one = Attack("p", "w", "h", "s", ("a::t[1]", "a::u[1]", "a::v"), (SELF, "a::t"))
    assert wanted([one, one]) == ["a::u[1]", "a::v", "a::t"]
    assert cases("a::t", {"a::t[1]": Outcome("passed"), "a::tt": Outcome("failed")}) == [Outcome("passed")]
