"""POST /v1/txs: many signed transactions over one request, each answered as soon as its end is known.

The body is a row of frames: 4 bytes, the length of a transaction, most significant first, then its bytes.
The answer is a row of JSON lines (`TxLine`), in the order in which things happen; `n` counts the frames from
0. A client may send the whole body at once and read the whole answer, or keep both open and go on sending
while it reads: at STREAM_TXS_MAX whose lines it has not read, no more is read from it. The answer
ends when the body has ended and every transaction has its line. One head and one write serve many
transactions: a request for each costs more than all that is done for it.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ledger.errors import Refused
from ledger.limits import TX_BYTES_MAX
from ledger.transactions import decode_tx
from node.api import models as m
from node.api.clients import client_name
from node.api.core import Api, api_of, choice, need_type, seconds
from node.api.limits import (
    OVERLOAD_HOLD_S,
    RETRY_AFTER_S,
    SEND_S,
    STREAM_GROUP_BYTES,
    STREAM_TXS_MAX,
    STREAMS_MAX,
    STREAMS_OF_CLIENT_MAX,
    WAIT_S_DEFAULT,
    WAIT_S_MAX,
)
from node.api.problems import ApiProblem
from node.seam import Overloaded, TxOutcome

_LENGTH: Final = 4
_LINES_AT_ONCE: Final = 512  # some 100 KiB
_GONE_AFTER_S: Final = 4 * SEND_S
_encode: Final = msgspec.json.Encoder().encode


async def submit_many(request: Request) -> Response:
    """Signed transactions as a stream of frames; see the module."""
    need_type(request, "application/octet-stream")
    api = api_of(request)
    wait = choice(request, "wait", "final", ("accepted", "final"))
    timeout_s = seconds(request, "timeout", WAIT_S_DEFAULT, WAIT_S_MAX)
    client = client_name(request.scope)
    if not api.tx_streams.has_room(client):
        why = f"{STREAMS_MAX} streams are open, or {STREAMS_OF_CLIENT_MAX} of yours"
        raise ApiProblem(429, "http.busy", why, retry_s=RETRY_AFTER_S)
    return TxStream(api, client, wait == "final", timeout_s)


class Frames:
    """Cuts a body into transactions. `rule` says what was wrong with it, once something is."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.rule = ""

    def feed(self, data: bytes) -> list[bytes]:
        """The transactions that are complete by now."""
        found: list[bytes] = []
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= _LENGTH:
            size = int.from_bytes(buffer[at : at + _LENGTH], "big")
            if size > TX_BYTES_MAX:
                self.rule = "tx.too_long"
                break
            if len(buffer) - at - _LENGTH < size:
                break
            found.append(bytes(buffer[at + _LENGTH : at + _LENGTH + size]))
            at += _LENGTH + size
        del buffer[:at]
        return found

    def end(self) -> None:
        """No more comes."""
        if self._buffer and not self.rule:
            self.rule = "tx.malformed"


