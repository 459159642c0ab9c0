"""The page of an audit: all facts are on it, nothing foreign becomes markup, and a browser prints it."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
from msgspec.structs import replace

from ledger.audit.audit import export, verify
from ledger.audit.report import AuditReport
from ledger.contracts.types import Parameter
from ledger.policies.types import Auto, Rule, Weight
from ledger.policies.words import outline
from ledger.transactions import CancelDeployment
from node.client.amounts import credits_text
from node.web.audit_page import SHORT, audit_page, brief
from tests.ledger.chain_fixture import ChainWorld
from tests.ledger.world import BUDGET, CONSUMER, EXPERT, FARMERS, LEGAL, NODES, contract, service
from tests.node.test_web import HOSTILE, Page

DIGEST = "ab" * 32


@pytest.fixture(scope="module")
def life() -> tuple[ChainWorld, bytes]:
    """A site: a hostile comment, approved, run on two nodes, signed off, cancelled."""
    world = ChainWorld()
    world.add_nodes()
    deployment = world.ordered(contract())
    world.ok(LEGAL, world.decide(deployment, LEGAL, "legal", "rejected", comment=HOSTILE))
    world.approve(deployment)
    for name, node in (("web/0", NODES[0]), ("web/1", NODES[2])):
        world.claimed(deployment, name, [node])
        world.report(deployment, name, node, "fetching", "verified", "running")
    world.ok(BUDGET, world.decide(deployment, BUDGET, "budget", act="signoff"))
    world.ok(CONSUMER, CancelDeployment(deployment, "done"))
    world.run()
    world.run()
    return world, export(world.store, deployment)


@pytest.fixture(scope="module")
def report(life: tuple[ChainWorld, bytes]) -> AuditReport:
    world, data = life
    found = verify(data, world.genesis)
    found.require()
    return found


def test_all_facts_are_on_the_page(report: AuditReport) -> None:
    page, facts = Page(audit_page(report, DIGEST)), report.facts
    for text in (DIGEST, facts.deployment, facts.manifest, "satisfied", "Valid.", "2 farms: farm-a, farm-b"):
        assert text in page.text
    assert facts.policies["deploy"] == "role budget and any 1 of (role it-expert, role legal)"
    for _, signer in facts.decisions["deploy"].used:
        assert signer.hex() in page.text
    for check in report.checks:
        assert brief(check.detail) in page.text
    for row in facts.timeline:
        assert row.tx[:SHORT] in page.text
    for amount in (facts.spent, facts.refunded, facts.escrow, *(bill.amount for bill in facts.bills)):
        assert credits_text(amount) in page.text
    for held in facts.holdings:
        assert f"node of farm {held.farm}, {held.country}" in page.text
    for digest in facts.artifacts.values():
        assert digest in page.text


def words_of(report: AuditReport) -> str:
    """What a reader sees of the page, cell by cell."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", audit_page(report, DIGEST))).split())


def test_answers_and_changes_stand_in_their_units() -> None:
    """A lawyer knows no micro-credits. What only looks like a number stays as it was written."""
    asked = (
        Parameter(name="most", type="money", default=2_500_000),
        Parameter(name="longest", type="duration", default=7_200),
        Parameter(name="room", type="size", default=64 << 20),
        Parameter(name="code_s", type="string", default="007"),
    )
    world = ChainWorld()
    world.add_nodes()
    deployment = world.running(contract(service(replicas=1), parameters=asked))
    then = contract(service(replicas=1, recheck_s=90), parameters=asked, version="1.1.0")
    world.updated(deployment, then)
    world.run()
    world.run()
    found = verify(export(world.store, deployment), world.genesis)
    found.require()
    text = words_of(found)
    for words in (
        "parameter most 2.5 credits",
        "parameter longest 2 h",
        "parameter room 64 MiB",
        "parameter code_s 007",
        "workloads.web.recheck_s 30 s 1 min 30 s",
    ):
        assert words in text, words


def test_who_decided_what_is_said_in_words(report: AuditReport) -> None:
    """With the policy as a tree, and who fills each place of it."""
    text = words_of(report)
    legal, budget, expert = (f"{key.public.hex()[:SHORT]}…" for key in (LEGAL, BUDGET, EXPERT))
    for words in (
        f"legal {legal} rejects that the work begins and goes on legal",
        f"it-expert {expert} approves that the work begins and goes on it-expert",
        f"budget {budget} approves what was delivered budget",
        f"all of these: one signature of role budget — signed by budget {budget}",
        f"any 1 of these: one signature of role it-expert — signed by it-expert {expert} one signature",
        "Nobody had to sign for: consent to its end, release of its results.",
        "It was cancelled, as of block",
    ):
        assert words in text, words


