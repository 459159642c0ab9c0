"""Asking the peer behind a node key, wherever it is: a neighbour, this very peer, or one to be dialled."""

from __future__ import annotations

import trio

from ledger.records import Node, key_node
from ledger.state import read
from node.limits import REACH_POLL_S
from node.seam import PeerSeam
from p2p.errors import LocalError as NetworkError
from p2p.errors import PeerGone
from p2p.ids import peer_id_of


async def request_of_node(peer: PeerSeam, node: bytes, method: str, body: bytes, timeout_s: float) -> bytes:
    """The node's answer. One that is no neighbour is dialled at the address of its offer, for `timeout_s` at
    the most; then as long again is waited for the answer. Raises p2p.errors.RequestError."""
    network = peer.network
    try:
        peer_id = peer_id_of(node)
    except NetworkError as error:
        raise PeerGone(str(error)) from None
    if peer_id == network.peer_id:
        return await peer.answer(method, body)
    if not _is_near(peer, peer_id):
        record = read(peer.state, Node, key_node(node))
        if record is None or not record.address.endswith(f"/p2p/{peer_id}"):
            raise PeerGone("no offer says where this node is")
        try:
            network.add_peer(record.address, keep=False)
        except NetworkError as error:
            raise PeerGone(f"its offer names no address that can be dialled: {error}") from None
        with trio.move_on_after(timeout_s):
            while not _is_near(peer, peer_id):  # noqa: ASYNC110 - the network has no event for it
                await trio.sleep(REACH_POLL_S)
    return await network.request(peer_id, method, body, timeout_s)


def _is_near(peer: PeerSeam, peer_id: str) -> bool:
    return any(neighbour.peer_id == peer_id for neighbour in peer.network.neighbours())
