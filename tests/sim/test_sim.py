"""A short run of the simulator in every test run; `make sim` has the long one."""

from __future__ import annotations

import functools
import os
import pathlib
import subprocess
import sys

import pytest
import structlog

from tests.sim import epochs
from tests.sim.coverage import Coverage
from tests.sim.mutants import MakesMoney
from tests.sim.offences import Forger
from tests.sim.run import EXCERPT_LINES, excerpt, main, world
from tests.sim.scenario import KINDS, LIES, make
from tests.sim.world import Result, Variant, World, run

HERE = pathlib.Path(__file__).parent


def regressions() -> list[int]:
    """Seeds named in regressions.txt."""
    lines = (HERE / "regressions.txt").read_text().splitlines()
    return [int(line.split()[0]) for line in lines if line and not line.startswith("#")]


SEEDS = range(2_000, 2_012)
WITH_TAILS = (3_005, 3_002)  # Final votes lost at a boundary: one of them does
once = functools.cache(run)


@pytest.mark.parametrize("seed", SEEDS)
def test_seed(seed: int) -> None:
    """No checker complains, and something was committed."""
    result = once(seed)
    assert result.violations == []
    assert result.height >= 3


def test_every_rule_fires() -> None:
    """The seeds above test all numbered rules; the table says how often each one fired."""
    coverage = Coverage()
    for seed in SEEDS:
        coverage.add(once(seed).coverage)
    for seed in WITH_TAILS:
        if coverage.never():
            coverage.add(epochs.run(seed).coverage)
    assert coverage.never() == []
    assert coverage.refusals["consensus.vote.signature"] > 0, "nobody forged anything"
    assert "rule 4 final" in coverage.table() and coverage.table().endswith("never fired: none")


@pytest.mark.parametrize("seed", regressions())
def test_regression(seed: int) -> None:
    """A seed that once found a fault finds none any more."""
    assert world(seed).run().violations == []


def test_same_seed_same_run() -> None:
    """Two runs of a seed agree in every event; another seed differs."""
    first, again, other = run(7), run(7), run(8)
    assert (first.trace, first.events, first.height) == (again.trace, again.events, again.height)
    assert first.trace != other.trace


@pytest.mark.parametrize("seed", [9, 3018])
def test_same_run_in_every_process(seed: int) -> None:
    """Nothing depends on the order in which a process hashes strings: a seed is the same for everybody. In
    3018 a node takes back several batches of its votes after a crash."""
    script = f"from tests.sim.run import world; r = world({seed}).run(); print(r.trace, r.events, r.height)"
    shown = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=HERE.parent.parent,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        shown.add(done.stdout.splitlines()[-1])
    result = world(seed).run()
    assert shown == {f"{result.trace} {result.events} {result.height}"}


def test_real_signatures() -> None:
    """The same network with Ed25519 everywhere: same messages, same chain length, no complaint."""
    result, fast = run(4, ed25519=True), run(4)
    assert result.violations == []
    assert (result.events, result.height) == (fast.events, fast.height)


def test_seeds_cover_the_faults() -> None:
    """The first hundred scenarios hold every kind of fault, twins with every lie, and uneven weights."""
    scenarios = [make(seed) for seed in range(200)]
    assert {fault.kind for s in scenarios for fault in s.faults} == {*KINDS, "outage"}
    assert {s.lie for s in scenarios if s.twin is not None} == set(LIES)
    assert {len(s.weights) for s in scenarios} == {4, 5, 6, 7}
    assert any(len(set(s.weights)) > 1 for s in scenarios)
    assert any(s.always_down for s in scenarios)


def test_faulty_weight_is_tolerated() -> None:
    """No scenario has more weight down for ever, or Byzantine, than a third allows."""
    for seed in range(300):
        scenario = make(seed)
        bad = set(scenario.always_down) | ({scenario.twin} if scenario.twin is not None else set())
        assert 3 * sum(scenario.weights[i] for i in bad) < sum(scenario.weights)


def test_twins_are_found_out() -> None:
    """Seeds whose twins double-voted visibly: every honest node records them, and them alone."""
    seen = 0
    for seed in (s for s in range(60) if make(s).twin is not None):
        world = World(seed)
        assert world.run().violations == []
        seen += any(found == {world.scenario.twin} for found in world.offences.seen.values())
        if seen >= 3:
            return
    pytest.fail("no twin was seen to vote twice")


def test_forged_accusations_are_refused() -> None:
    """A Byzantine member carries in votes that are compatible, and some that nobody signed."""
    for seed in [s for s in range(60) if make(s).twin is not None][:3]:
        world = World(seed, Variant("forger", node=Forger))
        assert world.run().violations == []
        refused = {value for node in world.honest() for _, value in node.store.state.scan(b"seen/")}
        assert {b"evidence.compatible", b"evidence.signature"} <= refused


def test_command_line_reports_a_violation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clean seeds exit 0 with the table; a violation exits 1 and names the command that replays it."""
    assert main(["--seed", "4", "--jobs", "1"]) == 0
    assert "simulated hours" in capsys.readouterr().out

    def broken(seed: int, ed25519: bool = False) -> Result:
        return Result(seed, [("Agreement", "made up")], events=1)

    monkeypatch.setattr("tests.sim.run.one", broken)
    assert main(["--seed", "9", "--jobs", "1"]) == 1
    assert "--seed 9 --trace" in capsys.readouterr().out


def test_a_seed_leaves_the_logs_as_they_were() -> None:
    """Seeds run without logs. Who runs one in a process of other tests gets the logs back after it."""
    before = structlog.get_config()
    main(["--seed", "4", "--jobs", "1"])
    assert structlog.get_config() == before


def test_a_violation_is_shown_with_what_went_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed that fails is run again, and told in words up to its first violation."""
    monkeypatch.setattr("tests.sim.run.world", lambda seed, _: World(seed, Variant("money", node=MakesMoney)))
    told = excerpt(4, False)
    assert "VIOLATION Money" in told[-1] and len(told) == EXCERPT_LINES
    assert any(" receive from " in line for line in told) and any(" Vote " in line for line in told)


def test_too_many_crashes_halt_and_heal() -> None:
    """A total outage stops commits for as long as it lasts, loses none, and ends."""
    seed = next(s for s in range(100) if any(f.kind == "outage" for f in make(s).faults))
    world = World(seed)
    result = world.run()
    assert result.violations == []
    assert result.faults["crash.outage"] >= 4
