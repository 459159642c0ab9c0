"""`gridpact peers`: who a running peer is connected to and knows, and orders about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from node.cli.context import current
from node.cli.output import emit, emit_facts, say
from node.client.amounts import size_text
from p2p.ids import relay_of_address

if TYPE_CHECKING:
    from node.api.models import Banned


def list_peers(*, known: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Show the peer's neighbours and bans, with scores and reasons.

    Args:
        known: Show the peer book instead: whom it could dial.
    """
    found = current.client().peers()
    if known:
        rows = [
            (
                peer.peer_id,
                " ".join(peer.addresses),
                "added" if peer.added else "kept" if peer.keep else "proved" if peer.proved else "heard of",
                peer.failures,
                peer.score,
                peer.fault or "-",
            )
            for peer in found.known
        ]
        emit(found, ("peer id", "addresses", "how", "failed dials", "score", "fault"), rows)
        return 0
    rows_now = [
        (
            peer.peer_id,
            peer.address,
            ("in" if peer.inbound else "out") + (", relayed" if relay_of_address(peer.address) else ""),
            "-" if peer.rtt_ms is None else f"{peer.rtt_ms:.1f} ms",
            peer.score,
            peer.fault or "-",
            size_text(peer.bytes_in),
            size_text(peer.bytes_out),
            str(peer.dropped),
        )
        for peer in found.neighbours
    ]
    rows_now += [(b.peer_id, _ban_text(b), "-", "-", -100, b.rule, "-", "-", "-") for b in found.banned]
    emit(found, ("peer id", "address", "way", "rtt", "score", "fault", "in", "out", "shed"), rows_now)
    return 0


def _ban_text(ban: Banned) -> str:
    return "banned by you" if ban.left_s is None else f"banned, {ban.left_s:.0f} s more"


def add(address: str, /) -> int:
    """Hold a connection to a peer for ever, also after a restart.

    Args:
        address: Multiaddr with /p2p/ID.
    """
    return _order("add", "it was kept already", address=address)


def remove(peer_id: str, /) -> int:
    """Forget a peer and end its connection. It may come again; ban it to keep it away.

    Args:
        peer_id: Its id, as `peers list` shows it.
    """
    return _order("remove", "it was not known", peer_id=peer_id)


def ban(peer_id: str, /, *, reason: str = "") -> int:
    """Refuse a peer until it is unbanned, also after a restart.

    Args:
        peer_id: Its id, as `peers list` shows it.
        reason: Why, for those who look later.
    """
    return _order("ban", "it was banned already; the reason is replaced", peer_id=peer_id, reason=reason)


def unban(peer_id: str, /) -> int:
    """Lift a peer's ban, yours or one that it earned, and forgive its faults.

    Args:
        peer_id: Its id, as `peers list` shows it.
    """
    return _order("unban", "it was not banned", peer_id=peer_id)


def _order(verb: str, unchanged: str, **fields: str) -> int:
    from node.api.models import PeerOrder

    done = current.client().order_peer(verb, PeerOrder(**fields))
    if not done.changed:
        say(unchanged)
    emit_facts(done, [("changed", done.changed)])
    return 0
