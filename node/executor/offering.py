"""The node's offer on the ledger, whoever posted it: posted anew when missing, changed or half worn; a
withdrawal holds until somebody posts an offer by hand (`gridpact node offer`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from ledger.manifests.types import CAPACITY
from ledger.records import Node as LedgerNode
from ledger.records import key_node
from ledger.state import read
from ledger.transactions import PostOffer
from node.config import Node
from node.executor.drivers.base import Fingerprint
from node.executor.limits import OFFER_RETRY_S, TX_BLOCKS
from node.executor.sender import Sender
from node.executor.task import best_address
from node.offer import OFFER_VALID_MS, make_offer
from node.seam import PeerSeam

log = structlog.get_logger("executor")

_SAME: Final = (*CAPACITY, "price", "runtimes", "attributes", "address")


class Offering:
    """`due` tells whether to `post`. `valid`: the ledger holds an offer of ours that is not over."""

    def __init__(
        self,
        peer: PeerSeam,
        sender: Sender,
        settings: Node,
        fingerprint: Fingerprint,
        boot_ms: Callable[[], int],
    ) -> None:
        self.usable = bool(fingerprint.runtimes)
        self.valid = False
        self._peer = peer
        self._sender = sender
        self._settings = settings
        self._fingerprint = fingerprint
        self._boot_ms = boot_ms
        self._busy = False
        self._not_before_ms = 0

    def due(self, node: LedgerNode, anew: bool = False) -> bool:
        """Whether the record calls for a new offer; `anew`: any record does, but a withdrawal."""
        now_ms = self._peer.time_ms
        self.valid = node.valid_until_ms > now_ms
        if not self.usable or self._busy or self._boot_ms() < self._not_before_ms:
            return False
        if _is_withdrawn(node):
            return False  # no restart undoes that
        offer = self._offer()
        if not offer.address:
            return False
        same = all(getattr(offer, name) == getattr(node, name) for name in _SAME)
        return anew or not same or node.valid_until_ms < now_ms + OFFER_VALID_MS // 2

    async def post(self) -> int:
        """Send the offer once; what is refused is tried again later. Returns the height at which it is final,
        0 when it is not. What has expired is not signed anew: whether it is still due is seen then, since the
        owner may have withdrawn it in blocks that this node did not have."""
        self._busy, last = True, self._peer.height + TX_BLOCKS
        try:
            sent = await self._sender.deliver(self._offer(), lambda: self._stands(last))
        finally:
            self._busy = False
        if sent is None:
            log.info("offer_not_final")
            return 0
        if sent.rule:
            log.warning("offer_refused", rule=sent.rule, detail=sent.detail)
            self._not_before_ms = self._boot_ms() + int(OFFER_RETRY_S * 1000)
        else:
            log.info("offer_posted")
        return sent.outcome.height if sent.outcome is not None else 0

    def _stands(self, last: int) -> bool:
        """May the offer still be sent, up to that height?"""
        node = read(self._peer.state, LedgerNode, key_node(self._sender.key.public))
        return self._peer.height <= last and node is not None and not _is_withdrawn(node)

    def _offer(self) -> PostOffer:
        address = best_address(self._peer.network.addresses())
        return make_offer(self._settings, self._fingerprint, address, self._peer.time_ms)


def _is_withdrawn(node: LedgerNode) -> bool:
    """There was an offer, and its owner withdrew it."""
    return node.valid_until_ms == 0 and bool(node.runtimes)
