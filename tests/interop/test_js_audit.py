"""Audit files that Node.js checks by `docs/wire.md` alone: no packages, no network, none of our code."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from msgspec.structs import replace

from ledger.audit.audit import export, verify
from ledger.audit.file import AuditFile, decode_audit
from ledger.codec import encode
from ledger.contracts.types import Parameter
from ledger.manifests.expansion import decode_manifest, expand
from ledger.manifests.types import Policies, Rule, manifest_digest
from ledger.policies.decision import Decision
from ledger.policies.types import Auto, Weight
from ledger.transactions import OrderDeployment
from tests.interop.js_audit import judged
from tests.ledger.chain_fixture import ChainWorld
from tests.ledger.test_audit import site_life
from tests.ledger.test_audit_updates import updated_life
from tests.ledger.test_updates import running
from tests.ledger.test_updates import site as updated_site
from tests.ledger.world import AUTHOR, BOT, BUDGET, CONSUMER, EXPERT, LEGAL, STRANGER, contract, service


@pytest.fixture(scope="module")
def site() -> tuple[ChainWorld, bytes, bytes]:
    world, deployment = site_life()
    return world, deployment, export(world.store, deployment)


def test_it_verifies_a_whole_life(tmp_path: Path, site: tuple[ChainWorld, bytes, bytes]) -> None:
    world, deployment, data = site
    (report,) = judged(tmp_path, world.genesis, [data])
    ours = verify(data, world.genesis)
    assert report["ok"] and ours.ok, report
    record = world.deployment(deployment)
    assert (report["deployment"], report["contract"]) == (deployment.hex(), "site@1.0.0")
    assert (report["status"], report["manifest"]) == ("cancelled", record.manifest.hex())
    assert (report["spent"], report["funded"]) == (record.spent, record.funded)
    assert report["approved_ms"] == record.approved_ms and report["policy"] == "satisfied"
    nobody = {"delete": "none", "release": "none"}
    assert report["now"] == {"deploy": "satisfied", "signoff": "satisfied", **nobody}
    assert report["approvals"] == record.decisions == 4 and report["records"] == len(
        decode_audit(data).records
    )


def test_it_verifies_updates(tmp_path: Path) -> None:
    """One cancelled, one reverted, one done with other signers; and what was left out of it."""
    world, deployment = updated_life()
    world.run()
    world.run()
    data = export(world.store, deployment)
    file = decode_audit(data)
    wish = next(n for n, block in enumerate(file.blocks) if b"deployment.update" in block.txs[0].raw)
    grant = max(n for n, block in enumerate(file.blocks) if b"approval.decide" in block.txs[0].raw)
    lies = [
        replace(file, blocks=file.blocks[:wish] + file.blocks[wish + 1 :]),
        replace(file, blocks=file.blocks[:grant] + file.blocks[grant + 1 :]),
        replace(file, records=(file.records[0], *file.records[2:])),
    ]
    report, *refused = judged(tmp_path, world.genesis, [data, *map(encode, lies)])
    assert report["ok"], report
    assert report["contract"] == "site@2.0.0"
    found = [(update["number"], update["status"], update["policy"]) for update in report["updates"]]
    assert found == [
        (1, "cancelled", "open"),
        (2, "reverted", "satisfied"),
        (3, "done", "satisfied"),
    ]
    assert report["now"]["deploy"] == "satisfied"
    assert [one["rule"] for one in refused] == ["audit.order", "audit.record", "audit.record"]


def test_it_finds_updates_that_nobody_approved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[U3] A ledger that lets every update through."""
    world = ChainWorld()
    world.add_nodes()
    deployment = running(world)
    yes = Decision(True, False, (), (), 0)
    monkeypatch.setattr("ledger.transition.approvals.judge_change", lambda *_: yes)
    world.updated(deployment, updated_site("1.1.0"))
    world.run()
    world.run()
    (report,) = judged(tmp_path, world.genesis, [export(world.store, deployment)])
    assert report.get("rule") == "audit.update_approval"


def test_it_works_out_how_long_a_service_runs_on(tmp_path: Path) -> None:
    """[E9] `available` as a number, by reference to a parameter that is given or left out, and worked out:
    each is in the manifest whose digest was signed."""
    world = ChainWorld()
    world.add_nodes()
    asked = {
        "plain": 90,
        "given": "${given}",
        "left-out": "${left_out}",
        "worked-out": "${= given * 2 + MINUTE}",
    }
    source = contract(
        *(service(name=name, replicas=1, available_s=value) for name, value in asked.items()),
        parameters=tuple(
            Parameter(name=name, type="duration", default=3_600) for name in ("given", "left_out")
        ),
        budget=50_000_000,
    )
    contract_id, parameters = world.publish(source), {"given": "5m"}
    made = expand(source, contract_id, AUTHOR.public, CONSUMER.public, parameters, {})
    budget = decode_manifest(made).terms.budget
    wish = OrderDeployment(contract_id, parameters, {}, manifest_digest(made), budget, BOT.public)
    deployment = world.ok(CONSUMER, wish).id
    world.approve(deployment)
    world.run()
    found = [workload.available_s for workload in decode_manifest(made).workloads]
    assert found == [90, 300, 3_600, 660]
    (report,) = judged(tmp_path, world.genesis, [export(world.store, deployment)])
    assert report["ok"] and report["manifest"] == manifest_digest(made).hex(), report


