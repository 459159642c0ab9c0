"""Each case of the table of `make scenario-approvals`, and that a case that goes wrong is told."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from ledger.audit.audit import export, verify
from ledger.manifests.types import Rule
from ledger.policies.decision import Decision
from ledger.transactions import CancelDeployment
from ledger.transition import deployments, lifecycle, timed
from tests.ledger import approval_scenario as scenario
from tests.ledger import release_scenario, scenario_base, update_scenario
from tests.ledger.chain_fixture import ChainWorld
from tests.ledger.scenario_base import Case, Play
from tests.ledger.world import BUDGET, CONSUMER, EXPERT, LEGAL, NODES, POLICIES, World, contract


def on_chain(monkeypatch: pytest.MonkeyPatch, chain: Callable[[], ChainWorld]) -> None:
    """Plays are on chains with blocks; what they check on the way `test_case` does, on a plain state."""
    for module in (scenario, scenario_base, update_scenario, release_scenario):
        monkeypatch.setattr(module, "World", chain)
        monkeypatch.setattr(module, "check", lambda state, now_ms: None, raising=False)


@pytest.mark.parametrize("found", scenario.CASES, ids=lambda found: found.name)
def test_case(found: Case) -> None:
    """[A2] [A5] [A7] [D7] [D8] [D9]"""
    assert found.play() == found.expected


def test_no_cancel_without_consent() -> None:
    """[D7]"""
    world = World()
    world.add_nodes()
    deployment = world.running(contract(policies=replace(POLICIES, delete=Rule(role="legal"))))
    assert world.refused(CONSUMER, CancelDeployment(deployment, "")) == "cancel.not_approved"
    world.ok(LEGAL, world.decide(deployment, LEGAL, "legal", "granted", "delete"))
    world.ok(LEGAL, world.decide(deployment, LEGAL, "legal", "revoked", "delete"))
    assert world.refused(CONSUMER, CancelDeployment(deployment, "")) == "cancel.not_approved"


def test_a_wrong_case_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = Case("wrong", "approved", lambda: "awaiting_approval")
    monkeypatch.setattr(scenario, "CASES", [wrong])
    assert scenario.main() == 1
    assert "<-- WRONG" in capsys.readouterr().out


@pytest.mark.parametrize("found", scenario.CASES, ids=lambda found: found.name)
def test_audits_agree_with_the_state_machine(found: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each deployment of each case, told from its transactions alone."""
    worlds: list[ChainWorld] = []

    def chain() -> ChainWorld:
        worlds.append(ChainWorld())
        return worlds[-1]

    on_chain(monkeypatch, chain)
    assert found.play() == found.expected
    for world in worlds:
        world.run()
        world.run()
        deployments = [key[-32:] for key, _ in world.state.scan(b"deployment/")]
        assert deployments
        for deployment in deployments:
            report = verify(export(world.store, deployment), world.genesis)
            assert report.ok, (report.rule, report.detail)


def audited(play: Play, world: ChainWorld) -> str:
    world.run()
    world.run()
    return verify(export(world.store, play.id), world.genesis).rule


def test_audits_find_a_ledger_that_cancelled_without_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    world = ChainWorld()
    on_chain(monkeypatch, lambda: world)
    play = Play(POLICIES.deploy, running=True, delete=Rule(role="legal"))
    monkeypatch.setattr(deployments, "evaluate_act", lambda deal, act: Decision(True, False, (), ()))
    world.ok(CONSUMER, CancelDeployment(play.id, ""))
    assert audited(play, world) == "audit.cancelled"


def test_audits_let_who_holds_a_slot_begin_while_it_runs_on() -> None:
    """[D8] Claimed before the approval was lost."""
    world = ChainWorld()
    world.add_nodes()
    deployment = world.ordered(contract(policies=replace(POLICIES, run_on_s=60)))
    world.approve(deployment)
    node = world.claimed(deployment, "web/0", [NODES[0]])
    world.ok(EXPERT, world.decide(deployment, EXPERT, "it-expert", "revoked"))
    assert world.deployment(deployment).lost_ms
    world.report(deployment, "web/0", node, "fetching", "verified", "running")
    world.run()
    world.run()
    report = verify(export(world.store, deployment), world.genesis)
    assert report.ok, (report.rule, report.detail)


def test_audits_find_a_ledger_that_let_it_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """[D8] Work that began more than a minute after it had to stop."""
    world = ChainWorld()
    on_chain(monkeypatch, lambda: world)
    rule = Rule(all=(Rule(role="budget"), Rule(role="it-expert")))
    play = Play(rule, run_on_s=60)
    for key in (BUDGET, EXPERT):
        play.sign(key)
    world.claimed(play.id, "web/0", [NODES[0]])
    world.report(play.id, "web/0", NODES[0], "fetching", "verified")
    monkeypatch.setattr(timed, "run_on_over", lambda deal: lifecycle.regain(deal))
    play.sign(EXPERT, "revoked")
    play.renew(150)
    world.report(play.id, "web/0", NODES[0], "running")
    assert audited(play, world) == "audit.not_approved"
