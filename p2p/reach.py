"""Which heard addresses are worth a dial, and how often a network that does not answer is tried.

Whoever may tell addresses can send everybody else to a victim: one /24 is dialled by each of us only as often
as its failures leave room for. Nor may a far peer send us to our own machine or local network (server-side
request forgery): an address is taken from who stands at least as near to us as it does.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from ipaddress import ip_address

from p2p.budget import Budget
from p2p.limits import DIAL_FAILURES_BURST, DIAL_FAILURES_PER_S, DIAL_GROUPS_MAX, DIALS_OF_GROUP_MAX
from p2p.room import group_of

HERE, _NEAR, _FAR = 0, 1, 2  # this machine; a private network; anywhere


def scope_of(address: str) -> int | None:
    """How far away a multiaddr's host may stand: 0 on this machine, 1 on a private network, 2 anywhere, as a
    name or another kind of address. None: no peer is there (multicast, unspecified, reserved)."""
    parts = address.split("/")
    if len(parts) < 3 or parts[1] not in ("ip4", "ip6"):
        return _FAR
    try:
        host = ip_address(parts[2].partition("%")[0])
    except ValueError:
        return None
    host = getattr(host, "ipv4_mapped", None) or host
    if host.is_loopback:
        return HERE
    if host.is_multicast or host.is_unspecified or (host.is_reserved and not host.is_global):
        return None
    return _FAR if host.is_global else _NEAR


def may_hear(address: str, teller: str) -> bool:
    """Is this address to be taken from a peer that we have at that one? Returns whether it is not nearer."""
    told, seen = scope_of(address), scope_of(teller)
    return told is not None and told >= (_FAR if seen is None else seen)


class DialRation:
    """Dials of peers that nobody configured, by /24 (or IPv6 /48). ``now`` gives monotonic seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._failures: OrderedDict[str, Budget] = OrderedDict()

    def allows(self, address: str, under_way: Iterable[str] = ()) -> bool:
        """May it be dialled now, beside those that are being dialled?"""
        group = group_of(address)
        if Counter(map(group_of, under_way))[group] >= DIALS_OF_GROUP_MAX:
            return False
        budget = self._failures.get(group)
        return budget is None or budget.has_one(self._now())

    def failed(self, address: str) -> None:
        """Nobody answered there, or another than who was named."""
        group, now_s = group_of(address), self._now()
        budget = self._failures.get(group)
        if budget is None:
            budget = self._failures[group] = Budget(DIAL_FAILURES_PER_S, DIAL_FAILURES_BURST, now_s)
            while len(self._failures) > DIAL_GROUPS_MAX:
                self._failures.popitem(last=False)
        self._failures.move_to_end(group)
        budget.spend(now_s)
