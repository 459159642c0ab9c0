"""POST and PUT: transactions, artifacts, and the 3bot."""

from __future__ import annotations

from contextlib import aclosing

import trio
from starlette.requests import Request
from starlette.responses import Response

from ledger.errors import Refused
from ledger.limits import ARTIFACT_BYTES_MAX, TX_BYTES_MAX
from ledger.transactions import decode_tx
from node.api import models as m
from node.api.bot_seam import BotSeam, CancelRequest, DeployRequest, PlanRequest
from node.api.clients import client_name
from node.api.core import (
    Api,
    answer,
    api_of,
    body_bytes,
    choice,
    digest_of,
    json_body,
    need_token,
    need_type,
    number,
    seconds,
)
from node.api.limits import WAIT_S_DEFAULT, WAIT_S_MAX
from node.api.problems import ApiProblem, not_found
from node.exchange import Wanted


async def submit(request: Request) -> Response:
    """A signed transaction, as raw bytes. Sending one again is harmless and waits for the same outcome."""
    need_type(request, "application/octet-stream")
    api = api_of(request)
    wait = choice(request, "wait", "accepted", ("none", "accepted", "final"))
    timeout_s = seconds(request, "timeout", WAIT_S_DEFAULT, WAIT_S_MAX)
    raw = await body_bytes(request, TX_BYTES_MAX)
    try:
        id_ = await api.peer.submit(raw, client_name(request.scope))
    except Refused as error:
        if error.rule != "tx.duplicate":
            raise
        id_ = decode_tx(raw, api.peer.chain_id).id
    if wait != "final":
        return answer(m.TxResult(id=id_.hex(), state="accepted" if wait == "accepted" else "sent"), 202)
    outcome = await api.peer.wait_final(id_, timeout_s)
    receipt = outcome.receipt
    return answer(
        m.TxResult(
            id=id_.hex(),
            state="final",
            height=outcome.height,
            time_ms=outcome.time_ms,
            ok=receipt.ok,
            rule=receipt.rule,
            detail=receipt.detail,
        )
    )


async def put_artifact(request: Request) -> Response:
    need_token(request)
    api = api_of(request)
    digest = digest_of(request)
    held = api.artifacts.size_bytes(digest)
    if held is not None:
        return answer(m.ArtifactView(sha256=digest, size_bytes=held))
    intake = api.artifacts.intake()
    try:
        async with aclosing(request.stream()) as stream:
            async for piece in stream:
                intake.write(piece)
        info = intake.finish(digest)
    except BaseException:
        intake.abort()
        raise
    return answer(m.ArtifactView(sha256=digest, size_bytes=info.size_bytes), 201)


async def fetch_artifact(request: Request) -> Response:
    """Get an artifact from other peers, checked against its digest, and hold it from now on."""
    need_token(request)
    api = api_of(request)
    digest = digest_of(request)
    size = number(request, "size", 0, 0, ARTIFACT_BYTES_MAX)
    timeout_s = seconds(request, "timeout", WAIT_S_DEFAULT, WAIT_S_MAX)
    if not api.artifacts.has(digest):
        if api.exchange is None:
            raise not_found("this peer cannot fetch artifacts", "artifact.unknown")
        with trio.move_on_after(timeout_s):
            await api.exchange.fetch(Wanted(digest, size, None))
    held = api.artifacts.size_bytes(digest)
    if held is None:
        raise ApiProblem(504, "artifact.not_found", f"no peer gave it within {timeout_s:.0f} s", "sha256")
    return answer(m.ArtifactView(sha256=digest, size_bytes=held))


def _bot(api: Api) -> BotSeam:
    if api.bot is None:
        raise not_found("this peer runs no 3bot; ask one that has the role bot", "bot.none")
    return api.bot


async def bot_plan(request: Request) -> Response:
    need_token(request)
    bot = _bot(api_of(request))
    return answer(await bot.plan(await json_body(request, PlanRequest)))


async def bot_deploy(request: Request) -> Response:
    need_token(request)
    bot = _bot(api_of(request))
    return answer(await bot.deploy(await json_body(request, DeployRequest)))


async def bot_cancel(request: Request) -> Response:
    need_token(request)
    bot = _bot(api_of(request))
    return answer(await bot.cancel(await json_body(request, CancelRequest)))


async def bot_status(request: Request) -> Response:
    need_token(request)
    return answer(await _bot(api_of(request)).status())


async def not_here(request: Request) -> Response:
    """Anything under /v1 that is not there."""
    raise ApiProblem(404, "http.not_found", f"no such resource: {request.url.path[:200]}")
