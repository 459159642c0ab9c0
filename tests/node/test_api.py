"""The API on a fake peer with the real state machine: what it shows, what it refuses, and its bounds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.audit.audit import verify
from ledger.codec import sha256
from ledger.manifests.types import manifest_digest
from ledger.proofs.light import Trust, verify_query
from ledger.records import key_account
from ledger.transactions import PutVault, Transfer
from node.api import models as m
from node.api.guard import Guard
from node.api.limits import BODY_BYTES_MAX, EVENT_CLIENTS_MAX, REQUESTS_MAX, REQUESTS_OF_CLIENT_MAX
from node.api.openapi import make_openapi
from node.api.routes import ROUTES, Route
from node.seam import Gap
from tests.ledger.world import AUTHOR, BUDGET, CONSUMER, EXPERT, NODES, RICH, STRANGER, contract
from tests.node.api_fixture import AUTH, BINARY, api_client, problem, slots_status
from tests.node.fake_peer import FakePeer

# The test client does not close a body that the application refused to read; ours is not at fault.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'httpx2:ResourceWarning")


@pytest.fixture
def peer() -> FakePeer:
    return FakePeer()


async def test_status_says_who_where_and_whether_ready(peer: FakePeer, tmp_path: Path) -> None:
    async with api_client(peer, tmp_path) as client:
        found = msgspec.json.decode((await client.get("/v1/status")).content, type=m.Status)
        assert found.chain_id == peer.chain_id
        assert found.genesis == peer.genesis.hash.hex()
        assert found.ready
        assert found.state_root == peer.store.tip.root.hex()
        assert (await client.get("/healthz")).text == "ok\n"
        assert (await client.get("/readyz")).status_code == 200
        peer.behind = 9
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert "catching up" in answer.json()["reason"]
        peer.behind, peer.last_final_ms = 0, 1
        assert "quorum" in (await client.get("/readyz")).json()["reason"]


async def test_lists_come_in_pages(peer: FakePeer, tmp_path: Path) -> None:
    peer.world.add_nodes()
    async with api_client(peer, tmp_path) as client:
        seen: list[str] = []
        cursor = ""
        while True:
            params = {"limit": "3", **({"cursor": cursor} if cursor else {})}
            page = msgspec.json.decode(
                (await client.get("/v1/nodes", params=params)).content, type=m.Page[m.NodeView]
            )
            assert len(page.items) <= 3
            seen += [node.key for node in page.items]
            cursor = page.next
            if not cursor:
                break
        assert sorted(seen) == sorted(key.public.hex() for key in NODES)
        assert len(seen) == len(set(seen))
        farms = (await client.get("/v1/farms")).json()["items"]
        assert {farm["country"] for farm in farms} == {"BE", "NL"}
        problem(await client.get("/v1/nodes?limit=0"), 400, "query.number")
        problem(await client.get("/v1/nodes?limit=201"), 400, "query.number")
        problem(await client.get("/v1/nodes?cursor=zz"), 400, "query.cursor")


async def test_a_3node_says_what_it_holds_and_others_that_they_are_none(
    peer: FakePeer, tmp_path: Path
) -> None:
    async with api_client(peer, tmp_path) as client:
        problem(await client.get("/v1/node/slots"), 404, "node.none")
    async with api_client(peer, tmp_path, slots=slots_status) as client:
        answer = await client.get("/v1/node/slots")
        assert answer.status_code == 200
        assert msgspec.json.decode(answer.content, type=m.ExecutorStatus) == slots_status()


async def test_a_deployment_is_shown_whole(peer: FakePeer, tmp_path: Path) -> None:
    world = peer.world
    world.add_nodes()
    deployment = world.running(contract())
    async with api_client(peer, tmp_path) as client:
        answer = await client.get(f"/v1/deployments/{deployment.hex()[:12]}")
        found = msgspec.json.decode(answer.content, type=m.DeploymentDetail)
        assert found.id == deployment.hex()
        assert found.status == "active"
        assert found.policies.deploy.satisfied
        assert {(place.place.split()[-1], place.signer) for place in found.policies.deploy.used} == {
            ("budget", BUDGET.public.hex()),
            ("it-expert", EXPERT.public.hex()),
        }
        assert not found.policies.signoff.satisfied
        assert found.policies.signoff.reasons
        assert [approval.role for approval in found.approvals] == ["budget", "it-expert"]
        assert {(slot.name, slot.status, slot.term, slot.farm) for slot in found.slots} == {
            ("web/0", "running", 1, "farm-a"),
            ("web/1", "running", 1, "farm-b"),
        }
        assert found.slots[0].endpoints == {"http": "127.0.0.1:8080"}
        assert [r.status for r in found.receipts if r.slot == "web/0"] == ["fetching", "verified", "running"]
        assert found.receipts[0].receipt.node in {key.public.hex() for key in NODES}
        times = found.timings
        assert 0 < times.ordered_ms < times.approved_ms < times.claimed_ms < times.running_ms
        assert times.signed_off_ms == 0
        assert found.bills[0].slot == ""  # the author's fee
        assert found.bills[0].payee == AUTHOR.public.hex()
        raw = (await client.get(f"/v1/manifests/{found.manifest_digest}")).content
        assert manifest_digest(raw).hex() == found.manifest_digest
        listed = (await client.get("/v1/deployments")).json()["items"]
        assert [(item["id"], item["slots_running"], item["slots"]) for item in listed] == [(found.id, 2, 2)]
        contracts = (await client.get("/v1/contracts")).json()["items"]
        assert contracts[0]["name"] == "site"
        for ref in ("site", "site@1.0.0", contracts[0]["id"]):
            assert (await client.get(f"/v1/contracts/{ref}")).json()["id"] == contracts[0]["id"]
        first = (await client.get(f"/v1/tx/{found.txs[0]}")).json()
        assert first["kind"] == "deployment.order"
        assert first["body"]["escrow"] == 2_000_000


async def test_an_open_policy_says_what_is_missing(peer: FakePeer, tmp_path: Path) -> None:
    deployment = peer.world.ordered(contract())
    peer.world.ok(STRANGER, peer.world.decide(deployment, BUDGET, "budget"))
    async with api_client(peer, tmp_path) as client:
        found = (await client.get(f"/v1/deployments/{deployment.hex()}")).json()
        assert found["status"] == "awaiting_approval"
        policy = found["policies"]["deploy"]
        assert not policy["satisfied"]
        assert any("it-expert" in reason for reason in policy["reasons"])


async def test_what_is_not_there_is_404_with_its_name(peer: FakePeer, tmp_path: Path) -> None:
    none = "ab" * 32
    async with api_client(peer, tmp_path) as client:
        problem(await client.get(f"/v1/deployments/{none}"), 404, "deployment.unknown")
        problem(await client.get("/v1/deployments/abcdef"), 404, "deployment.unknown")
        problem(await client.get("/v1/deployments/abc"), 400, "query.id")
        problem(await client.get("/v1/deployments/..%2f..%2fetc"), 404, "http.not_found")
        problem(await client.get("/v1/contracts/nope"), 404, "contract.unknown")
        problem(await client.get(f"/v1/tx/{none}"), 404, "tx.unknown")
        problem(await client.get("/v1/tx/zz"), 400, "query.hex")
        problem(await client.get(f"/v1/manifests/{none}"), 404, "manifest.unknown")
        problem(await client.get(f"/v1/vault/{none}/bot"), 404, "vault.unknown")
        problem(await client.get(f"/v1/artifacts/{none}"), 404, "artifact.not_found")
        problem(await client.get("/v1/artifacts/..%2fconfig"), 404, "http.not_found")
        problem(await client.get("/v1/artifacts/" + "g" * 64), 400, "artifact.digest")
        problem(await client.get("/v1/blocks/999"), 404, "block.unknown")
        problem(await client.get("/v1/blocks/minus"), 400, "query.number")
        problem(await client.get(f"/v1/audit/{none}"), 404, "deployment.unknown")
        problem(await client.get("/v1/nothing"), 404, "http.not_found")
        problem(await client.post("/v1/status"), 405, "http.405")


async def test_blocks_name_proposer_signers_and_outcomes(peer: FakePeer, tmp_path: Path) -> None:
    good = peer.world.tx(CONSUMER, Transfer(AUTHOR.public, 5))
    bad = peer.world.tx(CONSUMER, Transfer(CONSUMER.public, 5))
    peer.block(good.raw, bad.raw)
    async with api_client(peer, tmp_path) as client:
        found = msgspec.json.decode((await client.get("/v1/blocks/latest")).content, type=m.BlockDetail)
        assert [(tx.kind, tx.ok, tx.rule) for tx in found.txs] == [
            ("transfer", True, ""),
            ("transfer", False, "money.to_oneself"),
        ]
        assert found.signers == ["v0", "v1", "v2"]
        assert found.moniker.startswith("v")
        peer.block()
        page = (await client.get("/v1/blocks?limit=1")).json()
        assert page["items"][0]["height"] == 2
        older = (await client.get(f"/v1/blocks?limit=5&cursor={page['next']}")).json()
        assert [item["height"] for item in older["items"]] == [1]
        assert older["next"] == ""


async def test_a_proved_query_holds_from_genesis_alone(peer: FakePeer, tmp_path: Path) -> None:
    peer.world.ok(CONSUMER, Transfer(AUTHOR.public, 7))
    for _ in range(3):
        peer.block()
    key = key_account(AUTHOR.public)
    trust = Trust(peer.chain_id, peer.validators)
    async with api_client(peer, tmp_path) as client:
        for path in (f"key={key.hex()}", f"path=account/{AUTHOR.public.hex()}"):
            found = msgspec.json.decode(
                (await client.get(f"/v1/query?{path}&prove=1")).content, type=m.QueryView
            )
            assert found.proof is not None
            fact = verify_query(trust, found.proof)
            assert (fact.key, fact.value) == (key, found.value)
            assert found.shown == {"balance": RICH + 7}
        absent = msgspec.json.decode(
            (await client.get("/v1/query?path=farm/none&prove=1")).content, type=m.QueryView
        )
        assert absent.proof is not None
        assert verify_query(trust, absent.proof).value is None
        assert (await client.get(f"/v1/accounts/{AUTHOR.public.hex()}")).json()["balance"] == RICH + 7
        problem(await client.get("/v1/query"), 400, "query.key")
        problem(await client.get("/v1/query?key=zz"), 400, "query.key")
        problem(await client.get("/v1/query?key=61&path=b"), 400, "query.key")
        problem(await client.get("/v1/query?key=61&prove=maybe"), 400, "query.choice")
        problem(await client.get("/v1/query?path=seen/x&prove=1"), 409, "proof.unproved")


async def test_a_transaction_is_sent_waited_for_and_sent_again(peer: FakePeer, tmp_path: Path) -> None:
    tx = peer.world.tx(CONSUMER, Transfer(AUTHOR.public, 5))
    async with api_client(peer, tmp_path) as client:
        for _ in range(2):  # the second is a repetition: same outcome, no harm
            answer = await client.post("/v1/tx?wait=final", content=tx.raw, headers=BINARY)
            found = msgspec.json.decode(answer.content, type=m.TxResult)
            assert (found.state, found.ok, found.height, found.id) == ("final", True, 1, tx.id.hex())
        assert peer.height == 1
        broke = peer.world.tx(CONSUMER, Transfer(AUTHOR.public, RICH * 2))
        answer = await client.post("/v1/tx?wait=final", content=broke.raw, headers=BINARY)
        found = msgspec.json.decode(answer.content, type=m.TxResult)
        assert (found.ok, found.rule) == (False, "money.insufficient")
        accepted = peer.world.tx(CONSUMER, Transfer(AUTHOR.public, 6))
        answer = await client.post("/v1/tx", content=accepted.raw, headers=BINARY)
        assert answer.status_code == 202
        assert answer.json()["state"] == "accepted"


async def test_bad_transactions_are_refused_by_rule(peer: FakePeer, tmp_path: Path) -> None:
    good = peer.world.tx(CONSUMER, Transfer(AUTHOR.public, 5))
    forged = bytearray(good.raw)
    forged[-1] ^= 1
    late = peer.world.tx(CONSUMER, Transfer(AUTHOR.public, 5), expires=0)
    async with api_client(peer, tmp_path) as client:

        async def post(data: bytes, query: str = "", headers: dict[str, str] = BINARY) -> Any:
            return await client.post(f"/v1/tx{query}", content=data, headers=headers)

        assert problem(await post(b"garbage"), 400, "tx.malformed").refused
        problem(await post(bytes(forged)), 400, "tx.signature")
        problem(await post(late.raw), 409, "tx.expired")
        problem(await post(bytes(200_000)), 413, "http.too_long")
        problem(await post(bytes(BODY_BYTES_MAX + 1)), 413, "http.too_long")
        problem(await post(good.raw, headers={"Content-Type": "text/plain"}), 415, "http.content_type")
        problem(await post(good.raw, "?wait=ever"), 400, "query.choice")
        problem(await post(good.raw, "?timeout=nan"), 400, "query.seconds")
        problem(await post(good.raw, "?timeout=1e9"), 400, "query.seconds")
        assert peer.height == 0
        peer.overloaded = True
        answer = await post(good.raw)
        assert problem(answer, 429, "peer.overloaded").retry_after_ms == 2_000
        assert answer.headers["retry-after"] == "2"
        peer.overloaded, peer.final = False, False
        problem(await post(good.raw, "?wait=final&timeout=0"), 504, "tx.not_final")
        text = (await client.get("/metrics")).text
        assert 'gridpact_api_refused_total{rule="tx.signature"} 1.0' in text


async def test_artifacts_come_in_checked_and_go_out_as_bytes(peer: FakePeer, tmp_path: Path) -> None:
    data = b"<script>alert(1)</script>" * 20_000
    digest = sha256(data).hex()
    async with api_client(peer, tmp_path) as client:
        problem(await client.put(f"/v1/artifacts/{digest}", content=data), 401, "http.token")
        wrong = {"Authorization": "Bearer wrong"}
        problem(await client.put(f"/v1/artifacts/{digest}", content=data, headers=wrong), 401, "http.token")
        other = await client.put(f"/v1/artifacts/{digest}", content=data + b"x", headers=AUTH)
        problem(other, 400, "artifact.digest")
        problem(await client.get(f"/v1/artifacts/{digest}"), 404, "artifact.not_found")
        assert (await client.put(f"/v1/artifacts/{digest}", content=data, headers=AUTH)).status_code == 201
        assert (await client.put(f"/v1/artifacts/{digest}", content=data, headers=AUTH)).status_code == 200
        found = await client.get(f"/v1/artifacts/{digest}")
        assert found.content == data
        assert found.headers["content-type"] == "application/octet-stream"
        assert found.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in found.headers["content-security-policy"]
        head = await client.head(f"/v1/artifacts/{digest}")
        assert head.headers["content-length"] == str(len(data))


async def test_while_the_state_is_wrong_each_answer_says_so(peer: FakePeer, tmp_path: Path) -> None:
    async with api_client(peer, tmp_path) as client:
        found = await client.get("/v1/status")
        assert "gridpact-stale" not in found.headers
        assert found.json()["stale"] is False
        peer.stale = True
        for path in ("/v1/status", "/v1/blocks", "/v1/nothing"):
            assert (await client.get(path)).headers["gridpact-stale"] == "true"
        ready = await client.get("/readyz")
        assert ready.status_code == 503
        assert "not what the validators signed" in ready.text


async def test_the_audit_file_verifies(peer: FakePeer, tmp_path: Path) -> None:
    peer.world.add_nodes()
    deployment = peer.world.running(contract())
    for _ in range(3):
        peer.block()
    async with api_client(peer, tmp_path) as client:
        data = (await client.get(f"/v1/audit/{deployment.hex()}")).content
    report = verify(data, peer.genesis)
    assert report.ok, (report.rule, report.detail)


async def test_the_vault_gives_only_what_was_sealed(peer: FakePeer, tmp_path: Path) -> None:
    peer.world.ok(CONSUMER, PutVault("bot", 1, b"sealed"))
    async with api_client(peer, tmp_path) as client:
        answer = await client.get(f"/v1/vault/{CONSUMER.public.hex()}/bot")
        found = msgspec.json.decode(answer.content, type=m.VaultView)
        assert (found.version, found.ciphertext) == (1, b"sealed")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:27657"}, 403),
        ({"Host": "localhost:27657"}, 200),
        ({"Host": "[::1]:27657"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "http://localhost:27657"}, 200),
    ],
)
async def test_names_and_origins_that_are_not_ours_are_refused(
    peer: FakePeer, tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    async with api_client(peer, tmp_path) as client:
        answer = await client.get("/v1/status", headers=headers)
        assert answer.status_code == status
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("clients", [1, 2])
async def test_too_many_requests_at_once_are_told_so(clients: int) -> None:
    """One client never holds all of the room, two may."""

    async def never(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep_forever()

    guard = Guard(never, frozenset())
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"localhost")]}
    scopes = [scope | {"client": (f"192.0.2.{number}", 4_000 + number)} for number in range(clients)]
    room = REQUESTS_OF_CLIENT_MAX if clients == 1 else REQUESTS_MAX
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    async with trio.open_nursery() as nursery:
        for number in range(room):
            nursery.start_soon(guard, scopes[number % clients], receive, send)
        await trio.testing.wait_all_tasks_blocked()
        assert not sent
        await guard(scopes[0], receive, send)
        assert sent[0]["status"] == 429
        assert (b"retry-after", b"1") in sent[0]["headers"]
        assert guard.running == room
        if clients == 1:
            nursery.start_soon(guard, scope | {"client": ("192.0.2.9", 1)}, receive, send)
            await trio.testing.wait_all_tasks_blocked()
            assert guard.running == room + 1
        nursery.cancel_scope.cancel()


class Listener:
    """One SSE client of the application itself: reads what it asks for, no more."""

    def __init__(
        self, app: Any, path: str = "/v1/events", headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        name, _, query = path.partition("?")
        self.scope = {
            "type": "http",
            "method": "GET",
            "path": name,
            "raw_path": name.encode(),
            "query_string": query.encode(),
            "headers": [(b"host", b"localhost"), *headers],
            "http_version": "1.1",
            "scheme": "http",
            "server": ("localhost", 1),
            "client": ("127.0.0.1", 1),
            "root_path": "",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
        }
        self.app = app
        self.push, self.pull = trio.open_memory_channel[bytes](0)
        self.status = 0

    async def run(self) -> None:
        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
            elif message.get("body"):
                await self.push.send(message["body"])

        async def receive() -> Any:
            await trio.sleep_forever()

        await self.app(self.scope, receive, send)

    async def next(self) -> dict[str, str]:
        """The next event's fields; comments are skipped."""
        with trio.fail_after(60):
            while True:
                text = (await self.pull.receive()).decode()
                fields = dict(
                    line.split(": ", 1) for line in text.strip().splitlines() if not line.startswith(":")
                )
                if "data" in fields:
                    return fields


