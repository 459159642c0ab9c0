"""What every request passes first: whose name it calls us by, how much it brings, how many there are.

A loopback service is reachable from any web page that the user opens; a foreign page can even make its
own host name point here (DNS rebinding). So names that are not ours are refused, and so are origins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.api.clients import Places, client_name
from node.api.limits import BODY_BYTES_MAX, REQUESTS_MAX, REQUESTS_OF_CLIENT_MAX, RETRY_AFTER_S
from node.api.problems import ApiProblem, problem_response
from node.api.server import Connections

_LENGTH_DIGITS_MAX = 15  # more is too long in any case, and no number that Python reads at any length
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


class Guard:
    """ASGI middleware. `requests` counts answers by status, `count` refusals;
    while `is_stale` says so, each answer is marked: what is read here is not what the validators signed."""

    def __init__(
        self,
        app: ASGIApp,
        hosts: frozenset[str],
        count: Callable[[str], None] = lambda name: None,
        is_stale: Callable[[], bool] = lambda: False,
    ) -> None:
        self._app = app
        self._hosts = hosts | frozenset(LOCAL_NAMES)
        self._count = count
        self._is_stale = is_stale
        self.requests: Counter[int] = Counter()
        self.connections = Connections(count)
        self._clients = Places(REQUESTS_MAX, REQUESTS_OF_CLIENT_MAX)

    @property
    def running(self) -> int:
        """Requests under way."""
        return self._clients.total

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.requests[message["status"]] += 1
                message.setdefault("headers", [])
                message["headers"] += [
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
                if self._is_stale():
                    message["headers"].append((b"gridpact-stale", b"true"))
            await send(message)

        client = client_name(scope)
        has_room = self._clients.has_room(client)
        self._clients.enter(client)
        try:
            problem = self._check(scope, has_room)
            if problem is not None:
                self._count(f"refused.{problem.problem.rule}")
                await problem_response(problem.problem)(scope, receive, counted)
            else:
                await self._app(scope, receive, counted)
        finally:
            self._clients.leave(client)

    def _check(self, scope: Scope, has_room: bool) -> ApiProblem | None:
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        named = headers.get(b"host", [])
        if len(named) != 1:
            return ApiProblem(400, "http.host", "exactly one Host header wanted", "Host")
        if _host_name(named[0]) not in self._hosts:
            return ApiProblem(403, "http.host", "this peer does not go by that name (see api.hosts)", "Host")
        for origin in headers.get(b"origin", []):
            if origin != b"null" and _origin_name(origin) not in self._hosts:
                return ApiProblem(403, "http.origin", "no requests from other sites", "Origin")
        length = headers.get(b"content-length", [b"0"])[0]
        is_upload = scope["method"] == "PUT" and scope["path"].startswith("/v1/artifacts/")
        is_long = length.isdigit() and (len(length) > _LENGTH_DIGITS_MAX or int(length) > BODY_BYTES_MAX)
        if is_long and not is_upload:
            return ApiProblem(413, "http.too_long", f"at most {BODY_BYTES_MAX} bytes", "Content-Length")
        if not has_room:
            return ApiProblem(429, "http.busy", "too many requests at once", retry_s=RETRY_AFTER_S)
        return None


def _origin_name(value: bytes) -> str:
    """Empty for what is no origin."""
    try:
        return urlsplit(value.decode("latin-1")).hostname or ""
    except ValueError:
        return ""


def _host_name(value: bytes) -> str:
    text = value.decode("latin-1").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]
