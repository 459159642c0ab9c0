"""Where a workload may connect to: names are resolved once for each term, and only to the wide world.

A contract names hosts and ports; what they are is asked of the node's own resolver when a term begins, and
holds until it ends. An address that is not global is never allowed, whoever named it and whatever a resolver
says: a contract does not open the farmer's own network, nor the node's own host by an address that is.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import trio

from ledger.manifests.services import split_target
from node.executor.doors.addresses import is_address, is_allowed
from node.executor.doors.outlet import is_own
from node.executor.drivers.base import EgressSpec
from node.executor.errors import EgressRefused
from node.executor.limits import EGRESS_ADDRESSES_MAX, EGRESS_NAME_ADDRESSES_MAX, EGRESS_RESOLVE_S

Resolve = Callable[[str], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True)
class Ways:
    """All that a term may reach. `names`: the addresses of each name, for /etc/hosts; `told`: what the
    contract names to what it is in this term, for receipts."""

    ways: tuple[EgressSpec, ...] = ()
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)

    @property
    def hosts(self) -> bytes:
        """The text of /etc/hosts; empty when there is no name for it."""
        lines = [f"{address}\t{name}\n" for name, found in self.names.items() for address in found]
        return ("127.0.0.1\tlocalhost\n" + "".join(lines)).encode() if lines else b""


async def resolve(name: str) -> list[str]:
    """Addresses of a name by the node's resolver, of kinds that this host speaks. Raises OSError."""
    found = await trio.socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    speaks_6 = await trio.Path("/proc/net/if_inet6").exists()
    return sorted({str(entry[4][0]) for entry in found if entry[0] != socket.AF_INET6 or speaks_6})


async def find_ways(targets: Iterable[str], resolver: Resolve | None = None) -> Ways:
    """What these `host:port` of a manifest are now. Raises EgressRefused for one that cannot be had."""
    ways: dict[EgressSpec, None] = {}
    names: dict[str, tuple[str, ...]] = {}
    told: dict[str, str] = {}
    with trio.move_on_after(EGRESS_RESOLVE_S) as time:
        for target in targets:
            host, port = split_target(target)
            found: tuple[str, ...]
            if is_address(host):
                found = (host,)
                check_target(target)
            else:
                found = names[host] = names.get(host) or await _addresses(host, resolver or resolve)
            ways.update(dict.fromkeys(EgressSpec(address, port) for address in found))
            told[target] = " ".join(found)
    if time.cancelled_caught:
        raise EgressRefused("egress", f"not resolved within {EGRESS_RESOLVE_S:g} s")
    if len(ways) > EGRESS_ADDRESSES_MAX:
        raise EgressRefused("egress", f"{len(ways)} addresses and ports, at most {EGRESS_ADDRESSES_MAX}")
    return Ways(tuple(ways), names, told)


def check_target(target: str) -> None:
    """Raises EgressRefused for an address that no contract opens; a name is judged when it is resolved."""
    host, _ = split_target(target)
    if not is_address(host):
        return
    if not is_allowed(host):
        raise EgressRefused(
            f"egress {target}", "no address of the wide world: this node lets nobody reach it"
        )
    if is_own(host):
        raise EgressRefused(f"egress {target}", "this node's own address: it lets nobody reach it")


async def _addresses(name: str, resolver: Resolve) -> tuple[str, ...]:
    """Allowed addresses of a name, at least one. Raises EgressRefused."""
    try:
        found = await resolver(name)
    except OSError as error:
        raise EgressRefused(f"egress {name}", f"cannot be resolved: {error}") from None
    allowed = tuple(address for address in found if is_allowed(address) and not is_own(address))
    if not allowed:
        raise EgressRefused(f"egress {name}", "has no address of the wide world that is not this node's own")
    return allowed[:EGRESS_NAME_ADDRESSES_MAX]
