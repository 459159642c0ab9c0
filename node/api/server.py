"""Connections to the API: how many there are, of whom, and how long one may take to read its answer.

Hypercorn serves each connection; it bounds neither their number nor the time of a write, and its writes
cannot be cancelled: who asks and does not read would hold its place for good, and keep the peer from
stopping.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState
from starlette.types import ASGIApp

from node.api.clients import client_of
from node.api.limits import CONNECTIONS_MAX, CONNECTIONS_OF_CLIENT_MAX, SEND_PIECE_BYTES, SEND_S

log = structlog.get_logger("api")

_UNEVEN: Final = 2  # so many more than the newcomer's client has makes room for it


class ClientStream:
    """A connection as the server wants it. Raises trio.BrokenResourceError when the client is gone or reads
    no more: less than SEND_PIECE_BYTES in SEND_S."""

    def __init__(self, stream: trio.SocketStream, client: str, count: Callable[[str], None]) -> None:
        self.client = client
        self.socket = stream.socket
        self.receive_some = stream.receive_some
        self.send_eof = stream.send_eof
        self.aclose = stream.aclose
        self._stream = stream
        self._count = count

    async def send_all(self, data: bytes) -> None:
        """Writes all."""
        view = memoryview(data)
        for start in range(0, len(view), SEND_PIECE_BYTES):
            with trio.move_on_after(SEND_S) as scope:
                await self._stream.send_all(view[start : start + SEND_PIECE_BYTES])
            if scope.cancelled_caught:
                self._count("dropped.slow_reader")
                self.drop()
                raise trio.BrokenResourceError("the client does not read")

    def drop(self) -> None:
        """Ends the connection now; whoever reads or writes on it is told."""
        self.socket.close()


class Connections:
    """All of them. `count` takes the names of what is refused."""

    def __init__(self, count: Callable[[str], None]) -> None:
        self._count = count
        self._by_client: dict[str, list[ClientStream]] = {}
        self._faults: set[type[Exception]] = set()  # of the server, told already
        self.total = 0

    def admit(self, stream: trio.SocketStream) -> ClientStream | None:
        """Takes a new connection, or returns None. When all places are taken, the client that has the most
        loses its newest, if the newcomer's has at least two fewer."""
        client = client_of(stream.socket.getpeername()[0])
        mine = self._by_client.get(client, [])
        if len(mine) >= CONNECTIONS_OF_CLIENT_MAX:
            self._count("refused.connections_of_client")
            return None
        if self.total >= CONNECTIONS_MAX:
            largest = max(self._by_client.values(), key=len)
            if len(largest) < len(mine) + _UNEVEN:
                self._count("refused.connections")
                return None
            self._count("dropped.connection")
            gone = largest[-1]
            gone.drop()
            self.leave(gone)
        made = ClientStream(stream, client, self._count)
        self._by_client.setdefault(client, []).append(made)
        self.total += 1
        return made

    def leave(self, stream: ClientStream) -> None:
        """It has ended; nothing happens when it is not here."""
        mine = self._by_client.get(stream.client, [])
        if stream not in mine:
            return
        mine.remove(stream)
        self.total -= 1
        if not mine:
            del self._by_client[stream.client]

    def fault(self, stream: ClientStream, error: ExceptionGroup[Exception]) -> None:
        """The server failed at what came on it: counted, told once of each kind, and the connection ended."""
        self._count("dropped.fault")
        stream.drop()
        found: Exception = error
        while isinstance(found, ExceptionGroup):
            found = found.exceptions[0]
        if type(found) not in self._faults:
            self._faults.add(type(found))
            log.warning("connection_fault", client=stream.client, error=repr(found)[:300])

    def drop_all(self) -> None:
        """Ends all."""
        for mine in list(self._by_client.values()):
            for stream in list(mine):
                stream.drop()


async def serve_connections(
    app: ASGIApp,
    config: Config,
    listener: trio.SocketListener,
    connections: Connections,
) -> None:
    """Serve until cancelled."""
    context = WorkerContext(None)
    wrapped = ASGIWrapper(cast(Any, app))

    async def serve_one(stream: trio.SocketStream) -> None:
        try:
            ours = connections.admit(stream)
        except OSError:  # it has left already
            ours = None
        if ours is None:
            await trio.aclose_forcefully(stream)
            return
        try:
            state = ConnectionState(LifespanState())
            await TCPServer(wrapped, config, context, state, cast(Any, ours))
        except* Exception as fault:  # noqa: BLE001 - whatever foreign bytes provoke in the library
            connections.fault(ours, fault)
        finally:
            connections.leave(ours)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.serve_listeners, serve_one, [listener], handler_nursery=nursery))
            try:
                await trio.sleep_forever()
            finally:
                connections.drop_all()  # a write under way cannot be cancelled
    finally:
        await context.terminated.set()
