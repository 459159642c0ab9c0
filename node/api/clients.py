"""Room at the API, shared among clients: one address can never hold all of it.

A client is an IPv4 address or an IPv6 /64, which one machine can fill at will.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address

from starlette.types import Scope

_HOST_BITS = 64


def client_name(scope: Scope) -> str:
    """Who asks, as room is shared: "http:ADDRESS"."""
    client = scope.get("client")
    return client_of(str(client[0]) if client else "")


def client_of(host: str) -> str:
    """As `client_name`, by the address."""
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
class Places:
    """So many at once, of all clients and of each."""

    most: int
    most_of_client: int
    total: int = 0
    _taken: Counter[str] = field(default_factory=Counter)

    def has_room(self, client: str) -> bool:
        """May that client bring one more?"""
        return self.total < self.most and self._taken.get(client, 0) < self.most_of_client

    def enter(self, client: str) -> None:
        """One more of it is under way."""
        self.total += 1
        self._taken[client] += 1

    def leave(self, client: str) -> None:
        """One of it has ended."""
        self.total -= 1
        self._taken[client] -= 1
        if not self._taken[client]:
            del self._taken[client]
