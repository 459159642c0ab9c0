"""The explorer: what it tells, and that nothing foreign becomes markup, script or link."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from ledger.manifests.types import Rule
from ledger.transactions import OpenDispute, SteerUpdate
from node.web.pages import service_link
from tests.ledger.world import (
    BUDGET,
    CONSUMER,
    EXPERT,
    LEGAL,
    NODES,
    POLICIES,
    STRANGER,
    contract,
    service,
)
from tests.node.api_fixture import api_client
from tests.node.fake_peer import FakePeer

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&"
VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """Tags in order, with attributes; fails on markup that does not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def peer() -> FakePeer:
    return FakePeer()


async def read(client: Any, path: str, status: int = 200) -> Page:
    answer = await client.get(path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    page = Page(answer.text)
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        for name in ("src", "href"):
            target = attributes.get(name)
            assert target is None or re.match(r"[/#](?!/)|http://127\.0\.0\.1:8080/$", target), (tag, target)
    return page


async def test_an_empty_network_has_pages_too(peer: FakePeer, tmp_path: Path) -> None:
    async with api_client(peer, tmp_path) as client:
        page = await read(client, "/")
        assert "The network is healthy" in page.text
        assert "Nothing was ordered yet" in page.text
        for path in ("/deployments", "/nodes", "/blocks"):
            await read(client, path)
        peer.behind = 50
        assert "catching up" in (await read(client, "/")).text


async def test_a_deployment_page_tells_its_life(peer: FakePeer, tmp_path: Path) -> None:
    world = peer.world
    world.add_nodes()
    deployment = world.ordered(contract())
    async with api_client(peer, tmp_path) as client:
        path = f"/deployments/{deployment.hex()}"
        page = await read(client, path)
        assert "Nothing runs before the approvals are there" in page.text
        world.approve(deployment)
        for name, node in (("web/0", NODES[0]), ("web/1", NODES[2])):
            world.claimed(deployment, name, [node])
            world.report(deployment, name, node, "fetching", "verified", "running")
        page = await read(client, path)
        assert "2 of 2 are running" in page.text
        steps = re.findall(r"Ordered|Approved|Claimed|Running|Signed off", page.text)
        assert steps[:5] == ["Ordered", "Approved", "Claimed", "Running", "Signed off"]
        links = [a["href"] for tag, a in page.tags if tag == "a" and (a.get("href") or "").startswith("http")]
        assert links == ["http://127.0.0.1:8080/"] * 2
        assert EXPERT.public.hex()[:10] in page.text
        world.ok(STRANGER, world.decide(deployment, EXPERT, "it-expert", "granted", "signoff"))
        assert "accepted as delivered" in (await read(client, path)).text
        assert deployment.hex() in str((await read(client, "/deployments")).tags)
        blocks = await read(client, f"/blocks/{peer.height}")
        assert "approval.decide" in blocks.text
        tx = peer.store.history(deployment)[0].hex()
        assert "deployment.order" in (await read(client, f"/tx/{tx}")).text
        world.ok(EXPERT, OpenDispute(deployment, "web/0", 1, "it <b>is</b> slow"))
        page = await read(client, path)
        assert "0, about web/0 term 1" in page.text
        assert "it <b>is</b> slow" in page.text


async def test_an_update_in_words(peer: FakePeer, tmp_path: Path) -> None:
    """What changes, old and new, whose approval is asked for, and how it stands."""
    world = peer.world
    world.add_nodes()
    deployment = world.ordered(contract())
    world.approve(deployment)
    for name, node in (("web/0", NODES[0]), ("web/1", NODES[2])):
        world.claimed(deployment, name, [node])
        world.report(deployment, name, node, "fetching", "verified", "running")
    more = contract(service(replicas=3, command=("/bin/sh", HOSTILE)), version="2.0.0", budget=3_000_000,
                    policies=replace(POLICIES, deploy=Rule(role="legal")))  # fmt: skip
    async with api_client(peer, tmp_path) as client:
        path = f"/deployments/{deployment.hex()}"
        assert "Updates" not in (await read(client, path)).text
        world.updated(deployment, more)
        page = await read(client, path)
        for words in (
            "Update 1, to version 2.0.0",
            "It waits for approval: before: needs",
            "Nothing changes before that",
            "role budget and any 1 of (role it-expert, role legal), as the contract asks now",
            "role legal, as it will ask afterwards",
            "1 credits more were put aside",
            "How many copies run (web)",
            "The most that it may cost",
            "2 credits",
            "3 credits",
            "Who must approve that it runs",
            str(json.dumps(HOSTILE))[1:-1],
        ):
            assert words in page.text, words
        world.approve_update(deployment)
        assert "it-expert" in (await read(client, path)).text
        world.ok(LEGAL, world.decide(deployment, LEGAL, "legal", "granted", "update"))
        assert "changes over step by step" in (await read(client, path)).text
        world.ok(CONSUMER, SteerUpdate(deployment, 1, "cancel"))
        page = await read(client, path)
        assert "It was undone: cancelled by the consumer. What ran before runs on." in page.text
        shown = (await client.get(f"/v1{path}")).json()["updates"][0]
        assert shown["status"] == "reverted"
        assert {"field": "version", "before": "1.0.0", "after": "2.0.0"} in shown["changes"]


async def test_a_rejection_says_why(peer: FakePeer, tmp_path: Path) -> None:
    world = peer.world
    deployment = world.ordered(contract())
    world.ok(STRANGER, world.decide(deployment, BUDGET, "budget", "rejected"))
    async with api_client(peer, tmp_path) as client:
        page = await read(client, f"/deployments/{deployment.hex()}")
    assert "Rejected: needs 1 of role budget" in page.text


async def test_nothing_foreign_becomes_markup(peer: FakePeer, tmp_path: Path) -> None:
    world = peer.world
    source = replace(contract(), title=HOSTILE, summary=HOSTILE)
    deployment = world.ordered(source)
    world.ok(STRANGER, world.decide(deployment, LEGAL, "legal", comment=HOSTILE))
    world.add_nodes((NODES[0],))
    world.ok(NODES[0], world.offer(attributes={"feature": HOSTILE}))
    async with api_client(peer, tmp_path) as client:
        for path in (f"/deployments/{deployment.hex()}", "/nodes", "/", "/deployments"):
            page = await read(client, path)
            scripts = [a for tag, a in page.tags if tag == "script"]
            assert scripts == [{"src": "/static/live.js", "defer": None}]
            assert all(a.get("src") == "/static/icon.svg" for tag, a in page.tags if tag == "img")
        page = await read(client, f"/deployments/{deployment.hex()}")
        assert page.text.count(HOSTILE) >= 3  # shown as what it is: text


@pytest.mark.parametrize(
    ("name", "address", "link"),
    [
        ("http", "127.0.0.1:8080", "http://127.0.0.1:8080/"),
        ("http", "[::1]:80", "http://[::1]:80/"),
        ("http-admin", "a.example:80", "http://a.example:80/"),
        ("db", "127.0.0.1:5432", ""),
        ("http", "javascript:alert(1)", ""),
        ("http", "evil.example/path:80", ""),
        ("http", "user@evil.example:80", ""),
        ("http", "127.0.0.1:80\n", ""),
    ],
)
def test_only_a_plain_host_and_port_becomes_a_link(name: str, address: str, link: str) -> None:
    assert service_link(name, address) == link


async def test_problems_are_pages(peer: FakePeer, tmp_path: Path) -> None:
    async with api_client(peer, tmp_path) as client:
        assert "no deployment" in (await read(client, "/deployments/" + "ab" * 32, 404)).text
        await read(client, "/blocks/zero", 400)
        await read(client, "/blocks/99", 404)
        await read(client, "/tx/zz", 400)
        assert (await client.get("/static/..%2fpages.py")).status_code == 404
        assert (await client.get("/static/pages.py")).status_code == 404
        for name in ("style.css", "live.js", "icon.svg"):
            answer = await client.get(f"/static/{name}")
            assert answer.status_code == 200
            assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
            assert "https://" not in answer.text


async def test_amounts_are_in_credits(peer: FakePeer, tmp_path: Path) -> None:
    deployment = peer.world.ordered(contract())
    assert peer.world.balance(CONSUMER) > 0
    async with api_client(peer, tmp_path) as client:
        assert "2 in escrow" in (await read(client, f"/deployments/{deployment.hex()}")).text
