"""/v1/events: committed events as server-sent events (WHATWG HTML, section 9.2), with replay and honest gaps.

Nothing is kept for a client: it reads from the store at its own pace. `Last-Event-ID` (or ?after=ID)
replays; where that is impossible an event `gap` says which were left out.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import cast

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ledger.errors import Refused
from node.api import models as m
from node.api.block_views import event_view
from node.api.core import Api, api_of
from node.api.limits import EVENT_CLIENTS_MAX, HEARTBEAT_S, RETRY_AFTER_S
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
    if api.event_clients >= EVENT_CLIENTS_MAX:
        raise ApiProblem(429, "events.too_many", f"{EVENT_CLIENTS_MAX} clients listen", retry_s=RETRY_AFTER_S)
    kind = request.query_params.get("kind", "")
    subject = request.query_params.get("subject", "")
    stream = _stream(api, after, kind, subject)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


async def _stream(api: Api, after: str | None, kind: str, subject: str) -> AsyncIterator[bytes]:
    api.event_clients += 1
    try:
        # The pump waits for us at each event (a channel without a buffer), so a slow client costs no memory.
        send, receive = trio.open_memory_channel[Item](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_pump, api, after, send)
            yield b": gridpact events\nretry: 1000\n\n"
            while True:
                with trio.move_on_after(HEARTBEAT_S) as silent:
                    item = await receive.receive()
                if silent.cancelled_caught:
                    yield b": still here\n\n"
                elif (text := _render(item, kind, subject)) is not None:
                    yield text
    finally:
        api.event_clients -= 1


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
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (item.id.encode(), item.event.kind.encode(), data)
