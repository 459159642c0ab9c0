"""POST and PUT: transactions and the 3bot."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ledger.errors import Refused
from ledger.limits import TX_BYTES_MAX
from ledger.transactions import decode_tx
from node.api import models as m
from node.api.bot_seam import BotSeam, CancelRequest, DeployRequest, PlanRequest, SecretsRequest
from node.api.clients import client_name
from node.api.core import (
    Api,
    answer,
    api_of,
    body_bytes,
    choice,
    json_body,
    need_token,
    need_type,
    seconds,
)
from node.api.limits import WAIT_S_DEFAULT, WAIT_S_MAX
from node.api.problems import ApiProblem, not_found
from node.api.update_seam import SteerRequest, UpdateRequest, UpdateWish


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


async def bot_plan_update(request: Request) -> Response:
    need_token(request)
    bot = _bot(api_of(request))
    return answer(await bot.plan_update(await json_body(request, UpdateRequest)))


async def bot_update(request: Request) -> Response:
    need_token(request)
    bot = _bot(api_of(request))
    return answer(await bot.update(await json_body(request, UpdateWish)))


async def bot_steer_update(request: Request) -> Response:
    need_token(request)
    bot = _bot(api_of(request))
    return answer(await bot.steer_update(await json_body(request, SteerRequest)))


async def bot_cancel(request: Request) -> Response:
    need_token(request)
    bot = _bot(api_of(request))
    return answer(await bot.cancel(await json_body(request, CancelRequest)))


async def bot_status(request: Request) -> Response:
    need_token(request)
    return answer(await _bot(api_of(request)).status())


async def bot_set_secrets(request: Request) -> Response:
    need_token(request)
    bot = _bot(api_of(request))
    return answer(await bot.set_secrets(await json_body(request, SecretsRequest)))


async def bot_secrets(request: Request) -> Response:
    need_token(request)
    return answer(await _bot(api_of(request)).secrets(request.path_params["deployment"]))


async def not_here(request: Request) -> Response:
    """Anything under /v1 that is not there."""
    raise ApiProblem(404, "http.not_found", f"no such resource: {request.url.path[:200]}")
