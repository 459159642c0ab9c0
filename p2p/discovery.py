"""Address exchange: a peer that knows one address asks its neighbours for more.

The body of the request ``p2p/addresses`` has the asker's own addresses, or nothing. The answer has the
responder's own addresses first, then some that it has dialled itself with success or that its neighbours said
of themselves. Both are ASCII: one multiaddr with ``/p2p/ID`` per line, at most 64 lines of at most 256
letters.
"""

from collections.abc import Iterable

from p2p.errors import LocalError, PeerFault
from p2p.ids import peer_of_address, relay_of_address
from p2p.limits import ADDRESS_BYTES_MAX, EXCHANGE_PEERS_MAX

METHOD = "p2p/addresses"
TIMEOUT_S = 10.0
SHARED_MAX = EXCHANGE_PEERS_MAX // 2
_ANY = ("/ip4/0.0.0.0/", "/ip6/::/")


def answer(own: Iterable[str], known: Iterable[str]) -> bytes:
    """Returns the body of an answer with our own addresses and the known ones."""
    return "\n".join([*own, *known][:EXCHANGE_PEERS_MAX]).encode("ascii")


def concrete(addresses: Iterable[str]) -> list[str]:
    """Returns the addresses with 0.0.0.0 as each of this machine's own: for who sees us through a relay, and
    so cannot tell where we stand."""
    from ifaddr import get_adapters

    hosts = [str(one.ip) for adapter in get_adapters() for one in adapter.ips if one.is_IPv4]
    found = []
    for address in addresses:
        if address.startswith(_ANY[0]):
            outside = (host for host in hosts if not host.startswith("127."))
            found += [f"/ip4/{host}/{address[len(_ANY[0]) :]}" for host in outside]
        else:
            found.append(address)
    return found


def parse(peer: str, body: bytes, seen_address: str) -> list[str]:
    """Returns the addresses in an answer; raises PeerFault ``addresses.malformed``.

    A peer that listens on every interface says 0.0.0.0: for its own addresses that is replaced by the host
    at which we see it (``seen_address``); for those of others, and of who is seen through a relay, it is left
    out.
    """
    if len(body) > EXCHANGE_PEERS_MAX * (ADDRESS_BYTES_MAX + 1) or not body.isascii():
        raise PeerFault(peer, "addresses.malformed", f"{len(body)} B")
    lines = body.decode("ascii").split("\n") if body else []
    if len(lines) > EXCHANGE_PEERS_MAX:
        raise PeerFault(peer, "addresses.malformed", f"{len(lines)} lines")
    host = "/".join(seen_address.split("/")[:3]) + "/"
    addresses = []
    for line in lines:
        try:
            _, owner = peer_of_address(line)
        except LocalError as error:
            raise PeerFault(peer, "addresses.malformed", str(error)) from error
        wildcard = next((any_host for any_host in _ANY if line.startswith(any_host)), None)
        if wildcard is None:
            addresses.append(line)
        elif owner == peer and host.startswith(("/ip4/", "/ip6/")) and not relay_of_address(seen_address):
            addresses.append(host + line[len(wildcard) :])
    return addresses