class TxStream(Response):
    """The answer, written as transactions come to their ends. Its own ASGI callable, as node.api.events."""

    def __init__(self, api: Api, source: str, is_final: bool, timeout_s: float) -> None:
        super().__init__(None, headers={"Cache-Control": "no-store"}, media_type="application/jsonl")
        del self.headers["content-length"]
        self._api = api
        self._peer = api.peer
        self._source = source
        self._is_final = is_final
        self._timeout_s = timeout_s
        self._count = 0  # frames so far
        self._written = 0  # of these, those whose line was sent
        self._places: dict[bytes, list[int]] = {}  # id -> its frames that wait for its end
        self._deadlines: deque[tuple[float, bytes]] = deque()  # in order: all wait equally long
        self._lines: list[m.TxLine] = []
        self._ended = False
        self._gone = False
        self._bell = trio.Event()
        self._room = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._api.tx_streams.enter(self._source)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, receive)
                await self._write(send)
                nursery.cancel_scope.cancel()
        finally:
            self._api.tx_streams.leave(self._source)
            for id_ in self._places:
                self._peer.unwatch(id_, self._told)

    # --- what comes ------------------------------------------------------------------------------

    async def _read(self, receive: Receive) -> None:
        frames = Frames()
        while not self._ended:
            message = await receive()
            if message["type"] == "http.disconnect":
                self._gone = self._ended = True
            else:
                found = frames.feed(message.get("body", b""))
                if not message.get("more_body", False):
                    frames.end()
                while found:
                    found = found[await self._take(found) :]
                if frames.rule:
                    self._say(self._count, m.TxLine(state="refused", rule=frames.rule))
                self._ended = bool(frames.rule) or not message.get("more_body", False)
            self._bell.set()
        while not self._gone:  # so that a client that leaves is heard
            self._gone = (await receive())["type"] == "http.disconnect"
        self._bell.set()

    def _left(self) -> int:
        """How many more may come now: each of those here holds memory until its line has been read."""
        return STREAM_TXS_MAX - max(len(self._deadlines), self._count - self._written)

    async def _take(self, raws: list[bytes]) -> int:
        """Submit the first of them, as many as there is room for. Returns how many."""
        while (left := self._left()) <= 0:
            self._room = trio.Event()
            await self._room.wait()
        group: list[bytes] = []
        size = 0
        for raw in raws[:left]:
            if group and size + len(raw) > STREAM_GROUP_BYTES:
                break
            group.append(raw)
            size += len(raw)
        first = self._count
        self._count += len(group)
        answers = await self._peer.submit_many(group, self._source)
        for number, (raw, answer) in enumerate(zip(group, answers, strict=True), first):
            self._answered(number, raw, answer)
        self._bell.set()
        hints_s = [answer.retry_s for answer in answers if isinstance(answer, Overloaded)]
        if hints_s:  # no more is read from who brings too much, for a while [Q4]
            await trio.sleep(min(OVERLOAD_HOLD_S, *hints_s))
        return len(group)

    def _answered(self, number: int, raw: bytes, answer: bytes | Refused | Overloaded) -> None:
        if isinstance(answer, Overloaded):
            retry_ms = round(answer.retry_s * 1000)
            line = m.TxLine(state="overloaded", rule="peer.overloaded", retry_after_ms=retry_ms)
            self._say(number, line)
            return
        if isinstance(answer, Refused):
            if answer.rule != "tx.duplicate":
                self._say(number, m.TxLine(state="refused", rule=answer.rule, detail=answer.detail))
                return
            answer = decode_tx(raw, self._peer.chain_id).id  # final already: sending it again is harmless
        if not self._is_final:
            self._say(number, m.TxLine(state="accepted", id=answer.hex()))
            return
        places = self._places.get(answer)
        if places is not None:
            places.append(number)
            return
        self._places[answer] = [number]
        try:
            self._peer.watch_final(answer, self._told)
        except Overloaded as error:
            del self._places[answer]
            retry_ms = round(error.retry_s * 1000)
            self._say(number, m.TxLine(state="accepted", id=answer.hex(), retry_after_ms=retry_ms))
            return
        self._deadlines.append((trio.current_time() + self._timeout_s, answer))

    # --- what is told ----------------------------------------------------------------------------

    def _say(self, number: int, line: m.TxLine) -> None:
        line.n = number
        self._lines.append(line)

    def _told(self, outcome: TxOutcome) -> None:
        """A transaction is final. Called while its block is committed."""
        receipt = outcome.receipt
        for number in self._places.pop(receipt.id, ()):
            line = m.TxLine(
                n=number,
                id=receipt.id.hex(),
                state="final",
                height=outcome.height,
                time_ms=outcome.time_ms,
                ok=receipt.ok,
                rule=receipt.rule,
                detail=receipt.detail,
            )
            self._lines.append(line)
        self._bell.set()

    def _expire(self) -> None:
        """Forget deadlines of what is final, and give up what is late."""
        now, deadlines, places = trio.current_time(), self._deadlines, self._places
        while deadlines and (deadlines[0][1] not in places or deadlines[0][0] <= now):
            id_ = deadlines.popleft()[1]
            for number in places.pop(id_, ()):
                self._peer.unwatch(id_, self._told)
                self._say(number, m.TxLine(id=id_.hex(), state="late", rule="tx.not_final"))
        if self._left() > 0:
            self._room.set()

    async def _write(self, send: Send) -> None:
        while not self._gone:
            self._expire()
            if self._lines:
                lines, self._lines = self._lines[:_LINES_AT_ONCE], self._lines[_LINES_AT_ONCE:]
                body = b"\n".join([*map(_encode, lines), b""])
                # The server tells of a client that is gone by `receive`, which may wait for us in turn.
                with trio.move_on_after(_GONE_AFTER_S) as scope:
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                if scope.cancelled_caught:
                    return
                self._written += len(lines)
                continue
            if self._ended and not self._places:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            deadline = self._deadlines[0][0] if self._deadlines else float("inf")
            with trio.move_on_at(deadline):
                await self._bell.wait()
            self._bell = trio.Event()