def make_guard(peer: FakePeer, folder: Path) -> Any:
    from node.api.app import make_app
    from node.files.artifacts import ArtifactStore

    return make_app(peer, token="t", artifacts=ArtifactStore(folder / "artifacts"))


async def test_events_come_in_order_and_replay_from_an_id(peer: FakePeer, tmp_path: Path) -> None:
    app = make_guard(peer, tmp_path)
    live = Listener(app)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(live.run)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(60):
            await live.pull.receive()  # the greeting: it listens now
        await trio.testing.wait_all_tasks_blocked()
        for amount in (1, 2, 3):
            peer.block(peer.world.tx(CONSUMER, Transfer(AUTHOR.public, amount)).raw)
        seen = [await live.next() for _ in range(3)]
        shown = [msgspec.json.decode(event["data"], type=m.EventView) for event in seen]
        assert [(event.kind, event.fields["amount"]) for event in shown] == [
            ("transfer", n) for n in (1, 2, 3)
        ]
        assert [event.id for event in shown] == [event["id"] for event in seen]
        again = Listener(app, headers=((b"last-event-id", seen[0]["id"].encode()),))
        nursery.start_soon(again.run)
        assert [(await again.next())["id"] for _ in range(2)] == [seen[1]["id"], seen[2]["id"]]
        filtered = Listener(app, f"/v1/events?after=0.0&kind=trans&subject={shown[2].subject}")
        nursery.start_soon(filtered.run)
        assert (await filtered.next())["id"] == seen[2]["id"]
        nursery.cancel_scope.cancel()
    assert app._app.state.api.event_clients.total == 0


