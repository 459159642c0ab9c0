"""Request and response on a link's bulk stream, many at once by number, bounded in both directions."""

from collections.abc import Awaitable, Callable

import trio

from p2p import frames
from p2p.channel import Channel
from p2p.errors import LocalError, PeerGone, Refused, RequestTimeout, TooManyRequests
from p2p.frames import Kind, Status
from p2p.limits import PAYLOAD_BYTES_MAX, REQUESTS_IN_MAX, REQUESTS_OUT_MAX

_ID_SPACE = 2**32

Serve = Callable[[str, bytes], Awaitable[bytes]]


class _Answer:
    """One outstanding request: ``done`` is set when status and body are there, or the link ended."""

    __slots__ = ("body", "done", "status")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.status: Status | None = None
        self.body = b""


class Requests:
    """Both directions of one link. ``serve`` gives the answer to a peer's request, or raises Refused."""

    def __init__(self, peer_id: str, bulk: Channel, serve: Serve) -> None:
        self.dropped = 0
        self._peer_id = peer_id
        self._bulk = bulk
        self._serve = serve
        self._answers: dict[int, _Answer] = {}
        self._next_id = 0
        self._serving = 0
        self._end_reason = ""

    async def ask(self, method: str, body: bytes, timeout_s: float) -> bytes:
        """Returns the peer's answer; raises Refused, RequestTimeout, PeerGone or TooManyRequests."""
        if len(self._answers) >= REQUESTS_OUT_MAX:
            raise TooManyRequests(f"{len(self._answers)} requests outstanding to {self._peer_id}")
        request_id = self._next_id
        if not self._bulk.put(Kind.REQUEST, frames.request_body(request_id, method, body)):
            self.dropped += 1
            raise TooManyRequests(f"the queue to {self._peer_id} is full")
        self._next_id = (request_id + 1) % _ID_SPACE
        answer = self._answers[request_id] = _Answer()
        try:
            with trio.move_on_after(timeout_s):
                await answer.done.wait()
        finally:
            self._answers.pop(request_id, None)
        if answer.status is Status.OK:
            return answer.body
        if answer.status is Status.REFUSED:
            raise Refused(frames.parse_reason(answer.body))
        if answer.status is Status.BUSY:
            raise TooManyRequests(f"peer {self._peer_id} is busy")
        if answer.done.is_set():
            raise PeerGone(f"the connection to {self._peer_id} ended: {self._end_reason}")
        raise RequestTimeout(f"{method} to {self._peer_id}: no answer in {timeout_s} s")

    def end(self, reason: str) -> None:
        """Lets all who wait know that the link is gone."""
        self._end_reason = reason
        for answer in self._answers.values():
            answer.done.set()

    def on_response(self, body: bytes) -> None:
        """Takes a RESPONSE; raises PeerFault when it is malformed. One after its time-out is dropped."""
        request_id, status, answer_body = frames.parse_response(self._peer_id, body)
        answer = self._answers.get(request_id)
        if answer is not None and not answer.done.is_set():
            answer.status, answer.body = status, answer_body
            answer.done.set()

    def on_request(self, body: bytes) -> Callable[[], Awaitable[None]] | None:
        """Takes a REQUEST; raises PeerFault when it is malformed.

        Returns the work of answering, to be started as a task, or None when the peer asks too much at once:
        then it hears BUSY, if it reads at all.
        """
        request_id, method, request = frames.parse_request(self._peer_id, body)
        if self._serving >= REQUESTS_IN_MAX:
            if not self._bulk.put(Kind.RESPONSE, frames.response_head(request_id, Status.BUSY)):
                self.dropped += 1
            return None
        self._serving += 1

        async def answer() -> None:
            try:
                await self._answer(request_id, method, request)
            finally:
                self._serving -= 1

        return answer

    async def _answer(self, request_id: int, method: str, body: bytes) -> None:
        try:
            status, reply = Status.OK, await self._serve(method, body)
        except Refused as refusal:
            status, reply = Status.REFUSED, frames.goodbye_body(refusal.reason)
        if len(reply) > PAYLOAD_BYTES_MAX:
            raise LocalError(f"answer to {method}: {len(reply)} B, at most {PAYLOAD_BYTES_MAX} B")
        await self._bulk.put_when_room(Kind.RESPONSE, reply, frames.response_head(request_id, status))
