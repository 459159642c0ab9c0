"""What a transport gives to the links: authenticated connections, each with byte streams. No frames, no
policy."""

from collections.abc import Awaitable, Callable
from typing import Protocol


class Stream(Protocol):
    """One ordered byte stream. Only one task reads and one writes; a cancelled write breaks the whole
    connection."""

    async def read(self) -> bytes:
        """Returns at least one byte, or ``b""`` at the end; raises StreamClosed when it broke."""

    async def write(self, data: bytes) -> None:
        """Writes all of ``data``, at most WRITE_BYTES_MAX; raises StreamClosed."""


class Connection(Protocol):
    """One connection to a peer whose id the transport has proved."""

    @property
    def peer_id(self) -> str:
        """The peer at the other end."""

    @property
    def address(self) -> str:
        """The other end's address as far as known (for an inbound connection its port is not one to dial)."""

    @property
    def inbound(self) -> bool:
        """True when the peer dialled us."""

    async def stream(self, protocol: str) -> Stream:
        """Opens (outbound) or waits for (inbound) the one stream of that protocol; raises StreamClosed."""

    async def close(self) -> None:
        """Closes the connection and its streams; bounded in time, never raises, may be called twice."""


class Transport(Protocol):
    """Dials and listens. ``run`` hands each inbound connection to ``incoming``, which lives as long as it."""

    @property
    def peer_id(self) -> str:
        """Our own id."""

    def addresses(self) -> tuple[str, ...]:
        """Our listen addresses with ``/p2p/ID``; empty before ``start`` was called."""

    async def dial(self, address: str) -> Connection:
        """Returns a connection to the peer in the address, proved to be it; raises ConnectFailed."""


Incoming = Callable[[Connection], Awaitable[None]]
