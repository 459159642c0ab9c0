"""POST /v1/peers/…: what the operator orders about other peers while this one runs."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from node.api import models as m
from node.api.core import answer, api_of, json_body, need_token
from node.api.problems import ApiProblem
from p2p.errors import LocalError
from p2p.operator import Operator


async def _order(request: Request) -> tuple[Operator, m.PeerOrder]:
    need_token(request)
    return api_of(request).peer.network.operator, await json_body(request, m.PeerOrder)


def _ordered(changed: bool) -> Response:
    return answer(m.PeerOrdered(changed=changed))


def _wrong(error: LocalError, field: str) -> ApiProblem:
    return ApiProblem(400, "peer.order", str(error), field)


async def add(request: Request) -> Response:
    """Hold a connection to the peer of an address."""
    operator, order = await _order(request)
    try:
        return _ordered(operator.add(order.address))
    except LocalError as error:
        raise _wrong(error, "address") from None


async def remove(request: Request) -> Response:
    """Forget a peer and end its connection."""
    operator, order = await _order(request)
    try:
        return _ordered(operator.remove(order.peer_id))
    except LocalError as error:
        raise _wrong(error, "peer_id") from None


async def ban(request: Request) -> Response:
    """Refuse a peer until it is unbanned."""
    operator, order = await _order(request)
    try:
        return _ordered(operator.ban(order.peer_id, order.reason))
    except LocalError as error:
        raise _wrong(error, "peer_id") from None


async def unban(request: Request) -> Response:
    """Lift a ban, whoever made it, and forgive."""
    operator, order = await _order(request)
    try:
        return _ordered(operator.unban(order.peer_id))
    except LocalError as error:
        raise _wrong(error, "peer_id") from None
