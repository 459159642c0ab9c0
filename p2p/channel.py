"""One stream of a link: a bounded queue with a batching writer, a reader, and credit in both directions."""

from collections import deque
from collections.abc import Awaitable, Callable

import trio

from p2p.errors import PeerFault
from p2p.frames import HEADER_BYTES, Decoder, Kind, encode, number_body, parse_number, split
from p2p.limits import ACK_EVERY_BYTES, CONTROL_QUEUE_FRAMES, CREDIT_BYTES, WRITE_BYTES_MAX
from p2p.transport import Stream

_BODY_IN_ONE = WRITE_BYTES_MAX - HEADER_BYTES


class Channel:
    """Sends and receives the frames of one stream.

    ``put`` never blocks. The writer takes as many whole frames as fit into one write, control frames first,
    and counted frames only while the peer's credit lasts. Nothing here cancels a write but the end of the
    whole link.
    """

    def __init__(self, stream: Stream, peer_id: str, *, queue_bytes: int, queue_frames: int) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self.queued_bytes = 0
        self.unacknowledged_bytes_peak = 0
        self._stream = stream
        self._peer_id = peer_id
        self._queue_bytes_max = queue_bytes
        self._queue_frames_max = queue_frames
        self._frames: deque[bytes] = deque()
        self._control: deque[bytes] = deque()
        self._work = trio.Event()
        self._room = trio.Event()
        self._writing = False
        self._sent_total = 0  # counted bytes handed to the stream
        self._acked_total = 0  # of these, acknowledged by the peer
        self._taken_total = 0  # counted bytes of the peer that were handled here
        self._ack_told = 0
        self._ack_due = False

    @property
    def unacknowledged_bytes(self) -> int:
        """Counted bytes that were written and that the peer has not acknowledged."""
        return self._sent_total - self._acked_total

    @property
    def idle(self) -> bool:
        """True when nothing waits and nothing is being written."""
        return not (self._frames or self._control or self._ack_due or self._writing)

    def put(self, kind: Kind, body: bytes, head: bytes = b"") -> bool:
        """Queues one counted message whole, ``head`` before ``body``, or returns False when the queue has no
        room for it."""
        length = len(head) + len(body)
        count = max(1, -(-length // _BODY_IN_ONE))
        size = length + count * HEADER_BYTES
        queued = self.queued_bytes + size
        if queued > self._queue_bytes_max or len(self._frames) + count > self._queue_frames_max:
            return False
        if count == 1 and not head:
            self._frames.append(encode(kind, body))
        else:
            self._frames.extend(split(kind, body, head))
        self.queued_bytes = queued
        self._work.set()
        return True

    async def put_when_room(self, kind: Kind, body: bytes, head: bytes = b"") -> None:
        """Queues one counted message, waiting until the queue has room."""
        while not self.put(kind, body, head):
            await self._next_write()

    async def flushed(self) -> None:
        """Returns when everything queued was written."""
        while not self.idle:
            await self._next_write()

    async def _next_write(self) -> None:
        if self._room.is_set():
            self._room = trio.Event()
        await self._room.wait()

    def put_control(self, kind: Kind, body: bytes) -> None:
        """Queues a frame that goes before all others; raises PeerFault when the peer provokes too many
        (PING)."""
        if len(self._control) >= CONTROL_QUEUE_FRAMES:
            raise PeerFault(self._peer_id, "ping.flood", f"{len(self._control)} control frames wait")
        self._control.append(encode(kind, body))
        self._work.set()

    def put_last(self, kind: Kind, body: bytes) -> None:
        """Drops all that waits and queues a last frame."""
        self._frames.clear()
        self._control.clear()
        self.queued_bytes = 0
        self._control.append(encode(kind, body))
        self._work.set()

    async def write_loop(self) -> None:
        """Writes what is queued, for ever; raises StreamClosed."""
        while True:
            batch = self._next_batch()
            if not batch:
                self._work = trio.Event()
                await self._work.wait()
                continue
            self._writing = True
            await self._stream.write(batch)
            self._writing = False
            self.bytes_out += len(batch)
            self._room.set()

    def _next_batch(self) -> bytes:
        """Returns the whole frames of the next write, or nothing when there is no work or no credit."""
        parts: list[bytes] = []
        size = 0
        if self._ack_due:
            self._ack_due = False
            self._ack_told = self._taken_total
            parts.append(encode(Kind.ACK, number_body(self._taken_total)))
            size = len(parts[0])
        control, frames = self._control, self._frames
        while control and size + len(control[0]) <= WRITE_BYTES_MAX:
            size += len(control[0])
            parts.append(control.popleft())
        credit = CREDIT_BYTES - (self._sent_total - self._acked_total)
        room = min(WRITE_BYTES_MAX - size, credit)
        counted = 0
        while frames and counted + len(frames[0]) <= room:
            counted += len(frames[0])
            parts.append(frames.popleft())
        if counted:
            self.queued_bytes -= counted
            self._sent_total += counted
            self.unacknowledged_bytes_peak = max(self.unacknowledged_bytes_peak, self.unacknowledged_bytes)
        return b"".join(parts)

    async def read_loop(
        self,
        on_frame: Callable[[Kind, bytes], None],
        admitted: Callable[[], Awaitable[None]],
        pause: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Hands each message to ``on_frame`` until the stream ends; raises PeerFault and StreamClosed.

        ``pause`` is awaited before more is read: meanwhile the peer's credit runs out, so it has to wait.

        ``admitted`` is awaited before the first message that is neither HELLO nor GOODBYE: what the peer
        says before we have called ``on_up`` waits here, and so does the peer, by its credit.
        """
        decoder = Decoder(self._peer_id)
        is_admitted = False
        while chunk := await self._stream.read():
            self.bytes_in += len(chunk)
            for kind, body in decoder.feed(chunk):
                if kind is Kind.ACK:
                    self._acknowledged(parse_number(self._peer_id, body))
                    continue
                if not is_admitted and kind is not Kind.HELLO and kind is not Kind.GOODBYE:
                    await admitted()
                    is_admitted = True
                on_frame(kind, body)
            self._taken_total = decoder.counted_bytes
            if self._taken_total - self._ack_told >= ACK_EVERY_BYTES:
                self._ack_due = True
                self._work.set()
            if pause is not None:
                await pause()

    def _acknowledged(self, total: int) -> None:
        if not self._acked_total <= total <= self._sent_total:
            raise PeerFault(self._peer_id, "ack.out_of_range", f"{total}, sent {self._sent_total}")
        self._acked_total = total
        self._work.set()
