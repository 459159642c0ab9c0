"""Room at the API, shared among clients: one address can never hold all of it.

A client is an IPv4 address or an IPv6 /64, which one machine can fill at will.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address

import trio
from starlette.types import Scope

from node.api.limits import REQUESTS_MAX, REQUESTS_OF_CLIENT_MAX, REQUESTS_PER_PASS

_HOST_BITS = 64


def client_name(scope: Scope) -> str:
    """Who asks, as room is shared: "http:ADDRESS"."""
    client = scope.get("client")
    host = str(client[0]) if client else ""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return f"http:{host[:64]}"
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return f"http:{address.ipv4_mapped}"
        return f"http:{IPv6Address(int(address) >> _HOST_BITS << _HOST_BITS)}/64"
    return f"http:{address}"


@dataclass(slots=True)
class Clients:
    """Requests under way of each client."""

    total: int = 0
    running: Counter[str] = field(default_factory=Counter)

    def has_room(self, client: str) -> bool:
        """May that client bring one more request?"""
        return self.total < REQUESTS_MAX and self.running.get(client, 0) < REQUESTS_OF_CLIENT_MAX

    def enter(self, client: str) -> None:
        """It is under way."""
        self.total += 1
        self.running[client] += 1

    def leave(self, client: str) -> None:
        """It is answered."""
        self.total -= 1
        self.running[client] -= 1
        if not self.running[client]:
            del self.running[client]


@dataclass(slots=True)
class Starts:
    """Lets REQUESTS_PER_PASS requests begin in one pass of the event loop, clients in turns: a hundred
    requests of one, ready at once, would hold up everybody else's for as long as all of them take."""

    _begun: int = 0  # in this pass
    _waiting: OrderedDict[str, deque[trio.Event]] = field(default_factory=OrderedDict)  # in turn, none empty

    async def turn(self, client: str) -> None:
        """Returns when a request of that client may begin."""
        if not self._waiting and self._begun < REQUESTS_PER_PASS:
            self._begin()
            return
        event = trio.Event()
        self._waiting.setdefault(client, deque()).append(event)
        try:
            await event.wait()
        except trio.Cancelled:
            queue = self._waiting.get(client)
            if queue is not None and event in queue:
                queue.remove(event)
                if not queue:
                    del self._waiting[client]
            raise

    def _begin(self) -> None:
        if not self._begun:
            trio.lowlevel.current_trio_token().run_sync_soon(self._next_pass)
        self._begun += 1

    def _next_pass(self) -> None:
        self._begun = 0
        while self._waiting and self._begun < REQUESTS_PER_PASS:
            client, queue = self._waiting.popitem(last=False)
            queue.popleft().set()
            if queue:
                self._waiting[client] = queue
            self._begin()
