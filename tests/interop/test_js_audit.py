"""Audit files that Node.js checks by `docs/wire.md` alone: no packages, no network, none of our code."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from ledger.audit import export, verify
from ledger.audit_file import AuditFile, decode_audit
from ledger.codec import encode
from ledger.manifest_types import Policies, Rule
from ledger.policy import Decision
from ledger.policy_types import Weight
from tests.interop.build import NODE_MAJOR
from tests.ledger.chain_fixture import ChainWorld
from tests.ledger.test_audit import site_life
from tests.ledger.test_audit_updates import updated_life
from tests.ledger.test_updates import running
from tests.ledger.test_updates import site as updated_site
from tests.ledger.world import BUDGET, EXPERT, LEGAL, contract

PROGRAM = Path(__file__).resolve().parent / "js" / "src" / "verify_audit.js"


def node() -> str:
    """Node.js as it is installed."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed")
    said = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    if int(said.lstrip("v").partition(".")[0]) < NODE_MAJOR:
        pytest.skip(f"Node.js {NODE_MAJOR} or newer is needed, here is {said.strip()}")
    return found


def judged(folder: Path, world: ChainWorld, files: Sequence[bytes]) -> list[dict[str, Any]]:
    """What the program says of each file."""
    genesis = folder / "genesis.json"
    genesis.write_bytes(world.genesis.encode())
    paths = []
    for number, data in enumerate(files):
        path = folder / f"{number}.audit"
        path.write_bytes(data)
        paths.append(str(path))
    command = [node(), str(PROGRAM), str(genesis), *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert not done.stderr, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == (0 if all(report["ok"] for report in found) else 1)
    return found


@pytest.fixture(scope="module")
def site() -> tuple[ChainWorld, bytes, bytes]:
    world, deployment = site_life()
    return world, deployment, export(world.store, deployment)


def test_it_verifies_a_whole_life(tmp_path: Path, site: tuple[ChainWorld, bytes, bytes]) -> None:
    world, deployment, data = site
    (report,) = judged(tmp_path, world, [data])
    ours = verify(data, world.genesis)
    assert report["ok"] and ours.ok, report
    record = world.deployment(deployment)
    assert (report["deployment"], report["contract"]) == (deployment.hex(), "site@1.0.0")
    assert (report["status"], report["manifest"]) == ("cancelled", record.manifest.hex())
    assert (report["spent"], report["funded"]) == (record.spent, record.funded)
    assert report["approved_ms"] == record.approved_ms and report["policy"] == "satisfied"
    nobody = {"delete": "none", "release": "none"}
    assert report["now"] == {"deploy": "satisfied", "signoff": "satisfied", **nobody}
    assert report["approvals"] == 4 and report["records"] == len(decode_audit(data).records)


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
    report, *refused = judged(tmp_path, world, [data, *map(encode, lies)])
    assert report["ok"], report
    assert report["contract"] == "site@2.0.0"
    found = [(update["number"], update["status"], update["policy"]) for update in report["updates"]]
    assert found == [
        (1, "cancelled", ["open"]),
        (2, "reverted", ["satisfied"]),
        (3, "done", ["satisfied", "satisfied"]),
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
    (report,) = judged(tmp_path, world, [export(world.store, deployment)])
    assert report.get("rule") == "audit.update_approval"


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
    reports = judged(tmp_path, world, changed)
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
    reports = judged(tmp_path, world, [encode(lie) for lie in lies.values()])
    assert {rule: report.get("rule") for rule, report in zip(lies, reports, strict=True)} == {
        rule: rule for rule in lies
    }
    shorter = replace(file, blocks=(*file.blocks[:3], *file.blocks[4:]))  # without an approval's block
    (report,) = judged(tmp_path, world, [encode(shorter)])
    assert not report["ok"]


RULES = {
    "satisfied": Rule(weigh=(Weight(weight=2, role="budget"), Weight(weight=1, role="legal")), count=3),
    "open": Rule(all=(Rule(role="budget"), Rule(role="it-expert"))),
    "open by exclusion": Rule(any=(Rule(role="legal"), Rule(role="it-expert")), exclude=("role:legal",)),
    "satisfied by key": Rule(any=(Rule(key=EXPERT.public.hex()), Rule(key=LEGAL.public.hex()))),
    "not evaluated: ordered": Rule(all=(Rule(role="budget"), Rule(role="legal")), ordered=True),
}


@pytest.mark.parametrize("wanted", RULES)
def test_it_evaluates_policies(tmp_path: Path, wanted: str) -> None:
    """Budget and legal sign; the ledger says approved when, and only when, the program says satisfied."""
    world = ChainWorld()
    source = contract(policies=Policies(deploy=RULES[wanted], signoff=None))
    deployment = world.ordered(source)
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget"))
    world.ok(LEGAL, world.decide(deployment, LEGAL, "legal"))
    world.run()
    world.run()
    (report,) = judged(tmp_path, world, [export(world.store, deployment)])
    assert report["ok"], report
    state = wanted.partition(" by ")[0]
    assert report["policy"] == state
    if not state.startswith("not"):
        assert (world.deployment(deployment).status == "approved") == (state == "satisfied")
