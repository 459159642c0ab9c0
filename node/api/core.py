"""What handlers share: the application's parts, and reading requests strictly."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response

from node.api.bot_seam import BotSeam
from node.api.clients import Places
from node.api.limits import (
    AUDITS_MAX,
    AUDITS_OF_CLIENT_MAX,
    BODY_BYTES_MAX,
    BODY_S,
    EVENT_CLIENTS_MAX,
    EVENTS_OF_CLIENT_MAX,
    PAGE_DEFAULT,
    PAGE_MAX,
    STREAMS_MAX,
    STREAMS_OF_CLIENT_MAX,
)
from node.api.problems import ApiProblem
from node.executor.status import ExecutorStatus
from node.files.artifacts import ArtifactStore
from node.files.cid import sha256_of
from node.files.exchange import Exchange
from node.seam import PeerSeam

T = TypeVar("T")


@dataclass(slots=True)
class Api:
    """One peer's API. `bot` is None on peers without one, `exchange` where nothing can be fetched, `slots`
    (what its executor says) on peers that are no 3node."""

    peer: PeerSeam
    token: str
    artifacts: ArtifactStore
    bot: BotSeam | None = None
    exchange: Exchange | None = None
    slots: Callable[[], ExecutorStatus] | None = None
    event_clients: Places = field(default_factory=lambda: Places(EVENT_CLIENTS_MAX, EVENTS_OF_CLIENT_MAX))
    audits: Places = field(default_factory=lambda: Places(AUDITS_MAX, AUDITS_OF_CLIENT_MAX))
    tx_streams: Places = field(default_factory=lambda: Places(STREAMS_MAX, STREAMS_OF_CLIENT_MAX))
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, name: str) -> None:
        """One more of that, for the metrics."""
        self.counts[name] = self.counts.get(name, 0) + 1


def api_of(request: Request) -> Api:
    """The API that serves this request."""
    api: Api = request.app.state.api
    return api


def answer(value: Any, status: int = 200) -> Response:
    """JSON of a model. Nothing is cached: a peer's state moves."""
    return Response(msgspec.json.encode(value), status, {"Cache-Control": "no-store"}, "application/json")


def need_token(request: Request) -> None:
    """Raises ApiProblem 401 unless the request shows the home's token."""
    given = request.headers.get("authorization", "")
    scheme, _, token = given.partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(token.encode(), api_of(request).token.encode()):
        raise ApiProblem(401, "http.token", "the token of the peer's home wanted: Authorization: Bearer …")


def number(request: Request, name: str, default: int, low: int, high: int) -> int:
    """A whole number of the query. Raises ApiProblem 400."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 16 or not low <= int(text) <= high:
        raise ApiProblem(400, "query.number", f"a whole number from {low} to {high} wanted", name)
    return int(text)


def seconds(request: Request, name: str, default: float, most: float) -> float:
    """A time of the query, in seconds. Raises ApiProblem 400."""
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= most:
        raise ApiProblem(400, "query.seconds", f"0 to {most:.0f} seconds wanted", name)
    return found


def choice(request: Request, name: str, default: str, allowed: tuple[str, ...]) -> str:
    """One of a few words of the query. Raises ApiProblem 400."""
    text = request.query_params.get(name, default)
    if text not in allowed:
        raise ApiProblem(400, "query.choice", f"one of {', '.join(allowed)} wanted", name)
    return text


def paging(request: Request) -> tuple[str, int]:
    """Cursor and limit of a list."""
    return request.query_params.get("cursor", ""), number(request, "limit", PAGE_DEFAULT, 1, PAGE_MAX)


async def body_bytes(request: Request, most: int = BODY_BYTES_MAX) -> bytes:
    """The whole body. Raises ApiProblem 408, 413."""
    parts, count = [], 0
    with trio.move_on_after(BODY_S):
        async with aclosing(request.stream()) as stream:
            async for chunk in stream:
                count += len(chunk)
                if count > most:
                    raise ApiProblem(413, "http.too_long", f"at most {most} bytes")
                parts.append(chunk)
        return b"".join(parts)
    raise ApiProblem(408, "http.slow_body", f"the body took more than {BODY_S:.0f} s")


def digest_of(request: Request) -> str:
    """The sha256 in the path, as such or as CIDv1, checked: a file name. Raises ApiProblem 400."""
    try:
        return sha256_of(request.path_params["sha256"])
    except ValueError as error:
        raise ApiProblem(400, "artifact.digest", str(error), "sha256") from None


def need_type(request: Request, wanted: str) -> None:
    """Raises ApiProblem 415 for another content type: a foreign page cannot send this one unasked."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != wanted:
        raise ApiProblem(415, "http.content_type", f"Content-Type: {wanted} wanted", "Content-Type")


async def json_body(request: Request, kind: type[T]) -> T:
    """A strict model of the body. Raises ApiProblem 400, 413, 415."""
    need_type(request, "application/json")
    data = await body_bytes(request)
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ApiProblem(400, "http.body", str(error)) from None
