"""The wire format of our two streams, without any I/O. This text is enough to write a peer in another
language.

Streams
    After noise and yamux, the dialling peer opens ``/gridpact/consensus/1``; each side's first frame on it
    is HELLO. When the hellos are accepted, the dialling peer opens ``/gridpact/bulk/1`` on the same
    connection. A peer that refuses sends GOODBYE and closes. When two peers hold two connections, the one
    dialled by the smaller peer id (by its text) stays; but a hello with a new *instance* means that the peer
    restarted, and the newer connection stays.

Frames
    ``length: u32 | kind: u8 | body``, big-endian; ``length`` counts kind and body; a whole frame is at most
    65,500 B. A longer message (DATA, REQUEST or RESPONSE) is split: every frame but its last has bit 0x80 of
    ``kind`` set, all carry the same kind, and only ACK, PING, PONG and GOODBYE may stand between them (as in
    RFC 6455, 5.4). The joined body is at most 1 MiB + 4 KiB. An unknown kind, a longer frame or message, or
    a malformed body ends the connection.

Kinds
    ========= ==== ===================================================== ===============================
    HELLO     0x01 ``version: u8 = 1 | instance: 16 B | text``           first on consensus, once; the
                                                                         instance is random per start
    DATA      0x02 ``payload``                                           either stream
    ACK       0x03 ``total: u64``                                        either; see credit
    PING      0x04 ``token: u64``                                        either; answer with PONG
    PONG      0x05 ``token: u64``                                        the token of the PING
    REQUEST   0x06 ``id: u32 | n: u8 | method: n B ASCII | body``        bulk; id counts up, per sender
    RESPONSE  0x07 ``id: u32 | status: u8 | body``                       bulk; 0 OK, 1 REFUSED (body:
                                                                         reason), 2 BUSY
    GOODBYE   0x08 ``reason: UTF-8, at most 256 B``                      then the sender closes
    ========= ==== ===================================================== ===============================

Credit
    HELLO, DATA, REQUEST and RESPONSE frames are *counted*: per stream and direction, a sender has at most
    786,432 counted bytes (whole frames, headers included) that are not acknowledged. ACK carries the total
    of counted bytes taken in since the stream opened; it is sent at least every 262,144 of them.

Heartbeat
    Each side sends PING on the consensus stream every 2.5 s; a peer from which nothing at all came for three
    of these is dropped.
"""

import enum
import struct
from collections.abc import Iterator

from p2p.errors import LocalError, PeerFault
from p2p.limits import (
    HELLO_BYTES_MAX,
    INSTANCE_BYTES,
    MESSAGE_BYTES_MAX,
    METHOD_BYTES_MAX,
    REASON_BYTES_MAX,
    WRITE_BYTES_MAX,
)

CONSENSUS_PROTOCOL = "/gridpact/consensus/1"
BULK_PROTOCOL = "/gridpact/bulk/1"
VERSION = 1
HEADER_BYTES = 5
_MORE = 0x80
_PIECES_MAX = 256  # of a message that is coming in: an honest one of 1 MiB has some fifty
_HEADER = struct.Struct(">IB")
_U64 = struct.Struct(">Q")
_REQUEST = struct.Struct(">IB")
_BODY_BYTES_MAX = WRITE_BYTES_MAX - HEADER_BYTES


class Kind(enum.IntEnum):
    """The kinds of frame; the numbers are the wire's."""

    HELLO = 1
    DATA = 2
    ACK = 3
    PING = 4
    PONG = 5
    REQUEST = 6
    RESPONSE = 7
    GOODBYE = 8


class Status(enum.IntEnum):
    """How a request ended; the numbers are the wire's."""

    OK = 0
    REFUSED = 1
    BUSY = 2


_KINDS = {int(kind): kind for kind in Kind}
# Bodies of these are checked for their size before they are kept, and they are never split.
_FIXED_MAX = {Kind.ACK: 8, Kind.PING: 8, Kind.PONG: 8, Kind.GOODBYE: REASON_BYTES_MAX,
              Kind.HELLO: 1 + INSTANCE_BYTES + HELLO_BYTES_MAX}  # fmt: skip
_UNCOUNTED = frozenset((Kind.ACK, Kind.PING, Kind.PONG, Kind.GOODBYE))


