"""A running deployment is updated by canary while requests flow, and another update reverts by itself: real
processes, from the 3bot's plan to the audit file."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import SITE
from tests.e2e.net import Net, gridpact, page, until

OLD, NEW = "the first edition", "the second edition"
HELD_S = 90.0


def source(folder: Path, version: str, text: str, command: str) -> Path:
    """Two replicas of the site, careful when they change over."""
    shutil.copytree(SITE, folder)
    (folder / "www" / "index.html").write_text(f"<p>{text}</p>")
    path = folder / "contract.yaml"
    yaml = path.read_text()
    for old, new in (
        ("name: e2e-site", "name: e2e-rolling"),
        ("version: 1.0.0", f"version: {version}"),
        ('placement: {country: "${country}"}', "replicas: 2\n    placement: {distinct: none}"),
        ('[/bin/busybox, httpd, -f, -p, "8080", -h, /www]', command),
        (
            "restart: {attempts: 3}",
            "restart: {attempts: 0}\n    update: {canary: 1, min_healthy: 2s, deadline: 60s}",
        ),
    ):
        assert old in yaml
        yaml = yaml.replace(old, new)
    path.write_text(
        yaml.replace("  country: {type: country, default: BE, description: Where it runs.}\n", "")
    )
    return folder


SERVE = '[/bin/busybox, httpd, -f, -p, "8080", -h, /www]'
EDITIONS = {"1.0.0": (OLD, SERVE), "1.1.0": (NEW, SERVE), "1.2.0": ("never seen", "[/bin/busybox, false]")}


@pytest.fixture(scope="module")
def site(sandbox: None, net: Net, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Three versions of the contract, the first of which runs on two slots."""
    folder = tmp_path_factory.mktemp("rolling")
    contracts = {}
    for version, (text, command) in EDITIONS.items():
        made = source(folder / version, version, text, command)
        contracts[version] = str(net.publish(made, folder / f"built-{version}")["id"])
    deployment = net.deploy("e2e-rolling@1.0.0")
    net.approve(deployment)
    until("both replicas run", lambda: len(serving(net, deployment)) == 2, HELD_S)
    return {"deployment": deployment, **contracts}


def serving(net: Net, deployment: str) -> list[str]:
    """Where its replicas answer."""
    slots = net.show(deployment)["slots"]
    return [slot["endpoints"]["http"] for slot in slots if slot["status"] == "running"]


def ask(net: Net, site: dict[str, Any], version: str) -> dict[str, Any]:
    """Plan an update and ask for it; what the ledger made of it."""
    words = ("deployment", "update", site["deployment"], site[version])
    plan = net.data(*words, "--plan-only")
    assert plan["missing"] == []
    assert {slot["what"] for slot in plan["slots"]} == {"changes"}
    assert any(c["field"].startswith("workloads.web.") for c in plan["changes"])
    done: dict[str, Any] = net.data(*words, "--yes")
    assert (done["status"], done["manifest"]) == ("awaiting_approval", plan["manifest"])
    return done


def approve(net: Net, deployment: str) -> None:
    for role in ("it-expert", "budget"):
        net.decide("approve", deployment, role, "--update")


def over(net: Net, deployment: str, number: int, status: str) -> dict[str, Any]:
    """Wait until this update has ended so."""

    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = net.show(deployment)["updates"][number - 1]
        return found if found["ended_ms"] else None

    found = until(f"update {number} is over", ended, HELD_S)
    assert found is not None
    assert found["status"] == status, found
    return found


class Visitors:
    """Requests, one after the other, from a thread: to whoever is said to serve at that moment."""

    def __init__(self, net: Net, deployment: str) -> None:
        self.seen: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._visit, args=(net, deployment))

    def _visit(self, net: Net, deployment: str) -> None:
        while not self._stop.is_set():
            answers = [self._page(endpoint) for endpoint in serving(net, deployment)]
            self.seen.append(next((text for text in answers if text), ""))
            self._stop.wait(0.2)

    @staticmethod
    def _page(endpoint: str) -> str:
        try:
            return page(endpoint)
        except OSError:
            return ""  # it has just stopped: another one answers

    def __enter__(self) -> Visitors:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)


def test_by_canary_while_requests_flow(net: Net, site: dict[str, Any], tmp_path: Path) -> None:
    deployment = site["deployment"]
    before = net.show(deployment)
    refused = net.run(
        "approve", deployment, "--as", "budget", "--key", "budget", "--yes", "--update", fails=4
    )
    assert "no update" in refused.err
    first = ask(net, site, "1.1.0")
    assert net.run("deployment", "update-cancel", deployment, "--yes").out
    assert over(net, deployment, first["number"], "cancelled")["reason"] == "cancelled by the consumer"
    asked = ask(net, site, "1.1.0")
    with Visitors(net, deployment) as visitors:
        net.decide("approve", deployment, "it-expert", "--update")
        assert net.show(deployment)["updates"][-1]["missing"], "budget has not agreed"
        net.decide("approve", deployment, "budget", "--update")
        over(net, deployment, asked["number"], "done")
        until("both serve the new page", lambda: both(net, deployment, NEW))
    assert visitors.seen[0] == f"<p>{OLD}</p>" and visitors.seen[-1] == f"<p>{NEW}</p>"
    assert "" not in visitors.seen, "at every moment one of them answered"
    after = net.show(deployment)
    assert (after["generation"], after["manifest"]["version"]) == (asked["number"], "1.1.0")
    terms = [slot["term"] for slot in after["slots"]]
    assert terms == [slot["term"] + 1 for slot in before["slots"]], "each changed over once"
    audited(net, deployment, tmp_path, ["was in force", "cancelled", "in force"])


def both(net: Net, deployment: str, text: str) -> bool:
    found = serving(net, deployment)
    return len(found) == 2 and all(text in page(endpoint) for endpoint in found)


def audited(net: Net, deployment: str, folder: Path, wanted: list[str]) -> None:
    """Its audit file, checked with nothing but the genesis."""
    file = folder / "life.audit"

    def exported() -> bool:
        home = net.peer("bot1").home
        return gridpact("audit", "export", deployment, "-f", str(file), home=home).code == 0

    until("the state of now is proved", exported)
    report = net.data("audit", "verify", str(file))
    assert report["ok"], (report["rule"], report["detail"])

    def shown() -> list[str]:
        return [row["status"] for row in report["facts"]["generations"]]

    assert shown() == wanted, json.dumps(report["facts"]["generations"])


def test_a_canary_that_fails_reverts_by_itself(net: Net, site: dict[str, Any], tmp_path: Path) -> None:
    deployment = site["deployment"]
    before = net.show(deployment)
    asked = ask(net, site, "1.2.0")
    approve(net, deployment)
    ended = over(net, deployment, asked["number"], "reverted")
    assert "web/0" in ended["reason"] and "failed" in ended["reason"]
    until("both run again", lambda: both(net, deployment, NEW), HELD_S)
    after = net.show(deployment)
    assert (after["status"], after["generation"]) == ("active", before["generation"])
    assert after["slots"][1]["term"] == before["slots"][1]["term"], "the other one went on"
    statuses = [update["status"] for update in after["updates"]]
    assert statuses == ["cancelled", "done", "reverted"]
    words = ("deployment", "show", deployment)
    assert "reverted" in net.run(*words).out
    audited(net, deployment, tmp_path, ["was in force", "cancelled", "in force", "reverted"])
    net.data("deployment", "cancel", deployment, "--yes")
