"""Which addresses a workload may ever connect to. Pure; the standard library alone."""

from __future__ import annotations

import ipaddress
from typing import Final

# Global by the letter, but with an IPv4 address inside: 6to4 (RFC 3056), Teredo (RFC 4380), NAT64
# (RFC 6052, 8215).
_UNICAST: Final = ipaddress.IPv6Network("2000::/3")  # all that is given out to the world (IANA)
_EMBEDDED: Final = tuple(
    ipaddress.IPv6Network(net) for net in ("2002::/16", "2001::/32", "64:ff9b::/96", "64:ff9b:1::/48")
)


def is_address(text: str) -> bool:
    """Whether this is an IP address and not a name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_allowed(text: str) -> bool:
    """Whether it is an address of the wide world: not loopback, private, link-local (a cloud's metadata),
    multicast, or one that hides another inside."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found not in _UNICAST or found.scope_id is not None:
            return False
        if any(found in network for network in _EMBEDDED):
            return False
    return found.is_global and not (found.is_multicast or found.is_reserved or found.is_unspecified)