def encode(kind: Kind, body: bytes) -> bytes:
    """Returns one whole frame; raises LocalError when the body needs more than one (use ``split``)."""
    if len(body) > _BODY_BYTES_MAX:
        raise LocalError(f"frame: {len(body)} B do not fit one frame")
    return _HEADER.pack(len(body) + 1, kind) + body


def split(kind: Kind, body: bytes, head: bytes = b"") -> Iterator[bytes]:
    """Yields the frames of one message, which is ``head`` and then ``body``, each at most WRITE_BYTES_MAX;
    raises LocalError above MESSAGE_BYTES_MAX. Bytes are copied once."""
    left = len(head) + len(body)
    if left > MESSAGE_BYTES_MAX:
        raise LocalError(f"message: {left} B, at most {MESSAGE_BYTES_MAX} B")
    view, at = memoryview(body), 0
    while True:
        part = view[at : at + _BODY_BYTES_MAX - len(head)]
        at += len(part)
        is_last = at == len(view)
        size = len(head) + len(part)
        yield b"".join((_HEADER.pack(size + 1, kind if is_last else kind | _MORE), head, part))
        if is_last:
            return
        head = b""


class Decoder:
    """Turns one stream's bytes into messages. ``counted_bytes`` is the total that credit acknowledges."""

    def __init__(self, peer: str) -> None:
        self.counted_bytes = 0
        self._peer = peer
        self._buffer = b""
        self._body: list[memoryview] = []  # of a frame that is coming in, of which the header is here
        self._body_left = 0
        self._raw_kind = 0
        self._parts: list[memoryview] = []
        self._parts_kind: Kind | None = None
        self._parts_bytes = 0

    def feed(self, chunk: bytes) -> list[tuple[Kind, bytes]]:
        """Returns the messages that ``chunk`` completes, in order.

        Raises PeerFault for ``frame.empty``, ``frame.too_long``, ``frame.unknown_kind``, ``frame.split``;
        the decoder is of no use after that.
        """
        data = self._buffer + chunk if self._buffer else chunk
        messages: list[tuple[Kind, bytes]] = []
        view, at, end = memoryview(data), 0, len(data)
        while True:
            if self._raw_kind:  # bytes are kept where they came until the message is whole
                piece = view[at : at + self._body_left]
                _add(self._body, piece)
                self._body_left -= len(piece)
                at += len(piece)
                if self._body_left:
                    break
                self._close_frame(messages)
            if end - at < HEADER_BYTES:
                break
            length, raw_kind = _HEADER.unpack_from(data, at)
            self._check_header(length, raw_kind)
            at += HEADER_BYTES
            self._raw_kind, self._body_left = raw_kind, length - 1
        self._buffer = data[at:]
        return messages

    def _close_frame(self, messages: list[tuple[Kind, bytes]]) -> None:
        """The body of a frame is here: with it a message may be."""
        raw_kind, body = self._raw_kind, self._body
        self._raw_kind, self._body = 0, []
        kind, more = _KINDS[raw_kind & ~_MORE], bool(raw_kind & _MORE)
        if kind not in _UNCOUNTED:
            self.counted_bytes += sum(map(len, body)) + HEADER_BYTES
            if more or self._parts_kind is not None:
                body = self._join(kind, body, more=more)
        if not more:
            messages.append((kind, bytes(body[0]) if len(body) == 1 else b"".join(body)))

    def _check_header(self, length: int, raw_kind: int) -> None:
        if length < 1:
            raise PeerFault(self._peer, "frame.empty", "length 0")
        if length + 4 > WRITE_BYTES_MAX:
            raise PeerFault(self._peer, "frame.too_long", f"{length + 4} B, at most {WRITE_BYTES_MAX}")
        kind = _KINDS.get(raw_kind & ~_MORE)
        if kind is None:
            raise PeerFault(self._peer, "frame.unknown_kind", f"kind {raw_kind}")
        limit = _FIXED_MAX.get(kind)
        if limit is not None:
            if raw_kind & _MORE:
                raise PeerFault(self._peer, "frame.split", f"{kind.name} cannot be split")
            if length - 1 > limit:
                raise PeerFault(
                    self._peer, "frame.too_long", f"{kind.name} of {length - 1} B, at most {limit}"
                )

    def _join(self, kind: Kind, body: list[memoryview], *, more: bool) -> list[memoryview]:
        """Returns all pieces of the message when its last part is here."""
        if self._parts_kind is not None and self._parts_kind is not kind:
            raise PeerFault(self._peer, "frame.split", f"{kind.name} within {self._parts_kind.name}")
        size = sum(map(len, body))
        if more and not size:
            raise PeerFault(self._peer, "frame.split", "an empty part that is not the last")
        self._parts_bytes += size
        if self._parts_bytes > MESSAGE_BYTES_MAX:
            raise PeerFault(self._peer, "frame.too_long", f"message above {MESSAGE_BYTES_MAX} B")
        for piece in body:
            _add(self._parts, piece)
        if more:
            self._parts_kind = kind
            return []
        whole = self._parts
        self._parts, self._parts_kind, self._parts_bytes = [], None, 0
        return whole