async def test_loss_is_told_as_a_gap(peer: FakePeer, tmp_path: Path) -> None:
    peer.gap = Gap("3.0", "9.2")
    listener = Listener(make_guard(peer, tmp_path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run)
        found = await listener.next()
        assert found["event"] == "gap"
        assert msgspec.json.decode(found["data"], type=m.GapView) == m.GapView(first="3.0", next="9.2")
        nursery.cancel_scope.cancel()


async def test_a_slow_listener_costs_no_memory(peer: FakePeer, tmp_path: Path) -> None:
    """It stands still after the greeting; many blocks later it still gets each event, read from the store."""
    listener = Listener(make_guard(peer, tmp_path))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.run)
        await listener.pull.receive()
        await trio.testing.wait_all_tasks_blocked()
        for amount in range(1, 40):
            peer.block(peer.world.tx(CONSUMER, Transfer(AUTHOR.public, amount)).raw)
        await trio.testing.wait_all_tasks_blocked()
        assert listener.push.statistics().current_buffer_used == 0
        ids = [(await listener.next())["id"] for _ in range(39)]
        assert ids == sorted(ids, key=lambda text: int(text.split(".")[0]))
        assert len(set(ids)) == 39
        nursery.cancel_scope.cancel()


async def test_listeners_are_bounded_and_bad_ids_refused(peer: FakePeer, tmp_path: Path) -> None:
    app = make_guard(peer, tmp_path)
    async with api_client(peer, tmp_path) as client:
        problem(await client.get("/v1/events?after=nonsense"), 400, "event.id")
    app._app.state.api.event_clients.total = EVENT_CLIENTS_MAX
    refused = Listener(app)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refused.run)
        with trio.fail_after(60):
            text = await refused.pull.receive()
        nursery.cancel_scope.cancel()
    assert refused.status == 429
    assert b"events.too_many" in text