def test_every_form_of_a_policy_is_a_line_of_its_tree() -> None:
    rule = Rule(
        all=(
            Rule(role="legal", count=2, exclude=("author",)),
            Rule(weigh=(Weight(weight=2, role="board"), Weight(weight=1, key="ab" * 32)), count=3),
            Rule(
                any=(Rule(key="cd" * 32, wait_s=3_600), Rule(auto=Auto(approved_within_s=60))),
                veto=("legal",),
            ),
        ),
        ordered=True,
    )
    assert [(line.depth, line.path, line.words, line.signs) for line in outline(rule)] == [
        (0, "", "all of these, one after the other:", False),
        (1, "all[0]", "2 signatures of role legal [not counting author]", True),
        (1, "all[1]", f"signatures that weigh 3 together, of role board 2, key {'ab' * 8} 1", True),
        (1, "all[2]", "any 1 of these: [unless vetoed by role legal]", False),
        (2, "all[2].any[0]", f"the signature of key {'cd' * 8} [after a wait of 1 h]", True),
        (
            2,
            "all[2].any[1]",
            "nobody when the same manifest was approved within 1 min before the order",
            False,
        ),
    ]
    assert outline(None) == ()


def test_digits_stand_in_walls_at_the_end_alone(report: AuditReport) -> None:
    """Above it a key or digest is its beginning, with a name where it has one; a time has its zone."""
    body = audit_page(report, DIGEST).partition("<body>")[2].partition("<h2>7. ")[0]
    shown = re.sub(r"<[^>]*>", " ", body)
    assert not re.search(r"[0-9a-f]{17}", shown)
    times = re.findall(r"\d\d:\d\d:\d\d(?: UTC)?", shown)
    assert len(times) > 20
    assert all(time.endswith(" UTC") for time in times)


def test_sums_are_those_of_their_lines(report: AuditReport) -> None:
    """By bill and by who was paid: the same in all, and with what came back all that was put in."""
    facts = report.facts
    text = words_of(report)
    spent = credits_text(sum(bill.amount for bill in facts.bills))
    assert f"spent in all {spent} came back {credits_text(facts.refunded)} still in escrow 0" in text
    assert f"together {spent}" in text
    for farmer in FARMERS:
        mine = sum(bill.amount for bill in facts.bills if bill.payee == farmer.public.hex())
        assert re.search(rf"farmer of farm-. {farmer.public.hex()[:SHORT]}… {credits_text(mine)}\b", text)


def test_the_bills_on_the_page_are_those_of_the_ledger(
    life: tuple[ChainWorld, bytes], report: AuditReport
) -> None:
    facts = report.facts
    assert sum(bill.amount for bill in facts.bills) == facts.spent
    paid = {(bill.slot, bill.term): bill.payee for bill in facts.bills}
    assert paid["web/0", 1] == FARMERS[0].public.hex()
    assert paid["web/1", 1] == FARMERS[1].public.hex()
    assert facts.roles["it-expert"] == (EXPERT.public.hex(),)


def test_nothing_foreign_becomes_markup(report: AuditReport) -> None:
    html = audit_page(report, DIGEST)
    page = Page(html)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "link", "a", "iframe", "form"})
    assert "<script>alert" in page.text
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    hostile = replace(report.facts, contract=HOSTILE, parameters={HOSTILE: HOSTILE}, workloads={"w": HOSTILE})
    assert "img" not in {tag for tag, _ in Page(audit_page(replace(report, facts=hostile), DIGEST)).tags}


def test_a_bad_file_makes_a_page_that_says_so(life: tuple[ChainWorld, bytes]) -> None:
    world, data = life
    bad = verify(data[:-1], world.genesis)
    page = Page(audit_page(bad, hashlib.sha256(data[:-1]).hexdigest()))
    assert "NOT VALID. audit.malformed" in page.text
    assert "Who did the work" not in page.text


def test_a_browser_makes_a_pdf_of_it(report: AuditReport, tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no chromium on this machine")
    page, pdf = tmp_path / "audit.html", tmp_path / "audit.pdf"
    page.write_text(audit_page(report, DIGEST), "utf-8")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [browser, *flags, profile, f"--print-to-pdf={pdf}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert pdf.read_bytes().startswith(b"%PDF-")
    assert pdf.stat().st_size > 10_000
