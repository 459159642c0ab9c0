"""The model of consensus (formal/): its two forms agree, and production cores do only what it allows."""

from __future__ import annotations

import json
import pathlib
from dataclasses import replace

import pytest

from formal.instances import BROKEN, COUNTED, PROTOCOL, Instance
from formal.model import Model, State
from formal.run import RESULTS, title
from formal.tlc import CACHE, ToolMissing, check, jar
from tests.consensus.model_sim import ModelEpochWorld, Modelled, ModelWorld
from tests.sim.mutants import MUTANTS, scenarios

RECORDED: dict[str, dict[str, object]] = json.loads(RESULTS.read_text())["instances"]
STATES_MAX = 8_000  # of what is counted again in every test run

# Hand-broken cores and shells of the simulator whose first wrong step the model must forbid.
UNSAFE = (
    "final_after_skip",
    "final_without_notar_certificate",
    "accepts_second_proposal",
    "parent_not_proved",
    "forgets_notar_at_restart",
    "never_persists",
    "sends_before_persist",
)


def count(instance: Instance) -> int:
    """Distinct states, by breadth."""
    model = Model(instance)
    seen: set[State] = {model.start()}
    front = list(seen)
    while front:
        found = {after for state in front for after in model.successors(state)} - seen
        seen |= found
        front = list(found)
    return len(seen)


def _states(instance: Instance) -> int:
    states = RECORDED[title(instance)]["states"]
    assert isinstance(states, int)
    return states


@pytest.mark.parametrize(
    "instance",
    [i for i in COUNTED if not i.is_deep and _states(i) <= STATES_MAX],
    ids=lambda instance: instance.name,
)
def test_both_forms_have_the_same_states(instance: Instance) -> None:
    """The transliteration reaches as many states as TLC found, also with one rule left out."""
    assert count(instance) == _states(instance)


def test_recorded_results_are_whole() -> None:
    """What TLC must find is in results.json: the protocol holds, each broken rule is refuted."""
    for instance in PROTOCOL:
        if not instance.is_deep:
            recorded = RECORDED[title(instance)]
            assert recorded["is_complete"] and recorded["violated"] is None
    for instance in (i for i in BROKEN if not i.is_deep):
        assert RECORDED[title(instance)]["violated"] in instance.refutes, title(instance)


@pytest.mark.skipif(not list(CACHE.glob("*.jar")), reason="TLC is not here: make model fetches it")
def test_tlc_holds_and_refutes() -> None:
    """The checker itself, on the smallest instance and with a rule left out."""
    try:
        jar()
    except ToolMissing as missing:
        pytest.skip(str(missing))
    small = PROTOCOL[0]
    assert check(small, timeout_s=120).is_complete
    broken = replace(small, name="test: two Notars", broken=frozenset({"two_notars"}))
    assert check(broken, timeout_s=120).violated in ("OneNotarized", "NoOffence")


@pytest.mark.parametrize("seed", [2_000, 2_003])
def test_production_core_follows_the_model(seed: int) -> None:
    """Each vote, certificate, restart and commit of a simulated network is a step of the model."""
    world = ModelWorld(seed)
    assert world.run().violations == []
    steps = world.checker(Modelled).replay.steps
    assert min(steps[kind] for kind in ("notar", "final", "send", "certificate", "commit")) > 100


@pytest.mark.parametrize("seed", [1, 2])
def test_production_core_follows_the_model_over_epochs(seed: int) -> None:
    """The same while the validator set changes: no vote of one epoch counts in another, and nothing above a
    boundary is committed."""
    world = ModelEpochWorld(seed)
    assert world.run().violations == []
    replay = world.checker(Modelled).replay
    assert len(replay.model.total) > 1, "no epoch ended"
    assert replay.steps["commit"] > 50


@pytest.mark.parametrize("name", UNSAFE)
def test_model_forbids_what_broken_cores_do(name: str) -> None:
    """A core or shell with one rule left out takes a step that the model does not have."""
    mutant = next(m for m in MUTANTS if m.variant.name == name)
    for seed, scenario in scenarios(mutant):
        world = ModelWorld(seed, mutant.variant, scenario=scenario)
        world.stop_on = frozenset({"Modelled"})
        if any(checker == "Modelled" for checker, _ in world.run().violations):
            return
    pytest.fail("the model allows all that this one does")


def test_model_text_names_what_python_names() -> None:
    """Each rule that can be left out is in both forms."""
    here = pathlib.Path(RESULTS).parent
    tla, python = (here / "Simplex.tla").read_text(), (here / "model.py").read_text()
    rules = {rule for instance in (*BROKEN, *COUNTED) for rule in instance.broken}
    assert [rule for rule in sorted(rules) if f'"{rule}"' not in tla or f'"{rule}"' not in python] == []
