"""What one client connection is to the load loop, whatever its protocol."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from typing import Final

READ_BYTES: Final = 262_144
CONNECT_S: Final = 10.0


class ChannelLost(Exception):
    """The server hung up, or broke its protocol: what was under way has no answer."""


class Channel(ABC):
    """One TCP connection. `put` a request under a tag; `receive` says which tags are final, and which failed.

    Non-blocking once open: the loop waits until the socket can be read, or written while `unsent`, and takes
    done tags from `under_way` (another channel may hear of them).
    """

    def __init__(self, host: str, port: int, source: str = "") -> None:
        """Connects, from the address `source` if given. Raises OSError."""
        bound = (source, 0) if source else None
        self.sock = socket.create_connection((host, port), timeout=CONNECT_S, source_address=bound)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unsent = bytearray()
        self.under_way: set[int] = set()

    @property
    @abstractmethod
    def room(self) -> int:
        """How many more requests it takes now."""

    @abstractmethod
    def encode(self, tag: int, payload: bytes) -> bytes:
        """The bytes of a request."""

    @abstractmethod
    def parse(self, data: bytes) -> list[tuple[int, str]]:
        """Tags that are done, with an error or "". Raises ChannelLost."""

    def put(self, tag: int, payload: bytes) -> None:
        """Begin a request; `flush` sends all that were put."""
        self.under_way.add(tag)
        self.unsent += self.encode(tag, payload)

    def flush(self) -> None:
        """Write what the socket takes. Raises ChannelLost."""
        while self.unsent:
            try:
                sent = self.sock.send(self.unsent)
            except BlockingIOError:
                return
            except OSError as error:
                raise ChannelLost(str(error)) from error
            del self.unsent[:sent]

    def receive(self) -> list[tuple[int, str]]:
        """Read what is there: tags that are done, with an error or "". Raises ChannelLost."""
        try:
            data = self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return []
        except OSError as error:
            raise ChannelLost(str(error)) from error
        if not data:
            raise ChannelLost("the server hung up")
        done = self.parse(data)
        if self.unsent:
            self.flush()
        return done

    def open(self) -> None:
        """From here on no call blocks."""
        self.sock.setblocking(False)

    def close(self) -> None:
        """Hang up."""
        self.sock.close()


def read_exactly(sock: socket.socket, until: bytes, most: int) -> bytes:
    """Blocking: all bytes up to and with `until`. Raises ChannelLost."""
    data = bytearray()
    while not data.endswith(until):
        piece = sock.recv(1)
        if not piece or len(data) > most:
            raise ChannelLost(f"no {until!r} within {most} bytes")
        data += piece
    return bytes(data)
