"""What the API refuses, route by route: orders without the token, bodies that are none, ids that are two."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest

from ledger.limits import ARTIFACT_BYTES_MAX
from node.api.bot_seam import BotSeam
from node.api.guard import Guard
from node.api.limits import BODY_BYTES_MAX
from node.api.problems import ApiProblem
from node.api.routes import JSON, ROUTES, Route
from node.api.views import full_id
from node.seam import PeerSeam
from tests.ledger.world import World
from tests.node.api_fixture import AUTH, TOKEN, api_client, problem
from tests.node.fake_peer import FakePeer

ORDERS = [route for route in ROUTES if route.token]
BODIES = [route for route in ORDERS if route.body is not None]
# Who sends these has signed what stands in them.
OPEN_WRITES = {"/v1/tx", "/v1/txs", "/v1/logs"}


def name_of(route: Route) -> str:
    return f"{route.method} {route.path}"


def path_of(route: Route) -> str:
    return re.sub(r"\{\w+\}", "ab" * 32, route.path)


class Untouched:
    """A 3bot that nothing may reach."""

    def __getattr__(self, name: str) -> Any:
        def called(*_: Any) -> NoReturn:
            raise AssertionError(f"{name} was called")

        return called


UNTOUCHED = cast(BotSeam, Untouched())


@pytest.fixture
def peer() -> FakePeer:
    return FakePeer()


def test_whatever_changes_this_peer_wants_the_token() -> None:
    assert {route.path for route in ROUTES if route.method != "GET" and not route.token} == OPEN_WRITES


@pytest.mark.parametrize("route", ORDERS, ids=name_of)
async def test_nothing_is_done_without_the_token(peer: FakePeer, tmp_path: Path, route: Route) -> None:
    async with api_client(peer, tmp_path, bot=UNTOUCHED) as client:
        for shown in (None, "", TOKEN, f"Basic {TOKEN}", "Bearer", "Bearer wrong", f"Bearer {TOKEN}x"):
            headers = {"Content-Type": JSON} | ({} if shown is None else {"Authorization": shown})
            answer = await client.request(route.method, path_of(route), headers=headers, content=b"{}")
            problem(answer, 401, "http.token")


@pytest.mark.parametrize("route", [r for r in ORDERS if r.path.startswith("/v1/bot/")], ids=name_of)
async def test_a_peer_without_a_3bot_says_so(peer: FakePeer, tmp_path: Path, route: Route) -> None:
    async with api_client(peer, tmp_path) as client:
        headers = AUTH | {"Content-Type": JSON}
        answer = await client.request(route.method, path_of(route), headers=headers, content=b"{}")
        problem(answer, 404, "bot.none")


@pytest.mark.parametrize("route", BODIES, ids=name_of)
async def test_a_body_is_the_model_or_refused(peer: FakePeer, tmp_path: Path, route: Route) -> None:
    async with api_client(peer, tmp_path, bot=UNTOUCHED) as client:
        for body, status, rule in (
            (b"", 400, "http.body"),
            (b"{", 400, "http.body"),
            (b"[]", 400, "http.body"),
            (b'{"no_such_field":1}', 400, "http.body"),
            (b"[" * 100_000, 400, "http.body"),
            (b"\xff", 400, "http.body"),
            (bytes(BODY_BYTES_MAX + 1), 413, "http.too_long"),
        ):
            answer = await client.post(path_of(route), content=body, headers=AUTH | {"Content-Type": JSON})
            problem(answer, status, rule)
        answer = await client.post(
            path_of(route), content=b"{}", headers=AUTH | {"Content-Type": "text/plain"}
        )
        problem(answer, 415, "http.content_type")


@pytest.mark.parametrize(
    ("order", "body", "field"),
    [
        ("add", '{"address":"nobody"}', "address"),
        ("remove", '{"peer_id":"nobody"}', "peer_id"),
        ("ban", '{"peer_id":"nobody"}', "peer_id"),
        ("unban", '{"peer_id":"nobody"}', "peer_id"),
    ],
)
async def test_an_order_about_no_peer_is_refused(
    peer: FakePeer, tmp_path: Path, order: str, body: str, field: str
) -> None:
    async with api_client(peer, tmp_path) as client:
        headers = AUTH | {"Content-Type": JSON}
        answer = await client.post(f"/v1/peers/{order}", content=body, headers=headers)
        assert problem(answer, 400, "peer.order").field == field


async def test_numbers_and_keys_without_end_are_refused(peer: FakePeer, tmp_path: Path) -> None:
    """Python itself refuses to read so many digits, and that would be a fault of ours."""
    digits = "9" * 5_000
    async with api_client(peer, tmp_path) as client:
        problem(await client.get(f"/v1/nodes?limit={digits}"), 400, "query.number")
        problem(await client.get(f"/v1/blocks/{digits}"), 400, "query.number")
        for limit in ("", "-1", "+1", " 1", "1_0", "²", "0x1"):
            problem(await client.get("/v1/nodes", params={"limit": limit}), 400, "query.number")
        assert (await client.get(f"/v1/query?key={'ab' * 512}")).status_code == 200
        problem(await client.get(f"/v1/query?key={'ab' * 513}"), 400, "query.key")
        problem(await client.get("/v1/query?key="), 400, "query.key")
        for path in ("", "farm/é", "farm/%ff"):
            problem(await client.get(f"/v1/query?path={path}"), 400, "query.key")


async def test_a_fetch_that_cannot_be_is_refused(peer: FakePeer, tmp_path: Path) -> None:
    path = f"/v1/artifacts/{'ab' * 32}/fetch"
    async with api_client(peer, tmp_path) as client:
        for chunks in ("zz", "AB" * 32, "ab" * 31):
            answer = await client.post(f"{path}?chunks={chunks}", headers=AUTH)
            assert problem(answer, 400, "artifact.digest").field == "chunks"
        problem(await client.post(f"{path}?size=-1", headers=AUTH), 400, "query.number")
        problem(await client.post(f"{path}?size={ARTIFACT_BYTES_MAX + 1}", headers=AUTH), 400, "query.number")
        assert (
            "cannot fetch" in problem(await client.post(path, headers=AUTH), 404, "artifact.unknown").detail
        )


def test_the_first_digits_of_an_id_name_one_or_none() -> None:
    """Else a consumer would see, and cancel, another's deployment."""
    state = World().state
    ids = [bytes.fromhex(digits) + bytes(28) for digits in ("abcdef00", "abcdef01", "abcde000")]
    for id_ in ids:
        state.put(b"deployment/" + id_, b"")
    peer = cast(PeerSeam, SimpleNamespace(state=state))

    def found(ref: str) -> bytes:
        return full_id(peer, b"deployment/", ref, "deployment")

    assert [found(ref) for ref in ("abcdef00", "abcdef01", "abcde0")] == ids
    assert found(ids[1].hex()) == ids[1]
    for ref, status, rule in (
        ("abcdef", 409, "deployment.ambiguous"),
        ("abcdef0", 409, "deployment.ambiguous"),
        ("abcdef02", 404, "deployment.unknown"),
        ("abcde", 400, "query.id"),
        ("ABCDEF00", 400, "query.id"),
        (ids[0].hex() + "0", 400, "query.id"),
    ):
        with pytest.raises(ApiProblem) as caught:
            found(ref)
        assert (caught.value.problem.status, caught.value.problem.rule) == (status, rule), ref


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 400),
        ([(b"host", b"localhost"), (b"host", b"evil.example")], 400),
        ([(b"host", b"localhost"), (b"host", b"localhost")], 400),
        ([(b"host", b"")], 403),
        ([(b"host", b"evil.example")], 403),
        (
            [(b"host", b"localhost"), (b"origin", b"http://localhost"), (b"origin", b"http://evil.example")],
            403,
        ),
        ([(b"host", b"localhost"), (b"origin", b"evil.example")], 403),
        ([(b"host", b"localhost"), (b"origin", b"http://[")], 403),
        ([(b"host", b"localhost"), (b"content-length", b"%d" % (BODY_BYTES_MAX + 1))], 413),
        ([(b"host", b"localhost"), (b"content-length", b"9" * 5_000)], 413),
    ],
)
async def test_one_name_and_that_ours(headers: list[tuple[bytes, bytes]], status: int) -> None:
    """Two names: a proxy before us may go by the other one."""
    sent: list[Any] = []

    async def reached(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it came through")

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "POST", "path": "/v1/tx", "headers": headers}
    await Guard(reached, frozenset())(scope | {"client": ("127.0.0.1", 1)}, receive, send)
    assert sent[0]["status"] == status
