"""The ASGI application of one peer, and its server on trio."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
import trio
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute
from starlette.routing import Route as StarletteRoute

from ledger.errors import LocalError, Refused
from node.api.bot_seam import BotSeam
from node.api.core import Api
from node.api.guard import Guard
from node.api.limits import HEADER_BYTES_MAX
from node.api.metrics import make_registry
from node.api.openapi import make_openapi, openapi
from node.api.problems import ApiProblem, on_error
from node.api.routes import ROUTES
from node.api.server import serve_connections
from node.api.writes import not_here
from node.config import split_host_port
from node.errors import ArtifactError
from node.executor.status import ExecutorStatus
from node.files.artifacts import ArtifactStore
from node.files.exchange import Exchange
from node.seam import NotFinal, Overloaded, PeerSeam
from node.web.pages import web_routes
from p2p.network import Started

_EXPLAINED: Final = (ApiProblem, Refused, Overloaded, NotFinal, ArtifactError, HTTPException, LocalError)


def make_app(
    peer: PeerSeam,
    *,
    token: str,
    artifacts: ArtifactStore,
    bot: BotSeam | None = None,
    exchange: Exchange | None = None,
    slots: Callable[[], ExecutorStatus] | None = None,
    hosts: Iterable[str] = (),
) -> Guard:
    """API, explorer and metrics of a peer. `hosts`: further names that it goes by."""
    if not token:
        raise LocalError("the API needs a token")
    api = Api(peer, token, artifacts, bot, exchange, slots)
    routes: list[BaseRoute] = [StarletteRoute(r.path, r.handler, methods=[r.method]) for r in ROUTES]
    routes.append(StarletteRoute("/openapi.json", openapi))
    routes += web_routes()
    routes.append(StarletteRoute("/v1/{rest:path}", not_here))
    app = Starlette(routes=routes, exception_handlers=dict.fromkeys(_EXPLAINED, on_error))
    app.state.api = api
    app.state.openapi = msgspec.json.encode(make_openapi())
    names = frozenset(name.lower() for name in hosts)
    guard = Guard(app, names, api.count, lambda: peer.status().stale)
    app.state.registry = make_registry(api, guard)
    return guard


async def serve_api(
    peer: PeerSeam,
    *,
    listen: str,
    token: str,
    artifacts: ArtifactStore,
    bot: BotSeam | None = None,
    exchange: Exchange | None = None,
    slots: Callable[[], ExecutorStatus] | None = None,
    hosts: Iterable[str] = (),
    task_status: Started = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. `started` gives host:port. Raises LocalError when it cannot listen."""
    host, _ = split_host_port(listen)
    names = [*hosts, host]
    app = make_app(
        peer, token=token, artifacts=artifacts, bot=bot, exchange=exchange, slots=slots, hosts=names
    )
    listener = _listen(listen)
    address = listener.getsockname()
    config = Config()
    config.accesslog = None
    config.loglevel = "WARNING"
    config.include_server_header = False
    config.h11_max_incomplete_size = HEADER_BYTES_MAX
    logging.getLogger("hypercorn.error").propagate = False  # it has a handler of its own
    task_status.started(f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}")
    async with trio.SocketListener(trio.socket.from_stdlib_socket(listener)) as listening:
        await serve_connections(app, config, listening, app.connections)


def _listen(listen: str) -> socket.socket:
    """A listening socket. Raises LocalError. Ours, because the server leaks its own when it cannot bind."""
    host, port = split_host_port(listen)
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise LocalError(f"{listen}: the API cannot listen there: {error.strerror or error}") from error
    return listener