def test_it_refuses_any_changed_byte(tmp_path: Path, site: tuple[ChainWorld, bytes, bytes]) -> None:
    """150 of them, spread over the file."""
    world, _, data = site
    rng = random.Random(7)
    places = sorted({*range(40), *range(len(data) - 20, len(data)), *rng.sample(range(len(data)), 90)})
    changed = []
    for place in places:
        file = bytearray(data)
        file[place] ^= rng.randrange(1, 256)
        changed.append(bytes(file))
    reports = judged(tmp_path, world.genesis, changed)
    taken = [place for place, report in zip(places, reports, strict=True) if report["ok"]]
    assert taken == [], f"of {len(data)} bytes these do not matter to it"


def test_it_refuses_what_was_left_out_or_exchanged(
    tmp_path: Path, site: tuple[ChainWorld, bytes, bytes]
) -> None:
    world, _, data = site
    file = decode_audit(data)
    lies: dict[str, AuditFile] = {
        "audit.format": replace(file, format="gridpact-audit/1"),
        "audit.foreign_chain": replace(file, chain_id="elsewhere"),
        "audit.incomplete": replace(file, records=file.records[:-1]),
        "audit.surplus": replace(file, records=(*file.records, file.records[-1])),
        "audit.record": replace(file, records=(*file.records[1:], file.records[0])),
        "audit.order": replace(file, blocks=(file.blocks[1], file.blocks[0], *file.blocks[2:])),
        "audit.inclusion": replace(
            file, blocks=(replace(file.blocks[0], txs=file.blocks[1].txs), *file.blocks[1:])
        ),
    }
    reports = judged(tmp_path, world.genesis, [encode(lie) for lie in lies.values()])
    assert {rule: report.get("rule") for rule, report in zip(lies, reports, strict=True)} == {
        rule: rule for rule in lies
    }
    shorter = replace(file, blocks=(*file.blocks[:3], *file.blocks[4:]))  # without an approval's block
    (report,) = judged(tmp_path, world.genesis, [encode(shorter)])
    assert not report["ok"]


RULES = {
    "satisfied": Rule(weigh=(Weight(weight=2, role="budget"), Weight(weight=1, role="legal")), count=3),
    "rejected": Rule(all=(Rule(role="budget"), Rule(role="it-expert"))),
    "rejected by exclusion": Rule(any=(Rule(role="legal"), Rule(role="it-expert")), exclude=("role:legal",)),
    "satisfied by key": Rule(any=(Rule(key=EXPERT.public.hex()), Rule(key=LEGAL.public.hex()))),
    "satisfied by order": Rule(all=(Rule(role="budget"), Rule(role="legal")), ordered=True),
    "open by order": Rule(all=(Rule(role="legal"), Rule(role="budget")), ordered=True),
    "open by waiting": Rule(role="legal", wait_s=60),
    "satisfied by waiting": Rule(role="budget", wait_s=2),
    "satisfied by price": Rule(any=(Rule(auto=Auto(budget=5_000_000)), Rule(role="it-expert"))),
    "rejected by price": Rule(any=(Rule(auto=Auto(budget=1)), Rule(role="it-expert"))),
    "rejected by veto": Rule(role="budget", veto=("it-expert",)),
}


@pytest.mark.parametrize("wanted", RULES)
def test_it_evaluates_policies(tmp_path: Path, wanted: str) -> None:
    """The expert rejects, budget and legal sign; the ledger comes to the same as the program."""
    world = ChainWorld()
    source = contract(policies=Policies(deploy=RULES[wanted], signoff=None))
    deployment = world.ordered(source)
    world.ok(STRANGER, world.decide(deployment, EXPERT, "it-expert", "rejected"))
    if world.deployment(deployment).status == "awaiting_approval":
        world.ok(BUDGET, world.decide(deployment, BUDGET, "budget"))
        world.ok(LEGAL, world.decide(deployment, LEGAL, "legal"))
    world.wait(5_000)
    (report,) = judged(tmp_path, world.genesis, [export(world.store, deployment)])
    assert report["ok"], report
    state = wanted.partition(" by ")[0]
    assert report["policy"] == state
    status = {"satisfied": "approved", "open": "awaiting_approval", "rejected": "rejected"}
    assert world.deployment(deployment).status == status[state]