def _add(pieces: list[memoryview], piece: memoryview) -> None:
    """Keeps a piece. Of many small ones one is made: each costs 200 B beside its own."""
    pieces.append(piece)
    if len(pieces) >= _PIECES_MAX:
        pieces[:] = [memoryview(b"".join(pieces))]


def hello_body(instance: bytes, text: bytes) -> bytes:
    """Returns the body of HELLO; raises LocalError when ``text`` is above HELLO_BYTES_MAX or the instance
    not 16 B."""
    if len(instance) != INSTANCE_BYTES or len(text) > HELLO_BYTES_MAX:
        raise LocalError(f"hello: {len(instance)} B instance, {len(text)} B text")
    return bytes((VERSION,)) + instance + text


def parse_hello(peer: str, body: bytes) -> tuple[bytes, bytes]:
    """Returns (instance, text); raises PeerFault ``hello.malformed`` or ``hello.version``."""
    if len(body) < 1 + INSTANCE_BYTES:
        raise PeerFault(peer, "hello.malformed", f"{len(body)} B")
    if body[0] != VERSION:
        raise PeerFault(peer, "hello.version", f"version {body[0]}, here {VERSION}")
    return body[1 : 1 + INSTANCE_BYTES], body[1 + INSTANCE_BYTES :]


def number_body(number: int) -> bytes:
    """Returns the body of ACK, PING or PONG."""
    return _U64.pack(number)


def parse_number(peer: str, body: bytes) -> int:
    """Returns the number in an ACK, PING or PONG; raises PeerFault ``frame.malformed``."""
    if len(body) != 8:
        raise PeerFault(peer, "frame.malformed", f"a number of {len(body)} B")
    number: int = _U64.unpack(body)[0]
    return number


def request_body(request_id: int, method: str, body: bytes) -> bytes:
    """Returns the body of REQUEST; raises LocalError for a method that is empty, not ASCII or too long."""
    if not method or not method.isascii() or len(method) > METHOD_BYTES_MAX:
        raise LocalError(f"request: method {method!r} must be 1 to {METHOD_BYTES_MAX} ASCII letters")
    return _REQUEST.pack(request_id, len(method)) + method.encode("ascii") + body


def parse_request(peer: str, body: bytes) -> tuple[int, str, bytes]:
    """Returns (id, method, body); raises PeerFault ``request.malformed``."""
    if len(body) < 5:
        raise PeerFault(peer, "request.malformed", f"{len(body)} B")
    request_id, size = _REQUEST.unpack_from(body)
    name = body[5 : 5 + size]
    if not 1 <= size <= METHOD_BYTES_MAX or len(name) != size or not name.isascii():
        raise PeerFault(peer, "request.malformed", "method")
    return request_id, name.decode("ascii"), body[5 + size :]


def response_head(request_id: int, status: Status) -> bytes:
    """Returns the head of RESPONSE; the answer follows it."""
    return _REQUEST.pack(request_id, status)


def parse_response(peer: str, body: bytes) -> tuple[int, Status, bytes]:
    """Returns (id, status, body); raises PeerFault ``response.malformed``."""
    if len(body) < 5:
        raise PeerFault(peer, "response.malformed", f"{len(body)} B")
    request_id, status = _REQUEST.unpack_from(body)
    if status not in (0, 1, 2):
        raise PeerFault(peer, "response.malformed", f"status {status}")
    return request_id, Status(status), body[5:]


def goodbye_body(reason: str) -> bytes:
    """Returns the body of GOODBYE, cut to REASON_BYTES_MAX."""
    return reason.encode("utf-8", "replace")[:REASON_BYTES_MAX]


def parse_reason(body: bytes) -> str:
    """Returns a peer's reason as printable text; never raises (it is only shown)."""
    text = body[:REASON_BYTES_MAX].decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "?" for letter in text)
