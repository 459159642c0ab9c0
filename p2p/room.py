"""Who gets a place among our neighbours: a network of thousands stays a few hops wide, and no network of one
owner can take all places.

Four rules. Of a crowd we dial few, and whom we dialled when it was none makes room for who dials us. A
quarter of the places is for peers that we chose and dialled ourselves, so that whoever dials
us first cannot keep us from our bootstrap list. When the others are taken, the /24 (or IPv6 /48) that holds
the most of them makes room for one that holds at least two fewer. We dial those first whose /24 has the
fewest places here. Peers whose connection is kept stand beside all this. (Heilman et al., "Eclipse Attacks on
Bitcoin's Peer-to-Peer Network", 2015, section 7.)
"""

from collections import Counter
from collections.abc import Sequence

from p2p.errors import LocalError
from p2p.ids import peer_of_address
from p2p.limits import REASON_BYTES_MAX

_FULL = "full, try "  # then addresses, for who is refused


def inbound_max(neighbours_max: int) -> int:
    """How many places those may have who dialled us."""
    return neighbours_max - neighbours_max // 4


def dialled_max(neighbours_max: int, known: int) -> int:
    """How many peers we dial, when we know of so many. Of a few all that there is place for. Of a crowd three
    eighths: if all dialled until they were full, who joins would find room with the last that came before it
    alone, and a network of thousands would be one long chain. With three each and room for five more it is a
    random graph, some hops deep."""
    few = min(neighbours_max, max(2, neighbours_max * 3 // 8))
    return neighbours_max if known <= 2 * neighbours_max else few


def group_of(address: str) -> str:
    """What one owner has many addresses of: a /24 of IPv4, a /48 of IPv6; else the address's first part."""
    parts = address.split("/")
    kind, host = (parts[1], parts[2]) if len(parts) > 2 else ("", address)
    if kind == "ip4":
        return host.rpartition(".")[0]
    if kind == "ip6":
        left = host.partition("::")[0].split(":")
        return ":".join([*left, "0", "0", "0"][:3])
    return host


def groups(addresses: Sequence[str]) -> Counter[str]:
    """How many of these addresses each group has."""
    return Counter(group_of(address) for address in addresses)


def gives_way(addresses: Sequence[str], newcomer: str) -> int | None:
    """Which of those that dialled us (in the order in which they came) makes room for the newcomer: the
    newest of the largest group, when that holds two more than the newcomer's. None: nobody."""
    held = groups(addresses)
    if not held:
        return None
    largest, count = held.most_common(1)[0]
    if count < held[group_of(newcomer)] + 2:
        return None
    return max(number for number, address in enumerate(addresses) if group_of(address) == largest)


def refusal(elsewhere: Sequence[str]) -> str:
    """What a peer without room says: "full", and where else to try, as far as a GOODBYE has space."""
    text = _FULL
    for address in elsewhere:
        if len(text) + len(address) + 1 <= REASON_BYTES_MAX:
            text += f"{address} "
    return text.rstrip() if len(text) > len(_FULL) else "full"


def read_refusal(reason: str) -> list[str]:
    """The addresses in a peer's refusal; what is malformed is left out."""
    _, found, text = reason.partition(_FULL)
    addresses = []
    for word in text.split() if found else ():
        try:
            peer_of_address(word)
        except LocalError:
            continue
        addresses.append(word)
    return addresses
