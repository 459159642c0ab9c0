"""Each case of the table of `make scenario-approvals`, and that a case that goes wrong is told."""

import pytest
from msgspec.structs import replace

from ledger.manifest_types import Rule
from ledger.transactions import CancelDeployment
from tests.ledger import approval_scenario as scenario
from tests.ledger.world import CONSUMER, LEGAL, POLICIES, World, contract


@pytest.mark.parametrize("found", scenario.CASES, ids=lambda found: found.name)
def test_case(found: scenario.Case) -> None:
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
    wrong = scenario.Case("wrong", "approved", lambda: "awaiting_approval")
    monkeypatch.setattr(scenario, "CASES", [wrong])
    assert scenario.main() == 1
    assert "<-- WRONG" in capsys.readouterr().out
