"""Other peers, as the API shows them."""

from __future__ import annotations

import msgspec


class Neighbour(msgspec.Struct, kw_only=True):
    peer_id: str
    address: str
    inbound: bool
    since_ms: int
    rtt_ms: float | None
    score: int
    bytes_in: int
    bytes_out: int
    dropped: int
    fault: str


class Banned(msgspec.Struct, kw_only=True):
    """`left_s` null: by the operator, until it is lifted; `rule` is the reason then."""

    peer_id: str
    rule: str
    left_s: float | None


class KnownPeer(msgspec.Struct, kw_only=True):
    """A peer of the book. `keep`: its connection is held for ever; `added`: by the operator; `proved`: it
    was dialled with success; `failures`: dials that failed since. `score` 0 (good) to -100, `fault` why."""

    peer_id: str
    addresses: list[str]
    keep: bool
    added: bool
    proved: bool
    failures: int
    score: int
    fault: str


class PeerOrder(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An order about one peer: `address` to add it, else its `peer_id`; `reason` of a ban."""

    address: str = ""
    peer_id: str = ""
    reason: str = ""


class PeerOrdered(msgspec.Struct, kw_only=True):
    """`changed` false: it was so already."""

    changed: bool


class Peers(msgspec.Struct, kw_only=True):
    """Connected neighbours, who is banned for what, and whom the book knows."""

    neighbours: list[Neighbour]
    banned: list[Banned]
    known: list[KnownPeer]
