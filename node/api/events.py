"""/v1/events: committed events as server-sent events (WHATWG HTML, section 9.2), with replay and honest gaps.

Nothing is kept for a client: it reads from the store at its own pace. `Last-Event-ID` (or ?after=ID)
replays; where that is impossible an event `gap` says which were left out. All others are plain messages,
so that a browser needs one handler; their kind stands in the data.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ledger.errors import Refused
from node.api import models as m
from node.api.block_views import event_view
from node.api.clients import client_name
from node.api.core import Api, api_of
from node.api.limits import EVENT_CLIENTS_MAX, EVENTS_OF_CLIENT_MAX, HEARTBEAT_S, RETRY_AFTER_S
from node.api.problems import ApiProblem
from node.event_log import parse_event_id
from node.seam import Gap, NumberedEvent

Item = NumberedEvent | Gap


async def events(request: Request) -> Response:
    api = api_of(request)
    after = request.headers.get("last-event-id") or request.query_params.get("after") or None
    if after is not None:
        try:
            parse_event_id(after)
        except Refused as error:
            raise ApiProblem(400, error.rule, error.detail, error.field) from None
    client = client_name(request.scope)
    if not api.event_clients.has_room(client):
        why = f"{EVENT_CLIENTS_MAX} clients listen, or {EVENTS_OF_CLIENT_MAX} of yours"
        raise ApiProblem(429, "events.too_many", why, retry_s=RETRY_AFTER_S)
    kind = request.query_params.get("kind", "")
    subject = request.query_params.get("subject", "")
    return EventStream(api, client, after, kind, subject)


class EventStream(Response):
    """The answer, written as events come. Its own ASGI callable: a nursery may not live in a generator."""

    def __init__(self, api: Api, client: str, after: str | None, kind: str, subject: str) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(None, headers=headers, media_type="text/event-stream")
        del self.headers["content-length"]
        self._api = api
        self._client = client
        self._after = after
        self._kind = kind
        self._subject = subject

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._api.event_clients.enter(self._client)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            # The pump waits for us at each event (a channel without a buffer): a slow client costs no memory.
            feed, events_out = trio.open_memory_channel[Item](0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_pump, self._api, self._after, feed)
                nursery.start_soon(self._write, events_out, send)
                while (await receive())["type"] != "http.disconnect":
                    pass
                nursery.cancel_scope.cancel()
        finally:
            self._api.event_clients.leave(self._client)

    async def _write(self, events_out: trio.MemoryReceiveChannel[Item], send: Send) -> None:
        await _send(send, b": gridpact events\nretry: 1000\n\n")
        while True:
            text: bytes | None = b": still here\n\n"
            with trio.move_on_after(HEARTBEAT_S):
                text = _render(await events_out.receive(), self._kind, self._subject)
            if text is not None:
                await _send(send, text)


async def _send(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _pump(api: Api, after: str | None, send: trio.MemorySendChannel[Item]) -> None:
    # EventLog.follow is an async generator: closed here, not when it is collected.
    source = cast(AsyncGenerator[Item, None], api.peer.events(after))
    async with aclosing(source) as found:
        async for item in found:
            await send.send(item)


def _render(item: Item, kind: str, subject: str) -> bytes | None:
    if isinstance(item, Gap):
        data = msgspec.json.encode(m.GapView(first=item.first, next=item.next))
        return b"event: gap\nid: %b\ndata: %b\n\n" % (item.next.encode(), data)
    if not (item.event.kind.startswith(kind) and item.event.subject.startswith(subject)):
        return None
    # JSON escapes line breaks, so one event is one data line.
    data = msgspec.json.encode(event_view(item))
    return b"id: %b\ndata: %b\n\n" % (item.id.encode(), data)
