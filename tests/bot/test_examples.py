"""The contracts under examples/ build, plan and give a sensible bill; their scripts do what they say."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bot.planner import Draft, make_plan
from bot.view import Template
from ledger.contracts.types import Contract
from ledger.keys import Key
from ledger.limits import MIB
from ledger.records import Node
from ledger.transactions import Price
from node.api.bot_seam import PlanRequest
from node.client.build import build
from tests.executor.oci_images import site_image
from tests.ledger.world import AUTHOR, CONSUMER, key_of

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BUSYBOX = Path("/bin/busybox")
CREDIT = 1_000_000
OF_CONTAINERS = dict.fromkeys(("volumes", "oci.sealed-image", "oci.health-exec"), "enforced")
pytestmark = pytest.mark.skipif(not BUSYBOX.is_file(), reason="the examples are made of /bin/busybox")


def market() -> list[Node]:
    """Four farms in each of six countries, a node each, with different prices."""
    nodes = []
    for country in ("BE", "CH", "DE", "LU", "NL", "FR"):
        for n in range(4):
            price = Price(36_000 + 2_000 * n, 8_000 + 500 * n, 900, 200)
            capacity = (16_000, 65_536 * MIB, 512 * 1024 * MIB, 4096 * 1024 * MIB)
            nodes.append(
                Node(
                    key_of(f"{country} {n}").public, f"{country.lower()}-{n}", country, *capacity, 0, 0, 0, 0,
                    price, ("sandbox", "oci"), OF_CONTAINERS, "/ip4/127.0.0.1/tcp/1", 1 << 52, 0, 0,
                )
            )  # fmt: skip
    return nodes


@cache
def built(name: str) -> Contract:
    folder = Path(os.environ["PYTEST_EXAMPLES"]) / name
    if name == "site-image":
        return build(site_image(EXAMPLES.parent, folder), folder / "out").contract
    shutil.copytree(EXAMPLES / name, folder / "source", dirs_exist_ok=True)
    return build(folder / "source", folder / "out").contract


@pytest.fixture(autouse=True)
def where(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_EXAMPLES", str(tmp_path_factory.mktemp("examples")))


def holder(role: str) -> Key:
    return key_of(f"holder of {role}")


def planned(name: str, **answers: Any) -> Draft:
    source = built(name)
    request = PlanRequest(
        contract=name,
        parameters=answers,
        roles={role.name: (holder(role.name).public.hex(),) for role in source.roles},
    )
    template = Template(bytes(32), AUTHOR.public, source)
    return make_plan(template, request, CONSUMER.public, 10**12, market(), 0)


def bill(name: str, **answers: Any) -> int:
    """Micro-credits of a plan that can be ordered as it is; printed by line."""
    plan = planned(name, **answers).plan
    assert plan.missing == []
    for line in plan.lines:
        print(f"{name:10} {line.slot:14} {line.farm:6} {line.country} {line.cost / CREDIT:12.4f}")
    total = plan.cost + plan.fee
    print(f"{name:10} {'fee':24} {plan.fee / CREDIT:12.4f}")
    print(f"{name:10} {'total, of escrow':24} {total / CREDIT:12.4f} {plan.escrow / CREDIT:10.2f}")
    assert plan.cost == sum(line.cost for line in plan.lines)
    assert plan.escrow // 20 < total <= plan.escrow, "the budget has nothing to do with the price"
    return total


def test_an_archive_in_switzerland() -> None:
    plan = planned("archive").plan
    assert {line.country for line in plan.lines} == {"CH"}
    copies = [line.farm for line in plan.lines if line.slot.startswith("copy/")]
    assert len(copies) == len(set(copies)) == 3
    assert bill("archive") < bill("archive", years=2) < bill("archive", years=2, copies=4)
    assert 30 * CREDIT < bill("archive") < 360 * CREDIT
    assert bill("archive") < bill("archive", room="100GiB") < 2_000 * CREDIT
    assert planned("archive", copies=5).plan.missing  # CH has four farms


def test_a_crm_for_100_users() -> None:
    draft = planned("crm", users=100)
    assert draft.manifest is not None
    web = draft.manifest.workloads[1]
    assert (web.replicas, web.resources.cpu_millis, web.resources.memory_bytes) == (2, 500, 114 * MIB)
    assert 20 * CREDIT < bill("crm") == bill("crm", users=100) < 100 * CREDIT
    assert bill("crm", users=10) < bill("crm", users=100) < bill("crm", users=200)
    assert bill("crm", months=2) > bill("crm")


def test_feature_x_of_a_banking_app() -> None:
    plan = planned("bank").plan
    slots = [line.slot.partition("/")[0] for line in plan.lines]
    assert [slots.count(name) for name in ("acceptance", "stable", "feature-x")] == [3, 5, 1]
    stable = {line.node for line in plan.lines if line.slot.startswith("stable/")}
    assert stable.isdisjoint({line.node for line in plan.lines if line.slot.startswith("feature-x/")})
    assert {line.country for line in plan.lines} <= {"BE", "DE", "LU", "NL"}
    assert 20 * CREDIT < bill("bank") < 210 * CREDIT
    assert bill("bank", tier="silver") < bill("bank") < bill("bank", days=28)


def test_ai_data_mining() -> None:
    draft = planned("ai-mining")
    assert draft.manifest is not None and draft.manifest.workloads[0].agree == 2
    assert 100_000 < bill("ai-mining") < CREDIT
    assert bill("ai-mining", witnesses=2) < bill("ai-mining")
    assert bill("ai-mining", rows=2_000_000) > bill("ai-mining", rows=200_000) > bill("ai-mining")


@pytest.mark.parametrize("name", ["site", "mining", "site-image"])
def test_the_first_two_and_one_in_an_image(name: str) -> None:
    assert 0 < bill(name) < 10 * CREDIT


def test_a_site_in_an_image_goes_to_nodes_that_check_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert planned("site-image").plan.missing == []
    monkeypatch.delitem(OF_CONTAINERS, "oci.health-exec")
    assert planned("site-image").plan.missing


def run(name: str, script: str, result: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"RESULT": str(result)} | {
        key: str(EXAMPLES / name / value) if key.isupper() and value[:2] == "./" else value
        for key, value in variables.items()
    }
    command = [str(BUSYBOX), "sh", str(EXAMPLES / name / script)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_the_inventory_names_each_document(tmp_path: Path) -> None:
    assert run("archive", "inspect.sh", tmp_path, DOCUMENTS="./documents").returncode == 0
    rows = [line.split("\t") for line in (tmp_path / "inventory.tsv").read_text().splitlines()]
    assert [row[2] for row in rows] == sorted(p.name for p in (EXAMPLES / "archive/documents").iterdir())


def test_an_archives_hard_disk_is_mended(tmp_path: Path) -> None:
    """What is kept there is what was approved, also when the disk changed it."""
    (tmp_path / "d" / "deep").mkdir(parents=True)
    (tmp_path / "d" / "one").write_text("one\n")
    (tmp_path / "d" / "deep" / "a b").write_text("two\n")
    (tmp_path / "kept").mkdir()
    where = {"DOCUMENTS": str(tmp_path / "d"), "ARCHIVE": str(tmp_path / "kept")}
    assert run("archive", "keep.sh", tmp_path, **where).stdout == ""
    (tmp_path / "kept" / "deep" / "a b").write_text("twx\n")
    ended = run("archive", "keep.sh", tmp_path, **where)
    assert (ended.returncode, ended.stdout) == (0, "mended deep/a b\n")
    kept = {p.name: p.read_text() for p in tmp_path.glob("kept/**/*") if p.is_file()}
    assert kept == {"one": "one\n", "a b": "two\n"}


def test_broken_customer_data_is_found(tmp_path: Path) -> None:
    assert run("crm", "check.sh", tmp_path, DATA="./data").returncode == 0
    assert (tmp_path / "report.tsv").read_text() == "customers\t3\n"
    (tmp_path / "customers.tsv").write_text("id\tname\nc1\ta\nc1\tb\nc2\n")
    found = run("crm", "check.sh", tmp_path, DATA=str(tmp_path))
    assert found.returncode == 1
    assert "c1 is there twice" in found.stderr and "1 columns, 2 wanted" in found.stderr


def test_the_acceptance_test_can_fail(tmp_path: Path) -> None:
    good = {"STABLE": "./stable", "FEATURE": "./feature-x"}
    assert run("bank", "acceptance.sh", tmp_path, **good).returncode == 0
    assert "failed" not in (tmp_path / "acceptance.tsv").read_text()
    swapped = {"STABLE": "./feature-x", "FEATURE": "./stable"}
    assert run("bank", "acceptance.sh", tmp_path, **swapped).returncode != 0
    assert (tmp_path / "acceptance.tsv").read_text().count("failed") == 2


def test_k_means_finds_the_three_groups_that_are_in_the_table(tmp_path: Path) -> None:
    wanted = {"DATA": "./", "APP": "./", "CLUSTERS": "3", "ROUNDS": "20"}
    assert run("ai-mining", "mine.sh", tmp_path, **wanted).returncode == 0
    first = (tmp_path / "clusters.tsv").read_bytes()
    groups = [line.split("\t")[1] for line in first.decode().splitlines()]
    assert len({tuple(groups[n::3]) for n in range(3)}) == 3  # every third row is of the same kind
    assert all(len(set(groups[n::3])) == 1 for n in range(3))
    assert run("ai-mining", "mine.sh", tmp_path, **wanted).returncode == 0
    assert (tmp_path / "clusters.tsv").read_bytes() == first