async def test_metrics_are_one_family_a_name(peer: FakePeer, tmp_path: Path) -> None:
    async with api_client(peer, tmp_path) as client:
        await client.get("/v1/status")
        text = (await client.get("/metrics")).text
    assert "gridpact_consensus_height 0.0" in text
    assert text.count("# TYPE gridpact_refused_total counter") == 1
    assert 'gridpact_refused_total{rule="tx.expired"} 2.0' in text
    assert 'gridpact_api_requests_total{status="200"} 1.0' in text
    assert "python_gc" not in text


async def test_openapi_names_every_route_and_no_other(peer: FakePeer, tmp_path: Path) -> None:
    async with api_client(peer, tmp_path) as client:
        document = (await client.get("/openapi.json")).json()
    served = make_guard(peer, tmp_path)._app.routes
    told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    machine = {
        (method, route.path)
        for route in served
        if route.path.startswith(("/v1/", "/healthz", "/readyz", "/metrics")) and "{rest" not in route.path
        for method in route.methods - {"HEAD"}
    }
    assert told == machine
    assert len(told) == len(ROUTES)
    references = set(_references(document))
    assert references
    for reference in references:
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]
    ids = [op["operationId"] for methods in document["paths"].values() for op in methods.values()]
    assert len(ids) == len(set(ids))
    assert msgspec.json.decode(msgspec.json.encode(make_openapi())) == document


def _references(value: Any) -> Any:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "$ref":
                yield item
            else:
                yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


_WORDS = st.text(min_size=1, max_size=80) | st.from_regex(r"[0-9a-f]{1,64}", fullmatch=True)


@given(
    route=st.sampled_from([r for r in ROUTES if r.method == "GET" and r.path != "/v1/events"]), data=st.data()
)
@settings(max_examples=150)
def test_no_path_or_query_breaks_the_api(
    tmp_path_factory: pytest.TempPathFactory, route: Route, data: st.DataObject
) -> None:
    """Whatever is asked, the answer is a model or a problem; a fault of our own would be raised here."""
    path = re.sub(r"\{\w+\}", lambda _: quote(data.draw(_WORDS), safe=""), route.path)
    query = {q.name: data.draw(_WORDS) for q in route.query if data.draw(st.booleans())}

    async def ask() -> None:
        async with api_client(_fuzzed, tmp_path_factory.getbasetemp()) as client:
            answer = await client.get(path, params=query)
            assert answer.status_code in {200, 400, 401, 404, 409, 413, 503}, (path, query, answer.text)

    trio.run(ask)


_fuzzed = FakePeer()
_fuzzed.world.add_nodes()
_fuzzed.world.running(contract())
